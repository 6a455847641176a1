"""Tensors of a Hugging Face folder: safetensors files of a bounded size, written and read one tensor at a time.

The header of a safetensors file says where every tensor lies, and all shapes are known before a value is read. So a
file is written in one pass that holds a single tensor, whatever the size of the model.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from megas2s import files
from megas2s.convert.names import Entry
from megas2s.errors import BadCheckpoint, BadConfig

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
CODES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}
ROWS = 1 << 14  # compared at once


class Shard(NamedTuple):
    """One file and what it holds."""

    name: str
    entries: Sequence[Entry]


def shards(entries: Sequence[Entry], dtype: torch.dtype, *, shard_bytes: int) -> list[Shard]:
    """The entries in files of at most `shard_bytes` each; a tensor that is larger gets a file of its own."""
    groups: list[list[Entry]] = []
    filled = shard_bytes
    for entry in entries:
        size = _bytes(entry, dtype)
        if not groups or filled + size > shard_bytes:
            groups.append([])
            filled = 0
        groups[-1].append(entry)
        filled += size
    if len(groups) == 1:
        return [Shard(SINGLE, groups[0])]
    return [Shard(f"model-{n:05d}-of-{len(groups):05d}.safetensors", group) for n, group in enumerate(groups, 1)]


def write(folder: Path, plan: Sequence[Shard], dtype: torch.dtype, value: Callable[[str], Tensor]) -> None:
    """Write the files of `plan` and their index. `value` gives the values of a canonical name, in any dtype."""
    for shard in plan:
        _write_file(folder / shard.name, shard.entries, dtype, value)
    if len(plan) > 1:
        total = sum(_bytes(entry, dtype) for shard in plan for entry in shard.entries)
        where = {entry.theirs: shard.name for shard in plan for entry in shard.entries}
        files.write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": dict(sorted(where.items()))})


def _write_file(path: Path, entries: Sequence[Entry], dtype: torch.dtype, value: Callable[[str], Tensor]) -> None:
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for entry in entries:
        start, end = end, end + _bytes(entry, dtype)
        header[entry.theirs] = {"dtype": CODES[dtype], "shape": list(entry.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # the format aligns the data to 8 bytes
    with files.disk_trouble(path), open(path, "wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for entry in entries:
            # No name holds a tensor here: it is freed before the next one is read.
            file.write(_tensor(entry, dtype, value).flatten().view(torch.uint8).numpy().data)


def _tensor(entry: Entry, dtype: torch.dtype, value: Callable[[str], Tensor]) -> Tensor:
    if entry.ours is None:
        return torch.zeros(entry.shape, dtype=dtype)
    given = value(entry.ours)
    expected = (entry.shape[0] - entry.leading, *entry.shape[1:])
    if tuple(given.shape) != expected:
        raise BadCheckpoint(f"{entry.ours} has shape {tuple(given.shape)}, its configuration says {expected}")
    tensor = given.to(dtype).contiguous()
    if dtype == torch.float16 and bool(torch.isinf(tensor).any()) and not bool(torch.isinf(given).any()):
        raise BadConfig(f"{entry.ours} has values beyond float16's 65504; export with --dtype bfloat16 or float32")
    if entry.leading:
        tensor = torch.cat([tensor.new_zeros(entry.leading, *entry.shape[1:]), tensor])
    return tensor


def _bytes(entry: Entry, dtype: torch.dtype) -> int:
    return math.prod(entry.shape) * dtype.itemsize


class HubTensors:
    """The tensors of a Hugging Face folder, read when asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._files = _locate(folder)

    @property
    def names(self) -> set[str]:
        """All tensors in the files."""
        return set(self._files)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor, read from the header alone."""
        with self._open(name) as file:
            return tuple(file.get_slice(name).get_shape())

    def tensor(self, name: str) -> Tensor:
        """One whole tensor, in the dtype of the file."""
        with self._open(name) as file:
            tensor: Tensor = file.get_tensor(name)
            return tensor

    def same(self, one: str, other: str) -> bool:
        """Whether two matrices are equal bit for bit; read a few rows at a time."""
        if self.shape(one) != self.shape(other):
            return False
        with self._open(one) as first, self._open(other) as second:
            left, right = first.get_slice(one), second.get_slice(other)
            rows = left.get_shape()[0]
            return all(
                torch.equal(left[start : start + ROWS], right[start : start + ROWS]) for start in range(0, rows, ROWS)
            )

    def _open(self, name: str) -> safe_open:
        if name not in self._files:
            raise BadCheckpoint(f"{self.folder} has no tensor {name}, which its config.json calls for; complete it")
        return _opened(self._files[name])


def _locate(folder: Path) -> dict[str, Path]:
    """Tensor -> file."""
    if (folder / INDEX).is_file():
        try:
            found = {name: folder / file for name, file in files.read_json(folder / INDEX)["weight_map"].items()}
        except (ValueError, KeyError, TypeError, AttributeError):
            raise BadCheckpoint(f"{folder / INDEX} is damaged; download it again or restore it from a copy") from None
        missing = sorted({path.name for path in found.values() if not path.is_file()})
        if missing:
            raise BadCheckpoint(f"{folder / INDEX} names {missing[0]}, which is missing; download it again")
        return found
    single = folder / SINGLE
    if not single.is_file():
        raise BadConfig(
            f"{folder} has no {SINGLE} and no {INDEX}; a model in another format becomes one by loading it with "
            "transformers and saving it again"
        )
    with _opened(single) as file:
        return dict.fromkeys(file.keys(), single)


def _opened(path: Path) -> safe_open:
    try:
        return safe_open(str(path), "pt", device="cpu")
    except (SafetensorError, OSError) as error:
        raise BadCheckpoint(f"{path} cannot be read ({error}); restore it from a copy") from None

"""Tensors of a Hugging Face folder: safetensors files of a bounded size, written and read one tensor at a time.

The header of a safetensors file says where every tensor lies, and all shapes are known before a value is read. So a
file is written in one pass that holds a single tensor, whatever the size of the model.
"""

from __future__ import annotations

import functools
import json
import math
import pickle
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from megas2s import files
from megas2s.convert.names import Derived, Entry
from megas2s.errors import BadCheckpoint, BadConfig

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
PICKLED = "pytorch_model.bin"
PICKLED_INDEX = "pytorch_model.bin.index.json"
NO_WEIGHTS = {"training_args.bin", "optimizer.bin"}
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
    """The tensors of a Hugging Face folder, read when asked for.

    Names are as transformers reads them: the `gamma` and `beta` of old norms are their weight and bias, and `body`,
    which classes with a head put before the names of their body, is gone from names and makes no difference in
    questions. Pickled files can run code when they are read; they are only with `allow_pickle`, and then by a reader
    that knows tensors and nothing else.
    """

    def __init__(self, folder: Path, *, body: str = "", allow_pickle: bool = False) -> None:
        self.folder = folder
        self._body = body
        self._files = _locate(folder, allow_pickle=allow_pickle)
        self._stored: dict[str, str] = {}  # name -> as it is in the file
        self._made: dict[str, Callable[[Tensor], Tensor]] = {}  # name -> what is made of that
        for stored in self._files:
            name = self.plain(_modern(stored))
            if name in self._stored:
                raise BadCheckpoint(
                    f"{folder} has {self._stored[name]} and {stored}, two names of one tensor; remove one of them"
                )
            self._stored[name] = stored

    @property
    def names(self) -> set[str]:
        """All tensors in the files."""
        return set(self._stored)

    def plain(self, name: str) -> str:
        """A name without the prefix of classes with a head."""
        return name.removeprefix(self._body)

    def stand_in(self, name: str, there: str) -> None:
        """Let `there` be read where `name` is asked for."""
        self._stored[self.plain(name)] = self._find(there)

    def derive(self, derived: Mapping[str, Derived]) -> None:
        """Let tensors that lie here in another layout be read by the names of this one; theirs are gone then."""
        found = {self.plain(name): self._find(one.there) for name, one in derived.items()}
        for one in derived.values():
            self._stored.pop(self.plain(one.there), None)
        if twice := sorted(found.keys() & self._stored.keys()):
            raise BadCheckpoint(
                f"{self.folder} has {self._stored[twice[0]]} and {found[twice[0]]}, which holds it too; remove one of "
                "them"
            )
        self._stored |= found
        self._made |= {self.plain(name): one.make for name, one in derived.items()}

    def stored(self, name: str) -> str:
        """What a tensor is called in the file that holds it."""
        return self._find(name)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor, read from the header alone where that tells it."""
        found = self._slice(name)
        return tuple(found.shape if isinstance(found, Tensor) else found.get_shape())

    def tensor(self, name: str) -> Tensor:
        """One whole tensor, in the dtype of the file."""
        tensor: Tensor = self._slice(name)[:]
        return tensor

    def zero(self, name: str) -> bool:
        """Whether a tensor is all zeros."""
        return not bool(self.tensor(name).any())

    def same(self, one: str, other: str) -> bool:
        """Whether two matrices are equal bit for bit; read a few rows at a time."""
        if self.shape(one) != self.shape(other):
            return False
        left, right = self._slice(one), self._slice(other)
        rows = self.shape(one)[0]
        return all(
            torch.equal(left[start : start + ROWS], right[start : start + ROWS]) for start in range(0, rows, ROWS)
        )

    def _find(self, name: str) -> str:
        """The name of a tensor in its file."""
        if (stored := self._stored.get(self.plain(name))) is None:
            raise BadCheckpoint(f"{self.folder} has no tensor {name}, which its config.json calls for; complete it")
        return stored

    def _slice(self, name: str) -> Any:
        """What gives rows of a tensor: the tensor itself, or a part of a safetensors file."""
        stored = self._find(name)
        file = self._files[stored]
        opened: Any = None if file.suffix == ".bin" else _opened(file)
        found = _unpickled(file)[stored] if opened is None else opened.get_slice(stored)
        make = self._made.get(self.plain(name))
        return found if make is None else make(found[:])


def _modern(name: str) -> str:
    """The name of a tensor as it is today."""
    stem, dot, leaf = name.rpartition(".")
    return stem + dot + {"gamma": "weight", "beta": "bias"}.get(leaf, leaf)


def _locate(folder: Path, *, allow_pickle: bool) -> dict[str, Path]:
    """Tensor -> file."""
    if (folder / INDEX).is_file():
        return _indexed(folder / INDEX)
    if (folder / SINGLE).is_file():
        with _opened(folder / SINGLE) as file:
            return dict.fromkeys(file.keys(), folder / SINGLE)
    pickled = [name for name in (PICKLED_INDEX, PICKLED) if (folder / name).is_file()]
    if not pickled:  # UniLM's and MiniLM's are called after the model
        others = sorted({path.name for path in folder.glob("*.bin")} - NO_WEIGHTS)
        pickled = others if len(others) == 1 else []
    if pickled and not allow_pickle:
        raise BadConfig(
            f"{folder} has its weights in {pickled[0]} alone: pickled files can run code when they are read; "
            "import them with tools/convert_from_hf.py --allow-pickle if you trust where they come from, or save the "
            "model as safetensors elsewhere"
        )
    if pickled:
        if pickled[0] == PICKLED_INDEX:
            return _indexed(folder / PICKLED_INDEX)
        return dict.fromkeys(_unpickled(folder / pickled[0]), folder / pickled[0])
    raise BadConfig(
        f"{folder} has no {SINGLE} and no {INDEX}; a model in another format becomes one by loading it with "
        f"transformers and saving it again (of names of the hub, {PICKLED} is fetched with --allow-pickle alone)"
    )


def _indexed(index: Path) -> dict[str, Path]:
    try:
        found = {name: index.parent / file for name, file in files.read_json(index)["weight_map"].items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise BadCheckpoint(f"{index} is damaged; download it again or restore it from a copy") from None
    missing = sorted({path.name for path in found.values() if not path.is_file()})
    if missing:
        raise BadCheckpoint(f"{index} names {missing[0]}, which is missing; download it again")
    return found


@functools.lru_cache(maxsize=1)  # of a model in several files, one after the other
def _unpickled(path: Path) -> dict[str, Tensor]:
    """The tensors of a pickled file; a reader of tensors alone, which builds no other object."""
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, OSError, EOFError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise BadCheckpoint(f"{path} holds more than tensors, or is damaged ({reason}); it is not read") from None
    if not isinstance(loaded, dict) or not all(isinstance(value, Tensor) for value in loaded.values()):
        raise BadCheckpoint(f"{path} is no dictionary of tensors; save the model with transformers")
    return loaded


def _opened(path: Path) -> safe_open:
    try:
        return safe_open(str(path), "pt", device="cpu")
    except (SafetensorError, OSError) as error:
        raise BadCheckpoint(f"{path} cannot be read ({error}); restore it from a copy") from None

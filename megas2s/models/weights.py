"""Canonical weights on disk: what a stage leaves, what the next one begins with, what becomes a Hugging Face model.

    weights/
      model.json                    configuration, and facts about the run that made it
      model.safetensors.index.json  canonical name -> file
      model-00001.safetensors ...   shards of bounded size
      MANIFEST.json                 written last, by `files.publish`

Saving takes a stream of tensors and holds one shard at a time.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from megas2s.errors import BadCheckpoint, BadConfig
from megas2s.files import disk_trouble, is_published, read_json, verify, write_json
from megas2s.models.config import ModelConfig
from megas2s.models.lowrank import ADAPTER, adapted, without_adapters
from megas2s.models.parameters import ALL, parameter_shapes
from megas2s.spec import parse, plain

MODEL, INDEX = "model.json", "model.safetensors.index.json"
SHARD_BYTES = 1 << 30  # held by the rank that writes


def save_tensors(
    folder: Path, tensors: Iterable[tuple[str, Tensor]], *, shard_bytes: int = SHARD_BYTES
) -> dict[str, tuple[int, ...]]:
    """Write (name, tensor) pairs into `folder` and an index of them; returns the shapes by name.

    A tensor is copied as it arrives, so the stream may reuse its memory. At most one shard is held at a time.
    """
    folder.mkdir(parents=True, exist_ok=True)
    files: dict[str, str] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    total = 0
    for number, shard in enumerate(_shards(tensors, shard_bytes), start=1):
        if twice := sorted(shard.keys() & files.keys()):
            raise ValueError(f"{twice[0]} was given twice")
        file = f"model-{number:05d}.safetensors"
        _write_shard(folder / file, shard)
        files.update(dict.fromkeys(shard, file))
        shapes.update({name: tuple(tensor.shape) for name, tensor in shard.items()})
        total += sum(tensor.nbytes for tensor in shard.values())
        shard.clear()  # the next shard is filled while this name still holds the last one
    write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": files})
    return shapes


def save_weights(
    folder: Path,
    tensors: Iterable[tuple[str, Tensor]],
    *,
    config: ModelConfig,
    metadata: Mapping[str, str],
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write a model's (canonical name, tensor) pairs, each name once; the caller publishes the folder."""
    expected = parameter_shapes(config)
    saved = save_tensors(folder, _checked(tensors, expected), shard_bytes=shard_bytes)
    if missing := sorted(expected.keys() - saved.keys()):
        raise ValueError(f"{len(missing)} parameters were not given, {missing[0]} among them")
    write_json(folder / MODEL, {"config": plain(ModelConfig, config), "metadata": dict(metadata)})


class TensorFolder:
    """Named tensors on disk, read one by one."""

    def __init__(self, folder: Path, files: dict[str, str]) -> None:
        self.folder = folder
        self.files = files

    @property
    def names(self) -> list[str]:
        """Names, in the order in which they were saved."""
        return list(self.files)

    def tensor(self, name: str, rows: slice = ALL) -> Tensor:
        """One tensor, or rows of it, in the dtype it was saved in; only those are read."""
        if name not in self.files:
            raise BadCheckpoint(f"{self.folder} holds no tensor {name!r}")
        path = self.folder / self.files[name]
        try:
            with safe_open(path, framework="pt") as file:
                tensor: Tensor = file.get_tensor(name) if rows == ALL else file.get_slice(name)[rows]
        except (OSError, SafetensorError) as error:
            raise BadCheckpoint(f"{path} cannot be read ({error}); restore it from a copy") from None
        return tensor


class WeightsReader(TensorFolder):
    """A model's weights on disk, with its configuration and where they come from."""

    def __init__(self, folder: Path, files: dict[str, str], config: ModelConfig, metadata: dict[str, str]) -> None:
        super().__init__(folder, files)
        self.config = config
        self.metadata = metadata


def open_tensors(folder: Path) -> TensorFolder:
    """The tensors in a published folder, or in a folder of a published one; hashes are checked by `files.verify`."""
    if not folder.is_dir():
        raise BadCheckpoint(
            f"there is no folder {folder}; import weights to it (tools/convert_from_hf.py) or name another"
        )
    if not is_published(folder) and not is_published(folder.parent):
        raise BadCheckpoint(f"{folder} holds no finished weights; name the weights folder of a complete stage")
    try:
        return TensorFolder(folder, dict(read_json(folder / INDEX)["weight_map"]))
    except (FileNotFoundError, json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, ValueError) as error:
        raise BadCheckpoint(f"{folder / INDEX} is damaged ({error}); restore it from a copy") from None


class MergedWeights(WeightsReader):
    """Weights with adapters, read as the model that they make."""

    def __init__(self, folder: Path, files: dict[str, str], config: ModelConfig, metadata: dict[str, str]) -> None:
        super().__init__(folder, files, without_adapters(config), metadata)
        self._scale = config.lora_alpha / config.lora_rank

    @property
    def names(self) -> list[str]:
        """Names, without those of adapters."""
        return [name for name in self.files if not name.endswith(ADAPTER)]

    def tensor(self, name: str, rows: slice = ALL) -> Tensor:
        """One tensor, or rows of it, with the adapter that lies on it, in float32 where there is one."""
        tensor, found = super().tensor(name, rows), adapted(self.files, name)
        if found is None:
            return tensor
        first, second = super().tensor(found[0]).float(), super().tensor(found[1], rows).float()
        return tensor.float() + self._scale * (second @ first)


def open_weights(folder: Path, *, merged: bool = True) -> WeightsReader:
    """The weights in a published folder, as `open_tensors`, with the model they make; `merged`: adapters too.

    Who trains them reads them apart.
    """
    tensors = open_tensors(folder)
    try:
        model: dict[str, Any] = read_json(folder / MODEL)
        config = parse(ModelConfig, model["config"], source=str(folder / MODEL))
        metadata = {str(key): str(value) for key, value in model["metadata"].items()}
    except (FileNotFoundError, json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, BadConfig) as error:
        raise BadCheckpoint(f"{folder}: {MODEL} is damaged ({error}); restore it from a copy") from None
    if set(tensors.names) != parameter_shapes(config).keys():
        raise BadCheckpoint(f"{folder}: {INDEX} does not list the parameters of {MODEL}; restore them from a copy")
    kind = MergedWeights if merged and config.lora_rank else WeightsReader
    return kind(folder, tensors.files, config, metadata)


def verify_weights(folder: Path) -> None:
    """Check published weights, alone or inside a checkpoint, against their manifest; raises BadCheckpoint."""
    if is_published(folder):
        verify(folder)
    else:
        verify(folder.parent, below=f"{folder.name}/")


def _checked(
    tensors: Iterable[tuple[str, Tensor]], expected: Mapping[str, tuple[int, ...]]
) -> Iterator[tuple[str, Tensor]]:
    for name, tensor in tensors:
        if tuple(tensor.shape) != expected.get(name):
            raise ValueError(f"{name} {tuple(tensor.shape)} is not a parameter of this model")
        yield name, tensor


def _shards(tensors: Iterable[tuple[str, Tensor]], shard_bytes: int) -> Iterator[dict[str, Tensor]]:
    shard: dict[str, Tensor] = {}
    held = 0
    for name, tensor in tensors:
        if name in shard:
            raise ValueError(f"{name} was given twice")
        if shard and held + tensor.nbytes > shard_bytes:
            yield shard
            shard, held = {}, 0
        shard[name] = tensor.detach().to("cpu", copy=True).contiguous()
        held += tensor.nbytes
    if shard:
        yield shard


def _write_shard(path: Path, shard: dict[str, Tensor]) -> None:
    with disk_trouble(path):
        try:
            save_file(shard, path, metadata={"format": "pt"})
        except SafetensorError as error:
            number = re.search(r"os error (\d+)", str(error))  # the errno is in the text and nowhere else
            if number is None:
                raise
            raise OSError(int(number[1]), os.strerror(int(number[1])), str(path)) from error

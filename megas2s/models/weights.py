"""Canonical weights on disk: what a stage leaves, what the next one begins with, what becomes a Hugging Face model.

    weights/
      model.json                    configuration, and facts about the run that made it
      model.safetensors.index.json  canonical name -> file
      model-00001.safetensors ...   shards of bounded size
      MANIFEST.json                 written last, by `files.publish`

Saving takes a stream of tensors and holds one shard at a time. `start_from` says, name by name, where a new model's
weights come from; it is a pure function of the two configurations.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from megas2s.errors import BadCheckpoint, BadConfig
from megas2s.files import disk_trouble, is_published, read_json, verify, write_json
from megas2s.models.config import ModelConfig
from megas2s.models.parameters import aliases, owners, parameter_shapes
from megas2s.spec import parse, plain

MODEL, INDEX = "model.json", "model.safetensors.index.json"
SHARD_BYTES = 4 << 30

UNCHANGED = ("vocab_size", "hidden_size", "num_heads", "ffn_size", "activation", "norm_epsilon", "num_encoder_layers")


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

    def tensor(self, name: str) -> Tensor:
        """One tensor, in the dtype it was saved in."""
        if name not in self.files:
            raise BadCheckpoint(f"{self.folder} holds no tensor {name!r}")
        path = self.folder / self.files[name]
        try:
            with safe_open(path, framework="pt") as file:
                tensor: Tensor = file.get_tensor(name)
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
    if not is_published(folder) and not is_published(folder.parent):
        raise BadCheckpoint(f"{folder} holds no finished weights; name the weights folder of a complete stage")
    try:
        return TensorFolder(folder, dict(read_json(folder / INDEX)["weight_map"]))
    except (FileNotFoundError, json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, ValueError) as error:
        raise BadCheckpoint(f"{folder / INDEX} is damaged ({error}); restore it from a copy") from None


def open_weights(folder: Path) -> WeightsReader:
    """The weights in a published folder, as `open_tensors`, with the model they make."""
    tensors = open_tensors(folder)
    try:
        model: dict[str, Any] = read_json(folder / MODEL)
        config = parse(ModelConfig, model["config"], source=str(folder / MODEL))
        metadata = {str(key): str(value) for key, value in model["metadata"].items()}
    except (FileNotFoundError, json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, BadConfig) as error:
        raise BadCheckpoint(f"{folder}: {MODEL} is damaged ({error}); restore it from a copy") from None
    if set(tensors.names) != parameter_shapes(config).keys():
        raise BadCheckpoint(f"{folder}: {INDEX} does not list the parameters of {MODEL}; restore them from a copy")
    return WeightsReader(folder, tensors.files, config, metadata)


def verify_weights(folder: Path) -> None:
    """Check published weights, alone or inside a checkpoint, against their manifest; raises BadCheckpoint."""
    if is_published(folder):
        verify(folder)
    else:
        verify(folder.parent, below=f"{folder.name}/")


def hand_off(
    reader: WeightsReader,
    target: ModelConfig,
    *,
    part: Literal["all", "encoder"] = "all",
    decoder_embeddings: Literal["copied", "random"] = "copied",
) -> Callable[[str], Tensor | None]:
    """Where each parameter of a `target` model begins that takes its weights from `reader` (see `start_from`).

    Given a canonical name, it reads one tensor in fp32, or answers None for a random start.
    """
    sources = start_from(reader.config, target, part=part, decoder_embeddings=decoder_embeddings)
    shapes = parameter_shapes(target)

    def initial(name: str) -> Tensor | None:
        source = sources[name]
        # A longer table of positions is cut to the rows that this model has.
        return None if source is None else reader.tensor(source)[: shapes[name][0]].float()

    return initial


def start_from(
    source: ModelConfig,
    target: ModelConfig,
    *,
    part: Literal["all", "encoder"] = "all",
    decoder_embeddings: Literal["copied", "random"] = "copied",
) -> dict[str, str | None]:
    """For each canonical name of `target`, the name in `source` to copy from, or None for random weights.

    Between an encoder and an encoder-decoder only the encoder is carried, as with `part="encoder"`. Matrices that
    the decoder then lacks are copies of the encoder's embedding unless they are to be random. The head for masked
    language modelling stays with encoders.
    """
    carries_all = part == "all" and source.is_seq2seq == target.is_seq2seq
    if carries_all and target.is_seq2seq and decoder_embeddings == "random":
        raise BadConfig(
            "embeddings: random is how a new decoder starts, and init: brings one; "
            "say embeddings: copied, or part: encoder for a new decoder"
        )
    _refuse_mismatch(source, target, decoders=carries_all and target.is_seq2seq)
    own_names = {name: name for name in parameter_shapes(source) if name not in aliases(source)}
    offered = {
        role: name
        for role, name in {**own_names, **owners(source)}.items()
        if carries_all or role.startswith("encoder.")
    }
    sources: dict[str, str | None] = {}
    for name in parameter_shapes(target):
        roles = aliases(target).get(name, (name,))
        found = sorted({offered[role] for role in roles if role in offered})
        if len(found) > 1:
            raise BadCheckpoint(
                f"the new model has one matrix for {', '.join(roles)}, the weights to start from have {len(found)}: "
                f"{', '.join(found)}; choose tying: {source.tying}, or start from the encoder alone"
            )
        sources[name] = found[0] if found else None
        if not found and roles[0] in ("decoder.embed.weight", "head.weight") and decoder_embeddings == "copied":
            sources[name] = offered["encoder.embed.weight"]
    return sources


def _refuse_mismatch(source: ModelConfig, target: ModelConfig, *, decoders: bool) -> None:
    for field in (*UNCHANGED, "num_decoder_layers") if decoders else UNCHANGED:
        theirs, ours = getattr(source, field), getattr(target, field)
        if theirs != ours:
            raise BadCheckpoint(
                f"the weights to start from have {field} {theirs}, the new model {ours}; "
                f"set {field} to {theirs} or start from other weights"
            )
    if target.max_positions > source.max_positions:
        raise BadCheckpoint(
            f"the weights to start from have {source.max_positions} positions, the new model wants "
            f"{target.max_positions}; set max_positions to {source.max_positions} or less"
        )


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

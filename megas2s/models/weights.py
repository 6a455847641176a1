"""Weights on disk: safetensors under canonical names, in shards, and where a new model takes its own from.

    model.json                    the ModelConfig and a few words about origin
    model-00001.safetensors ...   tensors in the model's order; a shard holds whole tensors
    model.safetensors.index.json  name -> shard

Written and read one tensor at a time: memory is bounded by the largest shard, whatever the model's size. The caller
publishes the folder (`files.publish`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from megas2s import files
from megas2s.errors import BadCheckpoint
from megas2s.models.config import ModelConfig
from megas2s.models.parameters import aliases, owners, parameter_shapes
from megas2s.spec import parse, plain

FORMAT = "megas2s-weights-1"
MODEL = "model.json"
INDEX = "model.safetensors.index.json"
SHARD_BYTES = 4 << 30


class TensorFolder:
    """Named tensors in safetensors shards, read when asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            index = files.read_json(folder / INDEX)
            self._shards: dict[str, str] = dict(index["weight_map"])
        except (OSError, ValueError, KeyError, TypeError):
            raise BadCheckpoint(f"{folder} holds no weights ({INDEX} is missing or damaged)") from None
        self._open: tuple[str, Any] | None = None  # the shard read last: tensors are mostly read in order

    @property
    def names(self) -> tuple[str, ...]:
        """Every tensor's name, in the order of writing."""
        return tuple(self._shards)

    def tensor(self, name: str) -> Tensor:
        """One tensor, on the CPU."""
        if name not in self._shards:
            raise BadCheckpoint(f"{self.folder} holds no tensor {name!r}")
        path = self.folder / self._shards[name]
        try:
            if self._open is None or self._open[0] != path.name:
                self._open = path.name, safe_open(path, framework="pt")
            tensor: Tensor = self._open[1].get_tensor(name)
        except (OSError, SafetensorError) as error:
            raise BadCheckpoint(f"{path} cannot be read ({error}); restore it from a copy") from None
        return tensor


class WeightsReader(TensorFolder):
    """A model's weights, with its configuration and where they come from."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        try:
            record = files.read_json(folder / MODEL)
            found, shape = record["format"], record["config"]
            self.metadata: dict[str, str] = dict(record["metadata"])
        except (OSError, ValueError, KeyError, TypeError):
            raise BadCheckpoint(f"{folder} holds no model ({MODEL} is missing or damaged)") from None
        if found != FORMAT:
            raise BadCheckpoint(f"{folder / MODEL} has format {found!r}, this version reads {FORMAT!r}")
        self.config: ModelConfig = parse(ModelConfig, shape, source=str(folder / MODEL))
        missing = parameter_shapes(self.config).keys() - set(self.names)
        if missing:
            raise BadCheckpoint(f"{folder} lacks {len(missing)} tensors of its own model, first {min(missing)!r}")


def save_tensors(folder: Path, tensors: Iterable[tuple[str, Tensor]], *, shard_bytes: int = SHARD_BYTES) -> None:
    """Write tensors as they come, a shard as soon as it is full, then the index."""
    folder.mkdir(parents=True, exist_ok=True)
    shards: dict[str, str] = {}
    pending: dict[str, Tensor] = {}
    size = total = 0

    def flush() -> None:
        if pending:
            name = f"model-{len(set(shards.values())) + 1:05d}.safetensors"
            save_file(pending, folder / name, metadata={"format": "pt"})
            shards.update(dict.fromkeys(pending, name))
            pending.clear()

    for name, tensor in tensors:
        size_of = tensor.numel() * tensor.element_size()
        if pending and size + size_of > shard_bytes:
            flush()
            size = 0
        # A copy: the engine may reuse the memory, and safetensors refuses views of one another.
        pending[name] = tensor.detach().to("cpu", copy=True).contiguous()
        size, total = size + size_of, total + size_of
    flush()
    files.write_json(folder / INDEX, {"metadata": {"total_size": total}, "weight_map": shards})


def save_weights(
    folder: Path,
    tensors: Iterable[tuple[str, Tensor]],
    *,
    config: ModelConfig,
    metadata: Mapping[str, str],
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write a model's weights with its configuration."""
    save_tensors(folder, tensors, shard_bytes=shard_bytes)
    record: dict[str, Any] = {"format": FORMAT, "config": plain(ModelConfig, config), "metadata": dict(metadata)}
    files.write_json(folder / MODEL, record)


def open_weights(folder: Path) -> WeightsReader:
    """The weights in `folder`; raises BadCheckpoint with a sentence where there are none."""
    return WeightsReader(folder)


def start_from(
    old: ModelConfig, new: ModelConfig, *, part: Literal["all", "encoder"] = "all", copy_embeddings: bool = True
) -> dict[str, str | None]:
    """For each parameter of `new`, the parameter of `old` it starts as a copy of, or None for a random start.

    An encoder goes into an encoder or an encoder-decoder; a decoder only into an encoder-decoder, and not with
    `part="encoder"`. Where `old` has no decoder, the new decoder's vocabulary matrices start as copies of the
    encoder's embedding, or at random without `copy_embeddings`. The MLM head stays with encoders.
    """
    with_decoder = old.is_seq2seq and new.is_seq2seq and part == "all"
    _check_same(old, new, with_decoder=with_decoder)
    roles, sources = aliases(new), owners(old)
    held = parameter_shapes(old)

    def source(name: str) -> str | None:
        role = roles.get(name, (name,))[0]
        if role in ("encoder.embed.weight", "decoder.embed.weight", "head.weight"):
            if role == "encoder.embed.weight" or with_decoder:
                return sources[role]
            return sources["encoder.embed.weight"] if copy_embeddings else None
        if name.startswith("decoder.") and not with_decoder:
            return None
        return name if name in held else None

    return {name: source(name) for name in parameter_shapes(new)}


def _check_same(old: ModelConfig, new: ModelConfig, *, with_decoder: bool) -> None:
    keys = ["vocab_size", "hidden_size", "num_heads", "ffn_size", "num_encoder_layers", "max_positions", "activation"]
    for key in [*keys, "norm_epsilon", *(["num_decoder_layers"] if with_decoder else [])]:
        if getattr(old, key) != getattr(new, key):
            raise BadCheckpoint(
                f"the weights to start from have {key} {getattr(old, key)}, the recipe's model has "
                f"{getattr(new, key)}; make them equal"
            )
    if with_decoder:
        sources = owners(old)
        for name, roles in aliases(new).items():
            if len({sources[role] for role in roles}) > 1:
                raise BadCheckpoint(
                    f"the weights to start from are {old.tying}, so {name} of a model that is {new.tying} would have "
                    f"to be several matrices at once; keep tying: {old.tying}"
                )

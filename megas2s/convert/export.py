"""Canonical weights as a Hugging Face folder: configuration, tensors, tokenizer and model card, published in one step.

The folder is filled under a temporary name, reloaded with transformers and compared with our model, and only then
given its final name. Writing holds one tensor at a time.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from megas2s import files
from megas2s.convert import family_of, hf, tensors
from megas2s.convert.heads import write_heads
from megas2s.convert.importing import BESIDE, WRITES, has_head
from megas2s.convert.names import Part, Shape, decoder_start
from megas2s.errors import BadConfig
from megas2s.models.config import ModelConfig
from megas2s.models.parameters import owners
from megas2s.models.weights import WeightsReader
from megas2s.spec import plain
from megas2s.tokenizer import folder as tokenizer_folder
from megas2s.tokenizer.folder import Metadata, Stored
from megas2s.tokenizer.load import Tokenizer
from megas2s.tokenizer.vocab import Vocabulary

KIND = "hugging face export"


def shape(config: ModelConfig, part: Part | None, vocabulary: Vocabulary, *, head: bool = True) -> Shape:
    """What is exported of a model: all of it, or with `part` "encoder" its encoder; `head`: whether it has one.

    Heads that an objective put on the encoder are no part of any class.
    """
    config = config.without_heads()
    part = part or ("seq2seq" if config.is_seq2seq else "encoder")
    if part == "seq2seq" and not config.is_seq2seq:
        raise BadConfig("these weights are an encoder's, without a decoder; export them with --part encoder")
    if part == "encoder" and config.is_seq2seq:
        alone = config.encoder_only()
        return Shape(family_of(alone, part, vocabulary), alone, head=False)
    family = family_of(config, part, vocabulary)
    return Shape(family, config, head=head and family.has_head)


def shape_of(reader: WeightsReader, tokenizer: Stored, part: Part | None) -> Shape:
    """`shape` of weights on disk; a head that was made up when they were imported is none."""
    vocabulary = Tokenizer(tokenizer, reader.folder).vocabulary
    return shape(reader.config, part, vocabulary, head=has_head(reader.metadata))


def export(
    reader: WeightsReader,
    tokenizer: Stored,
    out: Path,
    *,
    part: Part | None = None,
    dtype: torch.dtype = torch.float32,
    shard_bytes: int = 5 << 30,
    card: str = "",
    record: Mapping[str, object] | None = None,
    keep_heads: bool = False,
    check: bool = True,
) -> hf.Difference | None:
    """Write and publish a Hugging Face folder; returns how far the reloaded model was from ours, None unchecked.

    `keep_heads` puts the heads that an objective trained on the encoder of an encoder-decoder into a file of their own.

    Holds one tensor at a time while it writes, one whole model while it checks. `out` must not exist, or be an export.
    """
    vocabulary = Tokenizer(tokenizer, out).vocabulary
    exported = shape_of(reader, tokenizer, part)
    if WRITES in reader.metadata and exported.family.part == "encoder" and part is None and not exported.head:
        raise BadConfig(
            "these weights write with their head for masked language modelling, and an encoder of "
            f"{exported.family.model_type} has none in transformers; decode them as they are, or export the encoder "
            "alone with --part encoder"
        )
    settings = _settings(exported, vocabulary, dtype)
    hf.compare_names(exported, settings)
    if check:
        hf.require_memory(exported)
    require_replaceable(out)
    temporary = files.empty_temporary(out)
    value = values_of(reader, exported.config)
    tensors.write(temporary, tensors.shards(exported.entries, dtype, shard_bytes=shard_bytes), dtype, value)
    if keep_heads:
        write_heads(reader, temporary, dtype)
    files.write_json(temporary / "config.json", settings)
    if exported.config.is_seq2seq:
        files.write_json(temporary / "generation_config.json", _generation(exported.config, vocabulary))
    _write_tokenizer(tokenizer, temporary, exported.config)
    beside = {"format_version": 1, "tying": reader.config.tying, "metadata": dict(reader.metadata)}
    files.write_json(temporary / BESIDE, beside)
    files.write_text(temporary / "README.md", card)
    difference = None
    if check:
        difference = hf.compare_numbers(exported, lambda name: value(name).to(dtype).float(), vocabulary, temporary)
    files.publish(temporary, out, {"kind": KIND, **(record or {})})
    return difference


def require_replaceable(out: Path, *, kind: str = KIND) -> dict[str, Any]:
    """The manifest of what is at `out` and may be replaced, empty where nothing is; refuses what is not of `kind`."""
    files.settle(out)
    if out.is_symlink():
        raise BadConfig(f"{out} is a link, which cannot be replaced in one step; name the folder it leads to")
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return {}
    manifest = files.read_manifest(out) if files.is_published(out) else {}
    if manifest.get("kind") != kind:
        raise BadConfig(f"{out} exists and holds no {kind} of ours, so it is not replaced; name another folder")
    return manifest


def _settings(exported: Shape, vocabulary: Vocabulary, dtype: torch.dtype) -> dict[str, object]:
    return {
        "architectures": [exported.architecture],
        "model_type": exported.family.model_type,
        "dtype": str(dtype).removeprefix("torch."),
        **exported.family.settings(exported.config, vocabulary),
    }


def _generation(config: ModelConfig, vocabulary: Vocabulary) -> dict[str, object]:
    """Greedy, up to the model's positions, and ended by the model alone."""
    return {
        "bos_token_id": vocabulary.bos,
        "eos_token_id": vocabulary.eos,
        "pad_token_id": vocabulary.pad,
        "decoder_start_token_id": decoder_start(config, vocabulary),
        "max_length": config.max_positions,
    }


def _write_tokenizer(tokenizer: Stored, folder: Path, config: ModelConfig) -> None:
    files.write_bytes(folder / tokenizer.metadata.model_file, tokenizer.model)
    described = {"fingerprint": tokenizer.fingerprint, **plain(Metadata, tokenizer.metadata)}
    files.write_json(folder / tokenizer_folder.METADATA, described)
    for name, content in tokenizer.companions.items():
        if name == tokenizer_folder.CONFIG:  # so that transformers cuts texts to the model's length
            changed = {**json.loads(content), "model_max_length": config.max_positions}
            content = json.dumps(changed, indent=2, ensure_ascii=False) + "\n"
        files.write_text(folder / name, content)


def values_of(reader: WeightsReader, exported: ModelConfig) -> Callable[[str], Tensor]:
    """The values of a canonical name or role; what scaled an encoder's embedding goes into its matrix."""
    config, matrices = reader.config, owners(reader.config)
    scaled = config.scale_embedding and not exported.scale_embedding

    def value(name: str) -> Tensor:
        tensor = reader.tensor(matrices.get(name, name))
        return tensor * config.hidden_size**0.5 if scaled and name == "encoder.embed.weight" else tensor

    return value

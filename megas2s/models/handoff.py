"""What a new model starts from: name by name, which weights of an earlier one, and what is done to them.

    encoder          ->  encoder-decoder    the encoder; copies for the decoder's embedding, and its layers if so chosen
    encoder-decoder  ->  encoder            the encoder; its head for masked language modelling is random
    encoder-decoder  ->  encoder-decoder    everything

`start_from` is a pure function of the two configurations. Three differences between them are made good, so that the
encoder stays the function it was: fewer positions are the first rows of the table; a table of segment types that the
new model lacks is added, its first row, to the positions (a text alone is all of the first type); an embedding that is
scaled in one of the two only is multiplied by that scale.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Literal, TypedDict

import torch
from torch import Tensor

from megas2s.errors import BadCheckpoint, BadConfig
from megas2s.models.config import ModelConfig
from megas2s.models.parameters import ALL, SomeValues, aliases, owners, parameter_shapes
from megas2s.models.weights import WeightsReader

Origin = Literal["copied", "random"]

DECODERS = ("num_decoder_layers", "scale_head", "decoder_start")  # what only a decoder's weights say
HEADS = ("token_classes", "text_classes", "encoder_restores")  # of single objectives and tasks
MADE_GOOD = ("segment_types", "scale_embedding")
MAY_CHANGE = {"tying", "family", "max_positions", "pad_id", "init", "init_std", *DECODERS, *HEADS, *MADE_GOOD}
MAY_CHANGE |= {"lora_rank", "lora_alpha", "lora_targets"}  # adapters begin as nothing
MAY_CHANGE |= {"dropout", "attention_dropout", "ffn_dropout", "output_dropout"}
UNCHANGED = [field.name for field in dataclasses.fields(ModelConfig) if field.name not in MAY_CHANGE]

LAYER = re.compile(r"decoder\.layers\.(\d+)\.(self_attention|self_attention_norm|ffn|ffn_norm)\.(.+)")
AROUND = ("positions", "embed_norm", "norm")  # of a stack, beside its layers


class Beginnings(TypedDict, total=False):
    """How a new decoder begins, as keywords of `hand_off` and `start_from`."""

    decoder_embeddings: Origin
    decoder_layers: Origin


def hand_off(
    reader: WeightsReader,
    target: ModelConfig,
    *,
    part: Literal["all", "encoder"] = "all",
    decoder_embeddings: Origin = "copied",
    decoder_layers: Origin = "random",
    grows: bool = False,
) -> SomeValues:
    """Where each parameter of a `target` model begins that takes its weights from `reader` (see `start_from`).

    Given a canonical name, it reads one tensor in fp32, or rows of it, or answers None for a random start. With `grows`
    the new model may have more positions, which repeat those there are (Bao et al. 2021), and a larger vocabulary,
    whose new rows begin as the mean of the others.
    """
    source = reader.config
    origins = start_from(
        source, target, part=part, decoder_embeddings=decoder_embeddings, decoder_layers=decoder_layers, grows=grows
    )
    shapes, had = parameter_shapes(target), parameter_shapes(source)
    scale = _scale(source) / _scale(target)
    folds = source.segment_types > 0 and target.segment_types == 0

    def initial(name: str, rows: slice = ALL) -> Tensor | None:
        origin = origins[name]
        if origin is None:
            return None
        start, stop, _ = rows.indices(shapes[name][0])  # of a table of which the first rows are taken
        values = _rows(reader, origin, start, stop, had[origin][0])
        if folds and origin == "encoder.positions.weight":
            values = values + reader.tensor("encoder.types.weight")[0].float()
        if scale != 1 and origin == owners(source)["encoder.embed.weight"]:
            values = values * scale
        return values

    return initial


def _rows(reader: WeightsReader, name: str, start: int, stop: int, held: int) -> Tensor:
    """Rows of a tensor that has `held`, and beyond those what `hand_off` says of a table that grows."""
    kept = min(stop, held)
    parts = [reader.tensor(name, slice(start, kept)).float()] if start < kept else []
    place = max(start, held)
    if place < stop and not name.endswith("positions.weight"):
        mean = reader.tensor(name).float().mean(dim=0, keepdim=True)
        parts.append(mean.expand(stop - place, *mean.shape[1:]))
        place = stop
    while place < stop:
        first = place % held
        parts.append(reader.tensor(name, slice(first, min(held, first + stop - place))).float())
        place += len(parts[-1])
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def start_from(
    source: ModelConfig,
    target: ModelConfig,
    *,
    part: Literal["all", "encoder"] = "all",
    decoder_embeddings: Origin = "copied",
    decoder_layers: Origin = "random",
    grows: bool = False,
) -> dict[str, str | None]:
    """For each canonical name of `target`, the name in `source` to copy from, or None for random weights.

    Between an encoder and an encoder-decoder only the encoder is carried, as with `part="encoder"`. Matrices that
    the decoder then lacks are copies of the encoder's embedding unless they are to be random; its layers are random
    unless they are to be copies of the encoder's (Rothe et al. 2020), evenly chosen where there are fewer, attention
    over the encoder apart. The head for masked language modelling stays with encoders, unless the
    encoder of a new encoder-decoder has one too (`encoder_restores`). A head of other classes than before is random.
    """
    carries_all = part == "all" and source.is_seq2seq == target.is_seq2seq
    if carries_all and target.is_seq2seq and (decoder_embeddings == "random" or decoder_layers == "copied"):
        what = "embeddings: random" if decoder_embeddings == "random" else "layers: copied"
        raise BadConfig(
            f"{what} is how a new decoder starts, and init: brings one; leave it out, or say part: encoder for a new "
            "decoder"
        )
    _refuse_mismatch(source, target, decoders=carries_all and target.is_seq2seq, grows=grows)
    own_names = {name: name for name in parameter_shapes(source) if name not in aliases(source)}
    carried = ("encoder.", "mlm.") if target.is_seq2seq else ("encoder.",)
    offered = {
        role: name
        for role, name in {**own_names, **owners(source)}.items()
        if (carries_all or role.startswith(carried)) and not _other_classes(role, source, target)
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
        if not found and decoder_layers == "copied" and name.startswith("decoder."):
            sources[name] = sources[name] or offered.get(_twin(name, target) or "")
    return sources


def _twin(name: str, target: ModelConfig) -> str | None:
    """The encoder's parameter that a decoder's begins as a copy of, None where there is none."""
    found = LAYER.fullmatch(name)
    if found is None:
        return f"encoder.{name.removeprefix('decoder.')}" if name.split(".")[1] in AROUND else None
    deepest, last = target.num_encoder_layers - 1, max(1, target.num_decoder_layers - 1)
    layer = min(deepest, round(int(found[1]) * deepest / last))
    return f"encoder.layers.{layer}.{found[2]}.{found[3]}"


def _other_classes(role: str, source: ModelConfig, target: ModelConfig) -> bool:
    tokens = role.startswith("classes.") and source.token_classes != target.token_classes
    return tokens or (role.startswith("text.out.") and source.text_classes != target.text_classes)


def _scale(config: ModelConfig) -> float:
    return float(config.hidden_size**0.5) if config.scale_embedding else 1.0


def _refuse_mismatch(source: ModelConfig, target: ModelConfig, *, decoders: bool, grows: bool) -> None:
    for field in (*UNCHANGED, *DECODERS, *MADE_GOOD) if decoders else UNCHANGED:
        theirs, ours = getattr(source, field), getattr(target, field)
        # BERT's epsilon is not BART's, and nobody can tell the two apart where a new decoder learns on top.
        attaches = field == "norm_epsilon" and target.is_seq2seq and not decoders
        larger = field == "vocab_size" and grows and ours > theirs
        if theirs != ours and not attaches and not larger:
            raise BadCheckpoint(
                f"the weights to start from have {field} {theirs}, the new model {ours}; "
                f"set {field} to {theirs} or start from other weights"
            )
    if target.segment_types not in (0, source.segment_types):
        raise BadCheckpoint(
            f"the weights to start from have segment_types {source.segment_types}, the new model "
            f"{target.segment_types}; set segment_types to {source.segment_types}, or to 0 for texts that come alone"
        )
    if target.has_learned_positions and target.max_positions > source.max_positions and not grows:
        raise BadCheckpoint(
            f"the weights to start from have {source.max_positions} positions, the new model wants "
            f"{target.max_positions}; set max_positions to {source.max_positions} or less"
        )

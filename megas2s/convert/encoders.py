"""What the encoders of BERT's line (Devlin et al. 2019) share in transformers: names, config.json, the plan of a file.

They differ in few things, which `encoder_family` takes: where the norms of a layer are, where positions begin to count,
what the head is called. Token types are a table of ours (`segment_types`) where there are several; a single row, which
is added to every token alike, is one only where it is not all zeros.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Literal

from megas2s.convert.names import (
    ACTIVATIONS,
    Entry,
    Family,
    Found,
    NameTable,
    Settings,
    activation,
    fixed,
    read_keys,
    require,
    whole,
)
from megas2s.errors import BadConfig
from megas2s.models.config import ModelConfig
from megas2s.models.parameters import parameter_shapes
from megas2s.spec import parse
from megas2s.tokenizer.vocab import Vocabulary

TYPES = "embeddings.token_type_embeddings.weight"

BODY = {
    "encoder.embed": "embeddings.word_embeddings",
    "encoder.positions": "embeddings.position_embeddings",
    "encoder.types": "embeddings.token_type_embeddings",
    "encoder.embed_norm": "embeddings.LayerNorm",
    "encoder.projection": "embeddings_project",
    "encoder.layers.{n}.self_attention.q": "encoder.layer.{n}.attention.self.query",
    "encoder.layers.{n}.self_attention.k": "encoder.layer.{n}.attention.self.key",
    "encoder.layers.{n}.self_attention.v": "encoder.layer.{n}.attention.self.value",
    "encoder.layers.{n}.self_attention.out": "encoder.layer.{n}.attention.output.dense",
    "encoder.layers.{n}.ffn.up": "encoder.layer.{n}.intermediate.dense",
    "encoder.layers.{n}.ffn.down": "encoder.layer.{n}.output.dense",
}
POST = {
    "encoder.layers.{n}.self_attention_norm": "encoder.layer.{n}.attention.output.LayerNorm",
    "encoder.layers.{n}.ffn_norm": "encoder.layer.{n}.output.LayerNorm",
}


INTEGERS = {
    "vocab_size": "vocab_size",
    "hidden_size": "hidden_size",
    "num_heads": "num_attention_heads",
    "ffn_size": "intermediate_size",
    "num_encoder_layers": "num_hidden_layers",
    "pad_id": "pad_token_id",
}
NUMBERS = {
    "norm_epsilon": "layer_norm_eps",
    "dropout": "hidden_dropout_prob",
    "attention_dropout": "attention_probs_dropout_prob",
    "init_std": "initializer_range",
}
OTHERS = {"max_positions": "max_position_embeddings", "activation": "hidden_act", "segment_types": "type_vocab_size"}


def encoder_family(
    *,
    model_type: str,
    title: str,
    architectures: Mapping[str, bool],
    body: str,
    norms: Mapping[str, str] = POST,
    norm_position: Literal["pre", "post"] = "post",
    head: Mapping[str, str],
    copies: Mapping[str, str],
    first_position: Callable[[int], int],
    free: Sequence[str] = ("activation",),
    dropped: Sequence[str] = (),
) -> Family:
    """A family of encoders; `first_position` is the row of the first position, given the id of padding.

    `head` and `copies` are names of the class with a head; `free` are the switches that are not the same in all.
    """
    names = NameTable({**BODY, **norms, **head})
    check = partial(fixed, title=title, free=("segment_types", "norm_epsilon", *free), norm_position=norm_position)

    def settings(config: ModelConfig, vocabulary: Vocabulary) -> dict[str, object]:
        check(config)
        narrow = {"embedding_size": config.embedding_width} if "embedding_size" in free else {}
        return _settings(config, vocabulary, first_position) | narrow

    def model_config(theirs: Settings, found: Found) -> ModelConfig:
        require(theirs, "config.json", {"is_decoder": False, "add_cross_attention": False})
        require(theirs, "config.json", {"position_embedding_type": "absolute", "tie_word_embeddings": True})
        values = _values(theirs, first_position) | {"norm_position": norm_position, "family": model_type}
        if "embedding_size" in free and whole(theirs, "embedding_size") != values["hidden_size"]:
            values["embedding_size"] = whole(theirs, "embedding_size")
        types = whole(theirs, "type_vocab_size")
        absent = types == 1 and all(found.zero(name) for name in (TYPES, body + TYPES) if name in found.names)
        values["segment_types"] = 0 if absent else types
        config: ModelConfig = parse(ModelConfig, values, source="config.json")
        check(config)
        return config

    def entries(config: ModelConfig, has_head: bool) -> list[Entry]:
        before = body if has_head else ""
        plan = [] if config.segment_types else [Entry(before + TYPES, None, (1, config.embedding_width))]
        for ours, shape in parameter_shapes(config).items():
            theirs = names.theirs(ours)
            if ours.startswith("mlm."):
                plan += [Entry(theirs, ours, shape)] if has_head else []
            elif ours == "encoder.positions.weight":
                leading = first_position(config.pad_id)
                plan.append(Entry(before + theirs, ours, (shape[0] + leading, shape[1]), leading))
            else:
                plan.append(Entry(before + theirs, ours, shape))
        return plan

    return Family(
        model_type=model_type,
        part="encoder",
        architectures=architectures,
        settings=settings,
        model_config=model_config,
        entries=entries,
        copies=lambda config, has_head: dict(copies) if has_head else {},
        keys=INTEGERS | NUMBERS | OTHERS,
        body=body,
        any_pad=first_position(0) == first_position(1),
        dropped=(*dropped, "pooler.", f"{body}pooler.", *(f"{at}embeddings.position_ids" for at in ("", body))),
    )


def _settings(config: ModelConfig, vocabulary: Vocabulary, first_position: Callable[[int], int]) -> dict[str, object]:
    """The keys that all families have, as theirs; `_values` is the inverse."""
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "num_hidden_layers": config.num_encoder_layers,
        "num_attention_heads": config.num_heads,
        "intermediate_size": config.ffn_size,
        "hidden_act": ACTIVATIONS[config.activation],
        "hidden_dropout_prob": config.dropout,
        "attention_probs_dropout_prob": config.attention_dropout,
        "max_position_embeddings": config.max_positions + first_position(config.pad_id),
        "type_vocab_size": config.segment_types or 1,
        "initializer_range": config.init_std,
        "layer_norm_eps": config.norm_epsilon,
        "pad_token_id": config.pad_id,
        "bos_token_id": vocabulary.bos,
        "eos_token_id": vocabulary.eos,
        "is_decoder": False,
        "add_cross_attention": False,
        "tie_word_embeddings": True,
    }


def _values(theirs: Settings, first_position: Callable[[int], int]) -> dict[str, object]:
    """The keys that all families have, as ours."""
    pad = whole(theirs, "pad_token_id")
    positions = whole(theirs, "max_position_embeddings") - first_position(pad)
    if positions < 1:
        raise BadConfig(
            f"config.json has max_position_embeddings {positions + first_position(pad)} and pad_token_id {pad}: "
            "positions count from pad_token_id + 1, so none is left; correct it"
        )
    return {
        **read_keys(theirs, integers=INTEGERS, numbers=NUMBERS),
        "max_positions": positions,
        "activation": activation(theirs, "hidden_act"),
    }

"""UniLM 1, 1.2 and 2 (Dong et al. 2019, Bao et al. 2020): BERT as Microsoft's s2s-ft publishes and saves it.

    name-config.json, name.bin, name-vocab.txt  ->  a folder with config.json, one .bin and vocab.txt

What is odd there:
- config.json has BERT's keys, no model_type, and keys of its own, by which it is known
- queries, keys and values may be one matrix; their biases are two, and that of the keys is zero
- UniLM 2 has relative positions beside the learned ones: one table for all layers, a row per head. No class of
  transformers is such a model. UniLM 1 and 1.2 are BERT here, and go back as BERT
- config.json may say which types the source and the target have. Here they are 0 and 1, so their rows come first
- s2s-ft saves the embedding again, as the head's, and a constant of its loss
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import torch
from torch import Tensor

from megas2s.convert.bert import BERT
from megas2s.convert.encoders import TYPES
from megas2s.convert.names import Derived, Entry, Found, Settings, number, whole
from megas2s.errors import BadConfig
from megas2s.models.config import ModelConfig
from megas2s.spec import parse

MODEL_TYPE = "unilm"
OWN_KEYS = {"rel_pos_bins", "max_rel_pos", "source_type_id", "target_type_id", "label_smoothing", "layer_norm_epsilon"}
OLD_KEYS = {"layer_norm_epsilon": "layer_norm_eps"}
PACKED, QUERY_BIAS, VALUE_BIAS = "qkv_linear.weight", "q_bias", "v_bias"
BIAS = "bert.rel_pos_bias.weight"
OLD_BIAS = "bert.encoder.rel_pos_bias.weight"


def is_own(raw: Mapping[str, object]) -> bool:
    """Whether a config.json is UniLM's: s2s-ft saves it as BERT's, and publishes it without a model_type."""
    model_type = raw.get("model_type") or ""
    return model_type == MODEL_TYPE or (model_type in ("", "bert") and not OWN_KEYS.isdisjoint(raw))


def as_bert(raw: Mapping[str, object]) -> dict[str, object]:
    """The config.json as one of BERT, UniLM's own keys still in it."""
    older = {today: raw[old] for old, today in OLD_KEYS.items() if old in raw and today not in raw}
    return {**raw, **older, "model_type": "bert"}


def model_config(theirs: Settings, found: Found) -> ModelConfig:
    """BERT's, with UniLM 2's relative positions where there are some."""
    config = BERT.model_config(theirs, found)
    bins = _given(theirs, "rel_pos_bins", 0)
    if not bins:
        if there := sorted({BIAS, OLD_BIAS} & {f"bert.{name}" for name in found.names}):
            raise BadConfig(
                f"the tensors hold relative positions, {there[0]}, and config.json has no rel_pos_bins; complete it by "
                "rel_pos_bins and max_rel_pos as they were published"
            )
        return config
    relative = {"relative_buckets": bins, "relative_max_distance": whole(theirs, "max_rel_pos")}
    values = {**dataclasses.asdict(config), **relative, "positions": "both", "family": MODEL_TYPE}
    both: ModelConfig = parse(ModelConfig, values, source="config.json")
    return both


def entries(config: ModelConfig, head: bool) -> list[Entry]:
    """BERT's file, and the table of relative positions as it is here."""
    plan = BERT.entries(dataclasses.replace(config, positions="learned"), head)
    if config.has_relative_positions:
        plan.append(Entry(BIAS, "encoder.relative_bias.weight", (config.relative_buckets, config.num_heads)))
    return plan


def derived(theirs: Settings, found: Found) -> dict[str, Derived]:
    """What a file holds in another layout than BERT's."""
    plan: dict[str, Derived] = {}
    if any(name.endswith(PACKED) for name in found.names):
        for layer in range(whole(theirs, "num_hidden_layers")):
            plan |= _unpacked(f"bert.encoder.layer.{layer}.attention.self.", whole(theirs, "hidden_size"))
    for name in (BIAS, OLD_BIAS):
        if name.removeprefix("bert.") in found.names:
            plan[BIAS] = Derived(name, Tensor.t)  # (heads, buckets), the weight of a linear map
    return plan | _types(theirs)


def _unpacked(at: str, width: int) -> dict[str, Derived]:
    """The three maps of one layer, whose matrices lie one below the other."""
    return {
        f"{at}query.weight": Derived(at + PACKED, lambda rows: rows[:width]),
        f"{at}key.weight": Derived(at + PACKED, lambda rows: rows[width : 2 * width]),
        f"{at}value.weight": Derived(at + PACKED, lambda rows: rows[2 * width :]),  # all that is left, to be counted
        f"{at}query.bias": Derived(at + QUERY_BIAS, torch.flatten),
        f"{at}key.bias": Derived(at + VALUE_BIAS, lambda bias: torch.zeros_like(bias).flatten()),
        f"{at}value.bias": Derived(at + VALUE_BIAS, torch.flatten),
    }


def _types(theirs: Settings) -> dict[str, Derived]:
    """The table of types, that of the source first and that of the target second; nothing where it is so already."""
    rows = whole(theirs, "type_vocab_size")
    source, target = _given(theirs, "source_type_id", 0), _given(theirs, "target_type_id", 1)
    if rows < 2 or (source, target) == (0, 1):
        return {}
    if source == target or not (0 <= source < rows and 0 <= target < rows):
        raise BadConfig(
            f"config.json has source_type_id {source} and target_type_id {target}, two different types below "
            f"type_vocab_size {rows} are needed; correct it"
        )
    order = [source, target, *(row for row in range(rows) if row not in (source, target))]
    note = f"types {source} and {target}, of the source and the target, are 0 and 1 here; the others follow them"
    return {f"bert.{TYPES}": Derived(f"bert.{TYPES}", lambda table: table[order], note)}


def _given(theirs: Settings, key: str, default: int) -> int:
    return default if theirs.get(key) is None else int(number(theirs, key))


UNILM = BERT._replace(
    model_type=MODEL_TYPE,
    architectures={
        **dict.fromkeys(("BertForSequenceToSequenceWithPseudoMask", "BertForSequenceToSequenceUniLMV1"), True),
        **BERT.architectures,
    },
    model_config=model_config,
    entries=entries,
    copies=lambda config, head: {
        **BERT.copies(config, head),
        **({"cls.predictions.decoder_weight": "bert.embeddings.word_embeddings.weight"} if head else {}),
    },
    keys={**BERT.keys, "relative_buckets": "rel_pos_bins", "relative_max_distance": "max_rel_pos"},
    dropped=(*BERT.dropped, "crit_mask_lm_smoothed."),
    derived=derived,
    no_class=(
        "relative positions beside learned ones, as UniLM 2 has, are in no class of transformers: the model stays in "
        "the format of megas2s, which fine-tunes it and decodes what comes of that"
    ),
)

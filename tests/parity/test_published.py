"""The configurations of published models: taken, given back, and of the names and shapes of the classes that load them.

`published/` holds the keys of their config.json that shape a model, and says what they were compared with. Nothing is
built but on the meta device.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import transformers

from megas2s.convert import FAMILIES, hf
from megas2s.convert.export import shape
from megas2s.convert.t5 import HEAD, SHARED
from megas2s.models.presets import PRESETS, count_parameters, preset
from megas2s.models.transformer import build
from megas2s.tokenizer.vocab import stand_in

PUBLISHED = sorted((Path(__file__).parent / "published").glob("*.json"))


class Tensors:
    """What their files say that their configurations do not: whether T5's head is distinct; token types are zeros."""

    def __init__(self, raw: dict) -> None:
        self.names = {HEAD, SHARED} if raw["model_type"] in ("t5", "mt5") and "gated" in str(raw) else set()

    def same(self, one: str, other: str) -> bool:
        return False


@pytest.mark.parametrize("file", PUBLISHED, ids=lambda file: file.stem)
def test_a_published_model_has_our_names_shapes_and_number_of_parameters(file: Path, tmp_path: Path):
    raw = json.loads(file.read_text())
    (tmp_path / "config.json").write_text(json.dumps(raw))
    settings = hf.read_settings(tmp_path)
    (architecture,) = raw["architectures"]
    family = next(family for family in FAMILIES if architecture in family.architectures)
    config = family.model_config(settings, Tensors(raw))
    head = family.part == "seq2seq" or family.architectures[architecture]
    exported = shape(config, None, stand_in(config.vocab_size), head=head)
    assert exported.family.model_type == raw["model_type"]
    again = exported.family.settings(config, stand_in(config.vocab_size))
    again |= {"model_type": raw["model_type"], "architectures": [exported.architecture]}
    hf.compare_names(exported, again)
    kind = getattr(transformers, exported.architecture)
    with torch.device("meta"):
        theirs = kind(kind.config_class.from_dict(dict(raw)), **hf.without_pooler(exported))
    expected = sum(parameter.numel() for parameter in theirs.parameters())
    expected += config.vocab_size * config.hidden_size if config.tying == "untied_head" else 0  # transformers ties it
    ours = count_parameters(config)
    if not head:
        ours -= sum(parameter.numel() for name, parameter in head_of(config))
    leading = sum(entry.leading * entry.shape[1] for entry in exported.entries if entry.leading)
    zeros = sum(entry.shape[1] for entry in exported.entries if entry.ours is None and "token_type" in entry.theirs)
    assert ours + leading + zeros == expected


def head_of(config):
    with torch.device("meta"):
        return [(name, value) for name, value in build(config).named_parameters() if name.startswith("mlm.")]


PRESET_OF = {
    "bart-base": "bart_base",
    "bart-large": "bart_large",
    "mbart-large-cc25": "mbart_large",
    "roberta-base": "roberta_base",
    "roberta-large": "roberta_large",
    "xlm-roberta-base": "xlmr_base",
    "xlm-roberta-large": "xlmr_large",
    "bert-base-uncased": "bert_base",
    "bert-large-uncased": "bert_large",
    **{f"t5-{size}": f"t5_{size}" for size in ("small", "base", "large", "3b", "11b")},
    **{f"t5-v1_1-{size}": f"t5_1_1_{size}" for size in ("small", "base", "large", "xxl")},
    **{f"mt5-{size}": f"mt5_{size}" for size in ("small", "base", "xl")},
}


@pytest.mark.parametrize("name", PRESET_OF)
def test_a_preset_is_the_published_model(name: str, tmp_path: Path):
    raw = json.loads((Path(__file__).parent / "published" / f"{name}.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(raw))
    family = next(family for family in FAMILIES if raw["architectures"][0] in family.architectures)
    config = family.model_config(hf.read_settings(tmp_path), Tensors(raw))
    assert preset(PRESET_OF[name], vocab_size=raw["vocab_size"], pad_id=raw["pad_token_id"]) == config


def test_every_preset_of_a_family_is_compared_or_lies_between_two_that_are():
    sizes = {"t5_1_1_xl", "mt5_large", "mt5_xxl"}
    assert {name for name, shape in PRESETS.items() if shape.family is not None} - sizes == set(PRESET_OF.values())


def test_defaults_of_a_configuration_come_back(tmp_path: Path):
    """What decides how a published model computes is kept: of each file, the values that its family's export writes."""
    for file in PUBLISHED:
        raw = json.loads(file.read_text())
        (tmp_path / "config.json").write_text(json.dumps(raw))
        settings = hf.read_settings(tmp_path)
        family = next(family for family in FAMILIES if raw["architectures"][0] in family.architectures)
        config = family.model_config(settings, Tensors(raw))
        again = family.settings(config, stand_in(config.vocab_size))
        same = set(raw) & set(again) - {"bos_token_id", "eos_token_id", "forced_eos_token_id"}
        assert {key: again[key] for key in same} == {key: raw[key] for key in same}, file.stem

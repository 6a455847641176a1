"""Folders as others left them: a head beyond their class, tensors under other names, configurations that say little."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from megas2s.convert import hf
from megas2s.convert.importing import HEAD, RANDOM, incoming
from megas2s.errors import BadCheckpoint, BadConfig

from .cases import CASES, inputs, logits_of, logits_of_ours, ours_of

BODIES = {"bert": "BertModel", "roberta": "RobertaModel", "xlm_roberta": "XLMRobertaModel", "electra": "ElectraModel"}
BODIES |= {"bart": "BartModel", "mbart_untied": "MBartModel"}


@torch.no_grad()
@pytest.mark.parametrize("prefixed", [True, False])
@pytest.mark.parametrize("name", BODIES)
def test_a_head_that_the_class_has_not_is_read_where_it_is_whole(name: str, prefixed: bool, tmp_path):
    """The published BertModel folders are files of a BertForPreTraining, and some have no prefix before the body."""
    case = CASES[name]
    theirs = case.make()
    theirs.save_pretrained(tmp_path / "theirs")
    body = "" if prefixed else f"{theirs.base_model_prefix}."
    rewrite(tmp_path / "theirs", lambda values: {name.removeprefix(body): value for name, value in values.items()})
    settings = {**hf.read_settings(tmp_path / "theirs"), "architectures": [BODIES[name]]}
    found = incoming(tmp_path / "theirs", settings)
    assert ["it is read too" in note for note in found.notes] == [True]
    assert HEAD not in found.metadata
    batch = inputs(case)
    logits = logits_of_ours(ours_of(found), batch, case.pad, head=True)
    torch.testing.assert_close(logits, logits_of(theirs, batch, case.pad), atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", ["bert", "roberta"])
def test_a_head_that_is_not_whole_is_left_behind_aloud(name: str, tmp_path):
    case = CASES[name]
    case.make().save_pretrained(tmp_path / "theirs")
    gone = {"bert": "cls.predictions.transform.LayerNorm.weight", "roberta": "lm_head.dense.weight"}[name]
    rewrite(tmp_path / "theirs", lambda values: {name: value for name, value in values.items() if name != gone})
    settings = {**hf.read_settings(tmp_path / "theirs"), "architectures": [BODIES[name]]}
    found = incoming(tmp_path / "theirs", settings)
    assert found.metadata[HEAD] == RANDOM
    assert any(note.startswith(f"a head without {gone} is left behind: ") for note in found.notes)
    with pytest.raises(BadCheckpoint, match=gone):
        incoming(tmp_path / "theirs", {**settings, "architectures": [case.kind]})


@torch.no_grad()
@pytest.mark.parametrize("names", [None, []])
@pytest.mark.parametrize("name", CASES)
def test_a_configuration_that_names_no_class_is_read_by_its_tensors(name: str, names: object, tmp_path):
    case = CASES[name]
    case.make().save_pretrained(tmp_path / "theirs")
    settings = hf.read_settings(tmp_path / "theirs")
    said = incoming(tmp_path / "theirs", settings)
    found = incoming(tmp_path / "theirs", {**settings, "architectures": names})
    assert any(
        note.startswith("config.json names no class; by its tensors the model is an enc") for note in found.notes
    )
    assert (found.config, found.metadata) == (said.config, said.metadata)
    expected = dict(said.tensors())
    for canonical, values in found.tensors():
        assert torch.equal(values, expected[canonical])


def test_a_class_that_can_not_be_told_is_asked_for(tmp_path):
    CASES["bart"].make().save_pretrained(tmp_path / "theirs")
    rewrite(tmp_path / "theirs", lambda values: {name: one for name, one in values.items() if "decoder" not in name})
    settings = {**hf.read_settings(tmp_path / "theirs"), "architectures": None}
    with pytest.raises(
        BadConfig, match=r"no architectures, and .* an encoder's; add architectures: BartForConditional"
    ):
        incoming(tmp_path / "theirs", settings)


def rewrite(folder: Path, change: Callable) -> None:
    file = folder / "model.safetensors"
    save_file(change(load_file(file)), file, metadata={"format": "pt"})

"""Folders as others left them: a head beyond their class, tensors under other names, configurations that say little."""

from __future__ import annotations

import json
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


BERT_WORDS, BERT_BIAS = "bert.embeddings.word_embeddings.weight", "cls.predictions.bias"
OTHER_NAMES = [
    ("t5_1_0", "shared.weight", ["lm_head.weight"]),
    ("t5_1_0", "shared.weight", ["decoder.embed_tokens.weight"]),
    ("t5_1_0", "shared.weight", ["encoder.embed_tokens.weight", "lm_head.weight"]),
    ("t5_1_1", "shared.weight", ["encoder.embed_tokens.weight", "decoder.embed_tokens.weight"]),
    ("mt5", "shared.weight", ["decoder.embed_tokens.weight"]),
    ("t5_encoder", "shared.weight", ["encoder.embed_tokens.weight"]),
    ("bart", "model.shared.weight", ["lm_head.weight"]),
    ("bart", "model.shared.weight", ["model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight"]),
    ("bart_body", "shared.weight", ["decoder.embed_tokens.weight"]),
    ("bart_untied", "model.shared.weight", ["model.encoder.embed_tokens.weight"]),
    ("bert", BERT_WORDS, ["cls.predictions.decoder.weight"]),
    ("bert", BERT_BIAS, ["cls.predictions.decoder.bias"]),
    ("roberta", "roberta.embeddings.word_embeddings.weight", ["lm_head.decoder.weight"]),
    ("electra", "electra.embeddings.word_embeddings.weight", ["generator_lm_head.weight"]),
]


@torch.no_grad()
@pytest.mark.parametrize(("name", "usual", "others"), OTHER_NAMES)
def test_a_tied_matrix_is_read_under_any_of_its_names(name: str, usual: str, others: list[str], tmp_path):
    """transformers 4 left one of several names of a matrix in a file, and which one was an accident of order."""
    case = CASES[name]
    case.make().save_pretrained(tmp_path / "theirs")
    settings = hf.read_settings(tmp_path / "theirs")
    expected = incoming(tmp_path / "theirs", settings)
    values = dict(expected.tensors())

    def rename(stored: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        matrix = stored.pop(usual)
        return {**dict.fromkeys(others, matrix), **stored}

    rewrite(tmp_path / "theirs", rename)
    found = incoming(tmp_path / "theirs", settings)
    assert found.config == expected.config
    assert any(note.endswith(f"{others[0]} is read for it") for note in found.notes)
    for canonical, tensor in found.tensors():
        assert torch.equal(tensor, values[canonical]), canonical


def test_two_names_of_a_tied_matrix_must_agree(tmp_path):
    CASES["t5_1_0"].make().save_pretrained(tmp_path / "theirs")

    def disagree(stored: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        matrix = stored.pop("shared.weight")
        return {**stored, "encoder.embed_tokens.weight": matrix, "decoder.embed_tokens.weight": matrix + 1}

    rewrite(tmp_path / "theirs", disagree)
    with pytest.raises(BadConfig, match=r"decoder\.embed_tokens\.weight and shared\.weight differ"):
        incoming(tmp_path / "theirs", hf.read_settings(tmp_path / "theirs"))


@pytest.mark.parametrize("name", ["t5_1_1", "mt5"])
def test_a_head_of_its_own_does_not_stand_for_an_embedding_that_is_missing(name: str, tmp_path):
    CASES[name].make().save_pretrained(tmp_path / "theirs")
    rewrite(tmp_path / "theirs", lambda stored: {"lm_head.weight": stored.pop("shared.weight"), **stored})
    with pytest.raises(BadCheckpoint, match=r"has no tensor shared\.weight"):
        incoming(tmp_path / "theirs", hf.read_settings(tmp_path / "theirs"))


@torch.no_grad()
@pytest.mark.parametrize("name", ["bart_untied", "mbart_untied"])
def test_the_stacks_of_transformers_4_embed_with_the_shared_matrix_beside_a_head_of_its_own(name: str, tmp_path):
    case = CASES[name]
    theirs = case.make()
    for stack in (theirs.model.encoder, theirs.model.decoder):
        stack.embed_tokens.weight.copy_(theirs.model.shared.weight)
    theirs.save_pretrained(tmp_path / "theirs")
    gone = [f"model.{stack}.embed_tokens.weight" for stack in ("encoder", "decoder")]
    rewrite(tmp_path / "theirs", lambda stored: {key: value for key, value in stored.items() if key not in gone})
    found = incoming(tmp_path / "theirs", hf.read_settings(tmp_path / "theirs"))
    assert [f"{name} is not in the files; model.shared.weight is read for it" for name in gone] == found.notes
    batch = inputs(case)
    logits = logits_of_ours(ours_of(found), batch, case.pad, head=True)
    torch.testing.assert_close(logits, logits_of(theirs, batch, case.pad), atol=1e-4, rtol=0)


def rewrite(folder: Path, change: Callable) -> None:
    file = folder / "model.safetensors"
    changed = change(load_file(file))
    save_file({name: value.clone() for name, value in changed.items()}, file, metadata={"format": "pt"})


@pytest.mark.parametrize(
    ("name", "changes", "said"),
    [
        ("bert", {"hidden_act": "relu"}, "config.json's hidden_act is 'relu', and BERT has 'gelu' only"),
        ("bert", {"hidden_dropout_prob": 1.5}, r"hidden_dropout_prob must lie in \[0, 1\), got 1.5"),
        ("bert", {"num_attention_heads": 5}, "hidden_size 24 is not divisible by num_attention_heads 5"),
        ("bart", {"dropout": -1.0}, r"dropout must lie in \[0, 1\), got -1.0"),
        (
            "bart",
            {"encoder_attention_heads": 5, "decoder_attention_heads": 5},
            "d_model 24 .* encoder_attention_heads",
        ),
        ("t5_1_0", {"relative_attention_num_buckets": 6}, "relative_attention_num_buckets must be a multiple of 4"),
        ("t5_1_0", {"dense_act_fn": "silu"}, "has dense_act_fn 'silu', and models here have 'relu' only"),
        ("t5_1_1", {"is_gated_act": False}, "has is_gated_act False, and models here have True only"),
        ("t5_1_1", {"dense_act_fn": "gelu"}, "has dense_act_fn 'gelu', and models here have 'gelu_new' only"),
    ],
)
def test_what_cannot_be_represented_is_named_by_its_key_of_config_json(name: str, changes: dict, said: str, tmp_path):
    CASES[name].make().save_pretrained(tmp_path / "theirs")
    path = tmp_path / "theirs" / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(BadConfig, match=said):
        incoming(tmp_path / "theirs", hf.read_settings(tmp_path / "theirs"))

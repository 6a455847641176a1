"""Every family of models there and back: a random model of transformers, ours from its folder, its folder again.

Logits are compared at real positions of padded rows, with values of its own wherever transformers could have tied one
matrix to another.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
import torch
import transformers

from megas2s.convert import hf
from megas2s.convert import t5 as t5_family
from megas2s.convert.export import export, shape, values_of
from megas2s.convert.importing import HEAD, incoming
from megas2s.convert.source import read_tokenizer
from megas2s.convert.tensors import HubTensors
from megas2s.labels import IGNORED
from megas2s.models.handoff import hand_off
from megas2s.models.parameters import canonical_parameters, owners
from megas2s.models.transformer import build
from megas2s.models.weights import open_weights
from megas2s.tokenizer.load import Tokenizer
from megas2s.tokenizer.vocab import stand_in

from .cases import CASES, VOCABULARY, Case, inputs, logits_of, logits_of_ours, ours_of, publish, rows


@pytest.fixture(scope="module", params=CASES, ids=str)
def case(request: pytest.FixtureRequest) -> Case:
    return CASES[request.param]


@pytest.fixture
def saved(case: Case, tmp_path) -> Callable:
    """The folder of a random model, and the model."""

    def save(dtype: torch.dtype = torch.float32):
        model = case.make(dtype)
        model.save_pretrained(tmp_path / "theirs")
        return model, tmp_path / "theirs"

    return save


@torch.no_grad()
def test_a_model_of_transformers_gives_its_own_logits_here(case: Case, saved):
    theirs, folder = saved()
    found = incoming(folder, hf.read_settings(folder))
    batch = inputs(case)
    expected = logits_of(theirs, batch, case.pad)
    head = "MaskedLM" in case.kind
    logits = logits_of_ours(ours_of(found), batch, case.pad, head=head)
    assert expected.abs().max() > 0.1
    torch.testing.assert_close(logits, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
def test_a_folder_comes_back_bitwise_and_loads_as_it_did(case: Case, saved, corpus_folder, tmp_path, dtype):
    """All it has, but for rows of position tables that no real token reads and heads that are left behind."""
    theirs, folder = saved(dtype)
    found = incoming(folder, hf.read_settings(folder))
    publish(tmp_path / "ours", found)
    tokenizer = Tokenizer.load(corpus_folder / "tokenizer")
    reader = open_weights(tmp_path / "ours")
    export(reader, read_tokenizer(tokenizer.folder), tmp_path / "back", dtype=dtype, check=False)
    head = HEAD not in found.metadata
    plan = shape(found.config, None, tokenizer.vocabulary, head=head).entries
    before = HubTensors(folder, body="electra." if "PreTraining" in case.kind else "")
    body = "model." if case.kind == "BartModel" else ""  # it goes back as the class with the head, as one does with it
    after = HubTensors(tmp_path / "back", body=body)
    made_up = {name for name in before.names if name.startswith(("pooler.", "discriminator_predictions."))}
    bias = {"final_logits_bias"} if body else set()
    assert before.names - made_up == after.names - bias
    assert ("lm_head.weight" in after.names) >= case.own_head
    for name in sorted(after.names - bias):
        first = next(entry.leading for entry in plan if entry.theirs == body + name)
        if name == "model.shared.weight" and found.config.tying != "tied":
            continue  # nothing reads it
        assert torch.equal(before.tensor(name)[first:], after.tensor(name)[first:]), name
    again, info = type(theirs).from_pretrained(tmp_path / "back", output_loading_info=True)
    assert set(info["unexpected_keys"]) == bias
    assert {name.split(".")[0] for name in info["missing_keys"]} <= {"pooler", "discriminator_predictions"}
    if case.own_head:
        assert torch.equal(again.lm_head.weight, theirs.lm_head.weight)
        assert not torch.equal(again.lm_head.weight, again.get_input_embeddings().weight)
    if head:
        batch = inputs(case)
        with torch.no_grad():
            assert torch.equal(logits_of(again, batch, case.pad), logits_of(theirs, batch, case.pad))


@torch.no_grad()
@pytest.mark.parametrize("name", [name for name, case in CASES.items() if "Conditional" in case.kind])
def test_the_mean_loss_of_labels_is_theirs(name: str, tmp_path):
    """transformers makes the decoder's inputs from labels by itself: they begin as ours do."""
    case = CASES[name]
    theirs = case.make()
    eos = theirs.config.eos_token_id
    theirs.save_pretrained(tmp_path / "theirs")
    found = incoming(tmp_path / "theirs", hf.read_settings(tmp_path / "theirs"))
    model = ours_of(found)
    batch = inputs(case)
    labels = rows((9, 20, 13), IGNORED, seed=2)
    for row, length in zip(labels, (9, 20, 13), strict=True):
        row[length - 1] = eos
    start = case.pad if found.config.decoder_start == "pad" else eos
    shifted = torch.cat([torch.full((3, 1), start), labels[:, :-1]], dim=1)
    shifted = shifted.masked_fill(shifted.eq(IGNORED), case.pad)
    output = model({**batch, "decoder_input_ids": shifted})
    total = output.decoder_vocabulary_loss(output.decoder_hidden.flatten(0, 1), labels.flatten()).total
    expected = theirs(**batch, labels=labels).loss
    torch.testing.assert_close(total / labels.ne(IGNORED).sum(), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", ["bart", "mbart", "t5_1_0", "t5_1_1", "roberta", "bert", "electra"])
def test_gradients_of_every_parameter_are_theirs(name: str, corpus_folder, tmp_path):
    """The table of relative positions among them, whose gradient comes through attention's math kernel here."""
    case = CASES[name]
    theirs = case.make()
    theirs.save_pretrained(tmp_path / "theirs")
    found = incoming(tmp_path / "theirs", hf.read_settings(tmp_path / "theirs"))
    model = ours_of(found)
    batch = inputs(case)
    expected = logits_of(theirs, batch, case.pad)
    weights = torch.randn(expected.shape, generator=torch.Generator().manual_seed(7))
    (expected * weights).sum().backward()
    (logits_of_ours(model, batch, case.pad, head=True) * weights).sum().backward()
    vocabulary = Tokenizer.load(corpus_folder / "tokenizer").vocabulary
    gradients = {name: parameter.grad for name, parameter in theirs.named_parameters()}
    largest = max(gradient.abs().max() for gradient in gradients.values() if gradient is not None)
    canonical, matrices = canonical_parameters(model), owners(found.config)
    compared = set()
    for entry in shape(found.config, None, vocabulary).entries:
        if entry.ours is not None and gradients.get(entry.theirs) is not None:
            ours = canonical[matrices.get(entry.ours, entry.ours)].grad
            torch.testing.assert_close(ours, gradients[entry.theirs][entry.leading :], atol=1e-6 * largest, rtol=1e-4)
            compared.add(matrices.get(entry.ours, entry.ours))
    assert compared == canonical.keys()


@pytest.mark.parametrize("name", [name for name, case in CASES.items() if "Conditional" in case.kind])
def test_the_encoder_of_every_encoder_decoder_is_exported_alone(name: str, corpus_folder, tmp_path):
    """BART's as RoBERTa, MBart's as RoBERTa with pre-norm and its scale in the matrix, T5's as itself."""
    CASES[name].make().save_pretrained(tmp_path / "theirs")
    publish(tmp_path / "ours", found := incoming(tmp_path / "theirs", hf.read_settings(tmp_path / "theirs")))
    reader, vocabulary = open_weights(tmp_path / "ours"), stand_in(VOCABULARY)
    stored = read_tokenizer(corpus_folder / "tokenizer")
    export(reader, stored, tmp_path / "encoder", part="encoder", check=False)
    exported = shape(found.config, "encoder", vocabulary)
    if name.startswith(("t5", "mt5")):  # BART's encoder comes out as a RoBERTa, which says nothing of decoders
        again = incoming(tmp_path / "encoder", hf.read_settings(tmp_path / "encoder")).config
        assert again.decoder_start == found.config.decoder_start == "pad"
    value = values_of(reader, exported.config)
    assert hf.compare_numbers(exported, value, vocabulary, tmp_path / "encoder").values <= 1e-4
    alone = getattr(transformers, exported.architecture).from_pretrained(tmp_path / "encoder").eval()
    theirs = CASES[name].make().get_encoder()
    batch = inputs(CASES[name])
    with torch.no_grad():
        expected, states = theirs(**batch).last_hidden_state, alone(**batch).last_hidden_state
    real = batch["attention_mask"].bool()
    torch.testing.assert_close(states[real], expected[real], atol=1e-4, rtol=0)


BART_HAS = {"segment_types": 0, "norm_epsilon": 1e-5}  # and MBart


@pytest.mark.parametrize(
    ("name", "changes"),
    [
        ("roberta", {**BART_HAS, "family": "bart"}),
        ("xlm_roberta", {**BART_HAS, "tying": "tied_to_decoder"}),
        ("bert", BART_HAS),
        ("roberta_prelayernorm", {**BART_HAS, "scale_embedding": True}),
        ("t5_encoder", {**t5_family.SWITCHES, "decoder_start": "pad", "head_size": None, "tying": "untied_head"}),
    ],
)
@pytest.mark.parametrize("layers", ["random", "copied"])
@torch.no_grad()
def test_an_encoder_of_every_line_becomes_half_of_an_encoder_decoder_that_transformers_has(
    name: str, changes: dict, layers: str, tmp_path
):
    CASES[name].make().save_pretrained(tmp_path / "theirs")
    publish(tmp_path / "ours", found := incoming(tmp_path / "theirs", hf.read_settings(tmp_path / "theirs")))
    target = dataclasses.replace(found.config, num_decoder_layers=2, **{"family": None, **changes})
    model = build(target).eval()
    initial = hand_off(open_weights(tmp_path / "ours"), target, decoder_layers=layers)
    for canonical, parameter in canonical_parameters(model).items():
        if (values := initial(canonical)) is not None:
            parameter.copy_(values)
    batch = {key: value for key, value in inputs(CASES[name]).items() if key != "token_type_ids"}
    real = batch["attention_mask"].bool()
    before = ours_of(found).encode(**batch)[real]
    torch.testing.assert_close(model.encode(**batch)[real], before, atol=1e-4, rtol=1e-4)
    twin = torch.equal(model.decoder.layers[0].ffn.up.weight, model.encoder.layers[0].ffn.up.weight)
    assert twin == (layers == "copied")
    assert shape(target, None, stand_in(VOCABULARY)).family.part == "seq2seq"

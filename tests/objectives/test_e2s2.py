"""E2S2: two views that agree, labels that are true of the row that is read, and a loss that is its formula."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from megas2s.labels import IGNORED
from megas2s.models.transformer import build
from megas2s.objectives import E2S2
from megas2s.objectives.contrast import contrast
from megas2s.objectives.noise import special_table
from megas2s.rng import generator

from .conftest import EOS, MASK
from .views import BASES, CONFIG, batch_of, objective, shape_of


@pytest.fixture
def run():
    """`run(objective, batch)`: a small model's output and the parts of the loss."""

    def runs(wanted: E2S2, batch, step=None):
        torch.manual_seed(0)
        output = build(wanted.shaped(CONFIG))(wanted.inputs(batch))
        return output, wanted.loss(output, batch, step)

    return runs


@pytest.mark.parametrize("base", BASES)
def test_the_second_view_is_what_the_base_objective_makes(base):
    wanted, shape = objective(base=BASES[base]), shape_of()
    tokens = generator(0, "text").integers(8, 120, size=wanted.window_size(shape))
    found = wanted.corrupt(tokens, generator(1, "noise"), shape, 0)
    alone = wanted.base.corrupt(tokens, generator(1, "noise"), shape, 0)
    assert (found["second_input_ids"] == alone["input_ids"]).all()
    for name in ("decoder_input_ids", "labels"):
        assert (found[name] == alone[name]).all()


@pytest.mark.parametrize("base", BASES)
def test_labels_are_true_of_the_first_view(base):
    wanted, shape = objective(base=BASES[base]), shape_of()
    tokens = generator(0, "text").integers(8, 120, size=wanted.window_size(shape))
    found = wanted.corrupt(tokens, generator(1, "noise"), shape, 0)
    first, second, labels = found["input_ids"], found["second_input_ids"], found["encoder_labels"]
    assert len(first) == len(second) == len(labels)
    assert ((first == second) == (labels == 0)).all()
    assert set(labels.tolist()) == {0, 1, 2}
    special = special_table(shape.vocabulary)[second]
    assert special.any()
    assert (first[special] == second[special]).all()
    assert (labels == 2).sum() == round(0.15 * len(first))


def test_the_same_generator_gives_the_same_example():
    wanted, shape = objective(), shape_of()
    left, right = batch_of(wanted, shape), batch_of(wanted, shape)
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)


@pytest.mark.parametrize(
    ("changes", "kinds"),
    [
        ({}, ("original", "shuffled", "replaced")),
        ({"replace": 0}, ("original", "shuffled")),
        ({"shuffle": 0}, ("original", "replaced")),
    ],
)
def test_the_head_has_a_class_for_each_noise_that_is_on(changes, kinds):
    wanted = objective(**changes)
    assert wanted.kinds == kinds
    assert wanted.shaped(CONFIG).token_classes == len(kinds)
    labels = batch_of(wanted, shape_of())["encoder_labels"]
    assert set(labels[labels != IGNORED].tolist()) == set(range(len(kinds)))


def test_the_token_that_was_there_is_the_older_target():
    wanted, shape = objective(denoise={"target": "token"}), shape_of()
    tokens = generator(0, "text").integers(8, 120, size=wanted.window_size(shape))
    found = wanted.corrupt(tokens, generator(1, "noise"), shape, 0)
    corrupted = found["input_ids"] != found["second_input_ids"]
    assert (found["encoder_labels"] == np.where(corrupted, found["second_input_ids"], IGNORED)).all()
    shaped = wanted.shaped(CONFIG)
    assert (shaped.token_classes, shaped.encoder_restores) == (0, True)


def test_both_views_are_one_pass_before_the_same_target(run):
    wanted = objective()
    batch = batch_of(wanted, shape_of())
    joined = wanted.inputs(batch)
    assert torch.equal(joined["input_ids"], torch.cat([batch["input_ids"], batch["second_input_ids"]]))
    assert torch.equal(joined["decoder_input_ids"][:4], joined["decoder_input_ids"][4:])
    _, parts = run(wanted, batch)
    for index, name in enumerate(("nll_first", "nll_second")):
        torch.manual_seed(0)
        model = build(wanted.shaped(CONFIG))
        own = {
            "input_ids": batch[("input_ids", "second_input_ids")[index]],
            "attention_mask": batch[("attention_mask", "second_attention_mask")[index]],
            "decoder_input_ids": batch["decoder_input_ids"],
        }
        logits = model.logits(model(own).decoder_hidden)
        nll = F.cross_entropy(logits.flatten(0, 1), batch["labels"].flatten(), reduction="sum")
        assert parts[name].total.item() == pytest.approx(nll.item(), rel=1e-5)
        assert float(parts[name].row_totals.sum()) == pytest.approx(nll.item(), rel=1e-5)


def test_the_parts_are_those_of_the_definition(run):
    wanted = objective(contrast={"group": 2, "temperature": 0.5})
    batch = batch_of(wanted, shape_of())
    output, parts = run(wanted, batch)
    hidden = output.encoder_hidden
    scores, labels = output.token_scores(hidden[:4]), batch["encoder_labels"]
    nll = F.cross_entropy(scores.flatten(0, 1), labels.flatten(), ignore_index=IGNORED, reduction="sum")
    assert parts["denoise"].total.item() == pytest.approx(nll.item(), rel=1e-5)
    first, second = (
        (states * mask.unsqueeze(-1)).sum(1) / mask.sum(1, keepdim=True)
        for states, mask in zip(hidden.chunk(2), (batch["attention_mask"], batch["second_attention_mask"]), strict=True)
    )
    told = contrast(first, second, group=2, temperature=0.5)
    assert parts["contrast"].total.item() == pytest.approx(told.losses.sum().item(), rel=1e-5)
    assert {name: part.weight for name, part in parts.items() if part.weight is not None} == {
        "nll_first": 0.5,
        "nll_second": 0.5,
        "denoise": 0.05,
        "contrast": 0.05,
    }
    assert set(wanted.counts(batch)) == {"nll_first", "nll_second", "denoise", "contrast"}
    assert wanted.counts(batch)["contrast"].tolist() == [1.0] * 4
    assert wanted.counts(batch)["denoise"].sum() == (labels != IGNORED).sum()


def test_measures_are_accuracy_and_f1_by_kind(run):
    wanted = objective(contrast=None)
    batch = batch_of(wanted, shape_of())
    output, parts = run(wanted, batch)
    guess, labels = output.token_scores(output.encoder_hidden[:4]).argmax(-1), batch["encoder_labels"]
    real = labels != IGNORED

    def ratio(name: str) -> float:
        part = parts[name]
        assert part.weight is None
        return float(part.row_totals.sum() / part.row_counts.sum())

    assert ratio("denoise_accuracy") == pytest.approx(float((guess == labels)[real].float().mean()))
    for label, kind in enumerate(wanted.kinds):
        hits = ((guess == label) & (labels == label)).sum()
        precision, recall = hits / ((guess == label) & real).sum(), hits / (labels == label).sum()
        f1 = 2 * precision * recall / (precision + recall)
        assert ratio(f"denoise_accuracy_{kind}") == pytest.approx(float(recall))
        assert ratio(f"denoise_f1_{kind}") == pytest.approx(float(f1.nan_to_num(0.0)))


def test_weights_of_classes_weigh_the_loss_and_its_count(run):
    plainly, weighed = objective(), objective(denoise={"class_weights": [0.5, 2.0, 3.0]})
    batch = batch_of(plainly, shape_of())
    output, parts = run(weighed, batch)
    scores, labels = output.token_scores(output.encoder_hidden[:4]), batch["encoder_labels"]
    mean = F.cross_entropy(scores.flatten(0, 1), labels.flatten(), torch.tensor([0.5, 2.0, 3.0]), ignore_index=IGNORED)
    found = parts["denoise"].total / weighed.counts(batch)["denoise"].sum()
    assert found.item() == pytest.approx(mean.item(), rel=1e-5)


def test_as_released_the_second_class_is_ignored_and_padding_is_learnt(run):
    shape = shape_of()
    batch = batch_of(objective(), shape)
    assert (batch["attention_mask"] == 0).any()
    released = objective(denoise={"as_released": True})
    labels = released.denoise.labels(batch)
    assert (labels[batch["encoder_labels"] == 1] == IGNORED).all()
    assert (labels[batch["attention_mask"] == 0] == 0).all()
    assert (labels[batch["encoder_labels"] == 2] == 2).all()
    assert torch.equal(objective().denoise.labels(batch), batch["encoder_labels"])
    _, parts = run(released, batch)
    assert parts["denoise_f1_shuffled"].row_totals.sum() == 0


def test_one_view_is_the_noised_one_with_all_the_weight(run):
    wanted = objective(views=1, contrast=None)
    batch = batch_of(wanted, shape_of())
    assert "second_input_ids" not in batch
    assert wanted.inputs(batch) is batch
    output, parts = run(wanted, batch)
    assert len(output.encoder_hidden) == 4
    assert parts["nll_first"].weight == 1.0
    assert "nll_second" not in parts


def test_the_accuracy_of_restored_tokens_is_measured_where_nothing_is_learnt(run):
    wanted = objective(denoise={"target": "token"}, contrast=None)
    batch = batch_of(wanted, shape_of())
    with torch.no_grad():
        output, parts = run(wanted, batch)
        labels = batch["encoder_labels"]
        guess = output.encoder_logits(output.encoder_hidden[:4]).argmax(-1)
    right, count = ((guess == labels) & (labels != IGNORED)).sum(1), (labels != IGNORED).sum(1)
    assert parts["denoise_accuracy"].row_totals.tolist() == right.tolist()
    assert parts["denoise_accuracy"].row_counts.tolist() == count.tolist()
    assert "denoise_accuracy" not in run(wanted, batch)[1]


def test_the_formula_s_weights_are_one_key_away(run):
    wanted = objective(nll_weights=[1, 1])
    _, parts = run(wanted, batch_of(wanted, shape_of()))
    assert (parts["nll_first"].weight, parts["nll_second"].weight) == (1.0, 1.0)


def test_weights_warm_in_linearly_and_stay(run):
    wanted = objective(denoise={"weight": 0.2, "warm_in_steps": 4}, contrast={"group": 2, "warm_in_steps": 10})
    batch = batch_of(wanted, shape_of())
    found = [run(wanted, batch, step)[1]["denoise"].weight for step in (0, 1, 3, 4, 100, None)]
    assert found == pytest.approx([0.05, 0.1, 0.2, 0.2, 0.2, 0.2])
    assert run(wanted, batch, 4)[1]["contrast"].weight == pytest.approx(0.025)


def test_the_first_state_may_stand_for_a_sentence(run):
    wanted = objective(contrast={"group": 4, "representation": "first"})
    batch = batch_of(wanted, shape_of())
    output, parts = run(wanted, batch)
    first, second = output.encoder_hidden[:, 0].chunk(2)
    told = contrast(first, second, group=4, temperature=1.0)
    assert parts["contrast"].total.item() == pytest.approx(told.losses.sum().item(), rel=1e-5)


def test_the_state_of_a_prompt_s_mask_may_stand_for_a_sentence(run):
    wanted, shape = objective(contrast={"group": 4, "representation": "prompt"}), shape_of()
    batch = batch_of(wanted, shape)
    columns = wanted.row_lengths(wanted.window_size(shape), shape)
    assert not columns.full
    assert columns.source <= 48
    rows = torch.arange(4)
    places = batch["prompt_positions"]
    assert (batch["input_ids"][rows, places[:, 0]] == MASK).all()
    assert (batch["second_input_ids"][rows, places[:, 1]] == MASK).all()
    output, parts = run(wanted, batch)
    first, second = output.encoder_hidden.chunk(2)
    told = contrast(first[rows, places[:, 0]], second[rows, places[:, 1]], group=4, temperature=1.0)
    assert parts["contrast"].total.item() == pytest.approx(told.losses.sum().item(), rel=1e-5)


def test_prompts_are_not_noised_and_have_no_labels():
    wanted, shape = objective(contrast={"group": 4, "representation": "prompt"}), shape_of()
    bare = objective()
    tokens = generator(0, "text").integers(8, 120, size=wanted.window_size(shape))
    prompted = wanted.corrupt(tokens, generator(1, "noise"), shape, 0)
    without = bare.corrupt(tokens, generator(1, "noise"), shape, 0)
    for name, before, after in (("input_ids", 4, 3), ("second_input_ids", 9, 1)):
        assert prompted[name][before : -after - 1].tolist() == without[name][:-1].tolist()
        assert prompted[name][-1] == EOS
    assert (prompted["encoder_labels"] == IGNORED).sum() == 7
    assert prompted["encoder_labels"][prompted["encoder_labels"] != IGNORED].tolist() == (
        without["encoder_labels"].tolist()
    )


def test_pieces_of_a_window_may_be_the_sentences(run):
    wanted = objective(base=BASES["deletion"], contrast={"group": 2, "segment_length": 10})
    batch = batch_of(wanted, shape_of())
    columns = batch["input_ids"].shape[1]
    units = columns // 10
    assert units > 1
    assert wanted.counts(batch)["contrast"].tolist() == [float(units)] * 4
    output, parts = run(wanted, batch)
    borders = [-(-piece * columns // units) for piece in range(units + 1)]
    pieces = [output.encoder_hidden[:, a:b].mean(1) for a, b in itertools.pairwise(borders)]
    first, second = torch.stack(pieces, 1).chunk(2)
    told = contrast(first.flatten(0, 1), second.flatten(0, 1), group=2 * units, temperature=1.0)
    assert parts["contrast"].total.item() == pytest.approx(told.losses.sum().item(), rel=1e-5)


def test_a_sentence_that_has_no_other_beside_it_is_not_counted():
    wanted = objective(contrast={"group": 2})
    batch = batch_of(wanted, shape_of())
    batch["sample"][3] = -1
    assert wanted.counts(batch)["contrast"].tolist() == [1.0, 1.0, 0.0, 0.0]
    segments = objective(contrast={"group": 2, "segment_length": 10})
    assert segments.counts(batch)["contrast"].tolist() == [4.0, 4.0, 4.0, 0.0]


def test_rows_that_fill_a_batch_up_count_nothing(run):
    wanted = objective()
    batch = batch_of(wanted, shape_of(), filled=2)
    assert wanted.counts(batch)["contrast"].tolist() == [1, 1, 0, 0]
    output, parts = run(wanted, batch)
    real = wanted.contrast.sentences(output.encoder_hidden[:4], batch, 0)[:2, 0]
    pair = wanted.contrast.sentences(output.encoder_hidden[4:], batch, 1)[:2, 0]
    told = contrast(real, pair, group=2, temperature=1.0)
    assert parts["contrast"].row_totals.tolist() == pytest.approx([*told.losses.tolist(), 0, 0], rel=1e-5)

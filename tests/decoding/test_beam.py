"""Beam search as s2s-ft has it: against its definition in plain loops, without cache and without batches."""

from __future__ import annotations

import math
from typing import NamedTuple

import pytest
import torch

from megas2s.decoding.beam import Gnmt, Power, gnmt, power
from megas2s.decoding.traces import candidates
from tests.decoding.models import KINDS, RULES, logits_of, made, sources


class Beam(NamedTuple):
    ids: list[int]
    score: float
    dead: bool


def plain(model, batch, row, rules, beams, penalty):
    """All candidates of the search, best first: every end among the K best, and the last frame."""
    frames, live = [], [Beam([], 0.0, False)]
    for _ in range(rules.length):
        grown = []
        for beam in live:
            if beam.dead:
                continue
            logits = logits_of(model, batch, row, beam.ids, rules)
            shares = logits.log_softmax(-1)
            rules.forbid(shares[None], torch.tensor([beam.ids], dtype=torch.long).view(1, -1))
            scores, ids = shares.topk(beams)
            grown += [
                Beam([*beam.ids, token], beam.score + score, token == rules.eos)
                for score, token in zip(scores.tolist(), ids.tolist(), strict=True)
            ]
        live = sorted(grown, key=lambda beam: -beam.score)[:beams]
        frames.append(live)
        if all(beam.dead for beam in live):
            break
    found = []
    for place, frame in enumerate(frames, 1):
        divisor = ((5 + place) / 6) ** penalty if penalty > 0 else 1.0
        found += [(beam.score / divisor, beam.ids) for beam in frame if beam.dead or place == len(frames)]
    return sorted(found, key=lambda pair: -pair[0])


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("penalty", [0.0, 0.7, 2.0])
@pytest.mark.parametrize("bounds", [{}, {"min_length": 4, "ngram": 2, "ignored": (7,)}], ids=["free", "bound"])
def test_gnmt_is_its_definition(kind, penalty, bounds):
    model, batch, rules = made(kind), sources(), RULES[kind]._replace(**bounds)
    found, traces = gnmt(model, batch, rules, Gnmt(beams=3, penalty=penalty, best=2))
    whole, traced = gnmt(model, batch, rules, Gnmt(beams=3, penalty=penalty, best=2), whole=True)
    for row in range(3):
        expected = plain(model, batch, row, rules, 3, penalty)[:2]
        for place, (score, ids) in enumerate(expected):
            padded = ids + [rules.pad] * (rules.length - len(ids))
            assert found.ids[row, place].tolist() == whole.ids[row, place].tolist() == padded
            assert found.scores[row, place].item() == pytest.approx(score, abs=1e-4)
        assert len(traces[row].tokens) <= len(traced[row].tokens)


@torch.no_grad()
def test_a_trace_scored_anew_is_the_search_with_another_penalty():
    model, batch, rules = made("masked"), sources(), RULES["masked"]
    _, traces = gnmt(model, batch, rules, Gnmt(beams=4), whole=True)
    for penalty in (0.0, 0.5, 1.5):
        again, _ = gnmt(model, batch, rules, Gnmt(beams=4, penalty=penalty))
        for row, trace in enumerate(traces):
            best = candidates(trace, eos=rules.eos, penalty=penalty)[0]
            assert again.ids[row, 0, : len(best.ids)].tolist() == best.ids.tolist()
            assert again.scores[row, 0].item() == pytest.approx(best.score, abs=1e-5)
    every, longer = (candidates(traces[0], eos=rules.eos, penalty=0.0, best=99, min_length=n) for n in (0, 4))
    assert min(len(found.ids) for found in every) <= 4
    assert [found.ids.tolist() for found in every if len(found.ids) > 4] == [found.ids.tolist() for found in longer]


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_a_beam_of_one_is_greedy_and_a_wide_one_finds_the_best(kind):
    """With as many beams as there are rows of two tokens nothing is lost."""
    model, batch = made(kind), sources()
    rules = RULES[kind]._replace(length=2)
    found, _ = gnmt(model, batch, rules, Gnmt(beams=40))
    for row in range(3):
        best = -math.inf
        first = logits_of(model, batch, row, [], rules).log_softmax(-1)
        for token in range(40):
            if token == rules.eos:
                best = max(best, float(first[token]))
                continue
            second = logits_of(model, batch, row, [token], rules).log_softmax(-1)
            best = max(best, float(first[token] + second.max()))
        assert found.scores[row, 0].item() == pytest.approx(best, abs=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("search", ["power", "gnmt"])
def test_a_row_writes_alone_what_it_writes_in_a_batch(kind, search):
    model, batch, rules = made(kind), sources(), RULES[kind]

    def written(sources):
        if search == "power":
            return power(model, sources, rules, Power(beams=3, best=3))
        return gnmt(model, sources, rules, Gnmt(beams=3, penalty=0.6, best=3))[0]

    together = written(batch)
    for row in range(3):
        size = int(batch["attention_mask"][row].sum())
        alone = written({"input_ids": batch["input_ids"][row : row + 1, :size]})
        assert torch.equal(alone.ids[0], together.ids[row])
        torch.testing.assert_close(alone.scores[0], together.scores[row], atol=1e-4, rtol=1e-4)

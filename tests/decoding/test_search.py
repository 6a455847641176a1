"""Greedy decoding against whole passes, sampling against the distributions that transformers' warpers leave."""

from __future__ import annotations

import pytest
import torch
from transformers.generation.logits_process import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

from megas2s.decoding.search import Sampling, draw, greedy, sample
from tests.decoding.models import KINDS, RULES, logits_of, made, sources


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_greedy_is_the_likeliest_token_of_whole_passes(kind):
    model, batch, rules = made(kind), sources(), RULES[kind]._replace(ngram=2, min_length=3)
    found = greedy(model, batch, rules)
    for row in range(3):
        ids, total = [], 0.0
        while len(ids) < rules.length and (not ids or ids[-1] != rules.eos):
            logits = logits_of(model, batch, row, ids, rules)
            shares = logits.log_softmax(-1)
            rules.forbid(logits[None], torch.tensor([ids], dtype=torch.long).view(1, -1))
            ids.append(int(logits.argmax()))
            total += float(shares[ids[-1]])
        assert found.ids[row, 0].tolist() == ids + [rules.pad] * (rules.length - len(ids))
        assert found.scores[row, 0].item() == pytest.approx(total, abs=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_drawn_depends_on_seed_and_number_alone(kind):
    model, batch, rules = made(kind), sources(), RULES[kind]
    how = Sampling(temperature=0.8, top_k=20, top_p=0.9, copies=2)
    together = sample(model, batch, rules, how, seed=3, numbers=[10, 11, 12])
    assert together.ids.shape == (3, 2, rules.length)
    assert not torch.equal(together.ids[:, 0], together.ids[:, 1])
    for row in range(3):
        alone = {name: tensor[row : row + 1] for name, tensor in batch.items()}
        again = sample(model, alone, rules, how, seed=3, numbers=[10 + row])
        assert torch.equal(again.ids[0], together.ids[row])
    other = sample(model, batch, rules, how, seed=4, numbers=[10, 11, 12])
    assert not torch.equal(other.ids, together.ids)


@pytest.mark.parametrize(
    "how", [Sampling(), Sampling(0.5), Sampling(top_k=3), Sampling(top_p=0.6), Sampling(2.0, 5, 0.7)]
)
def test_shares_of_draws_are_those_of_transformers_warpers(how):
    scores = torch.tensor([[0.3, 2.0, -1.0, 1.1, 0.9, -0.2, 1.5]])
    expected = TemperatureLogitsWarper(how.temperature)(None, scores) if how.temperature != 1 else scores
    expected = TopKLogitsWarper(how.top_k)(None, expected) if how.top_k else expected
    expected = (TopPLogitsWarper(how.top_p)(None, expected) if how.top_p < 1 else expected).softmax(-1)[0]
    chances = (torch.arange(20_000) + 0.5) / 20_000
    drawn = draw(scores.expand(20_000, -1), how, chances).bincount(minlength=7) / 20_000
    torch.testing.assert_close(drawn, expected, atol=2e-4, rtol=0)


def test_forced_tokens_are_not_drawn():
    model, batch = made("decoder"), sources()
    rules = RULES["decoder"]._replace(prefix=torch.full((3, 2), 9))
    found = sample(model, batch, rules, Sampling(copies=2), seed=1, numbers=[0, 1, 2])
    assert found.ids[:, :, :2].eq(9).all()

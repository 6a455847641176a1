"""Decoding step by step gives the states of the whole decoder, for every kind of position and norm."""

from __future__ import annotations

import pytest
import torch

from megas2s.generate.greedy import greedy
from megas2s.models.config import ModelConfig
from megas2s.models.transformer import build

SIZES = {"vocab_size": 64, "hidden_size": 16, "num_heads": 2, "ffn_size": 32, "max_positions": 24}
SIZES |= {"num_encoder_layers": 2, "num_decoder_layers": 2}
KINDS = {
    "pre-norm": {},
    "post-norm": {"norm_position": "post"},
    "relative positions": {"positions": "relative", "norm": "rms", "biases": False, "relative_buckets": 8}
    | {"relative_max_distance": 10, "scale_attention": False, "embed_norm": False, "gated": True},
}


@pytest.fixture(params=KINDS)
def model(request: pytest.FixtureRequest):
    torch.manual_seed(0)
    return build(ModelConfig(**SIZES, **KINDS[request.param], init_std=0.2)).eval()


def batch():
    torch.manual_seed(1)
    ids = torch.randint(5, 64, (3, 9))
    mask = torch.ones_like(ids)
    mask[1, 6:], mask[2, 2:] = 0, 0
    return {"input_ids": ids.masked_fill(mask == 0, 1), "attention_mask": mask}


@torch.no_grad()
def test_each_step_has_the_state_of_the_whole_pass(model):
    source = batch()
    target = torch.randint(5, 64, (3, 12))
    whole = model({**source, "decoder_input_ids": target}).decoder_hidden
    cache = model.cache(model.encode(**source), source["attention_mask"], length=12)
    steps = [cache.step(target[:, place : place + 1]) for place in range(12)]
    torch.testing.assert_close(torch.cat(steps, dim=1), whole, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_greedy_decoding_is_the_argmax_of_whole_passes_until_a_row_ends(model):
    source, start, length = batch(), 2, 10
    first = model({**source, "decoder_input_ids": torch.full((3, 1), start)})
    eos = int(model.logits(first.decoder_hidden[0, 0]).argmax())  # so that one row ends at once
    ids, done = torch.full((3, 1), start), torch.zeros(3, dtype=torch.bool)
    for _ in range(length):
        output = model({**source, "decoder_input_ids": ids})
        best = model.logits(output.decoder_hidden[:, -1]).argmax(-1).masked_fill(done, 1)
        done = done | (best == eos)
        ids = torch.cat([ids, best[:, None]], dim=1)
    found = greedy(model, source, start=start, eos=eos, pad=1, length=length)
    assert torch.equal(found, ids[:, 1:])
    assert found[0].tolist() == [eos, *[1] * (length - 1)]


@torch.no_grad()
def test_a_row_writes_alone_what_it_writes_in_a_batch(model):
    source = batch()
    together = greedy(model, source, start=2, eos=0, pad=1, length=8)
    for row in range(3):
        size = int(source["attention_mask"][row].sum())
        alone = greedy(model, {"input_ids": source["input_ids"][row : row + 1, :size]}, start=2, eos=0, pad=1, length=8)
        assert torch.equal(alone[0], together[row])


def test_more_positions_than_the_model_has_are_refused():
    model = build(ModelConfig(**SIZES)).eval()
    with pytest.raises(ValueError, match="a row of 25 tokens exceeds the model's 24 positions"):
        greedy(model, {"input_ids": torch.full((1, 4), 9)}, start=2, eos=-1, pad=1, length=25)

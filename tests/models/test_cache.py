"""Decoding step by step gives the states of the whole decoder, for every kind of position and norm."""

from __future__ import annotations

import pytest
import torch

from megas2s.decoding.rules import Rules
from megas2s.decoding.search import greedy
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
    found = greedy(model, source, Rules(start=start, eos=eos, pad=1, length=length)).ids[:, 0]
    assert torch.equal(found, ids[:, 1:])
    assert found[0].tolist() == [eos, *[1] * (length - 1)]


@torch.no_grad()
def test_a_row_writes_alone_what_it_writes_in_a_batch(model):
    source = batch()
    rules = Rules(start=2, eos=0, pad=1, length=8)
    together = greedy(model, source, rules).ids
    for row in range(3):
        size = int(source["attention_mask"][row].sum())
        alone = greedy(model, {"input_ids": source["input_ids"][row : row + 1, :size]}, rules).ids
        assert torch.equal(alone[0], together[row])


def test_more_positions_than_the_model_has_are_refused():
    model = build(ModelConfig(**SIZES)).eval()
    with pytest.raises(ValueError, match="a row of 25 tokens exceeds the model's 24 positions"):
        greedy(model, {"input_ids": torch.full((1, 4), 9)}, Rules(start=2, eos=-1, pad=1, length=25))


ROWS = {
    "pre-norm": {},
    "post-norm with types": {"norm_position": "post", "segment_types": 2},
    "relative": {"positions": "relative", "relative_buckets": 8, "relative_max_distance": 10},
    "both": {"positions": "both", "relative_buckets": 8, "relative_max_distance": 10, "norm_position": "post"},
}


@pytest.fixture(params=ROWS)
def encoder(request: pytest.FixtureRequest):
    torch.manual_seed(0)
    sizes = {name: value for name, value in SIZES.items() if name != "num_decoder_layers"}
    return build(ModelConfig(**sizes, **ROWS[request.param], init_std=0.2)).eval()


@torch.no_grad()
def test_an_encoder_s_steps_have_the_states_of_the_whole_row(encoder):
    source, target = batch(), torch.randint(5, 64, (3, 12))
    whole = encoder({**source, "target_ids": target}).encoder_hidden
    steps = encoder.begin(source, length=12)
    found = [steps.step(target[:, place : place + 1]) for place in range(12)]
    torch.testing.assert_close(torch.cat(found, dim=1), whole, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_a_mask_is_filled_with_the_state_of_a_pseudo_token(encoder):
    """Each step's mask stands where the pseudo token of that place does, and leaves nothing behind."""
    source, target = batch(), torch.randint(5, 64, (3, 12))
    whole = encoder({**source, "target_ids": target, "pseudo_ids": torch.full_like(target, 4)}).encoder_hidden
    steps = encoder.begin(source, length=12, mask=4)
    read = torch.cat([torch.full((3, 1), 60), target[:, :-1]], dim=1)  # what is read first is no token
    found = [steps.step(read[:, place : place + 1]) for place in range(12)]
    torch.testing.assert_close(torch.cat(found, dim=1), whole, atol=1e-5, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("mask", [None, 4])
def test_rows_of_one_source_go_on_from_each_other(encoder, mask):
    source, copies = batch(), 2
    target = torch.randint(5, 64, (6, 5))
    expanded = {name: tensor.repeat_interleave(copies, dim=0) for name, tensor in source.items()}
    steps, alone = (
        encoder.begin(source, length=6, copies=copies, mask=mask),
        encoder.begin(expanded, length=6, mask=mask),
    )
    for place in range(3):
        ids = target[:, place : place + 1]
        torch.testing.assert_close(steps.step(ids), alone.step(ids), atol=1e-5, rtol=1e-4)
    rows = torch.tensor([1, 1, 2, 2, 5, 4])
    steps.reorder(rows)
    again = encoder.begin(expanded, length=6, mask=mask)
    for place in range(3):
        again.step(target[rows, place : place + 1])
    torch.testing.assert_close(steps.step(target[:, 3:4]), again.step(target[:, 3:4]), atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_rows_of_one_source_go_on_from_each_other_in_a_decoder(model):
    source, copies = batch(), 2
    target = torch.randint(5, 64, (6, 5))
    expanded = {name: tensor.repeat_interleave(copies, dim=0) for name, tensor in source.items()}
    steps, again = model.begin(source, length=6, copies=copies), model.begin(expanded, length=6)
    rows = torch.tensor([1, 1, 2, 2, 5, 4])
    for place in range(3):
        steps.step(target[:, place : place + 1])
        again.step(target[rows, place : place + 1])
    steps.reorder(rows)
    torch.testing.assert_close(steps.step(target[:, 3:4]), again.step(target[:, 3:4]), atol=1e-5, rtol=1e-4)

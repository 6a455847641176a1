"""Source and target in one row: who sees whom, at which positions, whatever the padding and however it is computed."""

from __future__ import annotations

import dataclasses

import pytest
import torch

from megas2s.models.packed import pack
from tests.models.small import ENCODER, made

KINDS = {
    "pre-norm": {},
    "post-norm with types": {"norm_position": "post", "segment_types": 2},
    "relative": {"positions": "relative", "relative_buckets": 8, "relative_max_distance": 10},
    "both": {"positions": "both", "relative_buckets": 8, "relative_max_distance": 10, "norm_position": "post"},
}
SPANS = torch.tensor([[0, 0, 1, 1, 1], [0, 1, 1, 2, 3], [0, 1, 2, 2, 9]])


def config(kind="pre-norm", **changes):
    return dataclasses.replace(ENCODER, **{"init_std": 0.3, "max_positions": 32, **KINDS[kind], **changes})


def batch(*, pseudo=True, spans=False):
    """Three rows with sources of 7, 4 and 2 tokens."""
    generator = torch.Generator().manual_seed(3)
    draw = lambda *shape: torch.randint(5, 40, shape, generator=generator)  # noqa: E731
    real = torch.arange(7) < torch.tensor([7, 4, 2])[:, None]
    found = {"input_ids": draw(3, 7).masked_fill(~real, 1), "attention_mask": real.long(), "target_ids": draw(3, 5)}
    found |= {"pseudo_ids": draw(3, 5)} if pseudo else {}
    return found | ({"target_spans": SPANS} if spans else {})


def sees(row: int, query: int, key: int, *, real: int, spans=None) -> bool:
    """The definition (s2s-ft, section 2): columns 0-6 are the source, 7-11 the target, 12-16 pseudo tokens."""
    order = range(5) if spans is None else spans[row].tolist()
    if key < 7:
        return key < real
    if query < 7:
        return False
    if query < 12:
        return key < 12 and order[key - 7] <= order[query - 7]
    if key < 12:
        return order[key - 7] < order[query - 12]
    return order[key - 12] == order[query - 12]


@pytest.mark.parametrize("spans", [None, SPANS], ids=["places", "spans"])
def test_who_sees_whom_is_as_defined(spans):
    row = pack(batch(spans=spans is not None), config())
    for index, real in enumerate((7, 4, 2)):
        found = [row.blocks.masks[0][index, 0].expand(7, 7), *(mask[index, 0] for mask in row.blocks.masks[1:])]
        for first, mask in zip((0, 7, 12), found, strict=True):
            for query in range(mask.shape[0]):
                expected = [sees(index, first + query, key, real=real, spans=spans) for key in range(mask.shape[1])]
                assert mask[query].tolist() == expected
                behind = [sees(index, first + query, key, real=real, spans=spans) for key in range(mask.shape[1], 17)]
                assert not any(behind), "what a block leaves out nobody may see"


def test_positions_go_on_where_the_source_ends_and_pseudo_tokens_share_them():
    row = pack(batch(), config("post-norm with types"))
    for index, real in enumerate((7, 4, 2)):
        assert row.positions[index, :7].tolist() == list(range(7))
        assert row.positions[index, 7:12].tolist() == row.positions[index, 12:].tolist() == list(range(real, real + 5))
    assert row.types.tolist() == [[0] * 7 + [1] * 10]
    assert pack(batch(), config()).types is None


def dense(model, given):
    """The same by one square mask over all columns, and every state of the last layer."""
    row, encoder = pack(given, model.config), model.encoder
    length, first = row.ids.shape[1], sum(row.blocks.sizes[:-1])
    square = torch.zeros(len(row.ids), 1, length, length, dtype=torch.bool)
    start = 0
    for size, mask in zip(row.blocks.sizes, row.blocks.masks, strict=True):
        square[:, :, start : start + size, : start + size] = True if mask is None else mask
        start += size
    hidden = encoder.embedded(row.ids, row.positions, row.types)
    if encoder.relative_bias is not None:
        square = encoder.relative_bias(row.positions, row.positions, square, hidden.dtype)
    for layer in encoder.layers:
        hidden = layer(hidden, square)
    return encoder.ended(hidden)[:, first:]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("pseudo", [False, True])
@pytest.mark.parametrize("spans", [False, True])
def test_blocks_equal_one_square_mask_states_and_gradients(kind, pseudo, spans):
    model, given = made(config(kind)), batch(pseudo=pseudo, spans=spans)
    found, expected = model(given).encoder_hidden, dense(model, given)
    assert found.shape == (3, 5, ENCODER.hidden_size)
    torch.testing.assert_close(found, expected, atol=2e-6, rtol=1e-5)
    weights = torch.randn(found.shape, generator=torch.Generator().manual_seed(1))
    trained = [parameter for name, parameter in model.named_parameters() if not name.startswith("mlm.")]
    ours, theirs = (torch.autograd.grad((states * weights).sum(), trained) for states in (found, expected))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, atol=2e-5, rtol=1e-4)


@pytest.mark.parametrize("seed", range(20))
def test_blocks_equal_one_square_mask_at_random_lengths(seed):
    generator = torch.Generator().manual_seed(seed)
    rows, width, count = (int(torch.randint(1, most, (1,), generator=generator)) for most in (4, 12, 9))
    ends = torch.randint(1, width + 1, (rows, 1), generator=generator)
    draw = lambda *shape: torch.randint(5, 40, shape, generator=generator)  # noqa: E731
    real = torch.arange(width) < ends
    given = {"input_ids": draw(rows, width), "target_ids": draw(rows, count), "pseudo_ids": draw(rows, count)}
    given |= {} if bool(real.all()) else {"attention_mask": real.long()}
    model = made(config("post-norm with types"))
    torch.testing.assert_close(model(given).encoder_hidden, dense(model, given), atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_row_alone_has_the_states_that_it_has_in_a_batch(kind):
    model, given = made(config(kind)), batch()
    together = model(given).encoder_hidden
    for row, real in enumerate((7, 4, 2)):
        alone = {name: tensor[row : row + 1] for name, tensor in given.items() if name != "attention_mask"}
        alone["input_ids"] = alone["input_ids"][:, :real]
        torch.testing.assert_close(model(alone).encoder_hidden[0], together[row], atol=2e-6, rtol=1e-5)


def test_nothing_of_a_token_or_what_follows_it_reaches_its_pseudo_token():
    """Changing target token p moves pseudo states after p alone, and the states of nothing before it."""
    model, given = made(config("both")), batch()
    before = model(given).encoder_hidden
    for place in range(5):
        target = given["target_ids"].clone()
        target[:, place] = 5 + (target[:, place] - 4) % 35
        moved = (model({**given, "target_ids": target}).encoder_hidden != before).any(-1)
        assert not moved[:, : place + 1].any()
        assert moved[:, place + 1 :].all()


def test_recomputed_layers_have_the_same_gradients():
    model, given = made(config("both")).train(), batch()

    def gradients():
        loss = model(given).encoder_hidden.square().sum()
        return torch.autograd.grad(loss, [p for name, p in model.named_parameters() if not name.startswith("mlm.")])

    stored = gradients()
    model.checkpoint_layers()
    for one, other in zip(stored, gradients(), strict=True):
        assert torch.equal(one, other)


def test_more_positions_than_the_model_has_are_refused():
    with pytest.raises(ValueError, match="a row of 12 tokens exceeds the model's 11 positions"):
        pack(batch(), config(max_positions=11))

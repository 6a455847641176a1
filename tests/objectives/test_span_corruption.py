"""Span corruption: source and target together are the window, rows are full, and the denoisers of UL2 are values."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from megas2s.objectives.base import Shape
from megas2s.objectives.span_corruption import SpanCorruption, pieces
from megas2s.rng import generator

from .conftest import EOS, PAD, make_vocabulary

SENTINELS = tuple(range(100, 128))


def vocabulary(**changes):
    return make_vocabulary(**{"sentinels": SENTINELS, "ordinary": np.arange(8, 90, dtype=np.int32), **changes})


def corrupt(objective, tokens, shape, seed=0):
    return objective.corrupt(np.asarray(tokens), generator(seed, "test"), shape, 0)


def window_or_refusal(objective: SpanCorruption, shape: Shape) -> tuple[int | None, str]:
    try:
        return objective.window_size(shape), ""
    except ValueError as refused:
        return None, str(refused)


def restored(source: list[int], target: list[int]) -> list[int]:
    """The window that a source and a target together hold."""
    spans, current = {}, None
    for token in target:
        if token in SENTINELS:
            current = spans.setdefault(token, [])
        else:
            current.append(token)
    found = []
    for token in source:
        found += spans.pop(token) if token in SENTINELS else [token]
    assert not spans
    return found


def test_the_example_of_the_head_of_the_module():
    shape = Shape(vocabulary(), 32, 32)
    example = corrupt(SpanCorruption(noise_density=3 / 8, mean_span_length=1.5), range(10, 18), shape)
    source, target = example["input_ids"].tolist(), example["labels"].tolist()
    assert (source[-1], target[-1]) == (EOS, EOS)
    assert [token for token in source if token in SENTINELS] == [100, 101]
    assert target[0] == 100
    assert restored(source[:-1], target[:-1]) == list(range(10, 18))
    assert example["decoder_input_ids"].tolist() == [EOS, *target[:-1]]


@given(
    source=st.integers(8, 300),
    target=st.integers(4, 300),
    density=st.floats(0.05, 0.9),
    mean=st.floats(1, 8),
    mode=st.sampled_from([None, 0, 2]),
    placement=st.sampled_from(["spread", "end"]),
    seed=st.integers(0, 99),
)
def test_rows_have_the_lengths_promised_and_hold_the_window(source, target, density, mean, mode, placement, seed):
    objective = SpanCorruption(noise_density=density, mean_span_length=mean, mode=mode, placement=placement)
    shape = Shape(vocabulary(), source, target)
    tokens, said = window_or_refusal(objective, shape)
    if tokens is None:
        assert "needs" in said or "takes no token" in said
        return
    lengths = objective.row_lengths(tokens, shape)
    assert lengths.full
    assert lengths.source <= source
    assert lengths.target <= target
    window = np.arange(tokens) % 80 + 8
    example = corrupt(objective, window, shape, seed)
    assert (len(example["input_ids"]), len(example["labels"])) == lengths[:2]
    body = example["input_ids"].tolist()[:-1]
    if mode is not None:
        assert body.pop(0) == SENTINELS[-1 - mode]
    assert restored(body, example["labels"].tolist()[:-1]) == window.tolist()


def test_t5_s_rows_of_512_and_114_come_from_windows_of_568():
    objective = SpanCorruption()
    shape = Shape(make_vocabulary(size=256, sentinels=tuple(range(128, 228))), 512, 114)
    assert objective.window_size(shape) == 568
    assert objective.row_lengths(568, shape)[:2] == (512, 114)


def test_a_window_begins_with_what_stays_and_ends_with_a_span():
    shape = Shape(vocabulary(), 64, 64)
    for seed in range(20):
        example = corrupt(SpanCorruption(noise_density=0.3), range(8, 48), shape, seed)
        assert example["input_ids"][0] == 8
        assert example["input_ids"][-2] in SENTINELS


def test_pieces_are_uniform_among_all_ways_to_cut():
    rng = generator(0, "pieces")
    counts = Counter(tuple(pieces(rng, 5, 3)) for _ in range(6000))
    assert len(counts) == 6
    assert all(abs(count - 1000) < 150 for count in counts.values())
    assert pieces(rng, 4, 4).tolist() == [1, 1, 1, 1]
    assert pieces(rng, 1, 1).tolist() == [1]


def test_one_span_that_ends_the_window_continues_a_text():
    shape = Shape(vocabulary(), 64, 64)
    objective = SpanCorruption(placement="end", noise_density=0.25, mode=2)
    example = corrupt(objective, range(10, 50), shape)
    assert example["input_ids"].tolist() == [SENTINELS[-3], *range(10, 40), 100, EOS]
    assert example["labels"].tolist() == [100, *range(40, 50), EOS]


def test_a_decoder_that_starts_from_padding_does():
    shape = Shape(vocabulary(), 32, 32, "pad")
    assert corrupt(SpanCorruption(), range(10, 30), shape)["decoder_input_ids"][0] == PAD


def test_a_tokenizer_without_enough_sentinels_is_refused():
    for sentinels, mode in (((), None), (SENTINELS[:1], 0)):
        shape = Shape(make_vocabulary(sentinels=sentinels), 64, 64)
        with pytest.raises(ValueError, match="needs 1 sentinels for the shortest windows, and the tokenizer has 0 for"):
            SpanCorruption(mode=mode).window_size(shape)


def test_windows_are_no_longer_than_sentinels_allow():
    shape = Shape(vocabulary(), 512, 512)
    objective = SpanCorruption()
    tokens = objective.window_size(shape)
    assert objective.spans(tokens)[1] == len(SENTINELS) < objective.spans(tokens + 10)[1]


def test_too_few_sentinels_for_full_rows_are_announced_once(caplog):
    shape = Shape(vocabulary(sentinels=SENTINELS[:13]), 512, 512)
    objective, without_bound = SpanCorruption(), Shape(vocabulary(sentinels=tuple(range(1000))), 512, 512)
    with caplog.at_level("INFO"):
        fitting = objective.window_size(without_bound)
        assert not caplog.records
        tokens = {objective.window_size(shape) for _ in range(3)}.pop()
    assert [record.getMessage() for record in caplog.records] == [
        f"span_corruption: 13 sentinels for spans allow windows of {tokens} tokens, rows have room for {fitting}; a "
        "tokenizer with more sentinels fills them"
    ]


@pytest.mark.parametrize("values", [{"noise_density": 1.0}, {"mean_span_length": 0.5}, {"mode": -1}])
def test_bad_values_are_refused(values):
    with pytest.raises(ValueError, match=next(iter(values))):
        SpanCorruption(**values)

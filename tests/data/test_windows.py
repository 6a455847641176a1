"""Windows: where each lies, that none is copied, and what is refused."""

from __future__ import annotations

import pickle
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from megas2s.data import windows as windows_module
from megas2s.data.windows import Windows, require_windows, units
from megas2s.errors import BadData


class Shard(NamedTuple):
    tokens: int
    language: str = "en"
    source: str = "web"


def counting(shard: Shard) -> np.ndarray:
    return np.arange(shard.tokens, dtype=np.uint16)


def never(shard: Shard) -> np.ndarray:
    raise AssertionError("a shard was opened")


@pytest.fixture(autouse=True)
def nothing_open():
    windows_module._tokens.cache_clear()


def test_windows_follow_each_other_and_drop_the_tail_of_a_shard():
    windows = Windows([Shard(1000), Shard(70), Shard(512)], 256, counting)
    assert [windows.locate(i) for i in range(len(windows))] == [(0, 0), (0, 256), (0, 512), (2, 0), (2, 256)]
    assert windows[4].tolist() == list(range(256, 512))


@given(counts=st.lists(st.integers(0, 10**13), min_size=1, max_size=30), size=st.integers(1, 4096), data=st.data())
def test_every_window_lies_inside_one_shard_at_any_size(counts, size, data):
    windows = Windows([Shard(count) for count in counts], size, never)
    assert windows._first[-1] == sum(count // size for count in counts)
    if windows._first[-1]:
        shard, start = windows.locate(data.draw(st.integers(0, windows._first[-1] - 1)))
        assert start % size == 0
        assert start + size <= counts[shard]


def test_a_window_is_a_view_on_what_the_shard_gave():
    tokens = np.arange(100, dtype=np.uint16)
    assert np.shares_memory(Windows([Shard(100)], 10, lambda shard: tokens)[3], tokens)


def test_shards_open_when_first_read_and_once():
    opened = []
    windows = Windows([Shard(10), Shard(20)], 10, lambda shard: opened.append(shard) or counting(shard))
    assert opened == []
    for index in (1, 2, 1):
        windows[index]
    assert opened == [Shard(20)]


def test_the_number_of_open_shards_is_bounded():
    windows = Windows([Shard(10 + i) for i in range(windows_module.OPEN_SHARDS + 9)], 10, counting)
    for index in range(len(windows)):
        windows[index]
    assert windows_module._tokens.cache_info().currsize == windows_module.OPEN_SHARDS


def test_windows_travel_to_a_worker_without_their_maps():
    windows = Windows([Shard(100_000)], 10, counting)
    windows[0]
    assert len(pickle.dumps(windows)) < 1000


@pytest.mark.parametrize("index", [-1, 3])
def test_windows_outside_are_refused(index):
    with pytest.raises(IndexError):
        Windows([Shard(30)], 10, counting)[index]


def test_shards_are_grouped_by_language_and_source():
    shards = [Shard(5, "fr"), Shard(30), Shard(9, "en", "books"), Shard(12)]
    found = units(shards, 10, counting)
    assert [(unit.name, unit.tokens, len(unit.windows)) for unit in found] == [
        ("en/books", 9, 0),
        ("en/web", 42, 4),
        ("fr/web", 5, 0),
    ]


def test_a_language_without_a_window_is_refused_by_name():
    with pytest.raises(BadData, match="'fr' of source 'web' has 19 tokens and no shard of 10 or more"):
        require_windows(units([Shard(30), Shard(9, "fr"), Shard(9, "fr"), Shard(1, "fr")], 10, counting))


def test_a_shard_that_holds_other_than_promised_is_refused():
    with pytest.raises(BadData, match="holds 3 tokens instead of 30"):
        Windows([Shard(30)], 10, lambda shard: np.arange(3))[0]

"""Windows: where each lies, that none is copied, and what is refused."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from megas2s.data import windows as windows_module
from megas2s.data.shards import ShardEntry, ShardMeta, write_shard
from megas2s.data.windows import Windows, require_windows, units
from megas2s.errors import BadData


def fake(tokens: int, language: str = "en", source: str = "web") -> ShardEntry:
    path = Path(f"{language}/{source}-{tokens}.arrow")
    return ShardEntry(
        path=path, language=language, source=source, documents=1, tokens=tokens, bytes=0, sha256="", fingerprint=""
    )


def counting(shard: ShardEntry) -> np.ndarray:
    return np.arange(shard.tokens, dtype=np.uint16)


def never(shard: ShardEntry) -> np.ndarray:
    raise AssertionError("a shard was opened")


@pytest.fixture(autouse=True)
def nothing_open():
    windows_module._tokens.cache_clear()


def test_windows_follow_each_other_and_drop_the_tail_of_a_shard():
    windows = Windows([fake(1000), fake(70), fake(512)], 256, counting)
    assert [windows.locate(i) for i in range(len(windows))] == [(0, 0), (0, 256), (0, 512), (2, 0), (2, 256)]
    assert windows[4].tolist() == list(range(256, 512))


@given(counts=st.lists(st.integers(0, 10**13), min_size=1, max_size=30), size=st.integers(1, 4096), data=st.data())
def test_every_window_lies_inside_one_shard_at_any_size(counts, size, data):
    windows = Windows([fake(count) for count in counts], size, never)
    assert windows._first[-1] == sum(count // size for count in counts)
    if windows._first[-1]:
        shard, start = windows.locate(data.draw(st.integers(0, windows._first[-1] - 1)))
        assert start % size == 0
        assert start + size <= counts[shard]


def test_a_window_is_a_view_on_what_the_shard_gave():
    tokens = np.arange(100, dtype=np.uint16)
    assert np.shares_memory(Windows([fake(100)], 10, lambda shard: tokens)[3], tokens)


def test_shards_open_when_first_read_and_once():
    opened = []
    windows = Windows([fake(10), fake(20)], 10, lambda shard: opened.append(shard) or counting(shard))
    assert opened == []
    for index in (1, 2, 1):
        windows[index]
    assert opened == [fake(20)]


def test_the_number_of_open_shards_is_bounded():
    windows = Windows([fake(10, source=str(i)) for i in range(windows_module.OPEN_SHARDS + 9)], 10, counting)
    for index in range(len(windows)):
        windows[index]
    assert windows_module._tokens.cache_info().currsize == windows_module.OPEN_SHARDS


def test_windows_travel_to_a_worker_without_their_maps():
    windows = Windows([fake(100_000)], 10, counting)
    windows[0]
    assert len(pickle.dumps(windows)) < 2000


@pytest.mark.parametrize("index", [-1, 3])
def test_windows_outside_are_refused(index):
    with pytest.raises(IndexError):
        Windows([fake(30)], 10, counting)[index]


def test_shards_are_grouped_by_language_and_source():
    shards = [fake(5, "fr"), fake(30), fake(9, "en", "books"), fake(12)]
    found = units(shards, 10, counting)
    assert [(unit.name, unit.tokens, len(unit.windows)) for unit in found] == [
        ("en/books", 9, 0),
        ("en/web", 42, 4),
        ("fr/web", 5, 0),
    ]


def test_a_language_without_a_window_is_refused_by_name():
    with pytest.raises(BadData, match="'fr' of source 'web' has 19 tokens and no shard of 10 or more"):
        require_windows(units([fake(30), fake(9, "fr"), fake(9, "fr"), fake(1, "fr")], 10, counting))


def test_a_shard_that_holds_other_than_promised_is_refused():
    with pytest.raises(BadData, match=r"web-30.arrow holds 3 tokens instead of 30"):
        Windows([fake(30)], 10, lambda shard: np.arange(3))[0]


def test_windows_of_a_real_shard_are_its_tokens(tmp_path):
    meta = ShardMeta(language="en", source="web", fingerprint="x", separator=5)
    ids = np.array([*range(10, 29), 5], dtype=np.uint16)
    entry = write_shard(tmp_path / "web.arrow", np.array([20]), [ids], dtype=ids.dtype, meta=meta)
    (unit,) = units([entry], 8)
    assert [unit.windows[i].tolist() for i in range(2)] == [list(range(10, 18)), list(range(18, 26))]
    assert not unit.windows[0].flags.owndata

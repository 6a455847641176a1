"""The held-out set: fixed rows and noise, each counted once, as many passes on every rank."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from megas2s.data.heldout import heldout_batches, heldout_rows
from megas2s.data.loader import Columns
from megas2s.data.shards import ShardEntry
from megas2s.data.windows import units
from megas2s.labels import IGNORED

COLUMNS = Columns(10, 10, True, 1)
LANGUAGES = ["de", "en"]


def open_tokens(shard):
    base = {"books": 1000, "web": 2000}[shard.source] + {"de": 0, "en": 5000}[shard.language]
    return base + np.arange(shard.tokens, dtype=np.uint16)


def noisy(tokens, rng, number):
    return {"input_ids": tokens.astype(np.int64), "labels": rng.integers(1000, size=10)}


@pytest.fixture
def make_rows():
    def make(*, rows_per_language=4, languages=LANGUAGES, seed=3):
        entries = [
            ShardEntry(
                path=Path(), language=name, source=source, documents=1, tokens=n, bytes=0, sha256="", fingerprint=""
            )
            for name, source, n in [("de", "books", 25), ("de", "web", 39), ("en", "web", 300)]
        ]
        return heldout_rows(
            units(entries, 10, open_tokens), noisy, languages=languages, rows_per_language=rows_per_language, seed=seed
        )

    return make


def contents(rows):
    return [(row.language, *row.example["input_ids"], *row.example["labels"]) for row in rows]


def test_rows_and_noise_are_the_same_every_time(make_rows):
    assert contents(make_rows()) == contents(make_rows())
    assert contents(make_rows()) != contents(make_rows(seed=4))


def test_more_rows_begin_with_the_fewer(make_rows):
    few, many = ([row for row in contents(make_rows(rows_per_language=n)) if row[0] == 1] for n in (3, 6))
    assert many[:3] == few


def test_a_language_gives_windows_of_all_its_sources_once_and_no_more_than_it_has(make_rows):
    rows = make_rows(rows_per_language=100)
    german = sorted(int(row.example["input_ids"][0]) for row in rows if row.language == 0)
    assert german == [1000, 1010, 2000, 2010, 2020]
    assert sum(row.language == 1 for row in rows) == 30


def test_a_language_without_held_out_text_is_named(make_rows, caplog):
    with caplog.at_level(logging.WARNING):
        rows = make_rows(languages=["de", "en", "sw"])
    assert {row.language for row in rows} == {0, 1}
    assert "no window of language sw" in caplog.text


@pytest.mark.parametrize(("ranks", "micro_batch"), [(1, 8), (1, 3), (2, 3), (3, 2), (4, 8)])
def test_every_row_counts_once_and_every_rank_makes_as_many_passes(make_rows, ranks, micro_batch):
    rows = make_rows()
    shares = [
        heldout_batches(rows, COLUMNS, micro_batch=micro_batch, rank=rank, world_size=ranks) for rank in range(ranks)
    ]
    assert len({len(share) for share in shares}) == 1
    batches = [batch for share in shares for batch in share]
    assert {len(batch["sample"]) for batch in batches} == {micro_batch}
    counted = sorted(
        (int(sample), int(language), *ids.tolist(), *labels.tolist())
        for batch in batches
        for sample, language, ids, labels in zip(
            batch["sample"], batch["language"], batch["input_ids"], batch["labels"], strict=True
        )
        if (labels != IGNORED).any()
    )
    assert counted == [(number, *row) for number, row in enumerate(contents(rows))]
    fillers = [batch["labels"][batch["sample"] == -1] for batch in batches]
    assert all((labels == IGNORED).all() for labels in fillers)


def test_nothing_held_out_gives_no_batch():
    assert heldout_batches([], COLUMNS, micro_batch=2) == []

"""Statistics of a corpus against counting by hand."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest

from megas2s.data import statistics
from megas2s.data.corpus import Corpus
from megas2s.data.mixture import Sampling
from megas2s.data.shards import Shard
from megas2s.tokenizer.load import Tokenizer


@pytest.fixture(scope="module")
def corpus(corpus_folder) -> Corpus:
    return Corpus.open(corpus_folder)


def test_every_token_of_a_language_is_counted_except_what_ends_documents(corpus, monkeypatch):
    monkeypatch.setattr(statistics, "CHUNK", 1000)
    size = Tokenizer.load(corpus.tokenizer_folder).vocabulary.size
    counts = statistics.unigrams(corpus, "train", size)
    assert list(counts) == list(corpus.languages)
    for language, own in counts.items():
        expected = Counter()
        for entry in corpus.shards("train", language=language):
            expected.update(Shard.open(entry).tokens.tolist())
        assert expected.pop(corpus.separator) == sum(e.documents for e in corpus.shards("train", language=language))
        assert {token: count for token, count in enumerate(own.tolist()) if count} == expected


def test_entropy_is_that_of_coins_and_dice():
    assert statistics.entropy(np.array([5, 0, 5])) == pytest.approx(math.log(2))
    assert statistics.entropy(np.ones(6)) == pytest.approx(math.log(6))
    assert statistics.entropy(np.array([0.0, 3.0])) == 0


def test_languages_are_mixed_by_their_shares_and_not_by_their_counts():
    counts = {"a": np.array([9, 1, 0]), "b": np.array([0, 0, 2])}
    mixed = statistics.mixed(counts, {"a": 0.25, "b": 0.75})
    assert mixed == pytest.approx([0.225, 0.025, 0.75])


@pytest.mark.parametrize("alpha", [0.0, 0.5, 1.0])
def test_shares_are_tokens_to_the_power_alpha(corpus, alpha):
    share = statistics.shares(corpus, Sampling(alpha=alpha))
    tokens = {language: sum(e.tokens for e in corpus.shards("train", language=language)) for language in share}
    total = sum(count**alpha for count in tokens.values())
    assert share == pytest.approx({language: count**alpha / total for language, count in tokens.items()}, abs=1e-9)


def test_the_tool_prints_a_row_a_language_and_their_mixture(corpus_folder, script):
    printed = script("tools/corpus_stats.py", corpus_folder).stdout.splitlines()
    assert [line.split()[0] for line in printed[1:]] == ["ar", "en", "sw", "zh", "all"]
    by_language = [float(line.split()[-1]) for line in printed[1:-1]]
    assert float(printed[-1].split()[-1]) > max(by_language)
    assert "100.00%" in printed[-1]


def test_the_tool_refuses_an_alpha_that_is_none(corpus_folder, script):
    result = script("tools/corpus_stats.py", corpus_folder, "--alpha", 2)
    assert result.returncode == 2
    assert result.stdout == "error: --alpha: alpha must lie in [0, 1], got 2.0\n"

"""A tokenizer that is there at once, and facts about a small model."""

from __future__ import annotations

from pathlib import Path

import pytest

from megas2s.methods.base import Facts
from megas2s.tokenizer.load import Tokenizer


@pytest.fixture(scope="session")
def tokenizer(corpus_folder: Path) -> Tokenizer:
    return Tokenizer.load(corpus_folder / "tokenizer")


@pytest.fixture
def facts(tokenizer):
    """`facts(labels, length=16)`."""

    def make(labels=(), *, length=16, is_seq2seq=False, typed=False) -> Facts:
        return Facts(tokenizer, length, 12, "eos", is_seq2seq, tuple(labels), typed)

    return make

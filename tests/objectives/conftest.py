"""A small vocabulary, windows of it, and a model's output that any loss can be computed from by hand."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from megas2s.models.output import ModelOutput, TokenLoss
from megas2s.objectives.base import Shape
from megas2s.tokenizer.vocab import Vocabulary

SIZE = 128
FIRST = 8  # first id of ordinary text; 20 ... 23 close sentences, even ids open words
PAD, EOS, MASK, DOC, CLM_TOKEN = 1, 2, 4, 5, 6


def make_vocabulary(**changes) -> Vocabulary:
    ids = np.arange(SIZE)
    facts = {
        "size": SIZE,
        "pad": PAD,
        "eos": EOS,
        "unk": 3,
        "bos": 0,
        "mask": MASK,
        "doc": DOC,
        "clm": CLM_TOKEN,
        "languages": {"en": 7},
        "sentinels": (126, 127),
        "ordinary": np.arange(FIRST, 120, dtype=np.int32),
        "word_starts": ids % 2 == 0,
        "sentence_ends": (ids >= 20) & (ids < 24),
        "fingerprint": "test",
    }
    return Vocabulary(**{**facts, **changes})


@pytest.fixture
def vocabulary():
    return make_vocabulary()


@pytest.fixture
def shape(vocabulary):
    return Shape(vocabulary, source_length=64, target_length=64)


@pytest.fixture
def make_tokens():
    """Random ordinary tokens, with a [DOC] at the places given."""

    def make(count, *, docs=(), seed=0):
        tokens = np.random.default_rng(seed).integers(FIRST, 120, size=count).astype(np.uint16)
        tokens[list(docs)] = DOC
        return tokens

    return make


@pytest.fixture
def make_output():
    """An output with random states and one fixed projection, its loss computed by plain cross-entropy."""

    def make(rows, source, target=0, *, seed=0):
        torch.manual_seed(seed)
        weight = torch.randn(SIZE, 5)

        def loss(hidden, labels):
            each = F.cross_entropy(hidden @ weight.T, labels, reduction="none", ignore_index=-100)
            return TokenLoss(each.sum(), each.detach(), each.detach())

        encoder = torch.randn(rows, source, 5, requires_grad=True)
        decoder = torch.randn(rows, target, 5, requires_grad=True) if target else None
        return ModelOutput(encoder, decoder, None if target else loss, loss if target else None), weight

    return make

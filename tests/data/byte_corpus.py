"""Corpora made with the byte tokenizer, and the texts that are in them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from byte_tokenizer import FIRST, Bytes

from megas2s.data.inputs import Inputs
from megas2s.data.preprocess import Choices, CorpusTokenizer, preprocess
from megas2s.data.shards import Shard
from megas2s.data.tokenise import Ids

SEPARATOR = 5


def copy_tokenizer(folder):
    folder.mkdir()
    (folder / "model").write_text("bytes")


TOKENIZER = CorpusTokenizer("bytes", Ids(SEPARATOR, np.dtype(np.uint16)), Bytes, copy_tokenizer)
KEEP_ALL = Choices(deduplicate=False, held_out=0)


def make(inputs, folder, *, choices=KEEP_ALL, tokenizer=TOKENIZER, workers=1, **settings):
    inputs = [Inputs(paths=(str(inputs),))] if isinstance(inputs, Path) else inputs
    return preprocess(inputs, folder, tokenizer=tokenizer, choices=choices, workers=workers, **settings)


def texts(corpus, split="train", language=None):
    found = []
    for entry in corpus.entries[split]:
        if language in (None, entry.language):
            shard = Shard.open(entry)
            for start, end in zip(shard.document_offsets[:-1], shard.document_offsets[1:], strict=True):
                assert shard.tokens[end - 1] == SEPARATOR
                found.append(bytes((shard.tokens[start : end - 1] - FIRST).astype(np.uint8)).decode())
    return found


def content(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}

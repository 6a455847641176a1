"""Made-up text and corpora: the cost of a step or a batch depends on shapes, not on what the text says."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from megas2s.data.corpus import Corpus, write_corpus
from megas2s.data.shards import ShardMeta, write_shard
from megas2s.rng import generator
from megas2s.tokenizer.vocab import Vocabulary

DOCUMENT = 600  # tokens


def tokens(count: int, vocabulary: Vocabulary, *address: int | str) -> np.ndarray:
    """Random ids of text."""
    return generator(0, "bench", *address).choice(vocabulary.ordinary, count)


def corpus(
    folder: Path, vocabulary: Vocabulary, *, languages: int = 4, shards: int = 2, documents: int = 2000
) -> Corpus:
    """A corpus of random ids, each document ending in [DOC]; written once."""
    name = f"corpus-{vocabulary.size}-{languages}-{shards}-{documents}"
    if (folder / name / "corpus.json").is_file():
        return Corpus.open(folder / name)
    entries = []
    for number in range(languages * shards):
        language = f"l{chr(ord('a') + number // shards)}"
        ids = tokens(documents * DOCUMENT, vocabulary, "corpus", number)
        ids[DOCUMENT - 1 :: DOCUMENT] = vocabulary.doc
        meta = ShardMeta(language=language, source="text", fingerprint=vocabulary.fingerprint, separator=vocabulary.doc)
        path = folder / name / "train" / language / f"text-{number % shards:05d}.arrow"
        lengths = np.full(documents, DOCUMENT)
        entries.append(write_shard(path, lengths, [ids], dtype=vocabulary.dtype, meta=meta))
    splits = {"train": entries}
    return write_corpus(folder / name, splits, fingerprint=vocabulary.fingerprint, separator=vocabulary.doc, record={})

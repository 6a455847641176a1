"""A corpus: a folder of shards, the tokenizer that made them, and `corpus.json`, written last.

    corpus.json                       what is here; its presence means the corpus is complete
    tokenizer/                        a copy of the tokenizer, so that a corpus needs nothing else
    train/<language>/<source>-00000.arrow
    heldout/<language>/<source>-00000.arrow

Nothing in `corpus.json` depends on the machine, the time or the number of processes that made it.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Literal

from megas2s.data.shards import ShardEntry, check_size, verify_shard
from megas2s.errors import BadConfig, BadData
from megas2s.files import read_json, write_json

log = logging.getLogger(__name__)

FORMAT = "megas2s-corpus-1"
MARKER = "corpus.json"
TOKENIZER = "tokenizer"
SPLITS = ("train", "heldout")
Split = Literal["train", "heldout"]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Corpus:
    """A complete corpus, as its `corpus.json` describes it; opens no shard."""

    folder: Path
    fingerprint: str  # of the tokenizer
    separator: int  # the id that ends every document
    entries: Mapping[str, tuple[ShardEntry, ...]]  # split -> shards in order of language, source and number
    record: Mapping[str, Any]  # how it was made: arguments, inputs, documents dropped by reason

    @classmethod
    def open(cls, folder: Path) -> Corpus:
        """Read `corpus.json`; raises BadConfig where there is no corpus and BadData where one is damaged."""
        marker = folder / MARKER
        if not folder.is_dir():
            raise BadConfig(f"there is no corpus at {folder}; tools/preprocess.py makes one")
        if not marker.is_file():
            raise BadData(f"{folder} has no {MARKER}: its preprocessing was never finished; the same command continues")
        try:
            facts = read_json(marker)
            if facts["format"] != FORMAT:
                raise BadData(f"{marker} has format {facts['format']!r}, this version reads {FORMAT!r}")
            fingerprint = str(facts["fingerprint"])
            entries = {
                split: tuple(_entry(folder, fingerprint, shard) for shard in facts["splits"][split]) for split in SPLITS
            }
            return cls(
                folder=folder,
                fingerprint=fingerprint,
                separator=int(facts["separator"]),
                entries=entries,
                record=facts["record"],
            )
        except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError, ValueError):
            raise BadData(f"{marker} is damaged; restore it from a copy or preprocess again") from None

    @property
    def tokenizer_folder(self) -> Path:
        """The corpus' own copy of its tokenizer."""
        return self.folder / TOKENIZER

    @property
    def languages(self) -> tuple[str, ...]:
        """Every language with training documents, sorted."""
        return tuple(sorted({entry.language for entry in self.entries["train"]}))

    @property
    def digest(self) -> str:
        """A short hash of all ids in the corpus: equal digests, equal shards."""
        digest = hashlib.sha256()
        for split in SPLITS:
            for entry in self.entries[split]:
                digest.update(f"{split} {entry.language} {entry.source} {entry.sha256}\n".encode())
        return digest.hexdigest()[:16]

    def shards(self, split: Split = "train", *, language: str | None = None) -> tuple[ShardEntry, ...]:
        """The shards of a split, of all languages or of one, which must be there."""
        entries = self.entries[split]
        if language is None:
            return entries
        chosen = tuple(entry for entry in entries if entry.language == language)
        if not chosen:
            found = ", ".join(sorted({entry.language for entry in entries})) or "no language"
            raise BadData(f"{self.folder} has no {split} documents of language {language!r}; it has {found}")
        return chosen


def write_corpus(
    folder: Path,
    entries: Mapping[str, Sequence[ShardEntry]],
    *,
    fingerprint: str,
    separator: int,
    record: Mapping[str, Any],
) -> Corpus:
    """Declare a corpus complete: write its `corpus.json`, once all shards and the tokenizer are in place."""
    write_json(
        folder / MARKER,
        {
            "format": FORMAT,
            "fingerprint": fingerprint,
            "separator": separator,
            "record": record,
            "splits": {split: [_plain(folder, entry) for entry in entries.get(split, ())] for split in SPLITS},
        },
    )
    return Corpus.open(folder)


def check_sizes(corpus: Corpus) -> None:
    """Raise BadData where a shard is missing or not as long as it was written; opens none."""
    for entry in _all(corpus):
        check_size(entry)


def verify_corpus(corpus: Corpus) -> None:
    """Check every byte of every shard; raises BadData naming the first damaged file."""
    _verify(_all(corpus))


def verify_changed(corpus: Corpus, memory: Path) -> None:
    """As `verify_corpus`, but of shards that are as `memory`, a file written here, last saw them only the size."""
    seen = {entry: f"{check_size(entry).st_mtime_ns} {entry.sha256}" for entry in _all(corpus)}
    try:
        known: dict[str, str] = read_json(memory)["shards"]
    except (OSError, ValueError, KeyError, TypeError):
        known = {}
    changed = [entry for entry, facts in seen.items() if known.get(str(entry.path)) != facts]
    if not changed:
        return
    log.info("reading %d shards, %.3g GB, once", len(changed), sum(entry.bytes for entry in changed) / 1e9)
    _verify(changed)
    write_json(memory, {"shards": {str(entry.path): facts for entry, facts in seen.items()}})


def _all(corpus: Corpus) -> list[ShardEntry]:
    return [entry for split in SPLITS for entry in corpus.entries[split]]


def _verify(entries: Sequence[ShardEntry]) -> None:
    pool = ThreadPoolExecutor()  # hashing lets go of the interpreter
    try:
        for _ in pool.map(verify_shard, entries):
            pass
    finally:
        pool.shutdown(cancel_futures=True)


def _plain(folder: Path, entry: ShardEntry) -> dict[str, Any]:
    facts = dataclasses.asdict(entry)
    del facts["fingerprint"]  # said once, for the whole corpus
    return {**facts, "path": entry.path.relative_to(folder).as_posix()}


def _entry(folder: Path, fingerprint: str, facts: Mapping[str, Any]) -> ShardEntry:
    path = folder / facts["path"]
    if not path.resolve().is_relative_to(folder.resolve()):
        raise BadData(f"{folder / MARKER} names {facts['path']!r}, which lies outside the corpus")
    return ShardEntry(**{**facts, "path": path, "fingerprint": fingerprint})

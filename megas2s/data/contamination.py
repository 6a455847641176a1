"""Training text that holds evaluation text: found by the runs of 13 words they share (AlexaTM 20B, section 4.1).

    count = write_grams(["evaluation/"], path)       once: hashes of all runs of 13 words, sorted, in a file
    Contamination(path).taints(text)                 in every worker

The file is mapped, not read: 8 bytes for each run of words, shared by all processes of a machine.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import logging
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
import zstandard

from megas2s.data.arrays import load_array, save_array
from megas2s.data.words import grams
from megas2s.errors import BadData
from megas2s.files import disk_trouble, sync_folder

WORDS = 13
FEW = 5  # names that are listed
SUFFIXES = (".txt", ".jsonl", ".csv", ".parquet", ".txt.gz", ".jsonl.gz", ".txt.zst", ".jsonl.zst")

log = logging.getLogger(__name__)


class Contamination:
    """The runs of words of evaluation files, as `write_grams` left them."""

    def __init__(self, path: Path) -> None:
        self._grams = load_array(path, path.parent.parent, mode="r")  # it lies in the corpus' .staging

    def taints(self, text: str) -> bool:
        """Whether the text has 13 words in a row that an evaluation text has."""
        found = grams(text, WORDS)
        if not len(found) or not len(self._grams):
            return False
        places = np.searchsorted(self._grams, found)
        places[places == len(self._grams)] = 0
        return bool((self._grams[places] == found).any())


def evaluation_files(paths: Sequence[str]) -> list[Path]:
    """The files named, and those in the folders named, by name; raises BadData where there are none.

    Files of a folder that cannot be read are told of: their texts will not be looked for.
    """
    found: list[Path] = []
    for path in map(Path, paths):
        files = [path] if path.is_file() else sorted(each for each in path.rglob("*") if each.is_file())
        inside = [each for each in files if _suffix(each)]
        others = [str(each.relative_to(path)) for each in files if not _suffix(each)]
        if not inside:
            raise BadData(f"{path}: no evaluation file here; known are {', '.join(SUFFIXES)}, and folders of them")
        if others:
            log.info("%s: files that are not read as evaluation text: %d (%s)", path, len(others), _listed(others))
        found += inside
    return sorted(set(found))


def digest_of(files: Sequence[Path]) -> str:
    """A hash of what all files hold."""
    digest = hashlib.sha256()
    for file in files:
        with open(file, "rb") as content:
            digest.update(hashlib.file_digest(content, "sha256").digest())
    return digest.hexdigest()


def write_grams(files: Sequence[Path], path: Path) -> int:
    """Write the runs of words of all files to `path`; returns how many different ones there are.

    Every text of a line or row counts: each string of a JSON object, at any depth, and each column of strings. What has
    fewer than 13 words cannot be found, which is told.
    """
    found: list[np.ndarray] = []
    texts = short = 0
    for file in files:
        for text in _texts(file):
            runs = grams(text, WORDS)
            texts, short = texts + 1, short + (len(runs) == 0)
            found.append(runs)
        found = [np.unique(np.concatenate(found))] if found else []
    hashes = found[0] if found else np.empty(0, np.uint64)
    with disk_trouble(path):
        save_array(path, hashes)
        sync_folder(path.parent)
    log.info(
        "%d evaluation texts in %d files: %d runs of %d words to look for; %d texts are too short to be found",
        texts,
        len(files),
        len(hashes),
        WORDS,
        short,
    )
    return len(hashes)


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names[:FEW]) + (", ..." if len(names) > FEW else "")


def _suffix(path: Path) -> str | None:
    return next((suffix for suffix in SUFFIXES if path.name.lower().endswith(suffix)), None)


def _texts(file: Path) -> Iterator[str]:
    kind = str(_suffix(file))
    try:
        if kind.startswith((".csv", ".parquet")):
            yield from _columns(file, kind)
            return
        for line in _opened(file, kind):
            if kind.startswith(".txt"):
                yield line
            elif line.strip():
                yield from _strings(json.loads(line))
    except (OSError, ValueError, RecursionError, EOFError, pa.ArrowInvalid, zstandard.ZstdError) as error:
        raise BadData(f"{file} cannot be read as {kind}: {error}") from None


def _opened(file: Path, kind: str) -> Iterable[str]:
    if kind.endswith(".gz"):
        return gzip.open(file, "rt", encoding="utf-8", newline="\n")
    if kind.endswith(".zst"):
        lines: Iterable[str] = zstandard.open(file, "rt", encoding="utf-8", newline="\n")
        return lines
    return open(file, encoding="utf-8", newline="\n")


def _columns(file: Path, kind: str) -> Iterator[str]:
    table = pa.csv.read_csv(file) if kind == ".csv" else pa.parquet.read_table(file)
    for column in table.columns:
        for value in column.to_pylist():
            yield from _strings(value)


def _strings(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for each in value.values() if isinstance(value, dict) else value:
            yield from _strings(each)

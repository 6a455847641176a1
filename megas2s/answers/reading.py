"""Answers beside their references, from a run, from any JSON lines, or from files of text that run in parallel.

    {"language": "en", "source": "...", "answer": "...", "reference": "..."}    a line of runs/x/answers/test.jsonl
    answers.txt, references.txt, sources.txt                                     line n of each belongs together

Where summaries part their sentences by [X_SEP] or <S_SEP>, as those of CNN/DailyMail do, each becomes a line of its
own.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from megas2s.data.records import Record, read_records, read_texts
from megas2s.errors import BadData
from megas2s.metrics.gold import Annotated, corrected, is_m2, read_gold

ALL = "all"  # what all languages together are called, and the language of answers that name none
SOURCE, LANGUAGE = "source", "language"
_SEPARATOR = re.compile(r"\s*(?:\[X_SEP\]|<S_SEP>)\s*")

Line = tuple[int, Record]


class Keys(NamedTuple):
    """What lines call their texts; `source` and `language` are read where lines have them, unless they are named."""

    answer: str = "answer"
    reference: str = "reference"
    source: str | None = None
    language: str | None = None


USUAL = Keys()


class Row(NamedTuple):
    """One answer and what belongs to it."""

    line: int
    language: str
    answer: str
    reference: str
    source: str | None
    gold: Annotated | None = None


class Rows(NamedTuple):
    """All answers that have a reference, and what somebody who reads their scores should know."""

    rows: list[Row]
    notes: tuple[str, ...]


def read(
    answers: Path,
    references: Path | None = None,
    sources: Path | None = None,
    *,
    keys: Keys = USUAL,
    repeats: float | None = None,
) -> Rows:
    """The rows of a file of answers; references and sources are keys of its lines, or lines of other files.

    An .m2 file in place of references has gold edits: its sentences are the sources, and the references are these as
    the first annotator corrects them. With `repeats`, sentences of answers that say again what was said before are left
    out (`without_repeats`).
    """
    lines = _lines(answers, keys.answer)
    source = keys.source or SOURCE
    gold: list[Annotated] = []
    gold_notes: list[str] = []
    if references is not None and is_m2(references):
        lines, gold, gold_notes = _with_gold(answers, lines, references, keys.reference, source)
        references = None
    for path, key in ((references, keys.reference), (sources, source)):
        if path is not None:
            lines = _joined(answers, lines, path, key)
    languages = _languages(answers, lines, keys.language)
    asked, notes = _with_references(answers, lines, languages, keys.reference)
    has_source = keys.source is not None or any(source in lines[place][1] for place in asked)
    rows = []
    for place in asked:
        number, record = lines[place]
        texts = [_text(answers, number, record, key) for key in (keys.answer, keys.reference)]
        read_text = _text(answers, number, record, source) if has_source else None
        answer = texts[0] if repeats is None else without_repeats(texts[0], repeats)
        rows.append(Row(number, languages[place], answer, texts[1], read_text, gold[place] if gold else None))
    for name in ("answer", "reference"):
        if empty := sum(not getattr(row, name).strip() for row in rows):
            notes.append(f"{empty:,} of {len(rows):,} {name}s are empty")
    return Rows(rows, (*gold_notes, *notes))


def without_repeats(text: str, share: float) -> str:
    """A text without those of its lines of which more than `share` of the words were in lines before.

    So s2s-ft treats summaries of CNN/DailyMail, at 0.7; words are what spaces part, in lower case.
    """
    kept, said = [], set[str]()
    for line in text.split("\n"):
        found = set(line.lower().split())
        if not found or len(found & said) / len(found) <= share:
            kept.append(line)
        said |= found
    return "\n".join(kept)


def groups(rows: Sequence[Row]) -> dict[str, list[int]]:
    """Places of rows under `all`, and under each language where there are several."""
    found: dict[str, list[int]] = {}
    for place, row in enumerate(rows):
        found.setdefault(row.language, []).append(place)
    return {ALL: list(range(len(rows))), **(dict(sorted(found.items())) if len(found) > 1 else {})}


def _lines(path: Path, key: str) -> list[Line]:
    """Records by line number; a line of a text file is a record with its text under `key`."""
    if path.name.removesuffix(".gz").endswith((".jsonl", ".tsv", ".csv", ".parquet")):
        return read_records(path)
    texts = read_texts(path)
    if not any(text.strip() for _, text in texts):
        raise BadData(f"{path} holds no text; give a file with some")
    return [(number, {key: text}) for number, text in texts]


def _joined(answers: Path, lines: list[Line], path: Path, key: str) -> list[Line]:
    others = _lines(path, key)
    if len(others) != len(lines):
        raise BadData(
            f"{answers} has {len(lines):,} lines and {path} has {len(others):,}; line n of one belongs to line n of "
            "the other, so they must be as many"
        )
    for number, record in others:
        _text(path, number, record, key)
    return [(number, {**record, key: other[key]}) for (number, record), (_, other) in zip(lines, others, strict=True)]


def _with_gold(
    answers: Path, lines: list[Line], path: Path, reference: str, source: str
) -> tuple[list[Line], list[Annotated], list[str]]:
    """Records with the references and sources of an .m2 file, its sentences, and what is to be known of them."""
    found = read_gold(path)
    if len(found) != len(lines):
        alone = (answers, lines[len(found)][0]) if len(found) < len(lines) else (path, found[len(lines)][0])
        raise BadData(
            f"{answers} has {len(lines):,} lines and {path} has {len(found):,} sentences; line n of one belongs to "
            f"sentence n of the other, and {alone[0]}, line {alone[1]} belongs to none"
        )
    sentences = [sentence for _, sentence in found]
    references, left_out = zip(*map(corrected, sentences), strict=True)
    joined = [
        (number, {**record, reference: text, source: " ".join(sentence.words)})
        for (number, record), text, sentence in zip(lines, references, sentences, strict=True)
    ]
    notes = []
    if several := sum(len(sentence.annotators) > 1 for sentence in sentences):
        notes.append(
            f"{several:,} of {len(sentences):,} sentences have several annotators; m2 knows them all, other metrics "
            "and pages the first of each"
        )
    if sum(left_out):
        notes.append(f"{sum(left_out):,} gold edits overlap others; references are without them, m2 counts them all")
    return joined, sentences, notes


def _languages(path: Path, lines: list[Line], key: str | None) -> list[str]:
    name = key or LANGUAGE
    if key is None and not any(name in record for _, record in lines):
        return [ALL] * len(lines)
    found = [_text(path, number, record, name) for number, record in lines]
    if ALL in found and set(found) != {ALL}:
        number = lines[found.index(ALL)][0]
        raise BadData(
            f"{path}, line {number}: {name!r} is {ALL!r}, which all languages together are called; name it otherwise"
        )
    return found


def _with_references(path: Path, lines: list[Line], languages: list[str], key: str) -> tuple[list[int], list[str]]:
    """The lines of languages that have references, and a note for each of the others, which are answered only."""
    known = {language for language, (_, record) in zip(languages, lines, strict=True) if key in record}
    if not known:
        raise BadData(
            f"{path}, line {lines[0][0]}: no {key!r}; say --reference-key where it is called otherwise, or give a file "
            "of references with --references"
        )
    notes = [
        f"{languages.count(language):,} answers in {language} have no {key!r} and are left out"
        for language in sorted(set(languages) - known)
    ]
    return [place for place, language in enumerate(languages) if language in known], notes


def _text(path: Path, number: int, record: Record, key: str) -> str:
    if key not in record:
        keys = ", ".join(map(repr, record))
        raise BadData(f"{path}, line {number}: no {key!r}; it has {keys}")
    given: Any = record[key]
    if not isinstance(given, str):
        kind = {list: "a list", dict: "an object", bool: "true or false", type(None): "null"}.get(
            type(given), "a number"
        )
        raise BadData(
            f"{path}, line {number}: {key!r} is {kind} and no text; classes, numbers and tags are scored in a run's "
            "results.json"
        )
    return _SEPARATOR.sub("\n", given).strip("\n") if _SEPARATOR.search(given) else given

"""Evaluation of texts: scores with their intervals for each language, and pages to read answers on.

Nothing here loads a model: answers come from files, those of `megas2s.finetune` or anybody's.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from megas2s import files
from megas2s.answers import markdown, page
from megas2s.answers.reading import ALL, Keys, Row, groups, read
from megas2s.answers.report import Metric, Report, Score, spread
from megas2s.errors import BadConfig
from megas2s.metrics.bootstrap import RESAMPLES, interval
from megas2s.metrics.gold import is_m2
from megas2s.metrics.measure import Measure, Texts
from megas2s.metrics.texts import ENGLISH, STANDARD, Choices, measured, names
from megas2s.metrics.tokens import is_unspaced

SCORES, HTML, MARKDOWN = "scores.json", "page.html", "page.md"


@dataclasses.dataclass(frozen=True)
class Request:
    """What is scored, and how."""

    answers: Path
    references: Path | None = None  # files beside that of answers; without, keys of its lines; .m2: gold edits
    sources: Path | None = None
    metrics: Sequence[str] = STANDARD
    answer_key: str = "answer"
    reference_key: str = "reference"
    source_key: str | None = None
    language_key: str | None = None
    bleu_tokenizer: str = "13a"
    stem: bool = False
    drop_repeats: float | None = None
    rows: int = 500  # of each language on the page
    resamples: int = RESAMPLES
    seed: int = 0

    def __post_init__(self) -> None:
        names(self.metrics)
        self.choices.check()
        for name in ("rows", "resamples"):
            if (value := getattr(self, name)) < 1:
                raise BadConfig(f"--{name} must be at least 1, got {value}")
        if self.drop_repeats is not None and not 0 <= self.drop_repeats <= 1:
            raise BadConfig(f"--drop-repeats must lie in [0, 1], got {self.drop_repeats}")
        if self.references is not None and is_m2(self.references) and self.sources is not None:
            raise BadConfig(f"{self.references} holds the sources, too; leave out --sources {self.sources}")

    @property
    def choices(self) -> Choices:
        """What metrics leave open."""
        return Choices(bleu_tokenizer=self.bleu_tokenizer, stem=self.stem)

    @property
    def keys(self) -> Keys:
        """What lines call their texts."""
        return Keys(self.answer_key, self.reference_key, self.source_key, self.language_key)


def evaluate(request: Request) -> Report:
    """Every score of every language, and of all."""
    rows, notes = _rows(request)
    parts, measures = groups(rows), _measures(request, rows)
    notes = (*notes, *_unspaced_notes(rows, parts, request))
    return Report(
        title=str(request.answers),
        rows=rows,
        groups=parts,
        metrics=tuple(Metric(name, found.top, found.signature, found.segments) for name, found in measures.items()),
        scores={
            group: {name: _score(measure, np.asarray(places), request) for name, measure in measures.items()}
            for group, places in parts.items()
        },
        seed=request.seed,
        resamples=request.resamples,
        notes=notes,
    )


def plan(request: Request) -> str:
    """What `evaluate` would score, after reading the files and scoring one answer."""
    rows, notes = _rows(request)
    asked = _measures(request, rows[:1])
    counts = [f"{len(places):,} answers in {group}" for group, places in groups(rows).items() if group != ALL]
    lines = [f"would score {len(rows):,} answers by {', '.join(asked)}", *counts, *(f"note: {note}" for note in notes)]
    return "\n  ".join(lines)


def write(report: Report, folder: Path, *, rows: int) -> None:
    """The scores as JSON, and the pages; files of an earlier evaluation are replaced."""
    files.write_text(folder / HTML, page.page(report, rows))
    files.write_text(folder / MARKDOWN, markdown.page(report))
    files.write_json(folder / SCORES, report.plain())


def _rows(request: Request) -> tuple[list[Row], tuple[str, ...]]:
    rows, notes = read(
        request.answers, request.references, request.sources, keys=request.keys, repeats=request.drop_repeats
    )
    for name in (name for name in names(request.metrics) if name in ENGLISH):
        for row in rows:
            if row.language != ALL and row.language.replace("_", "-").split("-")[0].lower() != "en":
                raise BadConfig(
                    f"{name} knows English alone, and line {row.line} of {request.answers} is {row.language}; "
                    "leave out the metric, or such lines"
                )
    return rows, notes


def _measures(request: Request, rows: Sequence[Row]) -> dict[str, Measure]:
    sources = [row.source for row in rows if row.source is not None]
    gold = [row.gold for row in rows if row.gold is not None]
    texts = Texts([row.answer for row in rows], [row.reference for row in rows], sources or None, gold or None)
    return {name: measured(name, texts, request.choices) for name in names(request.metrics)}


def _score(measure: Measure, places: np.ndarray, request: Request) -> Score:
    value = measure.score(measure.statistics[places].sum(axis=0))
    low, high = interval(measure, places, seed=request.seed, resamples=request.resamples)
    return Score(value, low, high, spread(measure.segments[places], measure.top))


def _unspaced_notes(rows: Sequence[Row], parts: Mapping[str, list[int]], request: Request) -> list[str]:
    """Where BLEU's words are no words."""
    if "bleu" not in names(request.metrics) or request.bleu_tokenizer in ("zh", "char"):
        return []
    return [
        f"{group} is written without spaces, where BLEU's tokenizer {request.bleu_tokenizer} takes phrases for words; "
        "say --bleu-tokenizer char, or zh for Chinese"
        for group, places in parts.items()
        if (group != ALL or len(parts) == 1) and is_unspaced(rows[place].reference for place in places)
    ]

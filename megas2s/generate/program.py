"""Decoding a file: read, write, and put the answers down in the order of the sources. What `launch/decode.py` runs.

    {"answer": "Ein Satz.", "score": -1.2, "source": "A sentence.", "reference": "...", "answers": [...]}    .jsonl
    Ein Satz.                                                                                               .txt

On several ranks each writes its share beside the file, and rank 0 joins them once all are done.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from megas2s import dist, files
from megas2s.data.records import Record, Row, read_file, read_pairs, read_records, unit
from megas2s.data.skipped import Skipped, by_reason, said
from megas2s.decoding.traces import Trace, candidates
from megas2s.errors import BadConfig, BadData, BadRecord
from megas2s.generate.model import Answer, Found, Model
from megas2s.generate.settings import Decoding
from megas2s.methods.base import UNBOUND, Columns, Facts, tokens_of
from megas2s.methods.writing import tagged_language
from megas2s.objectives.base import Example

log = logging.getLogger(__name__)

Line = dict[str, Any]


class Job(NamedTuple):
    """What is decoded, and where to."""

    input: Path
    output: Path
    columns: Columns
    skip_bad_lines: bool = False
    traces: Path | None = None  # where the traces of a beam search go
    language: str | None = None  # of all sources, where no column of them says it


class Read(NamedTuple):
    """Sources, and the lines that are none."""

    records: list[Record]
    examples: list[Example]
    cut: int  # sources that were longer than the model reads
    skipped: list[Skipped]


def read(model: Model, job: Job) -> Read:
    """All sources of a file. BadData where a line is none and is not to be left out, or where no source is left."""
    records, examples = [], []
    skipped: list[Skipped] = []
    cut = 0
    for number, record in _rows(job):
        try:
            if isinstance(record, BadRecord):
                raise record
            language = _language(record, job, model.facts)
            example = model.example(record, job.columns, language=language, length=UNBOUND)
            if len(example["input_ids"]) > model.facts.length:
                example = model.example(record, job.columns, language=language)
                cut += 1
        except BadRecord as error:
            if not job.skip_bad_lines:
                raise BadData(f"{job.input}, {unit(job.input)} {number}: {error}") from None
            skipped.append(Skipped(str(job.input), unit(job.input), number, error.reason))
            continue
        records.append(record)
        examples.append(example)
    if not examples:
        reasons = f": {'; '.join(map(said, by_reason(skipped)))}" if skipped else ""
        raise BadData(f"{job.input} holds nothing to decode{reasons}; give a file with some sources")
    return Read(records, examples, cut, skipped)


def _rows(job: Job) -> list[Row]:
    if job.input.name.removesuffix(".gz").endswith(".txt"):
        return read_pairs(job.input, None, names=(job.columns.text, "")).rows
    return read_file(job.input).rows


def _language(record: Record, job: Job, facts: Facts) -> str | None:
    """The language of a source: its column's, or the one that all have; BadRecord where its column's has no tag."""
    column = job.columns.language
    if column is None:
        return job.language
    return tagged_language(record, column, facts)


def check(model: Model, job: Job, how: Decoding) -> None:
    """Refuse what can be refused before anything is decoded."""
    for path, endings in ((job.output, (".jsonl", ".txt")), (job.traces, (".jsonl",))):
        if path is not None and path.suffix not in endings:
            raise BadConfig(f"{path} must end in {' or '.join(endings)}; name it by what it shall hold")
    column = job.columns.language
    if column is not None and job.language is not None:
        raise BadConfig(f"--language {job.language} and --language-column {column} both say it; leave one out")
    if column is not None and not model.facts.vocabulary.languages:
        raise BadConfig(f"--language-column {column}: the tokenizer has no tag for any language; leave it out")
    model.check(how, traces=job.traces is not None)


def decode(model: Model, job: Job, how: Decoding) -> None:
    """Answer every source of `job.input` into `job.output`; collective, and after `check`."""
    found = read(model, job)
    if dist.is_main():
        for note in notes(model, job, found):
            log.info("%s", note)
    place = dist.place()
    mine = range(place.rank, len(found.examples), place.world_size)
    lines: dict[int, Line] = {}
    for number, answered in model.answer(found.examples, mine, how, traces=job.traces is not None):
        lines[number] = _line(model, found.records[number], answered, job.columns)
        if len(lines) % 100 == 0 and dist.is_main():
            log.info("%d of %d answered on this rank", len(lines), len(mine))
    _publish(job, lines, len(found.examples))


def notes(model: Model, job: Job, found: Read) -> list[str]:
    """What somebody who decodes a file should know of it: how many sources, what is cut, what is left out and why."""
    lines = [f"{len(found.examples):,} sources of {job.input}, method {model.method.name}"]
    if found.cut:
        are = "is" if found.cut == 1 else "are"
        lines.append(f"{found.cut:,} of them {are} cut to the {model.facts.length} tokens that the model reads")
    return [*lines, *map(said, by_reason(found.skipped))]


def _line(model: Model, record: Record, found: Found, columns: Columns) -> Line:
    tokenizer = model.facts.tokenizer
    line = _answer(found.answers[0])
    for name, key in (("source", columns.text), ("reference", columns.label)):
        if isinstance(text := record.get(key), str):
            line[name] = text
        elif text is not None:  # pieces or ids
            line[name] = tokenizer.decode(tokens_of(record, key, tokenizer))
    if columns.language is not None:
        line["language"] = record[columns.language]
    if len(found.answers) > 1:
        line["answers"] = [_answer(each) for each in found.answers]
    if found.trace is not None:
        line["trace"] = {name: part.tolist() for name, part in found.trace._asdict().items()}
    return line


def _answer(answer: Answer) -> Line:
    return {"answer": answer.text, "score": round(answer.score, 6)}


def _publish(job: Job, lines: Mapping[int, Line], count: int) -> None:
    """Join the shares of all ranks in the order of the sources."""
    place = dist.place()
    share = job.output.with_name(f".{job.output.name}.{place.rank}")
    files.write_text(share, "".join(json.dumps([number, line]) + "\n" for number, line in lines.items()))
    dist.barrier()
    if dist.is_main():
        shares = [job.output.with_name(f".{job.output.name}.{rank}") for rank in range(place.world_size)]
        whole = dict(json.loads(row) for path in shares for row in path.read_text(encoding="utf-8").splitlines())
        ordered = [whole[number] for number in range(count)]
        if job.traces is not None:
            write_lines(job.traces, ordered)
        write_lines(job.output, [{key: value for key, value in line.items() if key != "trace"} for line in ordered])
        for path in shares:
            path.unlink()
        log.info("%d answers in %s", count, job.output)
    dist.barrier()


def write_lines(path: Path, lines: Sequence[Line]) -> None:
    """Answers with all that is known of them, or for a .txt file the best ones alone, on one line each."""
    if path.suffix == ".txt":
        text = "".join(" ".join(line["answer"].split()) + "\n" for line in lines)
    else:
        text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    files.write_text(path, text)


def rescore(model: Model, job: Job, *, penalty: float, least: int, best: int) -> None:
    """Answers from traces under another penalty and least length; no model is asked."""
    lines = []
    for number, record in read_records(job.input):
        try:
            parts = [np.array(record["trace"][name]) for name in Trace._fields]
        except (KeyError, TypeError, ValueError):
            raise BadData(f"{job.input}, line {number}: no trace; give what decode.py wrote with --traces") from None
        eos = model.facts.vocabulary.eos
        found = candidates(Trace(*parts), eos=eos, penalty=penalty, best=best, min_length=least)
        answers = [model.said(each.ids, each.score) for each in found]
        kept = {key: value for key, value in record.items() if key in ("source", "reference", "language")}
        line = _answer(answers[0]) | kept
        if len(answers) > 1:
            line["answers"] = [_answer(each) for each in answers]
        lines.append(line)
    write_lines(job.output, lines)
    log.info("%d answers in %s", len(lines), job.output)

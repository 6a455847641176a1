"""Weights that write, with all that decoding needs: nobody has to remember how they were trained."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from megas2s import dist
from megas2s.convert import hf, importing, source
from megas2s.convert.importing import has_head, incoming
from megas2s.data.heldout import HeldOutRow, padded_batch
from megas2s.data.loader import Columns as Width
from megas2s.data.records import Record
from megas2s.decoding.beam import Gnmt, gnmt, power
from megas2s.decoding.rules import Rules
from megas2s.decoding.search import Written, greedy, sample
from megas2s.decoding.traces import Trace
from megas2s.errors import BadConfig
from megas2s.generate.settings import Decoding
from megas2s.methods import WRITERS, AnyMethod
from megas2s.methods.base import Columns, Facts
from megas2s.methods.writing import BLANK, FORCED, Writing, tag_of, with_tags
from megas2s.models.config import ModelConfig
from megas2s.models.loading import filled
from megas2s.models.parameters import ALL, Values
from megas2s.models.transformer import Network, construct
from megas2s.objectives.base import Batch, Example
from megas2s.spec import parse
from megas2s.tokenizer.folder import Stored
from megas2s.tokenizer.load import Tokenizer

TEXT = Columns(text="text", label="answer")
Given = str | list[str] | list[int]


class Answer(NamedTuple):
    """One answer, its tokens without padding, and its score."""

    text: str
    score: float
    ids: tuple[int, ...]


class Found(NamedTuple):
    """The answers to one source, best first, and the trace of the beam search where one was asked for."""

    answers: list[Answer]
    trace: Trace | None


@dataclasses.dataclass(frozen=True)
class Model:
    """A network in evaluation mode, its method, and what the method may know."""

    network: Network
    method: Writing
    facts: Facts
    columns: Columns = TEXT  # that it was taught by
    tags: str | None = None  # which rows open with the tag of their language: source, target or both
    forced: tuple[int | None, bool] = (None, False)  # what answers without a tag begin with; if full ones still end

    def write(self, texts: Sequence[Given | tuple[Given, Given]], how: Decoding = Decoding()) -> list[list[Answer]]:  # noqa: B008
        """The answers to each text (or its pieces, or its ids), best first, in the order of the texts.

        A model that was taught by pairs of texts is given pairs.
        """
        columns = dataclasses.replace(self.columns, text="text", pair="pair" if self.columns.pair else None)
        records: list[Record] = []
        for text in texts:
            if isinstance(text, tuple) != (columns.pair is not None):
                taught = "pairs of texts" if columns.pair else "single texts"
                raise BadConfig(f"this model was taught by {taught}, found {str(text)[:40]!r}")
            records.append({"text": text[0], "pair": text[1]} if isinstance(text, tuple) else {"text": text})
        examples = [self.example(record, columns, language=how.language) for record in records]
        found = dict(self.answer(examples, range(len(examples)), how))
        return [found[place].answers for place in range(len(examples))]

    def example(
        self, record: Record, columns: Columns = TEXT, *, language: str | None = None, length: int | None = None
    ) -> Example:
        """What the model reads of a record, cut to `length` or what it was taught by, and what its answer begins with.

        `language` is that of the record where rows are tagged; an answer may begin with a tag in any case.
        """
        facts, given = self.facts._replace(length=length or self.facts.length), {**record, columns.label: BLANK}
        if self.tags is None:
            forced = {} if language is None else {FORCED: np.array([tag_of(facts, language)])}
            return {**self.method.example(given, columns, facts), **forced}
        if language is None:
            raise BadConfig(f"rows were tagged with their language ({self.tags}) in training; name it: language")
        return self.method.example(given, columns, with_tags(facts, self.tags, language))

    def answer(
        self, examples: Sequence[Example], places: Sequence[int], how: Decoding, *, traces: bool = False
    ) -> Iterator[tuple[int, Found]]:
        """The answers to the examples at `places`, each with its place, in batches of sources that are alike in length.

        A place says which draws are an example's, so they are the same however the places are shared out.
        """
        rules, prefix = self.check(how, traces=traces), how.prefix_ids(self.facts)
        usual = [] if self.forced[0] is None else [self.forced[0]]
        order = sorted(places, key=lambda place: (-len(examples[place]["input_ids"]), place))
        for first in range(0, len(order), how.rows):
            here = order[first : first + how.rows]
            batch = self._batch([examples[place] for place in here])
            begins = [[*examples[place].get(FORCED, usual), *prefix] for place in here]
            own = rules._replace(prefix=_table(begins, rules.length))
            written, kept = self._written(batch, here, own, how, whole=traces)
            for row, place in enumerate(here):
                yield place, Found(self._answers(written, row), kept[row] if traces else None)

    def check(self, how: Decoding, *, traces: bool = False) -> Rules:
        """The rules that settings come to for this model; raises BadConfig where they ask what it cannot do."""
        config = self.network.config
        search = how.search(is_seq2seq=config.is_seq2seq)
        if traces and not isinstance(search, Gnmt):
            raise BadConfig("a trace is of a beam search with gnmt scoring; say beams above 1 and scoring: gnmt")
        rules = how.rules(self.method, self.facts, config.longest_row)._replace(ends=self.forced[1])
        _table([how.prefix_ids(self.facts)], rules.length)
        return rules

    def _batch(self, examples: Sequence[Example]) -> Batch:
        rows = [HeldOutRow({"input_ids": example["input_ids"]}, 0) for example in examples]
        width = max(len(row.example["input_ids"]) for row in rows)
        columns = Width(source=width, target=0, full=False, pad=self.facts.vocabulary.pad)
        device = next(self.network.parameters()).device
        batch = padded_batch(rows, list(range(len(rows))), columns)
        return {name: batch[name].to(device) for name in ("input_ids", "attention_mask")}

    def _written(
        self, batch: Batch, places: Sequence[int], rules: Rules, how: Decoding, *, whole: bool
    ) -> tuple[Written, list[Trace]]:
        search = how.search(is_seq2seq=self.network.config.is_seq2seq)
        if how.sample:
            return sample(self.network, batch, rules, how.sampling, seed=how.seed, numbers=places), []
        if search is None:
            return greedy(self.network, batch, rules), []
        if isinstance(search, Gnmt):
            return gnmt(self.network, batch, rules, search, whole=whole)
        return power(self.network, batch, rules, search), []

    def _answers(self, written: Written, row: int) -> list[Answer]:
        pairs = zip(written.ids[row].cpu().numpy(), written.scores[row].tolist(), strict=True)
        return [self.said(ids, score) for ids, score in pairs if score > -math.inf]

    def said(self, ids: np.ndarray, score: float) -> Answer:
        """An answer as people read it; tokens after its end are padding."""
        ends = np.flatnonzero(ids == self.facts.vocabulary.eos)
        kept = ids[: ends[0] + 1] if len(ends) else ids
        return Answer(self.facts.tokenizer.decode(kept), score, tuple(kept.tolist()))


def _table(rows: Sequence[Sequence[int]], length: int) -> Tensor | None:
    """Ids side by side, -1 behind those of shorter rows; None where there are none."""
    longest = max(map(len, rows))
    if longest >= length:
        raise BadConfig(f"language and prefix are {longest} tokens, an answer has room for {length}; shorten them")
    return torch.tensor([[*row, *[-1] * (longest - len(row))] for row in rows]) if longest else None


class _Weights(NamedTuple):
    config: ModelConfig
    metadata: Mapping[str, str]
    tokenizer: Stored
    values: Values


def load(
    path: str | Path,
    *,
    method: str | None = None,
    tokenizer: str | Path | None = None,
    length: int | None = None,
    target_length: int | None = None,
    device: torch.device | None = None,
    dtype: torch.dtype = torch.float32,
    weights: bool = True,
) -> Model:
    """Weights of a run, a stage, a checkpoint, a folder of weights or a Hugging Face folder, ready to write.

    How they were taught to is read from beside them. Of an encoder-decoder that says nothing (one that was trained
    elsewhere) it is said here: method="seq2seq", with lengths. Raises BadConfig where nobody taught them. Without
    `weights` the model knows all but its weights, and can write nothing.
    """
    folder = Path(path)
    found = _hugging_face(folder, tokenizer) if (folder / source.SETTINGS).is_file() else _own(folder, tokenizer)
    taught = _taught(folder, found.metadata, found.config, method)
    if not found.config.is_seq2seq and not has_head(found.metadata):
        raise BadConfig(f"{folder} has no trained head for masked language modelling, with which an encoder writes")
    most = found.config.longest_row
    lengths = {
        name: given or int(found.metadata.get(name, min(usual, most)))
        for name, given, usual in (("length", length, 512), ("target_length", target_length, 128))
    }
    if lengths["length"] > most:
        raise BadConfig(f"length {lengths['length']} exceeds the {most:g} positions that the model has; shorten it")
    facts = Facts(
        tokenizer=Tokenizer(found.tokenizer, folder),
        length=lengths["length"],
        target_length=lengths["target_length"],
        decoder_start=found.config.decoder_start,
        is_seq2seq=found.config.is_seq2seq,
        labels=(),
        typed=found.config.segment_types > 1,
    )
    if weights:
        network = filled(found.config, found.values).to(device=device or dist.device(), dtype=dtype)
    else:
        with torch.device("meta"):
            network = construct(found.config)
    said = found.metadata.get("columns")
    first, last = (found.metadata.get(name) for name in importing.FORCED)
    return Model(
        network.eval().requires_grad_(False),
        taught,
        facts,
        columns=parse(Columns, json.loads(said), source=f"{folder}: columns") if said else TEXT,
        tags=found.metadata.get("tags"),
        forced=(None if first is None or said else int(first), last is not None and not said),
    )


def _own(folder: Path, tokenizer: str | Path | None) -> _Weights:
    found = source.find(folder)
    reader = found.open()
    stored = source.find_tokenizer(found, reader, Path(tokenizer) if tokenizer else None)
    return _Weights(reader.config, reader.metadata, stored, reader.tensor)


def _hugging_face(folder: Path, tokenizer: str | Path | None) -> _Weights:
    found = incoming(folder, hf.read_settings(folder))

    def value(name: str, rows: slice = ALL) -> Tensor:
        return found.sources[name]()[rows]

    where = Path(tokenizer) if tokenizer else folder
    stored, _ = source.fitting(source.read_tokenizer(where), where, found.config)
    return _Weights(found.config, found.metadata, stored, value)


def _taught(folder: Path, metadata: Mapping[str, str], config: ModelConfig, named: str | None) -> Writing:
    """The method by which weights were taught to write."""
    written: Any = metadata.get("method")
    known = json.loads(written) if written else None
    if named is not None and named not in WRITERS:
        raise BadConfig(f"method {named!r} writes nothing; methods that write are {', '.join(WRITERS)}")
    if known is None:
        if named == "seq2seq" and config.is_seq2seq:
            known = {"name": "seq2seq"}
        else:
            trained = metadata.get("objective", "an objective unknown here")
            hint = "say method: seq2seq if it was elsewhere" if config.is_seq2seq else "fine-tune them first"
            raise BadConfig(
                f"{folder} was trained by {trained} and never taught to write (launch/finetune.py with method "
                f"{', '.join(WRITERS)}); {hint}"
            )
    elif named is not None and named != known["name"]:
        raise BadConfig(f"{folder} was taught by method {known['name']}, not {named}; leave method out")
    taught = parse(AnyMethod, known, source=f"{folder}: method")
    if not isinstance(taught, Writing):
        raise BadConfig(f"{folder} was fine-tuned by method {taught.name}, which writes nothing")
    return taught

"""How to write: one value for each thing that a person may choose, and what follows from them for a model."""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

from megas2s.decoding.beam import Gnmt, Power
from megas2s.decoding.rules import Rules
from megas2s.decoding.search import Sampling
from megas2s.errors import BadConfig
from megas2s.methods.base import Facts
from megas2s.methods.writing import Writing
from megas2s.spec import parse, spec


@spec
class Decoding:
    """Greedy where nothing is said; with `beams` above 1 a beam search, with `sample` drawn by chance.

    Lengths count tokens, the end included. What is None is what the model was trained with, or usual for its method:
    `gnmt` scoring without a penalty for encoders that write, `power` with a penalty of 1 for encoder-decoders.
    """

    beams: int = 1
    scoring: Literal["gnmt", "power"] | None = None
    length_penalty: float | None = None
    early_stopping: bool | Literal["never"] = False  # of power scoring, as in transformers
    n_best: int = 1  # answers for each source
    max_length: int | None = None
    min_length: int = 0  # tokens before the end may come
    no_repeat_ngram: int = 0  # no n-gram of so many tokens comes twice; 0: any may
    ignored_words: tuple[str, ...] = ()  # n-grams with one of these tokens may
    language: str | None = None  # of all sources: its tag opens the rows that were tagged in training, else answers
    prefix: str | None = None  # text that each answer begins with
    sample: bool = False
    temperature: float = 1.0
    top_k: int = 0  # draw from so many of the likeliest; 0: all
    top_p: float = 1.0  # draw from the likeliest that together have this much
    seed: int = 17
    rows: int = 16  # sources of a batch

    def __post_init__(self) -> None:
        for name, least in (("beams", 1), ("n_best", 1), ("rows", 1), ("min_length", 0), ("no_repeat_ngram", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be at least {least}, got {getattr(self, name)}")
        if self.max_length is not None and not self.min_length < self.max_length:
            raise ValueError(f"max_length must be above min_length {self.min_length}, got {self.max_length}")
        if self.top_k < 0 or not 0 < self.top_p <= 1 or not 0 < self.temperature < math.inf:
            raise ValueError(
                f"temperature must be above 0, top_k at least 0, top_p in (0, 1]; got {self.temperature}, "
                f"{self.top_k}, {self.top_p}"
            )
        if self.sample and self.beams > 1:
            raise ValueError(f"beams: {self.beams} and sample exclude each other; leave one out")
        if not self.sample and self.n_best > self.beams:
            raise ValueError(f"n_best {self.n_best} is more than beams {self.beams} can give; raise beams")
        drawn = {"temperature": 1.0, "top_k": 0, "top_p": 1.0}
        if not self.sample and (said := [name for name, usual in drawn.items() if getattr(self, name) != usual]):
            raise ValueError(f"{said[0]} is of sampling, which is off; say sample: true or leave it out")
        if self.beams == 1 and (self.scoring or self.length_penalty is not None or self.early_stopping):
            raise ValueError("scoring, length_penalty and early_stopping are of beams, and beams is 1; raise it")
        if self.scoring == "gnmt" and self.early_stopping:
            raise ValueError("early_stopping is of power scoring; gnmt ends when nothing better can come")

    @property
    def sampling(self) -> Sampling:
        """How tokens are drawn."""
        return Sampling(self.temperature, self.top_k, self.top_p, copies=self.n_best)

    def search(self, *, is_seq2seq: bool) -> Gnmt | Power | None:
        """The beam search; None where there is none. Raises BadConfig where its scoring would pass a setting by."""
        if self.beams == 1:
            return None
        scoring = self.scoring or ("power" if is_seq2seq else "gnmt")
        if scoring == "gnmt":
            if self.early_stopping:
                raise BadConfig(
                    "early_stopping is of power scoring, and encoders write by gnmt where nothing is said; say "
                    "scoring: power, or leave early_stopping out"
                )
            return Gnmt(self.beams, self.length_penalty or 0.0, self.n_best)
        penalty = 1.0 if self.length_penalty is None else self.length_penalty
        return Power(self.beams, penalty, self.early_stopping, self.n_best)

    def rules(self, method: Writing, facts: Facts, positions: float) -> Rules:
        """What may be written next by a model of so many positions; raises BadConfig."""
        room = positions if facts.is_seq2seq else positions - facts.length
        length = facts.target_length if self.max_length is None else self.max_length
        if length > room:
            raise BadConfig(
                f"max_length {length} exceeds the {room:g} positions that the model has for what it writes; shorten it"
            )
        if self.min_length >= length:
            raise BadConfig(f"min_length {self.min_length} leaves no room below the {length} tokens of an answer")
        return method.rules(facts._replace(target_length=length))._replace(
            min_length=self.min_length,
            ngram=self.no_repeat_ngram,
            ignored=tuple(token for word in self.ignored_words for token in _ids_of_word(word, facts)),
            from_start=facts.is_seq2seq,
        )

    def prefix_ids(self, facts: Facts) -> list[int]:
        """The tokens of `prefix`."""
        return [] if self.prefix is None else list(facts.tokenizer.encode(self.prefix).tolist())


def from_flags(values: dict[str, object]) -> Decoding:
    """The settings that a command line gives."""
    known = {field.name for field in dataclasses.fields(Decoding)}
    given = {name: value for name, value in values.items() if name in known}
    decoding: Decoding = parse(Decoding, given, source="flags")
    return decoding


def _ids_of_word(word: str, facts: Facts) -> list[int]:
    """The tokens that are a word: where a text begins, behind another word, and inside one."""
    encode = facts.tokenizer.encode
    alone, letter = encode(word).tolist(), encode("a").tolist()
    found = {alone[0]} if len(alone) == 1 else set()
    for behind in (encode(f"a {word}").tolist(), encode(f"a{word}").tolist()):
        if behind[:-1] == letter:
            found.add(behind[-1])
    if not found:
        raise BadConfig(f"ignored word {word!r} is {len(alone)} tokens of this tokenizer; name single tokens")
    return sorted(found)

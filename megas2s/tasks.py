"""A task's examples in memory: the sample of a number, batches to be answered, the answers and their scores.

Rows are padded to the longest of their micro-batch: texts of a task differ in length by far more than windows do.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch

from megas2s import dist
from megas2s.data.heldout import HeldOutRow, padded_batch
from megas2s.data.loader import Batch, Columns, sample_numbers
from megas2s.data.mixture import Mixture, Sampling
from megas2s.data.skipped import by_reason, said
from megas2s.engine.base import Engine, to_device
from megas2s.errors import BadConfig
from megas2s.methods import WRITERS
from megas2s.methods.base import Facts, Method, Task
from megas2s.rng import Permutation, generator
from megas2s.splits import ALONE, SPLITS, Examples, Split
from megas2s.train.metrics import Scalars

WIDTH = 8  # columns are a multiple of this many


class Order(Protocol):
    """Which example is sample n: a pure function of n."""

    def __getitem__(self, number: int) -> int: ...

    def said(self, samples: int) -> list[str]:
        """What there is to say of so many samples."""


@dataclasses.dataclass(frozen=True)
class Epochs:
    """Every epoch reads each example once, in an order of its own."""

    size: int
    seed: int

    def __getitem__(self, number: int) -> int:
        epoch, place = divmod(number, self.size)
        return _order(self.size, self.seed, epoch)[place]

    def said(self, samples: int) -> list[str]:
        """Nothing: `epochs` is in the recipe."""
        return []


@dataclasses.dataclass(frozen=True)
class Weighed:
    """Languages come by their shares, as in pretraining (`data/mixture.py`).

    Each has epochs of its own, mixed with the next one inside a block of the mixture.
    """

    mixture: Mixture
    members: list[list[int]]  # the examples of each language

    def __getitem__(self, number: int) -> int:
        drawn = self.mixture[number]
        return self.members[drawn.unit][drawn.window]

    def said(self, samples: int) -> list[str]:
        """How often each language is read in so many samples."""
        shares, whole = self.mixture.quotas.shares, sum(self.mixture.quotas.shares)
        facts = zip(self.mixture.names, self.members, shares, self.mixture.epochs(samples), strict=True)
        return [
            f"{name}: {len(members):,} examples, {share / whole:.1%} of the samples, each read {epochs:.2f} times"
            for name, members, share, epochs in facts
        ]


def order_of(split: Split, languages: Sequence[str], *, alpha: float | None, seed: int) -> Order:
    """Each example once an epoch; with `alpha`, languages by (their examples) ** alpha."""
    if alpha is None:
        return Epochs(len(split), seed)
    members: dict[int, list[int]] = {}
    for place, language in enumerate(split.languages):
        members.setdefault(language, []).append(place)
    names = [languages[language] for language in members]
    counts = [len(places) for places in members.values()]
    shares = Sampling(alpha=alpha).shares({(name, ""): count for name, count in zip(names, counts, strict=True)})
    mixture = Mixture(names, counts, shares, languages=names, seed=seed, stage="finetune")
    return Weighed(mixture, list(members.values()))


@dataclasses.dataclass(frozen=True)
class Samples:
    """The samples of training, by number."""

    split: Split
    task: Task
    seed: int
    order: Order | Sequence[int]  # the example of each

    def batch(self, numbers: Sequence[int]) -> Batch:
        """The samples of these numbers as one batch, with `language` and `sample`, (B,) each."""
        places = [self.order[number] for number in numbers]
        batch = self.of_places(places, [generator(self.seed, "noise", number) for number in numbers])
        return {**batch, "sample": torch.tensor(list(numbers))}

    def of_places(self, places: Sequence[int], noise: Sequence[np.random.Generator]) -> Batch:
        """The examples at these places of the split as one batch, each with randomness of its own."""
        method, facts = self.task.method, self.task.facts
        rows = [
            HeldOutRow(method.corrupt(self.split.examples[place], rng, facts, source=True), self.split.languages[place])
            for place, rng in zip(places, noise, strict=True)
        ]
        return padded_batch(rows, list(places), _columns(rows, facts))


@functools.lru_cache(maxsize=4)
def _order(size: int, seed: int, epoch: int) -> Permutation:
    return Permutation(size, seed, "finetune", epoch)


def batches_of(split: Split, task: Task, *, micro_batch: int, rows: int | None = None) -> list[Batch]:
    """This rank's batches of a split, or of its first `rows` of each language, long rows beside long ones.

    `sample` is the place in the split, -1 in the rows that fill the last batches up, which have no label. Where a
    method noises what is to be written, it does so by the place in the split, and leaves what is read as it is.
    """
    place = dist.data_place()
    chosen = _first(split.languages, rows)
    chosen.sort(key=lambda index: len(split.examples[index]["input_ids"]))
    round_size = micro_batch * place.world_size
    padded = -(-len(chosen) // round_size) * round_size
    shares = sample_numbers(0, rows=padded, micro_batch=micro_batch, rank=place.rank, world_size=place.world_size)
    found = []
    for share in shares:
        numbers = [chosen[min(number, len(chosen) - 1)] for number in share]
        examples = [
            task.method.corrupt(split.examples[n], generator(0, "split", n), task.facts, source=False) for n in numbers
        ]
        taken = [HeldOutRow(*pair) for pair in zip(examples, (split.languages[n] for n in numbers), strict=True)]
        samples = [number if n < len(chosen) else -1 for n, number in zip(share, numbers, strict=True)]
        found.append(padded_batch(taken, samples, _columns(taken, task.facts)))
    return found


def _first(languages: Sequence[int], rows: int | None) -> list[int]:
    if rows is None:
        return list(range(len(languages)))
    seen: dict[int, int] = {}
    chosen = []
    for index, language in enumerate(languages):
        seen[language] = seen.get(language, 0) + 1
        if seen[language] <= rows:
            chosen.append(index)
    return chosen


def _columns(rows: Sequence[HeldOutRow], facts: Facts) -> Columns:
    source = max(len(row.example["input_ids"]) for row in rows)
    target = max(len(row.example.get(name, ())) for row in rows for name in ("decoder_input_ids", "target_ids"))
    limit = facts.target_length if "target_ids" in rows[0].example else max(facts.length, facts.target_length)
    wide, high = min(_rounded(source), facts.length), min(_rounded(target), limit)
    return Columns(source=wide, target=high, full=False, pad=facts.vocabulary.pad)


def _rounded(width: int) -> int:
    return -(-width // WIDTH) * WIDTH


def answer(engine: Engine, task: Task, split: Split, batches: Sequence[Batch]) -> dict[int, Any]:
    """The model's answers to this rank's and all others' batches, by place in the split; collective."""
    found: dict[int, np.ndarray] = {}
    for batch in batches:
        predicted = dist.gather(engine.predict(batch)).cpu().numpy()
        numbers = dist.gather(to_device(batch, dist.device())["sample"]).tolist()
        found.update({number: row for number, row in zip(numbers, predicted, strict=True) if number >= 0})
    places = sorted(found)
    examples = [split.examples[place] for place in places]
    answers = task.method.answers(np.stack([found[place] for place in places]), examples, task.facts)
    return dict(zip(places, answers, strict=True))


def measured(task: Task, languages: Sequence[str], split: Split, answers: dict[int, Any]) -> dict[str, Scalars]:
    """Scores of the answers that have labels, for each language, and under "all" of them together."""
    places = [place for place in sorted(answers) if split.languages[place] in split.labelled]
    records, examples = ([values[place] for place in places] for values in (split.records, split.examples))
    references = task.method.references(records, examples, split.columns, task.facts)
    groups: dict[str, list[int]] = {ALONE: list(range(len(places)))} if places else {}
    for index, place in enumerate(places if len(languages) > 1 else ()):
        groups.setdefault(languages[split.languages[place]], []).append(index)
    return {
        name: task.method.scores([answers[places[index]] for index in group], [references[index] for index in group])
        for name, group in groups.items()
    }


def said_of(name: str, split: Split) -> list[str]:
    """What somebody who begins a run should know of a split: notes, what was left out, how long its rows are."""
    lines = [*split.notes, *(f"{name}: {said(reason)}" for reason in by_reason(split.skipped))]
    for side, found in split.lengths.items():
        lines += [f"{name} {side}: {found.said()}", *(found.drawn() if name == "train" else ())]
    return lines


def check_lengths(method: Method, data: Examples, facts: Facts, positions: float) -> None:
    """Refuse rows that a model has no positions for, and rows without room for text."""
    between = max((data.columns_of(split).between for split in SPLITS), default=0)
    lengths = {"length": (facts.length, between + (data.tags in ("source", "both")))}
    if method.name in WRITERS:
        lengths["target_length"] = (facts.target_length, int(data.tags in ("target", "both")))
    whole = facts.length + facts.target_length
    if method.name in WRITERS and not facts.is_seq2seq and whole > positions:
        raise BadConfig(
            f"length {facts.length} and target_length {facts.target_length} are one row of {whole} tokens, which "
            f"exceeds the model's {positions:g} positions; shorten them, or say max_positions: {whole}"
        )
    for name, (length, ends) in lengths.items():
        if length > positions:
            raise BadConfig(f"{name}: rows of {length} tokens exceed the model's {positions:g} positions; shorten it")
        if length < facts.vocabulary.ends + ends + 2:
            raise BadConfig(f"{name} {length} leaves no room for text; lengthen it")

"""What a model will see, for people: an example as text, and how full its rows are."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np

from megas2s.labels import IGNORED
from megas2s.objectives.base import Example, RowLengths

Decode = Callable[[np.ndarray], str]  # ids to text, special tokens written by name
NAMES = 10  # columns that the name of a line takes
SPACE = "␣"  # a piece that is a space and nothing else


class Fill(NamedTuple):
    """Which share of a batch's columns is used: the rest is padding that costs time and teaches nothing."""

    source: float
    labels: float  # of the target's columns, or of the label slots of an encoder's rows


def fill(examples: Sequence[Example], columns: RowLengths) -> Fill:
    """The mean fill of some examples."""
    source = [len(example["input_ids"]) / columns.source for example in examples]
    labels = [
        np.count_nonzero(example["labels"] != IGNORED) / (columns.target or len(example["labels"]))
        for example in examples
    ]
    return Fill(float(np.mean(source)), float(np.mean(labels)))


def preview(tokens: np.ndarray, example: Example, decode: Decode, *, characters: int = 400) -> str:
    """An example in named lines: the raw window, the source after noise, and what is to be predicted.

    Where single positions are predicted, each shows as what the model sees there and what it should say. Where the
    encoder has labels of its own, the tokens of each label but 0 are listed.
    """
    labels = example["labels"][example["labels"] != IGNORED]
    lines = [("raw", decode(tokens)), ("source", decode(example["input_ids"]))]
    if "second_input_ids" in example:
        lines.append(("second", decode(example["second_input_ids"])))
    if "encoder_labels" in example:
        lines.append(("encoder", ", ".join(_labelled(example, decode))))
    if "masked_positions" in example:
        seen = example["input_ids"][example["masked_positions"][: len(labels)]]
        pairs = [f"{_one(before, decode)} -> {_one(after, decode)}" for before, after in zip(seen, labels, strict=True)]
        lines.append(("predict", ", ".join(pairs)))
    else:
        lines.append(("target", decode(labels)))
    return "\n".join(_line(name, text, characters) for name, text in lines)


def _labelled(example: Example, decode: Decode) -> list[str]:
    found = np.flatnonzero(example["encoder_labels"] > 0)
    return [f"{_one(example['input_ids'][place], decode)} is {example['encoder_labels'][place]}" for place in found]


def _one(token: int, decode: Decode) -> str:
    return decode(np.array([token])) or SPACE


def _line(name: str, text: str, characters: int) -> str:
    text = " ".join(text.split())
    text = text if len(text) <= characters else text[:characters].rstrip() + " ..."
    return textwrap.fill(
        text,
        width=110,
        initial_indent=f"  {name:<{NAMES}}",
        subsequent_indent=" " * (NAMES + 2),
        break_on_hyphens=False,
    )

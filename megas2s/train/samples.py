"""What the model makes of held-out examples, as text for people: beside each truth the model's most likely token.

A decoder is shown the true target up to each position (teacher forcing): it is the same pass that is scored, costs one
forward, and needs no decoding loop. Text it would write by itself comes from an exported model.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from megas2s import dist
from megas2s.engine.base import Batch, Engine
from megas2s.labels import IGNORED

ROWS = 8

Decode = Callable[[np.ndarray], str]


def reconstructions(engine: Engine, batches: Sequence[Batch], decode: Decode, *, rows: int = ROWS) -> str:
    """Markdown of one example each of up to `rows` languages among this rank's batches; collective."""
    few = one_per_language(batches, rows)
    best = engine.predict(_filled_up(few, rows)).cpu().numpy()[: len(few["language"])]
    if not dist.is_main():
        return ""
    columns = {name: tensor.numpy() for name, tensor in few.items()}
    return "\n\n".join(_example(columns, best, row, decode) for row in range(len(best)))


def one_per_language(batches: Sequence[Batch], rows: int) -> dict[str, Tensor]:
    """A batch of the first row of each language, at most `rows`."""
    whole = {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}
    languages = whole["language"].tolist()
    first = sorted({languages.index(language) for language in languages})[:rows]
    return {name: tensor[first] for name, tensor in whole.items()}


def _filled_up(few: Mapping[str, Tensor], rows: int) -> dict[str, Tensor]:
    """The batch with its last row repeated up to `rows`: ranks hold rows of more or fewer languages."""
    places = torch.arange(rows).clamp(max=len(few["language"]) - 1)
    return {name: tensor[places] for name, tensor in few.items()}


def _example(columns: Mapping[str, np.ndarray], best: np.ndarray, row: int, decode: Decode) -> str:
    labels = columns["labels"][row]
    real = labels != IGNORED
    source = columns["input_ids"][row]
    if "attention_mask" in columns:
        source = source[columns["attention_mask"][row].astype(bool)]
    lines = [f"**source** {decode(source)}"]
    truth, guess = labels[real], best[row][real]
    if "masked_positions" in columns:
        pairs = zip(truth, guess, strict=True)
        lines.append("**truth → model** " + ", ".join(f"{_quoted(a, decode)} → {_quoted(b, decode)}" for a, b in pairs))
    else:
        lines.append(f"**target** {decode(truth)}")
        lines.append(f"**model, given the target so far** {decode(guess)}")
    lines.append(f"{np.mean(truth == guess):.0%} of {len(truth)} tokens right" if len(truth) else "nothing to predict")
    return "  \n".join(lines)


def _quoted(token: int, decode: Decode) -> str:
    return f"`{decode(np.array([token]))}`"

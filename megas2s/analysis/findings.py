"""All analyses of one model, one after another, and what they found as plain data.

neurons     activation rates of feed-forward layers                     both stacks
attention   entropies of attention                                      both stacks
probes      linear probes of the encoder's states at every height       the encoder
geometry    alignment and uniformity of sentences at every height       the encoder
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np

from megas2s.analysis.attention import Entropy, entropies
from megas2s.analysis.geometry import Views, alignment, drops_out, noised, pooled_with_dropout, uniformity
from megas2s.analysis.neurons import Activity, activity
from megas2s.analysis.passes import Pass, Stack, passes, pooled
from megas2s.analysis.probing import Probed, probe
from megas2s.analysis.tasks import Task
from megas2s.errors import BadConfig
from megas2s.models.config import ModelConfig
from megas2s.models.transformer import EncoderModel, Seq2SeqModel
from megas2s.objectives.base import first_token
from megas2s.objectives.noise import framed
from megas2s.tokenizer.load import Tokenizer
from megas2s.tokenizer.vocab import Vocabulary

MAX_TOKENS = 128  # of a sentence, special ones included

Analysis = Literal["neurons", "attention", "probes", "geometry"]


class Geometry(NamedTuple):
    """At every height of the encoder, bottom first."""

    uniformity: list[float]
    alignment: dict[Views, list[float]]


class Findings(NamedTuple):
    """What was found; None where it was not asked for."""

    neurons: dict[Stack, list[Activity]] | None = None
    attention: dict[str, list[Entropy]] | None = None
    probes: dict[str, Probed] | None = None
    geometry: Geometry | None = None


class Reader:
    """How a model is given texts: framed as in training, in batches. None is longer than `max_tokens`; where that is
    not given, than MAX_TOKENS or what the model reads.
    """

    def __init__(self, config: ModelConfig, tokenizer: Tokenizer, *, max_tokens: int | None, batch_tokens: int) -> None:
        if max_tokens is None:
            max_tokens = min(MAX_TOKENS, config.max_positions)
        if config.has_learned_positions and max_tokens > config.max_positions:
            raise BadConfig(
                f"--max-tokens {max_tokens} is more than the {config.max_positions} positions of the model; lower it"
            )
        self.tokenizer = tokenizer
        self.max_tokens = max_tokens
        self.batch_tokens = batch_tokens
        self.vocabulary: Vocabulary = tokenizer.vocabulary
        self.start = first_token(self.vocabulary, config.decoder_start)

    def row(self, text: str) -> np.ndarray:
        """One text as the encoder reads it."""
        return framed(self.tokenizer.encode(text), self.vocabulary)

    def fits(self, text: str) -> bool:
        """Whether a text is short enough."""
        return len(self.row(text)) <= self.max_tokens

    def batches(self, rows: Sequence[np.ndarray]) -> list[Pass]:
        """Rows in batches."""
        return passes(rows, pad=self.vocabulary.pad, start=self.start, batch_tokens=self.batch_tokens)


def check(config: ModelConfig, stacks: Sequence[Stack], views: Sequence[Views]) -> None:
    """Refuse analyses that a model has no part for."""
    if "decoder" in stacks and not config.is_seq2seq:
        raise BadConfig("the model is an encoder, and --stacks asks for a decoder; leave it out")
    if "dropout" in views and not drops_out(config):
        raise BadConfig(
            "the model is configured without dropout, so that both views of a sentence would be equal; "
            "say --views noise"
        )


def analyse(
    model: EncoderModel | Seq2SeqModel,
    texts: Sequence[str],
    reader: Reader,
    *,
    analyses: Sequence[Analysis],
    stacks: Sequence[Stack],
    tasks: Mapping[str, Task],
    views: Sequence[Views],
    seed: int,
) -> Findings:
    """Everything that is asked for, of a model in evaluation mode."""
    rows = [reader.row(text) for text in texts]
    batches = reader.batches(rows)
    return Findings(
        neurons=activity(model, batches, stacks) if "neurons" in analyses else None,
        attention=entropies(model, batches, stacks) if "attention" in analyses else None,
        probes=_probes(model, reader, tasks) if "probes" in analyses else None,
        geometry=_geometry(model, rows, reader, views, seed) if "geometry" in analyses else None,
    )


def _probes(model: EncoderModel | Seq2SeqModel, reader: Reader, tasks: Mapping[str, Task]) -> dict[str, Probed]:
    """Each text goes through the model once, whatever tasks it is in."""
    every = {text: None for task in tasks.values() for text in task.texts}
    number = {text: place for place, text in enumerate(every)}
    states = pooled(model, reader.batches([reader.row(text) for text in every])).numpy()
    return {name: probe(states[:, [number[text] for text in task.texts]], task) for name, task in tasks.items()}


def _geometry(
    model: EncoderModel | Seq2SeqModel, rows: Sequence[np.ndarray], reader: Reader, views: Sequence[Views], seed: int
) -> Geometry:
    batches = reader.batches(rows)
    plain = pooled(model, batches)
    found = Geometry([uniformity(states) for states in plain], {})
    if "noise" in views:
        other = pooled(model, reader.batches(noised(rows, reader.vocabulary, seed=seed)))
        found.alignment["noise"] = [alignment(*pair) for pair in zip(plain, other, strict=True)]
    if "dropout" in views:
        both = [pooled_with_dropout(model, batches, seed=seed, view=view) for view in (0, 1)]
        found.alignment["dropout"] = [alignment(*pair) for pair in zip(*both, strict=True)]
    return found

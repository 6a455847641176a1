"""What a stage is made of: its model's shape, its data, its starting weights. Everything short of an engine.

`prepare` reads and checks without building a model, so that a plan or a dry run costs seconds and a mistake is
found on the login node.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from megas2s.data.corpus import Corpus
from megas2s.data.loader import Columns, Samples
from megas2s.data.mixture import Mixture, Sampling
from megas2s.data.windows import Unit, require_windows, units
from megas2s.errors import BadConfig, BadData
from megas2s.models.config import FirstToken, ModelConfig
from megas2s.models.freezing import frozen_names
from megas2s.objectives import Objective
from megas2s.objectives.base import Example, RowLengths, Shape
from megas2s.tokenizer.vocab import Vocabulary
from megas2s.train.stage import Stage


@dataclasses.dataclass(frozen=True)
class StageData:
    """One stage's samples: the windows they are cut from and the shape they are cut to."""

    shape: Shape
    window: int  # raw tokens of a sample
    columns: RowLengths
    units: Sequence[Unit]
    shares: Sequence[int]
    samples: Samples

    @property
    def loader_columns(self) -> Columns:
        """The columns as the loader pads them."""
        return Columns(self.columns.source, self.columns.target, self.columns.full, self.shape.vocabulary.pad)


@dataclasses.dataclass(frozen=True)
class Corruption:
    """An objective bound to a shape, as the loader calls it; picklable."""

    objective: Objective
    shape: Shape

    def __call__(self, tokens: np.ndarray, rng: np.random.Generator, number: int) -> Example:
        """The example that sample `number` makes of `tokens`."""
        return self.objective.corrupt(tokens, rng, self.shape, number)


def stage_data(
    stage: Stage,
    corpus: Corpus,
    vocabulary: Vocabulary,
    sampling: Sampling,
    *,
    seed: int,
    decoder_start: FirstToken = "eos",
) -> StageData:
    """Windows, shares and samples of a stage; raises BadConfig or BadData where they cannot be."""
    shape = Shape(vocabulary, stage.length, stage.target, decoder_start)
    try:
        window = stage.objective.window_size(shape)
    except ValueError as error:
        raise BadConfig(f"stage {stage.name!r}: {error}") from None
    columns = stage.objective.row_lengths(window, shape)
    found = units(corpus.shards("train"), window)
    require_windows(found)
    shares = sampling.shares({(unit.language, unit.source): unit.tokens for unit in found})
    mixture = Mixture(
        [unit.name for unit in found],
        [len(unit.windows) for unit in found],
        shares,
        languages=[unit.language for unit in found],
        seed=seed,
        stage=stage.name,
    )
    samples = Samples(
        mixture,
        found,
        Corruption(stage.objective, shape),
        Columns(columns.source, columns.target, columns.full, vocabulary.pad),
        languages=corpus.languages,
        seed=seed,
        stage=stage.name,
    )
    return StageData(shape, window, columns, found, shares, samples)


def check_positions(stage: Stage, columns: RowLengths, config: ModelConfig) -> None:
    """Refuse rows longer than the model's position table, where it has one."""
    longest = max(columns.source, columns.target)
    if config.has_learned_positions and longest > config.max_positions:
        raise BadConfig(
            f"stage {stage.name!r}: rows of {longest} tokens exceed the model's {config.max_positions} positions; "
            "shorten length, or give the model more with max_positions"
        )


def check_tokenizer(corpus: Corpus, vocabulary: Vocabulary) -> None:
    """Refuse a corpus whose shards were written with another tokenizer than the one beside them."""
    if corpus.fingerprint != vocabulary.fingerprint:
        raise BadData(
            f"the tokenizer in {corpus.tokenizer_folder} (fingerprint {vocabulary.fingerprint[:12]}) is not the one "
            f"that wrote the shards ({corpus.fingerprint[:12]}); put it back or preprocess again"
        )


def stage_frozen(stage: Stage, config: ModelConfig) -> set[str]:
    """Canonical names of a stage's frozen parameters; raises BadConfig where the patterns make no sense."""
    try:
        return frozen_names(config, stage.freeze)
    except ValueError as error:
        raise BadConfig(f"stage {stage.name!r}: {error}") from None


def flat(value: object, path: str = "") -> dict[str, str]:
    """Nested plain data as dotted paths and texts: what a checkpoint is bound to, and what a difference names."""
    if isinstance(value, Mapping):
        items = [(f"{path}.{key}" if path else str(key), inner) for key, inner in value.items()]
    elif isinstance(value, list | tuple):
        items = [(f"{path}.{index}", inner) for index, inner in enumerate(value)]
    else:
        return {path: str(value)}
    return functools.reduce(lambda left, item: left | flat(item[1], item[0]), items, {})


def init_folder(init: str | None, run: Path, stages: Sequence[str]) -> Path | None:
    """The folder of weights that `init` names: a stage of this run, or a path."""
    if init is None:
        return None
    return run / init / "weights" if init in stages else Path(init)

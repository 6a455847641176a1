"""A recipe of fine-tuning: weights, a method, examples, and how long; its YAML door, as `recipe.py` is another."""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Literal

import yaml

from megas2s.engine import EngineSpec, Zero, data_ranks
from megas2s.engine.base import Precision
from megas2s.engine.optim import AdamW
from megas2s.errors import BadConfig
from megas2s.methods import WRITERS, AnyMethod
from megas2s.models.lowrank import LowRank
from megas2s.recipe import read_overridden
from megas2s.spec import parse, plain, spec
from megas2s.splits import Examples
from megas2s.train.best import Best
from megas2s.train.schedule import Schedule
from megas2s.train.stage import Checkpoints, Log, check_patience
from megas2s.train.watchdog import Watch


@spec
class Reports:
    """What is reported, and how often, in optimizer steps; each report also comes after the last step.

    Dev losses and scores are those of the first `heldout_rows` examples of each language, of all once training is done.
    """

    every: int = 10
    evaluate_every: int = 100  # 0: neither while training nor at its end
    heldout_rows: int = 1000
    tensorboard: bool = True
    profile: int = 0  # step at which DeepSpeed counts FLOPs and bytes sent; 0: none

    def __post_init__(self) -> None:
        for name in ("every", "evaluate_every", "heldout_rows", "profile"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be at least 0, got {getattr(self, name)}")

    @property
    def log(self) -> Log:
        """The same for the loop: reconstructions of noised text there are none."""
        return Log(**dataclasses.asdict(self), samples_every=0)


@spec
class Finetuning:
    """A whole experiment: weights, a method, examples, and how long. Lengths count tokens, special ones included."""

    run: str
    seed: int = 17
    init: str  # a run, a stage, a checkpoint or a folder of weights
    part: Literal["all", "encoder"] = "all"  # what is taken of it
    tokenizer: str | None = None  # folder; the one that lies beside the weights where absent
    method: AnyMethod
    data: Examples
    length: int = 128
    target_length: int | None = None  # of what is written, 64 where absent; methods that write alone
    rows: int = 32  # examples of a step, over all ranks
    micro_batch: int | None = None  # rows per rank and forward pass; all of a rank's where absent
    epochs: float | None = None  # as many samples as so many passes over all examples have, however they are weighed
    steps: int | None = None  # instead of epochs
    dropout: float | None = None  # the weights' own where absent
    new_tokens: tuple[str, ...] = ()  # words that the vocabulary gets beside its own
    max_positions: int | None = None  # rows of the table of positions, where it is to have more than the weights'
    freeze: tuple[str, ...] = ()
    lora: LowRank | None = None  # adapters, beside which all else stands still
    reinitialise: tuple[str, ...] = ()  # patterns of parameters that begin anew, to see what they are worth
    frozen_dropout: bool = False
    schedule: Schedule
    optimizer: AdamW = AdamW()
    precision: Precision = "bf16"
    engine: EngineSpec = Zero()
    activation_checkpointing: bool = False
    workers: int = 0
    patience: float = 1800.0  # seconds without an answer from the other ranks after which one gives up
    trial_step: bool = True
    watch: Watch = Watch()
    log: Reports = Reports()
    checkpoints: Checkpoints = Checkpoints()
    best: Best | None = None  # by the dev set; the last weights where absent

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.epochs is None):
            raise ValueError("state either epochs or steps")
        for name in ("length", "target_length", "rows", "micro_batch", "epochs", "steps"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise ValueError(f"{name} must be above 0 and finite, got {value}")
        if self.target_length is not None and self.method.name not in WRITERS:
            raise ValueError(
                f"target_length is of what is written, and method {self.method.name} writes nothing; leave it out"
            )
        if self.dropout is not None and not 0 <= self.dropout < 1:
            raise ValueError(f"dropout must lie in [0, 1), got {self.dropout}")
        check_patience(self.patience)
        chosen = self.data.dev is not None and self.log.evaluate_every and self.log.heldout_rows
        if self.best is not None and not chosen:
            raise ValueError(
                "best: there is nothing to choose by; give data.dev, log.evaluate_every and log.heldout_rows above 0"
            )
        if self.lora is not None and self.new_tokens and not self.lora.train:
            raise ValueError("new_tokens: with lora their rows would stand still; name the embeddings in lora.train")
        if self.workers < 0:
            raise ValueError(f"workers must not be negative, got {self.workers}")

    def rows_of_a_pass(self, world_size: int) -> int:
        """Rows per rank and forward pass; raises BadConfig where they do not divide."""
        ranks = data_ranks(self.engine, world_size)
        passes = self.micro_batch or max(1, self.rows // ranks)
        if self.rows % (passes * ranks):
            raise BadConfig(
                f"{self.rows} rows do not divide into micro-batches of {passes} on {ranks} ranks; change rows or "
                "micro_batch"
            )
        return passes


def load(path: str | Path, overrides: list[str]) -> Finetuning:
    """The recipe in a YAML file with dotted `key=value` overrides; raises BadConfig with one line per mistake."""
    data = read_overridden(path, overrides, shipped_in="launch/finetuning")
    recipe: Finetuning = parse(Finetuning, data, source=str(path))
    return recipe


def dump(recipe: Finetuning) -> str:
    """The resolved recipe as YAML, loadable again."""
    return yaml.safe_dump(plain(Finetuning, recipe), sort_keys=False, allow_unicode=True)

"""A stage of a recipe: what it starts from, what it trains, on what batch, for how long.

A stage is a run of its own. Model, optimizer and engine are built anew from canonical weights, because DeepSpeed
fixes the trainable set when an engine is initialised (DeepSpeed #5639).
"""

from __future__ import annotations

import math
import re
from typing import Literal

from megas2s.engine import EngineSpec, Zero, data_ranks
from megas2s.engine.base import Precision
from megas2s.engine.optim import AdamW
from megas2s.errors import BadConfig
from megas2s.models.config import Tying
from megas2s.objectives import Objective
from megas2s.spec import spec
from megas2s.train.schedule import Schedule

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
RUN_FOLDERS = ("tokenizer", "logs", "samples", "tensorboard", "heartbeats", "hangs")


@spec
class DecoderStart:
    """How a decoder begins where a stage attaches one: its layers are random, its embeddings may be copies.

    `tying` says which matrices are one (see `models.config.Tying`); `embeddings: copied`, so where absent, starts
    the decoder's embedding and head as copies of the encoder's embedding (AlexaTM 20B, arXiv 2208.01448, section 3).
    `layers: copied` starts self-attention and feed-forward of the decoder's layers as copies of the encoder's (Rothe et
    al. 2020, BERT2BERT). Without `init` there is nothing to copy: all is random.
    """

    tying: Tying = "tied"
    embeddings: Literal["copied", "random"] | None = None
    layers: Literal["copied", "random"] = "random"


@spec
class Stage:
    """One phase of training. Lengths count tokens, special ones included; `batch_tokens` counts rows x `length`."""

    name: str
    init: str | None = None  # an earlier stage, or a folder of canonical weights
    part: Literal["all", "encoder"] = "all"  # what is taken from `init`
    decoder: DecoderStart | None = None
    freeze: tuple[str, ...] = ()  # shell patterns over parameter names
    frozen_dropout: bool = False  # dropout in frozen modules; without it they are the same function at every step
    objective: Objective
    length: int = 512
    target_length: int | None = None  # `length` where absent
    batch_tokens: int
    micro_batch: int | None = None  # rows per rank and forward pass; all of a rank's rows where absent
    steps: int | None = None
    tokens: int | None = None  # instead of steps: ends with the first step that reaches it
    schedule: Schedule
    optimizer: AdamW = AdamW()
    precision: Precision = "bf16"
    engine: EngineSpec = Zero()
    activation_checkpointing: bool = False
    compile: bool = False

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name):
            raise ValueError(f"a stage's name is a folder's name (letters, digits, . _ -), found {self.name!r}")
        if self.name in RUN_FOLDERS:
            raise ValueError(f"a run keeps something else in its folder {self.name!r}; name the stage otherwise")
        if (self.steps is None) == (self.tokens is None):
            raise ValueError("state either steps or tokens")
        for name in ("length", "target_length", "batch_tokens", "micro_batch", "steps", "tokens"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        if self.batch_tokens % self.row_tokens:
            raise ValueError(f"batch_tokens {self.batch_tokens} is not a multiple of the row length {self.row_tokens}")
        if self.part == "encoder" and self.init is None:
            raise ValueError("part: encoder is a part of init:, which is absent; name an earlier stage or a folder")
        if self.part == "encoder" and self.objective.architecture == "seq2seq" and self.decoder is None:
            raise ValueError("part: encoder starts a new decoder here; say how under decoder:")
        if self.decoder is not None and self.objective.architecture == "encoder":
            raise ValueError(f"objective {self.objective.name!r} trains an encoder, which has no decoder:")
        start = self.decoder
        if start is not None and self.init is None and "copied" in (start.embeddings, start.layers):
            key = "embeddings" if start.embeddings == "copied" else "layers"
            raise ValueError(f"decoder.{key}: copied copies what init: brings, which is absent; leave it out")
        if start is not None and self.init is not None and (start.tying, start.embeddings) == ("tied", "random"):
            raise ValueError(
                "tying: tied has one matrix, the one that init: brings, so embeddings cannot be random; "
                "say tied_to_decoder or untied"
            )

    @property
    def target(self) -> int:
        """Longest target row."""
        return self.target_length or self.length

    @property
    def row_tokens(self) -> int:
        """Tokens that a row counts as in `batch_tokens`."""
        return max(self.length, self.target)

    @property
    def rows(self) -> int:
        """Rows of one optimizer step, over all ranks."""
        return self.batch_tokens // self.row_tokens

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the stage."""
        if self.steps is not None:
            return self.steps
        assert self.tokens is not None
        return -(-self.tokens // self.batch_tokens)

    def data_ranks(self, world_size: int) -> int:
        """How many of the ranks read samples of their own; raises BadConfig where they do not fit the engine."""
        try:
            return data_ranks(self.engine, world_size)
        except BadConfig as error:
            raise BadConfig(f"stage {self.name!r}: {error}") from None

    def micro_batches(self, ranks: int) -> int:
        """Forward passes of a data-parallel rank in a step."""
        return self.rows // (ranks * self.micro_batch_rows(ranks))

    def micro_batch_rows(self, ranks: int) -> int:
        """Rows per data-parallel rank and forward pass; raises BadConfig where the batch does not divide."""
        if self.rows % ranks:
            raise BadConfig(
                f"stage {self.name!r}: {self.rows} rows per step (batch_tokens {self.batch_tokens} / "
                f"{self.row_tokens}) are not divisible by {ranks} ranks; change batch_tokens or the ranks"
            )
        rows = self.rows // ranks
        micro_batch = self.micro_batch or rows
        if rows % micro_batch:
            raise BadConfig(
                f"stage {self.name!r}: {rows} rows per rank and step are not divisible by micro_batch {micro_batch}; "
                f"change batch_tokens or micro_batch"
            )
        return micro_batch


@spec
class Log:
    """What is reported, and how often, in optimizer steps; each report also comes after a stage's last step.

    Zero turns held-out losses or samples off, at the last step too. Training losses are written with every checkpoint
    and after the last step even so. `heldout_rows: 0` holds none out: there is nothing to evaluate or to show.
    """

    every: int = 10
    evaluate_every: int = 500
    heldout_rows: int = 32  # per language
    samples_every: int = 2000
    tensorboard: bool = True
    profile: int = 0  # step of each stage at which DeepSpeed counts FLOPs and bytes sent; 0: none

    def __post_init__(self) -> None:
        _refuse_negative(self, "every", "evaluate_every", "heldout_rows", "samples_every", "profile")


@spec
class Checkpoints:
    """When checkpoints are written, in optimizer steps, and which stay."""

    every: int = 1000
    keep_last: int = 2
    keep_every: int = 0  # steps whose multiples are never deleted; 0 keeps none beyond the last ones

    def __post_init__(self) -> None:
        if self.keep_last < 1:
            raise ValueError(f"keep_last must be at least 1, got {self.keep_last}")
        _refuse_negative(self, "every", "keep_every")


def check_patience(seconds: float) -> None:
    """Refuse a time-out that ends before a rank can answer."""
    if not 1 <= seconds < math.inf:
        raise ValueError(f"patience must be at least 1 second and finite, got {seconds}")


def _refuse_negative(values: object, *names: str) -> None:
    for name in names:
        if getattr(values, name) < 0:
            raise ValueError(f"{name} must be at least 0, got {getattr(values, name)}")

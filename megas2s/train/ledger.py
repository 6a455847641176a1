"""What a recipe costs: tokens, FLOPs, training units, time, and the saving against training both models from scratch.

FLOPs come from `flops.py`. Training units are the coarser count in which the 27 % of Soltan et al. 2023 (arXiv
2306.08756) are stated: a 12-layer encoder of width 1024 costs 1.0 per 100 000 updates of 2^20 tokens, a 12-layer
decoder 1.4 for its cross-attention, and a frozen stack half of what it costs to train:

    units = steps / 100 000 x batch tokens / 2^20 x (width / 1024)^2 x (1.0 encoder layers + 1.4 decoder layers) / 12

The published recipe has one width and one batch; that units grow with the matrices and the tokens is our reading.
Units know neither lengths nor vocabulary and overrate a frozen forward pass, which is a third of a training step;
so both counts are always shown side by side.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from megas2s.errors import BadConfig
from megas2s.labels import IGNORED
from megas2s.models.config import ModelConfig
from megas2s.models.parameters import parameter_shapes
from megas2s.objectives.base import Objective, RowLengths, Shape
from megas2s.rng import generator
from megas2s.tokenizer.vocab import Vocabulary
from megas2s.train.assemble import check_positions, stage_frozen
from megas2s.train.flops import Flops, Shapes, StepSize, depth, step_breakdown
from megas2s.train.stage import Stage

UNIT_STEPS = 100_000
UNIT_TOKENS = 1 << 20
UNIT_WIDTH = 1024
UNIT_LAYERS = 12
STACK_UNITS = {"encoder": 1.0, "decoder": 1.4}
FROZEN_SHARE = 0.5
SAMPLED_ROWS = 64  # rows drawn to learn how many positions a padded objective predicts
SECONDS_PER_DAY = 86_400


class Device(NamedTuple):
    """A GPU: its dense bf16 peak in FLOP/s, and the memory in GiB that a program finds."""

    flops: float
    memory: float


# By the words that must occur in the device's name; the entry with the most words wins. SXM parts unless said.
PEAKS = {
    "b200": Device(2250e12, 178),
    "h200": Device(989e12, 139),
    "gh200": Device(989e12, 94),
    "h100": Device(989e12, 79),
    "h100 nvl": Device(835e12, 93),
    "h100 pcie": Device(756e12, 79),
    "h800": Device(989e12, 79),
    "a100": Device(312e12, 79),
    "a100 40gb": Device(312e12, 39),
    "a800": Device(312e12, 79),
    "a10": Device(125e12, 22),
    "l40s": Device(362e12, 44),
    "l4": Device(121e12, 22),
    "mi300x": Device(1307e12, 191),
}


def device(name: str) -> Device | None:
    """The entry of `PEAKS` for a device's name as torch gives it, for example 'NVIDIA H100 80GB HBM3'."""
    words = set(re.findall(r"[a-z0-9]+", name.lower()))
    fitting = [entry for entry in PEAKS if words.issuperset(entry.split())]
    return PEAKS[max(fitting, key=lambda entry: len(entry.split()))] if fitting else None


def peak_flops(name: str) -> float | None:
    """Dense bf16 FLOP/s of a device; None where it is unknown, as on a CPU, and MFU cannot be stated."""
    found = device(name)
    return found.flops if found else None


def step_size(objective: Objective, shape: Shape, *, rows: int) -> StepSize:
    """What a step of `rows` windows shows the model, every view of them counted as a row.

    Where rows are padded, predicted positions are a rounded mean.
    """
    tokens = objective.window_size(shape)
    lengths = objective.row_lengths(tokens, shape)
    ordinary = shape.vocabulary.ordinary
    window = ordinary[np.arange(tokens) % len(ordinary)].astype(np.int64)
    drawn = range(1 if lengths.full else SAMPLED_ROWS)
    examples = [objective.corrupt(window.copy(), generator(0, "ledger", n), shape, n) for n in drawn]
    labels = [example["labels"] for example in examples]
    predicted = sum(row.size if lengths.full else int((row != IGNORED).sum()) for row in labels)
    marked = [example["encoder_labels"] for example in examples if "encoder_labels" in example]
    restored = sum(int((row != IGNORED).sum()) for row in marked)
    return StepSize(
        rows * objective.views,
        lengths.source,
        lengths.target,
        round(predicted / len(labels)),
        classed=lengths.source // objective.views if marked else 0,  # one view has labels of the encoder's own
        restored=round(restored / len(labels) / objective.views),
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Work:
    """A stage as the ledger sees it."""

    name: str
    shapes: Shapes
    frozen: frozenset[str] = frozenset()
    size: StepSize
    batch_tokens: int
    steps: int
    views: int = 1  # passes of each window through the model

    @property
    def is_seq2seq(self) -> bool:
        """Whether it trains an encoder-decoder."""
        return depth(self.shapes, "decoder") > 0


def work_of(stage: Stage, config: ModelConfig, vocabulary: Vocabulary) -> Work:
    """The work of a recipe's stage on the model that it trains; raises BadConfig where the two do not fit."""
    try:
        shape = Shape(vocabulary, stage.length, stage.target, config.decoder_start)
        size = step_size(stage.objective, shape, rows=stage.rows)
    except ValueError as error:
        raise BadConfig(f"stage {stage.name!r}: {error}") from None
    check_positions(stage, RowLengths(size.source, size.target, full=True), config)
    return Work(
        name=stage.name,
        shapes=parameter_shapes(config),
        frozen=frozenset(stage_frozen(stage, config)),
        size=size,
        batch_tokens=stage.batch_tokens,
        steps=stage.total_steps,
        views=stage.objective.views,
    )


class Cost(NamedTuple):
    """What a stage, or several, cost."""

    tokens: int
    flops: int
    units: float

    def plus(self, other: Cost) -> Cost:
        """Both together."""
        return Cost(self.tokens + other.tokens, self.flops + other.flops, self.units + other.units)


class Saving(NamedTuple):
    """A recipe beside its two models trained from scratch; shares of the latter."""

    recipe: Cost
    scratch: Cost
    scratch_steps: int  # of each of the two models

    @property
    def units(self) -> float:
        """Share of the training units saved."""
        return 1 - self.recipe.units / self.scratch.units

    @property
    def flops(self) -> float:
        """Share of the FLOPs saved."""
        return 1 - self.recipe.flops / self.scratch.flops


def cost(work: Work) -> Cost:
    """What one stage costs."""
    return Cost(work.steps * work.batch_tokens, work.steps * per_step(work).total, training_units(work))


def per_step(work: Work) -> Flops:
    """Where the FLOPs of one step go."""
    return step_breakdown(work.shapes, work.size, frozen=work.frozen)


def total_cost(works: Sequence[Work]) -> Cost:
    """What stages cost together."""
    total = Cost(0, 0, 0.0)
    for work in works:
        total = total.plus(cost(work))
    return total


def training_units(work: Work) -> float:
    """Training units of a stage; see the head of this module."""
    width = work.shapes["encoder.layers.0.ffn.down.weight"][0]
    read = work.batch_tokens * work.views
    scale = work.steps / UNIT_STEPS * read / UNIT_TOKENS * (width / UNIT_WIDTH) ** 2 / UNIT_LAYERS
    layers = 0.0
    for stack, units in STACK_UNITS.items():
        still = _frozen_layers(work, stack)
        layers += units * (depth(work.shapes, stack) - still + FROZEN_SHARE * still)
    return scale * layers


def from_scratch(works: Sequence[Work]) -> tuple[Work, Work] | None:
    """The two runs that a recipe for an encoder and an encoder-decoder replaces; None where it trains only one kind.

    Each model trains as long as the recipe trains the first one from random weights, that is for the steps of the
    leading stages of one kind, on the batches of the recipe's own last stage of its kind, with nothing frozen. For
    500 : 200 : 150 that is 500 of MLM and 500 of denoising. That the recipe's models are then equally good is the
    paper's finding and no arithmetic.
    """
    kinds = {work.is_seq2seq: work for work in works}
    if len(kinds) < 2:
        return None
    steps = 0
    for work in works:
        if work.is_seq2seq != works[0].is_seq2seq:
            break
        steps += work.steps
    encoder, seq2seq = (
        dataclasses.replace(kinds[kind], name=name, frozen=frozenset(), steps=steps)
        for kind, name in ((False, "encoder from scratch"), (True, "seq2seq from scratch"))
    )
    return encoder, seq2seq


def saving(works: Sequence[Work]) -> Saving | None:
    """What a recipe saves against `from_scratch`; None where there is nothing to compare with."""
    scratch = from_scratch(works)
    return Saving(total_cost(works), total_cost(scratch), scratch[0].steps) if scratch else None


def days(flops: float, *, gpus: int, peak: float, mfu: float) -> float:
    """Days that `gpus` devices need at a share `mfu` of their peak."""
    return flops / (gpus * peak * mfu) / SECONDS_PER_DAY


def _frozen_layers(work: Work, stack: str) -> int:
    layers = [f"{stack}.layers.{index}." for index in range(depth(work.shapes, stack))]
    return sum(all(name in work.frozen for name in work.shapes if name.startswith(layer)) for layer in layers)

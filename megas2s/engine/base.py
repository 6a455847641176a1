"""What an engine is: one optimizer step over a rank's micro-batches, and a canonical state to save and load.

    engine.train_step(micro_batches, step=7, lr=1e-4)   forward, backward, clip, update
    engine.evaluate(micro_batches)                      forward only
    engine.values()                                     canonical names, full tensors, fp32

Losses arrive as named parts with sums; an engine divides each part by its *global* count over ranks and
micro-batches, taken from the labels before the first backward pass: means of means would weigh a token by the
padding of its neighbours.

Only canonical parameter names and full tensors leave an engine, so a checkpoint does not know which engine, ZeRO
stage or number of ranks wrote it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from megas2s import dist
from megas2s.engine.optim import UNSAID, AdamW, Depths
from megas2s.models.output import ModelOutput, Reader
from megas2s.models.parameters import Values
from megas2s.models.parts import Cut
from megas2s.models.transformer import Network

Batch = dict[str, Tensor]
Precision = Literal["bf16", "fp16", "fp32"]
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
MOMENTS = ("exp_avg", "exp_avg_sq")


class LossPart(Protocol):
    """One term of a loss; see `objectives.base.Part`."""

    @property
    def total(self) -> Tensor:
        """Scalar with a graph."""

    @property
    def weight(self) -> float | None:
        """Factor of this term in the loss that is minimised; None of a measure."""

    @property
    def row_totals(self) -> Tensor:
        """(B,) without a graph."""

    @property
    def row_counts(self) -> Tensor | None:
        """(B,) of a measure."""


class Losses(Protocol):
    """The half of an objective that an engine needs."""

    def counts(self, batch: Batch) -> Mapping[str, Tensor]:
        """Per part, the items each row contributes: (B,)."""

    def inputs(self, batch: Batch) -> Batch:
        """What the model reads of a batch."""

    def loss(self, output: ModelOutput, batch: Batch, step: int | None = None) -> Mapping[str, LossPart]:
        """The parts for one micro-batch, with the weights of a step."""

    def predictions(self, model: Reader, batch: Batch) -> Tensor:
        """What the model says of each row, (B, ...); every rank passes as many rows."""


class Profile(NamedTuple):
    """Which step DeepSpeed's profilers look at, and where what they saw is written."""

    step: int
    folder: Path
    name: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Setup:
    """Everything an engine needs to begin a stage."""

    build: Callable[..., Network]  # the model, or a `Span` of it: weights empty, frozen parameters marked
    initial: Values  # canonical name -> starting value in fp32
    losses: Losses
    optimizer: AdamW
    precision: Precision
    micro_batch: int  # rows per rank and forward pass
    micro_batches: int  # forward passes per optimizer step
    languages: int
    dropout_seed: Callable[[int, int, int], int]  # (step, micro-batch, rank) -> seed
    depths: Depths = UNSAID
    cut: Cut | None = None  # the parts of a pipeline
    profile: Profile | None = None  # the step that is looked at


class StepResult(NamedTuple):
    """What one optimizer step leaves behind. `sums` is this rank's share; see `Sums`."""

    sums: Tensor
    grad_norm: float
    skipped: bool  # a gradient was no finite number, so nothing moved; in fp16 the scale was lowered
    own_seconds: float = 0.0  # of forward passes in which this rank waited for no other; see `train.stragglers`


class Engine(Protocol):
    """One stage's training, on one device or many. Methods are collective: every rank calls them in step."""

    def part_weights(self) -> dict[str, float | None]:
        """The parts and measures of the last forward pass with their weights, in the order of `Sums`."""

    def train_step(self, batches: Sequence[Batch], *, step: int, lr: float) -> StepResult:
        """One optimizer step over this rank's micro-batches."""

    def evaluate(self, batches: Sequence[Batch]) -> Tensor:
        """`Sums` of this rank's rows, without dropout and without gradients."""

    def predict(self, batch: Batch) -> Tensor:
        """What the objective takes from the model for one batch, (B, ...). Every rank passes as many rows."""

    def values(self) -> Iterator[tuple[str, Tensor]]:
        """Every parameter under its canonical name, full and in fp32, one at a time, on every rank.

        A frozen parameter comes as it was loaded, not as it was rounded to compute with, and to rank 0 alone.
        """

    def moments(self) -> Iterator[tuple[str, Tensor]]:
        """The optimizer's MOMENTS of every trainable parameter, as `kind.name`; none before the first step."""

    def trainable(self) -> int:
        """How many numbers train, over all ranks: each has its MOMENTS."""

    def counters(self) -> dict[str, float]:
        """Scalars beside the state: the optimizer's own step and, in fp16, the loss scale."""

    def load_moments(self, moments: Values | None, counters: Mapping[str, float]) -> None:
        """Put the optimizer where `moments()`, by the same names, and `counters` left it.

        None stands for zeros: the state before the first step.
        """

    def close(self) -> None:
        """Give back what the engine holds."""


class TrainedModel(nn.Module):
    """The model and its objective as one module, so that every parameter is used inside one forward pass.

    ZeRO-3 gathers a parameter around the forward pass of the module that holds it; a projection onto the vocabulary
    computed outside would find its weight scattered.
    """

    def __init__(self, model: Network, losses: Losses) -> None:
        super().__init__()
        self.model = model
        self.losses = losses
        self.part_weights: dict[str, float | None] = {}

    def forward(
        self, batch: Batch, divisors: Mapping[str, Tensor] | None, step: int | None = None
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss to minimise (scalar), and each part's sum and count row by row, (B, 2).

        Without divisors `predictions`.
        """
        if divisors is None:
            return self.losses.predictions(self.model, batch), {}
        loss, rows, self.part_weights = weighed(
            self.losses, self.model(self.losses.inputs(batch)), batch, divisors, step
        )
        return loss, rows


def weighed(
    losses: Losses, output: ModelOutput, batch: Batch, divisors: Mapping[str, Tensor], step: int | None
) -> tuple[Tensor, dict[str, Tensor], dict[str, float | None]]:
    """The loss to minimise (scalar), each part's sum and count row by row (B, 2), and the parts' weights."""
    parts = losses.loss(output, batch, step)
    terms = [part.weight * part.total / divisors[name] for name, part in parts.items() if part.weight is not None]
    counts = losses.counts(batch)
    pairs = {
        name: (part.row_totals, counts[name] if part.row_counts is None else part.row_counts)
        for name, part in parts.items()
    }
    rows = {name: torch.stack(pair, -1) for name, pair in pairs.items()}
    return torch.stack(terms).sum(), rows, {name: part.weight for name, part in parts.items()}


class Sums:
    """Per part and language, a sum of losses and a count of items: the tensor (parts, languages, 2) in float64."""

    def __init__(self, languages: int, device: torch.device) -> None:
        self._languages = languages
        self._device = device
        self._values: Tensor | None = None

    def add(self, batch: Batch, rows: Mapping[str, Tensor]) -> None:
        """Count one micro-batch in: per part the sum and the count of its rows, (B, 2)."""
        if self._values is None:
            shape = (len(rows), self._languages, 2)
            self._values = torch.zeros(shape, dtype=torch.float64, device=self._device)
        languages = torch.arange(self._languages, device=self._device)
        belongs = (batch["language"].unsqueeze(1) == languages).unsqueeze(-1)  # (B, languages, 1)
        for index, pairs in enumerate(rows.values()):
            # Not index_add_: on a GPU its rows are added in any order, so the last bits of a log would differ.
            self._values[index] += torch.where(belongs, pairs.double().unsqueeze(1), 0.0).sum(0)

    def tensor(self) -> Tensor:
        """(parts, languages, 2)."""
        if self._values is None:
            raise ValueError("no batch has been counted")
        return self._values


@torch.no_grad()
def evaluate(trained: nn.Module, setup: Setup, batches: Sequence[Batch], device: torch.device) -> Tensor:
    """`Sums` of the rows of `batches`, without dropout and gradients."""
    trained.eval()
    sums = Sums(setup.languages, device)
    for batch in (to_device(batch, device) for batch in batches):
        ones = {part: torch.ones((), device=device) for part in setup.losses.counts(batch)}
        sums.add(batch, trained(batch, ones)[1])
    return sums.tensor()


@torch.no_grad()
def predict(trained: nn.Module, batch: Batch, device: torch.device) -> Tensor:
    """What the objective takes from the model: (B, ...)."""
    trained.eval()
    best: Tensor = trained(to_device(batch, device), None)[0]
    return best


def to_device(batch: Batch, device: torch.device) -> dict[str, Tensor]:
    """The batch on `device`; the copy overlaps with work where the batch is in pinned memory."""
    return {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}


def global_divisors(losses: Losses, batches: Sequence[Batch]) -> dict[str, Tensor]:
    """Per part, its count over all micro-batches and ranks, at least 1: what its sum is divided by."""
    totals: dict[str, Tensor] = {}
    for batch in batches:
        for part, count in losses.counts(batch).items():
            totals[part] = totals.get(part, 0.0) + count.double().sum()
    counted = dist.sum_over_ranks(torch.stack(list(totals.values())))
    return {part: value.clamp(min=1.0) for part, value in zip(totals, counted, strict=True)}

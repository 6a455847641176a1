"""Several objectives in one stage, each for an exact share of the samples.

    - {share: 0.8, objective: {name: denoising, noise: delete}}
    - {share: 0.2, objective: {name: clm}}                            AlexaTM 20B, section 3

Which objective a sample gets depends on its number alone, dealt out like languages are (`data/mixture.py`). All read
windows of one size, the smallest among them; rows are padded to the longest. The loss has one part per objective,
the mean over its own tokens, weighted by its share.
"""

from __future__ import annotations

import functools
import math
from typing import Annotated, Literal

import numpy as np
from pydantic import Discriminator
from torch import Tensor

from megas2s.data.mixture import Quotas, integer_shares
from megas2s.labels import IGNORED
from megas2s.models.output import ModelOutput
from megas2s.objectives.base import Batch, Example, Part, Plain, RowLengths, Shape
from megas2s.objectives.clm import CLM
from megas2s.objectives.denoising import Denoising
from megas2s.objectives.mass import MASS
from megas2s.objectives.span_corruption import SpanCorruption
from megas2s.spec import spec

Reconstruction = Denoising | SpanCorruption | MASS | CLM  # what an encoder-decoder learns, alone or in a mixture


@spec
class Component:
    """One objective of a mixture and its share of the samples, relative to the others'."""

    share: float
    objective: Annotated[Reconstruction, Discriminator("name")]

    def __post_init__(self) -> None:
        if not 0 < self.share < math.inf:
            raise ValueError(f"share must be above 0 and finite, got {self.share}")


@spec
class ObjectiveMixture(Plain):
    """Sequence-to-sequence objectives side by side in every batch."""

    name: Literal["mixture"] = "mixture"
    parts: tuple[Component, ...]

    def __post_init__(self) -> None:
        if not self.parts:
            raise ValueError("a mixture needs at least one part")

    @property
    def architecture(self) -> Literal["seq2seq"]:
        """An encoder-decoder."""
        return "seq2seq"

    @property
    def part_names(self) -> tuple[str, ...]:
        """What each part is called in logs: its objective's name, numbered where two share one."""
        names = [part.objective.name for part in self.parts]
        return tuple(f"{name}_{index}" if names.count(name) > 1 else name for index, name in enumerate(names))

    def window_size(self, shape: Shape) -> int:
        """The smallest window among the parts. A sentinel that opens sources in one part is no span's in another."""
        objectives = [part.objective for part in self.parts]
        denoisers = [objective for objective in objectives if isinstance(objective, SpanCorruption)]
        modes = max((denoiser.modes for denoiser in denoisers), default=0)
        sizes = [denoiser.window_size(shape, modes=modes) for denoiser in denoisers]
        sizes += [objective.window_size(shape) for objective in objectives if not isinstance(objective, SpanCorruption)]
        return min(sizes)

    def row_lengths(self, tokens: int, shape: Shape) -> RowLengths:
        """Room for the longest rows among the parts."""
        each = {part.objective.row_lengths(tokens, shape) for part in self.parts}
        return RowLengths(
            source=max(lengths.source for lengths in each),
            target=max(lengths.target for lengths in each),
            full=len(self.parts) == 1 and all(lengths.full for lengths in each),
        )

    def corrupt(self, tokens: np.ndarray, rng: np.random.Generator, shape: Shape, number: int) -> Example:
        """The example of the objective whose turn this number is, and `component`, which one that was."""
        component, _ = _quotas(tuple(part.share for part in self.parts))[number]
        example = self.parts[component].objective.corrupt(tokens, rng, shape, number)
        return {**example, "component": np.array(component)}

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        """The items of each part in the rows that are its own, 0 in the others."""
        found = {}
        for index, (name, part) in enumerate(zip(self.part_names, self.parts, strict=True)):
            (found[name],) = part.objective.counts(_labels_of(index, batch)).values()
        return found

    def loss(self, output: ModelOutput, batch: Batch, step: int | None = None) -> dict[str, Part]:
        """Each objective's own loss on its own rows; one without rows here is 0, so that every rank runs every head."""
        shares = sum(part.share for part in self.parts)
        found = {}
        for index, (name, part) in enumerate(zip(self.part_names, self.parts, strict=True)):
            (own,) = part.objective.loss(output, _labels_of(index, batch)).values()
            found[name] = own._replace(weight=part.share / shares)
        return found


def _labels_of(component: int, batch: Batch) -> Batch:
    """The batch with labels in the rows of one component alone."""
    others = (batch["component"] != component).unsqueeze(1)
    return {**batch, "labels": batch["labels"].masked_fill(others, IGNORED)}


@functools.lru_cache(maxsize=8)
def _quotas(shares: tuple[float, ...]) -> Quotas:
    return Quotas(integer_shares(shares), 0, "objective")

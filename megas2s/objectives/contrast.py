"""The contrast of sentences: NT-Xent between two views of each window (Chen et al. 2020; E2S2, Zhong et al. 2022).

    z        unit vectors of both views of the N windows of a group: 2 N anchors
    l(a, b)  -log( exp(a.b / t) / sum over the 2 N - 1 others of exp(a.z / t) )
    L_cl     the sum over pairs of (l(a, b) + l(b, a)) / 2

The negatives of an anchor are both views of the other windows of its group. Which windows those are is decided by their
numbers, not by the layout: a group lies inside a micro-batch, or is one micro-batch over all ranks, whose vectors are
gathered with their gradient.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from megas2s import dist
from megas2s.objectives.base import Part, measure
from megas2s.objectives.losses import at_positions, check_weight, warmed
from megas2s.objectives.prompts import DEFAULT_PROMPTS, check_template
from megas2s.spec import spec

MASKS = ("attention_mask", "second_attention_mask")  # of the two views, where rows are padded


@spec
class Contrasting:
    """The contrast of the views of each window among `group` windows, samples kN to kN + N - 1.

    A sentence is a window, or a piece of about `segment_length` tokens of one, and is represented by the mean of its
    states, by the first, or by that of the mask in a prompt around it (one template per view; X is the text).
    """

    weight: float = 0.05
    warm_in_steps: int = 0  # the weight grows linearly over so many steps
    group: int
    temperature: float = 1.0
    representation: Literal["mean", "first", "prompt"] = "mean"
    prompts: tuple[str, str] | None = None  # DEFAULT_PROMPTS where absent
    segment_length: int | None = None  # the whole window where absent

    def __post_init__(self) -> None:
        check_weight(self.weight, self.warm_in_steps)
        if self.group < 1 or (self.group == 1 and self.segment_length is None):
            raise ValueError(f"group {self.group}: a sentence needs others to be told from; compare at least 2")
        if not 0 < self.temperature < math.inf:
            raise ValueError(f"temperature must be above 0 and finite, got {self.temperature}")
        if self.prompts is not None and self.representation != "prompt":
            raise ValueError("prompts are read by representation: prompt alone; say so, or leave them out")
        if self.segment_length is not None and self.representation != "mean":
            raise ValueError(
                f"segment_length cuts a mean of states; representation: {self.representation} has one per window"
            )
        if self.segment_length is not None and self.segment_length < 1:
            raise ValueError(f"segment_length must be at least 1, got {self.segment_length}")
        for template in self.templates:
            check_template(template)

    @property
    def templates(self) -> tuple[str, ...]:
        """What is written around the text of each view; none but for prompts."""
        return (self.prompts or DEFAULT_PROMPTS) if self.representation == "prompt" else ()

    def units(self, columns: int) -> int:
        """Sentences in each row of so many columns."""
        return max(1, columns // self.segment_length) if self.segment_length else 1

    def check_layout(self, micro_batch: int, world_size: int) -> None:
        """Refuse groups that micro-batches split: their losses would depend on the layout."""
        everyone = micro_batch * world_size
        if micro_batch % self.group and self.group != everyone:
            sizes = [size for size in range(2, micro_batch + 1) if micro_batch % size == 0]
            fitting = sorted({*sizes, everyone} - {1})
            remedy = f"take {' or '.join(map(str, fitting))}, or change micro_batch" if fitting else "raise micro_batch"
            raise ValueError(
                f"contrast.group {self.group}: a group lies inside one micro-batch, of {micro_batch} rows here, or is "
                f"one micro-batch over all ranks, {everyone} rows; {remedy}"
            )

    def counts(self, batch: dict[str, Tensor]) -> Tensor:
        """The sentences of each row that have others to be told from, (B,); collective where a group is gathered.

        None where a row only fills a batch up, nor where all others of its group do.
        """
        real, units = batch["sample"] >= 0, self.units(batch["input_ids"].shape[1])
        everyone = dist.gather(real.float()) if self.group > len(real) else real.float()
        together = everyone.view(-1, self.group).sum(1).repeat_interleave(self.group) * units
        # Over all ranks there is one group, of which every rank's rows are alike.
        return (real & (together[: len(real)] > 1)).float() * units

    def parts(self, states: tuple[Tensor, ...], batch: dict[str, Tensor], step: int | None) -> dict[str, Part]:
        """The loss of the states of both views, (B, S, D) each, and how often a sentence finds its pair."""
        units = self.units(batch["input_ids"].shape[1])
        first, second = (self.sentences(hidden, batch, view).flatten(0, 1) for view, hidden in enumerate(states))
        real = (batch["sample"] >= 0).repeat_interleave(units)
        told = contrast(first, second, group=self.group * units, temperature=self.temperature, real=real)
        losses, hits = (values.view(-1, units).sum(1) for values in told)
        return {
            "contrast": Part(losses.sum(), warmed(self.weight, self.warm_in_steps, step), losses.detach()),
            "contrast_accuracy": measure(hits, self.counts(batch)),
        }

    def sentences(self, hidden: Tensor, batch: dict[str, Tensor], view: int) -> Tensor:
        """The sentences of a view's rows: (B, S, D) -> (B, units, D) float32."""
        if self.representation == "first":
            return hidden[:, :1].float()
        if self.representation == "prompt":
            return at_positions(hidden, batch["prompt_positions"][:, view : view + 1]).float()
        columns, units = hidden.shape[1], self.units(hidden.shape[1])
        places, pieces = (torch.arange(count, device=hidden.device) for count in (columns, units))
        mask = batch.get(MASKS[view])
        lengths = torch.full_like(batch["sample"], columns) if mask is None else mask.sum(1)
        piece = places * units // lengths.clamp(min=1).unsqueeze(1)  # (B, S); past a row's end it is none
        belongs = (piece.unsqueeze(1) == pieces[:, None]).float()  # (B, units, S)
        return (belongs @ hidden.float()) / belongs.sum(-1, keepdim=True).clamp(min=1.0)


class Contrast(NamedTuple):
    """What a contrast leaves, window by window, of this rank's windows."""

    losses: Tensor  # (B,) with a graph: half of each direction
    found: Tensor  # (B,) float without a graph: the share of its two anchors whose pair was the nearest


def contrast(first: Tensor, second: Tensor, *, group: int, temperature: float, real: Tensor | None = None) -> Contrast:
    """NT-Xent of two views (B, D) of this rank's windows in groups of `group`, B of them or B on each rank together.

    A group larger than B is gathered over the ranks. Rows that only fill a batch up are False in `real` (B,): they are
    nobody's negatives and their loss is 0. Sums and products are in float32.
    """
    rows = len(first)
    real = torch.ones(rows, dtype=torch.bool, device=first.device) if real is None else real
    if group > rows:
        first, second, real = dist.gather(first), dist.gather(second), dist.gather(real.float()) > 0
    if len(first) % group:
        raise ValueError(f"{len(first)} windows do not divide into groups of {group}")
    views = F.normalize(torch.stack([first.float(), second.float()]), dim=-1)  # (2, N, D)
    grouped = views.view(2, -1, group, views.shape[-1]).transpose(0, 1).flatten(1, 2)  # (groups, 2 group, D)
    scores = grouped @ grouped.transpose(1, 2) / temperature
    itself = torch.eye(2 * group, dtype=torch.bool, device=scores.device)
    counts = real.view(-1, group).repeat(1, 2)  # (groups, 2 group)
    others = counts.unsqueeze(1) & counts.unsqueeze(2) & ~itself
    scores = scores.masked_fill(~(others | itself.roll(group, 1)), -torch.inf)
    pair = torch.arange(2 * group, device=scores.device).roll(group)
    each = F.cross_entropy(scores.flatten(0, 1), pair.repeat(len(scores)), reduction="none")
    told = counts & (counts.sum(1, keepdim=True) > 2)  # a sentence and its pair alone are no choice
    hits = ((scores.detach().argmax(-1) == pair) & told).float()
    own = slice(dist.data_place().rank * rows, (dist.data_place().rank + 1) * rows) if group > rows else slice(rows)
    losses, found = (values.view(-1, 2, group).mean(1).flatten()[own] for values in (each, hits))
    return Contrast(losses, found)

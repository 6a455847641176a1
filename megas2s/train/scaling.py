"""A step on so many GPUs: what one computes, sends and holds, and between which two times the step takes.

compute    the step's FLOPs / (GPUs x peak x MFU), and in a pipeline / (1 - bubble)
sending    bytes that a GPU sends (`communication.py`) / the speed of its link in a ring over all GPUs
step       at least the longer of the two, where all sending hides behind computing; at most their sum
"""

from __future__ import annotations

from typing import NamedTuple

from megas2s.models.config import ModelConfig
from megas2s.models.parts import Span
from megas2s.train.communication import Traffic, stage_traffic
from megas2s.train.flops import step_flops
from megas2s.train.ledger import Work
from megas2s.train.memory import Memory, stage_memory, stage_spans
from megas2s.train.placement import bubble, unit_costs
from megas2s.train.stage import Stage


class Scaled(NamedTuple):
    """One stage on so many GPUs; times in seconds a step."""

    gpus: int
    micro_batch: int  # rows of a forward pass
    micro_batches: int  # of a rank in a step
    memory: Memory  # of the fullest GPU
    traffic: Traffic  # of the GPU that sends the most
    spans: tuple[Span, ...]  # of a pipeline's parts
    parts: tuple[float, ...]  # share of each in a step's FLOPs
    waiting: float  # share of a pipeline's time in which its parts wait for each other
    compute: float
    sending: float

    @property
    def fastest(self) -> float:
        """Where all sending hides behind computing."""
        return max(self.compute, self.sending)

    @property
    def slowest(self) -> float:
        """Where none does."""
        return self.compute + self.sending


def scaled(stage: Stage, config: ModelConfig, work: Work, *, gpus: int, peak: float, mfu: float, link: float) -> Scaled:
    """A stage on `gpus` devices of `peak` FLOP/s, each sending `link` bytes/s; BadConfig where it does not divide."""
    ranks = stage.data_ranks(gpus)
    micro_batches = stage.micro_batches(ranks)
    spans = stage_spans(stage, config, work)
    costs = unit_costs(work.shapes, work.size, frozen=work.frozen, recomputed=stage.activation_checkpointing)
    parts = tuple(sum(costs[span.first : span.stop]) / sum(costs) for span in spans)
    waiting = bubble(parts, micro_batches) if parts else 0.0
    traffic = max(stage_traffic(stage, config, work, gpus=gpus), key=lambda part: part.total)
    compute = step_flops(work.shapes, work.size, frozen=work.frozen) / (gpus * peak * mfu * (1 - waiting))
    return Scaled(
        gpus=gpus,
        micro_batch=stage.micro_batch_rows(ranks),
        micro_batches=micro_batches,
        memory=max(stage_memory(stage, config, work, gpus=gpus), key=lambda part: part.peak),
        traffic=traffic,
        spans=spans,
        parts=parts,
        waiting=waiting,
        compute=compute,
        sending=traffic.total / link,
    )

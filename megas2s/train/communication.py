"""Bytes that one GPU sends in an optimizer step: weights, gradients, and what passes between the parts of a pipeline.

P parameters of e bytes, of which T train; N data ranks; M micro-batches. Rings: gathering or scattering n bytes sends
n (N - 1) / N from each rank, adding up on every rank twice that.

    ZeRO-0     gradients  2 e T (N - 1) / N                      once a step
    ZeRO-1     the same, and weights  e T (N - 1) / N
    ZeRO-2     gradients  2 e T M (N - 1) / N: DeepSpeed 0.19 adds up whole buckets after each micro-batch
    ZeRO-3     gradients  e T M (N - 1) / N; weights  e P M (N - 1) / N, and again in each backward pass what trains
               beyond half of stage3_max_reuse_distance (twice what lies above a layer lies between its two uses);
               what is no larger than stage3_param_persistence_threshold is gathered once a step
    pipeline   as ZeRO-1, of each part alone; states e D (S, or S + T behind the first decoder layer) a row and border,
               and their gradients back; fp32 gradients of a matrix that several parts hold, added up among them

Tests compare this with what DeepSpeed logs (`log.profile`). Norms, losses and other single numbers are left out.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

from megas2s.models.config import ModelConfig
from megas2s.models.parts import Span, held, moving_states
from megas2s.train.flops import Shapes
from megas2s.train.ledger import Work
from megas2s.train.memory import ELEMENT_BYTES, FP32, Sharding, sharding, stage_spans
from megas2s.train.stage import Stage


class Traffic(NamedTuple):
    """Bytes that one GPU sends in a step."""

    weights: int = 0
    gradients: int = 0
    states: int = 0  # between the parts of a pipeline, and their gradients
    copies: int = 0  # gradients of matrices that several parts hold

    @property
    def total(self) -> int:
        """All of them."""
        return sum(self)


def stage_traffic(stage: Stage, config: ModelConfig, work: Work, *, gpus: int) -> list[Traffic]:
    """What a GPU sends in a step of a stage; in a pipeline, one of each part."""
    ranks = stage.data_ranks(gpus)
    micro_batches = stage.micro_batches(ranks)
    element = ELEMENT_BYTES[stage.precision]
    spread = sharding(stage.engine, ranks=ranks)
    spans = stage_spans(stage, config, work)
    if not spans:
        return [model_traffic(work.shapes, work.frozen, spread, element, micro_batches)]
    holders = [held(config, span) for span in spans]
    states = _states(config, work, spans, rows=work.size.rows // ranks)
    found = []
    for number, names in enumerate(holders):
        own = {name: work.shapes[name] for name in names}
        shared = {name: sum(name in others for others in holders) for name in names if name not in work.frozen}
        copies = sum(_summed(FP32 * math.prod(own[name]), parts) for name, parts in shared.items())
        traffic = model_traffic(own, work.frozen, spread, element, micro_batches)
        found.append(traffic._replace(states=element * config.hidden_size * states[number], copies=copies))
    return found


def model_traffic(
    shapes: Shapes, frozen: frozenset[str], spread: Sharding, element: int, micro_batches: int
) -> Traffic:
    """Weights and gradients of the parameters in `shapes`, spread over data ranks."""
    every, training = _numbers(shapes), _numbers({name: shapes[name] for name in shapes if name not in frozen})
    ranks = spread.ranks
    if spread.zero_stage < 3:
        times = micro_batches if spread.zero_stage == 2 else 1
        gradients = times * _summed(element * training, ranks)
        return Traffic(_gathered(element * training, ranks) if spread.zero_stage else 0, gradients)
    kept = sum(size for size in map(math.prod, shapes.values()) if size <= spread.persistent)
    again = max(0, training - kept - spread.reuse // 2)
    passed = kept + micro_batches * (every - kept + again)
    return Traffic(_gathered(element * passed, ranks), micro_batches * _gathered(element * training, ranks))


def _states(config: ModelConfig, work: Work, spans: Sequence[Span], *, rows: int) -> list[int]:
    """Tokens whose states each part sends on, and whose gradients it sends back, over all micro-batches of a rank."""
    source, target = work.size.source, work.size.target
    found = []
    for span in spans:
        forward = back = 0
        if span.stop < spans[-1].stop:
            forward = source + target * (config.is_seq2seq and span.stop > config.num_encoder_layers)
        if span.first:
            encoder, decoder = moving_states(config, work.frozen, span.first)
            back = source * encoder + target * (
                decoder and config.is_seq2seq and span.first > config.num_encoder_layers
            )
        found.append(rows * (forward + back))
    return found


def _numbers(shapes: Shapes) -> int:
    return sum(map(math.prod, shapes.values()))


def _gathered(bytes_: int, ranks: int) -> int:
    return bytes_ * (ranks - 1) // ranks


def _summed(bytes_: int, ranks: int) -> int:
    return 2 * _gathered(bytes_, ranks)

"""What a GPU sends in a step, by hand. That DeepSpeed sends as much is in tests/test_profile.py."""

from __future__ import annotations

import dataclasses
import math

import pytest

from megas2s.engine import Pipe
from megas2s.models.config import ModelConfig
from megas2s.models.parameters import parameter_shapes
from megas2s.models.parts import held
from megas2s.objectives.denoising import Denoising
from megas2s.tokenizer.vocab import stand_in
from megas2s.train.communication import Traffic, model_traffic, stage_traffic
from megas2s.train.ledger import work_of
from megas2s.train.memory import Sharding
from megas2s.train.placement import spans_of
from megas2s.train.scaling import scaled
from megas2s.train.schedule import Schedule
from megas2s.train.stage import Stage

SHAPES = {"a.weight": (1000, 2), "b.weight": (500, 2)}  # 3000 parameters, 1000 of them frozen
FROZEN = frozenset({"b.weight"})
VOCABULARY = stand_in(512)
CONFIG = ModelConfig(
    vocab_size=VOCABULARY.size,
    hidden_size=64,
    num_heads=4,
    ffn_size=256,
    num_encoder_layers=4,
    num_decoder_layers=4,
    max_positions=128,
    tying="tied",
    pad_id=VOCABULARY.pad,
)


@pytest.mark.parametrize(
    ("spread", "expected"),
    [
        (Sharding(zero_stage=0, ranks=4), Traffic(0, 2 * 2 * 2000 * 3 // 4)),
        (Sharding(zero_stage=1, ranks=4), Traffic(2 * 2000 * 3 // 4, 2 * 2 * 2000 * 3 // 4)),
        (Sharding(zero_stage=2, ranks=4), Traffic(2 * 2000 * 3 // 4, 5 * 2 * 2 * 2000 * 3 // 4)),
        # in each of five forward passes; in the backward passes what is used again beyond the reach of reuse
        (Sharding(zero_stage=3, ranks=4), Traffic(5 * 2 * 3000 * 3 // 4, 5 * 2 * 2000 * 3 // 4)),
        (Sharding(zero_stage=3, ranks=4, reuse=0), Traffic(5 * 2 * 5000 * 3 // 4, 5 * 2 * 2000 * 3 // 4)),
        (Sharding(zero_stage=3, ranks=4, reuse=3000), Traffic(5 * 2 * 3500 * 3 // 4, 5 * 2 * 2000 * 3 // 4)),
        # the matrix of a thousand is never scattered in a step
        (Sharding(zero_stage=3, ranks=4, persistent=1000), Traffic(2 * 11000 * 3 // 4, 5 * 2 * 2000 * 3 // 4)),
        (Sharding(zero_stage=3, ranks=1), Traffic()),
    ],
)
def test_weights_and_gradients_by_hand(spread, expected):
    assert model_traffic(SHAPES, FROZEN, spread, 2, micro_batches=5) == expected


def stage(**changes):
    return Stage(
        name="s",
        objective=Denoising(),
        length=64,
        batch_tokens=64 * 32,
        micro_batch=2,
        steps=10,
        schedule=Schedule(lr=1e-3),
        engine=Pipe(stages=4),
        precision="bf16",
        **changes,
    )


def test_states_and_copies_of_a_pipeline_by_hand():
    one = stage()
    work = work_of(one, CONFIG, VOCABULARY)
    parts = stage_traffic(one, CONFIG, work, gpus=8)
    spans = spans_of(one.engine, CONFIG, work.size, frozen=frozenset(), recomputed=False)
    rows, source, target = 32 // 2, work.size.source, work.size.target  # of each of two data ranks
    crossing = [source + target * (span.stop > 4) for span in spans[:-1]]  # forth, and as much back
    state = 2 * 64 * rows
    assert [part.states for part in parts] == [
        state * crossing[0],
        state * (crossing[0] + crossing[1]),
        state * (crossing[1] + crossing[2]),
        state * crossing[2],
    ]
    # The one matrix of a tied model is read by the first layer of either stack and by the head.
    readers = sum("shared.weight" in held(CONFIG, span) for span in spans)
    own = 4 * VOCABULARY.size * 64
    assert readers in (2, 3)
    for span, part in zip(spans, parts, strict=True):
        reads = "shared.weight" in held(CONFIG, span)
        assert part.copies == (2 * (own * (readers - 1) // readers) if reads else 0)
        numbers = sum(math.prod(parameter_shapes(CONFIG)[name]) for name in held(CONFIG, span))
        assert part.weights == 2 * numbers // 2
        assert part.gradients == 2 * (2 * numbers // 2)


def test_a_frozen_encoder_is_sent_no_gradients():
    one = stage()
    work = work_of(one, CONFIG, VOCABULARY)
    frozen = frozenset(name for name in work.shapes if name.startswith("encoder.") or name == "shared.weight")
    still = dataclasses.replace(work, frozen=frozen)
    spans = spans_of(one.engine, CONFIG, work.size, frozen=frozen, recomputed=False)
    in_decoder = [span.stop > 4 for span in spans[:-1]]
    tokens = sum(work.size.source + 2 * work.size.target * inside for inside in in_decoder)
    assert any(in_decoder)
    assert sum(part.states for part in stage_traffic(one, CONFIG, still, gpus=4)) == 2 * 64 * 32 * tokens


def test_a_step_takes_between_the_longer_of_its_parts_and_both():
    one = stage()
    point = scaled(one, CONFIG, work_of(one, CONFIG, VOCABULARY), gpus=8, peak=1e12, mfu=0.5, link=1e9)
    assert point.fastest == max(point.compute, point.sending)
    assert point.slowest == point.compute + point.sending
    assert (point.micro_batch, point.micro_batches) == (2, 8)
    assert 0 < point.waiting < 1
    whole = scaled(
        dataclasses.replace(one, engine=Pipe(stages=1)),
        CONFIG,
        work_of(one, CONFIG, VOCABULARY),
        gpus=8,
        peak=1e12,
        mfu=0.5,
        link=1e9,
    )
    assert whole.waiting == 0
    assert point.compute == pytest.approx(whole.compute / (1 - point.waiting))

"""Parts of a pipeline: as even as they can be, in order, whole, each with something that trains."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megas2s.models.config import ModelConfig
from megas2s.models.freezing import frozen_names
from megas2s.models.parameters import parameter_shapes
from megas2s.models.parts import Span, unit_count
from megas2s.train.flops import StepSize, step_flops, unit_flops
from megas2s.train.placement import bubble, placed, unit_costs

SIZES = {"vocab_size": 64, "hidden_size": 16, "num_heads": 2, "ffn_size": 32, "max_positions": 64}
CONFIG = ModelConfig(**SIZES, num_encoder_layers=4, num_decoder_layers=3, norm_position="pre", tying="tied_to_decoder")
SIZE = StepSize(rows=8, source=32, target=16, predicted=16)


def every_way(costs: list[float], parts: int) -> list[list[Span]]:
    cuts = itertools.combinations(range(1, len(costs)), parts - 1)
    return [list(itertools.starmap(Span, itertools.pairwise((0, *cut, len(costs))))) for cut in cuts]


@given(st.lists(st.integers(1, 20), min_size=1, max_size=9), st.integers(1, 4), st.data())
def test_the_slowest_part_is_as_fast_as_any_placement_allows(costs, parts, data):
    trains = data.draw(st.lists(st.booleans(), min_size=len(costs), max_size=len(costs)))
    allowed = [way for way in every_way(costs, parts) if all(any(trains[span.first : span.stop]) for span in way)]
    if not allowed:
        with pytest.raises(ValueError, match="pipe stages"):
            placed(costs, parts, trains=trains)
        return
    found = placed(costs, parts, trains=trains)
    assert found in allowed
    slowest = [max(sum(costs[span.first : span.stop]) for span in way) for way in (found, *allowed)]
    assert slowest[0] == min(slowest)


def test_units_add_up_to_the_step():
    for config in (CONFIG, CONFIG.encoder_only()):
        shapes = parameter_shapes(config)
        size = SIZE if config.is_seq2seq else SIZE._replace(target=0)
        units = unit_flops(shapes, size)
        assert len(units) == unit_count(config)
        assert sum(units) == step_flops(shapes, size)


def test_a_decoder_layer_costs_what_its_target_and_its_source_cost():
    units = unit_flops(parameter_shapes(CONFIG), SIZE)
    longer = unit_flops(parameter_shapes(CONFIG), SIZE._replace(target=32, predicted=32))
    assert units[0] == longer[0] == units[3]
    assert units[4] < longer[4]
    assert longer[4] > longer[0]  # cross-attention comes on top


def test_a_frozen_encoder_is_cheap_and_shares_a_part():
    frozen = frozen_names(CONFIG, ["encoder.*"])
    units = unit_flops(parameter_shapes(CONFIG), SIZE, frozen=frozen)
    assert units[0] * 3 == unit_flops(parameter_shapes(CONFIG), SIZE)[0]
    trains = [False] * 4 + [True] * 4
    first, *_ = placed(units, 3, trains=trains)
    assert first.stop > 4


def test_what_cannot_be_is_refused():
    with pytest.raises(ValueError, match="9 pipe stages for 8 units"):
        placed([1.0] * 8, 9, trains=[True] * 8)
    with pytest.raises(ValueError, match="only 2 of 8 units do"):
        placed([1.0] * 8, 3, trains=[False] * 6 + [True] * 2)


def test_the_bubble_shrinks_with_micro_batches():
    assert bubble([2.0], 8) == 0.0
    assert bubble([3.0] * 4, 1) == 0.75
    assert bubble([3.0] * 4, 9) == 0.25


def test_parts_wait_for_the_slowest():
    # Two micro-batches through parts of 1 and 3: the second part ends at 1 + 3 + 3 = 7, and 2 x 4 of 2 x 7 were work.
    assert bubble([1.0, 3.0], 2) == pytest.approx(1 - 8 / 14)


def test_layers_that_are_computed_again_cost_another_forward_pass():
    shapes = parameter_shapes(CONFIG)
    frozen = {name for name in shapes if name.startswith("encoder.")}
    plain, again = (unit_costs(shapes, SIZE, frozen=frozen, recomputed=recomputed) for recomputed in (False, True))
    forward = unit_flops(shapes, SIZE, frozen=set(shapes))
    depth = CONFIG.num_encoder_layers
    assert again[:depth] == plain[:depth] == forward[:depth]  # no backward pass, so nothing is computed again
    assert again[depth:-1] == [cost + once for cost, once in zip(plain[depth:-1], forward[depth:-1], strict=True)]
    assert again[-1] == plain[-1]

import itertools

import pytest

from megas2s.convert import FAMILIES, mbart, roberta_prelayernorm
from megas2s.convert.names import require
from megas2s.errors import BadConfig
from megas2s.models.config import ModelConfig
from megas2s.models.parameters import owners, parameter_shapes

SIZES = {"vocab_size": 50, "hidden_size": 8, "num_heads": 2, "ffn_size": 16, "num_encoder_layers": 11}
ENCODER = ModelConfig(**SIZES)
SEQ2SEQ = [ModelConfig(**SIZES, num_decoder_layers=2, tying=tying) for tying in ("tied", "tied_to_decoder", "untied")]


def test_a_layers_number_is_carried_over():
    names = roberta_prelayernorm.NAMES
    expected = "encoder.layer.10.attention.self.query.bias"
    assert names.theirs("encoder.layers.10.self_attention.q.bias") == expected
    assert mbart.NAMES.theirs("decoder.layers.0.cross_attention.out.weight") == (
        "model.decoder.layers.0.encoder_attn.out_proj.weight"
    )


def test_a_name_without_a_row_in_the_table_is_a_bug():
    with pytest.raises(KeyError, match=r"encoder\.layers\.0\.novelty\.weight"):
        mbart.NAMES.theirs("encoder.layers.0.novelty.weight")


@pytest.mark.parametrize("config", [ENCODER, *SEQ2SEQ])
def test_a_plan_holds_every_parameter_and_no_name_twice(config):
    family = next(family for family in FAMILIES if (family.part == "seq2seq") == config.is_seq2seq)
    plan = family.entries(config, True)
    assert len({entry.theirs for entry in plan}) == len(plan)
    held = {owners(config).get(entry.ours, entry.ours) for entry in plan if entry.ours is not None}
    assert held == set(parameter_shapes(config))


def test_only_the_vocabulary_matrices_are_written_more_than_once():
    for config in SEQ2SEQ:
        written = [entry.ours for entry in mbart.entries(config, True) if entry.ours is not None]
        twice = {name for name, same in itertools.groupby(sorted(written)) if len(list(same)) > 1}
        assert twice == (set() if config.tying == "tied" else {"encoder.embed.weight"})


def test_an_unrepresentable_value_is_refused_by_the_name_of_its_key():
    with pytest.raises(BadConfig, match=r"scale_embedding True.*False only"):
        require({"scale_embedding": True}, "config.json", {"scale_embedding": False})
    require({}, "config.json", {"scale_embedding": False})

import dataclasses
import itertools

import pytest

from megas2s.convert import bart, family_of, t5
from megas2s.convert.names import fixed, require
from megas2s.errors import BadConfig
from megas2s.models.config import ModelConfig
from megas2s.models.parameters import owners, parameter_shapes
from megas2s.tokenizer.vocab import stand_in

SIZES = {"vocab_size": 50, "hidden_size": 8, "num_heads": 2, "ffn_size": 16, "num_encoder_layers": 11}
ENCODER = ModelConfig(**SIZES)
SEQ2SEQ = [ModelConfig(**SIZES, num_decoder_layers=2, tying=tying) for tying in ("tied", "tied_to_decoder", "untied")]


def test_a_layers_number_is_carried_over():
    assert bart.NAMES.theirs("encoder.layers.10.self_attention.q.bias") == (
        "model.encoder.layers.10.self_attn.q_proj.bias"
    )
    assert t5.names(gated=True).theirs("decoder.layers.10.ffn.gate.weight") == (
        "decoder.block.10.layer.2.DenseReluDense.wi_0.weight"
    )


def test_a_name_without_a_row_in_the_table_is_a_bug():
    with pytest.raises(KeyError, match=r"encoder\.layers\.0\.novelty\.weight"):
        bart.NAMES.theirs("encoder.layers.0.novelty.weight")


@pytest.mark.parametrize("config", [ENCODER, *SEQ2SEQ])
def test_a_plan_holds_every_parameter_and_no_name_twice(config):
    plan = family_of(config, "seq2seq" if config.is_seq2seq else "encoder", stand_in(50)).entries(config, True)
    assert len({entry.theirs for entry in plan}) == len(plan)
    held = {owners(config).get(entry.ours, entry.ours) for entry in plan if entry.ours is not None}
    assert held == set(parameter_shapes(config))


def test_only_the_vocabulary_matrices_are_written_more_than_once():
    for config in SEQ2SEQ:
        written = [entry.ours for entry in bart.entries(config, True) if entry.ours is not None]
        twice = {name for name, same in itertools.groupby(sorted(written)) if len(list(same)) > 1}
        assert twice == (set() if config.tying == "tied" else {"encoder.embed.weight"})


def test_an_unrepresentable_value_is_refused_by_the_name_of_its_key():
    with pytest.raises(BadConfig, match=r"scale_embedding True.*False only"):
        require({"scale_embedding": True}, "config.json", {"scale_embedding": False})
    require({}, "config.json", {"scale_embedding": False})


T5 = {**t5.SWITCHES, "num_decoder_layers": 2}


@pytest.mark.parametrize(
    ("changes", "model_type"),
    [
        ({}, "roberta-prelayernorm"),
        ({"norm_position": "post"}, "roberta"),
        ({"norm_position": "post", "family": "xlm-roberta"}, "xlm-roberta"),
        ({"norm_position": "post", "segment_types": 2, "family": "bert"}, "bert"),
        ({"norm_position": "post", "embedding_size": 4}, "electra"),
        ({"num_decoder_layers": 2}, "mbart"),
        ({"num_decoder_layers": 2, "norm_position": "post"}, "bart"),
        (T5, "t5"),
        ({**T5, "family": "mt5"}, "mt5"),
        ({**T5, "num_decoder_layers": 0}, "t5"),
    ],
)
def test_a_shape_is_exported_as_the_family_it_names_or_the_first_that_it_can_be(changes, model_type):
    config = dataclasses.replace(ENCODER, **changes)
    family = family_of(config, "seq2seq" if config.is_seq2seq else "encoder", stand_in(50))
    assert family.model_type == model_type


def test_the_encoder_of_a_family_without_one_is_another_s():
    encoder = dataclasses.replace(ENCODER, norm_position="post", family="bart")
    assert family_of(encoder, "encoder", stand_in(50)).model_type == "roberta"


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"gated": True}, r"no family .*: the model's gated is True, and RobertaPreLayerNorm has False only"),
        ({"family": "bert"}, r"norm_position is 'pre', and BERT has 'post' only; change that, or remove family: bert"),
        ({"family": "xlmr"}, r"no family is called 'xlmr'; "),
        ({**T5, "scale_head": True, "family": "mt5"}, r"scale_head is True, and mT5 has False only"),
        ({**T5, "tying": "untied"}, r"tying is 'untied', and T5 has 'tied' or 'untied_head' only"),
        ({"num_decoder_layers": 2, "tying": "untied_head"}, r"tying is 'untied_head', and MBart has all matrices"),
        ({**T5, "activation": "gelu", "gated": True}, r"a gated feed-forward with gelu, for which T5 has no name"),
    ],
)
def test_a_shape_that_no_family_can_be_is_refused_with_the_reason(changes, sentence):
    config = dataclasses.replace(ENCODER, **changes)
    with pytest.raises(BadConfig, match=sentence):
        family_of(config, "seq2seq" if config.is_seq2seq else "encoder", stand_in(50))


@pytest.mark.parametrize("switch", ["segment_types", "scale_embedding", "gated", "embedding_size"])
def test_a_switch_that_a_family_does_not_know_of_is_refused(switch):
    strange = dataclasses.replace(ENCODER, **{switch: True})
    with pytest.raises(BadConfig, match=f"the model's {switch} is (True|1), and X has"):
        fixed(strange, "X", free=())
    fixed(strange, "X", free=(switch,))

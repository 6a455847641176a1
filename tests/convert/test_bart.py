import dataclasses

import pytest

from megas2s.convert.bart import BART, MBART
from megas2s.errors import BadConfig
from megas2s.tokenizer.load import Tokenizer

NOTHING = None  # these families ask nothing about tensors


@pytest.fixture
def vocabulary(tokenizer_folder):
    return Tokenizer.load(tokenizer_folder).vocabulary


@pytest.fixture
def seq2seq(small):
    return small(num_decoder_layers=1, tying="tied")


@pytest.mark.parametrize("tying", ["tied", "untied"])
def test_a_configuration_comes_back_whole(small, vocabulary, tying):
    config = small(num_decoder_layers=5, tying=tying, activation="relu", scale_embedding=True, init_std=0.01)
    config = dataclasses.replace(config, dropout=0.2, attention_dropout=0.3, ffn_dropout=0.4)
    for family, norm_position in ((MBART, "pre"), (BART, "post")):
        expected = dataclasses.replace(config, norm_position=norm_position, family=family.model_type)
        assert family.model_config(family.settings(expected, vocabulary), NOTHING) == expected


def test_decoder_and_head_come_back_apart_where_only_our_metadata_knows_they_were_one(small, vocabulary):
    config = small(num_decoder_layers=1, tying="tied_to_decoder")
    found = MBART.model_config(MBART.settings(config, vocabulary), NOTHING)
    assert found == dataclasses.replace(config, tying="untied", family="mbart")


def test_the_decoder_starts_from_the_end_token(seq2seq, vocabulary):
    made = MBART.settings(seq2seq, dataclasses.replace(vocabulary, eos=9))
    assert (made["decoder_start_token_id"], made["eos_token_id"], made["forced_eos_token_id"]) == (9, 9, None)


def test_another_epsilon_than_mbarts_is_refused(small, vocabulary):
    with pytest.raises(BadConfig, match=r"norm_epsilon is 1e-06.*1e-05"):
        MBART.settings(small(num_decoder_layers=1, norm_epsilon=1e-6), vocabulary)


@pytest.mark.parametrize(
    ("tying", "matrices"),
    [
        ("tied", {"model.shared.weight"}),
        *(
            (
                tying,
                {
                    "model.shared.weight",
                    "model.encoder.embed_tokens.weight",
                    "model.decoder.embed_tokens.weight",
                    "lm_head.weight",
                },
            )
            for tying in ("tied_to_decoder", "untied")
        ),
    ],
)
def test_untied_models_write_all_four_matrices(small, tying, matrices):
    config = small(num_decoder_layers=1, tying=tying)
    table = (config.vocab_size, config.hidden_size)
    assert {entry.theirs for entry in MBART.entries(config, True) if entry.shape == table} == matrices


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("encoder_layerdrop", 0.1),
        ("decoder_layerdrop", 0.1),
        ("decoder_attention_heads", 2),
        ("decoder_ffn_dim", 96),
        ("activation_function", "swish"),
        ("pad_token_id", None),
    ],
)
def test_what_our_model_is_not_is_refused_by_name(seq2seq, vocabulary, key, value):
    with pytest.raises(BadConfig, match=key):
        MBART.model_config({**MBART.settings(seq2seq, vocabulary), key: value}, NOTHING)

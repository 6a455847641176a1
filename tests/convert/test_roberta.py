import dataclasses

import pytest

from megas2s.convert.encoders import TYPES
from megas2s.convert.roberta import PRE_LAYER_NORM as FAMILY
from megas2s.errors import BadConfig
from megas2s.tokenizer.load import Tokenizer


class Tensors:
    """A folder with a row of token types, all zeros or not."""

    def __init__(self, *, zero=True):
        self.names = {TYPES}
        self._zero = zero

    def zero(self, name):
        return self._zero


def test_a_single_row_of_token_types_is_a_table_only_where_it_adds_something(small, vocabulary):
    settings = FAMILY.settings(small(), vocabulary)
    assert FAMILY.model_config(settings, Tensors(zero=True)).segment_types == 0
    assert FAMILY.model_config(settings, Tensors(zero=False)).segment_types == 1


@pytest.fixture
def vocabulary(tokenizer_folder):
    return Tokenizer.load(tokenizer_folder).vocabulary


def test_a_configuration_comes_back_whole(small, vocabulary):
    config = small(
        activation="relu", norm_epsilon=1e-6, dropout=0.2, attention_dropout=0.3, init_std=0.01, max_positions=77
    )
    expected = dataclasses.replace(config, family="roberta-prelayernorm")
    assert FAMILY.model_config(FAMILY.settings(config, vocabulary), Tensors()) == expected


@pytest.mark.parametrize("pad", [1, 7])
def test_positions_begin_after_the_padding_id(small, vocabulary, pad):
    config = small(pad_id=pad)
    assert FAMILY.settings(config, vocabulary)["max_position_embeddings"] == config.max_positions + pad + 1
    positions = next(entry for entry in FAMILY.entries(config, True) if entry.ours == "encoder.positions.weight")
    assert (positions.leading, positions.shape[0]) == (pad + 1, config.max_positions + pad + 1)


def test_without_a_head_names_have_no_prefix(small):
    names = {entry.theirs for entry in FAMILY.entries(small(), False)}
    assert "embeddings.word_embeddings.weight" in names
    assert not any(name.startswith(("lm_head", "roberta")) for name in names)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("is_decoder", True),
        ("add_cross_attention", True),
        ("tie_word_embeddings", False),
        ("position_embedding_type", "relative_key"),
        ("hidden_act", "swish"),
        ("pad_token_id", None),
        ("max_position_embeddings", 2),
    ],
)
def test_what_our_encoder_is_not_is_refused_by_name(small, vocabulary, key, value):
    with pytest.raises(BadConfig, match=key):
        FAMILY.model_config({**FAMILY.settings(small(), vocabulary), key: value}, Tensors())


def test_the_ids_are_the_tokenizers(small, vocabulary):
    moved = dataclasses.replace(vocabulary, bos=None, eos=9)
    made = FAMILY.settings(small(), moved)
    assert (made["bos_token_id"], made["eos_token_id"], made["pad_token_id"]) == (None, 9, 1)

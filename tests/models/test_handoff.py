import dataclasses

import pytest
import torch

from megas2s.errors import BadCheckpoint, BadConfig
from megas2s.models.handoff import hand_off, start_from
from megas2s.models.parameters import canonical_parameters, owners, parameter_shapes

from .small import BATCH, ENCODER, TYINGS, made, seq2seq, write


def handed_over(source, target_config, folder, **choices):
    """A new model of another seed that begins from `source`."""
    target = made(target_config, seed=2)
    initial = hand_off(write(source, folder), target_config, **choices)
    with torch.no_grad():
        for name, parameter in canonical_parameters(target).items():
            if (value := initial(name)) is not None:
                parameter.copy_(value)
                assert torch.equal(initial(name, slice(1, 5)), value[1:5])
    return target


@pytest.mark.parametrize("decoder_embeddings", ["copied", "random"])
@pytest.mark.parametrize("tying", TYINGS)
def test_an_encoder_becomes_half_of_an_encoder_decoder(tmp_path, tying, decoder_embeddings):
    source = made(ENCODER)
    target = handed_over(source, seq2seq(tying), tmp_path / "w", decoder_embeddings=decoder_embeddings)
    fresh = canonical_parameters(made(seq2seq(tying), seed=2))
    assert torch.equal(target.encode(BATCH["input_ids"]), source.encode(BATCH["input_ids"]))
    for role in ("decoder.embed.weight", "head.weight"):
        copied = torch.equal(target.get_parameter(role), source.encoder.embed.weight)
        assert copied == (decoder_embeddings == "copied" or tying == "tied")
    for name, parameter in canonical_parameters(target).items():
        if name.startswith("decoder.") and name not in owners(target.config).values():
            assert torch.equal(parameter, fresh[name]), name


def test_copied_matrices_are_apart_from_the_encoders():
    model = made(seq2seq("untied"))
    matrices = [model.encoder.embed.weight, model.decoder.embed.weight, model.head.weight]
    assert len({matrix.data_ptr() for matrix in matrices}) == 3


@pytest.mark.parametrize(
    ("before", "after"),
    [
        *((tying, tying) for tying in TYINGS),
        ("tied", "tied_to_decoder"),
        ("tied", "untied"),
        ("tied_to_decoder", "untied"),
    ],
)
def test_an_encoder_decoder_goes_on_as_itself_also_with_matrices_untied(tmp_path, before, after):
    source = made(seq2seq(before))
    target = handed_over(source, seq2seq(after), tmp_path / "w")
    ours, theirs = target(BATCH), source(BATCH)
    assert torch.equal(ours.encoder_hidden, theirs.encoder_hidden)
    assert torch.equal(target.logits(ours.decoder_hidden), source.logits(theirs.decoder_hidden))


@pytest.mark.parametrize(
    ("before", "after"), [("untied", "tied"), ("untied", "tied_to_decoder"), ("tied_to_decoder", "tied")]
)
def test_separate_matrices_cannot_become_one(before, after):
    with pytest.raises(BadCheckpoint, match=f"choose tying: {before}, or start from the encoder alone"):
        start_from(seq2seq(before), seq2seq(after))
    assert start_from(seq2seq(before), seq2seq(after), part="encoder")["encoder.norm.bias"] == "encoder.norm.bias"


@pytest.mark.parametrize("tying", TYINGS)
def test_the_encoder_of_an_encoder_decoder_can_be_extracted(tmp_path, tying):
    source = made(seq2seq(tying))
    target = handed_over(source, ENCODER, tmp_path / "w")
    assert torch.equal(target.encode(BATCH["input_ids"]), source.encode(BATCH["input_ids"]))
    sources = start_from(source.config, ENCODER)
    assert {name for name, origin in sources.items() if origin is None} == {
        name for name in parameter_shapes(ENCODER) if name.startswith("mlm.")
    }


def test_an_encoder_goes_on_with_its_head_unless_only_the_encoder_is_wanted():
    assert all(name == origin for name, origin in start_from(ENCODER, ENCODER).items())
    assert start_from(ENCODER, ENCODER, part="encoder")["mlm.bias"] is None


def test_the_encoder_alone_can_be_taken_into_a_new_encoder_decoder():
    deeper = seq2seq("untied", num_decoder_layers=5)
    sources = start_from(seq2seq("untied"), deeper, part="encoder")
    assert sources["decoder.embed.weight"] == sources["head.weight"] == "encoder.embed.weight"
    assert sources["decoder.layers.0.ffn.up.weight"] is None
    assert sources["decoder.positions.weight"] is None


def test_a_longer_table_of_positions_is_cut_and_a_shorter_one_refused(tmp_path):
    shorter = dataclasses.replace(ENCODER, max_positions=10)
    source = made(ENCODER)
    target = handed_over(source, shorter, tmp_path / "w")
    assert torch.equal(target.encoder.positions.weight, source.encoder.positions.weight[:10])
    with pytest.raises(
        BadCheckpoint, match="have 10 positions, the new model wants 16; set max_positions to 10 or less"
    ):
        start_from(shorter, ENCODER)


@pytest.mark.parametrize(
    ("field", "value"),
    [("vocab_size", 48), ("hidden_size", 32), ("num_heads", 4), ("ffn_size", 32), ("num_encoder_layers", 3),
     ("num_decoder_layers", 3), ("activation", "relu"), ("norm_epsilon", 1e-12)],
)  # fmt: skip
def test_another_shape_is_refused_with_the_two_values(field, value):
    theirs = getattr(seq2seq(), field)
    with pytest.raises(BadCheckpoint, match=f"have {field} {theirs}, the new model {value}; set {field} to {theirs}"):
        start_from(seq2seq(), seq2seq(**{field: value}))


def test_random_embeddings_for_a_decoder_that_is_there_already_are_refused():
    with pytest.raises(BadConfig, match="embeddings: random is how a new decoder starts, and init: brings one"):
        start_from(seq2seq(), seq2seq("untied"), decoder_embeddings="random")


def test_layers_of_a_copied_decoder_begin_as_the_encoders_evenly_chosen(tmp_path):
    encoder = dataclasses.replace(ENCODER, num_encoder_layers=5)
    source = made(encoder)
    target = handed_over(
        source, seq2seq("tied", num_encoder_layers=5, num_decoder_layers=3), tmp_path / "w", decoder_layers="copied"
    )
    fresh = made(target.config, seed=2)
    for mine, theirs in ((0, 0), (1, 2), (2, 4)):
        ours, origin = target.decoder.layers[mine], source.encoder.layers[theirs]
        for part in ("self_attention", "self_attention_norm", "ffn", "ffn_norm"):
            assert same(ours.get_submodule(part), origin.get_submodule(part)), (mine, part)
        assert same(ours.cross_attention, fresh.decoder.layers[mine].cross_attention)
    for part in ("positions", "embed_norm", "norm"):
        assert same(target.decoder.get_submodule(part), source.encoder.get_submodule(part)), part


def same(one: torch.nn.Module, other: torch.nn.Module) -> bool:
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return all(torch.equal(left, right) for left, right in pairs)


def test_a_table_of_relative_positions_is_never_copied_into_a_decoder():
    """The two stacks share their buckets out differently: one looks both ways."""
    relative = {"positions": "relative"}
    sources = start_from(dataclasses.replace(ENCODER, **relative), seq2seq("tied", **relative), decoder_layers="copied")
    assert sources["decoder.relative_bias.weight"] is None
    assert sources["decoder.layers.1.ffn.up.weight"] == "encoder.layers.1.ffn.up.weight"


def test_segment_types_that_the_new_model_lacks_are_added_to_its_positions(tmp_path):
    source = made(dataclasses.replace(ENCODER, segment_types=2))
    target = handed_over(source, seq2seq("tied"), tmp_path / "w")
    torch.testing.assert_close(target.encode(BATCH["input_ids"]), source.encode(BATCH["input_ids"]))
    with pytest.raises(BadCheckpoint, match=r"have segment_types 2, the new model 3; set segment_types to 2, or to 0"):
        start_from(source.config, seq2seq(segment_types=3))


@pytest.mark.parametrize("scaled", ["source", "target"])
def test_an_embedding_that_one_of_two_models_scales_means_the_same_in_both(tmp_path, scaled):
    plain, scaling = ENCODER, seq2seq("tied", scale_embedding=True)
    before, after = (scaling, plain) if scaled == "source" else (plain, scaling)
    source = made(before)
    target = handed_over(source, after, tmp_path / "w")
    torch.testing.assert_close(target.encode(BATCH["input_ids"]), source.encode(BATCH["input_ids"]))


def test_an_epsilon_may_change_only_where_a_new_decoder_is_attached():
    bert = dataclasses.replace(ENCODER, norm_epsilon=1e-12)
    assert start_from(bert, seq2seq())["encoder.norm.bias"] == "encoder.norm.bias"
    with pytest.raises(BadCheckpoint, match="have norm_epsilon 1e-12"):
        start_from(bert, ENCODER)


def test_copied_layers_for_a_decoder_that_is_there_already_are_refused():
    with pytest.raises(BadConfig, match="layers: copied is how a new decoder starts, and init: brings one"):
        start_from(seq2seq(), seq2seq(), decoder_layers="copied")


def test_the_masked_head_goes_along_to_an_encoder_that_restores_beside_a_decoder():
    restores = start_from(ENCODER, seq2seq("tied_to_decoder", encoder_restores=True))
    assert {name for name in restores if name.startswith("mlm.")} == {
        name for name, origin in restores.items() if origin == name and name.startswith("mlm.")
    }
    back = start_from(seq2seq(encoder_restores=True), ENCODER)
    assert all(origin is None for name, origin in back.items() if name.startswith("mlm."))


def test_a_head_of_classes_goes_on_where_there_are_as_many_and_else_begins_anew():
    three, two = seq2seq(token_classes=3, text_classes=3), seq2seq(token_classes=2, text_classes=2)
    assert start_from(three, three)["classes.weight"] == "classes.weight"
    other = start_from(three, two)
    assert (other["classes.weight"], other["text.out.weight"]) == (None, None)
    assert other["text.dense.weight"] == "text.dense.weight"
    assert start_from(seq2seq(), three)["classes.weight"] is None
    assert "classes.weight" not in start_from(three, seq2seq())


def test_a_table_that_grows_repeats_its_positions_and_new_words_begin_as_the_mean(tmp_path):
    """s2s-ft's way for positions (`reuse_position_embedding`); whole and row by row."""
    config = dataclasses.replace(ENCODER, segment_types=0)
    reader = write(made(config), tmp_path / "weights")
    larger = dataclasses.replace(config, max_positions=39, vocab_size=44)
    values = hand_off(reader, larger, grows=True)
    old = reader.tensor("encoder.positions.weight")
    assert torch.equal(values("encoder.positions.weight"), torch.cat([old, old, old[:7]]))
    for rows in (slice(3, 9), slice(14, 20), slice(31, 39), slice(16, 17)):
        assert torch.equal(values("encoder.positions.weight", rows), torch.cat([old, old, old[:7]])[rows])
    table = reader.tensor("encoder.embed.weight")
    grown = torch.cat([table, table.mean(0, keepdim=True).expand(4, -1)])
    assert torch.equal(values("encoder.embed.weight"), grown)
    assert torch.equal(values("encoder.embed.weight", slice(38, 42)), grown[38:42])
    assert values("mlm.bias").shape == (44,)
    assert torch.equal(values("mlm.bias")[40:], reader.tensor("mlm.bias").mean().expand(4))
    with pytest.raises(BadCheckpoint, match="the new model wants 39"):
        hand_off(reader, dataclasses.replace(config, max_positions=39))
    with pytest.raises(BadCheckpoint, match="vocab_size"):
        hand_off(reader, dataclasses.replace(config, vocab_size=30), grows=True)

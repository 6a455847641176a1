import pytest
import torch

from megas2s.models.config import ModelConfig
from megas2s.models.freezing import PartCount, count_by_part, freeze, frozen_names
from megas2s.models.parameters import canonical_parameters, parameter_shapes
from megas2s.models.presets import count_parameters
from megas2s.models.transformer import build

TYINGS = ["tied", "tied_to_decoder", "untied"]
BATCH = {"input_ids": torch.arange(5, 23).view(2, 9), "decoder_input_ids": torch.arange(5, 19).view(2, 7)}
LABELS = torch.arange(5, 19)


def config(tying="tied_to_decoder", decoder=2):
    return ModelConfig(
        vocab_size=40,
        hidden_size=16,
        num_heads=2,
        ffn_size=24,
        num_encoder_layers=2,
        num_decoder_layers=decoder,
        max_positions=16,
        tying=tying,
        dropout=0.2,
        attention_dropout=0.2,
    )


def one_step(model):
    """Names of the parameters that a step with weight decay moves."""
    before = {name: parameter.detach().clone() for name, parameter in canonical_parameters(model).items()}
    optimizer = torch.optim.AdamW(
        [parameter for parameter in model.parameters() if parameter.requires_grad], lr=0.1, weight_decay=0.1
    )
    output = model(BATCH)
    output.decoder_vocabulary_loss(output.decoder_hidden.flatten(0, 1), LABELS).total.backward()
    optimizer.step()
    return {name for name, parameter in canonical_parameters(model).items() if not torch.equal(before[name], parameter)}


@pytest.mark.parametrize("tying", TYINGS)
def test_the_frozen_encoders_output_is_bit_equal_after_a_step_and_the_rest_moved(tying):
    model = build(config(tying)).train()
    frozen = freeze(model, ["encoder.*"])
    before = model.encode(BATCH["input_ids"])
    moved = one_step(model)
    assert torch.equal(before, model.encode(BATCH["input_ids"]))
    assert moved == parameter_shapes(config(tying)).keys() - frozen


@pytest.mark.parametrize(
    ("tying", "matrices"),
    [
        ("tied", {"shared.weight"}),  # and with it the decoder's embedding and the head
        ("tied_to_decoder", {"encoder.embed.weight"}),
        ("untied", {"encoder.embed.weight"}),
    ],
)
def test_a_parameter_is_frozen_wherever_it_is_used(tying, matrices):
    frozen = frozen_names(config(tying), ["encoder.*"])
    assert {name for name in frozen if name.endswith("embed.weight") or name == "shared.weight"} == matrices
    assert (
        frozen - matrices
        == {name for name in parameter_shapes(config(tying)) if name.startswith("encoder.")} - matrices
    )


def test_the_head_of_a_tied_model_is_its_embedding():
    assert frozen_names(config("tied"), ["head.*"]) == {"shared.weight"}
    assert frozen_names(config("tied_to_decoder"), ["head.*"]) == {"decoder.embed.weight"}
    assert frozen_names(config(decoder=0), ["head.*"]) == {"encoder.embed.weight"}


def test_unfrozen_again_the_encoder_moves():
    model = build(config())
    freeze(model, ["encoder.*"])
    one_step(model)
    freeze(model, [])
    assert one_step(model) == parameter_shapes(config()).keys()


@pytest.mark.parametrize("checkpointed", [False, True])
def test_a_frozen_encoder_stores_no_activation(checkpointed):
    model = build(config()).train()
    model.checkpoint_layers(checkpointed)
    stored = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: stored.append(tensor.shape) or tensor, lambda t: t):
        model.encode(BATCH["input_ids"])
        assert stored
        freeze(model, ["encoder.*"])
        stored.clear()
        hidden = model.encode(BATCH["input_ids"])
    assert stored == []
    assert not hidden.requires_grad


def test_dropout_is_off_in_the_frozen_part_and_on_in_the_rest_whatever_train_says():
    model = build(config())
    freeze(model, ["encoder.*"])
    wrapped = torch.nn.ModuleDict({"model": model})
    for mode in (True, False, True):
        wrapped.train(mode)
        assert not any(module.training for module in model.encoder.modules())
        assert all(layer.training == mode for layer in model.decoder.layers)
        assert model.decoder.embed_norm.training == mode
    assert torch.equal(model.encode(BATCH["input_ids"]), model.encode(BATCH["input_ids"]))
    assert not torch.equal(model(BATCH).decoder_hidden, model(BATCH).decoder_hidden)
    freeze(model, [])
    assert all(module.training for module in model.modules())


def test_lower_layers_can_be_frozen_by_themselves():
    model = build(config()).train()
    frozen = freeze(model, ["encoder.embed*", "encoder.positions.*", "encoder.layers.0.*"])
    assert "encoder.layers.0.ffn.up.weight" in frozen
    assert "encoder.layers.1.ffn.up.weight" not in frozen
    assert not model.encoder.layers[0].training
    assert model.encoder.layers[1].training
    assert frozen.isdisjoint(one_step(model))


@pytest.mark.parametrize(
    ("tying", "patterns", "loose"),
    [
        ("tied", ["encoder.layers.*", "encoder.norm.*"], "shared.weight"),
        (
            "tied_to_decoder",
            ["encoder.layers.*", "encoder.positions.*", "encoder.embed_norm.*"],
            "encoder.embed.weight",
        ),
        ("untied", ["encoder.layers.*", "encoder.embed.weight", "encoder.embed_norm.*"], "encoder.positions.weight"),
        ("untied", ["decoder.layers.*", "decoder.norm.*"], "decoder.embed.weight"),
    ],
)
def test_frozen_layers_behind_a_training_embedding_are_refused(tying, patterns, loose):
    with pytest.raises(ValueError, match=rf"{loose}.* would train, so the input of frozen layers would drift; freeze"):
        frozen_names(config(tying), patterns)


@pytest.mark.parametrize(
    ("pattern", "hint"),
    [("encodr.*", "encoder.*"), ("encoder.layer.*", "encoder.layers.*"), ("heads.*", "head.*")],
)
def test_a_pattern_that_matches_nothing_names_the_nearest(pattern, hint):
    with pytest.raises(ValueError, match="matches no parameter") as refusal:
        frozen_names(config(), [pattern])
    assert f"did you mean {hint!r}?" in str(refusal.value)


def test_freezing_everything_is_refused():
    with pytest.raises(ValueError, match="nothing is left to train"):
        frozen_names(config(), ["*"])


@pytest.mark.parametrize("tying", TYINGS)
def test_parts_add_up_to_the_model(tying):
    shape = config(tying)
    frozen = frozen_names(shape, ["encoder.*"])
    counts = count_by_part(shape, frozen)
    model = build(shape)
    freeze(model, ["encoder.*"])
    assert sum(sum(count) for count in counts.values()) == count_parameters(shape)
    assert sum(count.trainable for count in counts.values()) == sum(
        parameter.numel() for parameter in model.parameters() if parameter.requires_grad
    )
    assert counts["encoder"].trainable == 0
    assert counts["decoder"].frozen == 0


def test_parts_by_value():
    shape = config("untied")
    vocabulary, positions = 40 * 16, 16 * 16
    counts = count_by_part(shape, frozen_names(shape, ["encoder.*"]))
    assert counts["embeddings"] == PartCount(vocabulary + positions, vocabulary + positions)
    assert counts["head"] == PartCount(vocabulary, 0)

import pytest
import torch

from megas2s.models.loading import filled
from megas2s.models.parameters import canonical_parameters
from tests.models.small import BATCH, ENCODER, TYINGS, made, seq2seq


@pytest.mark.parametrize("config", [ENCODER, *map(seq2seq, TYINGS)], ids=str)
def test_a_model_filled_with_values_is_the_model_that_they_came_from(config):
    model = made(config)
    values = {name: parameter.detach() for name, parameter in canonical_parameters(model).items()}
    again = filled(config, values.__getitem__)
    with torch.no_grad():
        for ours, theirs in zip(model(BATCH)[:2], again(BATCH)[:2], strict=True):
            assert ours is theirs is None or torch.equal(ours, theirs)
    assert not again.training


def test_a_matrix_with_several_uses_is_read_once():
    asked = []

    def value(name):
        asked.append(name)
        return torch.zeros(shapes[name])

    config = seq2seq("tied")
    shapes = {name: parameter.shape for name, parameter in canonical_parameters(made(config)).items()}
    model = filled(config, value)
    assert sorted(asked) == sorted(shapes)
    assert model.head.weight.data_ptr() == model.encoder.embed.weight.data_ptr()


def test_without_its_head_an_encoder_asks_for_none_and_still_encodes():
    model = made(ENCODER)
    values = {name: p.detach() for name, p in canonical_parameters(model).items() if not name.startswith("mlm.")}
    again = filled(ENCODER, values.__getitem__, masked_head=False)
    with torch.no_grad():
        assert torch.equal(again.encode(BATCH["input_ids"]), model.encode(BATCH["input_ids"]))

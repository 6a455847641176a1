import pytest
import torch
import torch.nn.functional as F

from megas2s.analysis.neurons import activity


@torch.no_grad()
def bias_decides(feed, positive, *, gate=False):
    """Neurons whose input is their bias alone: the first `positive` of them above 0, the others below."""
    for part in (feed.up, feed.gate) if feed.gate is not None else (feed.up,):
        part.weight.zero_()
        part.bias.fill_(-1.0)
    (feed.gate if gate else feed.up).bias[:positive] = 1.0


@pytest.mark.parametrize("activation", ["relu", "gelu", "gelu_tanh", "silu"])
def test_a_hand_made_layer_has_the_rate_that_was_made(small, rows, read, activation):
    model = small(activation=activation)
    for feed, positive in zip((layer.ffn for layer in model.encoder.layers), (0, 6, 24), strict=True):
        bias_decides(feed, positive)
    found = activity(model, read(rows), ["encoder"])["encoder"]
    assert [layer.rate for layer in found] == [0.0, 6 / 24, 1.0]
    assert [layer.never for layer in found] == [1.0, 18 / 24, 0.0]


def test_the_gate_of_a_gated_neuron_says_whether_it_is_active(small, rows, read):
    model = small(gated=True)
    bias_decides(model.decoder.layers[1].ffn, 18, gate=True)
    assert activity(model, read(rows), ["decoder"])["decoder"][1] == (18 / 24, 6 / 24)


def test_rates_are_over_real_positions_alone(small, rows, read):
    model = small(norm_position="post")
    feed = model.encoder.layers[0].ffn
    seen = []
    feed.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    batches = read(rows)
    found = activity(model, batches, ["encoder"])["encoder"][0]
    inner = [F.gelu(feed.up(hidden))[batch.attention_mask] for hidden, batch in zip(seen, batches, strict=True)]
    assert found.rate == pytest.approx(float((torch.cat(inner) > 0).double().mean()), abs=1e-9)
    assert 0.2 < found.rate < 0.8


def test_every_layer_of_the_asked_stacks_is_there(small, rows, read):
    found = activity(small(), read(rows), ["encoder", "decoder"])
    assert {stack: len(layers) for stack, layers in found.items()} == {"encoder": 3, "decoder": 2}

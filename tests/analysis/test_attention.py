import math

import pytest
import torch
import torch.nn.functional as F

from megas2s.analysis.attention import entropies, entropy, scores
from megas2s.models.attention import Attention, padding_mask
from megas2s.models.config import ModelConfig


@pytest.fixture
def attention():
    torch.manual_seed(0)
    config = ModelConfig(vocab_size=9, hidden_size=16, num_heads=2, ffn_size=8, num_encoder_layers=1, init_std=0.5)
    made = Attention(config).eval()
    for parameter in made.parameters():  # constructors leave them empty
        torch.nn.init.normal_(parameter, std=0.5)
    return made


def test_the_entropy_of_uniform_attention_is_ln_n():
    assert entropy(torch.full((7,), 1 / 7)).item() == pytest.approx(math.log(7))
    assert entropy(torch.tensor([0.0, 1.0, 0.0])).item() == 0.0


SEES_BACK = torch.ones(5, 5, dtype=torch.bool).tril()
BIAS = torch.randn(2, 2, 5, 5, generator=torch.Generator().manual_seed(1)).masked_fill(~SEES_BACK, -math.inf)
MASKS = {
    "none": (None, False),
    "padding": (padding_mask(torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])), False),
    "causal": (None, True),
    "bias": (BIAS, False),
}


@pytest.mark.parametrize("name", MASKS)
@torch.no_grad()
def test_the_probabilities_weigh_values_as_the_fused_kernel_does(attention, name):
    mask, causal = MASKS[name]
    hidden = torch.randn(2, 5, 16)
    found = scores(attention, hidden, hidden, mask, causal=causal).softmax(-1)
    values = attention.keys_values(hidden)[1]
    torch.testing.assert_close(
        attention.out((found @ values).transpose(1, 2).flatten(2)),
        attention(hidden, hidden, mask, causal=causal),
        rtol=0,
        atol=1e-5,
    )


@torch.no_grad()
def by_definition(model, row):
    """Entropies of each encoder layer and head for one row, from the equations alone: [(H,), ...]."""
    hidden = model.encoder.embedded(torch.from_numpy(row)[None], None)
    found = []
    for layer in model.encoder.layers:
        read = layer.self_attention_norm(hidden)
        heads = []
        for head in range(2):
            part = slice(head * 8, head * 8 + 8)
            q, k = (
                F.linear(read[0], map.weight[part], map.bias[part])
                for map in (layer.self_attention.q, layer.self_attention.k)
            )
            p = torch.softmax(q @ k.T / math.sqrt(8), dim=-1)
            heads.append(-(p * p.log()).sum(-1))
        found.append(torch.stack(heads))
        hidden = layer(hidden)
    return found  # (H, S) each


def test_entropies_are_those_of_the_definition_over_all_real_positions(small, rows, read):
    model = small()
    found = entropies(model, read(rows), ["encoder"])["encoder_self_attention"]
    by_row = [by_definition(model, row) for row in rows]
    for number, layer in enumerate(found):
        nats = torch.cat([each[number] for each in by_row], dim=1)
        share = torch.cat([each[number] / math.log(len(row)) for each, row in zip(by_row, rows, strict=True)], dim=1)
        torch.testing.assert_close(torch.tensor(layer.nats), nats.mean(1), rtol=0, atol=1e-5)
        torch.testing.assert_close(torch.tensor(layer.share), share.mean(1), rtol=0, atol=1e-5)


def test_attention_that_cannot_choose_has_the_whole_maximum_in_every_stack(small, rows, read):
    model = small()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "attention.q." in name:
                parameter.zero_()
    found = entropies(model, read(rows), ["encoder", "decoder"])
    assert {kind: len(layers) for kind, layers in found.items()} == {
        "encoder_self_attention": 3,
        "decoder_self_attention": 2,
        "decoder_cross_attention": 2,
    }
    for layer in (layer for layers in found.values() for layer in layers):
        assert layer.share == pytest.approx((1, 1), abs=1e-6)
    lengths = [len(row) for row in rows]
    whole = sum(n * math.log(n) for n in lengths) / sum(lengths)
    seen = sum(math.log(k) for n in lengths for k in range(1, n + 1)) / sum(lengths)  # query k sees k positions
    assert found["encoder_self_attention"][0].nats == pytest.approx((whole, whole), abs=1e-5)
    assert found["decoder_cross_attention"][1].nats == pytest.approx((whole, whole), abs=1e-5)
    assert found["decoder_self_attention"][1].nats == pytest.approx((seen, seen), abs=1e-5)


def test_a_bias_on_one_distance_leaves_no_choice(small, rows, read, t5_like):
    model = small(**t5_like)
    with torch.no_grad():
        for stack in (model.encoder, model.decoder):
            stack.relative_bias.weight.zero_()
            stack.relative_bias.weight[0] = 1e4  # distance 0: each position sees itself
    found = entropies(model, read(rows), ["encoder", "decoder"])
    for kind in ("encoder_self_attention", "decoder_self_attention"):
        assert max(max(layer.nats) for layer in found[kind]) == pytest.approx(0.0, abs=1e-6)
    assert min(min(layer.nats) for layer in found["decoder_cross_attention"]) > 0.1


def test_padding_changes_nothing(small, rows, read, t5_like):
    for changes in ({}, t5_like):
        model = small(**changes)
        alone, together = (entropies(model, read(rows, tokens), ["encoder", "decoder"]) for tokens in (14, 1000))
        for kind, layers in alone.items():
            for one, other in zip(layers, together[kind], strict=True):
                assert one.nats == pytest.approx(other.nats, abs=1e-5)
                assert one.share == pytest.approx(other.share, abs=1e-5)

"""AdamW's groups, and steps that are scaled by the size of what they change."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from megas2s.engine.optim import UNSAID, AdamW, Depths, adamw, parameter_groups, rate_share, rms_scales, set_lr

SPEC = AdamW(beta1=0.9, beta2=0.99, eps=1e-6, weight_decay=0.1, scale_by_rms=True)


def parameters() -> list[tuple[str, nn.Parameter]]:
    torch.manual_seed(0)
    tensors = {
        "head.matrix": torch.randn(4, 3) * 2,
        "head.bias": torch.zeros(3),
        "head.small": torch.full((2, 2), 1e-5),
    }
    return [(name, nn.Parameter(tensor)) for name, tensor in tensors.items()]


def test_matrices_decay_and_vectors_do_not_in_two_groups():
    groups = parameter_groups(parameters(), AdamW(weight_decay=0.1), UNSAID)
    assert [(len(group["params"]), group["weight_decay"]) for group in groups] == [(2, 0.1), (1, 0.0)]


def test_a_scale_is_the_root_mean_square_of_the_weights_and_not_below_a_thousandth():
    named = parameters()
    matrix = named[0][1].detach()
    expected = [math.sqrt(float((matrix**2).mean())), 1e-3, 1e-3]
    assert rms_scales(parameter for _, parameter in named) == pytest.approx(expected, rel=1e-6)


def test_frozen_parameters_have_no_group_and_no_scale():
    named = parameters()
    named[0][1].requires_grad_(False)
    assert len(parameter_groups(named, SPEC, UNSAID)) == len(rms_scales(p for _, p in named)) == 2


def test_scaled_steps_are_those_of_the_definition():
    """Decay by the learning rate itself; the step by the root mean square of the weights before it."""
    named, lr = parameters(), 0.02
    optimizer = adamw(parameter_groups(named, SPEC, UNSAID), SPEC)
    expected = {name: parameter.detach().double().clone() for name, parameter in named}
    moments = {name: [torch.zeros_like(value), torch.zeros_like(value)] for name, value in expected.items()}
    for step in range(1, 6):
        draw = torch.Generator().manual_seed(step)
        for name, parameter in named:
            parameter.grad = torch.randn(parameter.shape, generator=draw)
            first, second = moments[name]
            gradient = parameter.grad.double()
            first.mul_(0.9).add_(gradient, alpha=0.1)
            second.mul_(0.99).add_(gradient**2, alpha=0.01)
            scale = max(1e-3, math.sqrt(float((expected[name] ** 2).mean())))
            ahead = (first / (1 - 0.9**step)) / ((second / (1 - 0.99**step)).sqrt() + 1e-6)
            decay = 0.0 if name == "head.bias" else 0.1
            expected[name] = expected[name] * (1 - lr * decay) - lr * scale * ahead
        set_lr(optimizer, lr, rms_scales(parameter for _, parameter in named))
        optimizer.step()
    for name, parameter in named:
        torch.testing.assert_close(parameter.detach(), expected[name].float(), rtol=1e-5, atol=1e-8)


def test_lower_layers_learn_more_slowly_and_heads_at_the_whole_rate():
    depths = Depths(encoder=3, decoder=2)
    shares = {
        "encoder.layers.2.ffn.up.weight": 1.0,
        "encoder.layers.0.ffn.up.weight": 0.25,
        "decoder.layers.1.ffn.up.weight": 1.0,
        "decoder.layers.0.self_attention.q.bias": 0.5,
        "encoder.embed.weight": 0.125,
        "encoder.positions.weight": 0.125,
        "decoder.embed_norm.bias": 0.25,
        "shared.weight": 0.125,
        "encoder.norm.weight": 1.0,
        "mlm.dense.weight": 1.0,
        "head.weight": 1.0,
    }
    assert {name: rate_share(name, 0.5, depths) for name in shares} == shares
    named = [(name, nn.Parameter(torch.ones(2, 2) if name.endswith("weight") else torch.ones(2))) for name in shares]
    spec = AdamW(weight_decay=0.1, layer_decay=0.5)
    optimizer = adamw(parameter_groups(named, spec, depths), spec)
    set_lr(optimizer, 0.01)
    rates = {id(parameter): group["lr"] for group in optimizer.param_groups for parameter in group["params"]}
    assert {name: rates[id(parameter)] for name, parameter in named} == pytest.approx(
        {name: 0.01 * share for name, share in shares.items()}
    )
    decays = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert {decays[id(p)] for name, p in named if p.ndim > 1} == {0.1}
    assert {decays[id(p)] for name, p in named if p.ndim == 1} == {0.0}

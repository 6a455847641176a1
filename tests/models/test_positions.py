"""Relative positions: the mask that a stack's layers read, its gradient in bf16, its memory on a GPU.

That values and fp32 gradients are those of T5, tests/parity/test_families.py says.
"""

from __future__ import annotations

import dataclasses

import pytest
import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode

from megas2s.models.config import ModelConfig
from megas2s.models.presets import preset
from megas2s.models.transformer import build

VOCABULARY = 320


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="the kernels for a bias on scores are CUDA's")
def test_a_bias_on_scores_is_never_whole_in_fp32_on_a_gpu():
    """In bf16 the memory-efficient kernel reads the bias, padding in it, and gives its gradient."""
    rows, length = 4, 256
    config = dataclasses.replace(preset("t5_small", vocab_size=VOCABULARY), dropout=0.0, attention_dropout=0.0)
    model = build(config).cuda()
    ids = torch.randint(5, VOCABULARY, (rows, length), device="cuda")
    mask = torch.ones_like(ids)
    mask[:, -17:] = 0
    whole = rows * config.num_heads * length * length
    seen = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            made = function(*args, **(kwargs or {}))
            seen.extend(
                str(function)
                for one in (made if isinstance(made, (tuple, list)) else (made,))
                if isinstance(one, torch.Tensor) and one.dtype == torch.float32 and one.numel() >= whole
            )
            return made

    with Watch(), sdpa_kernel(SDPBackend.EFFICIENT_ATTENTION), torch.autocast("cuda", torch.bfloat16):
        model.encode(ids, attention_mask=mask).float().square().sum().backward()
    assert not seen
    assert model.encoder.relative_bias.weight.grad.abs().sum() > 0


def test_gradients_of_tables_read_by_many_positions_are_right_in_bf16():
    """A CPU adds up the gradient of a lookup row by row in the table's dtype, where late rows vanish."""
    config = ModelConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        num_heads=2,
        ffn_size=24,
        num_encoder_layers=1,
        positions="relative",
        segment_types=2,
        dropout=0.0,
    )
    torch.manual_seed(0)
    exact, rounded = build(config), build(config)
    rounded.load_state_dict(exact.state_dict())
    ids = torch.randint(5, VOCABULARY, (4, 256))
    gradients = []
    for model in (exact, rounded.bfloat16()):
        model.encode(ids).float().pow(3).sum().backward()
        gradients.append([model.encoder.relative_bias.weight.grad.float(), model.encoder.types.weight.grad.float()])
    for right, found in zip(*gradients, strict=True):
        assert (found - right).norm() < 0.1 * right.norm()

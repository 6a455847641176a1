"""First values of weights: normal with a stated deviation, the same on every device, engine and rank.

Values are drawn on the CPU in float32 and then copied, so that a model built on a GPU, in bfloat16 or under
`deepspeed.zero.Init` begins from the same numbers. Each module fills its own weights inside its own constructor:
`zero.Init` partitions a module as soon as that returns.

Engines seed torch's generator and build; where its state must not change, `seeded` puts it back:

    with seeded(seed, "convert", "mlm head"):
        model = build(config)
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor

from megas2s.rng import torch_seed


@contextlib.contextmanager
def seeded(seed: int, *address: int | str) -> Iterator[None]:
    """Weights built inside depend on the seed and the address only; torch's generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(torch_seed(seed, *address))
        yield


@torch.no_grad()
def fill_normal(weight: Tensor, deviation: float) -> None:
    """Draw `weight` from a normal distribution around 0; a tensor on the meta device is left alone."""
    if not weight.is_meta:
        weight.copy_(torch.normal(0.0, deviation, tuple(weight.shape), dtype=torch.float32, device="cpu"))

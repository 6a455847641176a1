"""First values of weights: a pure function of the shape, the parameter's name and a seed.

    value = first_value(config, "encoder.layers.3.ffn.up.weight", seed=7)

So they are the same on every device, engine and rank, in every dtype, and whoever holds a part of a model draws that
part alone. Values are drawn on the CPU in float32. Constructors leave weights empty; `fill` gives them their values,
and engines that scatter a model write them one at a time.

What has no seed of its own takes one from torch's generator; `seeded` sets that for a while:

    with seeded(seed, "convert", "mlm head"):
        model = build(config)
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from megas2s.models.config import ModelConfig
from megas2s.models.parameters import canonical_parameters, parameter_shapes
from megas2s.rng import torch_seed

TABLES = ("embed", "positions", "types", "shared")


@contextlib.contextmanager
def seeded(seed: int, *address: int | str) -> Iterator[None]:
    """Weights built inside depend on the seed and the address only; torch's generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(torch_seed(seed, *address))
        yield


def first_values(config: ModelConfig, seed: int) -> Callable[[str], Tensor]:
    """Canonical name -> what that parameter begins as, float32 on the CPU: biases 0, norms 1, all else normal."""
    shapes = parameter_shapes(config)

    def value(name: str) -> Tensor:
        module, leaf = name.split(".")[-2:]
        if leaf == "bias":
            return torch.zeros(shapes[name], device="cpu")
        if module.endswith("norm"):
            return torch.ones(shapes[name], device="cpu")
        generator = torch.Generator("cpu").manual_seed(torch_seed(seed, name))
        deviation = config.deviation(_inputs(config, module, shapes[name]))
        return torch.normal(0.0, deviation, shapes[name], generator=generator, dtype=torch.float32, device="cpu")

    return value


@torch.no_grad()
def fill(model: nn.Module, values: Callable[[str], Tensor]) -> None:
    """Give every parameter of a model the value of its canonical name."""
    for name, parameter in canonical_parameters(model).items():
        parameter.copy_(values(name))


def _inputs(config: ModelConfig, module: str, shape: tuple[int, ...]) -> int:
    """How many inputs a weight adds up, by which some models divide its deviation; 1 for a table."""
    if module in TABLES:
        return 1
    if module in ("relative_bias", "head"):
        return config.hidden_size
    # Where scores are not scaled, the queries' weights begin smaller by as much (Mesh TensorFlow, T5).
    unscaled = config.head_width if module == "q" and not config.scale_attention else 1
    return shape[1] * unscaled

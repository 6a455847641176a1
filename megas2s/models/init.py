"""First values of weights: a pure function of the shape, the parameter's name and a seed.

    value = first_value(config, "encoder.layers.3.ffn.up.weight", seed=7)

So they are the same on every device, engine and rank, in every dtype, and whoever holds a part of a model, or some rows
of a matrix, draws that alone. Values are drawn on the CPU in float32. Constructors leave weights empty; `fill` gives
them their values, and engines that scatter a model write them one at a time.

What has no seed of its own takes one from torch's generator; `seeded` sets that for a while:

    with seeded(seed, "convert", "mlm head"):
        model = build(config)
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from megas2s.models.config import ModelConfig
from megas2s.models.parameters import ALL, Shape, Values, canonical_parameters, parameter_shapes
from megas2s.rng import torch_seed

BLOCK = 1 << 20  # numbers drawn from one seed
TABLES = ("embed", "positions", "types", "shared")


@contextlib.contextmanager
def seeded(seed: int, *address: int | str) -> Iterator[None]:
    """Weights built inside depend on the seed and the address only; torch's generator is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(torch_seed(seed, *address))
        yield


def first_values(config: ModelConfig, seed: int) -> Values:
    """What each parameter begins as, float32 on the CPU: biases 0, norms 1, adapters 0 in effect, all else normal."""
    shapes = parameter_shapes(config)

    def value(name: str, rows: slice = ALL) -> Tensor:
        module, leaf = name.split(".")[-2:]
        start, stop, _ = rows.indices(shapes[name][0])
        shape = (stop - start, *shapes[name][1:])
        if leaf in ("bias", "lora_b"):
            return torch.zeros(shape, dtype=torch.float32, device="cpu")
        if module.endswith("norm"):
            return torch.ones(shape, dtype=torch.float32, device="cpu")
        adapter = leaf == "lora_a"
        deviation = shapes[name][1] ** -0.5 if adapter else config.deviation(_inputs(config, module, shapes[name]))
        return _normal(shapes[name], start, stop, torch_seed(seed, name)) * deviation

    return value


def _normal(shape: Shape, start: int, stop: int, seed: int) -> Tensor:
    """Rows start to stop of a tensor of normal numbers, which is drawn block by block, each from a seed of its own."""
    rows = max(1, BLOCK // math.prod(shape[1:]))
    drawn = torch.empty((stop - start, *shape[1:]), dtype=torch.float32, device="cpu")
    for block in range(start // rows, -(-stop // rows)):
        first, last = block * rows, min((block + 1) * rows, shape[0])
        generator = torch.Generator("cpu").manual_seed(torch_seed(seed, block))
        size = (last - first, *shape[1:])
        numbers = torch.normal(0.0, 1.0, size, generator=generator, dtype=torch.float32, device="cpu")
        lower, upper = max(first, start), min(last, stop)
        drawn[lower - start : upper - start] = numbers[lower - first : upper - first]
    return drawn


@torch.no_grad()
def fill(model: nn.Module, values: Values) -> None:
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

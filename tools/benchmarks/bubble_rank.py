"""One rank of the bubble benchmark: a pipeline whose layers sleep as long as their FLOPs say.

deepspeed --num_gpus 2 tools/benchmarks/bubble_rank.py --stages 2 --kind seq2seq --micro-batches 4 8 --out FILE
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from megas2s import dist
from megas2s.engine import Pipe, make_engine
from megas2s.engine.base import Batch, Losses, Setup
from megas2s.engine.optim import AdamW
from megas2s.engine.zero import join
from megas2s.models.config import ModelConfig
from megas2s.models.init import first_values
from megas2s.models.parameters import parameter_shapes
from megas2s.models.parts import Cut, Span, construct_part
from megas2s.objectives.denoising import Denoising
from megas2s.objectives.mlm import MLM
from megas2s.train.flops import StepSize, unit_flops
from megas2s.train.placement import bubble, placement

LAYERS = {"mlm": (12, 0), "seq2seq": (6, 6)}
TINY = {"hidden_size": 32, "num_heads": 2, "ffn_size": 64, "vocab_size": 64}
LENGTH = 16
SECONDS = 0.4  # of all layers together, forward and backward, for a micro-batch
STEPS = 2


class SleepsBack(torch.autograd.Function):
    """The identity, whose backward pass takes a while."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, seconds: float) -> Tensor:
        """`states`."""
        ctx.seconds = seconds
        return states.view_as(states)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        """The gradient, later."""
        time.sleep(ctx.seconds)
        return gradient, None


class SleepingHead:
    """An objective whose loss takes a while, forward and backward."""

    def __init__(self, losses: Losses, seconds: float) -> None:
        self._losses, self._seconds = losses, seconds

    def __getattr__(self, name: str) -> Any:
        return getattr(self._losses, name)

    def loss(self, *arguments: Any) -> Mapping[str, Any]:
        """The objective's."""
        time.sleep(self._seconds)
        return self._losses.loss(*arguments)


def config(kind: str) -> ModelConfig:
    """The model of a kind."""
    encoder, decoder = LAYERS[kind]
    stacks = {"num_encoder_layers": encoder, "num_decoder_layers": decoder}
    tying = {"tying": "tied"} if decoder else {}
    return ModelConfig(**TINY, **stacks, **tying, max_positions=128, dropout=0.0, pad_id=0)


def batch(kind: str, model: ModelConfig) -> Batch:
    """One row of whatever."""
    ids = torch.arange(LENGTH).remainder(model.vocab_size - 4).add(4).unsqueeze(0)
    if kind == "mlm":
        places = torch.arange(0, LENGTH, 6).unsqueeze(0)
        found = {"input_ids": ids, "masked_positions": places, "labels": ids.gather(1, places)}
    else:
        found = {"input_ids": ids, "decoder_input_ids": ids, "labels": ids}
    return {**found, "language": torch.zeros(1, dtype=torch.int64)}


def asleep(layer: nn.Module, seconds: float) -> None:
    """Let a layer take so long for a micro-batch: a third forward, the rest backward."""

    def hook(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        time.sleep(seconds / 3)
        return SleepsBack.apply(output, seconds * 2 / 3)

    layer.register_forward_hook(hook)


def main() -> None:
    parser = argparse.ArgumentParser()
    add = parser.add_argument
    add("--stages", type=int, required=True)
    add("--kind", choices=sorted(LAYERS), required=True)
    add("--micro-batches", type=int, nargs="+", required=True)
    add("--out", type=Path, required=True)
    add("--local_rank", type=int)
    given = parser.parse_args()
    torch.set_num_threads(1)
    model = config(given.kind)
    example = batch(given.kind, model)
    size = StepSize(1, LENGTH, LENGTH * (given.kind == "seq2seq"), example["labels"].numel())
    flops = unit_flops(parameter_shapes(model), size)
    costs = [SECONDS * each / sum(flops) for each in flops]
    join()
    dist.lay_out(given.stages)
    spans = placement(model, size, given.stages, frozen=())
    rows = []
    for micro_batches in given.micro_batches:
        seconds = statistics.median(timed(given, model, example, costs, spans, micro_batches)[1:])
        parts = [sum(costs[span.first : span.stop]) for span in spans]
        rows.append({"micro_batches": micro_batches, "seconds": seconds, "predicted": bubble(parts, micro_batches)})
    if dist.is_main():
        given.out.write_text(json.dumps(rows))
    dist.barrier()


def timed(
    given: argparse.Namespace, model: ModelConfig, example: Batch, costs: list[float], spans: list[Span], count: int
) -> list[float]:
    """Seconds of steps of so many micro-batches."""
    objective: Any = MLM() if given.kind == "mlm" else Denoising()

    def built(span: Span | None = None) -> nn.Module:
        assert span is not None
        part = construct_part(model, span)
        layers = [*part.encoder.layers.named_children()]
        numbered = [(int(name), layer) for name, layer in layers]
        if given.kind == "seq2seq":
            numbered += [
                (LAYERS["seq2seq"][0] + int(name), layer) for name, layer in part.decoder.layers.named_children()
            ]
        for number, layer in numbered:
            asleep(layer, costs[number])
        return part

    setup = Setup(
        build=built,
        initial=first_values(model, 1),
        losses=SleepingHead(objective, costs[-1]),
        optimizer=AdamW(),
        precision="fp32",
        micro_batch=1,
        micro_batches=count,
        languages=1,
        dropout_seed=lambda step, index, rank: 0,
        cut=Cut(model, frozenset(), tuple(spans)),
    )
    engine = make_engine(Pipe(stages=given.stages), setup)
    found = []
    for step in range(1 + STEPS):
        dist.barrier()
        since = time.perf_counter()
        engine.train_step([example] * count, step=step, lr=1e-4)
        dist.barrier()
        found.append(time.perf_counter() - since)
    engine.close()
    return found


if __name__ == "__main__":
    main()

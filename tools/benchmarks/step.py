"""Training steps: MLM and seq2seq against transformers, frozen encoder against unfrozen.

`by FLOPs` is the ratio that the ledger's formulas give for the two arms: what compute alone would bring, without
memory traffic, kernels and the optimizer.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable, Iterator
from functools import partial
from typing import NamedTuple

import torch

from benchmarks import measure, models, one_row
from benchmarks.measure import Make, Table
from megas2s.engine.base import Precision
from megas2s.models.config import ModelConfig
from megas2s.models.freezing import frozen_names
from megas2s.models.parameters import parameter_shapes
from megas2s.objectives.base import Shape
from megas2s.objectives.denoising import Denoising
from megas2s.objectives.mlm import MLM
from megas2s.tokenizer.vocab import stand_in
from megas2s.train.flops import StepSize, step_flops

BIG, MIDDLE = 250_112, 32_768
SPANS_TARGET = 114  # columns of a span-corruption target whose source has 512
GPU_ROWS = 32
ENCODER = ("encoder.*",)
SAME = 1e-4  # the largest difference between the losses of two arms that do the same


class Case(NamedTuple):
    """One comparison on one machine."""

    name: str
    config: ModelConfig
    rows: int
    tokens: int  # of a step
    faster: tuple[str, Make]  # the arm that should be
    slower: tuple[str, Make]
    by_flops: float
    target: str
    same_loss: Make | None = None  # a third arm with the loss that `faster` must begin with; None: `slower` is one
    losses_equal: bool = True


def run(given: argparse.Namespace) -> list[Table]:
    """Every case asked for in every precision; each is printed when it is done, too."""
    on_gpu = torch.cuda.is_available()
    precisions = given.precision or (["bf16"] if on_gpu else ["fp32", "bf16"])
    rows = []
    for name in given.case:
        for precision in precisions:
            rows.append(_measured(_CASES[name](given, precision, on_gpu), precision, given))
            print(", ".join(f"{key} {value}" for key, value in rows[-1].items()), flush=True)
    return [Table(f"training steps of {given.length} columns; seconds by seconds, tokens of source and target", rows)]


def _measured(case: Case, precision: Precision, given: argparse.Namespace) -> dict[str, object]:
    expected = None
    if case.same_loss is not None and precision == "fp32":
        with measure.arms({"reference": case.same_loss}, one_process=given.one_process) as one:
            expected = one["reference"].run().value
    with measure.arms(dict([case.faster, case.slower]), one_process=given.one_process) as both:
        runs = measure.interleaved(both, rounds=given.rounds)
    faster, slower = runs[case.faster[0]], runs[case.slower[0]]
    if expected is None and case.same_loss is None:
        expected = slower[0].value
    difference = None if expected is None else abs(faster[0].value - expected)
    if difference is not None and case.losses_equal and precision == "fp32" and difference > SAME:
        raise RuntimeError(f"{case.name}: the arms begin with losses {difference:.1e} apart and do not do the same")
    found = measure.ratio(runs, case.slower[0], case.faster[0])
    return {
        "case": case.name,
        "precision": precision,
        "rows": case.rows,
        "parameters, M": round(sum(_sizes(case.config)) / 1e6),
        "arm": case.faster[0],
        "other": case.slower[0],
        "tokens/s": round(case.tokens / measure.seconds(faster)),
        "other tokens/s": round(case.tokens / measure.seconds(slower)),
        **found._asdict(),
        "by FLOPs": round(case.by_flops, 2),
        "target": case.target,
        "peak GiB": measure.peak_gib(faster, one_process=given.one_process),
        "other peak GiB": measure.peak_gib(slower, one_process=given.one_process),
        "first losses differ": None if difference is None else f"{difference:.1e}",
    }


def _mlm(
    name: str,
    vocabulary: int,
    rows: dict[str, int],
    target: str,
    given: argparse.Namespace,
    precision: Precision,
    on_gpu: bool,
) -> Case:
    config = _config(given, vocabulary, layers=given.layers or 12)
    count = _rows(given, rows[precision], on_gpu)
    batch = partial(models.mlm_batch, config, rows=count, length=given.length)
    predicted = MLM().predicted(given.length - 1)
    shapes = parameter_shapes(config)
    flops = [step_flops(shapes, StepSize(count, given.length, 0, k)) for k in (given.length, predicted)]
    return Case(
        name,
        config,
        count,
        count * given.length,
        ("ours", partial(models.ours, config, batch, precision)),
        ("XLMRobertaForMaskedLM", partial(models.theirs, config, batch, precision, "XLMRobertaForMaskedLM")),
        flops[0] / flops[1],
        target,
        # XLM-R norms after each sublayer; its pre-norm sibling, slower in transformers, is the one with our numbers.
        same_loss=partial(models.their_loss, config, batch, "RobertaPreLayerNormForMaskedLM"),
    )


def _seq2seq(given: argparse.Namespace, precision: Precision, on_gpu: bool) -> Case:
    layers = given.layers or 6
    config = _config(given, BIG, layers=layers, decoder_layers=layers)
    count = _rows(given, {"fp32": 1, "bf16": 2}[precision], on_gpu)
    size = _denoising_size(given, config, count)
    batch = partial(models.seq2seq_batch, config, rows=count, source=size.source, target=size.target)
    return Case(
        "seq2seq-250k",
        config,
        count,
        count * (size.source + size.target),
        ("ours", partial(models.ours, config, batch, precision)),
        (
            "MBartForConditionalGeneration",
            partial(models.theirs, config, batch, precision, "MBartForConditionalGeneration"),
        ),
        1.0,
        ">= 1.3",
    )


def _frozen(whole_window: bool, given: argparse.Namespace, precision: Precision, on_gpu: bool) -> Case:
    layers = given.layers or 12
    config = _config(given, MIDDLE, layers=layers, decoder_layers=layers, tying="tied_to_decoder")
    count = _rows(given, {"fp32": 1 if whole_window else 2, "bf16": 4}[precision], on_gpu)
    size = StepSize(count, given.length, min(SPANS_TARGET, given.length), min(SPANS_TARGET, given.length))
    if whole_window:
        size = _denoising_size(given, config, count)
    batch = partial(models.seq2seq_batch, config, rows=count, source=size.source, target=size.target)
    shapes = parameter_shapes(config)
    by_flops = step_flops(shapes, size) / step_flops(shapes, size, frozen=frozen_names(config, ENCODER))
    return Case(
        "frozen-denoising" if whole_window else "frozen-512-114",
        config,
        count,
        count * (size.source + size.target),
        ("frozen", partial(models.ours, config, batch, precision, ENCODER)),
        ("unfrozen", partial(models.ours, config, batch, precision)),
        by_flops,
        f">= {0.9 * by_flops:.2f}" if whole_window else f">= {max(1.5, 0.9 * by_flops):.2f}",
    )


def _pseudo(
    name: str, source: int, target: int, eager: bool, given: argparse.Namespace, precision: Precision, on_gpu: bool
) -> Case:
    config = dataclasses.replace(
        _config(given, MIDDLE, layers=given.layers or 12), max_positions=source + target, segment_types=2
    )
    count = _rows(given, {"fp32": 2, "bf16": 8}[precision], on_gpu)
    batch = partial(one_row.pseudo_batch, config, rows=count, source=source, target=target)
    shapes, whole = parameter_shapes(config), source + 2 * target
    blocks = step_flops(shapes, StepSize(count, source, 0, target, written=(target, target)))
    return Case(
        name,
        config,
        count,
        count * (source + target),
        ("blocks", partial(one_row.blocks, config, batch, precision)),
        (
            "as s2s-ft before" if eager else "square mask",
            partial(one_row.square, config, batch, precision, eager=eager),
        ),
        step_flops(shapes, StepSize(count, whole, 0, target)) / blocks,
        ">= 1.3",
    )


_CASES: dict[str, Callable[[argparse.Namespace, Precision, bool], Case]] = {
    "mlm-250k": partial(_mlm, "mlm-250k", BIG, {"fp32": 1, "bf16": 4}, ">= 1.8, GPU >= 2"),
    "mlm-32k": partial(_mlm, "mlm-32k", MIDDLE, {"fp32": 2, "bf16": 8}, ">= 1.2"),
    "seq2seq-250k": _seq2seq,
    "frozen-512-114": partial(_frozen, False),
    "frozen-denoising": partial(_frozen, True),
    "pseudo-464-48": partial(_pseudo, "pseudo-464-48", 464, 48, False),
    "pseudo-608-160": partial(_pseudo, "pseudo-608-160", 608, 160, False),
    "pseudo-464-48-eager": partial(_pseudo, "pseudo-464-48-eager", 464, 48, True),
    "pseudo-608-160-eager": partial(_pseudo, "pseudo-608-160-eager", 608, 160, True),
}


def _config(
    given: argparse.Namespace, vocabulary: int, *, layers: int, decoder_layers: int = 0, tying: str = "tied"
) -> ModelConfig:
    """The shape of a base model; without dropout, so that losses can be compared."""
    return ModelConfig(
        vocab_size=given.vocab_size or vocabulary,
        hidden_size=given.width,
        num_heads=max(1, given.width // 64),
        ffn_size=4 * given.width,
        num_encoder_layers=layers,
        num_decoder_layers=decoder_layers,
        max_positions=given.length,
        tying=tying,
        dropout=0.0,
    )


def _denoising_size(given: argparse.Namespace, config: ModelConfig, rows: int) -> StepSize:
    """Whole-window denoising: the target is the window, the source lacks some of it."""
    shape = Shape(stand_in(config.vocab_size), given.length, given.length)
    objective = Denoising()
    columns = objective.row_lengths(objective.window_size(shape), shape)
    return StepSize(rows, columns.source, columns.target, columns.target)


def _rows(given: argparse.Namespace, on_cpu: int, on_gpu: bool) -> int:
    return given.rows or (GPU_ROWS if on_gpu else on_cpu)


def _sizes(config: ModelConfig) -> Iterator[int]:
    return (torch.Size(shape).numel() for shape in parameter_shapes(config).values())

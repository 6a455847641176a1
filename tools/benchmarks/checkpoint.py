"""A synchronous save of a training state, against torch.save of the same tensors.

Ours writes safetensors, flushes them to the disk, hashes every file and publishes the folder in one rename; torch.save
alone leaves the bytes with the kernel, so a second arm flushes too.
"""

from __future__ import annotations

import argparse
import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from benchmarks import measure, models
from benchmarks.measure import Table
from megas2s.engine.local import LocalEngine
from megas2s.models.config import ModelConfig
from megas2s.train import checkpoint
from megas2s.train.state import TrainState

NAMES = ("ours", "torch.save, flushed", "torch.save")


def run(given: argparse.Namespace) -> list[Table]:
    """The three arms in turns."""
    config = ModelConfig(
        vocab_size=given.vocab_size,
        hidden_size=given.width,
        num_heads=max(1, given.width // 64),
        ffn_size=4 * given.width,
        num_encoder_layers=given.layers,
        num_decoder_layers=given.layers,
        dropout=0.0,
    )
    folder = given.work / "checkpoints"
    kinds = dict(zip(NAMES, (_ours, partial(_theirs, True), partial(_theirs, False)), strict=True))
    makes = {name: partial(kind, config, folder / str(number)) for number, (name, kind) in enumerate(kinds.items())}
    with measure.arms(makes, one_process=given.one_process) as arms:
        runs = measure.interleaved(arms, rounds=given.rounds)
    shutil.rmtree(folder, ignore_errors=True)
    rows = [
        {
            "arm": name,
            "GB": round(timed[-1].value / 1e9, 3),
            "seconds": round(measure.seconds(timed), 3),
            "GB/s": round(timed[-1].value / 1e9 / measure.seconds(timed), 3),
            "seconds / torch.save's": measure.ratio(runs, name, "torch.save").ratio,
            "seconds / flushed torch.save's": measure.ratio(runs, name, "torch.save, flushed").ratio,
        }
        for name, timed in runs.items()
    ]
    return [Table("synchronous save of weights and two moments in fp32", rows)]


def _engine(config: ModelConfig) -> LocalEngine:
    """An engine whose optimizer has made one step, so that it has moments."""
    engine, step = models.our_engine(config, partial(models.seq2seq_batch, config, rows=1, source=8, target=8), "fp32")
    step()
    return engine


def _ours(config: ModelConfig, folder: Path) -> Callable[[], float]:
    engine = _engine(config)

    def save() -> float:
        shutil.rmtree(folder, ignore_errors=True)
        checkpoint.save(folder, engine, TrainState(), config, {}, binding={})
        return float(sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()))

    return save


def _theirs(flushed: bool, config: ModelConfig, folder: Path) -> Callable[[], float]:
    engine = _engine(config)
    state = {"model": dict(engine.values()), "optimizer": dict(engine.moments())}
    folder.mkdir(parents=True, exist_ok=True)

    def save() -> float:
        with open(folder / "state.pt", "wb") as file:
            torch.save(state, file)
            if flushed:
                file.flush()
                os.fsync(file.fileno())
        return float((folder / "state.pt").stat().st_size)

    return save

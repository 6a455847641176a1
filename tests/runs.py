"""Runs inside the test's own process, and what a run left behind."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from megas2s.finetune import finetune
from megas2s.finetuning import Finetuning
from megas2s.models.config import ModelConfig
from megas2s.models.weights import open_weights
from megas2s.pretrain import pretrain
from megas2s.recipe import Recipe
from megas2s.spec import parse

MEASURED = {"tokens_per_second", "tflops", "mfu", "memory_gib", "data_wait", "eta_seconds"}  # time and memory

THREE_STEPS = {  # of fine-tuning, for a test of what comes after
    "rows": 8,
    "steps": 3,
    "schedule": {"lr": 1e-3, "warmup_steps": 1},
    "precision": "fp32",
    "engine": {"name": "local"},
    "log": {"evaluate_every": 0, "tensorboard": False},
}


class Finished(NamedTuple):
    """What a run left that must not depend on how often it was interrupted."""

    folder: Path

    def weights(self, stage: str) -> dict[str, Tensor]:
        """The weights that a stage ended with, by canonical name."""
        reader = open_weights(self.folder / stage / "weights")
        return {name: reader.tensor(name) for name in reader.names}

    def config(self, stage: str) -> ModelConfig:
        """The shape of the model that a stage trained."""
        return open_weights(self.folder / stage / "weights").config

    def hashes(self, stage: str) -> dict[str, str]:
        """SHA-256 of every tensor of those weights."""
        return {
            name: hashlib.sha256(tensor.numpy().tobytes()).hexdigest() for name, tensor in self.weights(stage).items()
        }

    def log(self, stage: str) -> list[dict]:
        """The lines of a stage in metrics.jsonl, without what measures time and memory."""
        lines = map(json.loads, (self.folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
        return [
            {key: value for key, value in line.items() if key not in MEASURED}
            for line in lines
            if line["stage"] == stage
        ]

    def bits(self, stage: str) -> tuple[dict[str, str], list[dict]]:
        """What an interruption must not change: the weights of a stage, by their hashes, and its log."""
        return self.hashes(stage), self.log(stage)

    def losses(self, stage: str, kind: str = "train") -> list[float]:
        """The losses of a stage, in order."""
        return [line["loss"] for line in self.log(stage) if line["kind"] == kind]


def train_all(data: dict, *, allowed: Sequence[str] = ()) -> Finished:
    recipe = parse(Recipe, data, source="recipe")
    while pretrain(recipe, allowed=allowed):
        pass
    return Finished(Path(data["run"]))


def tune(data: dict) -> Finished:
    recipe = parse(Finetuning, data, source="recipe")
    while finetune(recipe):
        pass
    return Finished(Path(data["run"]))


@contextlib.contextmanager
def training(run: Callable[..., Finished] = train_all) -> Iterator[Callable[..., Finished]]:
    """Train all stages of a recipe, given as plain data, in this process; raises what training raises."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield run
    finally:
        torch.set_num_threads(threads)
        logger = logging.getLogger("megas2s")  # `record.log_to` takes it for itself
        for handler in logger.handlers[:]:
            logger.removeHandler(handler)
            handler.close()
        logger.propagate = True
        logger.setLevel(logging.NOTSET)

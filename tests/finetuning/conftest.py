"""A recipe of fine-tuning for each method, over examples that are made up."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from .task import METHODS, SIZES, WRITERS, examples


@pytest.fixture(scope="module")
def make(random_weights, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., dict]:
    """`make(kind, run)`: a recipe as plain data."""
    folder = tmp_path_factory.mktemp("task")
    for name, records in (("train", examples(64)), ("dev", examples(10, 100)), ("test", examples(14, 200))):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    weights = {
        name: random_weights(folder / name, **{**SIZES, **more}, dropout=0.0) for name, (_, _, more) in METHODS.items()
    }

    def recipe(kind: str, run: Path, **changes) -> dict:
        method, columns, _ = METHODS[kind]
        paths = {split: str(folder / f"{split}.jsonl") for split in ("train", "dev", "test")}
        return {
            "run": str(run),
            "init": str(weights[kind]),
            "tokenizer": str(changes.pop("tokenizer")),
            "method": method,
            "data": {**paths, "columns": columns},
            "length": 32,
            **({"target_length": 8} if method["name"] in WRITERS else {}),
            "rows": 16,
            "steps": 60,
            "schedule": {"lr": 5e-3, "warmup_steps": 5},
            "precision": "fp32",
            "engine": {"name": "local"},
            "log": {"every": 20, "evaluate_every": 30, "tensorboard": False},
            **changes,
        }

    return recipe


@pytest.fixture
def recipe(make, corpus_folder, tmp_path):
    return lambda kind, **changes: make(kind, tmp_path / "run", tokenizer=corpus_folder / "tokenizer", **changes)

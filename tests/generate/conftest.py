"""Small models that were taught for a few steps, one by each way to write; what they write is nonsense, and theirs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

SIZES = {"hidden_size": 16, "num_heads": 2, "ffn_size": 32, "num_encoder_layers": 1, "max_positions": 40}
METHODS = ("causal", "masked", "pseudo_masked", "seq2seq")
RECORDS = [
    {"src": "the red house is here", "tgt": "das rote haus"},
    {"src": "a tree", "tgt": "ein baum und noch einer"},
    {"src": "stones and rivers and windows and gardens", "tgt": "steine"},
]


@pytest.fixture(scope="session")
def lines(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of sources and references."""
    path = tmp_path_factory.mktemp("lines") / "test.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in RECORDS))
    return path


@pytest.fixture(scope="module")
def taught(random_weights, corpus_folder, lines, tune_here, tmp_path_factory) -> Callable[[str], Path]:
    """`taught(method)`: the folder of a run."""
    made: dict[str, Path] = {}

    def run(method: str) -> Path:
        if method not in made:
            folder = tmp_path_factory.mktemp(method)
            decoder = {"num_decoder_layers": 1} if method == "seq2seq" else {}
            weights = random_weights(folder / "weights", **SIZES, **decoder, dropout=0.0, init_std=0.3)
            recipe = {
                "run": str(folder / "run"),
                "init": str(weights),
                "tokenizer": str(corpus_folder / "tokenizer"),
                "method": {"name": method},
                "data": {"train": str(lines), "columns": {"text": "src", "label": "tgt"}},
                "length": 24,
                "target_length": 10,
                "rows": 3,
                "steps": 2,
                "schedule": {"lr": 1e-3, "warmup_steps": 1},
                "precision": "fp32",
                "engine": {"name": "local"},
                "checkpoints": {"every": 1},
                "log": {"every": 2, "evaluate_every": 0, "tensorboard": False},
            }
            tune_here(recipe)
            made[method] = folder / "run"
        return made[method]

    return run

"""What whole-house tests share: a small corpus made by the real tools, tiny recipes, and real ranks."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
SAMPLE = ROOT / "launch" / "sample_corpus"
LANGUAGES = ("ar", "en", "sw", "zh")  # enough scripts for a test, few enough to be quick


def run_process(command: list[str], *, timeout: float, env: dict[str, str] | None = None) -> subprocess.CompletedProcess:
    """Run a command in the project's root in its own process group; the whole group ends with the time-out."""
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", **(env or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        output, _ = process.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
        pytest.fail(f"{' '.join(command[:4])} ... did not end within {timeout} s:\n{output[-4000:]}")
    return subprocess.CompletedProcess(command, process.returncode, output)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="session")
def script() -> Callable[..., subprocess.CompletedProcess]:
    """Run `python SCRIPT ARGUMENTS` from the project's root."""

    def run(*arguments: object, timeout: float = 120, env: dict[str, str] | None = None):
        return run_process([sys.executable, *map(str, arguments)], timeout=timeout, env=env)

    return run


@pytest.fixture(scope="session")
def ranks() -> Callable[..., subprocess.CompletedProcess]:
    """Run a script on real ranks: `deepspeed --num_gpus N SCRIPT ARGUMENTS`, over gloo where there is no GPU."""

    def run(number: int, *arguments: object, timeout: float = 180, env: dict[str, str] | None = None):
        launcher = [str(Path(sys.executable).with_name("deepspeed")), "--num_gpus", str(number)]
        command = [*launcher, "--master_port", str(free_port()), *map(str, arguments)]
        return run_process(command, timeout=timeout, env=env)

    return run


@pytest.fixture(scope="session")
def corpus_folder(tmp_path_factory: pytest.TempPathFactory, script) -> Path:
    """Four languages of the sample corpus, tokenised and written as shards by the tools themselves."""
    folder = tmp_path_factory.mktemp("corpus")
    inputs = [str(SAMPLE / f"{language}.txt") for language in LANGUAGES]
    flags = [flag for path in inputs for flag in ("--input", path)]
    trained = script("tools/train_tokenizer.py", *flags, "--output", folder / "tokenizer", "--vocab-size", 2048, "language_slots=8")
    assert trained.returncode == 0, trained.stdout
    written = script(
        "tools/preprocess.py",
        "--input",
        *inputs,
        "--tokenizer",
        folder / "tokenizer",
        "--output",
        folder / "corpus",
        "--held-out",
        0.1,
        "--workers",
        1,
    )
    assert written.returncode == 0, written.stdout
    return folder / "corpus"


@pytest.fixture
def recipe_data(corpus_folder: Path, tmp_path: Path) -> dict:
    """A three-stage recipe as plain data, small enough to train in seconds; tests change what they are about."""
    zero = {"name": "zero", "config": str(ROOT / "ds_configs" / "zero1.json")}
    stage = {
        "length": 64,
        "batch_tokens": 512,
        "micro_batch": 2,
        "steps": 4,
        "schedule": {"lr": 1e-3, "warmup_steps": 2, "final_lr": 1e-4},
        "optimizer": {"grad_clip": 0.5, "weight_decay": 0.1},
        "precision": "fp32",
        "engine": zero,
    }
    denoising = {"name": "denoising", "noise": "delete"}
    return {
        "run": str(tmp_path / "run"),
        "corpus": str(corpus_folder),
        "model": {
            "hidden_size": 32,
            "num_heads": 4,
            "ffn_size": 64,
            "num_encoder_layers": 2,
            "num_decoder_layers": 2,
            "max_positions": 64,
        },
        "workers": 0,
        "log": {"every": 1, "evaluate_every": 2, "heldout_rows": 2, "samples_every": 0},
        "checkpoints": {"every": 2, "keep_last": 2},
        "stages": [
            {"name": "mlm", "objective": {"name": "mlm"}, **stage},
            {
                "name": "seq2seq_frozen",
                "init": "mlm",
                "decoder": {"tying": "tied_to_decoder"},
                "freeze": ["encoder.*"],
                "objective": denoising,
                **stage,
            },
            {"name": "seq2seq", "init": "seq2seq_frozen", "objective": denoising, **stage},
        ],
    }


@pytest.fixture
def write_recipe(tmp_path: Path) -> Callable[[dict], Path]:
    """Write plain data as a recipe file."""

    def write(data: dict, name: str = "recipe.yaml") -> Path:
        path = tmp_path / name
        path.write_text(yaml.safe_dump(data, sort_keys=False), encoding="utf-8")
        return path

    return write

"""What whole-house tests share: a small corpus made by the real tools, tiny recipes, and real ranks."""

from __future__ import annotations

import contextlib
import copy
import os
import runpy
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
import yaml
from hypothesis import HealthCheck, settings
from tokenizers import Tokenizer as Library

from megas2s import files
from megas2s.engine.local import LocalEngine
from megas2s.models.config import ModelConfig
from megas2s.models.parameters import canonical_parameters
from megas2s.models.transformer import build
from megas2s.models.weights import save_weights
from megas2s.tokenizer.load import Tokenizer

from .processes import ROOT, free_port, run_process
from .runs import Finished, training, tune
from .small_tokenizers import KINDS

SAMPLE = ROOT / "launch" / "sample_corpus"
LANGUAGES = ("ar", "en", "sw", "zh")  # enough scripts for a test, few enough to be quick

# A machine that does something else for a second is no fault of a test.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # a job in the background; tests of Ctrl-C need it heard
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def shell() -> Callable[..., subprocess.CompletedProcess]:
    """Run any command, in the project's root unless `cwd` says otherwise."""
    return run_process


@pytest.fixture(scope="session")
def script() -> Callable[..., subprocess.CompletedProcess]:
    """Run `python SCRIPT ARGUMENTS` from the project's root."""

    def run(*arguments: object, timeout: float = 120, env: dict[str, str] | None = None):
        return run_process([sys.executable, *map(str, arguments)], timeout=timeout, env=env)

    return run


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Call a tool's `main` with arguments, in this process; gives what it printed."""

    def run_main(tool: str, *arguments: object) -> str:
        monkeypatch.setattr(sys, "argv", [tool, *map(str, arguments)])
        capsys.readouterr()
        runpy.run_path(str(ROOT / tool))["main"]()
        return capsys.readouterr().out

    return run_main


@pytest.fixture(scope="session")
def rank_command() -> Callable[..., list[str]]:
    """The command that runs a script on real ranks: `deepspeed --num_gpus N SCRIPT ARGUMENTS`, over a free port."""

    def command(number: int, *arguments: object) -> list[str]:
        launcher = [str(Path(sys.executable).with_name("deepspeed")), "--num_gpus", str(number)]
        return [*launcher, "--master_port", str(free_port()), *map(str, arguments)]

    return command


@pytest.fixture(scope="session")
def ranks(rank_command) -> Callable[..., subprocess.CompletedProcess]:
    """Run a script on real ranks, over gloo where there is no GPU."""

    def run(number: int, *arguments: object, timeout: float = 180, env: dict[str, str] | None = None):
        return run_process(rank_command(number, *arguments), timeout=timeout, env=env)

    return run


@pytest.fixture
def unflushed(monkeypatch: pytest.MonkeyPatch) -> Callable[[Path], set[str]]:
    """`unflushed(folder)` names what a power cut may take from below a folder: each path there whose entry in the
    folder above it, or whose content, has not been flushed since the fixture was asked for."""
    entries: dict[int, set[str]] = {}  # of folders, as they were when last flushed
    sizes: dict[int, int] = {}
    fsync = os.fsync

    def watched(descriptor: int) -> None:
        facts = os.fstat(descriptor)
        if stat.S_ISDIR(facts.st_mode):
            entries[facts.st_ino] = set(os.listdir(descriptor))
        else:
            sizes[facts.st_ino] = facts.st_size
        fsync(descriptor)

    def flushed(path: Path) -> bool:
        facts = path.stat()
        known = path.name in entries.get(path.parent.stat().st_ino, ())
        return known and (path.is_dir() or sizes.get(facts.st_ino) == facts.st_size)

    monkeypatch.setattr(os, "fsync", watched)
    return lambda folder: {path.relative_to(folder).as_posix() for path in folder.rglob("*") if not flushed(path)}


@pytest.fixture(scope="session")
def small_tokenizer() -> Callable[[str], tuple[Library, dict[str, str]]]:
    """`small_tokenizer("roberta")`, "bert" or "t5": one as others make it, and the names of its tokens' roles."""
    return lambda kind: KINDS[kind]()


@pytest.fixture(scope="session")
def corpus_folder(tmp_path_factory: pytest.TempPathFactory, script) -> Path:
    """Four languages of the sample corpus, tokenised and written as shards by the tools themselves."""
    folder = tmp_path_factory.mktemp("corpus")
    inputs = [str(SAMPLE / f"{language}.txt") for language in LANGUAGES]
    output, sizes = ("--output", folder / "tokenizer"), ("--vocab-size", 2048, "language_slots=8")
    trained = script("tools/train_tokenizer.py", "--input", *inputs, *output, *sizes)
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


@pytest.fixture(scope="session")
def make_recipe(corpus_folder: Path) -> Callable[[Path], dict]:
    """A three-stage recipe for a run folder, as plain data, small enough to train in seconds."""

    def make(run: Path) -> dict:
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
            "run": str(run),
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

    return make


@pytest.fixture
def recipe_data(make_recipe: Callable[[Path], dict], tmp_path: Path) -> dict:
    """`make_recipe` for a folder of the test; tests change what they are about."""
    return make_recipe(tmp_path / "run")


@pytest.fixture
def write_recipe(tmp_path: Path) -> Callable[[dict], Path]:
    """Write plain data as a recipe file."""

    def write(data: dict, name: str = "recipe.yaml") -> Path:
        path = tmp_path / name
        path.write_text(yaml.safe_dump(data, sort_keys=False), encoding="utf-8")
        return path

    return write


@pytest.fixture(scope="session")
def finished() -> type[Finished]:
    """`finished(folder)` reads what the run in a folder left."""
    return Finished


@pytest.fixture(scope="session")
def train_within() -> Callable[[], contextlib.AbstractContextManager[Callable[[dict], Finished]]]:
    """`with train_within() as train` is `train_here` for fixtures that outlive a module."""
    return training


@pytest.fixture(scope="module")
def train_here() -> Iterator[Callable[[dict], Finished]]:
    """Train all stages of a recipe, given as plain data, in this process; raises what training raises."""
    with training() as train:
        yield train


@pytest.fixture(scope="module")
def tune_here() -> Iterator[Callable[[dict], Finished]]:
    """Fine-tune by a recipe, given as plain data, in this process."""
    with training(tune) as run:
        yield run


@pytest.fixture(scope="session")
def random_weights(corpus_folder: Path) -> Callable[..., Path]:
    """`random_weights(folder, **sizes)`: published weights of a small random model that knows the corpus' tokenizer."""
    tokenizer = Tokenizer.load(corpus_folder / "tokenizer")

    def save(folder: Path, **sizes: object) -> Path:
        facts = {"vocab_size": tokenizer.vocabulary.size, "pad_id": tokenizer.vocabulary.pad}
        config = ModelConfig(**{**facts, **sizes})
        torch.manual_seed(7)
        tensors = [(name, value.detach()) for name, value in canonical_parameters(build(config)).items()]
        temporary = files.empty_temporary(folder)
        save_weights(temporary, tensors, config=config, metadata={"tokenizer": tokenizer.fingerprint})
        files.publish(temporary, folder, {"kind": "weights"})
        return folder

    return save


@pytest.fixture
def local_recipe(recipe_data: dict) -> dict:
    """`recipe_data` for `train_here`: the local engine, no TensorBoard."""
    data = copy.deepcopy(recipe_data)
    data["log"]["tensorboard"] = False
    data["stages"] = [{**copy.deepcopy(stage), "engine": {"name": "local"}} for stage in data["stages"]]
    return data


class Interrupted(Exception):
    """What stops a run in this process."""


@pytest.fixture
def interrupt(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Make the local engine raise when it is to take a step; the trial step, at a learning rate of 0, passes."""
    original = LocalEngine.train_step

    def at(stop: int) -> None:
        def train_step(engine, batches, *, step, lr):
            if step == stop and lr:
                monkeypatch.setattr(LocalEngine, "train_step", original)
                raise Interrupted
            return original(engine, batches, step=step, lr=lr)

        monkeypatch.setattr(LocalEngine, "train_step", train_step)

    return at


@pytest.fixture
def disturb(train_here, interrupt, tmp_path: Path) -> Callable[..., tuple[Finished, Finished]]:
    """`disturb(recipe, *stops)`: the recipe, as plain data, run straight through and interrupted before each stop."""

    def run(data: dict, *stops: int, by: Callable[[dict], Finished] = train_here) -> tuple[Finished, Finished]:
        straight = by({**data, "run": str(tmp_path / "straight")})
        disturbed = {**data, "run": str(tmp_path / "disturbed")}
        for stop in stops:
            interrupt(stop)
            with pytest.raises(Interrupted):
                by(disturbed)
        return straight, by(disturbed)

    return run

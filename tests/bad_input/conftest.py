"""What a person can get wrong ends in one clear sentence, its exit code, and everything still there.

Every case runs the real entry point (test_ranks.py, a script of its own). The sentence says what is wrong, what was
found and what to do; the codes are those of `megas2s.errors`: 2 recipe and flags, 3 documents, shards and tokenizer,
4 checkpoints and weights, 5 disk.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
SAMPLE = ROOT / "launch" / "sample_corpus"
PRETRAIN = "launch/pretrain.py"


def refused(result, code: int, *said: str, lines: int = 1) -> None:
    """The command ended with `code`, `lines` lines of error in all, what was `said` in them, and no traceback."""
    errors = [line for line in result.stdout.splitlines() if "error: " in line]
    assert result.returncode == code, result.stdout
    assert len(errors) == lines, result.stdout
    assert "Traceback" not in result.stdout, result.stdout
    for words in said:
        assert any(words in line for line in errors), errors


def content(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, without the logs, where a refusal may be written down."""
    found = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    return {name: data for name, data in found.items() if not name.startswith("logs/")}


def flip_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.fixture(scope="package")
def recipe(make_recipe, tmp_path_factory) -> Path:
    """One MLM stage of six steps with the local engine; tests change it by overrides, `run` at least."""
    folder = tmp_path_factory.mktemp("recipe")
    data = make_recipe(folder / "unused")
    stage = {**data["stages"][0], "steps": 6, "engine": {"name": "local"}}
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump({**data, "stages": [stage]}), encoding="utf-8")
    return path


@pytest.fixture(scope="package")
def complete(recipe, script, tmp_path_factory) -> Path:
    """The run that nothing disturbed."""
    run = tmp_path_factory.mktemp("complete") / "run"
    result = script(PRETRAIN, recipe, f"run={run}")
    assert result.returncode == 0, result.stdout
    return run


@pytest.fixture
def interrupted(complete, tmp_path) -> Path:
    """A copy of it with checkpoints at steps 2 and 4, as if killed before its last weights."""
    run = tmp_path / "run"
    shutil.copytree(complete, run)
    shutil.rmtree(run / "mlm" / "weights")
    return run


@pytest.fixture
def corpus(corpus_folder, tmp_path) -> Path:
    """A copy of the corpus, to be spoilt."""
    return Path(shutil.copytree(corpus_folder, tmp_path / "corpus"))


def shard(corpus: Path) -> Path:
    return min((corpus / "train").rglob("*.arrow"))


def weights(run: Path) -> bytes:
    return (run / "mlm" / "weights" / "model-00001.safetensors").read_bytes()

"""The README keeps its word: its tree is the tree, its commands exist, its first command does what it says."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from megas2s import finetuning
from megas2s.recipe import load_recipe
from megas2s.spec import parse, read_yaml
from megas2s.splits import SPLITS, Examples

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
TREE = README.split("## Where everything lives")[1].split("```")[1]


def named_in_tree() -> set[str]:
    """Every path that the tree names, relative to the root."""
    found, parent = set(), ""
    for line in TREE.strip().splitlines():
        indented = line.startswith("  ")
        words = re.split(r"\s{2,}", line.strip())[0].split()
        if not indented:
            parent = words[0].split("/")[0] + "/"
        for word in words:
            path = (parent + word if indented else word).split("*")[0].rstrip("/")
            found.add(path)
    return found


def test_everything_the_tree_names_exists():
    missing = sorted(path for path in named_in_tree() if not (ROOT / path).exists())
    assert not missing


@pytest.mark.parametrize("folder", ["launch", "tools", "megas2s"])
def test_the_tree_names_everything(folder: str):
    present = {f"{folder}/{path.name}" for path in (ROOT / folder).iterdir() if not path.name.startswith(("_", "."))}
    assert present - named_in_tree() <= {"tools/benchmarks"}


def test_the_recipe_table_is_the_folder():
    table = set(re.findall(r"^\| `(\w+\.yaml)` \|", README, re.M))
    assert table == {path.name for path in (ROOT / "launch" / "recipes").glob("*.yaml")}


def test_the_data_of_a_task_can_be_read():
    (block,) = re.findall(r"```yaml\n(data:.*?)```", README, re.S)
    data = parse(Examples, read_yaml(block, source="README")["data"], source="README")
    assert {split: source.name for split in SPLITS for source in data.named(split).values()} == {
        "train": "pairs/train.csv",
        "dev": "pairs/dev.en",
        "test": "dataset exports/pairs, split test",
    }


def commands() -> list[list[str]]:
    """The shell commands of the README that run a script of ours, as words."""
    blocks = re.findall(r"```bash\n(.*?)```", README, re.S)
    lines = [line.split("  #")[0] for block in blocks for line in block.splitlines()]
    return [shlex.split(line) for line in lines if re.match(r"(python|deepspeed) ", line)]


@pytest.mark.parametrize("command", commands(), ids=" ".join)
def test_a_command_names_a_script_and_flags_that_exist(command: list[str], script):
    place = next(index for index, word in enumerate(command) if word.endswith(".py"))
    path, arguments = command[place], command[place + 1 :]
    offered = script(path, "--help").stdout
    assert offered.startswith("usage:")
    for word in arguments:
        if word.startswith("--"):
            assert re.search(rf"{re.escape(word)}\b", offered), f"{path} knows no {word}"
    recipes = [word for word in arguments if word.endswith(".yaml")]
    overrides = [word for word in arguments if re.fullmatch(r"[\w.]+=.+", word)]
    if recipes and path == "launch/finetune.py":
        assert finetuning.load(ROOT / recipes[0], overrides).method
    elif recipes:
        assert load_recipe(ROOT / recipes[0], overrides).stages


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files that git knows, elsewhere."""
    folder = tmp_path_factory.mktemp("clone")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    for name in filter(None, listed.split("\0")):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, folder / name)
    return folder


@pytest.mark.parametrize(
    ("gpus", "ranks", "said"),
    [
        (0, 2, "no GPU here: 2 ranks on the CPU"),
        (1, 1, "1 of 1 GPUs: a power of two"),
        (6, 4, "4 of 6 GPUs: a power of two"),
        (64, 32, "32 of 64 GPUs: a power of two"),
    ],
)
def test_the_quickstart_says_how_many_gpus_it_uses(gpus: int, ranks: int, said: str, shell, tmp_path):
    for name, line in (("python", f'[ "$1" != -c ] || echo {gpus}'), ("deepspeed", 'echo "deepspeed $*"')):
        (tmp_path / name).write_text(f"#!/bin/sh\n{line}\n", encoding="utf-8")
        (tmp_path / name).chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    result = shell(["bash", "launch/quickstart.sh"], env={"MEGAS2S_VENV": "active", "PATH": path}, timeout=60)
    assert result.returncode == 0, result.stdout
    assert f"\n{said}" in result.stdout
    assert f"deepspeed --num_gpus {ranks} launch/pretrain.py " in result.stdout


@pytest.mark.slow
@pytest.mark.ranks
@pytest.mark.timeout(600)
def test_the_quickstart_goes_from_text_to_hugging_face_and_reuses_what_is_done(clone: Path, shell):
    """The real script on the real corpus, with fewer steps than it takes by itself."""
    steps = [f"stages.{name}.steps={steps}" for name, steps in (("mlm", 12), ("seq2seq_frozen", 6), ("seq2seq", 6))]
    command = ["bash", "launch/quickstart.sh", *steps, "log.evaluate_every=6", "checkpoints.every=6"]
    first = shell(command, cwd=clone, env={"MEGAS2S_VENV": "active"}, timeout=420)
    assert first.returncode == 0, first.stdout[-4000:]
    for stage in ("mlm", "seq2seq_frozen", "seq2seq"):
        assert f"stage {stage} is complete" in first.stdout
    filled = re.search(r"^filled +(.+)$", first.stdout, re.M)
    assert filled
    assert "<mask>" not in filled[1]
    assert re.search(r"^by rank +'.*'(, '.*'){4}$", first.stdout, re.M)
    assert re.search(r"^reconstructed ", first.stdout, re.M)
    assert "tensorboard --logdir runs/sample/tensorboard" in first.stdout

    weights = clone / "runs/sample/seq2seq/weights/MANIFEST.json"
    written = weights.stat().st_mtime_ns
    second = shell(command, cwd=clone, env={"MEGAS2S_VENV": "active"}, timeout=120)
    assert second.returncode == 0, second.stdout[-4000:]
    assert "every stage is complete" in second.stdout
    assert weights.stat().st_mtime_ns == written

"""What a person can get wrong ends in one clear sentence, its exit code, and everything still there.

Every case runs the real entry point (the last test, a script of its own). The sentence says what is wrong, what was
found and what to do; the codes are those of `megas2s.errors`: 2 recipe and flags, 3 documents, shards and tokenizer,
4 checkpoints and weights, 5 disk.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[1]
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


@pytest.fixture(scope="module")
def recipe(make_recipe, tmp_path_factory) -> Path:
    """One MLM stage of six steps with the local engine; tests change it by overrides, `run` at least."""
    folder = tmp_path_factory.mktemp("recipe")
    data = make_recipe(folder / "unused")
    stage = {**data["stages"][0], "steps": 6, "engine": {"name": "local"}}
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump({**data, "stages": [stage]}), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
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


# Recipes


def test_unknown_keys_are_named_with_their_path_and_the_nearest_known_key(script, recipe, tmp_path):
    mistakes = ["sede=3", "stages.mlm.objective.mask_prob=0.2", "stages.0.schedule.lr=fast"]
    result = script(PRETRAIN, recipe, f"run={tmp_path}/run", *mistakes)
    refused(
        result,
        2,
        f"{recipe}: sede: unknown key; did you mean 'seed'?",
        "stages.0.objective.mlm.mask_prob: unknown key; did you mean 'mask_probability'?",
        "stages.0.schedule.lr: input should be a valid number",
        lines=3,
    )
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["nowhere.yaml"], "no recipe at nowhere.yaml; launch/recipes/ holds alexatm_20b.yaml, "),
        (["{tmp}/broken.yaml"], "broken.yaml is not valid YAML: "),
        (["{recipe}", "seed"], "override 'seed' is not of the form key=value"),
        (["{recipe}", "--seed=3"], "unrecognized arguments: --seed=3; pretrain.py --help lists what there is"),
    ],
    ids=["missing recipe", "invalid YAML", "override without =", "unknown flag"],
)
def test_a_command_that_cannot_be_read_is_refused(script, recipe, tmp_path, arguments, said):
    (tmp_path / "broken.yaml").write_text("run: [\nseed: 3", encoding="utf-8")
    refused(script(PRETRAIN, *(text.format(recipe=recipe, tmp=tmp_path) for text in arguments)), 2, said)


def test_a_window_longer_than_the_positions_is_refused(script, recipe, tmp_path):
    result = script(PRETRAIN, recipe, f"run={tmp_path}/run", "stages.mlm.length=128")
    refused(result, 2, "stage 'mlm': rows of 128 tokens exceed the model's 64 positions; shorten length, or")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("knobs", "said"),
    [
        (
            {"zero_optimization": {"stage": 3}, "pipeline": {"stages": 2}},
            "ZeRO-3 cannot run in a pipeline; use ZeRO-1 there or remove 'pipeline'",
        ),
        (
            {"train_batch_size": 32},
            "'train_batch_size' is stated by the recipe (batch_tokens); remove it from the file",
        ),
        (None, "no DeepSpeed configuration at {path}; ds_configs/ holds the shipped ones"),
    ],
    ids=["ZeRO-3 with a pipeline", "batch size stated twice", "missing file"],
)
def test_a_deepspeed_file_that_cannot_work_is_refused_before_deepspeed_sees_it(script, recipe, tmp_path, knobs, said):
    path = tmp_path / "knobs.json"
    if knobs is not None:
        path.write_text(json.dumps(knobs), encoding="utf-8")
    engine = f"stages.mlm.engine={{name: zero, config: {path}}}"
    refused(script(PRETRAIN, recipe, f"run={tmp_path}/run", engine), 2, said.format(path=path))
    assert not (tmp_path / "run").exists()


@pytest.mark.ranks
@pytest.mark.slow
def test_a_batch_that_the_ranks_cannot_share_is_refused_once_for_all_ranks(ranks, recipe, tmp_path):
    overrides = ["stages.mlm.batch_tokens=320", "stages.mlm.micro_batch=null", "stages.mlm.engine.name=zero"]
    result = ranks(2, PRETRAIN, recipe, f"run={tmp_path}/run", *overrides)
    refused(result, 2, "stage 'mlm': 5 rows per step (batch_tokens 320 / 64) are not divisible by 2 ranks; change")
    assert not (tmp_path / "run").exists()


# Corpora and tokenizers


def test_a_missing_corpus_is_refused(script, recipe, tmp_path):
    result = script(PRETRAIN, recipe, f"run={tmp_path}/run", f"corpus={tmp_path}/nowhere")
    refused(result, 2, f"there is no corpus at {tmp_path}/nowhere; tools/preprocess.py makes one")


def test_an_unfinished_corpus_is_refused(script, recipe, tmp_path, corpus):
    (corpus / "corpus.json").unlink()
    result = script(PRETRAIN, recipe, f"run={tmp_path}/run", f"corpus={corpus}")
    refused(result, 3, "its preprocessing was never finished; the same command continues")


def test_a_tokenizer_that_did_not_write_the_shards_is_refused(script, recipe, tmp_path, corpus):
    other = tmp_path / "other"
    flags = ["--input", SAMPLE / "en.txt", "--output", other, "--vocab-size", 1024, "language_slots=8"]
    assert script("tools/train_tokenizer.py", *flags).returncode == 0
    shutil.rmtree(corpus / "tokenizer")
    shutil.copytree(other, corpus / "tokenizer")
    result = script(PRETRAIN, recipe, f"run={tmp_path}/run", f"corpus={corpus}")
    refused(result, 3, "is not the one that wrote the shards", "put it back or preprocess again")
    assert not (tmp_path / "run").exists()


def test_a_truncated_shard_is_found_before_anything_is_built(script, recipe, tmp_path, corpus):
    path = shard(corpus)
    os.truncate(path, path.stat().st_size - 1000)
    found = f"{path} is truncated or altered: it has {path.stat().st_size} bytes, corpus.json says"
    refused(script(PRETRAIN, recipe, f"run={tmp_path}/run", f"corpus={corpus}", "--dry-run"), 3, found)
    assert not (tmp_path / "run").exists()
    refused(script(PRETRAIN, recipe, f"run={tmp_path}/run", f"corpus={corpus}"), 3, found, "restore it from a copy")
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_an_altered_shard_is_found_before_the_first_step_unless_the_recipe_waives_it(script, recipe, tmp_path, corpus):
    flip_byte(shard(corpus))
    arguments = [PRETRAIN, recipe, f"run={tmp_path}/run", f"corpus={corpus}", "stages.mlm.steps=1"]
    refused(script(*arguments), 3, f"{shard(corpus)} is truncated or altered: its SHA-256 is another")
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
    trained = script(*arguments, "verify_corpus=false")
    assert trained.returncode == 0, trained.stdout
    assert not (tmp_path / "run" / "verified.json").exists()


def test_a_shard_altered_between_two_starts_is_found_too(script, recipe, corpus, interrupted):
    overrides = [recipe, f"run={interrupted}", f"corpus={corpus}"]
    before = content(interrupted)
    path = shard(corpus)
    time_of_change = path.stat().st_mtime_ns
    flip_byte(path)
    os.utime(path, ns=(time_of_change, time_of_change + 1))
    refused(script(PRETRAIN, *overrides), 3, f"{path} is truncated or altered: its SHA-256 is another")
    assert content(interrupted) == before


def test_a_language_too_small_for_one_window_is_refused(script, recipe, tmp_path):
    result = script(PRETRAIN, recipe, f"run={tmp_path}/run", "stages.mlm.length=4096", "stages.mlm.batch_tokens=32768")
    refused(result, 3, "language 'ar' of source 'text' has ", " tokens and no shard of 4095 or more, the length of one")


@pytest.mark.parametrize("tool", ["preprocess", "train_tokenizer"])
@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("sw.txt", b"moja\nmbili \xff\n", "{path}, line 2: invalid UTF-8; repair it, or"),
        ("sw.jsonl", b'{"text": "moja"}\n{"body": "mbili"}\n', "{path}, line 2: no field 'text' (found 'body')"),
        ("sw.txt", b"\n \n", "no documents of language sw"),
    ],
    ids=["invalid UTF-8", "no text field", "empty language"],
)
def test_documents_that_cannot_be_read_are_refused_with_file_and_line(
    script, corpus_folder, tmp_path, tool, name, text, said
):
    path = tmp_path / "in" / name
    path.parent.mkdir()
    path.write_bytes(text)
    shutil.copy(SAMPLE / "en.txt", path.parent)
    flags = ["--input", path.parent, "--output", tmp_path / "out"]
    extra = {
        "preprocess": ["--tokenizer", corpus_folder / "tokenizer", "--workers", 1],
        "train_tokenizer": ["--vocab-size", 1024, "language_slots=8"],
    }
    refused(script(f"tools/{tool}.py", *flags, *extra[tool]), 3, said.format(path=path))
    assert not (tmp_path / "out" / "corpus.json").exists()
    assert not (tmp_path / "out" / "MANIFEST.json").exists()


# Runs and checkpoints


@pytest.mark.parametrize("left", ["checkpoints", "weights"])
def test_a_run_of_another_recipe_is_refused_and_left_as_it_was(script, recipe, complete, interrupted, left):
    if left == "weights":
        shutil.copytree(complete / "mlm" / "weights", interrupted / "mlm" / "weights")
    before = content(interrupted)
    result = script(PRETRAIN, recipe, f"run={interrupted}", "stages.mlm.schedule.lr=2e-3")
    refused(
        result,
        4,
        "belongs to another recipe: stage.schedule.lr was 0.001 and is now 0.002; put it back, or choose another run",
    )
    assert content(interrupted) == before


def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(script, recipe, complete, interrupted):
    damaged = interrupted / "mlm" / "checkpoints" / "step_00000004"
    flip_byte(damaged / "optimizer" / "model-00001.safetensors")
    result = script(PRETRAIN, recipe, f"run={interrupted}")
    assert result.returncode == 0, result.stdout
    assert (
        f"passing over a damaged checkpoint: {damaged}/optimizer/model-00001.safetensors does not match its SHA-256"
        in (result.stdout)
    )
    assert "stage mlm (mlm), 6 steps, from step 2" in result.stdout
    assert weights(interrupted) == weights(complete)


def test_when_every_checkpoint_is_damaged_training_does_not_begin_anew(script, recipe, interrupted):
    for folder in (interrupted / "mlm" / "checkpoints").iterdir():
        flip_byte(folder / "weights" / "model-00001.safetensors")
    before = content(interrupted)
    result = script(PRETRAIN, recipe, f"run={interrupted}")
    refused(result, 4, f"every checkpoint in {interrupted}/mlm/checkpoints is damaged: ", "restore it from a copy")
    assert content(interrupted) == before


@pytest.mark.slow
def test_a_run_folder_in_use_is_refused_and_the_job_in_it_goes_on(script, recipe, tmp_path):
    run = tmp_path / "run"
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, PRETRAIN, str(recipe), f"run={run}", "stages.mlm.steps=100000"]
    first = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    try:
        while not (run / "metrics.jsonl").is_file():
            assert first.poll() is None, first.communicate()
            time.sleep(0.05)
        result = script(PRETRAIN, recipe, f"run={run}", "stages.mlm.steps=100000")
        refused(result, 2, f"{run} is in use by process {first.pid} on ", "wait for it, or choose another run folder")
        assert first.poll() is None
        first.send_signal(signal.SIGINT)
        _, said = first.communicate(timeout=60)
        assert (first.returncode, said) == (130, "interrupted; the same command continues\n")
    finally:
        first.kill()
        first.wait()
    assert not (run / "lock.json").exists()


# Disks


def limited(blocks: int, *command: object) -> list[str]:
    """The command under a limit on the size of each file, in KiB: what a full disk says, without one."""
    return ["bash", "-c", f'ulimit -f {blocks} && exec "$@"', "bash", sys.executable, *map(str, command)]


def test_a_full_disk_under_a_checkpoint_is_refused(shell, recipe, tmp_path):
    command = limited(100, PRETRAIN, recipe, f"run={tmp_path}/run")
    refused(shell(command, timeout=120), 5, f"no room to write {tmp_path}/run/mlm/checkpoints/", "free some space")
    assert not list((tmp_path / "run" / "mlm" / "checkpoints").glob("step_*"))


def test_a_full_disk_under_shards_leaves_a_corpus_that_the_same_command_finishes(shell, corpus_folder, tmp_path):
    flags = ["--input", *(SAMPLE / f"{language}.txt" for language in ("ar", "en", "sw", "zh")), "--held-out", 0.1]
    command = ["tools/preprocess.py", *flags, "--tokenizer", corpus_folder / "tokenizer", "--workers", 1]
    command += ["--output", tmp_path / "corpus"]
    refused(shell(limited(4, *command), timeout=120), 5, f"no room to write {tmp_path}/corpus/")
    assert not (tmp_path / "corpus" / "corpus.json").exists()
    result = shell([sys.executable, *map(str, command)], timeout=120)
    assert result.returncode == 0, result.stdout
    assert content(tmp_path / "corpus") == content(corpus_folder)


@pytest.mark.slow
def test_a_disk_that_fills_up_during_training_keeps_its_checkpoints(script, recipe, complete, tmp_path):
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1500k", "tmpfs", str(disk)], capture_output=True)
    if mounted.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {mounted.stderr.decode().strip()}")
    try:
        run = disk / "run"
        refused(
            script(PRETRAIN, recipe, f"run={run}"), 5, f"no room to write {run}/mlm/checkpoints/", "free some space"
        )
        assert [path.name for path in (run / "mlm" / "checkpoints").glob("step_*")] == ["step_00000002"]
        subprocess.run(["mount", "-o", "remount,size=20m", str(disk)], check=True)
        result = script(PRETRAIN, recipe, f"run={run}")
        assert result.returncode == 0, result.stdout
        assert "stage mlm (mlm), 6 steps, from step 2" in result.stdout
        assert weights(run) == weights(complete)
    finally:
        subprocess.run(["umount", str(disk)], check=True)


# Several ranks

FAILS = """
import sys
import torch
from megas2s import cli, dist
from megas2s.errors import BadData

def main():
    torch.distributed.init_process_group("gloo")
    failing = int(sys.argv[-1])
    if dist.place().rank == failing:
        raise BadData(f"rank {failing} cannot read its text")
    dist.sum_over_ranks(torch.ones(1))

cli.run(main)
"""


@pytest.mark.ranks
@pytest.mark.slow
@pytest.mark.parametrize(("failing", "said"), [(0, "error: rank 0 cannot"), (1, "error: rank 1 on ")])
def test_a_rank_that_fails_alone_is_heard_and_the_ranks_that_lose_it_are_not(ranks, tmp_path, failing, said):
    (tmp_path / "fails.py").write_text(FAILS, encoding="utf-8")
    result = ranks(2, tmp_path / "fails.py", failing, env={"PYTHONPATH": str(ROOT)})
    refused(result, 3, said, f"rank {failing} cannot read its text")

"""A full disk is told, and what was on it stays usable."""

from __future__ import annotations

import subprocess
import sys

import pytest

from .conftest import PRETRAIN, SAMPLE, content, refused, weights


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
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1900k", "tmpfs", str(disk)], capture_output=True)
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

"""All ranks go on from one run folder: rank 0 hashes what is in it, and hosts that see another one are refused."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from megas2s.train import checkpoint

ROOT = Path(__file__).resolve().parents[1]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.ranks,
    pytest.mark.timeout(900),  # a start alone and one of two ranks, on a machine that may be busy
]

HOSTS = """
import os
import sys

from megas2s import cli, dist, files
from megas2s.engine import leave
from megas2s.pretrain import pretrain
from megas2s.recipe import load_recipe
from megas2s.train import agree, record

verify = files.verify

def telling(folder, **choices):
    print(f"rank {dist.place().rank} hashes {folder}", flush=True)
    return verify(folder, **choices)

def main():
    recipe, *folders = (word for word in sys.argv[1:] if not word.startswith("--local_rank"))
    os.chdir(folders[dist.place().rank])
    agree.SECONDS, files.verify = 0.0, telling
    if "UNLIKE" in os.environ:
        record.versions = lambda: f"torch 2.{10 + dist.place().rank}"
    pretrain(load_recipe(recipe))
    leave()
    assert not dist.active()

cli.run(main)
"""


@pytest.fixture
def interrupted_run(local_recipe, write_recipe, script, tmp_path) -> Path:
    """A folder with `alpha/run`, whose only stage is at step 2 of 4, and the recipe that two ranks go on with."""
    (tmp_path / "hosts.py").write_text(HOSTS, encoding="utf-8")
    local_recipe["stages"] = local_recipe["stages"][:1]
    done = script("launch/pretrain.py", write_recipe({**local_recipe, "run": str(tmp_path / "alpha" / "run")}))
    assert done.returncode == 0, done.stdout
    shutil.rmtree(tmp_path / "alpha" / "run" / "mlm" / "weights")
    local_recipe["stages"][0]["engine"] = {"name": "zero", "config": str(ROOT / "ds_configs" / "zero1.json")}
    write_recipe({**local_recipe, "run": "run"})
    return tmp_path


def on_hosts(ranks, folder: Path, *hosts: str, **environment: str) -> subprocess.CompletedProcess:
    """Go on with `run` on two ranks, each in its own working directory; UNLIKE gives each a version of its own."""
    places = [folder / host for host in hosts]
    return ranks(2, folder / "hosts.py", folder / "recipe.yaml", *places, env={"PYTHONPATH": str(ROOT), **environment})


def test_rank_0_alone_hashes_the_checkpoint_that_all_ranks_go_on_from(ranks, interrupted_run):
    done = on_hosts(ranks, interrupted_run, "alpha", "alpha")
    assert done.returncode == 0, done.stdout[-4000:]
    assert "stage mlm (mlm), 4 steps, from step 2" in done.stdout
    assert "from step 2" in (interrupted_run / "alpha" / "run" / "logs" / "rank_1.log").read_text(encoding="utf-8")
    hashed = {line for line in done.stdout.splitlines() if " hashes " in line}
    assert hashed == {"rank 0 hashes run/mlm/checkpoints/step_00000002"}


def test_hosts_that_do_not_share_the_run_folder_are_refused_before_anything_trains(ranks, interrupted_run):
    shutil.copytree(interrupted_run / "alpha", interrupted_run / "beta")
    done = on_hosts(ranks, interrupted_run, "alpha", "beta")
    (error,) = [line for line in done.stdout.splitlines() if line.startswith("error: ")]
    assert done.returncode == 4, done.stdout[-4000:]
    assert re.fullmatch(
        r"error: rank 1 on \S+ sees the run folder run in use by nobody, rank 0 on \S+ sees the run folder run in use "
        "by process \\d+ on \\S+; all hosts must have the same versions and share the run folder, "
        "the recipe and the corpus",
        error,
    )
    assert not checkpoint.is_complete(interrupted_run / "alpha" / "run" / "mlm")


def test_hosts_of_unlike_versions_are_refused_before_anything_trains(ranks, interrupted_run):
    done = on_hosts(ranks, interrupted_run, "alpha", "alpha", UNLIKE="1")
    (error,) = [line for line in done.stdout.splitlines() if line.startswith("error: ")]
    assert done.returncode == 4, done.stdout[-4000:]
    assert re.match(r"error: rank 1 on \S+ sees torch 2\.11, rank 0 on \S+ sees torch 2\.10; all hosts must", error)
    assert not checkpoint.is_complete(interrupted_run / "alpha" / "run" / "mlm")

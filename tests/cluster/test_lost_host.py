"""A host that leaves the network amid a run: every rank ends within its patience and says so; the run goes on later."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest
import yaml

from megas2s import cli

from .hosts import Cluster, end

ROOT = Path(__file__).resolve().parents[2]
PATIENCE = 15
# Beyond it a rank is silent for a while, and its launcher looks after it once a second (26 s in all on two idle cores);
# the rest is for cores that do something else.
SLACK = cli.OTHERS_SECONDS + 15

pytestmark = [pytest.mark.slow, pytest.mark.ranks, pytest.mark.timeout(500)]


def test_a_cut_cable_ends_every_rank_and_the_run_resumes(cluster: Cluster, make_recipe, finished, tmp_path: Path):
    data = make_recipe(tmp_path / "run")
    zero3 = {"name": "zero", "config": str(ROOT / "ds_configs" / "zero3.json")}
    data |= {"patience": PATIENCE, "checkpoints": {"every": 5, "keep_last": 2}}
    data["log"] |= {"tensorboard": False, "evaluate_every": 0}
    data["stages"] = [{**data["stages"][0], "engine": zero3, "steps": 400}]
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(data, sort_keys=False), encoding="utf-8")
    launch = [Path(sys.executable).with_name("deepspeed"), "--hostfile", cluster.hostfile(slots=1), "--no_ssh_check"]
    launch += ["--master_addr", cluster.address("alpha"), ROOT / "launch" / "pretrain.py", path]
    log = tmp_path / "output.txt"
    process = cluster.start(launch, log)
    try:
        metrics = tmp_path / "run" / "metrics.jsonl"
        until(lambda: metrics.exists() and '"step": 12,' in metrics.read_text(), 200, log)
        cluster.cut("beta")
        until(lambda: not cluster.ranks(), PATIENCE + SLACK, log)
        assert "error: rank 0 on alpha lost the other ranks (" in log.read_text()
        for rank, name in enumerate(cluster.names):  # what beta says reaches nobody, but its file is there
            own = (tmp_path / "run" / "logs" / f"rank_{rank}.log").read_text()
            (lost,) = [line for line in own.splitlines() if " lost the other ranks (" in line]
            assert f" ERROR megas2s: rank {rank} on {name} lost the other ranks (" in lost
            assert lost.endswith("is down; the same command continues from the last checkpoint")
    finally:
        end(process)
        cluster.kill()
        cluster.mend("beta")
    code, output = cluster.run(launch, timeout=300)
    assert code == 0, output[-4000:]
    assert "400 steps, from step " in output
    assert "400 steps, from its beginning" not in output
    assert [line["step"] for line in finished(tmp_path / "run").log("mlm")][-1] == 400


def until(true, seconds: float, log: Path) -> None:
    """Wait until something is so."""
    give_up = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < give_up, f"not so after {seconds} s:\n{log.read_text()[-4000:]}"
        time.sleep(0.1)

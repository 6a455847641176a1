"""Runs over two hosts, started as people start them, equal runs on one: DeepSpeed's launchers, mpirun, torchrun."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import yaml

from .hosts import Cluster

ROOT = Path(__file__).resolve().parents[2]
PRETRAIN = ROOT / "launch" / "pretrain.py"
BIN = Path(sys.executable).parent

pytestmark = [pytest.mark.slow, pytest.mark.ranks, pytest.mark.timeout(400)]


@pytest.fixture(scope="module")
def recipe(make_recipe):
    """One stage with an encoder-decoder, or all three, for a run folder and an engine."""

    def made(run: Path, engine: dict, *, stages: int = 1) -> dict:
        data = make_recipe(run)
        data["model"]["dropout"] = 0.0
        data["patience"] = 60
        kept = data["stages"] if stages == 3 else [{**data["stages"][2], "init": None}]
        data["stages"] = [{**stage, "engine": engine} for stage in kept]
        return data

    return made


def deepspeed(name: str) -> dict:
    return {"name": "zero", "config": str(ROOT / "ds_configs" / f"{name}.json")}


PIPE = {"name": "pipe", "stages": 2, "config": str(ROOT / "ds_configs" / "pipeline.json")}


@pytest.fixture(scope="module")
def alone(recipe, train_within, tmp_path_factory: pytest.TempPathFactory):
    """The same stages on one device."""
    folder = tmp_path_factory.mktemp("alone")
    with train_within() as train:
        one = train(recipe(folder / "one", {"name": "local"}))
        return {1: one, 3: train(recipe(folder / "three", {"name": "local"}, stages=3))}


def written(data: dict, folder: Path) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(data, sort_keys=False), encoding="utf-8")
    return path


def check_equal(found, expected, stages: tuple[str, ...] = ("seq2seq",)) -> None:
    for stage in stages:
        assert found.losses(stage) == pytest.approx(expected.losses(stage), rel=2e-5)
        assert found.losses(stage, "heldout") == pytest.approx(expected.losses(stage, "heldout"), rel=2e-5)


def test_deepspeed_with_a_hostfile(cluster: Cluster, recipe, alone, finished, tmp_path: Path):
    path = written(recipe(tmp_path / "run", deepspeed("zero3")), tmp_path)
    launch = [BIN / "deepspeed", "--hostfile", cluster.hostfile(slots=1), "--no_ssh_check"]
    code, output = cluster.run([*launch, "--master_addr", cluster.address("alpha"), PRETRAIN, path], timeout=200)
    assert code == 0, output[-4000:]
    assert all(f"{cluster.address(name)}: " in output for name in cluster.names)
    check_equal(finished(tmp_path / "run"), alone[1])


def test_a_pipeline_started_by_supervise(cluster: Cluster, recipe, alone, finished, tmp_path: Path):
    path = written(recipe(tmp_path / "run", PIPE), tmp_path)
    flags = f"--no_ssh_check --master_addr {cluster.address('alpha')}"
    launch = [sys.executable, ROOT / "launch" / "supervise.py", path, "--hostfile", cluster.hostfile(slots=1)]
    code, output = cluster.run([*launch, f"--deepspeed={flags}"], timeout=200)
    assert code == 0, output[-4000:]
    assert all(f"{cluster.address(name)}: " in output for name in cluster.names)
    check_equal(finished(tmp_path / "run"), alone[1])


def test_three_stages_under_mpirun_begin_each_as_a_new_process(cluster, recipe, alone, finished, tmp_path: Path):
    path = written(recipe(tmp_path / "run", deepspeed("zero1"), stages=3), tmp_path)
    launch = ["mpirun", "--allow-run-as-root", "-n", 2, "--hostfile", cluster.hostfile(slots=1)]
    launch += ["--mca", "btl_tcp_if_include", "eth0", "--mca", "oob_tcp_if_include", "eth0"]
    launch += [flag for name, value in cluster.exported().items() for flag in ("-x", f"{name}={value}")]
    command = [*launch, sys.executable, PRETRAIN, path]
    code, output = cluster.run(command, timeout=300, on="alpha")
    assert code == 0, output[-4000:]
    check_equal(finished(tmp_path / "run"), alone[3], ("mlm", "seq2seq_frozen", "seq2seq"))


def test_deepspeed_with_the_openmpi_launcher(cluster: Cluster, recipe, alone, finished, tmp_path: Path):
    path = written(recipe(tmp_path / "run", deepspeed("zero2")), tmp_path)
    launch = [BIN / "deepspeed", "--hostfile", cluster.hostfile(slots=1), "--no_ssh_check", "--launcher", "openmpi"]
    launch += ["--launcher_args", "--allow-run-as-root --mca oob_tcp_if_include eth0"]
    code, output = cluster.run([*launch, PRETRAIN, path], timeout=200, on="alpha")
    assert code == 0, output[-4000:]
    check_equal(finished(tmp_path / "run"), alone[1])


def test_torchrun_on_each_host(cluster: Cluster, recipe, alone, finished, tmp_path: Path):
    path = written(recipe(tmp_path / "run", deepspeed("zero1")), tmp_path)
    address = cluster.address("alpha")
    launch = [BIN / "torchrun", "--nnodes", 2, "--nproc_per_node", 1, "--master_addr", address, "--master_port", 29871]
    environment = ["env", "GLOO_SOCKET_IFNAME=eth0"]
    second = cluster.start([*environment, *launch, "--node_rank", 1, PRETRAIN, path], tmp_path / "beta.txt", on="beta")
    code, output = cluster.run([*environment, *launch, "--node_rank", 0, PRETRAIN, path], timeout=200, on="alpha")
    assert code == 0, output[-4000:]
    assert second.wait(60) == 0, (tmp_path / "beta.txt").read_text()[-4000:]
    check_equal(finished(tmp_path / "run"), alone[1])

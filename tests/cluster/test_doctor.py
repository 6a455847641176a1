"""The doctor over two hosts: well, with a port that is taken, and with one host that cannot be reached.

launch/supervise.py asks the same first, and starts nothing where anything is amiss.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import yaml

from .hosts import Cluster, end

ROOT = Path(__file__).resolve().parents[2]
LISTEN = "import socket, time; s = socket.create_server(('', 29500)); print('there', flush=True); time.sleep(600)"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def recipe(make_recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe for two ranks."""
    folder = tmp_path_factory.mktemp("doctor")
    data = make_recipe(folder / "run") | {"ranks": 2}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(data, sort_keys=False), encoding="utf-8")
    return folder / "recipe.yaml"


@pytest.fixture(scope="module")
def doctor(cluster: Cluster, recipe: Path):
    """`doctor("--json")`: exit code and output over both hosts."""
    command = [sys.executable, ROOT / "tools" / "doctor.py", recipe, "--hostfile", cluster.hostfile(slots=1)]
    return lambda *more: cluster.run([*command, *more], timeout=120)


def test_two_hosts_that_are_well(cluster: Cluster, doctor):
    code, output = doctor("--json")
    assert code == 0, output
    found = json.loads(output[output.index("{") :])
    assert found["healthy"]
    facts = {(one["host"], one["check"]): one["found"] for one in found["findings"]}
    for name in cluster.names:
        address = cluster.address(name)
        assert facts[address, "answers"] == f"as {name}"
        assert facts[address, "network"] == f"eth0 {address}"
        assert facts[address, "rendezvous"] == "reached"


def test_a_port_in_use_is_seen_and_nothing_is_launched(cluster: Cluster, doctor, recipe: Path, tmp_path: Path):
    supervise = [sys.executable, ROOT / "launch" / "supervise.py", recipe, "--hostfile", cluster.hostfile(slots=1)]
    log = tmp_path / "listening.txt"
    taken = cluster.start([sys.executable, "-c", LISTEN], log, on="alpha")
    try:
        while "there" not in log.read_text():
            assert taken.poll() is None
        asked, launched = doctor(), cluster.run(supervise, timeout=120)
    finally:
        end(taken)
    for code, output in (asked, launched):
        assert code == 2
        assert "rendezvous: port 29500: Address already in use; another run may hold the port" in output
    assert f"error: {cluster.address('alpha')}: rendezvous: " in launched[1]
    assert "error: nothing was started" in launched[1]
    assert not (recipe.parent / "run").exists()


def test_a_host_that_is_cut_off_is_named(cluster: Cluster, doctor):
    cluster.cut("beta")
    try:
        code, output = doctor()
    finally:
        cluster.mend("beta")
    assert code == 2
    assert f"{cluster.address('beta')}: answers: no; ssh: connect to host" in output
    assert "1 thing to put right" in output

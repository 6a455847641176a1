"""Two hosts to launch on, made of network namespaces; without them the tests here skip, and say why."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from .hosts import Cluster

SETUP = Path(__file__).with_name("setup.sh")


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Hosts alpha and beta."""
    installed = subprocess.run(["bash", SETUP], capture_output=True, text=True, check=False)
    if installed.returncode:
        pytest.skip(f"no cluster of namespaces here: {(installed.stdout + installed.stderr).strip()[-300:]}")
    try:
        cluster = Cluster(tmp_path_factory.mktemp("cluster"), ("alpha", "beta")).__enter__()
    except (RuntimeError, OSError) as error:
        pytest.skip(f"no cluster of namespaces here: {error}")
    yield cluster
    cluster.close()

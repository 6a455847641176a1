"""Two hosts to launch on, made of network namespaces; without them the tests here skip, and say why.

With MEGAS2S_CLUSTER=1 they fail instead, where this machine could make namespaces.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

import pytest

from .hosts import Cluster

SETUP = Path(__file__).with_name("setup.sh")


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Hosts alpha and beta."""
    installed = subprocess.run(["bash", SETUP], capture_output=True, text=True, check=False)
    if installed.returncode:
        give_up((installed.stdout + installed.stderr).strip()[-300:])
    try:
        cluster = Cluster(tmp_path_factory.mktemp("cluster"), ("alpha", "beta")).__enter__()
    except (RuntimeError, OSError) as error:
        give_up(str(error))
    yield cluster
    cluster.close()


def give_up(reason: str) -> NoReturn:
    """Skip, or fail where a cluster is asked for and could be made."""
    if os.environ.get("MEGAS2S_CLUSTER") == "1" and namespaces_allowed():
        pytest.fail(f"MEGAS2S_CLUSTER=1 and namespaces are allowed here, but no cluster of them comes up: {reason}")
    pytest.skip(f"no cluster of namespaces here: {reason}")


def namespaces_allowed() -> bool:
    """Whether this process may make a network with a name, as root of a machine may and of most containers may not."""
    if os.geteuid():
        return False
    name = f"m2s-try-{os.getpid()}"
    if shutil.which("ip") is None:  # which setup.sh should have installed
        return subprocess.run(["unshare", "--net", "--mount", "true"], capture_output=True, check=False).returncode == 0
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, check=False).returncode == 0
    subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)
    return made

"""Where there is no cluster: a skip, and a failure where one is asked for and this machine could make it."""

from __future__ import annotations

import os
import subprocess

import pytest

from . import conftest


@pytest.mark.parametrize(
    ("asked", "root", "made", "outcome"),
    [
        (None, True, True, pytest.skip.Exception),
        ("1", False, True, pytest.skip.Exception),
        ("1", True, False, pytest.skip.Exception),
        ("1", True, True, pytest.fail.Exception),
    ],
)
@pytest.mark.parametrize("ip", ["/usr/sbin/ip", None])
def test_a_cluster_that_is_asked_for_and_possible_may_not_be_skipped(
    monkeypatch: pytest.MonkeyPatch, asked: str | None, root: bool, made: bool, outcome: type, ip: str | None
):
    monkeypatch.delenv("MEGAS2S_CLUSTER", raising=False)
    if asked is not None:
        monkeypatch.setenv("MEGAS2S_CLUSTER", asked)
    monkeypatch.setattr(os, "geteuid", lambda: 0 if root else 1000)
    monkeypatch.setattr(conftest.shutil, "which", lambda name: ip)
    answer = subprocess.CompletedProcess([], 0 if made else 1)
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: answer)
    with pytest.raises(outcome, match="apt-get has failed"):
        conftest.give_up("apt-get has failed")

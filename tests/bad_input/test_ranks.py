"""Of several ranks, the one that fails is heard; those that lose it are not. A port that is taken fails rank 0."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from .conftest import PRETRAIN, ROOT, refused

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


@pytest.mark.ranks
@pytest.mark.slow
def test_a_port_that_is_taken_is_named_and_nothing_trains(shell, rank_command, write_recipe, recipe_data):
    command = rank_command(2, PRETRAIN, write_recipe(recipe_data))
    port = command[command.index("--master_port") + 1]
    with socket.create_server(("", int(port))):
        result = shell(command, timeout=180)
    refused(
        result,
        2,
        f"error: port {port} of 127.0.0.1 is in use, by another run perhaps; take another one (deepspeed "
        "--master_port N, or export MASTER_PORT)",
    )
    assert not (Path(recipe_data["run"]) / "metrics.jsonl").exists()

"""Of several ranks, the one that fails is heard; those that lose it are not."""

from __future__ import annotations

import pytest

from .conftest import ROOT, refused

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

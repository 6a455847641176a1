"""24: a loader process that dies or stalls is named, and no epoch ends in silence."""

from __future__ import annotations

import os
import time

import pytest

from megas2s.data.loader import Loader
from megas2s.errors import LostRank, Refusal


def batches_until(fault) -> Loader:
    """A loader whose third batch of two rows meets the fault in its process."""

    def batch(numbers):
        import torch

        if numbers[0] >= 4:
            fault()
        return {"sample": torch.tensor(list(numbers))}

    return Loader(batch, rows=2, micro_batch=2, workers=2, patience=4.0)


def received(loader: Loader) -> tuple[list[int], str]:
    """The first sample of every batch until the loader gives up, and what it says then."""
    firsts = []
    try:
        for (batch,) in loader.steps(0, 20):
            firsts.append(int(batch["sample"][0]))
    except Refusal as refusal:
        return firsts, f"{type(refusal).__name__}: {refusal}"
    return firsts, "ended in silence"


@pytest.mark.timeout(60)
def test_a_process_that_dies_is_named_with_how_it_ended():
    firsts, said = received(batches_until(lambda: os._exit(3)))
    assert firsts == [0, 2][: len(firsts)]  # what its queue held went with it
    assert "(exit code 3) died; if memory ran out" in said


@pytest.mark.timeout(60)
def test_a_process_that_stalls_is_named_once_patience_is_over():
    firsts, said = received(batches_until(lambda: time.sleep(60)))
    assert firsts == [0, 2]
    assert said.startswith(f"{LostRank.__name__}: loader process ")
    assert "has delivered no batch for 4 s; look at the disk that the corpus lies on, or raise watch.batch" in said

"""What every engine does alike: sums by part and language, and predictions."""

from __future__ import annotations

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from megas2s.engine.base import Sums

LANGUAGE = torch.tensor([2, 0, 2, 2])


class Watched(TorchDispatchMode):
    """The names of all operations inside the block."""

    def __init__(self) -> None:
        super().__init__()
        self.names: set[str] = set()

    def __torch_dispatch__(self, operation, types, arguments=(), named=None):
        self.names.add(operation.__name__)
        return operation(*arguments, **(named or {}))


def sums_of(*batches: list[float]) -> torch.Tensor:
    sums = Sums(4, torch.device("cpu"))
    for nats in batches:
        totals = torch.tensor(nats)
        pairs = {"a": (totals, torch.ones(4)), "b": (2 * totals, torch.arange(4))}
        sums.add({"language": LANGUAGE}, {name: torch.stack(pair, -1) for name, pair in pairs.items()})
    return sums.tensor()


def test_rows_are_added_up_by_part_and_language_over_batches():
    once = [[[2.0, 1], [0, 0], [13.0, 3], [0, 0]], [[4.0, 1], [0, 0], [26.0, 5], [0, 0]]]
    assert sums_of([1.0, 2.0, 4.0, 8.0]).tolist() == once
    twice = sums_of([1.0, 2.0, 4.0, 8.0], [1.0, 2.0, 4.0, 8.0])
    assert twice.dtype == torch.float64
    assert torch.equal(twice, 2 * torch.tensor(once, dtype=torch.float64))


def test_a_loss_that_is_no_number_stays_in_its_language():
    found = sums_of([1.0, float("nan"), 4.0, 8.0])
    assert found[:, :, 0].isnan().nonzero().tolist() == [[0, 0], [1, 0]]


def test_nothing_is_added_in_an_order_that_a_gpu_may_choose():
    with Watched() as watched:
        sums_of([1.0, 2.0, 4.0, 8.0])
    assert "where.self" in watched.names
    unordered = ("index_add", "index_put", "scatter", "put_", "bincount", "histc")
    assert not [name for name in watched.names if any(word in name for word in unordered)]

"""NT-Xent against its definition, written out; groups by number; two ranks that gather equal one that has all."""

from __future__ import annotations

import math

import pytest
import torch

from megas2s.objectives.contrast import contrast

T = 0.7


def views(rows: int, width: int = 5, seed: int = 0):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(rows, width, generator=generator, requires_grad=True) for _ in range(2)]


def by_definition(first, second) -> list[float]:
    """l of each window, one pair of anchors at a time."""
    a = [row / row.norm() for row in first.detach()]
    b = [row / row.norm() for row in second.detach()]
    found = []
    for i in range(len(a)):
        halves = []
        for anchor, other, mine in ((a[i], b[i], a), (b[i], a[i], b)):
            theirs = b if mine is a else a
            others = [row for j, row in enumerate(mine) if j != i] + list(theirs)
            whole = sum(math.exp(float(anchor @ row) / T) for row in others)
            halves.append(-math.log(math.exp(float(anchor @ other) / T) / whole))
        found.append(sum(halves) / 2)
    return found


def test_the_loss_is_nt_xent():
    first, second = views(6)
    losses, found = contrast(first, second, group=6, temperature=T)
    assert losses.tolist() == pytest.approx(by_definition(first, second), rel=1e-5)
    assert ((found >= 0) & (found <= 1)).all()


def test_groups_are_compared_among_themselves_alone():
    first, second = views(6)
    losses, _ = contrast(first, second, group=3, temperature=T)
    expected = by_definition(first[:3], second[:3]) + by_definition(first[3:], second[3:])
    assert losses.tolist() == pytest.approx(expected, rel=1e-5)


def test_the_pair_is_found_where_it_is_the_nearest():
    first = torch.eye(4)
    _, found = contrast(first, first.clone(), group=4, temperature=1.0)
    assert found.tolist() == [1.0] * 4
    _, found = contrast(first, first.roll(1, 0), group=4, temperature=1.0)
    assert found.sum() == 0


def test_equal_sentences_cost_the_logarithm_of_the_others():
    same = torch.ones(4, 3)
    losses, _ = contrast(same, same.clone(), group=4, temperature=0.1)
    assert losses.tolist() == pytest.approx([math.log(7)] * 4)


def test_windows_that_do_not_divide_into_groups_are_a_bug():
    with pytest.raises(ValueError, match="6 windows do not divide into groups of 4"):
        contrast(*views(6), group=4, temperature=1.0)


PROGRAM = """
import sys, torch, torch.distributed as dist
from megas2s.objectives.contrast import contrast
from megas2s.dist import place
dist.init_process_group("gloo")
generator = torch.Generator().manual_seed(0)
whole = [torch.randn(6, 5, generator=generator) for _ in range(2)]
own = [view.chunk(2)[place().rank].clone().requires_grad_() for view in whole]
losses, found = contrast(*own, group=6, temperature=0.7)
losses.sum().backward()
torch.save([losses.detach(), found, *(view.grad for view in own)], f"{sys.argv[-1]}/rank{place().rank}.pt")
dist.destroy_process_group()
"""


@pytest.mark.ranks
def test_two_ranks_that_gather_have_the_losses_and_gradients_of_one(ranks, tmp_path):
    (tmp_path / "program.py").write_text(PROGRAM)
    done = ranks(2, tmp_path / "program.py", tmp_path)
    assert done.returncode == 0, done.stdout[-3000:]
    parts = [torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in range(2)]
    first, second = views(6)
    losses, found = contrast(first, second, group=6, temperature=T)
    losses.sum().backward()
    for index, expected in enumerate((losses.detach(), found, first.grad, second.grad)):
        torch.testing.assert_close(torch.cat([part[index] for part in parts]), expected, atol=1e-6, rtol=1e-5)


def test_rows_that_fill_up_are_nobody_s_negatives():
    first, second = views(6)
    real = torch.tensor([True, True, True, True, False, False])
    losses, found = contrast(first, second, group=6, temperature=T, real=real)
    expected = by_definition(first[:4], second[:4])
    assert losses.tolist() == pytest.approx([*expected, 0, 0], rel=1e-5)
    assert found[4:].tolist() == [0, 0]

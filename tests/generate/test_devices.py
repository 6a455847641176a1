"""A GPU writes what the CPU does, up to where the CPU's own choice hangs on rounding.

    place     0              1              2
    scores    -0.9  -2.3     -1.7  -2.9     -3.10004  -3.10009     within MARGIN: another device may order them
              compared       compared       otherwise, and from here on write something else

At each place a search keeps the best of its candidates. Their order is compared, and so is what comes to be the answer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from megas2s import generate
from megas2s.decoding import search
from megas2s.decoding.beam import LOST, Beams
from megas2s.decoding.rules import Rules, best_next
from tests.generate.conftest import METHODS, RECORDS

TEXTS = [record["src"] for record in RECORDS]
MARGIN = 1e-4  # of scores, which are sums of log-probabilities; fp32 rounds them by a tenth of that
ENOUGH = 15  # places, half of those that three answers have
WAYS = {
    "greedy": generate.Decoding(),
    "gnmt": generate.Decoding(beams=4, scoring="gnmt", length_penalty=1.0, n_best=4),
    "power": generate.Decoding(beams=4, scoring="power", n_best=4),
}


class Choice(NamedTuple):
    """What a search had to choose among at one place, best first: n rows that it took, and one that it did not."""

    scores: Tensor  # (n + 1,)
    tokens: Tensor  # (n, place + 1)


def close(scores: Tensor) -> int | None:
    """Where two scores of (N,), best first, lie within MARGIN; None where none do. What is lost is no score."""
    real = scores[scores > LOST / 2]
    found = (real[:-1] - real[1:] <= MARGIN).nonzero()
    return int(found[0]) if len(found) else None


def sure(choices: Sequence[Choice]) -> int:
    """How many places come before the first where two candidates lie within MARGIN."""
    return next((place for place, choice in enumerate(choices) if close(choice.scores) is not None), len(choices))


def watched(model: generate.Model, text: str, how: generate.Decoding) -> tuple[list[Choice], list[generate.Answer]]:
    """The choices of a search at each place, and the answers that it came to."""
    choices: list[Choice] = []
    grow = Beams.grow

    def likeliest(logits: Tensor, written: Tensor, rules: Rules, copies: int, count: int) -> tuple[Tensor, Tensor]:
        scores, ids = best_next(logits, written, rules, copies, count + 1)
        choices.append(Choice(scores[0].cpu(), torch.cat([written, ids[:, :count]], dim=1).cpu()))
        return scores[:, :count], ids[:, :count]

    def grown(beams: Beams, scores: Tensor, place: int, *, each: int, count: int) -> tuple[Tensor, Tensor, Tensor]:
        total, parents, tokens = grow(beams, scores, place, each=each + 1, count=count + 1)
        choices.append(Choice(total[0].cpu(), tokens[0, :count, : place + 1].cpu()))
        return total[:, :count], parents[:, :count], tokens[:, :count]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(search, "best_next", likeliest)
        patch.setattr(Beams, "grow", grown)
        return choices, model.write([text], how)[0]


def same_where_sure(here: generate.Model, there: generate.Model, text: str, how: generate.Decoding) -> int:
    """Compare two models that should differ by rounding alone: at how many places they were found to be the same.

    The answers too where no place was in doubt: those before two that lie within MARGIN, and of several not the last,
    since nobody knows how close behind it the next one is. AssertionError where they are not the same.
    """
    (ours, answers), (theirs, others) = watched(here, text, how), watched(there, text, how)
    places = sure(ours)
    for place, (one, other) in enumerate(zip(ours[:places], theirs[:places], strict=True)):
        real = one.scores[:-1] > LOST / 2
        assert one.tokens[real].tolist() == other.tokens[real].tolist(), f"place {place}"
        torch.testing.assert_close(one.scores[:-1][real], other.scores[:-1][real], atol=MARGIN, rtol=0.0)
    if places == len(ours):
        doubted = close(torch.tensor([answer.score for answer in answers]))
        known = max(1, len(answers) - 1) if doubted is None else doubted
        assert [answer.ids for answer in answers[:known]] == [answer.ids for answer in others[:known]]
    return places


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="compares a GPU with the CPU")
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("method", METHODS)
def test_a_gpu_writes_what_the_cpu_does_where_no_choice_hangs_on_rounding(taught, method, way):
    here, there = (generate.load(taught(method), device=torch.device(device)) for device in ("cpu", "cuda"))
    assert sum(same_where_sure(here, there, text, WAYS[way]) for text in TEXTS) > ENOUGH


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("method", METHODS)
def test_double_precision_writes_what_single_does_where_no_choice_hangs_on_rounding(taught, method, way):
    """Where there is no GPU: what differs is rounding too."""
    here, there = (generate.load(taught(method), dtype=dtype) for dtype in (torch.float32, torch.float64))
    assert sum(same_where_sure(here, there, text, WAYS[way]) for text in TEXTS) > ENOUGH


@pytest.mark.parametrize(
    ("scores", "places"),
    [
        ([[-1.0, -2.0], [-1.5, -1.6], [-2.0, -2.2]], 3),
        ([[-1.0, -2.0], [-1.5, -1.50009], [-2.0, -2.2]], 1),
        ([[-1.0, -1.0], [-1.5, -1.6], [-2.0, -2.2]], 0),
        ([[-1.0, -2.0, -2.00009], [-1.0, -2.0, -2.1]], 0),  # between the last that is kept and the first that is not
        ([[-1.0, LOST - 1.0, LOST - 1.0], [-1.0, -torch.inf, -torch.inf]], 2),  # no candidates
    ],
)
def test_places_are_sure_up_to_two_candidates_within_the_margin(scores, places):
    rows = [Choice(torch.tensor(each), torch.zeros(len(each) - 1, 1)) for each in scores]
    assert sure(rows) == places


def nearly_tied(model: generate.Model, place: int, gap: float) -> Callable[[Tensor], Tensor]:
    """The model's logits, with the second best of each row `gap` below the best at one place."""
    logits, calls = model.network.logits, iter(range(1000))

    def changed(hidden: Tensor) -> Tensor:
        found = logits(hidden)
        if next(calls) == place:
            best, ids = found.topk(2, dim=-1)
            found.scatter_(1, ids[:, 1:], best[:, :1] - gap)
        return found

    return changed


@pytest.mark.parametrize("way", WAYS)
def test_a_difference_is_forgiven_within_the_margin_and_not_beyond(taught, way, monkeypatch):
    here, there = (generate.load(taught("pseudo_masked")) for _ in range(2))
    for gap in (4e-5, 4e-4):
        monkeypatch.setattr(here.network, "logits", nearly_tied(here, 2, gap))
        monkeypatch.setattr(there.network, "logits", nearly_tied(there, 2, -gap))
        if gap < MARGIN:
            assert same_where_sure(here, there, TEXTS[0], WAYS[way]) == 2
        else:
            with pytest.raises(AssertionError, match="place 2"):
                same_where_sure(here, there, TEXTS[0], WAYS[way])
        monkeypatch.undo()

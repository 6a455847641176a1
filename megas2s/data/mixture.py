"""The mixture: which window is sample n, for any n, without a list of samples.

    quotas[n]     n -> (unit, k)      sample n is the k-th sample of that unit
    mixture[n]    n -> (unit, i)      which reads window i of it

Samples come in blocks of B. After b blocks each language has had b * B * share samples, rounded up or down, and so has
each of its units (a language in one source), so neither is ever as much as one sample from its share and a rare
language cannot starve: samples go to languages first, and within a language to its units. B is so large that every
unit is due at least one sample per block; hence the rounded counts never fall from one block to the next. Inside a
block the order is a permutation; so is the order of the windows inside an epoch of a unit. Both take O(1) memory.
"""

from __future__ import annotations

import bisect
import dataclasses
import decimal
import itertools
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import NamedTuple, TypeVar

from megas2s.errors import BadConfig
from megas2s.rng import Permutation
from megas2s.spec import nearest, spec

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

WHOLE = 1 << 40  # shares are integers that sum to this, so that quotas are exact at any sample number
SMALLEST_BLOCK = 1024
BLOCKS_KEPT = 8
EPOCHS_KEPT = 4096


@spec
class Sampling:
    """How often each language is read: in proportion to (its weighted tokens) ** alpha.

    alpha 1 follows the corpus, 0 reads all languages equally; AlexaTM 20B (section 3) takes 0.5. `weights` multiply
    the tokens of a source (1 where none is given), within a language too.
    """

    alpha: float = 0.5
    weights: dict[str, float] = dataclasses.field(default_factory=dict)

    def __post_init__(self) -> None:
        if not 0 <= self.alpha <= 1:
            raise ValueError(f"alpha must lie in [0, 1], got {self.alpha}")
        for source, weight in self.weights.items():
            if not 0 < weight < float("inf"):
                raise ValueError(f"the weight of source {source!r} must be above 0 and finite, got {weight}")

    def shares(self, tokens: Mapping[tuple[str, str], int]) -> list[int]:
        """The share of each unit (language, source), in the order given, as integers that sum to WHOLE.

        Computed in decimal arithmetic: a share must not depend on the machine's floating-point library.
        """
        known = {source for _, source in tokens}
        for source in self.weights:
            if source not in known:
                raise BadConfig(f"sampling.weights: the corpus has no source {source!r}; {nearest(source, known)}")
        with decimal.localcontext(prec=50):
            weighted = {
                unit: count * decimal.Decimal(repr(self.weights.get(unit[1], 1.0))) for unit, count in tokens.items()
            }
            languages: dict[str, decimal.Decimal] = {}
            for (language, _), mass in weighted.items():
                languages[language] = languages.get(language, decimal.Decimal(0)) + mass
            power = decimal.Decimal(repr(self.alpha)) - 1
            return integer_shares([mass * languages[language] ** power for (language, _), mass in weighted.items()])


def integer_shares(masses: Sequence[decimal.Decimal | float]) -> list[int]:
    """Positive masses as integers of at least 1 that sum to WHOLE, by largest remainder."""
    if not masses or min(masses) <= 0:
        raise ValueError(f"shares need masses above 0, got {list(masses)}")
    with decimal.localcontext(prec=50):
        exact = [decimal.Decimal(mass) for mass in masses]
        total = sum(exact)
        scaled = [mass * (WHOLE - len(exact)) / total for mass in exact]  # one is set aside for each
    return [
        1 + part
        for part in _largest_remainder(
            [int(value) for value in scaled], [value % 1 for value in scaled], WHOLE - len(exact)
        )
    ]


class Turn(NamedTuple):
    """Whose turn sample n is: the k-th of `part`, counted from 0."""

    part: int
    k: int


class Quotas:
    """Deals sample numbers out to parts in fixed shares, and to groups of parts; see the head of this file.

    `groups` names the group of each part; without it each is one of its own.
    """

    def __init__(
        self, shares: Sequence[int], seed: int, *address: int | str, groups: Sequence[Hashable] | None = None
    ) -> None:
        if not shares or min(shares) < 1:
            raise ValueError(f"every share must be an integer of at least 1, got {list(shares)}")
        self.shares = tuple(shares)
        members: dict[Hashable, list[int]] = {}
        for part, group in enumerate(range(len(shares)) if groups is None else groups):
            members.setdefault(group, []).append(part)
        self._groups = list(members.values())
        self.block = max(SMALLEST_BLOCK, -(-sum(shares) // min(shares)))
        self._seed = seed
        self._address = address
        self._blocks: dict[int, _Block] = {}

    def dealt(self, blocks: int) -> list[int]:
        """How many samples each part has had after so many whole blocks."""
        counts = [0] * len(self.shares)
        whole, samples = sum(self.shares), blocks * self.block
        each = [samples * share for share in self.shares]
        of_groups = _rounded([sum(each[part] for part in group) for group in self._groups], whole, samples)
        # What a group has is its exact number rounded, so it lies between the sums of its parts' floors and ceilings.
        for group, total in zip(self._groups, of_groups, strict=True):
            for part, count in zip(group, _rounded([each[part] for part in group], whole, total), strict=True):
                counts[part] = count
        return counts

    def __getitem__(self, n: int) -> Turn:
        number, place = divmod(n, self.block)
        block = _kept(self._blocks, number, self._deal, BLOCKS_KEPT)
        place = block.order[place]
        part = bisect.bisect_right(block.ends, place)
        return Turn(part, block.before[part] + place - (block.ends[part - 1] if part else 0))

    def _deal(self, number: int) -> _Block:
        before, after = self.dealt(number), self.dealt(number + 1)
        ends = list(itertools.accumulate(late - early for early, late in zip(before, after, strict=True)))
        return _Block(before, ends, Permutation(self.block, self._seed, "block", *self._address, number))


class Draw(NamedTuple):
    """Window `window` of unit `unit`."""

    unit: int
    window: int


class Mixture:
    """All samples of a stage: `mixture[n]` is a pure function of n, of the corpus's counts, the seed and the stage.

    Each unit's windows are read once per epoch of that unit, in an order of that epoch's own.
    """

    def __init__(
        self,
        names: Sequence[str],
        windows: Sequence[int],
        shares: Sequence[int],
        *,
        languages: Sequence[str],
        seed: int,
        stage: str,
    ) -> None:
        if not len(names) == len(languages) == len(windows) == len(shares):
            raise ValueError(
                f"{len(names)} names, {len(languages)} languages, {len(windows)} counts of windows and {len(shares)}"
                " shares differ"
            )
        if min(windows) < 1:
            raise ValueError(f"every unit needs a window, got {dict(zip(names, windows, strict=True))}")
        self.names = tuple(names)
        self.windows = tuple(windows)
        self.quotas = Quotas(shares, seed, stage, groups=languages)
        self._seed = seed
        self._stage = stage
        self._epochs: dict[tuple[int, int], Permutation] = {}

    def __getitem__(self, n: int) -> Draw:
        unit, k = self.quotas[n]
        epoch, place = divmod(k, self.windows[unit])
        return Draw(unit, _kept(self._epochs, (unit, epoch), self._order, EPOCHS_KEPT)[place])

    def epochs(self, samples: int) -> list[float]:
        """How often each unit has been read through after so many samples."""
        whole = sum(self.quotas.shares)
        return [samples * s / whole / w for s, w in zip(self.quotas.shares, self.windows, strict=True)]

    def _order(self, unit_epoch: tuple[int, int]) -> Permutation:
        unit, epoch = unit_epoch
        return Permutation(self.windows[unit], self._seed, "windows", self._stage, self.names[unit], epoch)


class _Block(NamedTuple):
    before: list[int]  # samples each part has had before the block
    ends: list[int]  # places 0 ... ends[0]-1 are part 0's, and so on, before they are permuted
    order: Permutation


def _rounded(numerators: Sequence[int], denominator: int, total: int) -> list[int]:
    """Fractions rounded up or down, so that they sum to `total`."""
    exact = [divmod(numerator, denominator) for numerator in numerators]
    return _largest_remainder([count for count, _ in exact], [rest for _, rest in exact], total)


def _largest_remainder(
    floors: list[int], remainders: Sequence[int] | Sequence[decimal.Decimal], total: int
) -> list[int]:
    """`floors` with one added to those of the largest remainders, so that they sum to `total`; the first wins a tie."""
    missing = total - sum(floors)
    counts = list(floors)
    for index in sorted(range(len(counts)), key=lambda index: -remainders[index])[:missing]:
        counts[index] += 1
    return counts


def _kept(cache: dict[K, V], key: K, make: Callable[[K], V], most: int) -> V:
    """`make(key)`, remembered; a full cache is emptied, which costs a few microseconds per entry to fill again."""
    value = cache.get(key)
    if value is None:
        if len(cache) >= most:
            cache.clear()
        value = cache[key] = make(key)
    return value

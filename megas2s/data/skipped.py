"""Lines that are left out because they are no record or no example: counted by reason, never silently."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple


class Skipped(NamedTuple):
    """One line or row."""

    source: str
    unit: str
    number: int
    reason: str


class Reason(NamedTuple):
    """How many of a source's lines are left out for one reason, and where the first is."""

    source: str
    unit: str
    reason: str
    rows: int
    first: int
    numbers: list[int]  # of all


def by_reason(skipped: Sequence[Skipped]) -> list[Reason]:
    """By source and reason, the most frequent ones first."""
    groups: dict[tuple[str, str, str], list[int]] = {}
    for one in skipped:
        groups.setdefault((one.source, one.unit, one.reason), []).append(one.number)
    found = [Reason(*group, len(numbers), min(numbers), sorted(numbers)) for group, numbers in groups.items()]
    return sorted(found, key=lambda reason: -reason.rows)


def said(reason: Reason) -> str:
    """In one sentence."""
    return (
        f"{reason.rows:,} {reason.unit}{'s' if reason.rows > 1 else ''} of {reason.source} left out: "
        f"{reason.reason} (first: {reason.unit} {reason.first})"
    )

"""What an answer says and its reference does not, and the other way round.

reference  the [black] cat sat
answer     the cat sat [down]
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import NamedTuple

from megas2s.metrics.tokens import pieces


class Part(NamedTuple):
    """A run of text, and whether the other side lacks it."""

    text: str
    differs: bool


def differences(answer: str, reference: str) -> tuple[list[Part], list[Part]]:
    """Both texts in parts, compared word by word; spaces between two words that differ belong to them."""
    ours, theirs = pieces(answer), pieces(reference)
    words = [[place for place, piece in enumerate(side) if not piece.isspace()] for side in (ours, theirs)]
    matcher = difflib.SequenceMatcher(
        None, [ours[place] for place in words[0]], [theirs[place] for place in words[1]], autojunk=False
    )
    same: tuple[set[int], set[int]] = (set(), set())
    for block in matcher.get_matching_blocks():
        same[0].update(words[0][block.a : block.a + block.size])
        same[1].update(words[1][block.b : block.b + block.size])
    return _parts(ours, same[0]), _parts(theirs, same[1])


def _parts(side: Sequence[str], same: set[int]) -> list[Part]:
    differs = [place not in same and not piece.isspace() for place, piece in enumerate(side)]
    inside = [
        differs[place] or (piece.isspace() and 0 < place < len(side) - 1 and differs[place - 1] and differs[place + 1])
        for place, piece in enumerate(side)
    ]
    parts: list[Part] = []
    for piece, differing in zip(side, inside, strict=True):
        if parts and parts[-1].differs == differing:
            parts[-1] = Part(parts[-1].text + piece, differing)
        else:
            parts.append(Part(piece, differing))
    return parts

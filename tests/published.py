"""The numbers of a recipe by dotted paths, to compare them with those of its source."""

from __future__ import annotations

import functools
from collections.abc import Iterable


def numbers_of(recipe: object, paths: Iterable[str]) -> dict[str, object]:
    """What a recipe, or a stage of one, has at each path: {"schedule.lr": 7e-5}."""
    return {path: functools.reduce(getattr, path.split("."), recipe) for path in paths}

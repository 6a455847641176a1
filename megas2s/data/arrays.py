"""Arrays in files of a corpus' `.staging`: they appear whole or not at all, and damage is said in a sentence."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

import numpy as np

from megas2s.errors import BadData
from megas2s.files import TEMPORARY, disk_trouble


def save_array(path: Path, array: np.ndarray) -> None:
    """Write an array beside and rename it; whoever writes the last of a folder flushes the folder's entries."""
    beside = path.with_name(f"{TEMPORARY}{path.name}")
    with disk_trouble(path):
        with open(beside, "wb") as file:
            np.save(file, array, allow_pickle=False)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)


def load_array(path: Path, corpus: Path, mode: Literal["r"] | None = None) -> np.ndarray:
    """The array in a file, mapped where `mode` is "r"; raises BadData that says what to do with the corpus."""
    try:
        found: np.ndarray = np.load(path, mmap_mode=mode, allow_pickle=False)
    except (ValueError, EOFError, FileNotFoundError):
        raise BadData(f"{path} is damaged; remove {corpus} and start again") from None
    return found

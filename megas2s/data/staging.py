"""What a corpus in the making keeps beside it: with which arguments it was begun, how its input is cut, how far it is.

.staging/state.json      arguments, the size of pieces and, once every piece has its part, the plans of the shards
.staging/parts/          see `parts.py`
.staging/claims/         see `share.py`
.staging/plans/          see `assemble.py`
"""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from megas2s import files
from megas2s.errors import BadConfig, BadData

FOLDER = ".staging"
STATE = "state.json"


@contextlib.contextmanager
def held(staging: Path) -> Iterator[None]:
    """Make the folder, and keep other runs out of it until the block ends."""
    with files.disk_trouble(staging):
        files.make_folder(staging)
        lock = (staging / "lock").open("w")
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BadConfig(
                f"another process is writing {staging.parent}; wait for it or name another folder"
            ) from None
        yield


def read_state(staging: Path) -> dict[str, Any] | None:
    """What the last run left; None where there was none."""
    try:
        state: dict[str, Any] = files.read_json(staging / STATE)
    except FileNotFoundError:
        return None
    except ValueError:
        raise BadData(f"{staging / STATE} is damaged; remove {staging.parent} and start again") from None
    return state


def refuse_other_arguments(corpus: Path, found: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """Raise BadConfig, naming what differs, unless a corpus was begun with the arguments now given."""
    different = [key for key in given if found.get(key) != given[key]]
    if different:
        listed = ", ".join(f"{key.replace('_', ' ')} (was {found.get(key)}, now {given[key]})" for key in different)
        raise BadConfig(f"{corpus} was made with other arguments: {listed}; name another folder or remove this one")

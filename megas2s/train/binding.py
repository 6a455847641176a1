"""What a checkpoint belongs to: recipe, data and code, as dotted keys and texts; and what is said where they changed.

What is not in a binding may change between the parts of a run: where it runs, what it says and when, and how long it
waits. All else is refused, unless a person allows it by name.
"""

from __future__ import annotations

import fnmatch
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

from megas2s.errors import BadCheckpoint
from megas2s.train import record

Binding = Mapping[str, str]
PACKAGE = "megas2s"
PLACEMENT = ("engine", "micro_batch", "activation_checkpointing")  # keys of where a stage runs; how many ranks is none


def code() -> dict[str, str]:
    """What a binding says of the code."""
    return {"code": f"{PACKAGE} {record.version(PACKAGE)}"}


def differences(made: Binding, now: Binding, allowed: Sequence[str] = ()) -> dict[str, str]:
    """What is to be said of each key that is not as it was and that no pattern of `allowed` covers."""
    keys = (key for key in sorted(made.keys() | now.keys()) if made.get(key) != now.get(key))
    return {
        key: f"{key} was {made.get(key, 'absent')} and is now {now.get(key, 'absent')}"
        for key in keys
        if not any(fnmatch.fnmatchcase(key, pattern) for pattern in allowed)
    }


def refuse_other(folder: Path, made: Binding, now: Binding, allowed: Sequence[str] = ()) -> None:
    """Refuse what another recipe, corpus, tokenizer or version made, naming every difference; raises BadCheckpoint."""
    changed = differences(made, now, allowed)
    if not changed:
        return
    it = "it" if len(changed) == 1 else "them"
    flags = " ".join(f"--allow-change {shlex.quote(key)}" for key in changed)
    advice = f"put {it} back, allow {it} ({flags}), or choose another run folder"
    if len(changed) == 1:
        raise BadCheckpoint(f"{folder} belongs to another recipe: {next(iter(changed.values()))}; {advice}")
    raise BadCheckpoint("\n".join([f"{folder} belongs to another recipe:", *changed.values(), advice]))

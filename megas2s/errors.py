"""What can stop a run, and the exit code each kind ends with.

Every exception here carries one sentence for a person: what is wrong, what was found, what to do.
`cli.run` prints that sentence and exits with the code; anything else is a bug and keeps its traceback.
"""

from __future__ import annotations


class Refusal(Exception):
    """A person can put this right; the message says how."""

    exit_code = 1


class BadConfig(Refusal):
    """A recipe, a flag or a combination of them that cannot work."""

    exit_code = 2


class BadData(Refusal):
    """Documents, shards or a tokenizer that cannot be read or do not belong together."""

    exit_code = 3


class BadRecord(BadData):
    """One record that is no example, or a line that is no record; `reason` is what such ones have in common."""

    def __init__(self, said: str, reason: str = "") -> None:
        super().__init__(said)
        self.reason = reason or said


class BadCheckpoint(Refusal):
    """Weights or a checkpoint that are damaged or belong to another run."""

    exit_code = 4


class LostRank(Refusal):
    """Another rank or process that does not answer: it has ended, it hangs, or the network between them is down."""

    exit_code = 7


class DiskTrouble(Refusal):
    """A file system that is full or does not take our writes."""

    exit_code = 5

"""All ranks go on from the same place, or none does.

Rank 0 looks, verifies and decides; the others are told and hash nothing. Then every rank says what it sees, and ranks
that see different things are refused: they would train apart, or wait for each other without end.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable

from megas2s import dist
from megas2s.errors import BadCheckpoint

LONGEST = 1 << 14  # bytes of what a rank says
SECONDS = 60.0  # a shared file system may show the other hosts a new folder that late


def told(text: str) -> str:
    """What rank 0 says, on every rank; collective. The others' texts are not looked at."""
    return dist.gather_texts(text if dist.is_main() else "", longest=LONGEST)[0]


def check_same(look: Callable[[], list[str]]) -> None:
    """Refuse ranks that see something else than rank 0; collective. `look` lists facts as they are now, as phrases."""
    expected = told("\n".join(look()))
    seen = "\n".join(look())
    give_up = time.monotonic() + SECONDS
    while seen != expected and time.monotonic() < give_up:
        time.sleep(1.0)
        seen = "\n".join(look())
    hosts, everyones = dist.gather_texts(socket.gethostname()), dist.gather_texts(seen, longest=LONGEST)
    for rank, (host, text) in enumerate(zip(hosts, everyones, strict=True)):
        for ours, theirs in zip(expected.split("\n"), text.split("\n"), strict=True):
            if ours != theirs:
                raise BadCheckpoint(
                    f"rank {rank} on {host} sees {theirs}, rank 0 on {hosts[0]} sees {ours}; "
                    "all hosts must have the same versions and share the run folder, the recipe and the corpus"
                )

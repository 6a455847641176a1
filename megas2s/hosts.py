"""Hostfiles: which hosts a run is launched on and how many ranks each of them has.

    10.0.0.1 slots=8        # comments, blank lines and Windows' line ends are fine
    10.0.0.2 slots=8

DeepSpeed reads the file before any of our code does and takes the local machine where there is none, so what is started
before a launch reads it first.
"""

from __future__ import annotations

import re
import socket
from pathlib import Path
from typing import NamedTuple

from megas2s.errors import BadConfig

LINE = re.compile(r"(\S+)\s+slots=(\S+)")
BYTE_ORDER_MARK = "\ufeff"  # some editors put it before a text


class Host(NamedTuple):
    """One line of a hostfile."""

    name: str
    slots: int


def read_hosts(path: str | Path) -> list[Host]:
    """The hosts of a hostfile, in order; raises BadConfig with the line that cannot be."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise BadConfig(
            f"no hostfile at {path}; deepspeed would run on this machine alone. Write one line per host: NAME slots=8"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise BadConfig(f"the hostfile {path} cannot be read: {error}") from None
    if text.startswith(BYTE_ORDER_MARK):
        raise BadConfig(
            f"{path} line 1 begins with a byte order mark, which deepspeed takes for text; save the file as UTF-8 "
            "without one"
        )
    hosts: list[Host] = []
    for number, line in enumerate(text.splitlines(), start=1):
        if words := line.partition("#")[0].strip():
            hosts.append(_host(words, f"{path} line {number}", hosts))
    if not hosts:
        raise BadConfig(f"the hostfile {path} names no host; write one line per host: NAME slots=8")
    return hosts


def _host(text: str, where: str, before: list[Host]) -> Host:
    found = LINE.fullmatch(text)
    if found is None:
        raise BadConfig(f"{where}: {text!r} is not of the form NAME slots=8")
    name, slots = found.groups()
    if re.fullmatch("[0-9]+", slots) is None or int(slots) < 1:
        raise BadConfig(f"{where}: host {name} has slots={slots}; give it the number of its GPUs, at least 1")
    if name in (host.name for host in before):
        raise BadConfig(f"{where}: host {name} is named a second time; one line holds all its slots")
    try:
        socket.getaddrinfo(name, None)
    except (OSError, UnicodeError):
        raise BadConfig(f"{where}: host {name} is unknown here; check its name, or give its address") from None
    return Host(name, int(slots))

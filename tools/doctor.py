"""Look at every host before a launch, and say in one line what must be put right on each.

python tools/doctor.py launch/recipes/two_stage.yaml --hostfile hosts
python tools/doctor.py launch/recipes/two_stage.yaml             this machine alone
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from megas2s import cli

if TYPE_CHECKING:
    import argparse

    from megas2s.doctor import Finding
    from megas2s.hosts import Host
    from megas2s.recipe import Recipe


def main() -> int:
    import argparse

    parser = cli.recipe_parser(__doc__ or "", dry_run="read the recipe and the hostfile, ask no host")
    add = parser.add_argument
    add("--hostfile", help="one line per host, NAME slots=8; this machine alone where absent")
    add("--port", type=int, default=29500, help="port of the rendezvous, deepspeed's --master_port")
    add("--json", action="store_true", help="one JSON object instead of a table")
    add("--probe", metavar="FIRST", help=argparse.SUPPRESS)  # what is asked of a host
    add("--listen", action="store_true", help=argparse.SUPPRESS)  # what rank 0's host does meanwhile
    asked = parser.parse_intermixed_args()
    if asked.probe is not None:
        print(json.dumps({"time": time.time()}), flush=True)  # before anything that takes long: it is compared
    from megas2s.recipe import dump_recipe, load_recipe

    recipe = load_recipe(asked.recipe, asked.overrides)
    if asked.print_config:
        print(dump_recipe(recipe), end="")
        return 0
    if asked.listen:
        return listen(asked.port)
    if asked.probe is not None:
        from megas2s.probe import probe

        print(json.dumps(probe(recipe, first=asked.probe, port=asked.port)))
        return 0
    return examine(recipe, asked)


def examine(recipe: Recipe, asked: argparse.Namespace) -> int:
    """Ask all hosts; 2 where anything must be put right."""
    from megas2s import doctor
    from megas2s.hosts import read_hosts

    hosts = read_hosts(asked.hostfile) if asked.hostfile is not None else [this_machine()]
    recipe.check_ranks(sum(host.slots for host in hosts))
    names = ", ".join(f"{host.name} ({host.slots})" for host in hosts)
    if asked.dry_run:
        print(f"would ask {names} about {', '.join(stage.name for stage in recipe.stages)}")
        return 0
    script = [sys.executable, str(Path(__file__).resolve()), asked.recipe, *asked.overrides]
    asking = doctor.Asking(script, Path.cwd(), asked.port, remote=asked.hostfile is not None)
    findings = doctor.examine(recipe, hosts, asking)
    failures = [finding for finding in findings if finding.advice]
    if asked.json:
        print(json.dumps({"healthy": not failures, "findings": [finding._asdict() for finding in findings]}, indent=2))
    else:
        print("no --hostfile: this machine alone" if asked.hostfile is None else f"{len(hosts)} hosts: {names}")
        print("\n".join([*table(findings, hosts), *(one.sentence for one in failures)]))
        count = len(failures)
        print(f"{count} thing{'s' * (count > 1)} to put right" if failures else "ready to launch")
    return 2 if failures else 0


def this_machine() -> Host:
    """The machine itself with as many slots as GPUs, or one."""
    import torch

    from megas2s.hosts import Host

    return Host("127.0.0.1", max(1, torch.cuda.device_count()))


def table(findings: list[Finding], hosts: list[Host]) -> list[str]:
    """A row for each check, a column for each host; what fails is marked."""
    cells = {(one.check, one.host): ("! " if one.advice else "  ") + one.found for one in findings}
    checks = list(dict.fromkeys(one.check for one in findings))
    rows = [["", *(f"  {host.name}" for host in hosts)]]
    rows += [[check, *(cells.get((check, host.name), "  -") for host in hosts)] for check in checks]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def listen(port: int) -> int:
    """Answer on the port until our caller closes the pipe; says so, or why not."""
    from megas2s.probe import listening

    try:
        with listening(port):
            print("listening", flush=True)
            sys.stdin.read()
    except OSError as error:
        print(f"port {port}: {os.strerror(error.errno or 0)}", flush=True)
    return 0


if __name__ == "__main__":
    cli.run(main)

"""Start a recipe on the hosts of a hostfile, once its lines have been read, its slots counted and its hosts examined.

launch/supervise.py launch/recipes/two_stage.yaml --hostfile hosts
launch/supervise.py launch/recipes/two_stage.yaml --hostfile hosts --deepspeed '--launcher openmpi' seed=3

`deepspeed` reads a hostfile loosely and takes this machine alone where there is none; here a line that cannot be, an
absent file, a number of slots that does not suit the recipe, and whatever tools/doctor.py finds amiss on a host are
refused before anything starts.
"""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from megas2s import cli

if TYPE_CHECKING:
    from collections.abc import Sequence

    from megas2s.hosts import Host
    from megas2s.recipe import Recipe

ROOT = Path(__file__).resolve().parents[1]
NO_HOSTFILE = os.devnull  # no regular file, so deepspeed stays here; it would look for one of its own


def main() -> None:
    parser = cli.recipe_parser(
        __doc__ or "", dry_run="read the recipe and the hostfile, print the command, start nothing"
    )
    add = parser.add_argument
    add("--hostfile", help="one line per host, NAME slots=8; this machine alone where absent")
    add("--unexamined", action="store_true", help="do not ask the hosts what tools/doctor.py asks them")
    add(
        "--deepspeed",
        metavar="FLAGS",
        default="",
        help="flags for it, as one word: '--launcher openmpi --master_port 29501'",
    )
    asked = parser.parse_intermixed_args()

    from megas2s.errors import BadConfig
    from megas2s.hosts import read_hosts
    from megas2s.recipe import dump_recipe, load_recipe

    recipe = load_recipe(asked.recipe, asked.overrides)
    if asked.print_config:
        print(dump_recipe(recipe), end="")
        return
    flags = shlex.split(asked.deepspeed)
    port = rendezvous_port(flags)
    hosts = read_hosts(asked.hostfile) if asked.hostfile is not None else []
    ranks = sum(host.slots for host in hosts) or recipe.ranks
    recipe.check_ranks(ranks or recipe.fewest_ranks)
    # What the ranks then find is compared with what was counted here.
    overrides = [*asked.overrides, *([f"ranks={ranks}"] if ranks and not recipe.ranks else [])]
    script = str(Path(__file__).with_name("pretrain.py"))
    command = ["deepspeed", "--hostfile", asked.hostfile or NO_HOSTFILE, *flags, script, asked.recipe, *overrides]
    if asked.dry_run:
        stages = ", ".join(stage.name for stage in recipe.stages)
        where = f"{ranks} ranks" if hosts else "this machine alone"
        print(f"would start {stages} on {where}: {shlex.join(command)}")
        return
    if hosts and not asked.unexamined:
        examine(recipe, hosts, [asked.recipe, *asked.overrides], port)
    sys.stdout.flush()
    try:
        os.execvp(command[0], command)
    except FileNotFoundError:
        raise BadConfig("there is no command deepspeed here; activate the environment that has it") from None


def rendezvous_port(flags: Sequence[str]) -> int:
    """The port among deepspeed's flags; a hostfile among them would not be the one that is read here."""
    from megas2s.errors import BadConfig

    parser = cli.parser("What is read here of deepspeed's flags; deepspeed --help lists them all.")
    parser.add_argument("--hostfile", "-H")
    parser.add_argument("--master_port", type=int, default=29500)
    known, _ = parser.parse_known_args(flags)
    if known.hostfile is not None:
        raise BadConfig(f"--deepspeed names the hostfile {known.hostfile}; give it to --hostfile, which reads it first")
    port: int = known.master_port
    return port


def examine(recipe: Recipe, hosts: Sequence[Host], words: Sequence[str], port: int) -> None:
    """Refuse hosts of which the doctor says that anything must be put right, in its words."""
    from megas2s import doctor
    from megas2s.errors import BadConfig

    command = [sys.executable, str(ROOT / "tools" / "doctor.py"), *words]
    findings = doctor.examine(recipe, hosts, doctor.Asking(command, Path.cwd(), port, remote=True))
    if failures := [finding.sentence for finding in findings if finding.advice]:
        raise BadConfig("\n".join([*failures, "nothing was started; --unexamined starts all the same"]))


if __name__ == "__main__":
    cli.run(main)

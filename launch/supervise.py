"""Start a recipe on the hosts of a hostfile, once the file has been read line by line and its slots counted.

launch/supervise.py launch/recipes/two_stage.yaml --hostfile hosts
launch/supervise.py launch/recipes/two_stage.yaml --hostfile hosts --deepspeed '--launcher openmpi' seed=3

`deepspeed` reads a hostfile loosely and takes this machine alone where there is none; here a line that cannot be, an
absent file and a number of slots that does not suit the recipe are refused before anything starts.
"""

import os
import shlex
import sys
from pathlib import Path

from megas2s import cli


def main() -> None:
    parser = cli.recipe_parser(
        __doc__ or "", dry_run="read the recipe and the hostfile, print the command, start nothing"
    )
    add = parser.add_argument
    add("--hostfile", help="one line per host, NAME slots=8; this machine alone where absent")
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
    where, ranks = "this machine alone", recipe.ranks
    flags = shlex.split(asked.deepspeed)
    if asked.hostfile is not None:
        ranks = sum(host.slots for host in read_hosts(asked.hostfile))
        recipe.check_ranks(ranks)
        where = f"{ranks} ranks"
        flags = ["--hostfile", asked.hostfile, *flags]
    # What the ranks then find is compared with what was counted here.
    overrides = [*asked.overrides, *([f"ranks={ranks}"] if ranks and not recipe.ranks else [])]
    script = str(Path(__file__).with_name("pretrain.py"))
    command = ["deepspeed", *flags, script, asked.recipe, *overrides]
    if asked.dry_run:
        stages = ", ".join(stage.name for stage in recipe.stages)
        print(f"would start {stages} on {where}: {shlex.join(command)}")
        return
    sys.stdout.flush()
    try:
        os.execvp(command[0], command)
    except FileNotFoundError:
        raise BadConfig("there is no command deepspeed here; activate the environment that has it") from None


if __name__ == "__main__":
    cli.run(main)

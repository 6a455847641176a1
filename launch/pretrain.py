"""Pretrain the stages of a recipe: deepspeed launch/pretrain.py launch/recipes/two_stage.yaml [key=value ...]"""

import os
import sys

from megas2s import cli
from megas2s.place import place


def main() -> None:
    parser = cli.recipe_parser(
        "Pretrain the stages of a recipe, one after another. The same command continues after any interruption.",
        dry_run="load, check and plan everything, train nothing",
    )
    arguments = cli.may_change(parser).parse_intermixed_args()  # overrides may stand before and after flags

    from megas2s.recipe import dump_recipe, load_recipe

    recipe = load_recipe(arguments.recipe, arguments.overrides)
    if arguments.print_config:
        if place().rank == 0:
            print(dump_recipe(recipe), end="")
        return

    if arguments.dry_run:
        from megas2s.prepare import dry_run

        plan = dry_run(recipe)
        if place().rank == 0:
            print(plan)
        return

    from megas2s.engine import leave
    from megas2s.pretrain import pretrain

    another = pretrain(recipe, allowed=arguments.allow_change)
    leave()
    if another:
        # Engines leave memory behind, so the next stage begins in this process made new: same id, same environment.
        sys.stdout.flush()
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


if __name__ == "__main__":
    cli.run(main)

"""Fine-tune a model on a task: deepspeed launch/finetune.py launch/finetuning/classify.yaml [key=value ...]"""

import os
import sys

from megas2s import cli
from megas2s.place import place


def main() -> None:
    parser = cli.recipe_parser(
        "Fine-tune on a task, then answer its test set. The same command continues after any interruption.",
        dry_run="load, check and plan everything, train nothing",
    )
    arguments = cli.may_change(parser).parse_intermixed_args()

    from megas2s import finetuning, tuning

    recipe = finetuning.load(arguments.recipe, arguments.overrides)
    if arguments.print_config:
        if place().rank == 0:
            print(finetuning.dump(recipe), end="")
        return
    if arguments.dry_run:
        plan = tuning.dry_run(recipe)
        if place().rank == 0:
            print(plan)
        return

    from megas2s.engine import leave
    from megas2s.finetune import finetune

    answers_left = finetune(recipe, allowed=arguments.allow_change)
    leave()
    if answers_left:
        # Engines leave memory behind, so the answers are given by this process made new: same id, same environment.
        sys.stdout.flush()
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


if __name__ == "__main__":
    cli.run(main)

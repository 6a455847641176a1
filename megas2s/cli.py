"""What every script in `launch/` and `tools/` shares: arguments, the door for errors, exit codes.

Imports neither torch nor pydantic, so that `--help` answers at once; a script imports what it runs after parsing.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable

from megas2s.errors import Refusal

INTERRUPTED = 130


def parser(description: str, *, epilog: str = "") -> argparse.ArgumentParser:
    """An argument parser that shows defaults and keeps the line breaks of its texts."""

    class Formatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
        pass

    return argparse.ArgumentParser(description=description, epilog=epilog, formatter_class=Formatter)


def recipe_parser(description: str) -> argparse.ArgumentParser:
    """A parser for the scripts that run a recipe: the file, `key=value` overrides, --print-config and --dry-run."""
    arguments = parser(
        description,
        epilog="overrides are dotted paths into the recipe: seed=3 stages.0.optimizer.lr=2e-4\n"
        "stages can be named instead of numbered: stages.mlm.steps=100",
    )
    arguments.add_argument("recipe", help="YAML file of the experiment, for example launch/recipes/two_stage.yaml")
    arguments.add_argument("overrides", nargs="*", metavar="key=value", help="values that replace the recipe's")
    arguments.add_argument("--print-config", action="store_true", help="print the resolved recipe as YAML and stop")
    arguments.add_argument("--dry-run", action="store_true", help="load, check and plan everything, train nothing")
    arguments.add_argument(
        "--local_rank", type=int, default=0, help=argparse.SUPPRESS
    )  # the deepspeed launcher adds it
    return arguments


def run(main: Callable[[], int | None]) -> None:
    """Run a script's `main` and exit: 0, its own code, or that of the Refusal it raised, whose sentence is printed."""
    try:
        code = main() or 0
    except Refusal as refusal:
        print(f"error: {refusal}", file=sys.stderr, flush=True)
        code = refusal.exit_code
    except KeyboardInterrupt:
        print("interrupted; the same command continues", file=sys.stderr, flush=True)
        code = INTERRUPTED
    except BrokenPipeError:  # the reader of our output has left, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    sys.exit(code)

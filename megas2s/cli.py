"""What every script in `launch/` and `tools/` shares: arguments, the door for errors, exit codes.

Imports neither torch nor pydantic, so that `--help` answers at once; a script imports what it runs after parsing.
"""

from __future__ import annotations

import argparse
import contextlib
import difflib
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

from megas2s.errors import BadConfig, LostRank, Refusal
from megas2s.place import Place, place

INTERRUPTED = 130
QUOTE = '"'
FIRST_SECONDS = 5.0  # launchers look after their processes about once a second
OTHERS_SECONDS = 10.0
SOON_SECONDS = 0.05  # enough to leave a destructor
LOG_SECONDS = 5.0  # a shared file system may be lost with the network, and its writes wait


class _Formatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    pass


class _Parser(argparse.ArgumentParser):
    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        """As argparse does, with `key=value` for `--key value`, so that all scripts are overridden alike."""
        words = sys.argv[1:] if args is None else list(args)
        flags = {index: flag for index, word in enumerate(words) if (flag := self._as_flag(word)) is not None}
        # Behind the rest: argparse reads a list of positional words only where no flag interrupts it.
        words = [word for index, word in enumerate(words) if index not in flags]
        return super().parse_known_args([*words, *filter(None, flags.values())], namespace)

    def _as_flag(self, word: str) -> str | None:
        """The flag that a word `key=value` stands for, empty for `key=false`; None where it stands for itself."""
        key, equals, value = word.partition("=")
        action = self._option_string_actions.get("--" + key.replace("_", "-"))
        if not equals or action is None or "*" in word or Path(word).exists():  # a path may be named lang=en/a.txt
            return None
        if action.nargs != 0:
            return f"{action.option_strings[0]}={value.strip(QUOTE)}"  # quoted as a recipe may have it
        if value.lower() not in ("true", "false"):
            self.error(f"{key} is true or false, found {value!r}")
        return action.option_strings[0] if value.lower() == "true" else ""

    def error(self, message: str) -> NoReturn:
        """Refuse like everything else, so that of several ranks one speaks."""
        unknown = message.removeprefix("unrecognized arguments: ").split("=")[0].lstrip("-").replace("_", "-")
        close = difflib.get_close_matches("--" + unknown, self._option_string_actions, n=1)
        hint = f"did you mean {close[0]}? " if close and message.startswith("unrecognized") else ""
        raise BadConfig(f"{message}; {hint}{self.prog} --help lists what there is")


def parser(description: str, *, epilog: str = "") -> argparse.ArgumentParser:
    """An argument parser that shows defaults and keeps the line breaks of its texts."""
    return _Parser(description=description, epilog=epilog, formatter_class=_Formatter)


def recipe_parser(description: str, *, dry_run: str) -> argparse.ArgumentParser:
    """A parser for the scripts that take a recipe: the file, `key=value` overrides, --print-config and --dry-run."""
    arguments = parser(
        description,
        epilog="overrides are dotted paths into the recipe: seed=3 stages.0.schedule.lr=2e-4\n"
        "stages can be named instead of numbered: stages.mlm.steps=100",
    )
    arguments.add_argument("recipe", help="YAML file of the experiment, for example launch/recipes/two_stage.yaml")
    arguments.add_argument(
        "overrides", nargs="*", default=[], metavar="key=value", help="values that replace the recipe's"
    )
    arguments.add_argument("--print-config", action="store_true", help="print the resolved recipe as YAML and stop")
    arguments.add_argument("--dry-run", action="store_true", help=dry_run)
    arguments.add_argument(
        "--local_rank", type=int, default=0, help=argparse.SUPPRESS
    )  # the deepspeed launcher adds it
    return arguments


def may_change(arguments: argparse.ArgumentParser) -> argparse.ArgumentParser:
    """Add --allow-change to a script that continues what it began."""
    arguments.add_argument(
        "--allow-change",
        action="append",
        default=[],
        metavar="KEY",
        help="go on though this key of the recipe is not as it was, by its dotted name as the refusal says it; "
        "* stands for any part; can be repeated",
    )
    return arguments


def look_first(arguments: argparse.ArgumentParser, *, dry_run: str) -> None:
    """Add --print-config and --dry-run to a script that takes no recipe; `dry_run` is what the latter does there."""
    arguments.add_argument("--print-config", action="store_true", help="print all settings as YAML and stop")
    arguments.add_argument("--dry-run", action="store_true", help=dry_run)


def print_settings(given: argparse.Namespace) -> None:
    """What --print-config prints where there is no recipe: the arguments with their defaults, as YAML."""
    import yaml

    settings = {
        name: str(value) if isinstance(value, Path) else value
        for name, value in vars(given).items()
        if name not in ("print_config", "dry_run")
    }
    print(yaml.safe_dump(settings, sort_keys=False, allow_unicode=True), end="")


def run(main: Callable[[], int | None]) -> None:
    """Run a script's `main` and exit: 0, its own code, or that of the Refusal it raised, whose sentence is printed.

    Of several ranks that fail alike, one speaks (see `_patience`); no rank's sentence is lost.
    """
    here = place()
    sys.unraisablehook = _press_again
    try:
        code = main() or 0
    except Refusal as refusal:
        time.sleep(_patience(here, refused=True))
        who = f"rank {here.rank} on {socket.gethostname()}: " if here.rank else ""
        print("\n".join(f"error: {who}{line}" for line in str(refusal).splitlines()), file=sys.stderr, flush=True)
        code = refusal.exit_code
    except KeyboardInterrupt:
        if here.rank == 0:
            print("interrupted; the same command continues", file=sys.stderr, flush=True)
        code = INTERRUPTED
    except BrokenPipeError:  # the reader of our output has left, as `| head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except Exception as error:
        loss = _loss(here, error)
        if loss:
            leave_in_log(loss)  # at once: the launcher may end this rank while it is silent
        time.sleep(_patience(here, refused=False))
        if not loss:
            raise
        print(f"error: {loss}", file=sys.stderr, flush=True)
        os._exit(LostRank.exit_code)  # leaving in order would wait for those that are lost
    sys.exit(code)


def _loss(here: Place, error: Exception) -> str:
    """The sentence for a network between ranks that has failed, else none; none has where `dist` was never imported."""
    loaded = sys.modules.get("megas2s.dist")
    if loaded is None or not loaded.lost_rank(error):
        return ""
    *_, last = str(error).strip().splitlines() or [type(error).__name__]
    return (
        f"rank {here.rank} on {socket.gethostname()} lost the other ranks ({last}): one has ended, hangs, or the "
        "network is down; the same command continues from the last checkpoint"
    )


def leave_in_log(sentence: str) -> None:
    """Write to the file that this rank logs to, where it has one: what it prints may be lost with the network."""
    log = logging.getLogger("megas2s")
    line = log.makeRecord(log.name, logging.ERROR, __file__, 0, sentence, (), None)

    def write() -> None:
        with contextlib.suppress(Refusal, OSError):
            for handler in log.handlers:
                if isinstance(handler, logging.FileHandler):
                    handler.handle(line)

    writing = threading.Thread(target=write, daemon=True)
    writing.start()
    writing.join(LOG_SECONDS)


def _press_again(lost: sys.UnraisableHookArgs) -> None:
    """Ctrl-C that fell into a destructor or a callback, where Python prints exceptions and forgets them, comes anew."""
    if lost.exc_type is KeyboardInterrupt:
        again = threading.Timer(SOON_SECONDS, os.kill, (os.getpid(), signal.SIGINT))
        again.daemon = True
        again.start()
    else:
        sys.__unraisablehook__(lost)


def _patience(here: Place, *, refused: bool) -> float:
    """Seconds to be silent after a failure, in which the launcher ends this rank if another has failed before it.

    Mistakes are mostly met by all ranks alike; rank 0 tells of them at once, and by leaving makes the launcher
    end the others. What is no Refusal may only be the loss of a rank that has something to say, so rank 0 waits too.
    """
    if here.world_size == 1 or (here.rank == 0 and refused):
        return 0.0
    return OTHERS_SECONDS if here.rank else FIRST_SECONDS

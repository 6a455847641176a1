"""`launch/decode.py` behind its flags."""

from __future__ import annotations

import argparse
import dataclasses
import logging
from collections.abc import Callable
from typing import Any

from megas2s import dist
from megas2s.engine import join, leave
from megas2s.engine.base import DTYPES
from megas2s.errors import BadConfig
from megas2s.generate import load
from megas2s.generate.program import Job, check, decode, notes, read, rescore
from megas2s.generate.settings import from_flags

EARLY = {"true": True, "false": False, "never": "never"}
# What scoring anew looks at.
OF_TRACES = {"weights", "method", "tokenizer", "input", "output", "rescore", "n_best", "length_penalty", "min_length"}
OF_TRACES |= {"local_rank", "print_config", "dry_run"}


def run(given: argparse.Namespace, default: Callable[[str], Any]) -> None:
    """Decode, score anew, or with `dry_run` check everything that those would; collective.

    `default` is what a flag is where nobody has given it.
    """
    flags = vars(given) | {"early_stopping": EARLY[given.early_stopping]}
    if given.rescore:  # of a search that has been; only what a trace can be asked counts
        idle = [name for name, value in vars(given).items() if name not in OF_TRACES and value != default(name)]
        if idle:
            flags_given = ", ".join(f"--{name.replace('_', '-')}" for name in idle)
            raise BadConfig(
                f"--rescore reads a search's traces, of which {flags_given} can change nothing; leave it out"
            )
        flags |= {"beams": max(2, given.n_best), "scoring": "gnmt"}
    how = from_flags(flags)
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("megas2s").setLevel(logging.INFO if dist.is_main() else logging.WARNING)
    join()
    model = load(
        given.weights,
        method=given.method,
        tokenizer=given.tokenizer,
        length=given.length,
        target_length=given.max_length,
        dtype=DTYPES[given.precision],
        weights=not given.rescore and not given.dry_run,
    )
    spoken = model.columns.language if model.tags and given.language is None else None
    named = {"text": given.text, "label": given.label, "pair": given.pair}
    columns = dataclasses.replace(model.columns, **{key: name for key, name in named.items() if name is not None})
    columns = dataclasses.replace(columns, language=given.language_column or spoken)
    job = Job(given.input, given.output, columns, given.skip_bad_lines, given.traces, given.language)
    check(model, job, how)
    if not given.rescore and not given.dry_run:
        decode(model, job, how)
    elif not dist.is_main():
        pass  # one rank is enough
    elif given.dry_run:
        of_traces = [f"traces of {given.input}, method {model.method.name}"]
        print("\n".join([*(of_traces if given.rescore else notes(model, job, read(model, job))), str(how)]))
    else:
        rescore(model, job, penalty=how.length_penalty or 0.0, least=how.min_length, best=how.n_best)
    leave()

"""`launch/decode.py` behind its flags."""

from __future__ import annotations

import argparse
import logging

from megas2s import dist
from megas2s.engine import join, leave
from megas2s.engine.base import DTYPES
from megas2s.generate import load
from megas2s.generate.program import Job, decode, read, rescore
from megas2s.generate.settings import from_flags
from megas2s.methods.base import Columns

EARLY = {"true": True, "false": False, "never": "never"}


def run(given: argparse.Namespace) -> None:
    """Decode, score anew, or with `dry_run` check everything that those would; collective."""
    how = from_flags(vars(given) | {"early_stopping": EARLY[given.early_stopping], "max_length": given.max_length})
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
    )
    text = given.text or ("text" if given.input.suffix == ".txt" else "src")
    columns = Columns(text=text, label=given.label, language=given.language_column)
    job = Job(given.input, given.output, columns, given.skip_bad_lines, given.traces, given.language)
    if given.dry_run:
        found = read(model, job)
        if dist.is_main():
            print(f"{len(found.examples):,} sources, method {model.method.name}, {how}")
    elif given.rescore:
        rescore(model, given.input, given.output, how)
    else:
        decode(model, job, how)
    leave()

"""Make one corpus of several that have the same tokenizer; their shards are linked, or copied to another disk.

python tools/merge_corpora.py corpora/wikipedia corpora/web --output corpora/all
"""

from __future__ import annotations

import argparse
from pathlib import Path

from megas2s import cli

EPILOG = """Every shard keeps its language and source, so a recipe can weigh what came from where.
A document that stands in two of them is read twice; text preprocessed together is free of that."""


def arguments() -> argparse.ArgumentParser:
    parser = cli.parser(__doc__ or "", epilog=EPILOG)
    add = parser.add_argument
    add("corpora", nargs="+", metavar="FOLDER", help="complete corpora, two or more")
    add("--output", type=Path, required=True, metavar="FOLDER", help="the corpus of all")
    add("--copy", action="store_true", help="write every byte anew, where links would share them with the originals")
    cli.look_first(parser, dry_run="check that they can be one, and write nothing")
    return parser


def main() -> int:
    given = arguments().parse_args()
    if given.print_config:
        cli.print_settings(given)
        return 0

    from megas2s.data.corpus import Corpus
    from megas2s.data.merge import check, merge
    from megas2s.data.progress import Display

    corpora = [Corpus.open(Path(folder)) for folder in given.corpora]
    if given.dry_run:
        check(corpora)
        shards = sum(len(entries) for corpus in corpora for entries in corpus.entries.values())
        print(f"would put {shards} shards of {len(corpora)} corpora into {given.output}")
        return 0
    with Display() as display:
        corpus = merge(corpora, given.output, copies=given.copy, report=display.show)
    for language, facts in corpus.record["languages"].items():
        print(f"{language:12}{facts['documents']:>15,} documents {facts['tokens']:>18,} tokens")
    print(f"{given.output} is complete")
    return 0


if __name__ == "__main__":
    cli.run(main)

"""Score answers against references, with intervals, and write pages to read them on.

python launch/evaluate.py runs/qg/answers/test.jsonl --output runs/qg/evaluation
python launch/evaluate.py answers.txt --references references.txt --metrics rouge rougeLsum bleu
python launch/evaluate.py corrected.txt --references conll14.m2 --metrics m2
"""

import argparse
from pathlib import Path

from megas2s import cli

EPILOG = """Metrics: rouge (rouge1 rouge2 rougeL), rougeLsum (lines are sentences), bleu, chrf, chrf++, exact_match; for
English meteor; of corrections, which need sources, gleu and, for English, errant; of corrections beside gold edits m2
(m2_f0.5 m2_precision m2_recall). Files named .jsonl or .tsv have keys, .m2 sentences with the gold edits of one or
several annotators, any other a text a line. Lines may name their language, and each gets its own scores."""


def arguments() -> argparse.Namespace:
    parser = cli.parser(__doc__ or "", epilog=EPILOG)
    add = parser.add_argument
    add("answers", type=Path, help="what was written: a run's answers/test.jsonl, other JSON lines, or a text a line")
    add(
        "--references",
        type=Path,
        metavar="FILE",
        help="what should have been, if it is not in the lines of answers; .m2: sources and their gold edits",
    )
    add("--sources", type=Path, metavar="FILE", help="what was read, if it is not in the lines of answers")
    add("--metrics", nargs="+", metavar="NAME", default=["rouge", "bleu", "chrf", "exact_match"], help="which scores")
    add("--output", type=Path, metavar="FOLDER", help="gets scores.json, page.html, page.md; without, only a table")
    add("--answer-key", default="answer", metavar="KEY", help="what lines call their answer")
    add("--reference-key", default="reference", metavar="KEY", help="and their reference")
    add("--source-key", metavar="KEY", help="and their source; 'source' where they have one")
    add("--language-key", metavar="KEY", help="and their language; 'language' where they have one")
    add("--bleu-tokenizer", default="13a", metavar="NAME", help="13a, intl, zh, char or none: sacreBLEU's")
    add("--stem", action="store_true", help="ROUGE of stems, for English, as most figures on summaries are published")
    add("--drop-repeats", type=float, metavar="SHARE", help="without lines of answers that repeat more words than this")
    add("--rows", type=int, default=500, help="of each language on page.html, at most")
    add("--resamples", type=int, default=1000, help="corpora that are drawn for the intervals")
    add("--seed", type=int, default=0, help="of these draws")
    cli.look_first(parser, dry_run="read and check everything, say what would be scored, write nothing")
    return parser.parse_args()


def main() -> None:
    given = vars(arguments())
    if given.pop("print_config"):
        cli.print_settings(argparse.Namespace(**given))
        return
    output, dry_run = given.pop("output"), given.pop("dry_run")

    from megas2s import evaluate
    from megas2s.answers.table import show

    request = evaluate.Request(**given)
    if dry_run:
        print(evaluate.plan(request))
        return
    report = evaluate.evaluate(request)
    show(report)
    if output:
        evaluate.write(report, output, rows=request.rows)


if __name__ == "__main__":
    cli.run(main)

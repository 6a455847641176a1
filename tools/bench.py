"""How fast and how large: our code against a named other in one run, in turns, and medians of ratios.

python tools/bench.py step --case mlm-250k --precision fp32
python tools/bench.py data --json build/data.json
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from pathlib import Path

from megas2s import cli

EPILOG = """\
Each subcommand prints tables and, with --json, writes them with its settings and the environment. Arms of a comparison
run in processes of their own, one at a time: A B A B; a ratio is the median over rounds of one round's ratio.
A figure of absolute time on a shared machine is noise; the ratios stand. docs/performance.md keeps the results."""

CASES = ("mlm-250k", "mlm-32k", "seq2seq-250k", "frozen-512-114", "frozen-denoising")
CASES += tuple(f"pseudo-{lengths}{kind}" for kind in ("", "-eager") for lengths in ("464-48", "608-160"))


def arguments() -> argparse.Namespace:
    parser = cli.parser(__doc__ or "", epilog=EPILOG)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    data = _command(commands, "data", "text to shards, against datasets.map with the same tokenizer")
    add = data.add_argument
    add("--input", nargs="+", metavar="PATH", help="text; absent: the corpus below MEGAS2S_DEV_DATA, or the sample")
    add("--tokenizer", metavar="FOLDER", help="a folder from tools/train_tokenizer.py; absent: one is trained")
    add("--vocab-size", type=int, default=32_768, help="ids of the tokenizer that is trained")
    add("--megabytes", type=float, default=10.0, help="text that is timed against datasets.map, MB")
    add("--scaling-megabytes", type=float, default=50.0, help="text that is timed with one worker and with two, MB")
    add("--memory-megabytes", type=float, nargs="+", default=[10.0, 100.0], help="texts whose peak memory is told, MB")
    add("--gigabyte", action="store_true", help="tell the peak memory of 1 GB too")

    loader = _command(commands, "loader", "sampling, noise and collation, against DataCollatorForLanguageModeling")
    add = loader.add_argument
    add("--length", type=int, default=512, help="columns of a row, tokens")
    add("--rows", type=int, default=64, help="rows of a micro-batch")
    add("--batches", type=int, default=100, help="micro-batches per round")

    step = _command(commands, "step", "training steps, against transformers and frozen against unfrozen")
    add = step.add_argument
    add("--case", nargs="+", choices=CASES, default=list(CASES), help="what is compared")
    add("--precision", nargs="+", choices=("fp32", "bf16"), help="absent: both on a CPU, bf16 on a GPU")
    add("--rows", type=int, help="rows of a batch; absent: what two cores do in seconds, or 32 on a GPU")
    add("--length", type=int, default=512, help="columns of a row, tokens")
    add("--width", type=int, default=768, help="width of the model")
    add("--layers", type=int, help="layers of each stack; absent: 12, and 6 in seq2seq-250k")
    add("--vocab-size", type=int, help="ids; absent: what the case's name says")

    resume = _command(commands, "resume", "time to the first batch, near the start and far on")
    add = resume.add_argument
    add("--steps", type=int, nargs="+", default=[10, 10_000_000], help="steps to resume at")
    add("--rows", type=int, default=64, help="rows of a step")

    checkpoint = _command(commands, "checkpoint", "a synchronous save, against torch.save of the same state")
    add = checkpoint.add_argument
    add("--width", type=int, default=512, help="width of the model")
    add("--layers", type=int, default=6, help="layers of each stack")
    add("--vocab-size", type=int, default=32_768, help="ids")

    decoding = _command(commands, "generate", "decoding, against transformers' beams and a cache of hidden states")
    add = decoding.add_argument
    add("--rows", type=int, default=4, help="sources of a batch")
    add("--source", type=int, default=256, help="tokens of the longest source")
    add("--target", type=int, default=128, help="tokens that are written")
    add("--width", type=int, default=1024, help="width of the model")
    add("--layers", type=int, default=12, help="layers of each stack")
    add("--vocab-size", type=int, default=250_112, help="ids")

    near = _command(commands, "near", "near-duplicates: time and memory by documents")
    near.add_argument("--documents", type=int, nargs="+", default=[200_000, 2_000_000], help="that are compared")

    bubble = _command(commands, "bubble", "how long the parts of a pipeline wait, measured and predicted")
    bubble.add_argument("--stages", type=int, nargs="+", default=[2, 4], help="parts of the pipeline")
    bubble.add_argument("--micro-batches", type=int, nargs="+", default=[4, 8, 16], help="of a step")

    corpus = _command(commands, "corpus", "what many shards cost a process that reads them")
    corpus.add_argument("--shards", type=int, default=14_902, help="as many as 10^12 tokens have")

    startup = _command(commands, "startup", "memory of each rank while a ZeRO-3 engine starts and saves")
    add = startup.add_argument
    add("--width", type=int, nargs="+", default=[256, 512], help="widths of the model, multiples of 64")
    add("--vocab-size", type=int, default=150_016, help="ids")
    add("--ranks", type=int, nargs="+", default=[1, 2, 4], help="ranks on this machine")
    return parser.parse_args()


def _command(commands, name: str, says: str) -> argparse.ArgumentParser:
    """A subcommand with the flags that all have."""
    parser = commands.add_parser(
        name, help=says, description=says, formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=5, help="timed rounds of each comparison")
    parser.add_argument("--quick", action="store_true", help="two rounds: a look, no figure to publish")
    parser.add_argument("--one-process", action="store_true", help="all arms in this process; memory is not told apart")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the tables with settings and environment")
    parser.add_argument("--work", type=Path, default=Path("build/bench"), metavar="FOLDER", help="for what is written")
    cli.look_first(parser, dry_run="check that this can run here, say what would be timed, write nothing")
    return parser


def main() -> int:
    given = arguments()
    if given.quick:
        given.rounds = 2
    if given.print_config:
        cli.print_settings(given)
        return 0
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # all comparisons of tokenizers are per core

    from benchmarks import measure

    from megas2s.errors import BadConfig

    if given.rounds < 1:
        raise BadConfig(f"--rounds must be at least 1, got {given.rounds}")
    benchmark = importlib.import_module(f"benchmarks.{given.command}")
    if given.dry_run:
        print(f"would time {given.command} in {given.rounds} rounds, with {given.work} for what is written")
        return 0
    given.work.mkdir(parents=True, exist_ok=True)
    tables = benchmark.run(given)
    for table in tables:
        measure.show(table)
    if given.json is not None:
        measure.write_json(given.json, given, tables)
    return 0


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    cli.run(main)

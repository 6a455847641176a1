"""Decode a file with weights that were taught to write: python launch/decode.py runs/x test.jsonl answers.jsonl"""

import argparse
from pathlib import Path

from megas2s import cli
from megas2s.place import place

EPILOG = """\
On several GPUs or processes: deepspeed launch/decode.py ..., torchrun --nproc-per-node 4 launch/decode.py ..., mpirun.
A beam search with --traces leaves what it has seen; --rescore reads that under another --length-penalty."""


def main() -> None:
    arguments = cli.parser(__doc__ or "", epilog=EPILOG)
    add = arguments.add_argument
    add("weights", type=Path, help="a run, a stage, a checkpoint, a folder of weights, or an exported folder")
    add("input", type=Path, help=".jsonl, .tsv, .csv or .parquet with sources in a column, or .txt, one a line")
    add("output", type=Path, help=".jsonl with sources, references and scores, or .txt with answers alone")
    add("--text", help="column of the sources; this, --label and --pair as it was trained where absent")
    add("--label", help="column of the references, kept beside the answers where there is one")
    add("--pair", help="column of a second text, of a model that was taught by pairs")
    add("--beams", type=int, default=1, help="rows that a beam search keeps; 1: greedy")
    add("--scoring", choices=("gnmt", "power"), help="absent: gnmt for encoders, power for encoder-decoders")
    add("--length-penalty", type=float, help="absent: 0 with gnmt, 1 with power")
    add("--early-stopping", choices=("true", "false", "never"), default="false", help="of power, as in transformers")
    add("--n-best", type=int, default=1, help="answers for each source")
    add("--max-length", type=int, help="tokens of an answer; absent: as it was trained")
    add("--min-length", type=int, default=0, help="tokens before the end may come")
    add("--no-repeat-ngram", type=int, default=0, help="no n-gram of so many tokens comes twice")
    add("--ignored-words", nargs="+", default=(), metavar="WORD", help='n-grams with one of these may, for example "."')
    add("--language", help="of all sources, where rows were tagged; else whose tag answers begin with")
    add("--language-column", help="column that says it of each source")
    add("--prefix", help="text that each answer begins with")
    add("--sample", action="store_true", help="draw tokens by their probability")
    add("--temperature", type=float, default=1.0, help="of sampling")
    add("--top-k", type=int, default=0, help="draw from so many of the likeliest; 0: all")
    add("--top-p", type=float, default=1.0, help="draw from the likeliest that together have this much")
    add("--seed", type=int, default=17, help="of sampling")
    add("--rows", type=int, default=16, help="sources of a batch")
    add("--method", help="seq2seq for an encoder-decoder that was trained elsewhere")
    add("--length", type=int, help="tokens of a source; absent: as it was trained")
    add("--tokenizer", type=Path, help="absent: the one beside the weights")
    add("--precision", choices=("fp32", "bf16", "fp16"), default="fp32", help="of the computation")
    add("--traces", type=Path, help="a .jsonl file for what a gnmt beam search has seen")
    add("--rescore", action="store_true", help="the input is such a file: score it anew")
    add("--skip-bad-lines", action="store_true", help="leave lines that are no source out, and say how many and why")
    add("--local_rank", type=int, default=0, help=argparse.SUPPRESS)  # the deepspeed launcher adds it
    cli.look_first(arguments, dry_run="load weights and sources, check all settings, decode nothing")
    given = arguments.parse_args()
    if given.print_config:
        return cli.print_settings(given) if place().rank == 0 else None

    from megas2s.generate.command import run

    run(given, arguments.get_default)


if __name__ == "__main__":
    cli.run(main)

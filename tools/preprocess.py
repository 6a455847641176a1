"""Turn raw text into a corpus of shards.

python tools/preprocess.py --input launch/sample_corpus --tokenizer tokenizers/sample --output corpora/sample
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from megas2s import cli
from megas2s.data import flags

EPILOG = """inputs: .txt, .jsonl (also .gz and .zst), .parquet and .csv files, folders of them, and globs.
The language of a file is that of --lang, of --language-column, of a CODE= before its path, or of its own or its
folder's name: en.jsonl.gz, en-0017.txt, wiki.en.txt, en/part-3.parquet, lang=en/x.csv, ceb_Latn/a.txt.

  tools/preprocess.py --input text/ --tokenizer tokenizers/mine --output corpora/mine
  tools/preprocess.py --input fr=data/french/*.txt de=data/german --documents paragraphs ...
  tools/preprocess.py --dataset allenai/c4 --dataset-config en --lang en ...
  tools/preprocess.py --inputs sources.yaml ...     a YAML list; each entry has `paths` or `dataset`, and the
                                                    flags' names: text_column, language, source, documents, split ...

Near-duplicates, evaluation text and documents in another language are dropped and counted; near-duplicates take 512
bytes a document on the disk until the corpus is complete, and no memory for each. The extras that this needs:
pip install 'megas2s[near,identify,spoken]'

The same command goes on where an interrupted one stopped, and the corpus comes out the same, byte for byte. So it does
on many hosts that see the same files and share the work:

  mpirun -n 64 --hostfile hosts python tools/preprocess.py --input text/ --tokenizer tokenizers/mine --output ..."""


def arguments() -> argparse.ArgumentParser:
    parser = cli.parser(__doc__ or "", epilog=EPILOG)
    source = parser.add_argument_group("what to read")
    source.add_argument("--input", nargs="+", action="extend", metavar="PATH", help="files, folders or globs")
    flags.add_dataset_flags(source)
    source.add_argument("--inputs", type=Path, metavar="YAML", help="a list of sources, each read in its own way")
    source.add_argument("--held-out-input", nargs="+", action="extend", metavar="PATH", help="files kept from training")
    reading = parser.add_argument_group("how to read it")
    flags.add_reading_flags(reading)
    reading.add_argument("--source", default="text", help="name under which all this can be weighted in a recipe")
    making = parser.add_argument_group("what to make of it")
    making.add_argument(
        "--tokenizer",
        required=True,
        metavar="FOLDER_OR_NAME",
        help="from tools/train_tokenizer.py, or one of transformers: a folder, or its name on the hub",
    )
    making.add_argument("--output", type=Path, required=True, metavar="FOLDER", help="the corpus")
    making.add_argument("--keep-duplicates", action="store_true", help="keep documents whose text has come before")
    making.add_argument(
        "--held-out",
        type=float,
        metavar="SHARE",
        help="of each language's documents, kept from training (default: 0.005, or 0 with --held-out-input)",
    )
    making.add_argument(
        "--quota",
        nargs="+",
        action="extend",
        metavar="SOURCE[/LANG]=TOKENS",
        default=[],
        help="train on at most so many tokens of a source, a random sample of its documents; a text that two"
        " sources have counts as the first one's, also where its quota leaves it out",
    )
    making.add_argument("--allow-empty-languages", action="store_true", help="go on without languages of no document")
    making.add_argument("--workers", type=int, metavar="N", help="processes (default: all cores; 1 a rank of mpirun)")
    making.add_argument("--verify", action="store_true", help="read every shard again and check its SHA-256")
    flags.add_screening_flags(parser.add_argument_group("what to leave out, and in which form to keep the rest"))
    cli.look_first(parser, dry_run="list inputs, languages and bytes, and stop")
    return parser


def main() -> int:
    given = arguments().parse_args()
    if given.print_config:
        cli.print_settings(given)
        return 0

    import logging

    from megas2s.data.corpus import MARKER, verify_corpus
    from megas2s.data.documents import input_files
    from megas2s.data.preprocess import Choices, preprocess
    from megas2s.data.progress import Display
    from megas2s.data.team import find_team
    from megas2s.errors import BadConfig
    from megas2s.spec import parse

    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("megas2s").setLevel(logging.INFO)
    if given.workers is not None and given.workers < 1:
        raise BadConfig(f"--workers must be at least 1, found {given.workers}")
    if given.dry_run:
        show_inputs(input_files(sources(given)))
        return 0
    held_out = (0.0 if given.held_out_input else 0.005) if given.held_out is None else given.held_out
    chosen = {
        "deduplicate": not given.keep_duplicates,
        "held_out": held_out,
        "quotas": quotas(given.quota),
        "screening": flags.screening(given),
    }
    choices = parse(Choices, chosen, source="flags")
    complete = (given.output / MARKER).is_file()
    with find_team() as team, Display(shown=team.rank == 0) as display:
        if team.rank > 0:
            logging.getLogger("megas2s").setLevel(logging.WARNING)
        inputs = team.together(lambda: sources(given))
        tokenizer = team.together(lambda: corpus_tokenizer(given.tokenizer, speaks=team.rank == 0))
        corpus = preprocess(
            inputs,
            given.output,
            tokenizer=tokenizer,
            choices=choices,
            workers=given.workers,
            team=team,
            allow_empty_languages=given.allow_empty_languages,
            report=display.show,
        )
        if team.rank > 0:
            return 0
    print(f"{given.output} is already complete; nothing to do" if complete else f"{given.output} is complete")
    show_corpus(corpus)
    if given.verify:
        verify_corpus(corpus)
        print("every shard matches its SHA-256")
    return 0


def sources(given: argparse.Namespace) -> list:
    """The flags, and the YAML file where there is one, as Inputs."""
    from megas2s.data.inputs import Inputs
    from megas2s.errors import BadConfig
    from megas2s.spec import parse, read_yaml

    reading = {**flags.reading(given), "source": given.source}
    found = []
    if given.inputs is not None:
        try:
            text = given.inputs.read_text(encoding="utf-8")
        except (OSError, ValueError) as error:
            raise BadConfig(f"{given.inputs} cannot be read: {error}") from None
        listed = read_yaml(text, source=str(given.inputs))
        found += parse(list[Inputs], listed, source=str(given.inputs))
    if given.input:
        found.append(parse(Inputs, {**reading, "paths": given.input}, source="flags"))
    if given.dataset is not None:
        found.append(parse(Inputs, {**reading, **flags.dataset(given)}, source="flags"))
    if given.held_out_input:
        found.append(parse(Inputs, {**reading, "paths": given.held_out_input, "split": "heldout"}, source="flags"))
    if not found:
        raise BadConfig("no input: give --input, --dataset or --inputs")
    return found


def quotas(given: list[str]) -> dict[str, int]:
    """`SOURCE=TOKENS` and `SOURCE/LANG=TOKENS`, which may be written as 2e9."""
    from megas2s.errors import BadConfig

    found = {}
    for quota in given:
        name, _, tokens = quota.rpartition("=")
        try:
            found[name] = int(float(tokens))
        except (ValueError, OverflowError):
            raise BadConfig(f"--quota {quota}: expected SOURCE=TOKENS or SOURCE/LANG=TOKENS") from None
    return found


def corpus_tokenizer(name: str, *, speaks: bool = True):
    """The tokenizer of that name, or at that folder, as preprocessing wants it; converted on the way if need be."""
    from functools import partial

    from megas2s import hub
    from megas2s.data.preprocess import CorpusTokenizer
    from megas2s.data.tokenise import Ids
    from megas2s.tokenizer.folder import METADATA, read, write
    from megas2s.tokenizer.importing import import_tokenizer
    from megas2s.tokenizer.load import Tokenizer

    folder = hub.folder_of(name, hub.TOKENIZER)
    tokenizer = Tokenizer.load(folder)
    stored = read(folder) if (folder / METADATA).is_file() else import_tokenizer(folder)
    vocabulary = tokenizer.vocabulary
    if vocabulary.doc is None and speaks:
        print(
            f"{folder} has no [DOC]; its end-of-sequence token {vocabulary.separator} ends every document", flush=True
        )
    return CorpusTokenizer(
        fingerprint=tokenizer.fingerprint,
        ids=Ids(vocabulary.separator, vocabulary.dtype),
        load=partial(Tokenizer.load, folder),
        copy_to=partial(write, stored, record={}),
    )


def show_inputs(files: list) -> None:
    """What --dry-run prints: one line a file, then bytes by language."""
    by_language: dict[str, int] = {}
    for file in files:
        language = file.language or f"(column {file.inputs.language_column})"
        by_language[language] = by_language.get(language, 0) + file.bytes
        print(f"{file.inputs.split:8}{language:12}{file.bytes:>15,}  {file.name}")
    print(f"{len(files)} inputs, {sum(by_language.values()):,} bytes on disk")
    for language, size in sorted(by_language.items()):
        print(f"  {language:12}{size:>15,} bytes")


def show_corpus(corpus) -> None:
    """The table at the end: what each language has, and what was dropped for which reason."""
    from rich.console import Console
    from rich.table import Table

    table = Table("language", title=None, box=None, pad_edge=False)
    for name in ("documents", "tokens", "held out", "characters", "tokens/character"):
        table.add_column(name, justify="right")
    table.add_column("dropped")
    languages = corpus.record["languages"]
    for language, facts in languages.items():
        rate = facts["tokens"] / facts["characters"] if facts["characters"] else 0.0
        dropped = ", ".join(f"{count:,} {reason}" for reason, count in facts["dropped"].items())
        numbers = [facts[key] for key in ("documents", "tokens", "heldout_documents", "characters")]
        table.add_row(language, *(f"{number:,}" for number in numbers), f"{rate:.3f}", dropped)
    Console(width=None if sys.stdout.isatty() else 200).print(table)
    documents, tokens = (sum(facts[key] for facts in languages.values()) for key in ("documents", "tokens"))
    print(f"{documents:,} documents and {tokens:,} tokens to train on, tokenizer {corpus.fingerprint[:12]}")


if __name__ == "__main__":
    cli.run(main)

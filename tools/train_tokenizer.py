"""Train a SentencePiece tokenizer on a language-balanced sample of documents, or bring an existing model.

python tools/train_tokenizer.py --input launch/sample_corpus --output tokenizers/sample --vocab-size 4096
python tools/train_tokenizer.py --import-model downloads/t5/spiece.model --output tokenizers/t5
"""

from __future__ import annotations

import argparse
import hashlib
import json
import logging
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from megas2s import cli
from megas2s.data import flags

if TYPE_CHECKING:
    from megas2s.data.inputs import Inputs
    from megas2s.tokenizer.train import TokenizerSpec

KEYS = "character_coverage, sample_characters, languages, language_slots, sentinels"


def arguments() -> argparse.Namespace:
    parser = cli.parser(
        __doc__ or "",
        epilog=f"key=value sets what has no flag of its own: {KEYS}\n"
        "for example: languages=[en,fr,sw] sample_characters=10_000_000\n"
        "The same command again reuses a finished tokenizer.",
    )
    parser.add_argument("settings", nargs="*", metavar="key=value", help="settings without a flag, see below")
    source = parser.add_argument_group("input (txt, jsonl[.gz|.zst], parquet, csv)")
    add = source.add_argument
    add(
        "--input",
        nargs="+",
        action="extend",
        metavar="PATH",
        help="files, folders or globs; CODE=PATH states the language",
    )
    flags.add_dataset_flags(source)
    flags.add_reading_flags(source)
    add("--allow-empty-languages", action="store_true", help="go on without languages of no document")
    add(
        "--import-model",
        metavar="PATH_OR_NAME",
        help="instead of input: a SentencePiece model, a tokenizer.json, a transformers folder, or its name on the hub",
    )
    add = parser.add_argument_group("tokenizer").add_argument
    add("--output", required=True, metavar="FOLDER", help="where the tokenizer goes")
    add("--vocab-size", type=int, default=32_768, help="ids, special tokens included; a multiple of 128")
    add("--alpha", type=float, default=0.5, help="share of a language ~ characters^alpha: 1 as they come, 0 all equal")
    add("--normalization", choices=("nfc", "nfkc"), default="nfc", help="Unicode form")
    add("--threads", type=int, default=8, help="of training; part of the result, so never taken from the machine")
    add("--seed", type=int, default=17, help="of the sample")
    add("--overwrite", action="store_true", help="replace a tokenizer made with other settings")
    cli.look_first(parser, dry_run="check settings and input, name the files, train nothing")
    return parser.parse_args()


def tokenizer_spec(given: argparse.Namespace) -> TokenizerSpec:
    from megas2s.errors import BadConfig
    from megas2s.spec import parse, read_yaml
    from megas2s.tokenizer.train import TokenizerSpec

    settings: dict[str, object] = {
        "vocab_size": given.vocab_size,
        "alpha": given.alpha,
        "normalization": given.normalization,
        "num_threads": given.threads,
        "seed": given.seed,
    }
    for setting in given.settings:
        key, equals, value = setting.partition("=")
        if not equals:
            raise BadConfig(f"{setting!r} is no key=value setting; input is given with --input")
        settings[key] = read_yaml(value, source=f"{setting!r}: the value")
    spec: TokenizerSpec = parse(TokenizerSpec, settings, source="tokenizer")
    return spec


def wanted_inputs(given: argparse.Namespace) -> Inputs:
    from megas2s.data.inputs import Inputs
    from megas2s.spec import parse

    settings = {"paths": given.input or [], **flags.dataset(given), **flags.reading(given)}
    inputs: Inputs = parse(Inputs, settings, source="input")
    return inputs


def reusable(output: Path, record: dict[str, object], *, overwrite: bool) -> bool:
    """Whether `output` is the finished tokenizer that `record` describes; refuses one that is another."""
    from megas2s import files
    from megas2s.errors import BadConfig
    from megas2s.tokenizer.folder import read_record
    from megas2s.tokenizer.load import Tokenizer

    files.settle(output)
    if not files.is_published(output) or overwrite:
        return False
    found = read_record(output)
    differing = [key for key in record if found.get(key) != record[key]]
    if differing:
        raise BadConfig(
            f"{output} holds a tokenizer with other {' and '.join(differing)}; add --overwrite to replace it"
        )
    Tokenizer.load(output)
    return True


def bring(name: str, output: Path, given: argparse.Namespace) -> None:
    from megas2s import hub
    from megas2s.errors import BadData
    from megas2s.tokenizer.folder import write
    from megas2s.tokenizer.importing import import_tokenizer

    source = hub.folder_of(name, hub.TOKENIZER)
    if not source.exists():
        raise BadData(f"there is no {source} to import; give a tokenizer's file or folder, or its name on the hub")
    stored = import_tokenizer(source)
    record: dict[str, object] = {"settings": {"import": stored.fingerprint}}
    if given.print_config:
        print(json.dumps(record["settings"], indent=2))
        return
    if reusable(output, record, overwrite=given.overwrite):
        print(f"{output} holds this tokenizer already")
        return
    if given.dry_run:
        print(f"would write {stored.metadata.size} ids from {source} to {output}")
        return
    write(stored, output, record)
    print(f"{output}: {stored.metadata.size} ids, imported from {source}; fingerprint {stored.fingerprint[:16]}")


def main() -> None:
    given = arguments()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    output = Path(given.output)
    if given.import_model:
        return bring(given.import_model, output, given)

    from megas2s.data.documents import input_files, read_documents
    from megas2s.data.inputs import Inputs
    from megas2s.data.progress import Display
    from megas2s.spec import plain
    from megas2s.tokenizer.train import TokenizerSpec, train_tokenizer

    spec = tokenizer_spec(given)
    if given.print_config:
        print(json.dumps(plain(TokenizerSpec, spec), indent=2, ensure_ascii=False))
        return None
    inputs = wanted_inputs(given)
    found = input_files(inputs)
    listed = [(file.name, file.bytes) for file in found]
    named = set() if given.allow_empty_languages else {file.language for file in found if file.language is not None}
    record: dict[str, object] = {
        "settings": {**plain(TokenizerSpec, spec), "input": plain(Inputs, inputs)},
        "input files": {"number": len(listed), "sha256": hashlib.sha256(json.dumps(listed).encode()).hexdigest()},
    }
    if reusable(output, record, overwrite=given.overwrite):
        print(f"{output} is finished and made with these settings; nothing to do")
        return None
    print(f"{len(listed)} input files, {sum(size for _, size in listed) / 1e6:.1f} MB", flush=True)
    if given.dry_run:
        print("\n".join(name for name, _ in listed))
        return None

    dropped: Counter[tuple[str, str]] = Counter()

    def documents() -> Iterator[tuple[str, str]]:
        with Display() as display:
            for document in read_documents(inputs, dropped=dropped, report=display.show):
                yield document.language, document.text

    tokenizer = train_tokenizer(documents(), spec, output, expected=named, record=record)
    for (language, reason), count in sorted(dropped.items()):
        print(f"{language}: {count:,} {reason} dropped")
    vocabulary = tokenizer.vocabulary
    print(
        f"{output}: {vocabulary.size} ids, {len(vocabulary.ordinary)} of them pieces of text, "
        f"{len(vocabulary.languages)} languages; fingerprint {tokenizer.fingerprint[:16]}"
    )
    return None


if __name__ == "__main__":
    cli.run(main)

"""Import a Hugging Face folder as canonical weights that a stage can start from.

BART, MBart, T5, mT5, RoBERTa, XLM-R, RoBERTa with pre-norm, BERT (MiniLM is one), ELECTRA and UniLM are known.

python tools/convert_from_hf.py exports/encoder weights/encoder
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from megas2s import cli

if TYPE_CHECKING:
    from megas2s.models.config import ModelConfig
    from megas2s.tokenizer.folder import Stored


def arguments() -> argparse.Namespace:
    parser = cli.parser(
        __doc__ or "",
        epilog="A stage starts from the result with `init: OUT` in a recipe; its tokenizer goes to OUT/tokenizer.\n"
        "A name that is no folder here is looked up on the Hugging Face hub, where there is a network.",
    )
    add = parser.add_argument
    add("folder", metavar="FOLDER_OR_NAME", help="Hugging Face folder with config.json and safetensors, or its name")
    add("out", help="folder of weights to write")
    add("--allow-pickle", action="store_true", help="read pickled weights where there are no safetensors")
    add("--no-tokenizer", action="store_true", help="leave the tokenizer behind")
    add("--overwrite", action="store_true", help="replace weights that were imported before")
    cli.look_first(parser, dry_run="find and check everything, say what would be written, write nothing")
    return parser.parse_args()


def main() -> None:
    given = arguments()
    if given.print_config:
        cli.print_settings(given)
        return

    import logging

    from megas2s import files, hub
    from megas2s.convert import hf, source
    from megas2s.convert.export import require_replaceable
    from megas2s.convert.importing import incoming
    from megas2s.errors import BadConfig
    from megas2s.models.weights import save_weights
    from megas2s.tokenizer import folder as tokenizer_folder

    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    logging.getLogger("megas2s").setLevel(logging.INFO)
    kind = "imported weights"
    out = Path(given.out)
    folder = hub.folder_of(given.folder, [*hub.WEIGHTS, *hub.TOKENIZER, *(hub.PICKLED if given.allow_pickle else ())])
    settings = hf.read_settings(folder)
    found = incoming(folder, settings, allow_pickle=given.allow_pickle)
    if require_replaceable(out, kind=kind) and not given.overwrite:
        raise BadConfig(f"{out} exists; add --overwrite to replace it, or name another folder")
    metadata, notes = dict(found.metadata), found.notes
    tokenizer = None if given.no_tokenizer else source.read_tokenizer(folder)
    if tokenizer is not None:
        found = source.padded(found, tokenizer)
        tokenizer, changed = source.fitting(tokenizer, folder, found.config)
        notes = [*found.notes, *changed]
        source.check_special_tokens(tokenizer, folder, settings)
        metadata["tokenizer"] = tokenizer.fingerprint
    if given.dry_run:
        print("would write ", end="")
        describe(out, found.config, tokenizer)
        return
    temporary = files.empty_temporary(out)
    save_weights(temporary, found.tensors(), config=found.config, metadata=metadata)
    if tokenizer is not None:
        tokenizer_folder.write(tokenizer, temporary / source.TOKENIZER, {"settings": {"import": folder.name}})
    files.publish(temporary, out, {"kind": kind, "from": folder.name})
    for note in notes:
        print(f"note: {note}")
    describe(out, found.config, tokenizer)


def describe(out: Path, config: ModelConfig, tokenizer: Stored | None) -> None:
    """One line on what lies, or would lie, at `out`."""
    decoder = f", {config.num_decoder_layers} decoder layers, {config.tying}" if config.is_seq2seq else ""
    print(f"{out}: {config.num_encoder_layers} encoder layers{decoder}, width {config.hidden_size}", end="")
    print(f", tokenizer {tokenizer.fingerprint[:16]}" if tokenizer is not None else ", no tokenizer")


if __name__ == "__main__":
    cli.run(main)

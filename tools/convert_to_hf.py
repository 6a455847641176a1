"""Export weights as a Hugging Face folder, reload it with transformers and compare it with our model.

python tools/convert_to_hf.py runs/sample/mlm exports/encoder
python tools/convert_to_hf.py runs/sample exports/seq2seq --dtype bfloat16
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING

from megas2s import cli

if TYPE_CHECKING:
    from megas2s.convert.hf import Difference
    from megas2s.convert.names import Shape
    from megas2s.models.config import ModelConfig

UNITS = {"": 1, "KB": 10**3, "MB": 10**6, "GB": 10**9}


def arguments() -> argparse.Namespace:
    parser = cli.parser(
        __doc__ or "",
        epilog="A model becomes the class of transformers that it is: an encoder of our own shape a\n"
        "RobertaPreLayerNormForMaskedLM, an encoder-decoder an MBartForConditionalGeneration, an import what it was.\n"
        "UniLM 2 is no class of transformers and stays as it is.\n"
        "--part encoder takes the encoder out of an encoder-decoder, without a head for masked language modelling.\n"
        "Of a run, the last complete stage is exported; name a stage or a checkpoint to export another.\n"
        "The same command again does nothing where the export is there already.",
    )
    add = parser.add_argument
    add("weights", help="a run, a stage, a checkpoint (of any engine) or a folder of weights")
    add("out", help="folder to write")
    add("--part", choices=("encoder", "seq2seq"), help="what to export; all of the model where not given")
    add("--dtype", choices=("float32", "bfloat16", "float16"), default="float32", help="of the stored tensors")
    add("--shard-size", default="5GB", metavar="SIZE", help="largest file of tensors, in bytes, KB, MB or GB")
    add("--tokenizer", metavar="FOLDER", help="tokenizer of the weights; otherwise the run's, or its corpus'")
    add("--keep-heads", action="store_true", help="keep the heads of an objective or a task in a file beside")
    add("--overwrite", action="store_true", help="replace an export of other weights or settings")
    add("--no-check", action="store_true", help="do not reload and compare, for models beyond this machine's memory")
    cli.look_first(parser, dry_run="find and check everything, say what would be written, write nothing")
    return parser.parse_args()


def shard_bytes(text: str) -> int:
    """Bytes of a size such as 500MB."""
    from megas2s.errors import BadConfig

    found = re.fullmatch(r"(\d+)\s*([KMG]B)?", text.strip(), re.IGNORECASE)
    if not found or not int(found[1]):
        raise BadConfig(f"--shard-size {text!r} is no size; write it like 500MB or 5GB")
    return int(found[1]) * UNITS[(found[2] or "").upper()]


def main() -> None:
    given = arguments()
    if given.print_config:
        cli.print_settings(given)
        return
    limit = shard_bytes(given.shard_size)

    import torch

    from megas2s import files
    from megas2s.convert import export, hf, source, tensors
    from megas2s.convert.card import Facts, card
    from megas2s.errors import BadConfig

    out, dtype = Path(given.out), getattr(torch, given.dtype)
    found = source.find(Path(given.weights))
    reader = found.open()
    tokenizer = source.find_tokenizer(found, reader, Path(given.tokenizer) if given.tokenizer else None)
    exported = export.shape_of(reader, tokenizer, given.part)
    hashes = source.hashes(found, reader, tokenizer)
    record = {"architecture": exported.architecture, "dtype": given.dtype, "shard_bytes": limit, "from": hashes}
    record["heads"] = given.keep_heads
    step = f" at step {found.step}" if found.step is not None else ""
    print(f"{found.folder}{step}: {exported.architecture}, {given.dtype}", flush=True)
    look_for_heads(reader.config, exported, keep=given.keep_heads)
    facts = Facts(
        name=out.resolve().name,
        part=exported.family.part,
        head=exported.head,
        taken_out=reader.config.is_seq2seq and not exported.config.is_seq2seq,
        architecture=exported.architecture,
        options=hf.without_pooler(exported),
        config=exported.config,
        dtype=given.dtype,
        metadata=reader.metadata,
        hashes=hashes,
        source=found,
    )
    if facts.task == "feature-extraction":
        print(facts.headless)
    there = export.require_replaceable(out)
    if there and all(there.get(key) == value for key, value in record.items()):
        print(f"{out} holds this export already; nothing to do")
        return
    if there and not given.overwrite:
        raise BadConfig(f"{out} holds another export; add --overwrite to replace it, or name another folder")
    if given.dry_run:
        plan = tensors.shards(exported.entries, dtype, shard_bytes=limit)
        print(f"would write {len(exported.entries)} tensors in {len(plan)} files to {out}")
        return
    difference = export.export(
        reader,
        tokenizer,
        out,
        part=given.part,
        dtype=dtype,
        shard_bytes=limit,
        card=card(facts),
        record=record,
        keep_heads=given.keep_heads,
        check=not given.no_check,
    )
    for path in files.files_below(out):
        print(f"  {path.stat().st_size:>14,} {path.relative_to(out)}")
    tell(difference, exported)


def look_for_heads(config: ModelConfig, exported: Shape, *, keep: bool) -> None:
    """Refuse to keep heads where there are none, and say where some are left behind."""
    from megas2s.convert import heads
    from megas2s.errors import BadConfig

    kept = heads.names(config) if exported.config.is_seq2seq == config.is_seq2seq else []
    if keep and not kept:
        raise BadConfig(f"{exported.architecture} comes without heads of an objective here; leave --keep-heads out")
    if kept and not keep:
        print("the heads of an objective or a task are left behind; --keep-heads keeps them in a file beside")


def tell(difference: Difference | None, exported: Shape) -> None:
    """How far the reloaded model was from ours."""
    from megas2s.convert import hf

    if difference is None:
        print("not reloaded (--no-check): names and shapes agree with transformers, values were not compared")
        return
    what = "logits" if exported.head else "states"
    loss = f", losses by {difference.loss:.1e}" if difference.loss is not None else ""
    print(
        f"reloaded with transformers: {what} differ from ours by at most {difference.values:.1e}{loss} "
        f"(allowed {hf.TOLERANCE:.0e}, float32)"
    )


if __name__ == "__main__":
    cli.run(main)

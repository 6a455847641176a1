"""The tokenizer folder: what lies in it, what it says of itself, and its fingerprint.

    spiece.model              the SentencePiece model; the position of a piece is its id
    megas2s_tokenizer.json    `Metadata` and the fingerprint
    tokenizer.json, tokenizer_config.json, special_tokens_map.json    the same tokenizer for transformers

A tokenizer that is no SentencePiece model (kind: fast) has no spiece.model, and tokenizer.json is its model.

The fingerprint is the SHA-256 of the model's bytes and the metadata: equal fingerprints give equal ids for equal text.
The other files for transformers are no part of it, they may differ between versions of that library.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

from megas2s import files
from megas2s.errors import BadCheckpoint, BadConfig, BadData
from megas2s.spec import parse, plain, spec
from megas2s.tokenizer.text import Normalization

BOS, PAD, EOS, UNK, MASK, DOC, CLM = "<s>", "<pad>", "</s>", "<unk>", "<mask>", "[DOC]", "[CLM]"  # of our own
MODEL = "spiece.model"
METADATA = "megas2s_tokenizer.json"
FAST = "tokenizer.json"
CONFIG = "tokenizer_config.json"
SPECIAL = "special_tokens_map.json"


@spec
class Metadata:
    """What a tokenizer's model does not say of itself. Ids that the tokenizer lacks are None or empty."""

    format_version: Literal[1] = 1
    kind: Literal["sentencepiece", "fast"] = "sentencepiece"
    normalization: Normalization
    opens_lines: bool  # whether a line is encoded with a space before it (`text.open_lines`); false for imported models
    size: int
    pad: int
    eos: int
    unk: int
    bos: int | None
    mask: int | None
    doc: int | None
    clm: int | None
    languages: dict[str, int]
    sentinels: list[int]
    training: dict[str, object]  # the TokenizerSpec it was trained with, thread count included; empty when imported
    begin: int | None = None  # what opens each row before its text

    @property
    def model_file(self) -> str:
        """The file that holds the model."""
        return MODEL if self.kind == "sentencepiece" else FAST


class Stored(NamedTuple):
    """A tokenizer as bytes, before it is written or after it is read."""

    model: bytes
    metadata: Metadata
    companions: Mapping[str, str]  # file name -> content of the files for transformers

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the model and the metadata, in hexadecimal."""
        facts = plain(Metadata, self.metadata)
        if self.metadata.begin is None:
            del facts["begin"]
        described = json.dumps(facts, sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(self.model + b"\0" + described.encode()).hexdigest()


def write(stored: Stored, folder: Path, record: Mapping[str, object]) -> None:
    """Put a tokenizer at `folder` in one step, the metadata last of its files; `record` is kept in its manifest."""
    if folder.exists() and not (folder / METADATA).is_file() and (folder.is_file() or any(folder.iterdir())):
        raise BadConfig(f"{folder} exists and is no tokenizer; name a new or empty folder")
    temporary = files.empty_temporary(folder)
    files.write_bytes(temporary / stored.metadata.model_file, stored.model)
    for name, content in stored.companions.items():
        files.write_text(temporary / name, content)
    described = {"fingerprint": stored.fingerprint, **plain(Metadata, stored.metadata)}
    files.write_json(temporary / METADATA, described)
    files.publish(temporary, folder, {**record, "fingerprint": stored.fingerprint})


def read_record(folder: Path) -> dict[str, Any]:
    """What `write` kept of how a tokenizer was made; raises BadData where that is damaged."""
    try:
        return files.read_manifest(folder)
    except BadCheckpoint as error:
        raise BadData(str(error)) from None


def read(folder: Path) -> Stored:
    """The tokenizer at `folder`, its fingerprint checked; raises BadData."""
    for name in (METADATA, FAST, CONFIG):
        _require(folder, name)
    try:
        described = files.read_json(folder / METADATA)
        expected = described.pop("fingerprint")
        metadata: Metadata = parse(Metadata, described, source=METADATA)
    except (ValueError, KeyError, TypeError, AttributeError, BadConfig) as error:
        reason = str(error).splitlines()[0]
        raise BadData(f"{folder / METADATA} cannot be read ({reason}); restore it from a copy") from None
    _require(folder, metadata.model_file)
    names = [name for name in (FAST, CONFIG, SPECIAL) if name != metadata.model_file and (folder / name).is_file()]
    companions = {name: (folder / name).read_text(encoding="utf-8") for name in names}
    stored = Stored((folder / metadata.model_file).read_bytes(), metadata, companions)
    if stored.fingerprint != expected:
        raise BadData(
            f"the tokenizer {folder} has been altered: its fingerprint is {stored.fingerprint[:12]}..., "
            f"its {METADATA} says {str(expected)[:12]}...; restore it from a copy"
        )
    return stored


def _require(folder: Path, name: str) -> None:
    if not (folder / name).is_file():
        raise BadData(f"the tokenizer {folder} has no {name}; restore it or train it again with --overwrite")

"""A tokenizer without the special tokens that its model's embedding table has no row for.

bart-large-cnn has a table of 50 264 rows and a tokenizer of 50 265 ids: its `<mask>`, the last, was taken out of the
model and not out of the tokenizer. Such tokens can never be read, so they go; a token that is text, or that rows need,
is no such token, and then the two do not belong together.
"""

from __future__ import annotations

import dataclasses
import json
from typing import Any, NamedTuple

from sentencepiece.sentencepiece_model_pb2 import ModelProto
from tokenizers import Tokenizer

from megas2s.tokenizer.folder import CONFIG, FAST, SPECIAL, Metadata, Stored


class Trimmed(NamedTuple):
    """A tokenizer whose ids fit a table, and the names of the tokens that it lost."""

    tokenizer: Stored
    lost: list[str]


def trimmed(stored: Stored, rows: int) -> Trimmed | None:
    """The tokenizer with its ids below `rows`; None where more than special tokens without a needed part would go."""
    metadata = stored.metadata
    needed = [metadata.pad, metadata.eos, metadata.unk, metadata.bos, metadata.begin, metadata.doc, metadata.clm]
    if any(number >= rows for number in [*needed, *metadata.sentinels] if number is not None):
        return None
    fast = json.loads(stored.model if metadata.kind == "fast" else stored.companions[FAST])
    special = {added["content"] for added in fast["added_tokens"] if added["special"]}
    ids = Tokenizer.from_str(json.dumps(fast)).get_vocab(with_added_tokens=True)
    lost = sorted((name for name, number in ids.items() if number >= rows), key=ids.__getitem__)
    if not special.issuperset(lost):
        return None
    kept = json.dumps(_without(fast, rows, set(lost)), ensure_ascii=False)
    if max(Tokenizer.from_str(kept).encode("a").ids) >= rows:  # rows are framed by a token that would go
        return None
    companions = {name: _unnamed(name, content, rows, set(lost)) for name, content in stored.companions.items()}
    size = max(number for number in ids.values() if number < rows) + 1
    if metadata.kind == "fast":
        return Trimmed(Stored(kept.encode(), _described(metadata, size), companions), lost)
    proto = ModelProto.FromString(stored.model)
    del proto.pieces[size:]
    proto.trainer_spec.vocab_size = size
    model = proto.SerializeToString(deterministic=True)
    return Trimmed(Stored(model, _described(metadata, size), {**companions, FAST: kept}), lost)


def _without(fast: dict[str, Any], rows: int, lost: set[str]) -> dict[str, Any]:
    """A tokenizer.json without these tokens."""
    model = fast["model"]
    listed = model["vocab"]
    vocabulary = (
        listed[:rows] if isinstance(listed, list) else {name: n for name, n in listed.items() if name not in lost}
    )
    added = [token for token in fast["added_tokens"] if token["content"] not in lost]
    return {**fast, "model": {**model, "vocab": vocabulary}, "added_tokens": added}


def _unnamed(name: str, content: str, rows: int, lost: set[str]) -> str:
    """A companion that names none of these tokens, and no class of transformers that would add them again."""
    if name not in (CONFIG, SPECIAL):
        return content
    said: dict[str, Any] = {}
    for key, value in json.loads(content).items():
        if key == "added_tokens_decoder":
            said[key] = {number: token for number, token in value.items() if int(number) < rows}
        elif isinstance(value, list):
            said[key] = [token for token in value if _content(token) not in lost]
        elif _content(value) not in lost:
            said[key] = value
    if name == CONFIG:
        said["tokenizer_class"] = "PreTrainedTokenizerFast"
    return json.dumps(said, indent=2, ensure_ascii=False) + "\n"


def _content(token: object) -> str:
    content = token.get("content") if isinstance(token, dict) else token
    return content if isinstance(content, str) else ""


def _described(metadata: Metadata, size: int) -> Metadata:
    mask = metadata.mask if metadata.mask is not None and metadata.mask < size else None
    languages = {name: number for name, number in metadata.languages.items() if number < size}
    return dataclasses.replace(metadata, size=size, mask=mask, languages=languages)

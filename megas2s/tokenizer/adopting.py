"""A `tokenizer.json` that is no SentencePiece model's twin, taken as it is: byte-level BPE, WordPiece, Unigram.

Which token plays which part is read from `tokenizer_config.json` and `special_tokens_map.json`. BERT's `[CLS]` and
`[SEP]` open and close a row, so they are its first and its last token here.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from megas2s.errors import BadData
from megas2s.tokenizer.folder import CLM, CONFIG, DOC, SPECIAL, Metadata, Stored

LANGUAGE = re.compile(r"[a-z]{2,3}_(?:[A-Z]{2}|[A-Z][a-z]{3})")  # en_XX of MBart, eng_Latn of NLLB
SENTINEL = re.compile(r"<(?:extra_id|sentinel)_(\d+)>")
KINDS = ("BPE", "WordPiece", "Unigram")
NEEDED = {  # their names, of which the first that is there counts, and what the token is for
    "pad": (("pad_token",), "fills rows up"),
    "eos": (("eos_token", "sep_token"), "ends every row"),
    "unk": (("unk_token",), "stands for what it does not know"),
}


def adopt(file: Path, config: dict[str, Any]) -> Stored:
    """The tokenizer in a `tokenizer.json`; raises BadData where it lacks a token that every model here needs."""
    content = file.read_bytes()
    try:
        tokenizer = Tokenizer.from_str(content.decode("utf-8"))
        described = json.loads(content)
    except Exception as error:  # the library raises nothing narrower
        reason = " ".join(str(error).split())
        raise BadData(f"{file} is no tokenizer that the tokenizers library reads ({reason}); restore it") from None
    kind = type(tokenizer.model).__name__  # files of 2020 do not say it
    if kind not in KINDS:
        raise BadData(f"{file} is of type {kind}; tokenizers here are {', '.join(KINDS)}, bring another")
    ids = tokenizer.get_vocab(with_added_tokens=True)
    said = read_json(file.parent / SPECIAL) | config
    needed = {name: first_named([said.get(key) for key in keys], ids) for name, (keys, _) in NEEDED.items()}
    pad, eos, unk = (_required(needed[name], name, file.parent) for name in NEEDED)
    special = {added["content"] for added in described.get("added_tokens", []) if added.get("special")}
    metadata = Metadata(
        kind="fast",
        normalization="model",
        opens_lines=False,
        size=max(ids.values()) + 1,
        doc=ids[DOC] if DOC in special else None,
        clm=ids[CLM] if CLM in special else None,
        languages={name: ids[name] for name in sorted(special) if LANGUAGE.fullmatch(name)},
        sentinels=sentinels(special, ids),
        training={},
        pad=pad,
        eos=eos,
        unk=unk,
        bos=first_named([said.get("bos_token"), said.get("cls_token")], ids),
        mask=named(said.get("mask_token"), ids),
        begin=opening(content.decode("utf-8")),
    )
    names = [name for name in (CONFIG, SPECIAL) if (file.parent / name).is_file()]
    companions = {name: (file.parent / name).read_text(encoding="utf-8") for name in names}
    companions.setdefault(CONFIG, json.dumps({"tokenizer_class": "PreTrainedTokenizerFast"}) + "\n")
    return Stored(content, metadata, companions)


def _required(number: int | None, role: str, folder: Path) -> int:
    if number is None:
        keys, what_for = NEEDED[role]
        raise BadData(
            f"{folder} names no {' or '.join(keys)}, the token that {what_for}; name one of its vocabulary in {CONFIG}"
        )
    return number


def opening(fast: str) -> int | None:
    """The id that a `tokenizer.json` puts before the text of a row, None where it puts none or several."""
    tokenizer = Tokenizer.from_str(fast)
    around, alone = (tokenizer.encode("a", add_special_tokens=specials).ids for specials in (True, False))
    for start in range(len(around) - len(alone) + 1):
        if around[start : start + len(alone)] == alone:
            return around[0] if start == 1 else None
    return None


def read_json(file: Path) -> dict[str, Any]:
    """The object in a JSON file, empty where there is no file."""
    if not file.is_file():
        return {}
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BadData(f"{file} is no valid JSON ({error}); restore it from a copy") from None
    return value if isinstance(value, dict) else {}


def first_named(tokens: Iterable[object], ids: dict[str, int]) -> int | None:
    """The id of the first of several names that a vocabulary has."""
    return next((number for number in (named(token, ids) for token in tokens) if number is not None), None)


def named(token: object, ids: dict[str, int]) -> int | None:
    """The id of a token that a configuration names, as a string or as a dictionary with its content."""
    if isinstance(token, dict):
        token = token.get("content")
    return ids.get(token) if isinstance(token, str) else None


def sentinels(special: Iterable[str], ids: dict[str, int]) -> list[int]:
    """The ids of a vocabulary's sentinels, the first one first."""
    found = sorted((int(match[1]), ids[name]) for name in special if (match := SENTINEL.fullmatch(name)))
    return [number for _, number in found]

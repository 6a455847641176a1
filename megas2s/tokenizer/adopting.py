"""A `tokenizer.json` that is no SentencePiece model's twin, taken as it is: byte-level BPE, WordPiece, Unigram.

Which token plays which part is read from `tokenizer_config.json` and `special_tokens_map.json`. Published tokenizers
of BERT, RoBERTa, BART and ELECTRA leave that to the code that reads them; a part that is not named goes to the special
token of its usual name. BERT's `[CLS]` and `[SEP]` open and close a row, so they are its first and its last token here.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from tokenizers import Tokenizer

from megas2s.errors import BadData
from megas2s.tokenizer.folder import CLM, CONFIG, DOC, FAST, SPECIAL, Metadata, Stored

log = logging.getLogger(__name__)

LANGUAGE = re.compile(r"[a-z]{2,3}_(?:[A-Z]{2}|[A-Z][a-z]{3})")  # en_XX of MBart, eng_Latn of NLLB
SENTINEL = re.compile(r"▁?<(?:extra_id|sentinel)_(\d+)>")  # of mT5 with the mark of a word before it
KINDS = ("BPE", "WordPiece", "Unigram")


class Role(NamedTuple):
    """A part that a token plays."""

    keys: tuple[str, ...]  # its names in tokenizer_config.json, of which the first that has a token counts
    usual: dict[str, str]  # what published tokenizers call such a token, and the key that they would name it by
    what_for: str | None = None  # for parts that every tokenizer here has


ROLES = {
    "pad": Role(("pad_token",), {"<pad>": "pad_token", "[PAD]": "pad_token"}, "fills rows up"),
    "eos": Role(("eos_token", "sep_token"), {"</s>": "eos_token", "[SEP]": "sep_token"}, "ends every row"),
    "unk": Role(("unk_token",), {"<unk>": "unk_token", "[UNK]": "unk_token"}, "stands for what it does not know"),
    "bos": Role(("bos_token", "cls_token"), {"<s>": "bos_token", "[CLS]": "cls_token"}),
    "mask": Role(("mask_token",), {"<mask>": "mask_token", "[MASK]": "mask_token"}),
}


def adopt(folder: Path, content: bytes, config: dict[str, Any]) -> Stored:
    """The tokenizer of a folder whose `tokenizer.json` has this content, its `tokenizer_config.json` being `config`.

    Raises BadData where it lacks a token that every model here needs.
    """
    file = folder / FAST
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
    said = read_json(folder / SPECIAL) | config
    special = {added["content"] for added in described.get("added_tokens", []) if added.get("special")}
    usual = usual_names(said, special, folder)
    said |= usual
    roles = {name: first_named([said.get(key) for key in role.keys], ids) for name, role in ROLES.items()}
    pad, eos, unk = (_required(roles[name], name, said, folder) for name in ("pad", "eos", "unk"))
    metadata = Metadata(
        kind="fast",
        normalization="model",
        opens_lines=False,
        size=max(ids.values()) + 1,
        doc=ids[DOC] if DOC in special else None,
        clm=ids[CLM] if CLM in special else None,
        languages={name: ids[name] for name in sorted(special) if LANGUAGE.fullmatch(name)},
        sentinels=sentinels(ids if kind == "Unigram" else special, ids),
        training={},
        pad=pad,
        eos=eos,
        unk=unk,
        bos=roles["bos"],
        mask=roles["mask"],
        begin=opening(content.decode("utf-8")),
    )
    names = [name for name in (CONFIG, SPECIAL) if (folder / name).is_file()]
    companions = {name: (folder / name).read_text(encoding="utf-8") for name in names}
    if usual or CONFIG not in companions:
        named_here = {"tokenizer_class": "PreTrainedTokenizerFast", **config, **usual}
        companions[CONFIG] = json.dumps(named_here, indent=2, ensure_ascii=False) + "\n"
    return Stored(content, metadata, companions)


def usual_names(said: Mapping[str, object], special: Collection[str], folder: Path) -> dict[str, str]:
    """Key -> special token of the usual name, for each part that the configuration in `folder` says nothing of."""
    found: dict[str, str] = {}
    for role in ROLES.values():
        if not any(key in said for key in role.keys):
            found |= next(({key: token} for token, key in role.usual.items() if token in special), {})
    if found:
        listed = ", ".join(f"{key} {token}" for key, token in found.items())
        log.info("%s does not name these, they are taken by their usual names: %s", folder, listed)
    return found


def _required(number: int | None, name: str, said: Mapping[str, object], folder: Path) -> int:
    if number is not None:
        return number
    role = ROLES[name]
    if wrong := [f"{key} {said[key]!r}" for key in role.keys if said.get(key) is not None]:
        found = f"its vocabulary lacks {' and '.join(wrong)}"
    elif any(key in said for key in role.keys):
        found = "they say null"
    else:
        found = f"no special token is called {' or '.join(role.usual)}"
    raise BadData(
        f"{folder} names no {' or '.join(role.keys)} that is there, the token that {role.what_for} ({found}); name one "
        f"of its vocabulary in {CONFIG}"
    )


def opening(fast: str) -> int | None:
    """The id that a `tokenizer.json` puts before the text of a row, None where it puts none or several.

    A language's tag, which MBart-50 puts there, differs from row to row and is none of a tokenizer's own.
    """
    tokenizer = Tokenizer.from_str(fast)
    tokenizer.no_padding()
    tokenizer.no_truncation()
    around, alone = (tokenizer.encode("a", add_special_tokens=specials).ids for specials in (True, False))
    places = range(len(around) - len(alone) + 1)
    if next((place for place in places if around[place : place + len(alone)] == alone), 0) != 1:
        return None
    begin = tokenizer.id_to_token(around[0])
    if begin is not None and LANGUAGE.fullmatch(begin):
        log.info("%s, a language's tag, opens rows in transformers; rows here open without one", begin)
        return None
    return around[0]


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
    """The ids of a vocabulary's sentinels, the first one first; of two names of one, that without a mark counts."""
    found = {int(match[1]): ids[name] for name in sorted(special, reverse=True) if (match := SENTINEL.fullmatch(name))}
    return [number for _, number in sorted(found.items())]

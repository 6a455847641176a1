"""Language codes: what counts as one, and how the name of a file or folder says which language is in it.

    en.jsonl.gz   en-00017.txt   wiki.en.txt   en/part-3.parquet   lang=en/x.csv   zh_Hans/a.txt   ceb_Latn.txt

A name counts as a language only if it is a two-letter ISO 639-1 code, or a longer code with its script: a folder
called `new` or `web` holds neither Newari nor a language. For the others there are --lang, a language column and
`ceb=path`.
"""

from __future__ import annotations

import re
from pathlib import PurePath

from megas2s.errors import BadData

_TWO_LETTERS = (
    "aa ab ae af ak am an ar as av ay az ba be bg bh bi bm bn bo br bs ca ce ch co cr cs cu cv cy da de dv dz ee el en "
    "eo es et eu fa ff fi fj fo fr fy ga gd gl gn gu gv ha he hi ho hr ht hu hy hz ia id ie ig ii ik io is it iu ja jv "
    "ka kg ki kj kk kl km kn ko kr ks ku kv kw ky la lb lg li ln lo lt lu lv mg mh mi mk ml mn mr ms mt my na nb nd ne "
    "ng nl nn no nr nv ny oc oj om or os pa pi pl ps pt qu rm rn ro ru rw sa sc sd se sg sh si sk sl sm sn so sq sr ss "
    "st su sv sw ta te tg th ti tk tl tn to tr ts tt tw ty ug uk ur uz ve vi vo wa wo xh yi yo za zh zu"
)
ISO_639_1 = frozenset(_TWO_LETTERS.split())

_CODE = re.compile(r"[A-Za-z]{2,3}(?:[-_][A-Za-z0-9]{1,8}){0,3}")
_NAMED = r"(?:[a-z]{2}(?:[-_](?:[A-Z][a-z]{3}|[A-Z]{2}|[0-9]{3}))?|[a-z]{3}[-_][A-Z][a-z]{3})"
_HEAD = re.compile(rf"({_NAMED})(?:[._-](?:part|shard|train|valid|test|dev|heldout|of|[0-9]+))*")
_TAIL = re.compile(rf".+\.({_NAMED})")
_PARTITION = re.compile(r"(?:lang|language|locale)=(.+)")


def language_code(value: str, *, where: str) -> str:
    """`value` as a language code, its first part in lower case; raises BadData naming `where` it was found."""
    if not _CODE.fullmatch(value):
        raise BadData(f"{where}: unknown language {value!r}; expected a code such as en, ceb or zh_Hans")
    head = re.split("[-_]", value, maxsplit=1)[0]
    return head.lower() + value[len(head) :]


def language_of_name(name: str) -> str | None:
    """The language that a file's name (without its suffixes for format and compression) or a folder's name states."""
    if partition := _PARTITION.fullmatch(name):
        return partition[1] if _CODE.fullmatch(partition[1]) else None
    found = _HEAD.fullmatch(name) or _TAIL.fullmatch(name)
    return found[1] if found and (len(re.split("[-_]", found[1])[0]) == 3 or found[1][:2] in ISO_639_1) else None


def language_of_path(stem: str, folder: PurePath) -> str | None:
    """The language of a file from its own name or, failing that, from the nearest folder that states one."""
    names = [stem, *reversed([part for part in folder.parts if part not in ("..", folder.anchor)])]
    return next((code for name in names if (code := language_of_name(name))), None)

"""BERT's `vocab.txt` as a `tokenizer.json`: UniLM, MiniLM and the first BERTs are published with nothing else.

A token's id is its line; of a token that stands there twice, as in some of UniLM's, the last line counts. Whether texts
are made lower-case is said in `tokenizer_config.json`, if anywhere; else a vocabulary without capitals says so itself.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from megas2s.errors import BadData

log = logging.getLogger(__name__)

FILE = "vocab.txt"
KINDS = ("Bert", "Electra", "DistilBert", "MobileBert", "Unilm", "Minilm")  # whose vocab.txt this is
MODEL_TYPES = (None, "", "bert", "electra", "distilbert", "mobilebert", "unilm")  # where no kind is named
UNKNOWN, FIRST, LAST = "[UNK]", "[CLS]", "[SEP]"
SPECIAL = ("[PAD]", UNKNOWN, FIRST, LAST, "[MASK]")
BRACKETED = re.compile(r"\[.+\]")
CAPITAL = re.compile(r"[A-Z]")


def is_read(kind: str, settings: Mapping[str, Any]) -> bool:
    """Whether the vocab.txt of a kind of tokenizer, or else beside a model's config.json, is one of words' pieces."""
    return kind in KINDS or (not kind and settings.get("model_type") in MODEL_TYPES)


def tokenizer_json(file: Path, config: Mapping[str, Any]) -> bytes:
    """The content of the tokenizer.json for a vocab.txt and the tokenizer_config.json beside it."""
    lines = file.read_text(encoding="utf-8").removesuffix("\n").split("\n")  # other ends of lines may be tokens
    ids = {token: number for number, token in enumerate(lines)}
    if missing := [token for token in (UNKNOWN, FIRST, LAST) if token not in ids]:
        raise BadData(f"{file} has no {', '.join(missing)}, and a vocabulary as BERT's has; bring a tokenizer.json")
    lower = config.get("do_lower_case")
    if lower is None:
        lower = not any(CAPITAL.search(token) for token in ids if not BRACKETED.fullmatch(token))
        what = "no capitals: texts are made lower-case" if lower else "capitals: texts stay as they are"
        log.info("%s says nothing of do_lower_case, and its vocabulary has %s", file.parent, what)
    library = Tokenizer(models.WordPiece(ids, unk_token=UNKNOWN))
    library.normalizer = normalizers.BertNormalizer(
        lowercase=bool(lower),
        handle_chinese_chars=bool(config.get("tokenize_chinese_chars", True)),
        strip_accents=config.get("strip_accents"),
    )
    library.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    library.decoder = decoders.WordPiece()
    library.post_processor = processors.TemplateProcessing(
        single=f"{FIRST} $A {LAST}",
        pair=f"{FIRST} $A {LAST} $B:1 {LAST}:1",
        special_tokens=[(FIRST, ids[FIRST]), (LAST, ids[LAST])],
    )
    library.add_special_tokens([token for token in SPECIAL if token in ids])
    content: str = library.to_str()
    return content.encode()

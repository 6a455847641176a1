"""Words added to a tokenizer, one id each behind all others: names of a domain, marks that a task needs.

    extended(stored, ["[X_SEP]", " megas2s"])       " megas2s" with a space before it is the beginning of a word

Wherever such a word stands in a text it is one token. Ids that there were stay what they are, so weights go on with a
table that has grown (`models.handoff`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from sentencepiece.sentencepiece_model_pb2 import ModelProto
from tokenizers import AddedToken, Tokenizer

from megas2s.errors import BadConfig
from megas2s.tokenizer.export import companions
from megas2s.tokenizer.folder import Stored
from megas2s.tokenizer.text import SPACE

BEST = 10.0  # beyond every log-probability, so that no other way to write a text has a chance


def extended(stored: Stored, words: Sequence[str]) -> Stored:
    """The tokenizer with `words`; raises BadConfig for one that is empty, twice there or known already."""
    known = _pieces(stored)
    for place, word in enumerate(words):
        if not word.strip():
            raise BadConfig(f"new_tokens: {word!r} is no word")
        if word in words[:place] or _written(word, stored) in known:
            raise BadConfig(f"new_tokens: {word!r} is a token already; leave it out")
    if not words:
        return stored
    return _pieces_added(stored, words) if stored.metadata.kind == "sentencepiece" else _tokens_added(stored, words)


def _pieces(stored: Stored) -> set[str]:
    if stored.metadata.kind == "sentencepiece":
        return {piece.piece for piece in ModelProto.FromString(stored.model).pieces}
    return set(Tokenizer.from_str(stored.model.decode()).get_vocab(with_added_tokens=True))


def _written(word: str, stored: Stored) -> str:
    return word.replace(" ", SPACE) if stored.metadata.kind == "sentencepiece" else word


def _pieces_added(stored: Stored, words: Sequence[str]) -> Stored:
    """Pieces like any other, of a score that always wins: so SentencePiece and its twin agree on them."""
    proto = ModelProto.FromString(stored.model)
    for word in words:
        piece = proto.pieces.add()
        piece.piece, piece.score, piece.type = _written(word, stored), BEST, piece.NORMAL
    model = proto.SerializeToString(deterministic=True)
    metadata = dataclasses.replace(stored.metadata, size=len(proto.pieces))
    return Stored(model, metadata, companions(model, metadata))


def _tokens_added(stored: Stored, words: Sequence[str]) -> Stored:
    whole = Tokenizer.from_str(stored.model.decode())
    whole.add_tokens([AddedToken(word, normalized=False, lstrip=False, rstrip=False) for word in words])
    size = max(stored.metadata.size, whole.get_vocab_size(with_added_tokens=True))
    metadata = dataclasses.replace(stored.metadata, size=size)
    return Stored(whole.to_str(pretty=False).encode(), metadata, stored.companions)

"""Tokenizers made elsewhere; ids stay as they are.

    a SentencePiece `.model` file, alone or in a transformers folder       that model encodes
    a transformers folder with `tokenizer.json` and no such model          `adopting.py`
    a folder of BERT's kind with `vocab.txt` alone                         `wordpiece.py`

A transformers tokenizer may number its pieces differently from its SentencePiece model (XLM-R and MBart do) and add
tokens to it (T5's sentinels). `numbering.py` finds its ids, and the model is rewritten in their order, so that here too
the position of a piece is its id.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from pathlib import Path
from typing import Any

from sentencepiece import SentencePieceProcessor
from sentencepiece.sentencepiece_model_pb2 import ModelProto

from megas2s.errors import BadData
from megas2s.tokenizer import numbering, wordpiece
from megas2s.tokenizer.adopting import (
    LANGUAGE,
    ROLES,
    SENTINEL,
    adopt,
    first_named,
    opening,
    read_json,
    sentinels,
    usual_names,
)
from megas2s.tokenizer.export import companions, configuration
from megas2s.tokenizer.folder import CLM, CONFIG, DOC, FAST, METADATA, PAD, SPECIAL, Metadata, Stored

log = logging.getLogger(__name__)

MODEL_NAMES = ("spiece.model", numbering.FAIRSEQ_FILE, "tokenizer.model", "sentencepiece.model", "spm.model")
Piece = ModelProto.SentencePiece


def import_tokenizer(path: Path) -> Stored:
    """The tokenizer at `path`, a `.model` file, a `tokenizer.json`, or a folder with one; raises BadData."""
    file = path if path.is_file() else _model_file(path)
    config = read_json(file.parent / CONFIG)
    if file.name == FAST:
        return adopt(file.parent, file.read_bytes(), config)
    if file.name == wordpiece.FILE:
        return adopt(file.parent, wordpiece.tokenizer_json(file, config), config)
    proto = _read_model(file)
    fast = read_json(file.parent / FAST)
    kind = numbering.kind_of(config, read_json(file.parent / numbering.SETTINGS))
    own = [piece.piece for piece in proto.pieces]
    numbered = numbering.by_file(fast, file.parent) if fast else numbering.by_rule(file, own, kind, config)
    if numbered != dict(enumerate(own)):
        proto = _renumber(proto, numbered)
    _hide_specials(proto, fast)
    metadata = _describe(proto, read_json(file.parent / SPECIAL) | config, file)
    begin = opening(json.dumps(fast)) if fast else _id_of(numbering.opens_with(kind), proto)
    metadata = dataclasses.replace(metadata, begin=begin)
    model = proto.SerializeToString(deterministic=True)
    if not fast:
        return Stored(model, metadata, companions(model, metadata))
    return Stored(model, metadata, _adopted(proto, metadata, config, fast))


def _model_file(folder: Path) -> Path:
    for name in (*MODEL_NAMES, FAST):
        if (folder / name).is_file():
            return folder / name
    slow = next((name for name in ("vocab.json", wordpiece.FILE) if (folder / name).is_file()), None)
    if slow == wordpiece.FILE and _is_wordpiece(folder):
        return folder / slow
    if slow is not None:
        raise BadData(f"{folder} has {slow} and no {FAST}; load the tokenizer with transformers and save it to get one")
    raise BadData(
        f"{folder} holds no tokenizer: neither {METADATA} nor {FAST} nor a SentencePiece model "
        f"({', '.join(MODEL_NAMES)}) nor BERT's {wordpiece.FILE}"
    )


def _is_wordpiece(folder: Path) -> bool:
    """Whether the vocab.txt of a folder is BERT's, by what is said beside it."""
    settings = read_json(folder / numbering.SETTINGS)
    return wordpiece.is_read(numbering.kind_of(read_json(folder / CONFIG), settings), settings)


def _read_model(file: Path) -> ModelProto:
    content = file.read_bytes()
    try:
        SentencePieceProcessor().LoadFromSerializedProto(content)
    except RuntimeError:
        raise BadData(f"{file} is no SentencePiece model; give a .model file that SentencePiece wrote") from None
    return ModelProto.FromString(content)


def _id_of(name: str | None, proto: ModelProto) -> int | None:
    return next((number for number, piece in enumerate(proto.pieces) if piece.piece == name), None)


def _renumber(proto: ModelProto, numbered: dict[int, str]) -> ModelProto:
    by_name = {piece.piece: piece for piece in proto.pieces}
    renumbered = ModelProto()
    renumbered.CopyFrom(proto)
    del renumbered.pieces[:]
    for number in range(max(numbered) + 1):
        name = numbered.get(number, f"[unused_{number}]")
        piece = by_name.get(name, Piece(piece=name, score=0.0, type=Piece.CONTROL))
        renumbered.pieces.append(piece)
    missing = by_name.keys() - set(numbered.values()) - {"<s>", "</s>", "<unk>", "<pad>"}
    if missing:
        raise BadData(
            f"tokenizer.json and the SentencePiece model beside it belong to different tokenizers: it lacks "
            f"{sorted(missing)[0]!r}; bring the two that were saved together"
        )
    renumbered.trainer_spec.vocab_size = len(renumbered.pieces)
    return renumbered


def _hide_specials(proto: ModelProto, fast: dict[str, Any]) -> None:
    """What transformers calls special, and every sentinel, becomes a control symbol: text never produces it."""
    special = {added["content"] for added in fast.get("added_tokens", []) if added.get("special")}
    for piece in proto.pieces:
        hidden = piece.piece in special or SENTINEL.fullmatch(piece.piece)
        if hidden and piece.type in (Piece.NORMAL, Piece.USER_DEFINED):
            piece.type = Piece.CONTROL


def _adopted(proto: ModelProto, metadata: Metadata, config: dict[str, Any], fast: dict[str, Any]) -> dict[str, str]:
    """The tokenizer's own files for transformers, a padding token that was added here included."""
    pad = proto.pieces[metadata.pad].piece
    if all(added["content"] != pad for added in fast.get("added_tokens", [])):
        plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
        fast = {**fast, "added_tokens": [*fast.get("added_tokens", []), {"id": metadata.pad, "content": pad, **plain}]}
    if "tokenizer_class" not in config:
        config = {**configuration(proto, metadata), **config}
    return {
        FAST: json.dumps(fast, ensure_ascii=False),
        CONFIG: json.dumps({**config, "pad_token": pad}, indent=2, ensure_ascii=False) + "\n",
    }


def _describe(proto: ModelProto, said: dict[str, Any], file: Path) -> Metadata:
    ids = {piece.piece: number for number, piece in enumerate(proto.pieces)}
    special = {name for name, number in ids.items() if proto.pieces[number].type == Piece.CONTROL}
    unk = next((number for number, piece in enumerate(proto.pieces) if piece.type == Piece.UNKNOWN), None)
    trained = proto.trainer_spec
    of_model = {"bos": trained.bos_id, "eos": trained.eos_id, "pad": trained.pad_id}
    said = {
        f"{role}_token": getattr(trained, f"{role}_piece") for role, number in of_model.items() if number >= 0
    } | said
    said |= usual_names(said, special, file.parent)
    roles = {name: first_named([said.get(key) for key in role.keys], ids) for name, role in ROLES.items()}
    if roles["eos"] is None or unk is None:
        raise BadData(
            f"{file} has no end-of-sentence token or no unknown token; every row ends in one, so name another"
        )
    pad = roles["pad"] if roles["pad"] is not None else _add_padding(proto, file)
    return Metadata(
        normalization="model",
        opens_lines=False,
        size=len(proto.pieces),
        pad=pad,
        eos=roles["eos"],
        unk=unk,
        bos=roles["bos"],
        mask=roles["mask"],
        doc=ids[DOC] if DOC in special else None,
        clm=ids[CLM] if CLM in special else None,
        languages={name: ids[name] for name in sorted(special) if LANGUAGE.fullmatch(name)},
        sentinels=sentinels(special, ids),
        training={},
    )


def _add_padding(proto: ModelProto, file: Path) -> int:
    if _id_of(PAD, proto) is not None:
        raise BadData(
            f"{file} holds a piece {PAD} and {CONFIG} does not make it the padding; name it there as pad_token"
        )
    pad = len(proto.pieces)
    log.info("%s has no padding token; %s is added at the end, id %d", file, PAD, pad)
    proto.pieces.add(piece=PAD, score=0.0, type=Piece.CONTROL)
    proto.trainer_spec.vocab_size = len(proto.pieces)
    return pad

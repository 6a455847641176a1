"""Tokenizers made elsewhere; ids stay as they are.

    a SentencePiece `.model` file, alone or in a transformers folder       that model encodes
    a transformers folder with `tokenizer.json` and no such model          `adopting.py`

A transformers tokenizer may number its pieces differently from its SentencePiece model (XLM-R and MBart do) and add
tokens to it (T5's sentinels). Its numbering is read from `tokenizer.json` or `tokenizer_config.json`, and the model is
rewritten in that order, so that here too the position of a piece is its id.
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
from megas2s.tokenizer.adopting import LANGUAGE, adopt, named, opening, read_json, sentinels
from megas2s.tokenizer.export import companions, configuration
from megas2s.tokenizer.folder import CLM, CONFIG, DOC, FAST, METADATA, PAD, Metadata, Stored

log = logging.getLogger(__name__)

MODEL_NAMES = ("spiece.model", "sentencepiece.bpe.model", "tokenizer.model", "sentencepiece.model", "spm.model")
RENUMBERED = ("XLMRoberta", "MBart", "Camembert", "Barthez", "XGLM", "Nllb", "Pegasus", "BigBirdPegasus", "Fairseq")
Piece = ModelProto.SentencePiece


def import_tokenizer(path: Path) -> Stored:
    """The tokenizer at `path`, a `.model` file, a `tokenizer.json`, or a folder with one; raises BadData."""
    file = path if path.is_file() else _model_file(path)
    if file.name == FAST:
        return adopt(file, read_json(file.parent / CONFIG))
    proto = _read_model(file)
    config = read_json(file.parent / CONFIG)
    fast = read_json(file.parent / FAST)
    numbered = _numbering(proto, config, fast, file.parent)
    if numbered is not None:
        proto = _renumber(proto, numbered)
    _hide_specials(proto, fast)
    metadata = _describe(proto, config, file)
    if fast:
        metadata = dataclasses.replace(metadata, begin=opening(json.dumps(fast)))
    model = proto.SerializeToString(deterministic=True)
    if not fast:
        return Stored(model, metadata, companions(model, metadata))
    return Stored(model, metadata, _adopted(proto, metadata, config, fast))


def _model_file(folder: Path) -> Path:
    for name in (*MODEL_NAMES, FAST):
        if (folder / name).is_file():
            return folder / name
    slow = next((name for name in ("vocab.json", "vocab.txt") if (folder / name).is_file()), None)
    if slow is not None:
        raise BadData(f"{folder} has {slow} and no {FAST}; load the tokenizer with transformers and save it to get one")
    raise BadData(
        f"{folder} holds no tokenizer: neither {METADATA} nor {FAST} nor a SentencePiece model "
        f"({', '.join(MODEL_NAMES)})"
    )


def _read_model(file: Path) -> ModelProto:
    content = file.read_bytes()
    try:
        SentencePieceProcessor().LoadFromSerializedProto(content)
    except RuntimeError:
        raise BadData(f"{file} is no SentencePiece model; give a .model file that SentencePiece wrote") from None
    return ModelProto.FromString(content)


def _numbering(proto: ModelProto, config: dict[str, Any], fast: dict[str, Any], folder: Path) -> dict[int, str] | None:
    """Id -> piece as transformers counts, or None where it counts as the model does."""
    own = {number: piece.piece for number, piece in enumerate(proto.pieces)}
    if fast:
        model = fast.get("model", {})
        listed = model.get("vocab")
        if isinstance(listed, list):
            numbered = {number: entry[0] for number, entry in enumerate(listed)}
        elif isinstance(listed, dict):
            numbered = {number: piece for piece, number in listed.items()}
        else:
            raise BadData(f"{folder / FAST} is not the twin of a SentencePiece model (type {model.get('type')!r})")
        numbered |= {added["id"]: added["content"] for added in fast.get("added_tokens", [])}
        return None if numbered == own else numbered
    added = {int(number): entry["content"] for number, entry in config.get("added_tokens_decoder", {}).items()}
    name = str(config.get("tokenizer_class", ""))
    moved = any(own.get(number, piece) != piece for number, piece in added.items())
    if moved or (not added and name.startswith(RENUMBERED)):
        raise BadData(
            f"the tokenizer in {folder} ({name or 'unnamed'}) numbers its pieces differently from its SentencePiece "
            "model and has no tokenizer.json to say how; load it with transformers and save it to get one"
        )
    return None if added.items() <= own.items() else own | added


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
    """What transformers calls special becomes a control symbol: text never produces it, whatever the model says."""
    special = {added["content"] for added in fast.get("added_tokens", []) if added.get("special")}
    for piece in proto.pieces:
        if piece.piece in special and piece.type in (Piece.NORMAL, Piece.USER_DEFINED):
            piece.type = Piece.CONTROL


def _adopted(proto: ModelProto, metadata: Metadata, config: dict[str, Any], fast: dict[str, Any]) -> dict[str, str]:
    """The tokenizer's own files for transformers, a padding token that was added here included."""
    pad = proto.pieces[metadata.pad].piece
    if all(added["content"] != pad for added in fast.get("added_tokens", [])):
        plain = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
        fast = {**fast, "added_tokens": [*fast.get("added_tokens", []), {"id": metadata.pad, "content": pad, **plain}]}
    config = config or configuration(proto, metadata)
    return {
        FAST: json.dumps(fast, ensure_ascii=False),
        CONFIG: json.dumps({**config, "pad_token": pad}, indent=2, ensure_ascii=False) + "\n",
    }


def _describe(proto: ModelProto, config: dict[str, Any], file: Path) -> Metadata:
    ids = {piece.piece: number for number, piece in enumerate(proto.pieces)}
    special = {name for name, number in ids.items() if proto.pieces[number].type == Piece.CONTROL}
    unk = next((number for number, piece in enumerate(proto.pieces) if piece.type == Piece.UNKNOWN), None)
    trained = proto.trainer_spec
    roles = {
        "bos": named(config.get("bos_token", trained.bos_piece if trained.bos_id >= 0 else None), ids),
        "eos": named(config.get("eos_token", trained.eos_piece if trained.eos_id >= 0 else None), ids),
        "pad": named(config.get("pad_token", trained.pad_piece if trained.pad_id >= 0 else None), ids),
        "mask": named(config.get("mask_token", "<mask>" if "<mask>" in special else None), ids),
    }
    if roles["eos"] is None or unk is None:
        raise BadData(
            f"{file} has no end-of-sentence token or no unknown token; every row ends in one, so name another"
        )
    pad = roles["pad"]
    if pad is None:
        pad = len(proto.pieces)
        log.info("%s has no padding token; %s is added at the end, id %d", file, PAD, pad)
        proto.pieces.add(piece=PAD, score=0.0, type=Piece.CONTROL)
        proto.trainer_spec.vocab_size = len(proto.pieces)
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

"""The files that let `transformers.AutoTokenizer.from_pretrained(folder)` load our tokenizer.

For every text the ids are ours and `</s>` at the end, and XLM-R's `<s>` at the head. What makes that so:

- scores are rounded (train.SCORE_GRID), so that float32 and float64 rank segmentations alike;
- our normalisation and the space at the head of each line are steps of its normaliser;
- the `tokenizers` library matches every piece of a Unigram vocabulary in text, control symbols and bytes included;
  here those have a score that spelling them out always beats (`HIDDEN`).

One difference is wanted. In transformers a special token written out in a text *is* that token, so that a pipeline can
fill "Paris is the <mask> of France."; our own encoder never does that. `AutoTokenizer.from_pretrained(folder,
split_special_tokens=True)` gives our behaviour there too. `<mask>` takes the space before it along, as the piece it
stands for would, and the text after a special token gets no space at its head.
"""

from __future__ import annotations

import json

from sentencepiece.sentencepiece_model_pb2 import ModelProto
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from megas2s.errors import BadData
from megas2s.tokenizer import folder
from megas2s.tokenizer.folder import Metadata
from megas2s.tokenizer.text import SPACE

HIDDEN = -10_000.0  # far below the score of any special token spelt in single characters
TEXT = (ModelProto.SentencePiece.NORMAL, ModelProto.SentencePiece.USER_DEFINED)


def companions(model: bytes, metadata: Metadata) -> dict[str, str]:
    """File name -> content of the files for transformers."""
    proto = ModelProto.FromString(model)
    if proto.trainer_spec.model_type != proto.trainer_spec.UNIGRAM:
        kind = proto.trainer_spec.ModelType.Name(proto.trainer_spec.model_type)
        raise BadData(f"this SentencePiece model is of type {kind}; bring its tokenizer.json along, or a unigram model")
    return {
        folder.FAST: _fast_tokenizer(proto, metadata).to_str(pretty=False),
        folder.CONFIG: json.dumps(configuration(proto, metadata), indent=2, ensure_ascii=False) + "\n",
        folder.SPECIAL: json.dumps(_special_tokens(proto, metadata), indent=2, ensure_ascii=False) + "\n",
    }


def configuration(proto: ModelProto, metadata: Metadata) -> dict[str, object]:
    """The content of tokenizer_config.json."""
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        **_special_tokens(proto, metadata),
        "clean_up_tokenization_spaces": False,
        "padding_side": "right",
        "truncation_side": "right",
        "model_input_names": ["input_ids", "attention_mask"],
    }


def _fast_tokenizer(proto: ModelProto, metadata: Metadata) -> Tokenizer:
    vocabulary = [(piece.piece, piece.score if piece.type in TEXT else HIDDEN) for piece in proto.pieces]
    tokenizer = Tokenizer(
        models.Unigram(vocabulary, unk_id=metadata.unk, byte_fallback=proto.trainer_spec.byte_fallback)
    )
    tokenizer.normalizer = normalizers.Sequence(_normalizers(proto, metadata))
    tokenizer.pre_tokenizer = _word_marks(proto)
    steps = [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    if metadata.opens_lines:
        steps.append(decoders.Replace("\n ", "\n"))
    if proto.normalizer_spec.add_dummy_prefix:
        steps.append(decoders.Strip(" ", 1, 0))
    tokenizer.decoder = decoders.Sequence(steps)
    opens = [] if metadata.begin is None else [proto.pieces[metadata.begin].piece]
    eos = proto.pieces[metadata.eos].piece
    tokenizer.post_processor = processors.TemplateProcessing(
        single=[*opens, "$A", eos],
        pair=[*opens, "$A", eos, "$B", eos],
        special_tokens=[
            (proto.pieces[number].piece, number) for number in (metadata.begin, metadata.eos) if number is not None
        ],
    )
    mask = metadata.mask
    tokenizer.add_special_tokens(
        [
            AddedToken(piece.piece, special=True, normalized=False, lstrip=number == mask)
            for number, piece in enumerate(proto.pieces)
            if piece.type in (piece.CONTROL, piece.UNKNOWN)
        ]
    )
    return tokenizer


def _normalizers(proto: ModelProto, metadata: Metadata) -> list[normalizers.Normalizer]:
    steps: list[normalizers.Normalizer] = []
    if metadata.normalization == "nfc":
        steps.append(normalizers.NFC())
    elif metadata.normalization == "nfkc":
        steps.append(normalizers.NFKC())
    elif proto.normalizer_spec.precompiled_charsmap:
        steps.append(normalizers.Precompiled(proto.normalizer_spec.precompiled_charsmap))
    if proto.normalizer_spec.remove_extra_whitespaces:
        steps += [normalizers.Strip(), normalizers.Replace(Regex(" {2,}"), " ")]
    if metadata.opens_lines:
        steps.append(normalizers.Replace(Regex("\n(?=[^\n])"), "\n "))
    return [*steps, normalizers.Replace(" ", SPACE)]


def _word_marks(proto: ModelProto) -> pre_tokenizers.PreTokenizer:
    """A mark before the text, and before it only: not after a special token inside it.

    Metaspace alone leaves out the mark where the text begins with a space, where SentencePiece writes two. Spaces are
    marks already when the first of these runs, so what it prepends, a space, is always missing.
    """
    before = "first" if proto.normalizer_spec.add_dummy_prefix else "never"
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Metaspace(replacement=" ", prepend_scheme=before, split=False),
            pre_tokenizers.Metaspace(replacement=SPACE, prepend_scheme="never", split=False),
        ]
    )


def _special_tokens(proto: ModelProto, metadata: Metadata) -> dict[str, str | list[str]]:
    named = {
        "bos_token": metadata.bos,
        "eos_token": metadata.eos,
        "unk_token": metadata.unk,
        "pad_token": metadata.pad,
        "mask_token": metadata.mask,
    }
    special: dict[str, str | list[str]] = {
        name: proto.pieces[number].piece for name, number in named.items() if number is not None
    }
    others = [metadata.doc, metadata.clm, *metadata.languages.values(), *metadata.sentinels]
    taken = set(special.values()) if special else set()
    extra = [proto.pieces[number].piece for number in others if number is not None]
    special["extra_special_tokens"] = [piece for piece in extra if piece not in taken]
    return special

"""Training a tokenizer: SentencePiece unigram with byte fallback on a language-balanced sample.

The vocabulary, in the order of its ids:

    0 <s>   1 <pad>   2 </s>   3 <unk>   4 <mask>   5 [DOC]   6 [CLM]
    language slots      [en], [fr] ... and then [reserved_0] ... for languages that come later
    256 byte pieces     <0x00> ... <0xFF>; what is outside the alphabet is written in them, so nothing is lost
    pieces              most probable first
    [unused_0] ...      only where the text was too small for the vocabulary asked for
    <sentinel_0> ...    last

All but bytes and pieces are SentencePiece control symbols: no text ever produces one. The size is a multiple of 128.
The trained model depends on the number of threads (sums of floating-point numbers), which is therefore part of the
spec, of the metadata and of the fingerprint, and never the machine's.
"""

from __future__ import annotations

import io
import logging
import multiprocessing
import re
import string
from collections.abc import Callable, Iterable, Iterator, Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Literal, TypeVar

from sentencepiece import SentencePieceTrainer
from sentencepiece.sentencepiece_model_pb2 import ModelProto

from megas2s.errors import BadConfig, BadData, Refusal
from megas2s.processes import end_with_parent, without_ctrl_c
from megas2s.spec import plain, spec
from megas2s.tokenizer import folder as tokenizer_folder
from megas2s.tokenizer.export import companions
from megas2s.tokenizer.folder import BOS, CLM, DOC, EOS, MASK, PAD, UNK, Metadata, Stored
from megas2s.tokenizer.load import Tokenizer
from megas2s.tokenizer.sample import BalancedSample
from megas2s.tokenizer.text import normalise

log = logging.getLogger(__name__)

T = TypeVar("T")

MULTIPLE = 128
LONGEST = 1000  # characters of one training line; longer ones are cut
LANGUAGE_CODE = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,31}")

# Scores are rounded to multiples of this. A sum of such numbers is exact in float32 up to 2^17, more than a part of
# text (load.PART) can reach, so that SentencePiece (float32) and tokenizers (float64) find the same best
# segmentation; unrounded, they part ways in texts of some ten thousand characters.
SCORE_GRID = 1 / 128


@spec
class TokenizerSpec:
    """How to train a tokenizer. Equal specs and equal documents give equal bytes."""

    vocab_size: int = 32_768
    alpha: float = 0.5  # share of a language ~ (its characters)^alpha: 1 as they come, 0 all equal
    normalization: Literal["nfc", "nfkc"] = "nfc"
    character_coverage: float = 0.9995  # share of the sample's characters that get a piece of their own
    sample_characters: int = 50_000_000  # each takes about 30 bytes of memory in training
    num_threads: int = 8
    seed: int = 17
    languages: tuple[str, ...] = ()  # whose tags come first, in this order; empty: those of the documents, sorted
    language_slots: int = 256  # ids kept for language tags, used or not
    sentinels: int = 100

    def __post_init__(self) -> None:
        if self.vocab_size < MULTIPLE or self.vocab_size % MULTIPLE:
            raise ValueError(f"vocab_size must be a positive multiple of {MULTIPLE}, got {self.vocab_size}")
        if not 0 <= self.alpha <= 1:
            raise ValueError(f"alpha must lie in [0, 1], got {self.alpha}")
        if not 0.98 <= self.character_coverage <= 1:  # the bounds of SentencePiece
            raise ValueError(f"character_coverage must lie in [0.98, 1], got {self.character_coverage}")
        for name in ("sample_characters", "num_threads"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.sentinels < 0 or self.language_slots < 0:
            raise ValueError("sentinels and language_slots cannot be negative")
        if len(set(self.languages)) != len(self.languages):
            raise ValueError(f"languages names one twice: {', '.join(self.languages)}")


def train_tokenizer(
    documents: Iterable[tuple[str, str]],
    spec: TokenizerSpec,
    folder: Path,
    *,
    expected: Iterable[str] = (),
    record: Mapping[str, object] | None = None,
) -> Tokenizer:
    """Train on (language, text) documents, write the folder in one step, load it; `record` goes into its manifest."""
    tokenizer_folder.write(train(documents, spec, expected=expected), folder, record or {})
    return Tokenizer.load(folder)


def train(documents: Iterable[tuple[str, str]], spec: TokenizerSpec, *, expected: Iterable[str] = ()) -> Stored:
    """A tokenizer trained on (language, text) documents, read once, in memory bounded by `sample_characters`.

    Raises BadData where there is no text, or none of an `expected` language.
    """
    sample = BalancedSample(characters=spec.sample_characters, alpha=spec.alpha, seed=spec.seed)
    for language, text in documents:
        for line in training_lines(normalise(text, spec.normalization)):
            sample.add(language, line)
    if not sample.seen:
        raise BadData("the input holds no text to train a tokenizer on")
    if empty := sorted(set(expected) - sample.seen.keys()):
        raise BadData(
            f"no documents of language {', '.join(empty)}: all are empty or invalid; "
            "add some, leave the language out, or go on without it by --allow-empty-languages"
        )
    languages = language_tags(spec, sorted(sample.seen))
    model = _complete(_train_model(sample, spec, languages), spec)
    metadata = _describe(model, spec, languages)
    serialized = model.SerializeToString(deterministic=True)
    return Stored(serialized, metadata, companions(serialized, metadata))


def training_lines(text: str) -> Iterator[str]:
    """The lines of a document as the trainer sees them: newlines stay byte pieces, long lines are cut."""
    for line in text.split("\n"):
        if line.strip():
            yield from (line[start : start + LONGEST] for start in range(0, len(line), LONGEST))


def language_tags(spec: TokenizerSpec, found: list[str]) -> list[str]:
    """The languages that get a tag, in order; raises BadConfig where a code is odd or there is no room."""
    languages = list(spec.languages) or found
    for language in languages:
        if not LANGUAGE_CODE.fullmatch(language):
            raise BadConfig(
                f"{language!r} cannot be a language code: use 1 to 32 letters, digits, '-' or '_', a letter first"
            )
        if tag(language) in (DOC, CLM):
            raise BadConfig(f"the language code {language!r} is taken by the special token {tag(language)}")
    if len(languages) > spec.language_slots:
        raise BadConfig(
            f"{len(languages)} languages do not fit {spec.language_slots} language slots; raise language_slots"
        )
    return languages


def tag(language: str) -> str:
    """The piece that stands for a language, for example [en]."""
    return f"[{language}]"


def _train_model(sample: BalancedSample, spec: TokenizerSpec, languages: list[str]) -> ModelProto:
    reserved = [f"[reserved_{number}]" for number in range(spec.language_slots - len(languages))]

    def train_model() -> tuple[bytes, dict[str, int]]:
        used: dict[str, int] = {}

        def lines() -> Iterator[str]:
            for language, line in sample.lines():
                used[language] = used.get(language, 0) + len(line)
                yield line

        written = io.BytesIO()
        SentencePieceTrainer.train(
            sentence_iterator=lines(),
            model_writer=written,
            model_type="unigram",
            vocab_size=spec.vocab_size - spec.sentinels,
            hard_vocab_limit=False,
            byte_fallback=True,
            character_coverage=spec.character_coverage,
            required_chars=string.digits + string.ascii_letters + string.punctuation,  # spells every special token
            normalization_rule_name="identity",  # Unicode normalisation is ours, see text.py
            remove_extra_whitespaces=False,
            add_dummy_prefix=True,
            bos_id=0,
            pad_id=1,
            eos_id=2,
            unk_id=3,
            control_symbols=[MASK, DOC, CLM, *(tag(language) for language in languages), *reserved],
            max_sentence_length=8 * LONGEST,
            train_extremely_large_corpus=spec.sample_characters > 1 << 29,
            num_threads=spec.num_threads,
            minloglevel=2,
        )
        return written.getvalue(), used

    try:
        serialized, used = _apart(train_model)
    except RuntimeError as error:
        raise _explained(error, spec) from None
    total = sum(used.values())
    shares = ", ".join(f"{language} {100 * used[language] / total:.1f} %" for language in sorted(used))
    log.info("tokenizer sample: %d of %d characters: %s", total, sum(sample.seen.values()), shares)
    return ModelProto.FromString(serialized)


def _apart(train: Callable[[], T]) -> T:
    """What `train` returns or raises, in a process of its own, which ends when this one does or is interrupted.

    SentencePiece spends hours outside Python, where Ctrl-C is not heard, and what is raised while it reads lines comes
    out as an error of its own.
    """
    context = multiprocessing.get_context("fork")  # the lines are there without being sent
    ours, theirs = context.Pipe(duplex=False)
    child = context.Process(target=_answer, args=(theirs, train), daemon=True)
    try:
        with without_ctrl_c():
            child.start()
        theirs.close()
        answer: T | Exception = ours.recv()
    except EOFError:
        child.join()
        raise Refusal(
            f"the process that trains the tokenizer died (exit code {child.exitcode}), perhaps for want of memory; "
            "lower sample_characters"
        ) from None
    finally:
        child.kill()
        child.join()
    if isinstance(answer, Exception):
        raise answer
    return answer


def _answer(pipe: Connection, train: Callable[[], object]) -> None:
    """The child's work."""
    end_with_parent()
    try:
        pipe.send(train())
    except Exception as error:
        pipe.send(error)


def _explained(error: RuntimeError, spec: TokenizerSpec) -> BadConfig:
    sizes = re.search(r"smaller than required_chars\D*(\d+) vs (\d+)", str(error))
    if sizes:
        least = int(sizes[2]) + spec.sentinels
        return BadConfig(
            f"vocab_size {spec.vocab_size} is too small: special tokens, bytes and single characters take {least}; "
            "raise it, or lower character_coverage or language_slots"
        )
    return BadConfig(f"SentencePiece cannot train with these settings: {error}")


def _complete(model: ModelProto, spec: TokenizerSpec) -> ModelProto:
    """Round the scores and append unused control symbols, up to a multiple of 128, and the sentinels."""
    for piece in model.pieces:
        piece.score = round(piece.score / SCORE_GRID) * SCORE_GRID
    unused = -(len(model.pieces) + spec.sentinels) % MULTIPLE
    size = len(model.pieces) + unused + spec.sentinels
    if size < spec.vocab_size or unused:
        log.info(
            "the text gives %d pieces where %d were asked for; the vocabulary has %d, %d of them unused",
            len(model.pieces), spec.vocab_size - spec.sentinels, size, unused,
        )  # fmt: skip
    names = [f"[unused_{number}]" for number in range(unused)]
    names += [f"<sentinel_{number}>" for number in range(spec.sentinels)]
    for name in names:
        model.pieces.add(piece=name, score=0.0, type=ModelProto.SentencePiece.CONTROL)
    model.trainer_spec.vocab_size = size
    return model


def _describe(model: ModelProto, spec: TokenizerSpec, languages: list[str]) -> Metadata:
    ids = {piece.piece: number for number, piece in enumerate(model.pieces)}
    return Metadata(
        normalization=spec.normalization,
        opens_lines=True,
        size=len(model.pieces),
        pad=ids[PAD],
        eos=ids[EOS],
        unk=ids[UNK],
        bos=ids[BOS],
        mask=ids[MASK],
        doc=ids[DOC],
        clm=ids[CLM],
        languages={language: ids[tag(language)] for language in languages},
        sentinels=[ids[f"<sentinel_{number}>"] for number in range(spec.sentinels)],
        training=plain(TokenizerSpec, spec),
    )

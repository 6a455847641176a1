"""Sentences to look at a model with, and the words in them.

    "Will you come? I'm in town."   ->  "Will you come?", "I'm in town."
    "I'm in town."                  ->  words  I'm  in  town.     gaps  ""  " "  " "

A sentence ends as in training (`tokenizer.load`): at a full stop of some script with any quotes after it, or at the end
of a line; a Latin full stop only before a space, so that 7.42 stays whole. Words are what spaces part; in scripts
written without spaces every character is one, with the marks that belong to it.
"""

from __future__ import annotations

import heapq
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from megas2s.data.corpus import Corpus
from megas2s.data.documents import read_documents
from megas2s.data.inputs import Inputs
from megas2s.data.shards import Shard
from megas2s.errors import BadData
from megas2s.rng import address_hash
from megas2s.tokenizer.load import CLOSING_QUOTES, SENTENCE_FINAL, SPACELESS, Tokenizer

FEWEST_WORDS = 5
FEWEST = 50  # sentences
_WIDE = "".join(mark for mark in SENTENCE_FINAL if mark not in ".!?…")
_SENTENCE = re.compile(
    rf"[^\n]+?(?:[.!?…]+[{re.escape(CLOSING_QUOTES)}]*(?=\s|$)|[{_WIDE}]+[{re.escape(CLOSING_QUOTES)}]*|(?=\n|$))"
)
_INSIDE_WORDS = "'’-"


class Words(NamedTuple):
    """A sentence in words, and what stands before each."""

    words: tuple[str, ...]
    gaps: tuple[str, ...]

    def exchanged(self, one: int, other: int) -> str:
        """The sentence with two of its words in each other's place."""
        words = list(self.words)
        words[one], words[other] = words[other], words[one]
        return "".join(gap + word for gap, word in zip(self.gaps, words, strict=True))


class Chosen(NamedTuple):
    """Sentences, and how many others there were."""

    texts: list[str]
    found: int  # different ones of enough words that fit
    short: int  # of fewer than FEWEST_WORDS words
    long: int  # of more tokens than fit


def choose(texts: Iterable[str], *, count: int, fits: Callable[[str], bool], seed: int) -> Chosen:
    """`count` of the different sentences in `texts`, or all where there are fewer; the seed and their words decide.

    Holds a few times `count` sentences, and a hash of each that it has met. Raises BadData where there are fewer than
    FEWEST.
    """
    kept: dict[int, str] = {}
    seen: set[int] = set()
    short = long = 0
    for text in texts:
        key = address_hash(seed, "sentence", text)
        if key in seen:
            continue
        seen.add(key)
        if len(words(text).words) < FEWEST_WORDS:
            short += 1
        elif not fits(text):
            long += 1
        else:
            kept[key] = text
            if len(kept) >= 4 * count:
                kept = dict(heapq.nsmallest(count, kept.items()))
    found = len(seen) - short - long
    if found < FEWEST:
        raise BadData(
            f"{found} different sentences of at least {FEWEST_WORDS} words were found ({short} shorter, {long} of too "
            f"many tokens), and {FEWEST} are needed; give more text"
        )
    return Chosen([text for _, text in sorted(kept.items())[:count]], found, short, long)


def from_files(paths: Sequence[str]) -> Iterator[str]:
    """The sentences of text files (.txt, .jsonl, plain or compressed, folders and globs of them)."""
    for document in read_documents(Inputs(paths=tuple(paths), language="und")):
        yield from split(document.text)


def from_corpus(folder: Path, language: str | None) -> Iterator[str]:
    """The sentences of a corpus' held-out documents, of all languages or of one."""
    corpus = Corpus.open(folder)
    entries = corpus.shards("heldout", language=language)
    if not entries:
        raise BadData(f"{folder} holds no documents out; name text files with --text, or preprocess with --held-out")
    tokenizer = Tokenizer.load(corpus.tokenizer_folder)
    for entry in entries:
        shard = Shard.open(entry)
        for first, last in zip(shard.document_offsets[:-1], shard.document_offsets[1:], strict=True):
            yield from split(tokenizer.decode(shard.tokens[first : last - 1]))  # without the separator


def split(text: str) -> Iterator[str]:
    """The sentences of a text, without the spaces around them."""
    return (found for match in _SENTENCE.finditer(text) if (found := match[0].strip()))


def words(sentence: str) -> Words:
    """A sentence in words."""
    found: list[str] = []
    gaps: list[str] = []
    gap, open_ended = "", False  # whether the last word may go on
    for character in sentence:
        alone = _spaceless(character)
        if character.isspace():
            gap, open_ended = gap + character, False
        elif found and not gap and (unicodedata.category(character)[0] == "M" or (open_ended and not alone)):
            found[-1] += character
        else:
            found.append(character)
            gaps.append(gap)
            gap, open_ended = "", not alone
    return Words(tuple(found), tuple(gaps))


def is_plain(word: str) -> bool:
    """Whether a word is letters, with no punctuation that would give its old place away."""
    kinds = {unicodedata.category(character)[0] for character in word if character not in _INSIDE_WORDS}
    return "L" in kinds and kinds <= {"L", "M", "N"}


def _spaceless(character: str) -> bool:
    return any(first <= ord(character) <= last for first, last in SPACELESS)

"""Prompts: a sentence inside a template, whose mask's state stands for the sentence (PromptBERT, Jiang et al. 2022).

    template    This sentence : "X" means [MASK]
    row         This sentence : " the cat sat " means <mask> </s>

The templates are those that E2S2's code keeps in comments (arXiv 2205.14912); X is the text and [MASK] the mask token,
or the last sentinel where a tokenizer has sentinels and no mask (T5).
"""

from __future__ import annotations

import functools
import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from megas2s.labels import IGNORED
from megas2s.tokenizer.vocab import Vocabulary

DEFAULT_PROMPTS = ('This sentence : "X" means [MASK]', '[MASK] is the meaning of the sentence : "X"')
HOLE, MASK = re.compile(r"(?<![A-Za-z0-9])X(?![A-Za-z0-9])"), "[MASK]"


class Prompt(NamedTuple):
    """A template as ids: what comes before the text and what after it, the mask among them."""

    before: tuple[int, ...]
    after: tuple[int, ...]
    mask: int

    @property
    def length(self) -> int:
        """Tokens beside the text."""
        return len(self.before) + len(self.after)

    def around(self, row: np.ndarray, vocabulary: Vocabulary) -> np.ndarray:
        """`row` (S,), with its special tokens, and the prompt around its text."""
        return self._join(row, vocabulary, self.before, self.after)

    def ignored(self, labels: np.ndarray, vocabulary: Vocabulary) -> np.ndarray:
        """The labels of such a row: none for the prompt."""
        return self._join(labels, vocabulary, (IGNORED,) * len(self.before), (IGNORED,) * len(self.after))

    def position(self, row_length: int, vocabulary: Vocabulary) -> int:
        """Where the mask lies once the prompt is around a row of `row_length` tokens."""
        if self.mask in self.before:
            return vocabulary.ends - 1 + self.before.index(self.mask)
        return row_length - 1 + len(self.before) + self.after.index(self.mask)

    def _join(self, row: np.ndarray, vocabulary: Vocabulary, before: Sequence[int], after: Sequence[int]) -> np.ndarray:
        first = vocabulary.ends - 1
        parts = (row[:first], before, row[first:-1], after, row[-1:])
        return np.concatenate([np.asarray(part, dtype=np.int64) for part in parts])


def check_template(template: str) -> None:
    """Raise ValueError where a template does not hold one X and one [MASK]."""
    if len(HOLE.findall(template)) != 1 or template.count(MASK) != 1:
        raise ValueError(f"a prompt holds X, where the text goes, and [MASK], once each; found {template!r}")


def longest(prompts: Sequence[Prompt]) -> int:
    """Tokens of the longest prompt; 0 where there is none."""
    return max((prompt.length for prompt in prompts), default=0)


@functools.lru_cache(maxsize=32)
def read_prompt(template: str, vocabulary: Vocabulary) -> Prompt:
    """The template as ids; its pieces are tokenised apart from each other and from the text.

    Raises ValueError where the tokenizer has neither mask nor sentinels, or the vocabulary comes without a tokenizer.
    """
    mask = vocabulary.sentinels[-1] if vocabulary.mask is None and vocabulary.sentinels else vocabulary.mask
    if mask is None:
        raise ValueError("prompts need a <mask> token, which the tokenizer lacks; take representation: mean")
    if vocabulary.encode is None:
        raise ValueError("prompts are text, and this vocabulary comes without a tokenizer to read it")
    before, after = HOLE.split(template)
    return Prompt(_ids(before, vocabulary, mask), _ids(after, vocabulary, mask), mask)


def _ids(text: str, vocabulary: Vocabulary, mask: int) -> tuple[int, ...]:
    assert vocabulary.encode is not None, "`read_prompt` refuses this"
    ids: list[int] = []
    for number, part in enumerate(text.split(MASK)):
        ids += [mask] if number else []
        ids += vocabulary.encode(part.strip()).tolist() if part.strip() else []
    return tuple(ids)

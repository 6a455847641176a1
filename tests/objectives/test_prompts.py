"""Prompts around a row: where the text, the mask and the special tokens are, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from megas2s.labels import IGNORED
from megas2s.objectives.prompts import DEFAULT_PROMPTS, check_template, longest, read_prompt

from .conftest import EOS, MASK, make_vocabulary

BEGIN = 0


def words(text: str) -> np.ndarray:
    """One id per word, by its length."""
    return np.array([100 + len(word) for word in text.split()], dtype=np.int32)


@pytest.mark.parametrize("begin", [None, BEGIN])
def test_the_text_stands_inside_the_prompt_and_special_tokens_outside(begin):
    vocabulary = make_vocabulary(encode=words, begin=begin)
    prompt = read_prompt('Word of "X" is [MASK] here', vocabulary)
    row = np.array([*([begin] if begin is not None else []), 8, 9, EOS])
    expected = [*row[:-3], 104, 102, 101, 8, 9, 101, 102, MASK, 104, EOS]
    assert prompt.around(row, vocabulary).tolist() == expected
    assert expected[prompt.position(len(row), vocabulary)] == MASK
    assert prompt.length == len(expected) - len(row)


def test_the_last_sentinel_is_the_mask_of_a_tokenizer_that_has_none():
    vocabulary = make_vocabulary(encode=words, mask=None)
    prompt = read_prompt("so X [MASK]", vocabulary)
    assert prompt.around(np.array([8, EOS]), vocabulary).tolist() == [102, 8, vocabulary.sentinels[-1], EOS]


def test_a_mask_before_the_text_is_found_too():
    vocabulary = make_vocabulary(encode=words, begin=BEGIN)
    prompt = read_prompt('[MASK] means "X"', vocabulary)
    row = np.array([BEGIN, 8, 9, 10, EOS])
    assert prompt.around(row, vocabulary).tolist() == [BEGIN, MASK, 105, 101, 8, 9, 10, 101, EOS]
    assert prompt.position(len(row), vocabulary) == 1


def test_a_prompt_has_no_labels_and_the_text_keeps_its_own():
    vocabulary = make_vocabulary(encode=words)
    prompt = read_prompt("so X [MASK]", vocabulary)
    assert prompt.ignored(np.array([1, 2, 0]), vocabulary).tolist() == [IGNORED, 1, 2, IGNORED, 0]


def test_the_default_prompts_are_read_and_differ_in_length():
    prompts = [read_prompt(template, make_vocabulary(encode=words)) for template in DEFAULT_PROMPTS]
    assert [prompt.length for prompt in prompts] == [7, 10]
    assert longest(prompts) == 10
    assert longest([]) == 0


def test_the_text_may_stand_between_words_without_spaces():
    check_template("这句话X的意思是[MASK]")


@pytest.mark.parametrize("template", ["no hole [MASK]", "X and X [MASK]", "X without", "X [MASK] [MASK]", "BOX [MASK]"])
def test_a_template_without_one_hole_and_one_mask_is_refused(template):
    with pytest.raises(ValueError, match="once each"):
        check_template(template)


def test_prompts_need_a_mask_token_and_a_tokenizer():
    with pytest.raises(ValueError, match="<mask> token, which the tokenizer lacks"):
        read_prompt("X [MASK]", make_vocabulary(mask=None, sentinels=(), encode=words))
    with pytest.raises(ValueError, match="comes without a tokenizer"):
        read_prompt("X [MASK]", make_vocabulary())

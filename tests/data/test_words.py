"""Runs of words: hashes of what the text says, whatever its case, punctuation and script."""

from __future__ import annotations

import numpy as np
import pytest

from megas2s.data.words import grams, shingles, words


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Dr. O'Neill — 3,5 %!", ["dr", "o", "neill", "3", "5"]),
        ("Größe STRASSE straße", ["grösse", "strasse", "strasse"]),
        ("你好，世界2024！", ["你", "好", "世", "界", "2024"]),
        ("क्या आप पढ़ेंगे?", ["क्या", "आप", "पढ़ेंगे"]),
        ("กำดี", ["ก\u0e4d", "า", "ดี"]),
        ("e\u0301t\u00e9 ﬁn １２ Ⅳ", ["été", "fin", "12", "iv"]),
        ("«كيف» حالك؟", ["كيف", "حالك"]),
        ("・、。!?", []),
        ("", []),
    ],
)
def test_words_leave_out_case_and_punctuation_and_split_scripts_without_spaces(text, expected):
    assert words(text) == expected


def test_a_run_has_the_same_hash_wherever_it_stands_and_another_in_another_order():
    text = "one two three four five six seven"
    found = grams(text, 3)
    assert len(found) == 5 == len(set(found.tolist()))
    assert found[2] == grams("Three, four; FIVE", 3)[0]
    assert grams("five four three", 3)[0] not in found
    assert len(grams("one two", 3)) == 0


def test_a_run_depends_on_every_word_of_it():
    base = ["a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l", "m"]
    hashes = {int(grams(" ".join([*base[:place], "other", *base[place + 1 :]]), 13)[0]) for place in range(13)}
    assert len(hashes | {int(grams(" ".join(base), 13)[0])}) == 14


def test_shingles_are_different_ones_and_a_short_text_is_one():
    assert len(shingles("a b a b a b a", 2)) == 2
    assert np.array_equal(shingles("just three words", 5), grams("just three words", 3))
    assert len(shingles("", 5)) == 0

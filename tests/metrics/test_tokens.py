"""Words of all scripts, and the pieces that texts are compared by."""

from __future__ import annotations

import pytest

from megas2s.metrics.tokens import is_unspaced, pieces, words


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Dr. O'Neill's 3.5 % -- re-run_it!", "dr o neill s 3 5 re run it"),
        ("Où est-il, l’été ?", "où est il l été"),
        ("हिन्दी में, १२ किताबें।", "हिन्दी में १२ किताबें"),
        ("كيف حالُك؟ ٢٥", "كيف حالُك ٢٥"),
        ("ไปที่ร้าน 25", "ไ ป ที่ ร้ า น 25"),
        ("ລາວ ភាសា မြန်မာ", "ລ າ ວ ភា សា မြ န် မာ"),
        ("你好，世界2024！", "你 好 世 界 2024"),
        ("カタカナとひらがな", "カ タ カ ナ と ひ ら が な"),
        ("한국어 단어", "한국어 단어"),
        ("❤️ … ½ ² ™ _ 👍🏽", ""),
        ("", ""),
    ],
)
def test_a_word_is_a_run_of_letters_marks_and_digits_and_a_character_where_no_spaces_are_written(text, expected):
    assert list(words(text)) == expected.split()


def test_how_a_letter_is_composed_and_joined_says_nothing():
    assert words("cafe\u0301") == words("café") == ("café",)
    assert words("می\u200cخواهم") == words("میخواهم")


@pytest.mark.parametrize("text", ["He goes,\n to  the  re-run!", "ไปที่ร้าน 2024", "", " \u200d❤️ a\u0301 "])
def test_pieces_make_up_their_text(text):
    assert "".join(pieces(text)) == text


def test_pieces_are_words_as_written_other_characters_and_spaces():
    assert pieces("He's  ที่!") == ["He", "'", "s", "  ", "ที่", "!"]


def test_scripts_without_spaces_are_known_by_their_letters():
    assert is_unspaced(["ไปที่ร้าน", "in English"])
    assert not is_unspaced(["Wir fahren nach 東京", ""])
    assert not is_unspaced([])

"""Written text to spoken, by hand, in more than six languages; and the share of documents that becomes it."""

from __future__ import annotations

import pytest

from megas2s.data.inputs import Inputs
from megas2s.data.preprocess import Choices
from megas2s.data.screen import Screening
from megas2s.data.spoken import speller, spoken
from megas2s.errors import BadConfig

from .byte_corpus import make, texts

SPOKEN = [  # language, written, spoken, spoken with numbers in words
    (
        "en",
        'Dr. Smith\'s "flat", no. 12: 3.5 % cheaper — $1,234!',
        "dr smith's flat no 12 3.5 cheaper 1,234",
        "dr smith's flat no twelve three point five cheaper one thousand two hundred and thirty four",
    ),
    (
        "de",
        "„Größe“: 1.234,5 Euro – Straße Nr. 7!",
        "größe 1.234,5 euro straße nr 7",
        "größe eintausendzweihundertvierunddreißig komma fünf euro straße nr sieben",
    ),
    (
        "fr",
        "L’homme d'aujourd'hui: «Où est-il ?» 3,5 et 1 000",
        "l'homme d'aujourd'hui où est il 3,5 et 1 000",
        "l'homme d'aujourd'hui où est il trois virgule cinq et mille",
    ),
    ("tr", "IŞIK ve İstanbul'da 25 kişi!", "ışık ve istanbul'da 25 kişi", "ışık ve istanbul'da yirmibeş kişi"),
    ("zh_Hans", "你好，世界！今天是2024年。", "你好世界今天是2024年", "你好世界今天是2024年"),
    ("ja", "「東京・大阪」へ、12人。", "東京大阪へ12人", "東京大阪へ十二人"),
    ("hi", "क्या आप १२ किताबें पढ़ेंगे? हाँ।", "क्या आप १२ किताबें पढ़ेंगे हाँ", "क्या आप १२ किताबें पढ़ेंगे हाँ"),
    ("ar", "مرحبـــا، كيف حالك؟ ٢٥!", "مرحبا كيف حالك ٢٥", "مرحبا كيف حالك خمسة و عشرون"),
    ("th", "ราคา 1,500 บาท! ฯลฯ กรุงเทพฯ", "ราคา 1,500 บาท ฯลฯ กรุงเทพฯ", "ราคา หนึ่งพันห้าร้อย บาท ฯลฯ กรุงเทพฯ"),
    ("es", "¿Cuántos? ¡Veinte y 30!", "cuántos veinte y 30", "cuántos veinte y treinta"),
    ("ru", "«Да», — сказал он: 5 раз.", "да сказал он 5 раз", "да сказал он пять раз"),
    ("he", "צה״ל, ג׳ורג׳!", "צה״ל ג׳ורג", "צה״ל ג׳ורג"),
    ("ca", "Il·lusió d’avui.", "il·lusió d'avui", "il·lusió d'avui"),
]


@pytest.mark.parametrize(("language", "written", "expected"), [case[:3] for case in SPOKEN])
def test_case_and_punctuation_go_by_the_rules_of_each_script(language, written, expected):
    assert spoken(written, language) == expected
    assert spoken(expected, language) == expected


@pytest.mark.parametrize(("language", "written", "expected"), [(*case[:2], case[3]) for case in SPOKEN])
def test_digits_become_words_where_the_language_is_known(language, written, expected):
    assert spoken(written, language, spell=speller()) == expected


@pytest.mark.parametrize("number", ["12.05.2020", "1,23,4", "007", "1234567890123456", "3,14"])
def test_what_is_no_plain_number_stays_in_digits(number):
    assert spoken(f"On {number} it is.", "en", spell=speller()) == f"on {number} it is"


@pytest.mark.parametrize("language", ["fil", "ceb_Latn", "est", "jav", "kon", "swa", "qaa"])
def test_a_language_that_the_library_does_not_know_keeps_its_digits(language):
    assert spoken("So 25.", language, spell=speller()) == "so 25"


@pytest.mark.parametrize(
    ("language", "expected"), [("deu_Latn", "fünfundzwanzig"), ("eng", "twenty five"), ("tur", "yirmibeş")]
)
def test_longer_codes_of_known_languages_are_known(language, expected):
    assert spoken("25", language, spell=speller()) == expected


@pytest.mark.parametrize("name", ["MP3", "H2O", "the 20th", "5km", "3.5kg", "the 1990s", "B12 and C"])
def test_a_number_beside_a_letter_is_part_of_a_name(name):
    assert spoken(name, "en", spell=speller()) == name.lower()


def test_where_nothing_parts_words_a_letter_beside_a_number_says_nothing():
    assert spoken("12人と3人", "ja", spell=speller()) == "十二人と三人"
    assert spoken("มี5คน", "th", spell=speller()) == "มีห้าคน"


def test_turkish_capitals_are_turkish_under_every_code():
    assert spoken("IŞIK", "tur_Latn") == "ışık"


def test_lines_stay_lines():
    assert spoken("One, two.\n\n  Three!\n", "en") == "one two\n\nthree\n"


def documents(folder):
    folder.mkdir()
    written = [f"Text, number {number}: IT IS." for number in range(1000)]
    (folder / "en.txt").write_text("\n".join(written))
    return written, [Inputs(paths=(str(folder),))]


def test_a_share_of_documents_is_spoken_and_a_larger_share_has_those_and_more(tmp_path):
    written, inputs = documents(tmp_path / "in")
    found = {}
    for share in (0.0, 0.3, 0.7, 1.0):
        choices = Choices(held_out=0, screening=Screening(spoken=share))
        found[share] = texts(make(inputs, tmp_path / f"out{share}", choices=choices))
    expected = dict(zip(written, [spoken(text, "en") for text in written], strict=True))
    turned = {
        share: {place for place, text in enumerate(all_) if text != written[place]} for share, all_ in found.items()
    }
    for share, all_ in found.items():
        assert all(all_[place] == expected[written[place]] for place in turned[share])
        assert len(turned[share]) == pytest.approx(1000 * share, abs=60)
    assert turned[0.0] < turned[0.3] < turned[0.7] < turned[1.0]


def test_equal_written_texts_are_duplicates_also_where_one_form_is_spoken(tmp_path):
    (tmp_path / "en.txt").write_text("A text.\nA text.\na text\n")
    choices = Choices(held_out=0, screening=Screening(spoken=1.0))
    assert texts(make(tmp_path / "en.txt", tmp_path / "out", choices=choices)) == ["a text", "a text"]


def test_spelling_without_the_library_is_refused_in_a_sentence(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "num2words", None)
    with pytest.raises(BadConfig, match=r"pip install 'megas2s\[spoken\]'"):
        speller()

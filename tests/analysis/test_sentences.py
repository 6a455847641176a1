import gzip
import json
from pathlib import Path

import pytest

from megas2s.analysis.sentences import choose, from_corpus, from_files, is_plain, split, words
from megas2s.errors import BadData

SAMPLE = Path(__file__).resolve().parents[2] / "launch" / "sample_corpus"
SENTENCES = [f"This is the plain sentence of number {number}." for number in range(200)]


def anything(text):
    return True


def test_a_sentence_ends_at_a_full_stop_of_its_script_and_at_a_line_end():
    text = 'Is it 7.42 already? "No," he said. "Wait!"\nA title\n外婆洗菜。她唱歌。 यह घर है। वह गया'
    assert list(split(text)) == [
        "Is it 7.42 already?",
        '"No," he said.',
        '"Wait!"',
        "A title",
        "外婆洗菜。",
        "她唱歌。",
        "यह घर है।",
        "वह गया",
    ]


def test_words_are_parted_by_spaces_and_in_some_scripts_are_characters():
    assert words("I'm in  town.").words == ("I'm", "in", "town.")
    assert words("I'm in  town.").gaps == ("", " ", "  ")
    assert words("用Python写。").words == ("用", "Python", "写", "。")
    assert words("ตื่น").words == ("ตื่", "น")  # marks stay with their letter
    assert words("मिट्टी की").words == ("मिट्टी", "की")


def test_exchanged_words_keep_every_gap():
    assert words("one two  three four").exchanged(1, 3) == "one four  three two"
    assert words("外婆洗菜").exchanged(0, 2) == "洗婆外菜"


def test_a_plain_word_has_no_punctuation():
    assert all(map(is_plain, ("town", "I'm", "twenty-two", "की", "外", "B2")))
    assert not any(map(is_plain, ("town.", '"No', "42", "—", "(a)")))


def test_a_choice_is_the_same_whatever_the_order_and_changes_with_the_seed():
    chosen = choose(SENTENCES, count=60, fits=anything, seed=1)
    assert chosen == choose([*reversed(SENTENCES), *SENTENCES], count=60, fits=anything, seed=1)
    assert len(set(chosen.texts)) == 60
    assert set(chosen.texts) != set(choose(SENTENCES, count=60, fits=anything, seed=2).texts)
    assert set(choose(SENTENCES, count=10, fits=anything, seed=1).texts) <= set(chosen.texts)


def test_what_is_left_out_is_counted():
    texts = [*SENTENCES, "Too short.", "Too short.", "Short, too."]
    chosen = choose(texts, count=500, fits=lambda text: "number 1" not in text, seed=1)
    assert (chosen.short, chosen.long) == (2, 111)
    assert len(chosen.texts) == chosen.found == 89


def test_too_few_sentences_are_refused_with_their_number():
    with pytest.raises(
        BadData, match=r"49 different sentences .* \(1 shorter, 0 of too many tokens\), and 50 are needed"
    ):
        choose([*SENTENCES[:49], "No."], count=100, fits=anything, seed=1)


def test_text_is_read_as_preprocessing_reads_it_whatever_a_file_is_called(tmp_path):
    (tmp_path / "notes.txt").write_text("One here. Two here.\nThree.\n")
    with gzip.open(tmp_path / "more.jsonl.gz", "wt") as file:
        file.write(json.dumps({"text": "Four\nfive."}) + "\n")
    found = list(from_files([str(tmp_path)]))
    assert found == ["Four", "five.", "One here.", "Two here.", "Three."]
    with pytest.raises(BadData, match="there is no file or folder"):
        list(from_files([str(tmp_path / "none.txt")]))


def test_held_out_documents_of_a_corpus_give_the_sentences_that_were_written(corpus_folder):
    written = {text for path in SAMPLE.glob("*.txt") for text in split(path.read_text(encoding="utf-8"))}
    found = list(from_corpus(corpus_folder, None))
    assert found
    assert set(found) <= written
    english = list(from_corpus(corpus_folder, "en"))
    assert 0 < len(english) < len(found)

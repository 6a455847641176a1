"""Added words are one token wherever they stand, nothing else changes, and transformers reads the same."""

from __future__ import annotations

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from megas2s.errors import BadConfig
from megas2s.tokenizer import folder
from megas2s.tokenizer.extending import extended
from megas2s.tokenizer.importing import import_tokenizer
from megas2s.tokenizer.load import Tokenizer

WORDS = ["[X_SEP]", "megas2s", "megas2s-large"]
TEXTS = [
    "One text [X_SEP] and megas2s here.",
    "[X_SEP]megas2s-large[X_SEP]",
    "nothing of that",
    "a megas2s-larger and megas2small\n[X_SEP] in the next line",
]


def counted(tokenizer: Tokenizer, text: str) -> list[str]:
    """The added words among the tokens of a text."""
    first = tokenizer.vocabulary.size - len(WORDS)
    return [WORDS[token - first] for token in tokenizer.encode(text).tolist() if token >= first]


@pytest.fixture(params=["own", "roberta", "bert", "t5"])
def stored(request: pytest.FixtureRequest, corpus_folder, small_tokenizer, tmp_path):
    if request.param == "own":
        return folder.read(corpus_folder / "tokenizer")
    library, roles = small_tokenizer(request.param)
    PreTrainedTokenizerFast(tokenizer_object=library, **roles).save_pretrained(tmp_path / "theirs")
    return import_tokenizer(tmp_path / "theirs")


def test_a_word_is_one_token_wherever_it_stands(stored, tmp_path):
    before, after = Tokenizer(stored, tmp_path), Tokenizer(extended(stored, WORDS), tmp_path)
    assert after.vocabulary.size == before.vocabulary.size + len(WORDS)
    assert counted(after, TEXTS[0]) == ["[X_SEP]", "megas2s"]
    assert counted(after, TEXTS[1]) == ["[X_SEP]", "megas2s-large", "[X_SEP]"]
    assert counted(after, TEXTS[3]) == ["megas2s-large", "megas2s", "[X_SEP]"]
    assert after.encode(TEXTS[2]).tolist() == before.encode(TEXTS[2]).tolist()
    assert after.fingerprint != before.fingerprint
    for text in TEXTS:
        squeezed = "".join(after.decode(after.encode(text)).lower().split())
        assert squeezed == "".join(text.lower().split())


def test_transformers_reads_the_same_ids(stored, tmp_path):
    folder.write(extended(stored, WORDS), tmp_path / "t", {"kind": "tokenizer"})
    ours, theirs = Tokenizer.load(tmp_path / "t"), AutoTokenizer.from_pretrained(tmp_path / "t")
    for text in TEXTS:
        assert theirs(text, add_special_tokens=False)["input_ids"] == ours.encode(text).tolist()


def test_what_is_no_new_word_is_refused(stored):
    for words, said in ((["  "], "is no word"), (["abcxyz", "abcxyz"], "'abcxyz' is a token already")):
        with pytest.raises(BadConfig, match=said):
            extended(stored, words)
    assert extended(stored, []) is stored

"""BERT's `vocab.txt`: the ids of transformers, with and without capitals; a `vocab.txt` of another kind is refused."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import transformers

from megas2s.errors import BadData
from megas2s.tokenizer import folder as tokenizer_folder
from megas2s.tokenizer.importing import import_tokenizer
from megas2s.tokenizer.load import Tokenizer

SPECIAL = ["[PAD]", "[unused0]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
SMALL = ["the", "keep", "##er", "a", "u", "##u", "ü", "brief", "##s", ",", ".", "\u2028", "中", "[unused0]"]
LARGE = ["The", "Keep", "##ER", "Ü"]
TEXTS = ["The keepers, A 中中 brief.", "KeepER ÜU ü\u2028u", "keeper [MASK] [SEP] brief", "", "unheard-of 😀"]


@pytest.fixture
def published(tmp_path):
    """A folder with a vocab.txt and no tokenizer.json."""

    def make(tokens, config=None, settings=None) -> Path:
        (tmp_path / "theirs").mkdir()
        (tmp_path / "theirs" / "vocab.txt").write_text("".join(f"{token}\n" for token in tokens), encoding="utf-8")
        for name, content in (("tokenizer_config.json", config), ("config.json", settings)):
            if content is not None:
                (tmp_path / "theirs" / name).write_text(json.dumps(content))
        return tmp_path / "theirs"

    return make


CASES = {
    "small letters": (SMALL, {}, {"do_lower_case": True}),
    "capitals": (SMALL + LARGE, {}, {"do_lower_case": False}),
    "capitals made small": (SMALL + LARGE, {"do_lower_case": True}, {}),
    "small letters alone": (SMALL, {"do_lower_case": False}, {}),
    "accents kept": (SMALL, {"strip_accents": False}, {"do_lower_case": True}),
    "by its class": (SMALL, {"tokenizer_class": "BertTokenizer", "do_lower_case": True}, {}),
}


@pytest.mark.parametrize("case", CASES)
def test_ids_are_those_of_transformers_told_the_same(case, published, tmp_path):
    tokens, config, told = CASES[case]
    folder = published([*SPECIAL, *tokens], config, {"model_type": "bert"})
    theirs = transformers.BertTokenizer.from_pretrained(folder, **config, **told)
    tokenizer_folder.write(import_tokenizer(folder), tmp_path / "ours", {})
    ours, again = (Tokenizer.load(tmp_path / "ours"), transformers.AutoTokenizer.from_pretrained(tmp_path / "ours"))
    v = ours.vocabulary
    for text in TEXTS:
        ids = theirs(text).input_ids
        assert again(text).input_ids == ids
        if "[" not in text:  # of which nothing becomes a special token here
            assert [v.begin, *ours.encode(text).tolist(), v.eos] == ids
    assert (v.pad, v.unk, v.bos, v.eos, v.mask, v.size) == (0, 2, 3, 4, 5, len(SPECIAL) + len(tokens))


def test_what_nobody_said_is_said(published, caplog):
    caplog.set_level(logging.INFO)
    import_tokenizer(published([*SPECIAL, *SMALL, *LARGE], settings={"model_type": "unilm"}))
    assert "says nothing of do_lower_case, and its vocabulary has capitals: texts stay as they are" in caplog.text


@pytest.mark.parametrize(
    ("config", "settings"),
    [
        ({"tokenizer_class": "BertJapaneseTokenizer"}, {"model_type": "bert"}),
        ({}, {"model_type": "roberta", "tokenizer_class": "BertweetTokenizer"}),
        ({}, {"model_type": "flaubert"}),
    ],
)
def test_a_vocab_txt_of_another_kind_is_refused(config, settings, published):
    folder = published([*SPECIAL, *SMALL], config, settings)
    with pytest.raises(BadData, match=r"has vocab\.txt and no tokenizer\.json; load the tokenizer with transformers"):
        import_tokenizer(folder)


def test_a_vocabulary_without_the_ends_of_a_row_is_refused(published):
    with pytest.raises(BadData, match=r"vocab\.txt has no \[CLS\], \[SEP\], and a vocabulary as BERT's has"):
        import_tokenizer(published(["[PAD]", "[UNK]", *SMALL]))

"""Special tokens that a model's table has no row for go; a token that anything needs does not."""

from __future__ import annotations

import json

import pytest
import transformers
from tokenizers import processors

from megas2s.tokenizer import folder as tokenizer_folder
from megas2s.tokenizer.importing import import_tokenizer
from megas2s.tokenizer.load import Tokenizer
from megas2s.tokenizer.trimming import trimmed

from .conftest import TEXTS
from .test_importing import BARE, T5, model, published


@pytest.fixture
def late_mask(small_tokenizer, tmp_path):
    """A folder as bart-large-cnn's: `<mask>` is the last id, and a piece of the vocabulary too."""
    library, roles = small_tokenizer("roberta")
    library.add_special_tokens(["<late>"])
    described = json.loads(library.to_str())
    described["model"]["vocab"]["<late>"] = 500
    folder = tmp_path / "theirs"
    folder.mkdir()
    (folder / "tokenizer.json").write_text(json.dumps(described))
    roles |= {"mask_token": "<late>", "tokenizer_class": "BartTokenizer", "additional_special_tokens": ["<late>"]}
    (folder / "tokenizer_config.json").write_text(json.dumps(roles))
    (folder / "special_tokens_map.json").write_text(json.dumps({"mask_token": {"content": "<late>", "lstrip": True}}))
    return folder


def test_a_mask_without_a_row_goes_and_text_keeps_its_ids(late_mask, tmp_path):
    whole = import_tokenizer(late_mask)
    assert (whole.metadata.size, whole.metadata.mask) == (501, 500)
    cut = trimmed(whole, 500)
    assert cut is not None
    assert cut.lost == ["<late>"]
    tokenizer_folder.write(cut.tokenizer, tmp_path / "ours", {})
    tokenizer, before = Tokenizer.load(tmp_path / "ours"), Tokenizer.load(late_mask)
    assert (tokenizer.vocabulary.size, tokenizer.vocabulary.mask) == (500, None)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "ours")
    assert len(theirs) == 500
    assert theirs.mask_token is None
    for text in TEXTS.values():
        ids = before.encode(text).tolist()
        assert tokenizer.encode(text).tolist() == ids
        assert theirs(text).input_ids == [0, *ids, 2]


def test_a_sentencepiece_model_is_cut_too(tmp_path):
    published(tmp_path / "theirs", "sentencepiece.bpe.model", model(), BARE, {"model_type": "mbart"})
    whole = import_tokenizer(tmp_path / "theirs")
    rows = whole.metadata.size - 2
    cut = trimmed(whole, rows)
    assert cut is not None
    assert cut.lost == ["zh_CN", "<mask>"]
    tokenizer_folder.write(cut.tokenizer, tmp_path / "ours", {})
    tokenizer = Tokenizer.load(tmp_path / "ours")
    assert (tokenizer.vocabulary.size, tokenizer.vocabulary.mask, len(tokenizer.vocabulary.languages)) == (
        rows,
        None,
        24,
    )
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "ours")
    assert len(theirs) == rows
    for text in TEXTS.values():
        assert theirs(text).input_ids == [*tokenizer.encode(text).tolist(), tokenizer.vocabulary.eos]


def test_text_sentinels_and_what_rows_need_are_not_cut_away(late_mask, small_tokenizer, tmp_path):
    assert trimmed(import_tokenizer(late_mask), 499) is None, "499 is a piece of text"
    published(tmp_path / "t5", "spiece.model", model(**T5), BARE, {"model_type": "t5"})
    t5 = import_tokenizer(tmp_path / "t5")
    assert trimmed(t5, t5.metadata.size - 1) is None, "the first sentinel is the last id"
    library, roles = small_tokenizer("roberta")
    library.add_special_tokens(["<late>"])
    for name, role in (("pad", "pad_token"), ("eos", "eos_token")):
        (tmp_path / name).mkdir()
        library.save(str(tmp_path / name / "tokenizer.json"))
        (tmp_path / name / "tokenizer_config.json").write_text(json.dumps({**roles, role: "<late>"}))
        assert trimmed(import_tokenizer(tmp_path / name), 500) is None
    library.post_processor = processors.TemplateProcessing(
        single="$A </s> <late>", special_tokens=[("</s>", 2), ("<late>", 500)]
    )
    library.save(str(tmp_path / "eos" / "tokenizer.json"))
    (tmp_path / "eos" / "tokenizer_config.json").write_text(json.dumps(roles))
    assert trimmed(import_tokenizer(tmp_path / "eos"), 500) is None, "every row ends with it"

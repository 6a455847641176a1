"""Byte-level BPE, WordPiece, Unigram from `tokenizer.json`: the ids of transformers, the parts that tokens play."""

from __future__ import annotations

import itertools
import json
import pickle

import numpy as np
import pytest
import transformers
from tokenizers import Tokenizer as Library
from tokenizers import models, processors

from megas2s.errors import BadData
from megas2s.tokenizer import folder as tokenizer_folder
from megas2s.tokenizer.importing import import_tokenizer
from megas2s.tokenizer.load import Tokenizer

TEXTS = [
    "The lighthouse keeper wrote a letter every evening, but nobody knew to whom. So it is.",
    "Der Wärter schrieb jeden Abend einen Brief.\nNiemand wußte, an wen?",
    "외할머니는 아침마다 고추를 말리셨다. 祖母は毎朝、水をやる。",
    "",
]
WRITTEN_OUT = "a <mask> b [MASK] c </s> d [SEP] <s> [CLS] <pad> [PAD] <extra_id_0>"


@pytest.fixture(scope="module", params=["roberta", "bert", "t5"])
def theirs(request, small_tokenizer, tmp_path_factory):
    """A tokenizer of transformers and the folder it was saved in."""
    library, roles = small_tokenizer(request.param)
    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_object=library, **roles)
    folder = tmp_path_factory.mktemp("theirs") / request.param
    tokenizer.save_pretrained(folder)
    return tokenizer, folder


@pytest.fixture(scope="module")
def ours(theirs):
    return Tokenizer.load(theirs[1])


def test_ids_are_those_of_transformers(theirs, ours):
    expected = [theirs[0](text, add_special_tokens=False).input_ids for text in TEXTS]
    ids, offsets = ours.encode_batch(TEXTS)
    assert [ids[start:end].tolist() for start, end in itertools.pairwise(offsets)] == expected
    assert ids.dtype == np.int32


def test_a_row_is_framed_as_transformers_frames_it(theirs, ours):
    vocabulary = ours.vocabulary
    begin = [] if vocabulary.begin is None else [vocabulary.begin]
    text = TEXTS[0]
    assert [*begin, *ours.encode(text).tolist(), vocabulary.eos] == theirs[0](text).input_ids
    assert vocabulary.ends == len(begin) + 1


def test_padding_and_truncation_that_were_left_on_change_no_row(theirs, ours, tmp_path):
    library = Library.from_file(str(theirs[1] / "tokenizer.json"))
    library.enable_padding(length=8, direction="left", pad_id=theirs[0].pad_token_id, pad_token=theirs[0].pad_token)
    library.enable_truncation(max_length=2)
    library.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_bytes((theirs[1] / "tokenizer_config.json").read_bytes())
    again = Tokenizer.load(tmp_path)
    assert again.metadata == ours.metadata
    assert again.encode(TEXTS[0]).tolist() == ours.encode(TEXTS[0]).tolist()


def test_a_language_s_tag_opens_no_row(small_tokenizer, tmp_path, caplog):
    """MBart-50 opens a row with the tag of its language, which is another one in the next row."""
    library, roles = small_tokenizer("roberta")
    library.add_special_tokens(["en_XX", "de_DE"])
    tag = library.token_to_id("en_XX")
    library.post_processor = processors.TemplateProcessing(
        single="en_XX $A </s>", special_tokens=[("en_XX", tag), ("</s>", 2)]
    )
    library.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(roles))
    with caplog.at_level("INFO"):
        vocabulary = Tokenizer.load(tmp_path).vocabulary
    assert vocabulary.begin is None
    assert vocabulary.languages == {"de_DE": tag + 1, "en_XX": tag}
    assert "en_XX, a language's tag, opens rows in transformers" in caplog.text


def test_no_text_produces_a_special_token(ours):
    vocabulary = ours.vocabulary
    special = {vocabulary.pad, vocabulary.eos, vocabulary.bos, vocabulary.mask, vocabulary.begin, *vocabulary.sentinels}
    assert not special & set(ours.encode(WRITTEN_OUT).tolist())
    assert not special & set(vocabulary.ordinary.tolist())


def test_roles_are_those_of_the_files(theirs, ours):
    name, vocabulary = theirs[1].name, ours.vocabulary
    expected = {
        "roberta": (0, 1, 2, 3, 4, 0),
        "bert": (3, 0, 4, 2, 5, 3),
        "t5": (None, 0, 1, 2, None, None),
    }
    v = vocabulary
    assert (v.bos, v.pad, v.eos, v.unk, v.mask, v.begin) == expected[name]
    assert v.size == len(theirs[0])
    if name == "t5":
        assert v.sentinels == tuple(range(12, 2, -1))
    if name == "bert":
        assert 1 not in v.ordinary, "[unused0] means nothing"


def test_words_and_sentences_are_seen_through_how_pieces_are_written(ours):
    text = "The lighthouse keeper wrote a letter. So it is."
    ids = ours.encode(text)
    starts = ours.vocabulary.word_starts[ids].sum()
    punctuation = 2 if ours.piece(int(ids[-1])) == "." and "##" in "".join(map(ours.piece, ids)) else 0
    assert starts - punctuation in (8, 9)  # byte-level BPE sees no space before the first word
    assert ours.vocabulary.sentence_ends[ids].sum() == 2


def test_text_comes_back(theirs, ours):
    text = TEXTS[0]
    back = ours.decode([*ours.encode(text).tolist(), ours.vocabulary.eos])
    assert back.replace(" ", "").lower() == text.replace(" ", "").lower()
    assert ours.decode([ours.vocabulary.eos], specials=True) == ours.piece(ours.vocabulary.eos)


def test_it_is_written_and_read_with_the_same_fingerprint(theirs, ours, tmp_path):
    tokenizer_folder.write(import_tokenizer(theirs[1]), tmp_path / "ours", {})
    again = Tokenizer.load(tmp_path / "ours")
    assert again.fingerprint == ours.fingerprint
    assert pickle.loads(pickle.dumps(again)).encode(TEXTS[1]).tolist() == ours.encode(TEXTS[1]).tolist()
    reloaded = transformers.AutoTokenizer.from_pretrained(tmp_path / "ours")
    assert reloaded(TEXTS[1]).input_ids == theirs[0](TEXTS[1]).input_ids
    (tmp_path / "ours" / "tokenizer.json").write_text("{}")
    with pytest.raises(BadData, match="has been altered"):
        Tokenizer.load(tmp_path / "ours")


def test_a_file_that_does_not_say_of_what_type_its_model_is_is_read(theirs, ours, tmp_path):
    untyped = json.loads((theirs[1] / "tokenizer.json").read_text())
    del untyped["model"]["type"]
    (tmp_path / "tokenizer.json").write_text(json.dumps(untyped))
    (tmp_path / "tokenizer_config.json").write_bytes((theirs[1] / "tokenizer_config.json").read_bytes())
    again = Tokenizer.load(tmp_path)
    assert [again.encode(text).tolist() for text in TEXTS] == [ours.encode(text).tolist() for text in TEXTS]
    assert np.array_equal(again.vocabulary.word_starts, ours.vocabulary.word_starts)


@pytest.mark.parametrize("config", [{"do_lower_case": True}, {"model_max_length": 512}, None])
def test_a_configuration_that_names_no_token_leaves_them_their_usual_names(theirs, ours, config, tmp_path, caplog):
    """As published: bert-base-uncased, roberta-base, bart-base, electra-small-discriminator."""
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "tokenizer.json").write_bytes((theirs[1] / "tokenizer.json").read_bytes())
    if config is not None:
        (bare / "tokenizer_config.json").write_text(json.dumps(config))
    with caplog.at_level("INFO"):
        again = Tokenizer.load(bare)
    assert again.fingerprint == ours.fingerprint, "the same roles"
    assert "taken by their usual names: pad_token" in caplog.text
    tokenizer_folder.write(import_tokenizer(bare), tmp_path / "written", {})
    reloaded = transformers.AutoTokenizer.from_pretrained(tmp_path / "written")
    assert (reloaded.pad_token_id, reloaded.mask_token_id) == (theirs[0].pad_token_id, theirs[0].mask_token_id)
    assert reloaded(TEXTS[1]).input_ids == theirs[0](TEXTS[1]).input_ids


def test_what_a_configuration_names_counts_more_than_usual_names(small_tokenizer, tmp_path):
    library, roles = small_tokenizer("bert")
    roles |= {"pad_token": "[unused0]", "mask_token": None}
    transformers.PreTrainedTokenizerFast(tokenizer_object=library, **roles).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({**config, "mask_token": None}))
    vocabulary = Tokenizer.load(tmp_path).vocabulary
    assert (vocabulary.pad, vocabulary.mask) == (1, None)


def test_a_tokenizer_without_a_token_of_a_usual_name_is_refused(tmp_path):
    Library(models.BPE({"a": 0}, [])).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(BadData, match=r"no special token is called <pad> or \[PAD\]\); name one of its vocabulary"):
        Tokenizer.load(tmp_path)


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"pad_token": None}, r"no pad_token that is there, the token that fills rows up \(they say null\)"),
        ({"pad_token": "<PAD>"}, r"the token that fills rows up \(its vocabulary lacks pad_token '<PAD>'\)"),
        ({"unk_token": None}, r"no unk_token that is there, the token that stands for"),
        ({"eos_token": None, "sep_token": None}, r"no eos_token or sep_token that is there, the token that ends"),
    ],
)
def test_a_tokenizer_without_a_token_that_models_need_is_refused(small_tokenizer, tmp_path, changed, sentence):
    library, roles = small_tokenizer("roberta")
    library.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({**roles, **changed}))
    with pytest.raises(BadData, match=sentence):
        Tokenizer.load(tmp_path)


def test_files_of_a_slow_tokenizer_alone_are_refused(tmp_path):
    (tmp_path / "vocab.json").write_text("{}")
    with pytest.raises(BadData, match=r"has vocab\.json and no tokenizer\.json; load the tokenizer with transformers"):
        Tokenizer.load(tmp_path)


def test_a_tokenizer_of_another_kind_is_refused(tmp_path):
    Library(models.WordLevel({"a": 0}, unk_token="a")).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(BadData, match="is of type WordLevel"):
        Tokenizer.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(BadData, match="no tokenizer that the tokenizers library reads"):
        Tokenizer.load(tmp_path)

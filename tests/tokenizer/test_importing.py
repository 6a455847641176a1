import io
import json

import pytest
from sentencepiece import SentencePieceProcessor, SentencePieceTrainer
from transformers import AutoTokenizer, MBart50Tokenizer, MBartTokenizer, T5Tokenizer, XLMRobertaTokenizer

from megas2s.errors import BadData
from megas2s.tokenizer import folder as tokenizer_folder
from megas2s.tokenizer.importing import import_tokenizer
from megas2s.tokenizer.load import Tokenizer

from .conftest import TEXTS, documents
from .test_train import run_tool

SETTINGS = {"vocab_size": 400, "hard_vocab_limit": False, "num_threads": 1, "minloglevel": 2}
T5 = {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1}
WRITTEN = [*TEXTS.values(), "ﬁne  two spaces", "unheard-of: 😀ß", "lines\nand\ttabs"]


def model(**settings) -> bytes:
    """A model as others train them: SentencePiece's own defaults, NMT-NFKC and all."""
    written = io.BytesIO()
    texts = (text for _, text in documents())
    SentencePieceTrainer.train(sentence_iterator=texts, model_writer=written, **{**SETTINGS, **settings})
    return written.getvalue()


def saved_by_transformers(kind, name, folder, **settings):
    """A folder as `save_pretrained` writes it, the SentencePiece model beside it."""
    folder.mkdir()
    (folder / name).write_bytes(model(**settings))
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": kind.__name__}))
    theirs = kind.from_pretrained(folder)
    theirs.save_pretrained(folder)
    return theirs


def test_a_bare_model_keeps_its_ids(tmp_path):
    (tmp_path / "x.model").write_bytes(model(**T5))
    tokenizer = Tokenizer.load(tmp_path / "x.model")
    theirs = SentencePieceProcessor(model_file=str(tmp_path / "x.model"))
    for text in WRITTEN:
        assert tokenizer.encode(text).tolist() == theirs.encode(text)
    v = tokenizer.vocabulary
    assert (v.size, v.pad, v.eos, v.unk) == (theirs.get_piece_size(), 0, 1, 2)
    assert (v.bos, v.mask, v.doc, v.clm, v.languages, v.sentinels) == (None, None, None, None, {}, ())


def test_a_bare_model_is_written_for_transformers(tmp_path):
    (tmp_path / "x.model").write_bytes(model(**T5))
    made = tmp_path / "made"
    answer = run_tool("--import-model", tmp_path / "x.model", "--output", made, cwd=tmp_path)
    assert answer.returncode == 0, answer.stderr
    tokenizer, fast = Tokenizer.load(made), AutoTokenizer.from_pretrained(made)
    assert tokenizer.fingerprint == Tokenizer.load(tmp_path / "x.model").fingerprint
    for text in WRITTEN:
        assert fast(text)["input_ids"] == [*tokenizer.encode(text).tolist(), 1]
    again = run_tool("--import-model", tmp_path / "x.model", "--output", made, cwd=tmp_path)
    assert "already" in again.stdout


def test_a_model_without_padding_gets_it_as_its_last_id(tmp_path):
    (tmp_path / "x.model").write_bytes(model())
    v = Tokenizer.load(tmp_path / "x.model").vocabulary
    assert v.pad == v.size - 1
    assert (v.unk, v.bos, v.eos) == (0, 1, 2)


@pytest.mark.parametrize(
    ("kind", "name", "settings"),
    [
        (XLMRobertaTokenizer, "sentencepiece.bpe.model", {}),
        (MBartTokenizer, "sentencepiece.bpe.model", {"normalization_rule_name": "identity"}),
        (T5Tokenizer, "spiece.model", T5),
    ],
)
def test_a_transformers_folder_keeps_the_numbers_of_transformers(tmp_path, kind, name, settings):
    theirs = saved_by_transformers(kind, name, tmp_path / "theirs", **settings)
    tokenizer_folder.write(import_tokenizer(tmp_path / "theirs"), tmp_path / "ours", {})
    tokenizer, fast = Tokenizer.load(tmp_path / "ours"), AutoTokenizer.from_pretrained(tmp_path / "ours")
    for text in TEXTS.values():
        expected = theirs(text, add_special_tokens=False)["input_ids"]
        assert tokenizer.encode(text).tolist() == expected == fast(text, add_special_tokens=False)["input_ids"]
    v = tokenizer.vocabulary
    assert (v.size, v.pad, v.eos, v.unk) == (len(theirs), theirs.pad_token_id, theirs.eos_token_id, theirs.unk_token_id)
    assert v.mask == (None if kind is T5Tokenizer else theirs.mask_token_id)
    if kind is MBartTokenizer:
        assert v.languages["de_DE"] == theirs.convert_tokens_to_ids("de_DE")
    if kind is T5Tokenizer:
        assert v.sentinels == tuple(theirs.convert_tokens_to_ids(f"<extra_id_{n}>") for n in range(100))


BARE = {"model_max_length": 512}  # what many published folders have for a tokenizer_config.json
RULES = {
    "xlm-r": (XLMRobertaTokenizer, BARE, {"model_type": "xlm-roberta"}),
    "xlm-r by its class": (XLMRobertaTokenizer, {"tokenizer_class": "XLMRobertaTokenizerFast"}, {}),
    "mbart": (MBartTokenizer, BARE, {"model_type": "mbart"}),
    "mbart-50": (MBart50Tokenizer, BARE, {"model_type": "mbart", "tokenizer_class": "MBart50Tokenizer"}),
}


def published(folder, name, content, config, settings):
    """A folder with a SentencePiece model and no tokenizer.json."""
    folder.mkdir()
    (folder / name).write_bytes(content)
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    (folder / "config.json").write_text(json.dumps(settings))


@pytest.mark.parametrize("rule", RULES)
def test_a_model_of_fairseq_without_tokenizer_json_is_numbered_as_transformers_numbers_it(tmp_path, rule):
    kind, config, settings = RULES[rule]
    plain = {"normalization_rule_name": "identity"} if kind is MBartTokenizer else {}  # theirs forgets the model's rule
    published(tmp_path / "theirs", "sentencepiece.bpe.model", model(**plain), config, settings)
    theirs = kind.from_pretrained(tmp_path / "theirs")
    tokenizer_folder.write(import_tokenizer(tmp_path / "theirs"), tmp_path / "ours", {})
    tokenizer, fast = Tokenizer.load(tmp_path / "ours"), AutoTokenizer.from_pretrained(tmp_path / "ours")
    v = tokenizer.vocabulary
    assert [tokenizer.piece(number) for number in range(v.size)] == theirs.convert_ids_to_tokens(range(len(theirs)))
    assert (v.bos, v.pad, v.eos, v.unk, v.mask) == (0, 1, 2, 3, len(theirs) - 1)
    assert v.begin == (0 if kind is XLMRobertaTokenizer else None)
    assert len(v.languages) == {XLMRobertaTokenizer: 0, MBartTokenizer: 25, MBart50Tokenizer: 52}[kind]
    for text in TEXTS.values():
        ids = theirs(text, add_special_tokens=False)["input_ids"]
        assert tokenizer.encode(text).tolist() == ids == fast(text, add_special_tokens=False)["input_ids"]
        assert fast(text)["input_ids"] == ([0, *ids, 2] if kind is XLMRobertaTokenizer else [*ids, 2])
    if kind is XLMRobertaTokenizer:
        assert fast(TEXTS["en"])["input_ids"] == theirs(TEXTS["en"])["input_ids"]


SENTINELS = [f"<extra_id_{number}>" for number in range(5)]


@pytest.mark.parametrize(
    "config",
    [
        BARE,
        {"extra_ids": 5},
        {"extra_ids": 0},
        {"extra_ids": 5, "additional_special_tokens": SENTINELS},
        {"extra_ids": 5, "additional_special_tokens": [*SENTINELS, "<another>"]},
        {"extra_ids": 0, "additional_special_tokens": None},
    ],
)
def test_the_sentinels_of_a_t5_without_tokenizer_json_are_those_of_transformers(tmp_path, config):
    published(tmp_path / "theirs", "spiece.model", model(**T5), config, {"model_type": "t5"})
    theirs, tokenizer = T5Tokenizer.from_pretrained(tmp_path / "theirs"), Tokenizer.load(tmp_path / "theirs")
    v = tokenizer.vocabulary
    assert [tokenizer.piece(number) for number in range(v.size)] == theirs.convert_ids_to_tokens(range(len(theirs)))
    count = config.get("extra_ids", 100)
    assert v.sentinels == tuple(theirs.convert_tokens_to_ids(f"<extra_id_{n}>") for n in range(count))
    for text in TEXTS.values():
        assert tokenizer.encode(text).tolist() == theirs(text, add_special_tokens=False)["input_ids"]
    assert not {*v.sentinels} & {*tokenizer.encode("a <extra_id_0> b <extra_id_1> <another>").tolist()}


def test_extra_ids_that_are_no_number_are_refused(tmp_path):
    published(tmp_path / "x", "spiece.model", model(**T5), {"extra_ids": "many"}, {"model_type": "t5"})
    with pytest.raises(BadData, match="has extra_ids 'many'; name how many sentinels there are"):
        Tokenizer.load(tmp_path / "x")


@pytest.mark.parametrize("config", [BARE, {"extra_ids": 0, "additional_special_tokens": None}])
def test_the_sentinels_of_mt5_are_pieces_that_no_text_produces(tmp_path, config):
    own = [f"▁<extra_id_{number}>" for number in range(4, -1, -1)]
    content = model(**T5, user_defined_symbols=own)
    published(tmp_path / "theirs", "spiece.model", content, config, {"model_type": "mt5"})
    theirs = SentencePieceProcessor(model_proto=content)
    tokenizer_folder.write(import_tokenizer(tmp_path / "theirs"), tmp_path / "ours", {})
    tokenizer, fast = Tokenizer.load(tmp_path / "ours"), AutoTokenizer.from_pretrained(tmp_path / "ours")
    v = tokenizer.vocabulary
    assert v.size == theirs.get_piece_size()
    assert v.sentinels == tuple(theirs.piece_to_id(f"▁<extra_id_{number}>") for number in range(5))
    written = "a <extra_id_0> b<extra_id_1>"
    assert set(v.sentinels) & set(theirs.encode(written)), "the model itself reads them in text"
    assert not set(v.sentinels) & set(tokenizer.encode(written).tolist())
    assert not set(v.sentinels) & set(v.ordinary.tolist())
    for text in TEXTS.values():
        assert tokenizer.encode(text).tolist() == theirs.encode(text) == fast(text)["input_ids"][:-1]


def test_the_sentinels_of_mt5_are_found_in_tokenizer_json_alone(tmp_path):
    """transformers 5 saves no SentencePiece model, and does not call these pieces special."""
    own = [f"▁<extra_id_{number}>" for number in range(4, -1, -1)]
    config = {"extra_ids": 0, "additional_special_tokens": None}
    content = model(**T5, user_defined_symbols=own)
    published(tmp_path / "theirs", "spiece.model", content, config, {"model_type": "mt5"})
    theirs = T5Tokenizer.from_pretrained(tmp_path / "theirs")
    theirs.save_pretrained(tmp_path / "saved")
    assert not (tmp_path / "saved" / "spiece.model").exists()
    tokenizer = Tokenizer.load(tmp_path / "saved")
    v = tokenizer.vocabulary
    assert v.sentinels == tuple(theirs.convert_tokens_to_ids(f"▁<extra_id_{number}>") for number in range(5))
    assert not set(v.sentinels) & set(tokenizer.encode("a <extra_id_0> b<extra_id_1>").tolist())
    assert not set(v.sentinels) & set(v.ordinary.tolist())
    for text in TEXTS.values():
        assert tokenizer.encode(text).tolist() == theirs(text, add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize("kind", [XLMRobertaTokenizer, MBartTokenizer])
def test_a_bare_configuration_beside_tokenizer_json_brings_no_second_padding(tmp_path, kind, caplog):
    theirs = saved_by_transformers(kind, "sentencepiece.bpe.model", tmp_path / "theirs")
    (tmp_path / "theirs" / "tokenizer_config.json").write_text(json.dumps(BARE))
    with caplog.at_level("INFO"):
        tokenizer_folder.write(import_tokenizer(tmp_path / "theirs"), tmp_path / "ours", {})
    assert "taken by their usual names: pad_token <pad>, mask_token <mask>" in caplog.text
    v, fast = Tokenizer.load(tmp_path / "ours").vocabulary, AutoTokenizer.from_pretrained(tmp_path / "ours")
    assert (v.size, v.bos, v.pad, v.eos, v.unk, v.mask) == (len(theirs), 0, 1, 2, 3, theirs.mask_token_id)
    assert (fast.pad_token_id, fast.mask_token_id) == (1, theirs.mask_token_id)


def test_padding_that_text_can_produce_is_refused_until_it_is_named(tmp_path):
    published(tmp_path / "x", "spiece.model", model(user_defined_symbols=["<pad>"]), {}, {})
    with pytest.raises(BadData, match=r"holds a piece <pad> .*; name it there as pad_token"):
        Tokenizer.load(tmp_path / "x")
    (tmp_path / "x" / "tokenizer_config.json").write_text('{"pad_token": "<pad>"}')
    assert Tokenizer.load(tmp_path / "x").piece(Tokenizer.load(tmp_path / "x").vocabulary.pad) == "<pad>"


@pytest.mark.parametrize(
    ("settings", "config", "trained", "sentence"),
    [
        ({}, {"tokenizer_class": "CamembertTokenizer"}, {}, "a CamembertTokenizer, numbers its pieces differently"),
        ({"model_type": "m2m_100"}, BARE, {}, "a M2M100Tokenizer, numbers its pieces differently"),
        ({}, BARE, {}, "of XLM-R, of MBart or of another kind.*put the config.json of its model there"),
        ({"model_type": "mbart"}, BARE, T5, "begins with <pad>, </s>, <unk>, and a model of XLM-R or MBart with <unk>"),
        ({"model_type": "mbart"}, BARE, {"user_defined_symbols": ["de_DE"]}, "holds de_DE, which a tokenizer of XLM-R"),
        (
            {"model_type": "xlm-roberta"},
            {"added_tokens_decoder": {"5": {"content": "<mask>"}}},
            {},
            "a XLMRobertaTokenizer, numbers its pieces differently",
        ),
    ],
)
def test_numbers_that_are_not_known_are_refused(tmp_path, settings, config, trained, sentence):
    published(tmp_path / "x", "sentencepiece.bpe.model", model(**trained), config, settings)
    with pytest.raises(BadData, match=sentence):
        Tokenizer.load(tmp_path / "x")


def test_files_of_two_tokenizers_are_refused(tmp_path):
    saved_by_transformers(T5Tokenizer, "spiece.model", tmp_path / "t5", **T5)
    (tmp_path / "t5" / "spiece.model").write_bytes(model(**T5, max_sentencepiece_length=2))
    with pytest.raises(BadData, match="belong to different tokenizers"):
        Tokenizer.load(tmp_path / "t5")


@pytest.mark.parametrize("content", [b"", b"no model at all", b"\n\x03abc"])
def test_what_is_no_model_is_refused(tmp_path, content):
    (tmp_path / "x.model").write_bytes(content)
    with pytest.raises(BadData, match="is no SentencePiece model"):
        Tokenizer.load(tmp_path / "x.model")


def test_a_folder_without_any_tokenizer_is_refused(tmp_path):
    with pytest.raises(BadData, match="holds no tokenizer"):
        Tokenizer.load(tmp_path)


def test_a_bpe_model_needs_its_twin(tmp_path):
    (tmp_path / "x.model").write_bytes(model(model_type="bpe", **T5))
    with pytest.raises(BadData, match="of type BPE"):
        Tokenizer.load(tmp_path / "x.model")

import io
import json

import pytest
from sentencepiece import SentencePieceProcessor, SentencePieceTrainer
from transformers import AutoTokenizer, MBartTokenizer, T5Tokenizer, XLMRobertaTokenizer

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


def test_a_renumbered_tokenizer_without_its_numbers_is_refused(tmp_path):
    (tmp_path / "sentencepiece.bpe.model").write_bytes(model())
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "XLMRobertaTokenizer"}')
    with pytest.raises(BadData, match="numbers its pieces differently"):
        Tokenizer.load(tmp_path)


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

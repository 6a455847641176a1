import dataclasses
import gzip
import json
import os
from pathlib import Path

import pytest
from hypothesis import given
from transformers import AutoTokenizer, MBartConfig, RobertaPreLayerNormConfig

from megas2s.tokenizer.load import Tokenizer
from megas2s.tokenizer.train import TokenizerSpec, train_tokenizer

from .conftest import SPEC, TEXTS, documents
from .test_load import any_text, odd_text

SAMPLE = sorted((Path(__file__).parents[2] / "launch" / "sample_corpus").glob("*.txt"))


@pytest.fixture(scope="session")
def fast(folder):
    return AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="session")
def literal(folder):
    """Special tokens written in text are text, as they are to our own encoder."""
    return AutoTokenizer.from_pretrained(folder, split_special_tokens=True)


def same_ids(tokenizer, fast, text):
    ours = [*tokenizer.encode(text).tolist(), tokenizer.vocabulary.eos]
    return fast(text)["input_ids"] == ours


def test_transformers_knows_the_special_tokens(tokenizer, fast):
    v = tokenizer.vocabulary
    assert len(fast) == v.size
    named = (fast.bos_token_id, fast.pad_token_id, fast.eos_token_id, fast.unk_token_id, fast.mask_token_id)
    assert named == (v.bos, v.pad, v.eos, v.unk, v.mask)
    others = ["[DOC]", "[CLM]", "[ko]", "<sentinel_0>", "<sentinel_99>"]
    expected = [v.doc, v.clm, v.languages["ko"], v.sentinels[0], v.sentinels[99]]
    assert fast.convert_tokens_to_ids(others) == expected
    assert set(expected) <= set(fast.all_special_ids)
    assert fast.padding_side == "right"


@pytest.mark.parametrize("language", TEXTS)
def test_transformers_gives_our_ids_and_eos(tokenizer, fast, language):
    assert same_ids(tokenizer, fast, TEXTS[language])


@given(text=any_text | odd_text)
def test_transformers_gives_our_ids_for_any_text(tokenizer, literal, text):
    text = tokenizer.normalise(text)  # lone surrogates cannot be handed to the library
    assert same_ids(tokenizer, literal, text)
    assert literal.decode(literal(text)["input_ids"], skip_special_tokens=True) == text


def test_float32_and_float64_agree_on_long_texts(tmp_path):
    """Without rounded scores, two of these texts get other ids from the one library than from the other."""
    texts = {path.stem: path.read_text(encoding="utf-8") for path in SAMPLE}
    spec = TokenizerSpec(vocab_size=8192, num_threads=1)
    tokenizer = train_tokenizer(texts.items(), spec, tmp_path / "sample")
    fast = AutoTokenizer.from_pretrained(tmp_path / "sample")
    for text in texts.values():
        assert same_ids(tokenizer, fast, text.replace("\n", " "))
        assert same_ids(tokenizer, fast, 3 * text[::-1].replace("\n", ""))


@pytest.mark.parametrize("path", SAMPLE, ids=lambda path: path.stem)
def test_the_sample_corpus_has_the_same_ids(tokenizer, fast, path):
    assert same_ids(tokenizer, fast, path.read_text(encoding="utf-8"))


def test_normalisation_happens_in_transformers_too(tmp_path):
    spec = dataclasses.replace(SPEC, normalization="nfkc")
    tokenizer = train_tokenizer(documents(), spec, tmp_path / "nfkc")
    fast = AutoTokenizer.from_pretrained(tmp_path / "nfkc")
    text = "ﬁne Ｗｉｄｅ cafe\u0301 ①"
    assert same_ids(tokenizer, fast, text)
    assert tokenizer.decode(tokenizer.encode(text)) == "fine Wide café 1"


def test_a_mask_written_in_a_text_is_the_mask_to_transformers_only(tokenizer, fast):
    text = "The <mask> keeper, [DOC] wrote <mask>."
    ids = fast(text)["input_ids"]
    v = tokenizer.vocabulary
    expected = [*tokenizer.encode("The"), v.mask, *tokenizer.encode("keeper,"), tokenizer.encode("a ")[-1], v.doc]
    assert ids[: len(expected)] == expected
    assert ids.count(v.mask) == 2
    assert v.mask not in tokenizer.encode(text)
    assert fast.convert_ids_to_tokens(ids)[-3:] == ["<mask>", ".", "</s>"]


@pytest.mark.parametrize("config", [MBartConfig(), RobertaPreLayerNormConfig()], ids=lambda config: config.model_type)
def test_beside_a_model_the_same_tokenizer_is_loaded(folder, tokenizer, tmp_path, config):
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    config.save_pretrained(tmp_path)
    assert same_ids(tokenizer, AutoTokenizer.from_pretrained(tmp_path), "The letter\nто <0x41>")
    assert Tokenizer.load(tmp_path).fingerprint == tokenizer.fingerprint


@pytest.mark.skipif("MEGAS2S_DEV_DATA" not in os.environ, reason="MEGAS2S_DEV_DATA does not name the development data")
def test_every_language_of_the_development_data_has_the_same_ids(tmp_path):
    texts: dict[str, list[str]] = {}
    for path in sorted(Path(os.environ["MEGAS2S_DEV_DATA"]).glob("corpus/*.jsonl.gz")):
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            texts[path.name.split(".")[0]] = [
                json.loads(line)["text"] for line, _ in zip(lines, range(40), strict=False)
            ]
    spec = TokenizerSpec(vocab_size=8192, sample_characters=500_000, num_threads=2, character_coverage=0.995)
    stream = ((language, text) for language, group in texts.items() for text in group)
    tokenizer = train_tokenizer(stream, spec, tmp_path / "dev")
    fast = AutoTokenizer.from_pretrained(tmp_path / "dev")
    assert len(texts) == 16
    for language, group in texts.items():
        ids, offsets = tokenizer.encode_batch(group)
        expected = fast(group)["input_ids"]
        for number, text in enumerate(group):
            assert ids[offsets[number] : offsets[number + 1]].tolist() == expected[number][:-1], (language, number)
            assert tokenizer.decode(expected[number]) == tokenizer.normalise(text)

"""Encoders as Microsoft publishes them, through the tools: UniLM's files under their own names, MiniLM with XLM-R's
tokenizer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import transformers
from sentencepiece import SentencePieceTrainer

from megas2s.errors import BadConfig
from megas2s.models.weights import open_weights
from megas2s.tokenizer.load import Tokenizer

ROOT = Path(__file__).resolve().parents[2]
TO, FROM = "tools/convert_to_hf.py", "tools/convert_from_hf.py"
SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
SIZES |= {"max_position_embeddings": 40}
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefgh", *(f"##{letter}" for letter in "abcdefgh")]


@pytest.fixture
def unilm(tmp_path):
    """UniLM as it is published, with or without relative positions; gives its folder and the BERT that it is."""

    def make(*, second: bool):
        folder = tmp_path / "theirs"
        folder.mkdir()
        settings = {**SIZES, "vocab_size": len(WORDS), "type_vocab_size": 6, "hidden_act": "gelu"}
        torch.manual_seed(3)
        model = transformers.BertForMaskedLM(transformers.BertConfig(**settings))
        values = dict(model.state_dict())
        own = {"label_smoothing": 0.0}
        if second:
            own |= {"rel_pos_bins": 8, "max_rel_pos": 20}
            values["bert.rel_pos_bias.weight"] = torch.randn(2, 8)
        (folder / "config.json").write_text(json.dumps(settings | own))
        (folder / "vocab.txt").write_text("\n".join(WORDS) + "\n")
        torch.save(values, folder / "unilm-base-uncased.bin")
        return folder, model

    return make


def test_unilm_1_comes_as_it_is_published_and_goes_as_bert(call, unilm, tmp_path):
    folder, model = unilm(second=False)
    said = call(FROM, folder, tmp_path / "ours", "--allow-pickle")
    assert "2 encoder layers, width 16, tokenizer" in said
    v = Tokenizer.load(tmp_path / "ours" / "tokenizer").vocabulary
    assert (v.size, v.pad, v.begin, v.eos, v.mask) == (len(WORDS), 0, 2, 3, 4)
    said = call(TO, tmp_path / "ours", tmp_path / "back")
    assert "BertForMaskedLM, float32" in said
    assert "logits differ from ours by at most" in said
    again = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path / "back")
    assert all(torch.equal(again.state_dict()[name], value) for name, value in model.state_dict().items())
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "back")
    assert tokenizer("Bad cafe").input_ids == [
        2,
        *(WORDS.index(piece) for piece in ("b", "##a", "##d")),
        7,
        13,
        18,
        17,
        3,
    ]


def test_unilm_2_stays_here_and_says_so(script, unilm, tmp_path):
    folder, _ = unilm(second=True)
    done = script(FROM, folder, tmp_path / "ours", "--allow-pickle")
    assert done.returncode == 0, done.stdout
    assert open_weights(tmp_path / "ours").config.positions == "both"
    done = script(TO, tmp_path / "ours", tmp_path / "back")
    assert done.returncode == BadConfig.exit_code
    assert "relative positions beside learned ones, as UniLM 2 has, are in no class of transformers" in done.stdout
    assert "Traceback" not in done.stdout
    assert not (tmp_path / "back").exists()


@pytest.fixture
def minilm(tmp_path):
    """MiniLM as its multilingual model is published: BERT's body, padding 0 and all, and XLM-R's SentencePiece model,
    which numbers fewer ids than the table has rows."""
    folder = tmp_path / "theirs"
    folder.mkdir()
    file, texts = folder / "sentencepiece.bpe.model", ROOT / "launch" / "sample_corpus" / "en.txt"
    flags = {"vocab_size": 300, "hard_vocab_limit": False, "num_threads": 1, "minloglevel": 2}
    with open(texts, encoding="utf-8") as lines, open(file, "wb") as model:
        SentencePieceTrainer.train(sentence_iterator=iter(lines), model_writer=model, **flags)
    torch.manual_seed(4)
    body = transformers.BertModel(transformers.BertConfig(**SIZES, vocab_size=340), add_pooling_layer=False)
    body.save_pretrained(folder)
    settings = json.loads((folder / "config.json").read_text())
    assert settings["pad_token_id"] == 0
    (folder / "config.json").write_text(json.dumps(settings | {"tokenizer_class": "XLMRobertaTokenizer"}))
    return folder, body.eval()


def test_multilingual_minilm_is_bert_that_pads_as_its_tokenizer_does(call, minilm, tmp_path):
    folder, body = minilm
    said = call(FROM, folder, tmp_path / "ours")
    assert "note: config.json has pad_token_id 0 and the tokenizer pads with 1: so do rows here" in said
    assert "a random one was made" in said
    reader, v = open_weights(tmp_path / "ours"), Tokenizer.load(tmp_path / "ours" / "tokenizer").vocabulary
    assert (reader.config.family, reader.config.pad_id, reader.config.vocab_size) == ("bert", 1, 340)
    assert (v.pad, v.begin, v.eos, v.mask) == (1, 0, 2, v.size - 1)
    assert "BertModel" in call(TO, tmp_path / "ours", tmp_path / "back")
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "back")
    rows = tokenizer(["The keeper wrote a letter.", "So."], return_tensors="pt", padding=True)
    assert rows["input_ids"][1, -1] == 1
    again = transformers.AutoModel.from_pretrained(tmp_path / "back", add_pooling_layer=False).eval()
    assert again.config.pad_token_id == 1
    with torch.no_grad():
        states = (model(**rows).last_hidden_state for model in (again, body))
        assert torch.equal(*(each[rows["attention_mask"].bool()] for each in states))

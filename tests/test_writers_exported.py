"""Encoders that learned to write, exported: transformers loads the encoders they are, and the card says what else."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import transformers

from megas2s import files
from megas2s.convert.importing import HEAD, RANDOM
from megas2s.errors import BadConfig
from megas2s.models.loading import filled
from megas2s.models.weights import open_weights, save_weights

from .runs import THREE_STEPS

SIZES = {"hidden_size": 32, "num_heads": 4, "ffn_size": 64, "num_encoder_layers": 1, "max_positions": 40}
BERT = {"family": "bert", "norm_position": "post", "segment_types": 2, "norm_epsilon": 1e-12}
UNILM_2 = {**BERT, "family": "unilm", "positions": "both", "relative_buckets": 8, "relative_max_distance": 16}
TEXTS = ["the house is red and the tree", "not"]


@pytest.fixture
def tuned(random_weights, corpus_folder, tune_here, tmp_path):
    """`tuned("causal", **sizes)`: the run of a few steps."""
    records = [{"text": f"the house is {word}", "label": word} for word in ("red", "blue")] * 8
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))

    def run(method: str, *, headless: bool = False, **sizes):
        weights = random_weights(tmp_path / "weights", **SIZES, dropout=0.0, **sizes)
        if headless:
            weights = without_head(weights, tmp_path / "headless")
        data = {
            "run": str(tmp_path / "run"),
            "init": str(weights),
            "tokenizer": str(corpus_folder / "tokenizer"),
            "method": {"name": method},
            "data": {"train": str(tmp_path / "train.jsonl"), "dev": str(tmp_path / "train.jsonl")},
            "length": 24,
            "target_length": 8,
            **THREE_STEPS,
        }
        return tune_here(data)

    return run


def without_head(folder: Path, to: Path) -> Path:
    """The same weights, their head one that an import made up, as of MiniLM."""
    reader, temporary = open_weights(folder), files.empty_temporary(to)
    tensors = ((name, reader.tensor(name)) for name in reader.names)
    save_weights(temporary, tensors, config=reader.config, metadata={**reader.metadata, HEAD: RANDOM})
    files.publish(temporary, to, {"kind": "weights"})
    return to


@pytest.mark.parametrize("method", ["causal", "masked", "pseudo_masked"])
@pytest.mark.parametrize("shape", [{}, BERT], ids=["pre-norm", "BERT"])
def test_transformers_loads_the_encoder(method: str, shape: dict, tuned, call, tmp_path):
    left = tuned(method, **shape)
    said = call("tools/convert_to_hf.py", left.folder, tmp_path / "out")
    kind = "BertForMaskedLM" if shape else "RobertaPreLayerNormForMaskedLM"
    assert f"{kind}, float32" in said
    rows = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")(TEXTS, return_tensors="pt", padding=True)
    real, reader = rows["attention_mask"].bool(), open_weights(left.folder / method / "weights")
    ours = filled(reader.config, reader.tensor)
    with torch.no_grad():
        states = ours.encode(rows["input_ids"], attention_mask=rows["attention_mask"])[real]
        body = transformers.AutoModel.from_pretrained(tmp_path / "out", trust_remote_code=False).eval()
        torch.testing.assert_close(body(**rows).last_hidden_state[real], states, atol=1e-4, rtol=0)
        headed = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path / "out", trust_remote_code=False).eval()
        assert type(headed).__name__ == kind
        torch.testing.assert_close(headed(**rows).logits[real], ours.logits(states), atol=1e-4, rtol=0)


def test_the_folder_comes_back_as_what_was_trained(tuned, call, tmp_path):
    """Every bit of the encoder and its head, and what it was trained by: all that decoding asks for."""
    left = tuned("pseudo_masked", **BERT)
    call("tools/convert_to_hf.py", left.folder, tmp_path / "out")
    call("tools/convert_from_hf.py", tmp_path / "out", tmp_path / "back")
    before, after = open_weights(left.folder / "pseudo_masked" / "weights"), open_weights(tmp_path / "back")
    assert (after.config, after.metadata) == (before.config, before.metadata)
    assert all(torch.equal(before.tensor(name), after.tensor(name)) for name in before.names)


def test_the_card_says_that_it_writes_and_where_it_lay_it_does_not(tuned, call, tmp_path):
    left = tuned("causal")
    call("tools/convert_to_hf.py", left.folder, tmp_path / "out")
    text = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "fine-tuned with megas2s, by the method `causal`." in text
    assert "It writes: fine-tuned by the method `causal` (s2s-ft" in text
    assert "train: train.jsonl" in text
    assert str(tmp_path) not in text


def test_a_head_that_was_made_up_and_writes_since_is_exported(tuned, call, tmp_path):
    left = tuned("masked", headless=True)
    assert "ForMaskedLM, float32" in call("tools/convert_to_hf.py", left.folder, tmp_path / "out")
    headed = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path / "out")
    assert torch.equal(headed.lm_head.dense.weight, left.weights("masked")["mlm.dense.weight"])


def test_what_was_fine_tuned_from_unilm_2_says_that_it_stays_here(tuned, call, tmp_path):
    left = tuned("pseudo_masked", **UNILM_2)
    with pytest.raises(BadConfig, match=r"as UniLM 2 has, are in no class of transformers: the model stays in the for"):
        call("tools/convert_to_hf.py", left.folder, tmp_path / "out")
    assert not (tmp_path / "out").exists()

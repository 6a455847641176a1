"""Each shipped recipe of fine-tuning trains to its end as a small twin: its choices, and smaller numbers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from megas2s import files, generate
from megas2s.methods import WRITERS

ROOT = Path(__file__).resolve().parents[1]
RECIPES = {path.stem: path for path in sorted((ROOT / "launch" / "finetuning").glob("*.yaml"))}
SIZES = {"hidden_size": 16, "num_heads": 2, "ffn_size": 32, "num_encoder_layers": 2, "max_positions": 32}
LENGTHS = {"length": 24, "target_length": 12}
WORDS = ["the", "red", "house", "and", "a", "tree", "by", "the", "river"]


def record(columns: dict, method: str, number: int) -> dict:
    """A record with the keys that a recipe names."""
    text = " ".join(WORDS[number % 5 :])
    if method == "tag":
        return {columns["text"]: WORDS, columns["label"]: ["N" if number % 2 else "V"] * len(WORDS)}
    label = {"classify": str(number % 2), "regress": float(number % 3)}.get(method, " ".join(WORDS[: 2 + number % 4]))
    pair = {columns["pair"]: "a tree"} if columns.get("pair") else {}
    return {columns["text"]: text, columns["label"]: label, columns.get("language", "lang"): "en", **pair}


def twin(name: str, folder: Path, random_weights, tokenizer: Path) -> dict:
    """The recipe as plain data, with numbers that train in a second."""
    data = yaml.safe_load(RECIPES[name].read_text(encoding="utf-8"))
    method = data["method"]["name"]
    decoder = {"num_decoder_layers": 1} if method == "seq2seq" else {}
    paths = {}
    for split in ("train", "dev", "test"):
        given = data["data"][split]
        for language, _ in given.items() if isinstance(given, dict) else [("all", given)]:
            path = folder / f"{split}.{language}.jsonl"
            columns = {"text": "text", "label": "label", **data["data"].get("columns", {})}
            path.write_text("".join(json.dumps(record(columns, method, n)) + "\n" for n in range(12)))
            paths.setdefault(split, {})[language] = str(path)
    for split, found in paths.items():
        data["data"][split] = found if isinstance(data["data"][split], dict) else found["all"]
    data |= {
        "run": str(folder / "run"),
        "init": str(random_weights(folder / "weights", **SIZES, **decoder)),
        "tokenizer": str(tokenizer),
        "rows": 4,
        "engine": {"name": "local"},
        "precision": "fp32",
        "log": {"every": 2, "evaluate_every": 3, "tensorboard": False},
        "length": LENGTHS["length"],
    }
    data.pop("epochs", None)
    data.pop("micro_batch", None)
    data |= {"steps": 4, "schedule": {**data["schedule"], "warmup_steps": 1}}
    if "target_length" in data:
        data["target_length"] = LENGTHS["target_length"]
    if method in WRITERS and method != "seq2seq":
        data["max_positions"] = sum(LENGTHS.values())
    return data


@pytest.mark.parametrize("name", RECIPES)
def test_a_twin_trains_answers_and_writes(name, random_weights, corpus_folder, tune_here, tmp_path):
    data = twin(name, tmp_path, random_weights, corpus_folder / "tokenizer")
    run = tune_here(data)
    results = files.read_json(run.folder / "results.json")
    assert {"dev", "test"} <= results.keys()
    if best := data.get("best"):
        assert best["by"] in results["dev"]["all"]
    if data["method"]["name"] in WRITERS:
        how = generate.Decoding(beams=2, language="en" if data["data"].get("tags") else None)
        assert generate.load(run.folder).write(["the red house"], how)

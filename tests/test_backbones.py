"""Published kinds of models by the user's own route: a folder of transformers, its tokenizer, shards, training, export.

tools/convert_from_hf.py  ->  tools/preprocess.py  ->  launch/pretrain.py  ->  tools/convert_to_hf.py
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import transformers
import yaml

from megas2s.models.weights import open_weights
from megas2s.tokenizer.load import Tokenizer

from .backbones import BART, BERT, T5, save_pretrained

ROOT = Path(__file__).resolve().parents[1]
SAMPLE = ROOT / "launch" / "sample_corpus" / "en.txt"

STILL = dict.fromkeys(("dropout", "attention_dropout", "ffn_dropout", "output_dropout"), 0.0)
DENOISING = {"name": "denoising", "noise": "delete"}
E2S2 = {"name": "e2s2", "contrast": {"group": 4}}
PROMPTED = {"name": "e2s2", "base": {"name": "span_corruption"}}
PROMPTED |= {"contrast": {"group": 4, "representation": "prompt"}}
KINDS = {
    "bart": ("roberta", "BartForConditionalGeneration", BART, DENOISING | {"noise": "mask"}),
    "t5": ("t5", "T5ForConditionalGeneration", {**T5, "feed_forward_proj": "gated-gelu"}, DENOISING),
    "bart_e2s2": ("roberta", "BartForConditionalGeneration", BART, E2S2),
    "t5_e2s2": ("t5", "T5ForConditionalGeneration", T5, E2S2 | {"base": {"name": "span_corruption"}}),
    "bert": ("bert", "BertForMaskedLM", BERT, {"name": "mlm"}),
}
ALIKE = {  # of the same kinds as others, for what is not the same
    "mbart_e2s2": ("roberta", "MBartForConditionalGeneration", BART, E2S2),
    "mt5_e2s2": ("t5", "MT5ForConditionalGeneration", T5, PROMPTED),
}


@pytest.fixture(scope="module")
def tool(script) -> Callable[..., str]:
    def run(*arguments: object) -> str:
        done = script(*arguments)
        assert done.returncode == 0, done.stdout[-3000:]
        return done.stdout

    return run


@pytest.fixture(scope="module")
def prepared(request: pytest.FixtureRequest, tool, tmp_path_factory):
    """A folder of transformers, imported; a corpus by its tokenizer; a recipe of one stage that goes on from there."""
    tokenizer_kind, kind, sizes, objective = (KINDS | ALIKE)[request.param]
    folder = tmp_path_factory.mktemp(request.param)
    architecture = save_pretrained(folder / "theirs", tokenizer=tokenizer_kind, kind=kind, sizes=sizes)
    tool("tools/convert_from_hf.py", folder / "theirs", folder / "imported")
    preprocess = ["--held-out", 0.1, "--workers", 1, "--lang", "en"]
    tool("tools/preprocess.py", "--input", SAMPLE, "--tokenizer", folder / "theirs", "--output", folder / "corpus",
         *preprocess)  # fmt: skip
    stage = {"name": "on", "init": str(folder / "imported"), "objective": objective, "length": 48, "steps": 3}
    stage |= {"batch_tokens": 8 * 48, "micro_batch": 4, "schedule": {"lr": 1e-3, "warmup_steps": 1}}
    recipe = {
        "run": str(folder / "run"),
        "corpus": str(folder / "corpus"),
        "model": {"like": str(folder / "imported")},
        "workers": 0,
        "log": {"every": 1, "evaluate_every": 3, "heldout_rows": 4, "samples_every": 3, "tensorboard": False},
        "stages": [{**stage, "precision": "fp32", "engine": {"name": "local"}}],
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False))
    return folder, recipe, architecture


@pytest.mark.parametrize("prepared", KINDS | ALIKE, indirect=True)
def test_training_goes_on_from_an_imported_model_and_goes_back_as_what_it_was(prepared, tool):
    folder, _, architecture = prepared
    tool("launch/pretrain.py", folder / "recipe.yaml")
    before, after = open_weights(folder / "imported"), open_weights(folder / "run" / "on" / "weights")
    assert before.config == after.config.without_heads()
    moved = [name for name in before.names if not torch.equal(before.tensor(name), after.tensor(name))]
    assert len(moved) > 0.9 * len(before.names)
    said = tool("tools/convert_to_hf.py", folder / "run", folder / "exported")
    assert f"{architecture.__name__}, float32" in said
    assert "reloaded with transformers: logits differ from ours by at most" in said
    _, info = architecture.from_pretrained(folder / "exported", output_loading_info=True)
    assert not any(info.values()), info
    if after.config.token_classes:
        assert "heads of an objective or a task are left behind" in said
        _keeps_its_heads(folder, architecture, tool)
    again = transformers.AutoTokenizer.from_pretrained(folder / "exported")
    text = "The train to the coast leaves at seven."
    assert again(text).input_ids == transformers.AutoTokenizer.from_pretrained(folder / "theirs")(text).input_ids
    assert (
        Tokenizer.load(folder / "exported").fingerprint == Tokenizer.load(folder / "corpus" / "tokenizer").fingerprint
    )


def _keeps_its_heads(folder: Path, architecture: type, tool) -> None:
    """With the flag they lie in a file that transformers does not mind and that comes back with the model."""
    tool("tools/convert_to_hf.py", folder / "run", folder / "headed", "--keep-heads")
    _, info = architecture.from_pretrained(folder / "headed", output_loading_info=True)
    assert not any(info.values()), info
    tool("tools/convert_from_hf.py", folder / "headed", folder / "back")
    ours, back = open_weights(folder / "run" / "on" / "weights"), open_weights(folder / "back")
    assert back.config.token_classes == ours.config.token_classes
    assert all(torch.equal(back.tensor(name), ours.tensor(name)) for name in ours.names)


@pytest.mark.parametrize("prepared", KINDS, indirect=True)
def test_training_on_an_imported_model_resumes_bit_for_bit(prepared, disturb):
    _, recipe, _ = prepared
    stage = {**recipe["stages"][0], "steps": 6}
    straight, disturbed = disturb({**recipe, "stages": [stage], "checkpoints": {"every": 2}}, 3, 5)
    assert disturbed.bits("on") == straight.bits("on")


@pytest.mark.slow
@pytest.mark.ranks
@pytest.mark.timeout(600)
@pytest.mark.parametrize("prepared", KINDS, indirect=True)
@pytest.mark.parametrize("config", ["zero1", "zero3"])
def test_every_engine_logs_the_local_engine_s_losses(prepared, tool, ranks, config: str):
    folder, recipe, _ = prepared
    choices = {
        "local": {"name": "local"},
        "zero": {"name": "zero", "config": str(ROOT / "ds_configs" / f"{config}.json")},
    }
    losses = {}
    for name, engine in choices.items():
        run, path = folder / name, folder / f"{name}.yaml"
        stage = {**recipe["stages"][0], "engine": engine, "optimizer": {"grad_clip": 0.5}}
        data = {**recipe, "run": str(run), "model": recipe["model"] | STILL, "stages": [stage]}
        path.write_text(yaml.safe_dump(data, sort_keys=False))
        if name == "local":
            tool("launch/pretrain.py", path)
        else:
            done = ranks(2, "launch/pretrain.py", path, timeout=200)
            assert done.returncode == 0, done.stdout[-3000:]
        lines = map(json.loads, (run / "metrics.jsonl").read_text().splitlines())
        losses[name] = [line["loss"] for line in lines if line["kind"] == "train"]
    assert len(losses["local"]) == 3
    assert losses["zero"] == pytest.approx(losses["local"], rel=1e-5)


@pytest.mark.parametrize("prepared", ["bart", "t5", "bert"], indirect=True)
def test_a_tokenizer_of_another_model_is_refused(prepared, script, tmp_path: Path):
    folder, _, _ = prepared
    settings = json.loads((folder / "theirs" / "config.json").read_text())
    copy = tmp_path / "theirs"
    copy.mkdir()
    for file in (folder / "theirs").iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    changed = {
        key: 7 if value == settings["eos_token_id"] and "token_id" in key else value for key, value in settings.items()
    }
    (copy / "config.json").write_text(json.dumps(changed))
    done = script("tools/convert_from_hf.py", copy, tmp_path / "imported")
    assert done.returncode == 3
    assert "its model's config.json eos_token_id 7; they do not belong together" in done.stdout

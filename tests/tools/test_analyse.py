"""A model is looked into by one command: a run, its checkpoint, weights alone, or a Hugging Face folder."""

from __future__ import annotations

import importlib.util
import json
import math
import runpy
import shutil
import sys
from pathlib import Path

import pytest
import torch
import yaml

from megas2s import files
from megas2s.errors import BadCheckpoint, BadConfig, BadData
from megas2s.models.config import ModelConfig
from megas2s.models.init import seeded
from megas2s.models.parameters import canonical_parameters
from megas2s.models.transformer import build
from megas2s.models.weights import open_weights, save_weights
from megas2s.prepare import dry_run
from megas2s.recipe import Recipe
from megas2s.rng import generator
from megas2s.spec import parse
from megas2s.tokenizer.load import Tokenizer

ROOT = Path(__file__).resolve().parents[2]
TOOL = "tools/analyse.py"
NOUNS = ["keeper", "letter", "harbour", "window", "lantern", "garden", "river", "baker", "street", "bridge", "teacher"]
SIZES = {"hidden_size": 32, "num_heads": 4, "ffn_size": 64, "num_encoder_layers": 2, "max_positions": 64}


def write(config, vocabulary, folder, **facts):
    with seeded(3, folder.parent.name):
        model = build(config)
    tensors = ((name, value.detach()) for name, value in canonical_parameters(model).items())
    metadata = {"tokenizer": vocabulary.fingerprint, **facts}
    save_weights(folder, tensors, config=config, metadata=metadata)


@pytest.fixture(scope="session")
def run(corpus_folder, tmp_path_factory):
    """A run with a complete encoder stage, a complete encoder-decoder and a checkpoint, as training leaves them."""
    folder = tmp_path_factory.mktemp("runs") / "small"
    folder.mkdir()
    stages = [{"name": name} for name in ("mlm", "seq2seq", "more")]
    recipe = {"run": str(folder), "corpus": str(corpus_folder), "stages": stages}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    vocabulary = Tokenizer.load(corpus_folder / "tokenizer").vocabulary
    encoder = ModelConfig(vocab_size=vocabulary.size, **SIZES)
    seq2seq = ModelConfig(vocab_size=vocabulary.size, **SIZES, num_decoder_layers=2, tying="tied_to_decoder")
    for stage, config in (("mlm", encoder), ("seq2seq", seq2seq)):
        final = folder / stage / "weights"
        write(config, vocabulary, files.temporary_folder(final), stage=stage)
        files.publish(files.temporary_folder(final), final, {})
    checkpoint = folder / "more" / "checkpoints" / "step_00000010"
    temporary = files.temporary_folder(checkpoint)
    write(seq2seq, vocabulary, temporary / "weights")
    files.write_json(temporary / "state.json", {"state": {"step": 10, "tokens": 1, "skipped": 0}})
    files.publish(temporary, checkpoint, {"kind": "checkpoint"})
    return folder


@pytest.fixture(scope="session")
def text(tmp_path_factory):
    """400 sentences of 6 to 12 words, each with a word that few others have."""
    path = tmp_path_factory.mktemp("text") / "sentences.txt"
    rng = generator(0, "sentences")
    fill = ["the", "old", "and", "quiet", "was", "not", "far", "from", "here", "today", "again"]
    nouns = [*NOUNS, *(f"{noun}s" for noun in NOUNS)]
    lines = {
        " ".join(["Then", *rng.permutation(fill)[: int(rng.integers(4, 11))], nouns[n % len(nouns)], "came."])
        for n in range(400)
    }
    path.write_text("\n".join(sorted(lines)), encoding="utf-8")
    return path


@pytest.fixture
def call(monkeypatch, capsys):
    """Call the tool's `main` with arguments, in this process; gives what it printed."""

    def run_main(*arguments):
        monkeypatch.setattr(sys, "argv", [TOOL, *map(str, arguments)])
        runpy.run_path(str(ROOT / TOOL))["main"]()
        return capsys.readouterr().out

    return run_main


def analysis(folder):
    return json.loads((folder / "analysis.json").read_text(encoding="utf-8"))


def test_help_comes_without_heavy_imports(script):
    code = f"import runpy, sys; sys.argv = [{TOOL!r}, '--help']\ntry: runpy.run_path({TOOL!r}, run_name='__main__')\n"
    code += "except SystemExit: print('loaded', sorted({'torch', 'sklearn', 'matplotlib', 'numpy'} & set(sys.modules)))"
    done = script("-c", code)
    assert "--reinitialise" in done.stdout
    assert "loaded []" in done.stdout


def test_a_run_is_analysed_from_end_to_end_and_its_analyses_lie_beside_it(script, run, text):
    done = script(TOOL, run, "--text", text)
    assert done.returncode == 0, done.stdout
    out = run.parent / "analyses" / "small-seq2seq"
    written = {path.name for path in out.iterdir()}
    drawn = {"neurons.png", "attention.png", "probes.png", "geometry.png"}
    assert written == {"analysis.json", "tensorboard", "MANIFEST.json", *drawn}
    for name in drawn:
        assert (out / name).read_bytes().startswith(b"\x89PNG")
    found = analysis(out)
    assert found["model"]["stage"] == "seq2seq"
    assert found["sentences"]["texts"] > 300
    assert {stack: len(layers) for stack, layers in found["neurons"].items()} == {"encoder": 2, "decoder": 2}
    assert all(0 < layer["rate"] < 1 for layers in found["neurons"].values() for layer in layers)
    assert set(found["attention"]) == {
        "encoder_self_attention",
        "decoder_self_attention",
        "decoder_cross_attention",
    }
    assert all(len(layer["heads"]["nats"]) == 4 for layer in found["attention"]["decoder_cross_attention"])
    assert set(found["probes"]) == {"length", "content", "bigrams", "order"}
    assert all(len(probed["accuracy"]) == 3 for probed in found["probes"].values())
    assert found["probes"]["content"]["accuracy"][0] > found["probes"]["content"]["majority"] + 0.3
    bigrams = found["probes"]["bigrams"]
    assert abs(bigrams["accuracy"][0] - 0.5) < 4 * bigrams["error"][0], "a mean of embeddings has no order"
    assert len(found["geometry"]["uniformity"]) == len(found["geometry"]["alignment"]["noise"]) == 3
    table = done.stdout.splitlines()
    (row,) = (line for line in table if line.startswith("layer 1") and f"{bigrams['accuracy'][1]:.3f}" in line)
    assert f"{found['neurons']['encoder'][0]['rate']:.3f}" in row
    assert sum(line.startswith("layer 2") for line in table) == 2, "one for each stack"
    assert any(line.startswith("majority") and f"{bigrams['majority']:.3f}" in line for line in table)


def test_tensorboard_has_a_scalar_for_every_layer(run, text, call, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    call(run / "mlm", "--text", text, "--analyses", "neurons", "geometry", "--out", tmp_path / "out")
    events = EventAccumulator(str(tmp_path / "out" / "tensorboard")).Reload()
    found = analysis(tmp_path / "out")
    rates = [(event.step, event.value) for event in events.Scalars("encoder/active")]
    assert rates == [(n, pytest.approx(layer["rate"])) for n, layer in enumerate(found["neurons"]["encoder"], start=1)]
    assert [event.step for event in events.Scalars("geometry/uniformity")] == [0, 1, 2]
    assert set(events.Tags()["images"]) == {"neurons", "geometry"}
    assert not {"attention", "probes"} & found.keys()


def test_the_same_call_finds_the_same(run, text, call, tmp_path):
    checkpoint = run / "more" / "checkpoints" / "step_00000010"
    few = (checkpoint, "--text", text, "--sentences", 150)
    for name in ("one", "two"):
        call(*few, "--probes", "bigrams", "--views", "noise", "dropout", "--out", tmp_path / name)
    assert analysis(tmp_path / "one") == analysis(tmp_path / "two")
    assert analysis(tmp_path / "one")["model"]["step"] == "10"
    call(*few, "--analyses", "neurons", "--seed", 1, "--out", tmp_path / "other")
    assert analysis(tmp_path / "one")["neurons"] != analysis(tmp_path / "other")["neurons"]


@pytest.mark.parametrize("kind", ["BartForConditionalGeneration", "RobertaForMaskedLM"])
def test_a_hugging_face_folder_is_analysed_without_being_imported(kind, corpus_folder, text, call, tmp_path):
    import transformers

    made = getattr(transformers, kind)
    vocabulary = Tokenizer.load(corpus_folder / "tokenizer").vocabulary
    sizes = {"vocab_size": vocabulary.size, "max_position_embeddings": 80}
    if kind.startswith("Bart"):
        sizes |= {"d_model": 24, "encoder_layers": 3, "decoder_layers": 1, "encoder_ffn_dim": 40, "decoder_ffn_dim": 40}
        sizes |= {"encoder_attention_heads": 4, "decoder_attention_heads": 4}
    else:
        sizes |= {"hidden_size": 24, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 40}
    torch.manual_seed(0)
    folder = tmp_path / "theirs"
    made(made.config_class(**sizes)).save_pretrained(folder)
    shutil.copytree(corpus_folder / "tokenizer", folder, dirs_exist_ok=True)
    before = sorted(path.name for path in folder.iterdir())
    printed = call(folder, "--text", text, "--sentences", 150, "--probes", "length", "bigrams")
    found = analysis(tmp_path / "analyses" / "theirs")
    assert [len(layers) for layers in found["neurons"].values()] == ([3, 1] if kind.startswith("Bart") else [3])
    assert found["probes"]["length"]["accuracy"][1] > found["probes"]["length"]["majority"]
    assert ("decoder" in printed.replace("--", "")) == kind.startswith("Bart")
    assert before == sorted(path.name for path in folder.iterdir())


def test_a_random_model_attends_almost_evenly(run, text, call, tmp_path):
    call(run, "--text", text, "--analyses", "attention", "--stacks", "encoder", "--out", tmp_path / "out")
    (layers,) = analysis(tmp_path / "out")["attention"].values()
    assert all(0.97 < layer["share"] <= 1 for layer in layers)
    assert all(layer["nats"] < math.log(64) for layer in layers)


def test_a_run_is_shown_its_own_held_out_documents(run, call, tmp_path):
    with pytest.raises(BadData, match=r"[1-4]\d different sentences of at least 5 words were found"):
        call(run, "--out", tmp_path / "out")
    with pytest.raises(BadData, match="no heldout documents of language 'de'"):
        call(run, "--language", "de", "--out", tmp_path / "out")


def test_a_dry_run_writes_nothing(run, text, call, tmp_path):
    printed = call(run, "--text", text, "--dry-run", "--out", tmp_path / "out")
    assert "would analyse neurons, attention, probes, geometry of encoder and decoder, probe length (" in printed
    assert not list(tmp_path.iterdir())


def test_only_an_analysis_is_replaced_and_only_when_told(run, text, call, tmp_path):
    few = (run / "mlm", "--text", text, "--analyses", "neurons")
    call(*few, "--out", tmp_path / "out")
    with pytest.raises(BadConfig, match="out exists; add --overwrite"):
        call(*few, "--out", tmp_path / "out")
    call(*few, "--out", tmp_path / "out", "--overwrite")
    with pytest.raises(BadConfig, match="holds no analysis of ours, so it is not replaced"):
        call(*few, "--out", run, "--overwrite")


@pytest.mark.parametrize(
    ("stage", "flags", "kind", "said"),
    [
        ("mlm", ["--stacks", "decoder"], BadConfig, "is an encoder, and --stacks asks for a decoder"),
        ("mlm", ["--max-tokens", 65], BadConfig, "--max-tokens 65 is more than the 64 positions"),
        ("mlm", ["--sentences", 0], BadConfig, "--sentences must be at least 1, got 0"),
        ("mlm", ["--device", "abacus"], BadConfig, "--device abacus cannot be used here"),
        ("mlm", ["--corpus", "corpora/x"], BadConfig, "--text and --corpus"),
        ("mlm", ["--reinitialise", "encoder"], BadConfig, "name their folder with --out"),
        ("none", [], BadConfig, "there is no folder"),
        ("more", [], BadCheckpoint, "is not complete; its newest checkpoint is"),
    ],
)
def test_what_cannot_be_analysed_is_refused_with_a_sentence(run, text, call, stage, flags, kind, said):
    with pytest.raises(kind, match=said):
        call(run / stage, "--text", text, *flags)


def test_too_few_sentences_end_the_tool_with_a_sentence(script, run, tmp_path):
    (tmp_path / "few.txt").write_text("Only one sentence of some words is here.\n", encoding="utf-8")
    done = script(TOOL, run / "mlm", "--text", tmp_path / "few.txt")
    assert done.returncode == BadData.exit_code
    assert "error: 1 different sentences of at least 5 words were found" in done.stdout
    assert "Traceback" not in done.stdout


def test_layers_drawn_anew_are_weights_that_a_stage_starts_from(run, call, local_recipe, tmp_path):
    printed = call(run, "--reinitialise", "encoder.layers.1, decoder.*", "--out", tmp_path / "fresh", "--seed", 5)
    assert "tensors drawn anew with seed 5" in printed
    before, after = open_weights(run / "seq2seq" / "weights"), open_weights(tmp_path / "fresh")
    changed = {name for name in before.names if not torch.equal(before.tensor(name), after.tensor(name))}
    constant = (".bias", "norm.weight")  # are where they began
    drawn = {name for name in before.names if name.startswith(("encoder.layers.1.", "decoder."))}
    assert changed == {name for name in drawn if not name.endswith(constant)}
    assert after.metadata["reinitialised"] == "encoder.layers.1,decoder.*"
    files.verify(tmp_path / "fresh")
    stage = {**local_recipe["stages"][-1], "init": str(tmp_path / "fresh")}
    plan = dry_run(parse(Recipe, {**local_recipe, "stages": [stage]}, source="recipe"))
    assert "stage seq2seq: denoising" in plan
    with pytest.raises(BadConfig, match="exists; add --overwrite"):
        call(run, "--reinitialise", "encoder", "--out", tmp_path / "fresh")
    with pytest.raises(BadConfig, match=r"--reinitialise: 'encodr' matches no parameter; did you mean 'encoder'\?"):
        call(run, "--reinitialise", "encodr", "--out", tmp_path / "other")


@pytest.fixture
def task(tmp_path):
    """A recipe of a task that a few steps learn: which colour is named."""
    for split, count in (("train", 32), ("test", 8)):
        rows = [{"text": f"the {NOUNS[n % 11]} is {('red', 'blue')[n % 2]}", "label": n % 2} for n in range(count)]
        (tmp_path / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = {
        "run": "unused",
        "init": "unused",
        "method": {"name": "classify"},
        "data": {split: str(tmp_path / f"{split}.jsonl") for split in ("train", "test")},
        "length": 32,
        "rows": 16,
        "steps": 2,
        "schedule": {"lr": 1e-3},
        "precision": "fp32",
        "engine": {"name": "local"},
        "trial_step": False,
        "log": {"tensorboard": False},
    }
    (tmp_path / "task.yaml").write_text(yaml.safe_dump(recipe))
    return tmp_path / "task.yaml"


def test_effects_of_parts_are_planned(run, task, script, tmp_path):
    arguments = [run / "seq2seq", "--effects", task, "--out", tmp_path / "effects", "--each-layer", "--dry-run"]
    done = script(TOOL, *arguments)
    assert done.returncode == 0, done.stdout
    # As it is; each stack frozen and anew, and so each of its two layers.
    assert done.stdout.count("classify, 2 steps of 16 rows") == 1 + 2 * (2 + 2 * 2)
    assert not (tmp_path / "effects").exists()
    assert not (tmp_path / "effects_runs").exists()


@pytest.mark.slow
def test_effects_of_parts_are_compared(run, task, script, tmp_path):
    """By the dev set, for the test set has no labels."""
    labelled = (tmp_path / "test.jsonl").rename(tmp_path / "dev.jsonl").read_text()
    bare = ({"text": json.loads(line)["text"]} for line in labelled.splitlines())
    (tmp_path / "test.jsonl").write_text("".join(json.dumps(record) + "\n" for record in bare))
    changes = ["steps=3", f"data.dev={tmp_path / 'dev.jsonl'}"]
    arguments = [run / "mlm", "--effects", task, "--out", tmp_path / "effects", "--set", *changes]
    done = script(TOOL, *arguments)
    assert done.returncode == 0, done.stdout
    found = json.loads((tmp_path / "effects" / "effects.json").read_text())
    assert list(found["scores"]) == ["as it is", "encoder frozen", "encoder anew"]
    assert found["scores"]["as it is"].keys() == {"accuracy", "macro_f1", "matthews"}
    assert (tmp_path / "effects" / "effects.png").stat().st_size > 1000
    frozen = open_weights(tmp_path / "effects_runs" / "encoder_frozen" / "classify" / "weights")
    before = open_weights(run / "mlm" / "weights")
    name = "encoder.layers.0.ffn.up.weight"
    assert torch.equal(frozen.tensor(name), before.tensor(name))
    anew = open_weights(tmp_path / "effects_runs" / "encoder_anew" / "classify" / "weights")
    assert not torch.allclose(anew.tensor(name), before.tensor(name), atol=0.01)
    again = script(TOOL, *arguments)
    assert again.returncode == 2
    assert "exists; add --overwrite" in again.stdout


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--effects", "task.yaml"], "name their folder with --out"),
        (["--set", "steps=3"], "--set and --each-layer are about --effects"),
        (["--effects", "task.yaml", "--reinitialise", "encoder"], "one of them must go"),
        (["--effects", "nowhere.yaml", "--out", "{tmp}/effects"], "no recipe at nowhere.yaml"),
    ],
)
def test_effects_that_cannot_be_are_refused(run, script, tmp_path, flags, said):
    done = script(TOOL, run / "mlm", *(flag.format(tmp=tmp_path) for flag in flags))
    assert done.returncode == 2
    assert said in done.stdout
    assert "Traceback" not in done.stdout


def test_effects_that_nothing_can_tell_are_refused_before_anything_is_trained(run, task, script, tmp_path):
    done = script(TOOL, run / "mlm", "--effects", task, "--out", tmp_path / "effects", "--set", "data.test=null")
    assert done.returncode == 2
    assert "has neither a data.test nor a data.dev with labels, so there is nothing to compare" in done.stdout
    assert not (tmp_path / "effects_runs").exists()


@pytest.mark.parametrize("flags", [[], ["--effects", "task.yaml", "--out", "out"]], ids=["analyse", "effects"])
def test_drawings_without_matplotlib_are_refused(flags, run, call, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(BadConfig, match="the drawings need matplotlib, which is not installed"):
        call(run / "mlm", *flags)

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from megas2s.data.corpus import TOKENIZER, write_corpus
from megas2s.tokenizer.load import Tokenizer
from megas2s.tokenizer.train import TokenizerSpec, train_tokenizer

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "tools" / "plan.py"
SIXTEEN = ("--gpus", "16", "--vocab-size", "64000")
RECIPE = """
run: {folder}/run
corpus: {folder}/corpus
model:
  {{hidden_size: 1024, num_heads: 16, ffn_size: 4096, num_encoder_layers: 12, num_decoder_layers: 12,
    max_positions: 512}}
stages:
  - {{name: mlm, steps: 500_000, batch_tokens: 1_048_576, micro_batch: 32, objective: {{name: mlm}},
     schedule: {{lr: 1.0e-4}}}}
  - {{name: frozen, init: mlm, part: encoder, decoder: {{tying: tied_to_decoder}}, freeze: ["encoder.*"],
     steps: 200_000, batch_tokens: 1_048_576, micro_batch: 32, objective: {{name: denoising}},
     schedule: {{lr: 1.0e-4}}, engine: {{name: zero, config: ds_configs/zero2.json}}}}
  - {{name: unfrozen, init: frozen, steps: 150_000, batch_tokens: 1_048_576, micro_batch: 32,
     objective: {{name: denoising}}, schedule: {{lr: 1.0e-4}}, engine: {{name: zero, config: ds_configs/zero3.json}}}}
"""


@pytest.fixture
def recipe(tmp_path):
    path = tmp_path / "two_stage.yaml"
    path.write_text(RECIPE.format(folder=tmp_path))
    return str(path)


@pytest.fixture
def run(monkeypatch, capsys):
    """The script in this process: exit code, what it prints, what it complains of."""

    def start(*arguments):
        monkeypatch.chdir(ROOT)
        monkeypatch.setattr(sys, "argv", [str(SCRIPT), *arguments])
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(SCRIPT), run_name="__main__")
        return ended.value.code, *capsys.readouterr()

    return start


def run_without(package, folder, *arguments):
    """The script in a process of its own, where `package` cannot be imported."""
    (folder / "absent" / package).mkdir(parents=True)
    (folder / "absent" / package / "__init__.py").write_text("raise ImportError('not installed')")
    path = os.pathsep.join([str(folder / "absent"), str(ROOT)])
    command = [sys.executable, str(SCRIPT), *arguments]
    return subprocess.run(command, cwd=ROOT, env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True)


def test_a_plan_needs_neither_corpus_nor_deepspeed_and_states_both_savings(recipe, tmp_path):
    done = run_without("deepspeed", tmp_path, recipe, *SIXTEEN, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    plan = json.loads(done.stdout)
    assert [stage["units"] for stage in plan["stages"]] == pytest.approx([5.0, 3.8, 3.6])
    assert plan["saving"]["saved_units"] == pytest.approx(1 - 12.4 / 17.0)
    assert plan["total"]["tokens"] == 850_000 * 2**20
    # 2048 rows; encoder 6 * (12 * 12 * 2^20 * 512 + 2 * 12 * 512 * 512 * 1024) for each, and at 77 positions
    # 6 * 2^20 for the dense layer and 6 * 64000 * 1024 for the vocabulary.
    mlm = 2048 * 6 * (144 * 2**20 * 512 + 24 * 2**28 + 77 * (2**20 + 64_000 * 1024))
    assert plan["stages"][0]["flops"] == 500_000 * mlm
    # One H200 at 40 % of 989 TFLOP/s, sixteen of them.
    assert plan["stages"][0]["days"] == pytest.approx(500_000 * mlm / (16 * 0.4 * 989e12) / 86_400)
    assert plan["stages"][0]["gpu_hours"] == pytest.approx(plan["stages"][0]["days"] * 24 * 16)
    assert plan["saving"]["scratch"]["flops"] > plan["total"]["flops"]
    # ZeRO-2 spreads gradients and optimizer over 16 ranks, and only the decoder's half has any; ZeRO-3 parameters too.
    frozen = plan["stages"][1]["memory"]
    assert frozen["optimizer"] == pytest.approx(3 * frozen["gradients"], rel=1e-6)  # 12 bytes to 4
    assert frozen["parameters"] > 8 * frozen["gradients"]  # 2 bytes to 4
    assert plan["stages"][2]["memory"]["parameters"] == pytest.approx(frozen["parameters"] / 16, rel=1e-6)


def test_a_pipeline_is_placed_by_cost_and_says_how_long_it_waits(run, recipe):
    overrides = [f"stages.{stage}.engine={{name: pipe, stages: 4}}" for stage in ("mlm", "unfrozen")]
    code, printed, _ = run(recipe, *SIXTEEN, "--json", *overrides)
    assert code == 0
    stages = json.loads(printed)["stages"]
    assert stages[1]["pipeline"] is None
    encoder, whole = stages[0]["pipeline"], stages[2]["pipeline"]
    # 2048 rows on 4 data ranks, 32 at a time: 16 micro-batches, and 3 of 19 waiting were all parts alike.
    assert (whole["data_ranks"], whole["micro_batches"]) == (4, 16)
    assert 3 / 19 <= whole["bubble"] < 0.2
    assert sum(part["share"] for part in whole["parts"]) == pytest.approx(1)
    # Decoder layers cost more than the encoder's, so the first part has more of them than the last has of the others.
    assert [part["units"] for part in encoder["parts"]][-1].endswith("head")
    first, *_, last = (part["units"] for part in whole["parts"])
    assert first.startswith("encoder 0-")
    assert last.endswith(", head")
    full = json.loads(run(recipe, *SIXTEEN, "--json")[1])["stages"][0]["memory"]
    assert stages[0]["memory"]["parameters"] < full["parameters"]
    code, printed, _ = run(recipe, *SIXTEEN, *overrides)
    assert "pipeline of stage unfrozen: 4 parts x 4 data ranks, 16 micro-batches, " in printed


def test_ranks_that_do_not_divide_into_pipelines_are_refused(run, recipe):
    code, _, said = run(recipe, *SIXTEEN, "stages.mlm.engine={name: pipe, stages: 5}")
    assert code == 2
    assert "stage 'mlm': 16 ranks do not divide into pipelines of 5 stages; change engine.stages or the ranks" in said


def test_more_pipe_stages_than_layers_are_refused(run, recipe):
    code, _, said = run(recipe, *SIXTEEN, "stages.mlm.engine={name: pipe, stages: 16}")
    assert code == 2
    assert "16 pipe stages for 13 units (layers and the head); take fewer stages" in said


def test_two_views_of_a_window_keep_twice_the_activations(run, recipe):
    def kept(objective: str) -> list[int]:
        code, printed, _ = run(recipe, *SIXTEEN, "--json", f"stages.unfrozen.objective={objective}")
        assert code == 0
        stage = json.loads(printed)["stages"][2]
        return [stage["memory"]["activations"], stage["tokens"]]

    plain = kept("{name: denoising, noise: delete}")
    both = kept("{name: e2s2, base: {name: denoising, noise: delete}, contrast: {group: 32}}")
    assert both == [2 * plain[0], plain[1]]


def test_the_table_says_what_a_person_asks(run, recipe):
    code, printed, _ = run(recipe, *SIXTEEN, "--gpu", "h100")
    assert code == 0
    lines = printed.splitlines()
    assert lines[0] == "16 x h100 (989 TFLOP/s bf16), MFU 40%, vocabulary 64,000"
    assert next(line for line in lines if line.startswith("published units")).split()[2:] == ["12.40", "17.00", "27.1%"]
    assert next(line for line in lines if line.startswith("model FLOPs")).split()[-1] == "27.9%"
    assert [line.split()[0] for line in lines[2:7]] == ["stage", "mlm", "frozen", "unfrozen", "total"]


def test_the_shipped_recipe_states_the_published_saving_and_ours_side_by_side(run):
    code, printed, _ = run("launch/recipes/two_stage.yaml", "--vocab-size", "250112")
    assert code == 0
    published, ours = printed.splitlines()[-3:-1]
    assert published.split() == ["published", "units", "12.40", "17.00", "27.1%"]
    assert (ours.split()[:2], ours.split()[-1]) == (["model", "FLOPs"], "27.4%")


def test_a_dry_run_checks_and_says_what_would_be_planned(run, recipe):
    code, printed, _ = run(recipe, *SIXTEEN, "--dry-run")
    assert (code, printed) == (0, "would plan mlm, frozen, unfrozen on 16 x h200, vocabulary 64,000\n")
    code, printed, complaint = run(recipe, *SIXTEEN, "--dry-run", "stages.frozen.freeze=[encodr.*]")
    assert (code, printed, "did you mean" in complaint) == (2, "", True)


def test_what_does_not_fit_is_said(run, recipe):
    _, printed, _ = run(recipe, *SIXTEEN, "--gpu", "l4", "stages.unfrozen.micro_batch=128")
    short = [line.split()[0] for line in printed.splitlines() if line.endswith("does not fit")]
    assert short == ["unfrozen"]


def test_help_does_not_wait_for_torch(tmp_path):
    done = run_without("torch", tmp_path, "--help")
    assert done.returncode == 0, done.stderr
    assert "--vocab-size" in done.stdout


def test_the_vocabulary_is_that_of_the_corpus_where_there_is_one(run, recipe, tmp_path):
    text = "the quick brown fox jumps over a lazy dog while seven bright ships sail past"
    words = text.split()
    documents = [("en", " ".join(words[turn:] + words[:turn])) for turn in range(len(words))]
    spec = TokenizerSpec(vocab_size=512, num_threads=1, language_slots=2)
    train_tokenizer(documents, spec, tmp_path / "corpus" / TOKENIZER)
    vocabulary = Tokenizer.load(tmp_path / "corpus" / TOKENIZER).vocabulary
    write_corpus(tmp_path / "corpus", {}, fingerprint=vocabulary.fingerprint, separator=5, record={})
    code, printed, _ = run(recipe, "--gpus", "16", "--json")
    assert code == 0
    assert json.loads(printed)["vocab_size"] == vocabulary.size


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--gpus", "16"], "the size of the vocabulary is unknown: there is no corpus at"),
        (["--gpus", "12", "--vocab-size", "64000"], "2048 rows per step"),
        (["--gpus", "16", "--gpu", "h20x"], "--gpu 'h20x' is not in our table of peaks; did you mean 'h200'?"),
        (["--gpus", "16", "--mfu", "40"], "--mfu is a share of the peak and must lie in (0, 1], got 40.0"),
        (["--gpus", "0"], "--gpus must be at least 1, got 0"),
        ([*SIXTEEN, "stages.frozen.freeze=[encodr.*]"], "did you mean"),
        (
            [*SIXTEEN, "model.max_positions=256"],
            "rows of 512 tokens exceed the model's 256",
        ),
    ],
)
def test_a_plan_that_cannot_be_made_says_why(run, recipe, arguments, sentence):
    code, printed, complaint = run(recipe, *arguments)
    assert (code, printed) == (2, "")
    assert complaint.startswith("error: ")
    assert sentence in complaint


def test_what_is_sent_is_told_beside_what_is_computed(recipe, run):
    code, printed, _ = run(recipe, *SIXTEEN, "--json")
    slow = json.loads(printed)
    fast = json.loads(run(recipe, *SIXTEEN, "--link", "200", "--json")[1])
    assert code == 0
    for one, other in zip(slow["stages"], fast["stages"], strict=True):
        sent = one["communication"]
        assert sent["total"] == sent["weights"] + sent["gradients"] + sent["states"] + sent["copies"] > 0
        assert (
            sent["seconds"]
            == pytest.approx(sent["total"] / 50e9)
            == pytest.approx(4 * other["communication"]["seconds"])
        )
    assert "GB that a GPU sends in a step" in run(recipe, *SIXTEEN)[1]


def test_several_numbers_of_gpus_are_laid_side_by_side(recipe, run):
    numbers = ["8", "16", "2048", "4096"]
    code, printed, _ = run(recipe, "--gpus", *numbers, "--vocab-size", "64000", "--json")
    assert code == 0
    points = json.loads(printed)["stages"][0]["points"]
    assert [point["gpus"] for point in points] == [8, 16, 2048, 4096]
    assert points[0]["compute_seconds"] == pytest.approx(2 * points[1]["compute_seconds"])
    assert points[2]["micro_batch"] == 1  # of 2048 rows
    assert "2048 rows per step" in points[3]["refused"]
    code, printed, _ = run(recipe, "--gpus", *numbers, "--vocab-size", "64000")
    assert code == 0
    assert "4096: stage 'mlm'" in printed
    assert "s computing" in printed


@pytest.mark.parametrize(
    ("flags", "sentence"), [(["--gpus", "0"], "--gpus must be at least 1"), (["--link", "0"], "--link is a speed")]
)
def test_impossible_machines_are_refused(recipe, run, flags, sentence):
    code, _, complaint = run(recipe, "--vocab-size", "64000", *flags)
    assert code == 2
    assert sentence in complaint


def test_a_model_of_twenty_billion_is_planned_for_128_gpus(run):
    code, printed, _ = run(
        "launch/recipes/alexatm_20b.yaml", "--gpus", "128", "--gpu", "a100", "--vocab-size", "150016", "--json"
    )
    assert code == 0
    plan = json.loads(printed)
    last = plan["stages"][-1]
    # 19.7 B parameters: 12 bytes of fp32 state each, over 128 ranks.
    assert last["memory"]["optimizer"] == pytest.approx(12 * 19.707715584e9 / 128, rel=1e-3)
    assert last["memory"]["peak"] < plan["gpu_memory"]
    # Two gatherings and a scattering in each of four micro-batches, of two bytes each, but for what may stay gathered.
    assert last["communication"]["total"] == pytest.approx(4 * 2 * (3 * 19.707715584e9 - 0.5e9) * 127 / 128, rel=1e-3)
    assert last["days"] > 0


def test_days_count_the_waiting_of_a_pipeline_alike_in_both_tables(recipe, run):
    piped = "stages.unfrozen.engine={name: pipe, stages: 4}"
    one = json.loads(run(recipe, "--gpus", "16", "--vocab-size", "64000", "--json", piped)[1])
    several = json.loads(run(recipe, "--gpus", "16", "32", "--vocab-size", "64000", "--json", piped)[1])
    alone, beside = one["stages"][2], several["stages"][2]["points"][0]
    assert alone["pipeline"]["bubble"] == pytest.approx(beside["waiting"])
    assert 0 < beside["waiting"] < 1
    assert alone["days"] * 86_400 == pytest.approx(alone["compute_seconds"] * 150_000)
    assert alone["compute_seconds"] == pytest.approx(beside["compute_seconds"])
    assert one["total"]["days"] == pytest.approx(sum(stage["days"] for stage in one["stages"]))

"""Every script of launch/ and tools/ keeps the same promises.

Scripts are found by their place. One that takes a recipe is covered as soon as it exists; for another, `CALLS` says how
it is called.
"""

from __future__ import annotations

import json
import logging
import os
import re
import runpy
import shutil
import sys
from pathlib import Path

import pytest
import torch
import yaml

from megas2s import dist, files
from megas2s.errors import BadData
from megas2s.recipe import load_recipe

ROOT = Path(__file__).resolve().parents[1]
SAMPLE = ROOT / "launch" / "sample_corpus"
SCRIPTS = sorted(
    path.relative_to(ROOT).as_posix() for folder in ("launch", "tools") for path in (ROOT / folder).glob("*.py")
)
TASK = "launch/finetune.py"  # takes a recipe too, of another kind
RECIPE = [path for path in SCRIPTS if "recipe_parser(" in (ROOT / path).read_text(encoding="utf-8") and path != TASK]
OTHER = [path for path in SCRIPTS if path not in (*RECIPE, TASK)]
SUBCOMMAND = {"tools/bench.py": "loader"}
HEAVY = {"torch", "transformers", "deepspeed", "datasets", "numpy", "pyarrow", "pydantic", "sentencepiece"}

# How a script without a recipe is called, and a change to that with what --print-config then says differently.
CALLS = {
    "launch/evaluate.py": (
        "{sample}/en.txt --references {sample}/en.txt --output {new}/scores",
        "stem=true",
        {"stem": True},
    ),
    "tools/analyse.py": ("{run} --text {sample}/en.txt --analyses neurons --out {new}/looked", "seed=3", {"seed": 3}),
    "tools/bench.py": ("loader", "rows=8", {"rows": 8}),
    "tools/convert_from_hf.py": ("{encoder} {new}/weights", "no_tokenizer=true", {"no_tokenizer": True}),
    "tools/convert_to_hf.py": ("{run} {new}/export", "dtype=bfloat16", {"dtype": "bfloat16"}),
    "tools/corpus_stats.py": ("{corpus}", "alpha=0.3", {"alpha": 0.3}),
    "launch/decode.py": ("{seq2seq} {sample}/en.txt {new}/answers.txt --method seq2seq", "beams=3", {"beams": 3}),
    "tools/merge_corpora.py": ("{corpus} {other} --output {new}/corpus", "copy=true", {"copy": True}),
    "tools/plot_run.py": ("{run}", "out=elsewhere", {"out": "elsewhere"}),
    "tools/preprocess.py": (
        "--input {sample} --tokenizer {corpus}/tokenizer --output {new}/corpus",
        "held_out=0.25",
        {"held_out": 0.25},
    ),
    "tools/show_exports.py": ("{encoder} {seq2seq}", "broken=So.", {"broken": "So."}),
    "tools/train_tokenizer.py": ("--input {sample} --output {new}/tokenizer", "sentinels=50", {"sentinels": 50}),
}


def execute(patch: pytest.MonkeyPatch, path: str, *arguments: object) -> int:
    """Run a script in this process; gives its exit code."""
    logger = logging.getLogger("megas2s")
    level = logger.level
    patch.syspath_prepend(str(ROOT / "tools"))  # as scripts may do themselves; taken back with the patch
    for name, value in {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}.items():
        patch.setenv(name, value)
    patch.setattr(sys, "argv", [path, *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(ROOT / path), run_name="__main__")
    logger.setLevel(level)
    return ended.value.code


@pytest.fixture
def call(monkeypatch, capsys, tmp_path):
    """Run a script in this process, from an empty folder; gives its exit code, what it printed and its complaint."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")

    def run(path: str, *arguments: object) -> tuple[int, str, str]:
        return (execute(monkeypatch, path, *arguments), *capsys.readouterr())

    return run


@pytest.fixture
def recipe(recipe_data, write_recipe) -> Path:
    return write_recipe(recipe_data)


@pytest.fixture(scope="module")
def places(corpus_folder, make_recipe, train_here, tmp_path_factory) -> dict[str, Path]:
    """What scripts without a recipe are called with: text, a corpus, a run of two stages, and its exports."""
    folder = tmp_path_factory.mktemp("places")
    data = make_recipe(folder / "run")
    stages = [{**stage, "steps": 1, "engine": {"name": "local"}} for stage in data["stages"][:2]]
    train_here({**data, "stages": stages, "log": {"evaluate_every": 0, "samples_every": 0, "tensorboard": False}})
    with pytest.MonkeyPatch.context() as patch:
        for stage, name in (("mlm", "encoder"), ("seq2seq_frozen", "seq2seq")):
            flags = [folder / "run" / stage, folder / name, "--no-check"]
            assert execute(patch, "tools/convert_to_hf.py", *flags) == 0
        (folder / "text").mkdir()
        (folder / "text" / "en.txt").write_text("One text.\nAnother text.\nA third one.\n")
        flags = ["--input", folder / "text", "--tokenizer", corpus_folder / "tokenizer", "--output", folder / "other"]
        assert execute(patch, "tools/preprocess.py", *flags, "--workers", "1") == 0
    names = {name: folder / name for name in ("run", "encoder", "seq2seq", "other")}
    return {**names, "corpus": corpus_folder, "sample": SAMPLE}


@pytest.fixture
def arguments(places, tmp_path):
    """The arguments in CALLS of a script that takes no recipe."""

    def given(path: str) -> list[str]:
        assert path in CALLS, f"{path} takes no recipe: CALLS must say how it is called"
        return CALLS[path][0].format(**places, new=tmp_path / "new").split()

    return given


def tree(*folders: Path) -> dict[Path, tuple[int, str]]:
    """Every folder and file below some folders: when it was written, and the hash of what it holds."""
    return {
        path: (path.stat().st_mtime_ns, files.hash_file(path) if path.is_file() else "")
        for folder in folders
        for path in [folder, *folder.rglob("*")]
    }


# Help, flags, settings


@pytest.mark.parametrize("path", SCRIPTS)
def test_help_shows_flags_and_defaults_before_anything_heavy_is_imported(path, script):
    words = [SUBCOMMAND[path]] if path in SUBCOMMAND else []
    answer = script("-X", "importtime", path, *words, "--help", env={"COLUMNS": "120"})
    assert answer.returncode == 0, answer.stdout
    imported = re.findall(r"^import time: .*\| +(\w+)", answer.stdout, re.M)
    assert "argparse" in imported
    assert not HEAVY & set(imported)
    shown = [line for line in answer.stdout.splitlines() if not line.startswith("import time:")]
    for words in ("--print-config", "--dry-run", "(default: "):
        assert any(words in line for line in shown), words
    if path in (*RECIPE, TASK):
        assert any("key=value" in line for line in shown)


@pytest.mark.parametrize("path", SCRIPTS)
def test_an_unknown_flag_is_refused(path, call):
    given = ["recipe.yaml"] if path in (*RECIPE, TASK) else CALLS[path][0].split()
    code, printed, complaint = call(path, *given, "--no-such-flag")
    name = Path(path).name
    assert (code, printed) == (2, "")
    assert complaint == f"error: unrecognized arguments: --no-such-flag; {name} --help lists what there is\n"


@pytest.mark.parametrize("path", RECIPE)
def test_a_printed_recipe_is_the_whole_recipe_and_prints_itself(path, call, recipe, tmp_path):
    overrides = ["seed=5", "--print-config", "stages.mlm.schedule.lr=2e-4", "model.dropout=0.3"]
    code, printed, complaint = call(path, recipe, *overrides)
    assert (code, complaint) == (0, "")
    found = yaml.safe_load(printed)
    assert (found["seed"], found["stages"][0]["schedule"]["lr"], found["model"]["dropout"]) == (5, 2e-4, 0.3)
    assert found["stages"][1]["optimizer"]["beta2"] == 0.999  # a default, spelt out
    (tmp_path / "printed.yaml").write_text(printed, encoding="utf-8")
    assert call(path, tmp_path / "printed.yaml", "--print-config") == (0, printed, "")
    assert load_recipe(tmp_path / "printed.yaml") == load_recipe(recipe, [word for word in overrides if "=" in word])


@pytest.mark.parametrize("path", RECIPE)
def test_an_unknown_key_names_the_nearest_one_whatever_is_asked(path, call, recipe):
    for asked in ([], ["--print-config"], ["--dry-run"]):
        code, printed, complaint = call(path, recipe, "stages.mlm.schedule.warmup=3", *asked)
        assert (code, printed) == (2, "")
        assert complaint == f"error: {recipe}: stages.0.schedule.warmup: unknown key; did you mean 'warmup_steps'?\n"


@pytest.fixture
def task(random_weights, corpus_folder, tmp_path) -> Path:
    """A recipe of fine-tuning that could run."""
    weights = random_weights(
        tmp_path / "weights", hidden_size=16, num_heads=2, ffn_size=16, num_encoder_layers=1, max_positions=32
    )
    (tmp_path / "train.jsonl").write_text('{"text": "a", "label": 0}\n{"text": "b", "label": 1}\n')
    recipe = {
        "run": str(tmp_path / "run"),
        "init": str(weights),
        "tokenizer": str(corpus_folder / "tokenizer"),
        "method": {"name": "classify"},
        "data": {"train": str(tmp_path / "train.jsonl")},
        "length": 32,
        "rows": 2,
        "steps": 3,
        "schedule": {"lr": 1e-3},
        "engine": {"name": "local"},
    }
    (tmp_path / "task.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    return tmp_path / "task.yaml"


def test_a_task_s_printed_recipe_is_whole_and_prints_itself(call, task, tmp_path):
    code, printed, complaint = call(TASK, task, "seed=5", "schedule.lr=2e-4", "--print-config")
    assert (code, complaint) == (0, "")
    found = yaml.safe_load(printed)
    assert (found["seed"], found["schedule"]["lr"], found["optimizer"]["beta2"]) == (5, 2e-4, 0.999)
    (tmp_path / "printed.yaml").write_text(printed, encoding="utf-8")
    assert call(TASK, tmp_path / "printed.yaml", "--print-config") == (0, printed, "")


def test_a_task_s_unknown_key_names_the_nearest_one_whatever_is_asked(call, task):
    for asked in ([], ["--print-config"], ["--dry-run"]):
        code, printed, complaint = call(TASK, task, "schedule.warmup=3", *asked)
        assert (code, printed) == (2, "")
        assert complaint == f"error: {task}: schedule.warmup: unknown key; did you mean 'warmup_steps'?\n"


def test_a_dry_run_of_a_task_says_what_would_be_learnt_and_writes_nothing(call, task, corpus_folder, tmp_path):
    before = tree(tmp_path, corpus_folder)
    code, printed, complaint = call(TASK, task, "--dry-run")
    assert (code, complaint) == (0, "")
    assert "classify, 3 steps of 2 rows, from its beginning\n  examples: 2 to train; 2 labels: 0, 1" in printed
    assert tree(tmp_path, corpus_folder) == before


def test_a_task_is_answered_by_a_process_made_new(call, task, monkeypatch):
    happened = []
    monkeypatch.setattr("megas2s.finetune.finetune", lambda recipe, allowed: happened.append("trained") or True)
    monkeypatch.setattr(os, "execv", lambda *words: happened.append("new"))
    assert call(TASK, task)[0] == 0
    assert happened == ["trained", "new"]


@pytest.mark.parametrize("path", OTHER)
def test_printed_settings_are_all_settings_with_what_was_given(path, call, arguments):
    code, printed, complaint = call(path, *arguments(path), "--print-config")
    assert (code, complaint) == (0, "")
    _, change, said = CALLS[path]
    code, changed, complaint = call(path, *arguments(path), change, "--print-config")
    assert (code, complaint) == (0, "")
    before, after = yaml.safe_load(printed), yaml.safe_load(changed)
    assert after == {**before, **said}
    assert after != before
    assert not list(Path().iterdir())


def test_a_tokenizer_s_printed_settings_are_settings_again(call):
    _, printed, _ = call("tools/train_tokenizer.py", "--output=new", "alpha=0.3", "languages=[en]", "--print-config")
    settings = [f"{key}={json.dumps(value)}" for key, value in json.loads(printed).items()]
    assert call("tools/train_tokenizer.py", "--output=new", *settings, "--print-config") == (0, printed, "")


def test_a_tokenizer_s_setting_that_is_no_yaml_is_refused(call):
    code, printed, complaint = call("tools/train_tokenizer.py", "--output=new", "languages=[en")
    assert (code, printed) == (2, "")
    assert complaint.startswith("error: 'languages=[en': the value is not valid YAML: while parsing a flow sequence")


# Dry runs


@pytest.mark.parametrize("path", RECIPE)
def test_a_dry_run_of_a_recipe_tells_of_every_stage_and_writes_nothing(path, call, recipe, corpus_folder, tmp_path):
    before = tree(tmp_path, corpus_folder)
    code, printed, complaint = call(path, recipe, "--dry-run")
    assert (code, complaint) == (0, "")
    assert "mlm" in printed
    assert tree(tmp_path, corpus_folder) == before


def test_a_dry_run_of_pretraining_is_its_plan(call, recipe):
    _, printed, _ = call("launch/pretrain.py", recipe, "--dry-run")
    lines = printed.splitlines()
    assert lines[0].startswith(f"run {recipe.parent}/run, corpus ")
    assert [line for line in lines if line.startswith("stage ")] == [
        "stage mlm: mlm, 4 steps of 8 rows, 0 checkpoints",
        "stage seq2seq_frozen: denoising, 4 steps of 8 rows, 0 checkpoints",
        "stage seq2seq: denoising, 4 steps of 8 rows, 0 checkpoints",
    ]
    assert all(f"{language}/text " in lines[-1] for language in ("ar", "en", "sw", "zh"))


def test_a_dry_run_of_looking_at_samples_shows_none(call, recipe):
    code, printed, _ = call("tools/inspect_batch.py", recipe, "--stage=seq2seq", "--step=3", "--rows=2", "--dry-run")
    assert (code, printed) == (0, "would show samples 24 to 25 of stage seq2seq\n")


@pytest.mark.parametrize("flag", ["--dry-run", "--print-config"])
def test_of_several_ranks_the_first_prints_and_the_others_look_silently(call, recipe, monkeypatch, flag):
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert call("launch/pretrain.py", recipe, flag)[1]
    monkeypatch.setenv("RANK", "1")
    assert call("launch/pretrain.py", recipe, flag) == (0, "", "")


def test_a_rank_is_made_new_once_all_ranks_are_done_and_out_of_its_process_group(call, recipe, monkeypatch):
    happened = []
    monkeypatch.setattr("megas2s.pretrain.pretrain", lambda recipe, allowed: happened.append("trained") or True)
    monkeypatch.setattr("torch.distributed.barrier", lambda: happened.append("all here"))
    monkeypatch.setattr(os, "execv", lambda *words: happened.append(f"new, {dist.active()}"))
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        assert call("launch/pretrain.py", recipe)[0] == 0
    finally:
        if dist.active():
            torch.distributed.destroy_process_group()
    assert happened == ["trained", "all here", "new, False"]


@pytest.mark.parametrize("path", OTHER)
def test_a_dry_run_says_what_would_be_done_and_writes_nothing(path, call, arguments, places, tmp_path):
    given = arguments(path)
    before = tree(tmp_path, *places.values())
    code, printed, complaint = call(path, *given, "--dry-run")
    assert (code, "error" in complaint) == (0, False)  # transformers shows its progress there
    assert printed
    assert tree(tmp_path, *places.values()) == before


def test_importing_a_tokenizer_can_be_looked_at_first(call, corpus_folder, tmp_path):
    flags = ["--import-model", corpus_folder / "tokenizer" / "spiece.model", "--output", tmp_path / "new"]
    code, printed, _ = call("tools/train_tokenizer.py", *flags, "--dry-run")
    assert (code, printed) == (0, f"would write 2048 ids from {flags[1]} to {tmp_path}/new\n")
    code, printed, _ = call("tools/train_tokenizer.py", *flags, "--print-config")
    assert (code, list(json.loads(printed))) == (0, ["import"])
    assert not (tmp_path / "new").exists()


def test_a_tokenizer_s_damaged_manifest_is_named(call, corpus_folder, tmp_path):
    tokenizer = Path(shutil.copytree(corpus_folder / "tokenizer", tmp_path / "tokenizer"))
    (tokenizer / files.MANIFEST).write_text("{", encoding="utf-8")
    code, _, complaint = call(
        "tools/train_tokenizer.py", "--import-model", tokenizer / "spiece.model", "--output", tokenizer
    )
    assert code == BadData.exit_code
    assert f"{tokenizer}/MANIFEST.json is damaged" in complaint

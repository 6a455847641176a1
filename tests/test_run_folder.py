"""What a run leaves: its folder holds what is said of it, and nothing else."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import yaml

from megas2s import files
from megas2s.recipe import dump_recipe, load_recipe
from megas2s.train import checkpoint
from megas2s.train.metrics import tag

pytestmark = [pytest.mark.slow, pytest.mark.ranks]


@pytest.fixture(scope="module")
def run(make_recipe, ranks, tmp_path_factory) -> Path:
    """The folder of a run of one stage with two objectives on two ranks."""
    folder = tmp_path_factory.mktemp("run")
    data = make_recipe(folder / "run")
    parts = [("denoising", 0.8), ("clm", 0.2)]
    mixture = {"name": "mixture", "parts": [{"share": share, "objective": {"name": name}} for name, share in parts]}
    stage = {**data["stages"][0], "name": "both", "objective": mixture, "decoder": {"tying": "tied"}}
    data |= {"stages": [stage], "log": {"every": 1, "evaluate_every": 2, "heldout_rows": 2, "samples_every": 2}}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(data), encoding="utf-8")
    secrets = {"SOME_API_KEY": "key-of-mine", "MIRROR": "https://me:word-of-mine@host/"}
    done = ranks(2, "launch/pretrain.py", folder / "recipe.yaml", "seed=5", env=secrets)
    assert done.returncode == 0, done.stdout[-4000:]
    return folder / "run"


@pytest.fixture(scope="module")
def metrics(run) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def test_it_holds_what_is_said_and_nothing_else(run):
    found = {path.name for path in run.iterdir()}
    assert found == {
        *("recipe.yaml", "run.json", "verified.json", "metrics.jsonl", "time.jsonl", "summary.md"),
        *("both", "logs", "samples", "tensorboard", "tokenizer"),
    }
    assert {path.name for path in (run / "both").iterdir()} == {"checkpoints", "weights"}


def test_the_recipe_in_it_is_the_resolved_one_and_makes_the_same_run(run):
    resolved = load_recipe(run.parent / "recipe.yaml", ["seed=5"])
    assert load_recipe(run / "recipe.yaml") == resolved
    assert (run / "recipe.yaml").read_text(encoding="utf-8") == dump_recipe(resolved)


def test_the_record_says_who_ran_what_where_and_keeps_secrets(run):
    (launch,) = files.read_json(run / "run.json")
    assert launch["command"] == ["pretrain.py", "--local_rank=0", str(run.parent / "recipe.yaml"), "seed=5"]
    assert (launch["seed"], launch["ranks"], len(launch["hosts"])) == (5, 2, 2)
    assert re.fullmatch(r"[0-9a-f]{40}(-dirty)?|unknown", launch["git"])
    assert all(re.match(r"\d+\.\d+", version) for version in launch["packages"].values()), launch["packages"]
    assert launch["environment"]["OMP_NUM_THREADS"] == "1"
    assert launch["environment"]["SOME_API_KEY"] == "(redacted)"
    assert launch["environment"]["MIRROR"] == "https://(redacted)@host/"
    assert "of-mine" not in (run / "run.json").read_text(encoding="utf-8")


def test_every_rank_has_its_log_and_the_first_reports(run):
    logs = {path.name: path.read_text(encoding="utf-8") for path in (run / "logs").iterdir()}
    assert logs.keys() == {"rank_0.log", "rank_1.log"}
    assert all("stage both (mixture), 4 steps, from its beginning" in text for text in logs.values())
    assert "both 4/4 | loss " in logs["rank_0.log"]
    assert "| loss " not in logs["rank_1.log"]


def test_metrics_tell_losses_by_part_and_language_and_the_speed(metrics):
    train, heldout = ([line for line in metrics if line["kind"] == kind] for kind in ("train", "heldout"))
    assert [line["step"] for line in train] == [1, 2, 3, 4]
    assert [line["step"] for line in heldout] == [2, 4]
    measured = {"lr", "grad_norm", "tokens", "tokens_per_second", "tflops", "memory_gib", "data_wait"}
    for line in train:
        assert measured | {"loss", "loss/denoising", "skipped", "eta_seconds"} <= line.keys()
        clm = line.get("loss/clm", line["loss/denoising"])  # in a step without it the other part has all the weight
        assert line["loss"] == pytest.approx(0.8 * line["loss/denoising"] + 0.2 * clm)
        assert all(line[name] > 0 for name in measured - {"data_wait"})
    assert any("loss/clm" in line for line in train)
    languages = {"ar", "en", "sw", "zh"}
    assert languages == {key.split("/")[2] for line in train for key in line if key.count("/") == 2}
    assert languages == {key.split("/")[2] for line in heldout for key in line if key.count("/") == 2}


def test_tensorboard_shows_the_same_and_the_samples(run, metrics):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = EventAccumulator(str(run / "tensorboard" / "both"))
    board.Reload()
    written = {
        (tag(line["kind"], key), line["step"]): value
        for line in metrics
        for key, value in line.items()
        if key not in ("stage", "kind", "step")
    }
    shown = {(tag, event.step): event.value for tag in board.Tags()["scalars"] for event in board.Scalars(tag)}
    times = {name: shown.pop((name, step)) for name, step in list(shown) if name.startswith("time/")}
    assert shown == pytest.approx(written, rel=1e-6)
    assert sum(value for name, value in times.items() if name != "time/launches") == pytest.approx(1.0)
    assert times["time/launches"] == 1
    texts = [(event.step, event.tensor_proto) for event in board.Tensors("reconstructions/text_summary")]
    samples = {path.name: path.read_text(encoding="utf-8") for path in (run / "samples").iterdir()}
    assert samples.keys() == {"both_00000002.md", "both_00000004.md"}
    assert {f"both_{step:08d}.md": text.string_val[0].decode() + "\n" for step, text in texts} == samples
    for text in samples.values():
        assert text.count("**source** ") == text.count("tokens right") > 0


def test_the_summary_says_where_the_time_went(run):
    text = (run / "summary.md").read_text(encoding="utf-8")
    assert re.match(r"# run\n\n[\d.]+% of \S+ in 1 launch was training that stayed\.\n", text)


def test_checkpoints_and_weights_are_whole(run, metrics):
    assert [folder.name for folder in checkpoint.published(run / "both")] == ["step_00000002"]
    assert files.verify(run / "both" / "checkpoints" / "step_00000002")["step"] == 2
    manifest = files.verify(run / "both" / "weights")
    assert (manifest["step"], manifest["tokens"]) == (4, metrics[-2]["tokens"])

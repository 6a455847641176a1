"""The loop: what it reports, evaluates, shows and tries, read from the log of whole runs in this process."""

from __future__ import annotations

import json
from typing import NamedTuple

import pytest
import torch
from torch._dynamo.utils import counters
from torch.nn import functional as F

from megas2s import dist, session
from megas2s.engine.local import LocalEngine
from megas2s.labels import IGNORED
from megas2s.models import stacks
from megas2s.models.transformer import build
from megas2s.train import checkpoint, loop

LANGUAGES = ("ar", "en", "sw", "zh")
MIXTURE = {
    "name": "mixture",
    "parts": [{"share": 0.8, "objective": {"name": "denoising"}}, {"share": 0.2, "objective": {"name": "clm"}}],
}


class Step(NamedTuple):
    """One call of the engine's train_step."""

    lr: float
    shapes: list[dict[str, tuple[int, ...]]]  # of every micro-batch
    labels: list[int]  # how many of each micro-batch count
    sums: torch.Tensor  # (parts, languages, 2): nats and tokens
    norm: float


class Seen:
    """What the loop asked of its engine, in order."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.tried: list[Step] = []  # at a learning rate of 0
        self.taken: list[Step] = []
        self.evaluated: list[list] = []


@pytest.fixture
def seen(monkeypatch) -> Seen:
    """Watch the local engine; the loop notices nothing."""
    found = Seen()
    train_step, evaluate = LocalEngine.train_step, LocalEngine.evaluate

    def watched_step(engine, batches, *, step, lr):
        result = train_step(engine, batches, step=step, lr=lr)
        shapes = [{name: tuple(tensor.shape) for name, tensor in batch.items()} for batch in batches]
        labels = [int((batch["labels"] != IGNORED).sum()) for batch in batches]
        (found.taken if lr else found.tried).append(Step(lr, shapes, labels, result.sums.clone(), result.grad_norm))
        found.calls.append("step" if lr else "try")
        return result

    def watched_evaluation(engine, batches):
        found.evaluated.append(list(batches))
        found.calls.append("evaluate")
        return evaluate(engine, batches)

    monkeypatch.setattr(LocalEngine, "train_step", watched_step)
    monkeypatch.setattr(LocalEngine, "evaluate", watched_evaluation)
    return found


@pytest.fixture
def one_stage(local_recipe):
    """A recipe of one stage with the objective, six steps, and nothing on beside its reports."""

    def make(objective: dict, **log) -> dict:
        stage = {**local_recipe["stages"][0], "objective": objective, "steps": 6}
        if not objective["name"].startswith("mlm"):
            stage["decoder"] = {"tying": "tied"}
        quiet = {"every": 1, "evaluate_every": 0, "heldout_rows": 1, "samples_every": 0, "tensorboard": False}
        return {**local_recipe, "stages": [stage], "log": {**quiet, **log}, "checkpoints": {"every": 100}}

    return make


def lines(run, kind: str) -> list[dict]:
    return [line for line in run.log("mlm") if line["kind"] == kind]


@pytest.mark.parametrize(
    ("objective", "weights"),
    [({"name": "denoising"}, {"denoising": 1.0}), (MIXTURE, {"denoising": 0.8, "clm": 0.2})],
    ids=["one part", "two parts"],
)
def test_a_report_is_the_mean_over_the_tokens_of_the_steps_since_the_last_one(
    objective, weights, train_here, one_stage, seen
):
    run = train_here(one_stage(objective, every=4))
    reports = lines(run, "train")
    assert [report["step"] for report in reports] == [4, 6]
    for report, steps in zip(reports, (seen.taken[:4], seen.taken[4:]), strict=True):
        expected = {"loss": 0.0}
        sums = sum(step.sums for step in steps)
        for (part, weight), by_language in zip(weights.items(), sums, strict=True):
            expected[f"loss/{part}"] = by_language[:, 0].sum() / by_language[:, 1].sum()
            expected["loss"] += weight * expected[f"loss/{part}"]
            found = {name: nats / count for name, (nats, count) in zip(LANGUAGES, by_language, strict=True) if count}
            expected |= {f"loss/{part}/{name}": value for name, value in found.items()}
        assert {key: value for key, value in report.items() if key.startswith("loss")} == pytest.approx(
            {key: float(value) for key, value in expected.items()}
        )
        assert len({round(value, 3) for key, value in report.items() if key.count("/") == 2}) > 2  # languages differ
        assert (report["lr"], report["grad_norm"]) == (steps[-1].lr, steps[-1].norm)
        assert report["tokens"] == report["step"] * 8 * window(run)  # rows of a step, without special tokens


def window(run) -> int:
    """Raw tokens of a row, as the stage announced it."""
    announced = (run.folder / "logs" / "rank_0.log").read_text()
    return int(announced.split("windows of ")[1].split()[0])


class Clock:
    """A clock that only moves when it is told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def perf_counter(self) -> float:
        return self.now

    def slow(self, function, seconds: float):
        """The same function, which takes so long on this clock."""

        def slowed(*arguments, **named):
            self.now += seconds
            return function(*arguments, **named)

        return slowed


def test_speed_and_time_to_go_are_those_of_steps_alone(train_here, one_stage, monkeypatch):
    clock = Clock()
    monkeypatch.setattr(loop, "time", clock)
    monkeypatch.setattr(LocalEngine, "train_step", clock.slow(LocalEngine.train_step, 2.0))
    for place, name in ((LocalEngine, "evaluate"), (LocalEngine, "predict"), (checkpoint, "save")):
        monkeypatch.setattr(place, name, clock.slow(getattr(place, name), 1000.0))
    monkeypatch.setattr(session, "_peak", lambda _: 1e9)
    recipe = one_stage({"name": "mlm"}, every=2, evaluate_every=1, samples_every=3, heldout_rows=1)
    run = train_here({**recipe, "checkpoints": {"every": 3}})
    assert clock.now > 8000
    reports = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    reports = [report for report in reports if report["kind"] == "train"]
    assert [report["step"] for report in reports] == [2, 3, 4, 6]
    for report in reports:
        assert report["tokens_per_second"] == 8 * window(run) / 2.0
        assert report["eta_seconds"] == (6 - report["step"]) * 2.0
        assert report["mfu"] == pytest.approx(report["tflops"] * 1e12 / 1e9)


def test_the_peak_is_the_device_s_in_16_bits_and_unknown_in_32_and_on_a_cpu(monkeypatch):
    assert session._peak("bf16") is None or torch.cuda.is_available()
    monkeypatch.setattr(dist, "device", lambda: torch.device("cuda", 0))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "NVIDIA H100 80GB HBM3")
    assert [session._peak(precision) for precision in ("bf16", "fp16", "fp32")] == [989e12, 989e12, None]


def test_the_learning_rate_is_that_of_the_schedule_from_the_first_step_on(train_here, one_stage, seen):
    run = train_here(one_stage({"name": "mlm"}))
    rates = [report["lr"] for report in lines(run, "train")]
    assert rates == [step.lr for step in seen.taken]
    assert rates[:2] == pytest.approx([5e-4, 1e-3])  # two steps of warm-up
    assert rates[2:] == sorted(rates[2:], reverse=True)


@pytest.mark.parametrize("objective", ["mlm", "denoising"])
def test_a_held_out_loss_is_the_plain_cross_entropy_of_every_held_out_token(objective, train_here, one_stage, seen):
    recipe = one_stage({"name": objective}, evaluate_every=4, heldout_rows=3)
    recipe["model"]["dropout"] = 0.3  # must be off
    run = train_here(recipe)
    reports = lines(run, "heldout")
    assert [report["step"] for report in reports] == [4, 6]
    _, first, last = seen.evaluated  # the trial looks at one batch
    assert all(torch.equal(a[name], b[name]) for a, b in zip(first, last, strict=True) for name in a)

    model = build(run.config("mlm")).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(run.weights("mlm")[name])
        nats, counts = dict.fromkeys(LANGUAGES, 0.0), dict.fromkeys(LANGUAGES, 0)
        for batch in last:
            output = model(batch)
            for row, labels in enumerate(batch["labels"]):
                real = labels != IGNORED
                if objective == "mlm":
                    hidden = output.encoder_hidden[row][batch["masked_positions"][row]]
                else:
                    hidden = output.decoder_hidden[row]
                language = LANGUAGES[batch["language"][row]]
                loss = F.cross_entropy(model.logits(hidden)[real], labels[real], reduction="sum")
                nats[language] += loss.item()
                counts[language] += int(real.sum())
    assert all(counts.values())
    expected = {f"loss/{objective}/{language}": nats[language] / counts[language] for language in LANGUAGES}
    mean = sum(nats.values()) / sum(counts.values())
    found = {key: value for key, value in reports[-1].items() if key.startswith("loss")}
    assert found == pytest.approx({"loss": mean, f"loss/{objective}": mean, **expected}, rel=1e-5)


def test_what_is_due_at_no_step_is_due_at_the_last_one(train_here, one_stage):
    run = train_here(one_stage({"name": "mlm"}, every=0, evaluate_every=50, samples_every=50))
    assert [line["step"] for line in lines(run, "train")] == [6]
    assert [line["step"] for line in lines(run, "heldout")] == [6]
    assert [path.name for path in (run.folder / "samples").iterdir()] == ["mlm_00000006.md"]


def test_samples_are_shown_at_their_steps(train_here, one_stage):
    run = train_here(one_stage({"name": "mlm"}, samples_every=4, heldout_rows=1))
    shown = sorted((run.folder / "samples").iterdir())
    assert [path.name for path in shown] == ["mlm_00000004.md", "mlm_00000006.md"]
    examples = [path.read_text().split("\n\n") for path in shown]
    assert [len(found) for found in examples] == [len(LANGUAGES)] * 2
    assert [[text.splitlines()[0] for text in found] for found in examples[:1]] == [
        [text.splitlines()[0] for text in found] for found in examples[1:]
    ]  # of the same held-out rows


@pytest.mark.parametrize(
    "log", [{"evaluate_every": 0, "samples_every": 0}, {"evaluate_every": 2, "samples_every": 2, "heldout_rows": 0}]
)
def test_zero_turns_held_out_losses_and_samples_off(log, train_here, one_stage):
    run = train_here(one_stage({"name": "mlm"}, **log))
    assert not lines(run, "heldout")
    assert not (run.folder / "samples").exists()


@pytest.mark.parametrize("objective", [{"name": "mlm"}, {"name": "denoising"}, {"name": "clm"}, MIXTURE])
def test_the_first_thing_tried_is_a_whole_step_of_the_largest_shape(objective, train_here, one_stage, seen):
    train_here(one_stage(objective, heldout_rows=2, evaluate_every=3))
    assert seen.calls[:3] == ["try", "evaluate", "step"]
    assert len(seen.tried) == 1
    assert len(seen.tried[0].shapes) == 4  # micro-batches: gradients are held while the next one runs
    shapes = [shapes for step in seen.taken for shapes in step.shapes]
    shapes += [{name: tuple(tensor.shape) for name, tensor in batch.items()} for batch in seen.evaluated[-1]]
    assert all(shape == seen.tried[0].shapes[0] for shape in [*seen.tried[0].shapes, *shapes])
    rows, slots = seen.tried[0].shapes[0]["labels"]
    assert seen.tried[0].labels == [rows * slots] * 4  # every label counts; those of padded rows do not
    assert (min(seen.taken[0].labels) < rows * slots) is (objective["name"] in ("clm", "mixture"))


def test_the_trial_can_be_turned_off(train_here, one_stage, seen):
    train_here({**one_stage({"name": "mlm"}), "trial_step": False})
    assert seen.calls == ["step"] * 6


def test_the_trial_leaves_no_trace_in_weights_and_log(train_here, local_recipe, tmp_path):
    local_recipe["model"]["dropout"] = 0.2
    tried, untried = (
        train_here({**local_recipe, "run": str(tmp_path / str(trial)), "trial_step": trial}) for trial in (True, False)
    )
    for stage in ("mlm", "seq2seq_frozen", "seq2seq"):
        assert tried.hashes(stage) == untried.hashes(stage)
        assert tried.log(stage) == untried.log(stage)


def test_the_trial_of_padded_rows_leaves_no_trace_either(train_here, one_stage, tmp_path):
    recipe = one_stage(MIXTURE, heldout_rows=2, evaluate_every=3)
    recipe["model"]["dropout"] = 0.2
    tried, untried = (
        train_here({**recipe, "run": str(tmp_path / str(trial)), "trial_step": trial}) for trial in (True, False)
    )
    assert tried.hashes("mlm") == untried.hashes("mlm")
    assert tried.log("mlm") == untried.log("mlm")


def test_activation_checkpointing_recomputes_every_layer_and_changes_no_bit(
    train_here, one_stage, monkeypatch, tmp_path
):
    recomputed = []

    def watched(layer, *arguments, **named):
        recomputed.append(type(layer).__name__)
        return checkpointed(layer, *arguments, **named)

    checkpointed = stacks.checkpoint
    monkeypatch.setattr(stacks, "checkpoint", watched)
    recipe = {**one_stage({"name": "denoising"}, heldout_rows=0), "trial_step": False}
    recipe["model"]["dropout"] = 0.2
    plain = train_here({**recipe, "run": str(tmp_path / "plain")})
    assert not recomputed
    recipe["stages"][0]["activation_checkpointing"] = True
    again = train_here({**recipe, "run": str(tmp_path / "again")})
    assert recomputed == (["EncoderLayer"] * 2 + ["DecoderLayer"] * 2) * 6 * 4  # steps, micro-batches
    assert again.log("mlm") == plain.log("mlm")
    assert again.hashes("mlm") == plain.hashes("mlm")


@pytest.mark.slow
def test_compiled_layers_train_like_plain_ones(train_here, one_stage, tmp_path):
    recipe = {**one_stage({"name": "mlm"}, heldout_rows=0), "trial_step": False}
    recipe["model"]["dropout"] = 0.0  # a compiled layer draws its own
    plain = train_here({**recipe, "run": str(tmp_path / "plain")})
    torch._dynamo.reset()
    counters.clear()
    recipe["stages"][0]["compile"] = True
    compiled = train_here({**recipe, "run": str(tmp_path / "compiled")})
    assert counters["stats"]["unique_graphs"] == 1  # both layers run the same one
    assert counters["aot_autograd"]["ok"] > 0
    assert counters["graph_break"] == {}
    assert compiled.losses("mlm") == pytest.approx(plain.losses("mlm"), rel=1e-5)

"""The benchmarks at a tiny size: what they print and write, and that their arms do the same work. Never a time."""

import json
import os
import runpy
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from megas2s.errors import Refusal

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "tools" / "bench.py"
ENVIRONMENT = {"started", "git", "python", "platform", "packages", "device", "threads", "cpu", "load"}
RATIO = ["ratio", "least", "most", "best"]
TINY = ("--width", "64", "--layers", "1", "--vocab-size", "512")


@pytest.fixture
def bench(tmp_path, monkeypatch, capsys):
    """Run a subcommand in this process; returns what it wrote as JSON and what it printed."""
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    monkeypatch.delenv("MEGAS2S_DEV_DATA", raising=False)
    monkeypatch.chdir(ROOT)

    def run(command, *flags, processes=False):
        written = tmp_path / "figures" / "found.json"
        common = ["--quick", "--json", str(written), "--work", str(tmp_path / "work")]
        common += [] if processes else ["--one-process"]
        monkeypatch.setattr(sys, "argv", [str(SCRIPT), command, *common, *flags])
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(SCRIPT), run_name="__main__")
        assert ended.value.code == 0
        return json.loads(written.read_text()), capsys.readouterr().out

    return run


def test_both_sides_of_a_step_begin_with_one_loss_and_are_set_against_the_ledger(bench):
    found, printed = bench("step", *TINY, "--length", "32", "--rows", "2", "--precision", "fp32")
    (table,) = found["tables"]
    rows = {row["case"]: row for row in table["rows"]}
    plain = ["mlm-250k", "mlm-32k", "seq2seq-250k", "frozen-512-114", "frozen-denoising"]
    pseudo = ["pseudo-464-48", "pseudo-608-160", "pseudo-464-48-eager", "pseudo-608-160-eager"]
    assert list(rows) == plain + pseudo
    assert all(rows[name]["by FLOPs"] > 1 for name in pseudo)
    assert [key for key in rows["mlm-250k"] if key in RATIO] == RATIO
    assert rows["mlm-250k"]["other"] == "XLMRobertaForMaskedLM"
    # 5 of 31 tokens are predicted: the projection costs 32 : 5, one layer and the head's dense layer 13 D^2 a column.
    assert rows["mlm-250k"]["by FLOPs"] > 1
    assert (rows["seq2seq-250k"]["other"], rows["seq2seq-250k"]["by FLOPs"]) == ("MBartForConditionalGeneration", 1.0)
    assert (rows["frozen-512-114"]["arm"], rows["frozen-512-114"]["other"]) == ("frozen", "unfrozen")
    assert float(rows["frozen-denoising"]["target"].removeprefix(">= ")) == pytest.approx(
        0.9 * rows["frozen-denoising"]["by FLOPs"], abs=0.02
    )
    assert [float(row["first losses differ"]) for row in rows.values()] == pytest.approx([0.0] * 9, abs=1e-4)
    assert set(found["environment"]) == ENVIRONMENT
    assert "mlm-250k" in printed


def test_both_sides_of_decoding_write_the_same(bench):
    """The benchmark itself refuses to compare arms whose tokens differ."""
    found, _ = bench("generate", *TINY, "--source", "12", "--target", "8", "--rows", "3")
    beams, cached = (table["rows"][0] for table in found["tables"])
    assert (beams["arm"], beams["other"]) == ("ours", "transformers")
    assert (cached["arm"], cached["other"]) == ("keys and values", "hidden states")
    for row in (beams, cached):
        assert row["sources"] == 3
        assert row["sentences/s"] > 0


def test_arms_that_do_not_do_the_same_are_refused(bench, monkeypatch):
    from benchmarks import models

    monkeypatch.setattr(models, "_renamed", lambda weights, family, config: {})  # the other side keeps random weights
    with pytest.raises(RuntimeError, match="do not do the same"):
        bench("step", *TINY, "--case", "seq2seq-250k", "--length", "32", "--rows", "2", "--precision", "fp32")


def test_the_loader_is_measured_in_process_and_through_a_worker_against_the_collator(bench):
    found, printed = bench("loader", "--length", "32", "--rows", "4", "--batches", "2")
    speed, work = found["tables"]
    assert [row["arm"] for row in speed["rows"]] == [
        "mlm, in process",
        "denoising, in process",
        "mlm, one worker",
        "denoising, one worker",
        "collator, tensors",
        "collator, lists",
    ]
    assert list(speed["rows"][0]) == [
        "arm",
        "tokens/s",
        "tokens/CPU s",
        "target",
        "x collator, tensors",
        "x collator, lists",
        "CPU x collator, tensors",
        "CPU x collator, lists",
    ]
    assert work["rows"][0]["ours"] == pytest.approx(round(0.15 * 31) / 32, abs=1e-4)
    assert "DataCollator" not in printed


def test_preprocessing_and_datasets_make_the_same_tokens(bench):
    sizes = ("--megabytes", "0.05", "--scaling-megabytes", "0.05", "--memory-megabytes", "0.05", "0.1")
    found, printed = bench("data", "--vocab-size", "4096", *sizes)
    speed, scaling, memory = found["tables"]
    assert [row["arm"] for row in speed["rows"]] == ["ours", "datasets.map"]
    assert list(speed["rows"][0]) == [
        "arm",
        "MB/s",
        "tokens/s",
        "MB/CPU s",
        "tokens",
        *RATIO,
        "by CPU s",
        "target",
    ]
    assert speed["rows"][0]["tokens"] == speed["rows"][1]["tokens"] > 1000
    assert list(scaling["rows"][1]) == ["arm", "MB/s", "x one worker", "cores"]
    assert [row["text, MB"] for row in memory["rows"]] == [0.1, 0.1]  # 0.05 is written as 0.1
    assert printed.startswith("MEGAS2S_DEV_DATA is not set")


def test_resume_tells_each_step_and_checks_the_samples_it_got(bench):
    found, _ = bench("resume", "--steps", "3", "10_000_000", "--rows", "4")
    rows = found["tables"][0]["rows"]
    assert [row["step"] for row in rows] == [3] * 4 + [10_000_000] * 4
    assert list(rows[0]) == ["step", "objective", "workers", "seconds", "most", "target"]


def test_a_checkpoint_holds_what_torch_save_holds(bench):
    found, _ = bench("checkpoint", *TINY)
    rows = {row["arm"]: row for row in found["tables"][0]["rows"]}
    assert list(rows) == ["ours", "torch.save, flushed", "torch.save"]
    assert rows["ours"]["GB"] == pytest.approx(rows["torch.save"]["GB"], abs=0.002)
    assert list(rows["ours"])[1:4] == ["GB", "seconds", "GB/s"]


def test_an_arm_in_its_own_process_tells_its_own_memory_and_why_it_broke(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    from benchmarks import measure

    makes = {
        "small": partial(partial, eval, "1"),
        "large": partial(partial, eval, "len(b'x' * (300 << 20))"),
        "broken": partial(eval, "1 / 0"),
        "dead": partial(os._exit, 9),
    }
    with measure.arms(makes) as arms:
        runs = measure.interleaved({name: arms[name] for name in ("small", "large")}, rounds=1)
        assert [run.value for run in runs["large"]] == [300 << 20] * 2
        assert runs["large"][-1].peak - runs["small"][-1].peak > 250 << 20
        with pytest.raises(RuntimeError, match="division by zero"):
            arms["broken"].run()
        with pytest.raises(Refusal, match=r"the process of 'dead' died \(exit code 9\)"):
            arms["dead"].run()


def test_a_ratio_compares_rounds_and_leaves_the_warm_up_out(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "tools"))
    from benchmarks import measure

    runs = {
        name: [measure.Run(seconds, 0.0, 0) for seconds in times]
        for name, times in {"theirs": (99, 2, 4, 9), "ours": (1, 1, 4, 3)}.items()
    }
    assert measure.ratio(runs, "theirs", "ours") == (2.0, 1.0, 3.0, 2.0)
    assert measure.seconds(runs["theirs"]) == 4


def test_help_answers_without_torch(tmp_path):
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch" / "__init__.py").write_text("raise ImportError('not installed')")
    done = subprocess.run(
        [sys.executable, str(SCRIPT), "step", "--help"],
        env={"PYTHONPATH": f"{tmp_path}:{ROOT}", "COLUMNS": "200"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "--precision" in done.stdout

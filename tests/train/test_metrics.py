import json
import math

import pytest
import torch

from megas2s.train.metrics import MetricsLog, console_line, drop_after, duration, losses_from

VALUES = {
    "loss": 3.2141,
    "loss/mlm": 3.2141,
    "lr": 3e-4,
    "grad_norm": 0.81,
    "tokens_per_second": 182_000.0,
    "tflops": 1.25,
    "memory_gib": 1.5,
    "data_wait": 0.02,
    "eta_seconds": 3 * 3600 + 12 * 60.0,
}


def test_a_loss_is_the_mean_over_items_not_over_languages():
    sums = torch.tensor([[[10.0, 10.0], [90.0, 30.0], [0.0, 0.0]]])
    values = losses_from(sums, {"mlm": 1.0}, ["de", "en", "fr"])
    assert values == {"loss": 2.5, "loss/mlm": 2.5, "loss/mlm/de": 1.0, "loss/mlm/en": 3.0}


def test_the_loss_is_the_weighted_sum_of_its_parts():
    sums = torch.tensor([[[4.0, 2.0]], [[9.0, 3.0]]])
    assert losses_from(sums, {"a": 0.5, "b": 0.1}, ["en"])["loss"] == pytest.approx(0.5 * 2 + 0.1 * 3)


def test_a_part_without_items_does_not_make_the_loss_dip():
    weights = {"denoising": 0.8, "clm": 0.2}
    both = losses_from(torch.tensor([[[6.0, 2.0]], [[9.0, 3.0]]]), weights, ["en"])
    alone = losses_from(torch.tensor([[[6.0, 2.0]], [[0.0, 0.0]]]), weights, ["en"])
    assert both["loss"] == pytest.approx(0.8 * 3.0 + 0.2 * 3.0)
    assert alone == pytest.approx({"loss": 3.0, "loss/denoising": 3.0, "loss/denoising/en": 3.0})
    none = losses_from(torch.zeros(2, 1, 2), weights, ["en"])
    assert none.keys() == {"loss"}
    assert math.isnan(none["loss"])


def test_the_console_line_says_what_a_person_looks_for():
    line = console_line("mlm", 1200, 50000, VALUES)
    assert line == (
        "mlm 1200/50000 | loss 3.2141 | lr 3.00e-04 | gnorm 0.810 | 182k tok/s | 1.25 TFLOP/s | MFU n/a | "
        "mem 1.50 GiB | data 2.0% | ETA 3h12m"
    )
    assert "MFU 41.2%" in console_line("mlm", 1, 2, VALUES | {"mfu": 0.412})
    assert "skipped 3" in console_line("mlm", 1, 2, VALUES | {"skipped": 3.0})


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0s"), (42, "42s"), (185, "3m05s"), (11520, "3h12m"), (187200, "2d04h"), (math.nan, "?"), (math.inf, "?")],
)
def test_durations_are_short(seconds: float, text: str):
    assert duration(seconds) == text


def test_resuming_drops_what_lies_after_and_a_line_cut_short(tmp_path):
    path = tmp_path / "metrics.jsonl"
    lines = [{"stage": "mlm", "step": step} for step in (1, 2, 3)] + [{"stage": "other", "step": 9}]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"stage": "ml', encoding="utf-8")
    drop_after(path, "mlm", 2)
    assert [json.loads(line) for line in path.read_text().splitlines()] == [lines[0], lines[1], lines[3]]


def test_a_scalar_that_is_no_number_stays_readable_json(tmp_path):
    metrics = MetricsLog(tmp_path, "mlm", resumed_at=0, tensorboard=False)
    metrics.scalars("train", 1, {"loss": 1.0, "grad_norm": math.nan})
    record = json.loads((tmp_path / "metrics.jsonl").read_text())
    assert record == {"stage": "mlm", "kind": "train", "step": 1, "loss": 1.0, "grad_norm": "nan"}


def test_tensorboard_gets_the_same_scalars(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    metrics = MetricsLog(tmp_path, "mlm", resumed_at=0, tensorboard=True)
    metrics.scalars("heldout", 5, {"loss/mlm": 3.5, "loss/mlm/en": 2.5})
    metrics.text("samples", 5, "hello")
    metrics.close()
    board = EventAccumulator(str(tmp_path / "tensorboard" / "mlm"))
    board.Reload()
    assert [(event.step, event.value) for event in board.Scalars("heldout/loss/mlm")] == [(5, 3.5)]
    assert [(event.step, event.value) for event in board.Scalars("heldout_languages/loss/mlm/en")] == [(5, 2.5)]
    assert board.Tags()["tensors"] == ["samples/text_summary"]

"""44: a log that cannot be written costs no training: one warning, and what was to be written waits where it can."""

from __future__ import annotations

import builtins
import errno
import json
import os
import threading
import time

import pytest

from megas2s.train import metrics as metrics_module
from megas2s.train.metrics import MetricsLog


def full(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")
def test_tensorboard_on_a_full_disk_is_told_once_and_left_out(tmp_path, monkeypatch, capsys, caplog):
    from tensorboard.summary.writer.record_writer import RecordWriter

    monkeypatch.setattr(threading, "excepthook", threading.excepthook)  # given back afterwards
    metrics = MetricsLog(tmp_path, "mlm", resumed_at=0, tensorboard=True)
    monkeypatch.setattr(RecordWriter, "write", full)
    step = 0
    give_up = time.monotonic() + 30
    while not caplog.records and time.monotonic() < give_up:
        step += 1
        metrics.scalars("train", step, {"loss": 1.0})
        time.sleep(0.01)
    for after in range(step + 1, step + 20):
        metrics.scalars("train", after, {"loss": 1.0})
    metrics.close()
    (warning,) = [record.getMessage() for record in caplog.records]
    assert warning.startswith("TensorBoard's files are not written any more")
    assert capsys.readouterr().err == ""
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == step + 19


def test_reports_wait_for_a_disk_that_takes_them(tmp_path, monkeypatch, caplog):
    metrics = MetricsLog(tmp_path, "mlm", resumed_at=0, tensorboard=False)
    metrics.scalars("train", 1, {"loss": 4.0})
    opened = builtins.open

    def refusing(path, *rest, **known):
        if str(path).endswith("metrics.jsonl"):
            full()
        return opened(path, *rest, **known)

    monkeypatch.setattr(metrics_module, "open", refusing, raising=False)
    metrics.scalars("train", 2, {"loss": 3.0})
    metrics.scalars("train", 3, {"loss": 2.0})
    monkeypatch.setattr(metrics_module, "open", opened, raising=False)
    metrics.scalars("train", 4, {"loss": 1.0})
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    (warning,) = [record.getMessage() for record in caplog.records]
    assert "does not take reports (No space left on device); they are kept and tried again" in warning


def test_a_run_ends_as_it_would_have_without_tensorboard_samples_and_times(
    train_here, local_recipe, monkeypatch, tmp_path
):
    from tensorboard.summary.writer.record_writer import RecordWriter

    local_recipe |= {"stages": local_recipe["stages"][:1]}
    straight = train_here({**local_recipe, "run": str(tmp_path / "straight")})
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    monkeypatch.setattr(RecordWriter, "write", full)
    run = tmp_path / "troubled"
    (run / "time.jsonl").mkdir(parents=True)  # a folder where a file is to be written
    (run / "samples").write_text("a file where a folder is needed")
    local_recipe["log"] |= {"tensorboard": True, "samples_every": 2}
    troubled = train_here({**local_recipe, "run": str(run)})
    assert troubled.bits("mlm") == straight.bits("mlm")

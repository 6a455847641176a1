import json
import os
import subprocess
import sys
import time

import psutil
import pytest

from megas2s.errors import BadConfig
from megas2s.train import lock


def test_a_second_job_is_refused_with_the_first_one_s_process(tmp_path):
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys, time; from pathlib import Path; from megas2s.train import lock; "
            "lock.hold(Path(sys.argv[1])); print('held', flush=True); time.sleep(60)",
            str(tmp_path),
        ],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(BadConfig, match=f"in use by process {holder.pid} "):
            lock.hold(tmp_path)
    finally:
        holder.kill()
        holder.wait()
    lock.hold(tmp_path)  # a dead holder is no holder
    assert json.loads((tmp_path / lock.LOCK).read_text())["pid"] == os.getpid()


def test_a_process_takes_its_own_lock_again(tmp_path):
    lock.hold(tmp_path)
    lock.hold(tmp_path)
    assert json.loads((tmp_path / lock.LOCK).read_text())["pid"] == os.getpid()


def test_a_reused_process_id_does_not_hold(tmp_path):
    stale = {"host": os.uname().nodename, "pid": os.getpid(), "started": psutil.Process().create_time() - 1000}
    (tmp_path / lock.LOCK).write_text(json.dumps(stale))
    lock.hold(tmp_path)
    assert json.loads((tmp_path / lock.LOCK).read_text())["started"] != stale["started"]


# Other hosts


def foreign(tmp_path):
    path = tmp_path / lock.LOCK
    path.write_text(json.dumps({"host": "elsewhere", "pid": 1, "started": 0.0}))
    return path


def test_a_lock_that_another_host_touches_counts(tmp_path, monkeypatch):
    path = foreign(tmp_path)
    slept = []

    def sleep(seconds):
        slept.append(seconds)
        if len(slept) == 3:
            os.utime(path, (time.time() + 5, time.time() + 5))

    monkeypatch.setattr(lock.time, "sleep", sleep)
    with pytest.raises(BadConfig, match="process 1 on elsewhere"):
        lock.hold(tmp_path)
    assert len(slept) == 3
    assert json.loads(path.read_text())["pid"] == 1


def test_a_lock_that_another_host_does_not_touch_is_watched_then_taken_over_and_that_is_said(
    tmp_path, monkeypatch, caplog
):
    foreign(tmp_path)
    monkeypatch.setattr(lock, "WATCH_SECONDS", 0.1)
    lock.hold(tmp_path)
    assert json.loads((tmp_path / lock.LOCK).read_text())["pid"] == os.getpid()
    assert "watching it for 0 s for a sign of life" in caplog.text
    assert f"process 1 on elsewhere has left {tmp_path / lock.LOCK} behind; taking it over" in caplog.text


def test_an_old_lock_of_another_host_is_not_waited_for(tmp_path, monkeypatch):
    path = foreign(tmp_path)
    os.utime(path, (time.time() - 601, time.time() - 601))
    monkeypatch.setattr(lock.time, "sleep", lambda seconds: pytest.fail("it waited"))
    monkeypatch.setattr(lock.threading.Thread, "start", lambda thread: None)
    lock.hold(tmp_path)
    assert json.loads(path.read_text())["pid"] == os.getpid()


def test_a_lock_released_while_it_is_watched_is_free(tmp_path, monkeypatch):
    path = foreign(tmp_path)
    monkeypatch.setattr(lock.threading.Thread, "start", lambda thread: None)
    monkeypatch.setattr(lock.time, "sleep", lambda seconds: path.unlink())
    lock.hold(tmp_path)
    assert json.loads(path.read_text())["pid"] == os.getpid()


HOLDS = """
import sys, time
from pathlib import Path
from megas2s.train import lock

lock.TOUCH_SECONDS = 0.02
lock.hold(Path(sys.argv[1]))
lock.hold(Path(sys.argv[1]))
print("held", flush=True)
try:
    time.sleep(60)
except KeyboardInterrupt:
    print("interrupted")
"""


def test_a_holder_touches_its_lock_and_ends_where_another_one_takes_it(tmp_path):
    command = [sys.executable, "-c", HOLDS, str(tmp_path)]
    holder = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "held\n"
        path = tmp_path / lock.LOCK
        os.utime(path, (0, 0))
        give_up = time.monotonic() + 30
        while path.stat().st_mtime == 0:
            assert time.monotonic() < give_up
            time.sleep(0.01)
        beside = tmp_path / "beside"
        beside.write_text(json.dumps({"host": "elsewhere", "pid": 1, "started": 0.0}))
        os.replace(beside, path)
        said, complaint = holder.communicate(timeout=30)
        assert said == "interrupted\n"
        assert complaint == f"process 1 on elsewhere has taken over {tmp_path}; ending here\n"
        assert json.loads(path.read_text())["pid"] == 1  # it is not released by who has lost it
    finally:
        holder.kill()
        holder.wait()


def test_a_damaged_lock_is_replaced(tmp_path):
    (tmp_path / lock.LOCK).write_text("{")
    lock.hold(tmp_path)
    assert json.loads((tmp_path / lock.LOCK).read_text())["pid"] == os.getpid()

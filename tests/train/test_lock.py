import json
import os
import subprocess
import sys

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


def test_a_lock_of_another_host_counts(tmp_path):
    (tmp_path / lock.LOCK).write_text(json.dumps({"host": "elsewhere", "pid": 1, "started": 0.0}))
    with pytest.raises(BadConfig, match="process 1 on elsewhere"):
        lock.hold(tmp_path)


def test_a_damaged_lock_is_replaced(tmp_path):
    (tmp_path / lock.LOCK).write_text("{")
    lock.hold(tmp_path)
    assert json.loads((tmp_path / lock.LOCK).read_text())["pid"] == os.getpid()

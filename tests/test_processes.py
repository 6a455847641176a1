"""Children answer no Ctrl-C, not even while they start; their parent does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

PROGRAM = """
import multiprocessing, sys, time
from concurrent.futures import ProcessPoolExecutor
from megas2s.processes import without_ctrl_c

def work(path):
    time.sleep(0.2)
    open(path, "w").write("done")

if __name__ == "__main__":
    pool = ProcessPoolExecutor(1, multiprocessing.get_context(sys.argv[1]))
    try:
        with without_ctrl_c():
            pool.submit(work, sys.argv[2])
            print("started", flush=True)
            time.sleep(0.1)
        time.sleep(30)
    except KeyboardInterrupt:
        print("heard", flush=True)
    pool.shutdown()
"""


def test_a_child_that_is_interrupted_while_it_starts_goes_on_and_its_parent_answers(tmp_path: Path):
    program, done = tmp_path / "program.py", tmp_path / "done"
    program.write_text(PROGRAM)
    around = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1])}
    for start in ("spawn", "fork"):
        command = [sys.executable, str(program), start, str(done)]
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=around, start_new_session=True
        ) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "started\n"
            os.killpg(process.pid, signal.SIGINT)
            out, err = process.communicate(timeout=60)
        assert (out, err, process.returncode) == ("heard\n", "", 0)
        assert done.read_text() == "done"
        done.unlink()

"""A compilation that was killed does not hang the runs after it; one that goes on is left in peace."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from megas2s.engine import compiled
from megas2s.engine.compiled import drop_dead_locks, extensions_folder
from megas2s.errors import BadConfig

# Marks the folder as torch does (torch.utils.file_baton), and compiles until it is killed.
COMPILES = (
    "import os, sys, time; os.open(sys.argv[1], os.O_CREAT | os.O_EXCL); print('marked', flush=True); time.sleep(60)"
)


@pytest.fixture
def lock(tmp_path: Path) -> Path:
    path = tmp_path / "cpu_adam" / "lock"
    path.parent.mkdir()
    return path


def test_a_mark_is_taken_away_once_its_process_was_killed(lock: Path, tmp_path: Path, capsys):
    with subprocess.Popen([sys.executable, "-c", COMPILES, lock], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"marked\n"
        assert drop_dead_locks(tmp_path) == []
        process.kill()
        process.wait()
    assert lock.exists()
    assert drop_dead_locks(tmp_path) == [lock]
    assert not lock.exists()
    assert f"{lock}: left by a compilation that was killed" in capsys.readouterr().err


def test_marks_lie_one_folder_deeper_where_torch_chooses_the_place(tmp_path: Path):
    lock = tmp_path / "py311_cpu" / "cpu_adam" / "lock"
    lock.parent.mkdir(parents=True)
    lock.touch()
    assert drop_dead_locks(tmp_path) == [lock]


def test_on_a_shared_file_system_a_mark_is_left_until_it_is_too_old(lock: Path, tmp_path: Path, monkeypatch):
    monkeypatch.setattr(compiled, "OF_ONE_HOST", set())
    lock.touch()
    assert drop_dead_locks(tmp_path) == []
    hours_ago = time.time() - 2 * 3600
    os.utime(lock, (hours_ago, hours_ago))
    with pytest.raises(BadConfig, match="for 120 minutes; where no host compiles any more, remove it"):
        drop_dead_locks(tmp_path)
    assert lock.exists()


def test_marks_that_come_and_go_while_ranks_start_are_left_in_peace(lock: Path, tmp_path: Path, monkeypatch):
    lock.touch()
    held = compiled._held

    def ended(path: Path) -> bool:
        path.unlink()
        return held(path)

    monkeypatch.setattr(compiled, "_held", ended)
    assert drop_dead_locks(tmp_path) == []

    def renewed(path: Path) -> bool:
        path.unlink()
        path.touch()
        return held(path)

    lock.touch()
    monkeypatch.setattr(compiled, "_held", renewed)
    assert drop_dead_locks(tmp_path) == []
    assert lock.exists()


def test_a_folder_that_is_not_there_has_no_marks(tmp_path: Path):
    assert drop_dead_locks(tmp_path / "none") == []


@pytest.mark.ranks
@pytest.mark.timeout(300)
def test_a_rank_joins_past_a_dead_mark(tmp_path: Path):
    name = "deepspeed_shm_comm"
    built = [*extensions_folder().rglob(f"{name}.so")]
    if built:
        shutil.copytree(built[0].parent, tmp_path / name)
    (tmp_path / name).mkdir(exist_ok=True)
    (tmp_path / name / "lock").touch()
    joins = "from megas2s.engine import zero; zero.join(); print('joined')"
    around = {**os.environ, "TORCH_EXTENSIONS_DIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-c", joins], env=around, capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "joined" in done.stdout
    assert f"{tmp_path / name / 'lock'}: left by a compilation" in done.stderr

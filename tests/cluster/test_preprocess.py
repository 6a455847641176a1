"""Preprocessing over two hosts: the bytes of one process, for any number of ranks, and after one of them was killed."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path

import pytest

from .hosts import Cluster, end

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "tools" / "preprocess.py"
SAMPLE = ROOT / "launch" / "sample_corpus"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of twelve megabytes, which is cut, and small ones, which are not."""
    folder = tmp_path_factory.mktemp("inputs")
    words = (SAMPLE / "en.txt").read_text().split()
    with open(folder / "en.txt", "w", encoding="utf-8") as file:
        for line in range(20_000):
            file.write(" ".join(words[(line * 7 + step * step) % len(words)] for step in range(100)) + "\n")
    for language in ("sw", "zh"):
        (folder / f"{language}.txt").write_bytes((SAMPLE / f"{language}.txt").read_bytes())
    return folder


@pytest.fixture(scope="module")
def arguments(inputs: Path, corpus_folder: Path):
    """The command's arguments for an output."""
    shared = ["--input", inputs, "--tokenizer", corpus_folder / "tokenizer", "--held-out", 0.01]
    return lambda output: [sys.executable, SCRIPT, *shared, "--output", output]


@pytest.fixture(scope="module")
def straight(arguments, shell, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What one process makes."""
    folder = tmp_path_factory.mktemp("straight") / "corpus"
    done = shell([*map(str, arguments(folder)), "--workers", "1"], timeout=200)
    assert done.returncode == 0, done.stdout
    return content(folder)


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def mpirun(cluster: Cluster, number: int) -> list[object]:
    launch: list[object] = ["mpirun", "--allow-run-as-root", "-n", number, "--hostfile", cluster.hostfile(slots=2)]
    launch += ["--mca", "btl_tcp_if_include", "eth0", "--mca", "oob_tcp_if_include", "eth0"]
    return launch + [flag for name, value in cluster.exported().items() for flag in ("-x", f"{name}={value}")]


@pytest.mark.parametrize("number", [2, 4])
def test_any_number_of_ranks_makes_the_same_bytes(cluster: Cluster, arguments, straight, tmp_path: Path, number: int):
    code, output = cluster.run([*mpirun(cluster, number), *arguments(tmp_path / "corpus")], timeout=200, on="alpha")
    assert code == 0, output[-4000:]
    assert output.count("is complete") == 1
    assert content(tmp_path / "corpus") == straight


def test_the_work_of_a_rank_that_was_killed_is_done_again(cluster: Cluster, arguments, straight, tmp_path: Path):
    command = [*mpirun(cluster, 4), *arguments(tmp_path / "corpus")]
    log = tmp_path / "output.txt"
    process = cluster.start(command, log, on="alpha")
    parts = tmp_path / "corpus" / ".staging" / "parts"
    try:
        while not (parts.is_dir() and any(parts.glob("*.json"))):
            assert process.poll() is None, log.read_text()
            time.sleep(0.01)
        os.kill(cluster.ranks()[-1], signal.SIGKILL)
        assert process.wait(60) != 0
    finally:
        end(process)
        cluster.kill()
    assert not (tmp_path / "corpus" / "corpus.json").exists()
    code, output = cluster.run(command, timeout=200, on="alpha")
    assert code == 0, output[-4000:]
    assert "going on after " in output
    assert content(tmp_path / "corpus") == straight


def test_a_bad_line_ends_all_ranks_in_one_sentence(cluster: Cluster, arguments, inputs: Path, tmp_path: Path):
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "de.txt").write_bytes(b"eins\n\xff\n")
    command = [*mpirun(cluster, 3), *arguments(tmp_path / "corpus"), "--input", tmp_path / "more"]
    code, output = cluster.run(command, timeout=200, on="alpha")
    assert code != 0
    assert output.count("de.txt, line 2: invalid UTF-8; repair it, or use --invalid-utf8 drop") == 1

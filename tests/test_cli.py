"""The door for errors: who speaks when several ranks fail, and when the others do."""

from __future__ import annotations

import logging
import sys
import time

import pytest

from megas2s import cli, dist
from megas2s.errors import BadConfig, BadData
from megas2s.place import Place


@pytest.fixture
def ends(monkeypatch, capsys):
    """Run a `main` that raises, on a rank; gives the exit code, what was printed, and for how long it was silent."""

    def run(error, *, rank=0, world_size=1):
        waits = []
        monkeypatch.setattr(cli, "place", lambda: Place(rank, world_size, rank))
        monkeypatch.setattr(cli.time, "sleep", waits.append)
        monkeypatch.setattr(cli.socket, "gethostname", lambda: "node7")

        def main():
            raise error

        with pytest.raises((SystemExit, type(error))) as ended:
            cli.run(main)
        return getattr(ended.value, "code", None), capsys.readouterr().err, sum(waits)

    return run


def test_a_refusal_is_its_sentence_and_its_code(ends):
    assert ends(BadData("no text in a.txt; add some")) == (3, "error: no text in a.txt; add some\n", 0)


def test_several_mistakes_are_a_line_each(ends):
    code, printed, _ = ends(BadConfig("r.yaml: a: unknown key\nr.yaml: b: unknown key"))
    assert code == 2
    assert printed.splitlines() == ["error: r.yaml: a: unknown key", "error: r.yaml: b: unknown key"]


def test_of_several_ranks_the_first_speaks_at_once_and_the_others_only_if_it_does_not_end_them(ends):
    assert ends(BadData("gone"), rank=0, world_size=4) == (3, "error: gone\n", 0)
    code, printed, silent = ends(BadData("gone"), rank=3, world_size=4)
    assert (code, printed) == (3, "error: rank 3 on node7: gone\n")
    assert silent == cli.OTHERS_SECONDS


def test_the_loss_of_another_rank_waits_for_that_rank_s_own_words(ends):
    lost = RuntimeError("Connection closed by peer")
    assert ends(lost) == (None, "", 0)
    assert ends(lost, rank=0, world_size=2) == (None, "", cli.FIRST_SECONDS)
    assert ends(lost, rank=1, world_size=2) == (None, "", cli.OTHERS_SECONDS)


@pytest.fixture
def rank_log(tmp_path):
    """The file that a rank logs to."""
    log, handler = logging.getLogger("megas2s"), logging.FileHandler(tmp_path / "rank_1.log")
    log.addHandler(handler)
    yield tmp_path / "rank_1.log"
    log.removeHandler(handler)
    handler.close()


def test_the_loss_of_another_rank_is_in_this_one_s_log_too_even_if_it_is_ended_before_it_speaks(
    ends, rank_log, monkeypatch
):
    monkeypatch.setattr(cli.os, "_exit", sys.exit)
    lost = dist.torch_dist.DistBackendError("somewhere\nTimed out waiting 15000ms")
    sentence = (
        "rank 1 on node7 lost the other ranks (Timed out waiting 15000ms): one has ended, hangs, or the network is "
        "down; the same command continues from the last checkpoint\n"
    )
    assert ends(lost, rank=1, world_size=2) == (7, f"error: {sentence}", cli.OTHERS_SECONDS)
    assert rank_log.read_text() == sentence
    monkeypatch.setattr(cli, "_patience", lambda *_, **__: sys.exit("ended"))
    ends(lost, rank=1, world_size=2)
    assert rank_log.read_text() == 2 * sentence


def test_an_interruption_is_told_once(ends):
    assert ends(KeyboardInterrupt(), rank=0, world_size=2) == (130, "interrupted; the same command continues\n", 0)
    assert ends(KeyboardInterrupt(), rank=1, world_size=2) == (130, "", 0)


LOST = """
import os, signal, time
from megas2s import cli

class Held:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(10)

def main():
    held = Held()
    del held
    time.sleep(10)

cli.run(main)
"""


def test_an_interruption_that_falls_into_a_destructor_is_not_lost(shell):
    begun = time.monotonic()
    ended = shell([sys.executable, "-c", LOST], timeout=60)
    assert (ended.returncode, ended.stdout) == (130, "interrupted; the same command continues\n")
    assert time.monotonic() - begun < 9


@pytest.fixture
def flags():
    """How a script with two flags reads its words."""
    parser = cli.parser("reads")
    parser.add_argument("inputs", nargs="+")
    parser.add_argument("--held-out", type=float, default=0.0)
    parser.add_argument("--json", action="store_true")
    return lambda *words: vars(parser.parse_args(words))


def test_a_key_and_a_value_stand_for_a_flag(flags):
    expected = {"inputs": ["a=b", "c"], "held_out": 0.5, "json": True}
    assert flags("a=b", "held_out=0.5", "json=true", "c") == expected
    assert flags("a=b", "c", "--held-out=0.5", "--json") == expected
    assert flags("c", "json=false", "held-out=1")["json"] is False


def test_a_path_that_looks_like_one_stays_a_path(flags, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "json=true").mkdir()
    read = {"inputs": ["json=true", "held_out=*/a.txt"], "held_out": 0.0, "json": False}
    assert flags("json=true", "held_out=*/a.txt") == read


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["a", "--held_outt=1"], "unrecognized arguments: --held_outt=1; did you mean --held-out?"),
        (["a", "--nonsense"], "unrecognized arguments: --nonsense; "),
        (["a", "json=1"], "json is true or false, found '1'; "),
        (["a", "held_out=much"], "argument --held-out: invalid float value: 'much'; "),
    ],
)
def test_words_that_cannot_be_read_are_refused_with_the_nearest_flag(flags, words, said):
    with pytest.raises(BadConfig) as refused:
        flags(*words)
    assert str(refused.value).startswith(said)
    assert str(refused.value).endswith("--help lists what there is")

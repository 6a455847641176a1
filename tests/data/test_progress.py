"""Progress is said in rates and time left."""

from __future__ import annotations

from megas2s.data.documents import read_documents
from megas2s.data.inputs import Inputs
from megas2s.data.progress import Display, Progress, describe


def test_progress_is_said_in_rates_and_time_left():
    progress = Progress("tokenise", "en.txt", 3, 10, 60_000_000, 100_000_000, 5_000, 80_000_000)
    assert describe(progress, seconds=10.0, first=20_000_000) == (
        "3/10 files, 500 documents/s, 8.0 MB/s, 60%, ETA 0:00:10"
    )
    unknown = progress._replace(total=0, position=0)
    assert describe(unknown, seconds=10.0, first=0) == "3/10 files, 500 documents/s, 8.0 MB/s"


def test_reading_tells_how_far_it_is(tmp_path):
    for name, count in (("en", 1), ("fr", 40_000)):
        (tmp_path / f"{name}.txt").write_text("some words in a line that are read\n" * count)
    told = []
    documents = list(read_documents(Inputs(paths=(str(tmp_path),)), report=told.append))
    sizes = [(tmp_path / f"{name}.txt").stat().st_size for name in ("en", "fr")]
    assert len(documents) == told[-1].documents == 40_001
    assert {progress.total for progress in told} == {sum(sizes)}
    positions = [progress.position for progress in told]
    assert positions == sorted(positions)
    assert len(set(positions)) == 3  # the first file, a block of the second, all
    assert (told[-1].files, told[-1].position, told[-1].text_bytes) == (2, sum(sizes), sum(sizes))


def test_without_a_terminal_a_line_is_printed_now_and_then(monkeypatch, capsys):
    monkeypatch.setattr(Display, "SECONDS", 0.0)
    with Display() as display:
        display.show(Progress("read", "en.txt", 0, 2, 50, 100, 7, 50))
        display.show(Progress("read", "en.txt", 1, 2, 60, 100, 8, 60))
    assert [line.split(",")[0] for line in capsys.readouterr().out.splitlines()] == [
        "read: 0/2 files",
        "read: 1/2 files",
    ]

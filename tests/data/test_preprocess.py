"""The same input gives the same corpus, byte for byte, whatever the workers, the blocks and the interruptions."""

from __future__ import annotations

import errno
import gzip
import json
import os
import random
import re
import subprocess
import sys
from pathlib import Path

import pytest
from byte_tokenizer import Bytes, Deadly
from hypothesis import given, settings
from hypothesis import strategies as st

from megas2s.data import assemble, making
from megas2s.data.clean import clean
from megas2s.data.corpus import Corpus, verify_corpus
from megas2s.data.documents import input_files
from megas2s.data.inputs import Inputs
from megas2s.data.pieces import cut, name_of, sampled
from megas2s.data.preprocess import Choices, CorpusTokenizer
from megas2s.data.screen import Screening
from megas2s.errors import BadConfig, BadData, DiskTrouble

from .byte_corpus import KEEP_ALL, TOKENIZER, content, make, texts
from .ranks import make_by_ranks

ROOT = Path(__file__).parents[2]


def test_documents_come_out_as_they_went_in(tmp_path):
    (tmp_path / "en.jsonl").write_text('{"text": "a\\nb"}\n{"text": "\\u0001e\\u0301"}\n{"text": " "}\n{"text": "c"}\n')
    corpus = make(tmp_path / "en.jsonl", tmp_path / "out")
    assert texts(corpus) == ["a\nb", "é", "c"]
    assert corpus.tokenizer_folder.joinpath("model").read_text() == "bytes"
    assert corpus.record["languages"]["en"] == {
        "documents": 3,
        "tokens": 3 + 2 + 1 + 3,
        "characters": 5,
        "heldout_documents": 0,
        "heldout_tokens": 0,
        "dropped": {"control characters": 1, "empty": 1},
    }
    verify_corpus(corpus)


@settings(max_examples=40, deadline=None)
@given(documents=st.lists(st.text(st.characters(codec="utf-8"), max_size=20), min_size=1, max_size=8))
def test_any_text_survives(documents, tmp_path_factory):
    folder = tmp_path_factory.mktemp("any")
    (folder / "en.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in [*documents, "last"]))
    cleaned = [clean(text).text for text in [*documents, "last"]]
    assert texts(make(folder / "en.jsonl", folder / "out", block_size=16)) == [
        Bytes().normalise(text) for text in cleaned if text.strip()
    ]


@pytest.mark.parametrize("choices", [KEEP_ALL, Choices(deduplicate=True, held_out=0.2)])
def test_workers_and_blocks_change_no_byte(inputs, tmp_path, choices):
    make(inputs, tmp_path / "one", choices=choices)
    make(inputs, tmp_path / "blocks", choices=choices, block_size=50)
    make(inputs, tmp_path / "pieces", choices=choices, block_size=50, piece_size=70)
    make(inputs, tmp_path / "two", choices=choices, block_size=50, piece_size=300, workers=2)
    for other in ("blocks", "pieces", "two"):
        assert content(tmp_path / "one") == content(tmp_path / other)


class Interruption(Exception):
    pass


def test_an_interruption_after_any_block_changes_no_byte(inputs, tmp_path):
    choices = Choices(held_out=0.1)
    make(inputs, tmp_path / "straight", choices=choices, block_size=200)
    starts = []
    for interrupted in range(100):
        seen = []

        def stop(progress, after=interrupted, seen=seen):
            seen.append((progress.phase, progress.files))
            if len(seen) > after:
                raise Interruption

        folder = tmp_path / f"interrupted-{interrupted}"
        try:
            make(inputs, folder, choices=choices, block_size=200, piece_size=600, report=stop)
            break
        except Interruption:
            with pytest.raises(BadData, match="never finished"):
                Corpus.open(folder)
        again = []
        make(inputs, folder, choices=choices, block_size=200, report=again.append)
        assert content(folder) == content(tmp_path / "straight")
        starts.append((seen[-1][1], again[0].phase, again[0].files))
    assert len(starts) > 15
    for finished, phase, first in starts:  # no finished piece is read again
        assert phase == "write shards" or first >= finished


@pytest.fixture
def everything(tmp_path):
    """Varied text of two languages with near-duplicates and evaluation text in it, and choices that use every means."""
    draw = random.Random(11)
    (tmp_path / "varied").mkdir()
    kept = []
    for name in ("en-1", "en-2", "sw"):
        texts = [" ".join(f"Word{draw.randrange(500)}," for _ in range(60)) for _ in range(80)]
        texts += [text.replace(",", ";", 3) + f" {number}" for number, text in enumerate(texts[:20])]
        draw.shuffle(texts)
        (tmp_path / "varied" / f"{name}.txt").write_text("\n".join(texts))
        kept.append(texts[3])
    (tmp_path / "test.txt").write_text("\n".join(" ".join(text.split()[10:40]) for text in kept))
    screening = Screening(near_duplicates=0.7, evaluation=(str(tmp_path / "test.txt"),), spoken=0.5)
    return tmp_path / "varied", Choices(held_out=0.1, quotas={"text": 45_000, "text/sw": 20_000}, screening=screening)


def test_ranks_and_interruptions_change_no_byte_with_everything_on(everything, tmp_path, monkeypatch):
    inputs, choices = everything
    monkeypatch.setattr(assemble, "SHARD_TOKENS", 10_000)
    corpus = make(inputs, tmp_path / "plain", choices=choices)
    facts = corpus.record["languages"]["en"]
    assert facts["dropped"].keys() == {"near duplicate", "evaluation text", "beyond the quota"}
    assert facts["heldout_documents"] > 3
    assert 0.2 < sum(text == text.lower() for text in texts(corpus)) / len(texts(corpus)) < 0.8
    make_by_ranks(3, inputs, tmp_path / "ranks", choices=choices, piece_size=9000)
    assert content(tmp_path / "ranks") == content(tmp_path / "plain")
    for phase in ("tokenise", "write shards"):
        folder, seen = tmp_path / phase, []

        def stop(progress, phase=phase, seen=seen):
            seen.append(progress.phase)
            if seen.count(phase) > 2:
                raise Interruption

        with pytest.raises(Interruption):
            make(inputs, folder, choices=choices, piece_size=20_000, report=stop)
        make_by_ranks(2, inputs, folder, choices=choices)
        assert content(folder) == content(tmp_path / "plain")


def test_a_failed_write_of_a_shard_loses_nothing(inputs, tmp_path, monkeypatch):
    make(inputs, tmp_path / "straight")
    written = []

    def full(path, *rest, **more):
        if len(written) == 2:
            raise DiskTrouble("no room")
        written.append(path)
        return write(path, *rest, **more)

    write = assemble.write_shard
    monkeypatch.setattr(assemble, "write_shard", full)
    with pytest.raises(DiskTrouble):
        make(inputs, tmp_path / "out")
    monkeypatch.undo()
    monkeypatch.setattr(CorpusTokenizer, "load", property(lambda _: pytest.fail("nothing is to be tokenised again")))
    make(inputs, tmp_path / "out")
    assert content(tmp_path / "out") == content(tmp_path / "straight")


@pytest.mark.parametrize("refused", ["/claims/run-", "/claims/(?!run-)"])
def test_a_disk_that_takes_no_claims_ends_in_a_sentence(inputs, tmp_path, monkeypatch, refused):
    opened, touched = os.open, Path.touch

    def full(path, flags, *rest, **more):
        if re.search(refused, str(path)):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        return opened(path, flags, *rest, **more)

    def untouched(path, *rest, **more):
        if path.name == "refused":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        touched(path, *rest, **more)

    monkeypatch.setattr(Path, "touch", untouched)
    monkeypatch.setattr(os, "open", full)
    with pytest.raises(DiskTrouble, match=r"no room to write .*/out/\.staging.*; free some space"):
        make(inputs, tmp_path / "out")


def test_a_part_that_a_run_left_unfinished_does_not_count(inputs, tmp_path):
    make(inputs, tmp_path / "straight")
    (piece,) = cut(sampled(input_files(Inputs(paths=(str(inputs),)))), 1 << 20)
    leftover = tmp_path / "out" / ".staging" / "parts" / f"{name_of(piece)}.ids"
    leftover.parent.mkdir(parents=True)
    leftover.write_bytes(b"\1" * 7)
    make(inputs, tmp_path / "out")
    assert content(tmp_path / "out") == content(tmp_path / "straight")


def test_a_complete_corpus_is_reused(inputs, tmp_path):
    made = make(inputs, tmp_path / "out")
    times = {path: path.stat().st_mtime_ns for path in made.folder.rglob("*")}
    assert make(inputs, tmp_path / "out") == made
    assert {path: path.stat().st_mtime_ns for path in made.folder.rglob("*")} == times


@pytest.mark.parametrize("finished", [True, False])
def test_other_arguments_or_inputs_are_refused(inputs, tmp_path, finished):
    folder = tmp_path / "out"
    if finished:
        make(inputs, folder)
    else:
        (inputs / "ja.txt").write_bytes(b"\xff\n")
        with pytest.raises(BadData, match="invalid UTF-8"):
            make(inputs, folder)
    with pytest.raises(BadConfig, match=r"other arguments: held out \(was 0.0, now 0.1\)"):
        make(inputs, folder, choices=Choices(deduplicate=False, held_out=0.1))
    with pytest.raises(BadConfig, match=r"other arguments: tokenizer \(was bytes, now words\)"):
        make(inputs, folder, tokenizer=TOKENIZER._replace(fingerprint="words"))
    if finished:
        (inputs / "de.txt").write_text("less")
        with pytest.raises(BadConfig, match="of other inputs"):
            make(inputs, folder)


def test_other_inputs_are_refused_once_shards_are_planned(inputs, tmp_path, monkeypatch):
    monkeypatch.setattr(assemble, "write_shard", lambda *_, **__: pytest.fail("stopped here"))
    with pytest.raises(pytest.fail.Exception):
        make(inputs, tmp_path / "out")
    monkeypatch.undo()
    (inputs / "de.txt").write_text("less")
    with pytest.raises(BadConfig, match="begun with other inputs"):
        make(inputs, tmp_path / "out")


def test_a_file_that_changes_before_is_read_again(inputs, tmp_path):
    (inputs / "ja.txt").write_bytes(b"\xff\n")
    with pytest.raises(BadData, match="invalid UTF-8"):
        make(inputs, tmp_path / "out", piece_size=300)
    (inputs / "ja.txt").unlink()
    (inputs / "de.txt").write_text("less")
    make(inputs, tmp_path / "out")
    make(inputs, tmp_path / "straight")
    assert content(tmp_path / "out") == content(tmp_path / "straight")


def test_a_file_that_is_edited_and_keeps_its_size_is_noticed(inputs, tmp_path):
    (inputs / "ja.txt").write_bytes(b"\xff\n")
    with pytest.raises(BadData, match="invalid UTF-8"):
        make(inputs, tmp_path / "out", piece_size=300)
    (inputs / "ja.txt").unlink()
    edited = inputs / "de.txt"
    edited.write_bytes(edited.read_bytes().replace(b"number 7\n", b"number X\n"))
    assert "de text number X" in texts(make(inputs, tmp_path / "out"), language="de")
    edited.write_bytes(edited.read_bytes().replace(b"number X\n", b"number Y\n"))
    with pytest.raises(BadConfig, match="of other inputs"):
        make(inputs, tmp_path / "out")


def test_a_bad_file_can_be_repaired_and_the_run_goes_on(inputs, tmp_path):
    (inputs / "it.txt").write_bytes(b"uno\n\xff\n")
    with pytest.raises(BadData, match=r"it\.txt, line 2"):
        make(inputs, tmp_path / "out", piece_size=1)
    (inputs / "it.txt").write_bytes(b"uno\ndue\n")
    progress = []
    corpus = make(inputs, tmp_path / "out", report=progress.append)
    assert progress[0].files == sum((inputs / f"{name}.txt").stat().st_size for name in ("de", "en-1", "en-2", "fr"))
    assert texts(corpus, language="it") == ["uno", "due"]


def test_the_first_bad_line_is_named_and_all_before_it_is_kept(inputs, tmp_path):
    for name in ("it.txt", "pt.txt"):
        (inputs / name).write_bytes(b"\xff\n")
    (inputs / "ja.txt").write_bytes(b"x" * 200)
    for workers in (1, 2):
        folder = tmp_path / f"out{workers}"
        with pytest.raises(BadData, match=r"it\.txt, line 1: invalid UTF-8"):
            make(inputs, folder, workers=workers, block_size=50, piece_size=800)
        assert len(list((folder / ".staging" / "parts").glob("*.json"))) >= 1


def test_a_folder_that_is_no_corpus_is_left_alone(inputs, tmp_path):
    with pytest.raises(BadConfig, match="neither empty nor a corpus"):
        make(inputs, inputs)


def test_two_processes_do_not_write_one_corpus(inputs, tmp_path):
    def start_another(_):
        make(inputs, tmp_path / "out")

    with pytest.raises(BadConfig, match="another process is writing"):
        make(inputs, tmp_path / "out", report=start_another)


@pytest.mark.parametrize("empty", [b"", b"\n \n\x00\n"])
def test_an_empty_language_is_refused_and_nothing_is_lost(inputs, tmp_path, empty):
    (inputs / "ja.txt").write_bytes(empty)
    with pytest.raises(BadData, match="no documents of language ja"):
        make(inputs, tmp_path / "out")
    corpus = make(inputs, tmp_path / "out", allow_empty_languages=True)
    assert corpus.languages == ("de", "en", "fr")
    assert corpus.record["languages"]["ja"]["documents"] == 0


def test_no_documents_at_all_are_refused(tmp_path):
    (tmp_path / "en.txt").write_bytes(b"\n\n")
    with pytest.raises(BadData, match="no document is left to train on; dropped: 2 empty"):
        make(tmp_path / "en.txt", tmp_path / "out", allow_empty_languages=True)


def test_a_worker_that_dies_is_told_in_a_sentence(inputs, tmp_path):
    with pytest.raises(Exception, match="a worker process was killed, perhaps for want of memory"):
        make(inputs, tmp_path / "out", tokenizer=TOKENIZER._replace(load=Deadly), workers=2, piece_size=50)


def test_a_model_that_is_missing_is_said_before_anything_is_written(inputs, tmp_path):
    absent = Choices(screening=Screening(identify=0.8, language_model=str(tmp_path / "absent.bin")))
    with pytest.raises(BadConfig, match=r"there is no model of languages at .*absent\.bin"):
        make(inputs, tmp_path / "out", choices=absent, workers=2, piece_size=50)
    assert not (tmp_path / "out").exists()


def test_what_a_worker_process_refuses_when_it_starts_is_said(inputs, tmp_path, monkeypatch):
    monkeypatch.setattr(making, "Screen", lambda *_: None)  # as on the first rank's host, which has all it needs
    absent = Choices(screening=Screening(identify=0.8, language_model=str(tmp_path / "absent.bin")))
    with pytest.raises(BadConfig, match=r"there is no model of languages at .*absent\.bin"):
        make(inputs, tmp_path / "out", choices=absent, workers=2, piece_size=50)


@pytest.mark.slow
@pytest.mark.parametrize(("suffix", "opened"), [(".txt", open), (".txt.gz", gzip.open)])
def test_memory_does_not_grow_with_the_input(tmp_path, suffix, opened):
    program = """
import resource, sys
from pathlib import Path
from byte_corpus import Choices, make
make(Path(sys.argv[1]), Path(sys.argv[2]), choices=Choices(held_out=0.1))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)
"""
    peaks = []
    for megabytes in (5, 60):
        path = tmp_path / f"{megabytes}" / f"en{suffix}"
        path.parent.mkdir()
        with opened(path, "wt") as file:
            file.writelines(f"{number:07d} " + "some text to read " * 20 + "\n" for number in range(2750 * megabytes))
        command = [sys.executable, "-c", program, str(path), str(tmp_path / f"out{megabytes}")]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), str(ROOT)])}
        result = subprocess.run(command, capture_output=True, text=True, env=environment)
        assert result.returncode == 0, result.stderr
        peaks.append(int(result.stdout))
    assert peaks[1] - peaks[0] < 40, peaks  # MB, where the ids alone of the larger input take 120

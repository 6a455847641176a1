"""Parts: what one says is on the disk before it says it, and all together are read in the order of the input."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from megas2s import files
from megas2s.data import parts
from megas2s.data.parts import FOLDER, READ_IDS, Group, Parts, is_written, write_part
from megas2s.data.tokenise import RECORD, Tokenised
from megas2s.errors import BadData

IDS = np.dtype(np.uint16)


def block(language: str, *sizes: int, first: int = 0) -> Tokenised:
    """Documents of so many ids each; ids count up from `first`."""
    records = np.zeros(len(sizes), RECORD)
    records["tokens"], records["ordinal"] = sizes, np.arange(len(sizes))
    ids = np.arange(first, first + sum(sizes)).astype(IDS)
    return Tokenised({language: ids}, {language: records}, {}, len(sizes), 3, Counter({(language, "empty"): 1}))


@pytest.fixture
def staging(tmp_path):
    files.make_folder(tmp_path / "corpus" / FOLDER)
    return tmp_path / "corpus"


def test_what_a_part_says_survives_a_power_cut(unflushed, staging):
    results = [("train", "text", block("en", 3)), ("train", "text", block("sw", 2, 4))]
    assert write_part(staging, "one", results) == (3, 6)
    assert is_written(staging, "one")
    assert unflushed(staging) == set()


def test_a_part_that_does_not_fit_memory_has_the_same_bytes(unflushed, staging, monkeypatch):
    def blocks():
        for number in range(20):
            for language in ("sw", "en") if number % 3 else ("en",):
                found = block(language, 3, number + 1, first=number * 50)
                signatures = np.full((2, 128), number, np.uint32)
                yield "train" if number % 4 else "heldout", "text", found._replace(signatures={language: signatures})

    write_part(staging, "whole", blocks())
    monkeypatch.setattr(parts, "HELD", 2000)
    leftover = staging / FOLDER / ".tmp-spilled"
    leftover.mkdir()
    (leftover / "0.ids").write_bytes(b"of a run that was killed")
    assert write_part(staging, "spilled", blocks()) == (66, 99)
    for suffix in (".docs", ".ids", ".signs", ".json"):
        whole, spilled = (staging / FOLDER / f"{name}{suffix}" for name in ("whole", "spilled"))
        assert whole.read_bytes() == spilled.read_bytes()
    assert unflushed(staging) == set()
    assert not list((staging / FOLDER).glob(".tmp-*"))


def test_groups_are_read_in_the_order_of_the_input(staging):
    write_part(staging, "b", [("train", "text", block("en", 2, 3)), ("train", "text", block("sw", 1, first=90))])
    write_part(staging, "a", [("train", "text", block("en", 4, first=5)), ("train", "text", block("en", 1, first=9))])
    found = Parts(staging, ["b", "a"], IDS)
    english, swahili = Group("train", "en", "text"), Group("train", "sw", "text")
    assert set(found.groups) == {english, swahili}
    assert found.documents == 5
    assert found.dropped == {("en", "empty"): 3, ("sw", "empty"): 1}
    records = np.concatenate(list(found.records(english)))
    assert records["ordinal"].tolist() == [0, 1, 3, 4]
    assert np.concatenate(list(found.records(swahili)))["ordinal"].tolist() == [2]
    spans = [(0, 2), (4, 7), (9, 10)]
    assert np.concatenate(list(found.ids(english, spans))).tolist() == [0, 1, 4, 5, 6, 9]
    assert np.concatenate(list(found.ids(swahili, [(0, 1)]))).tolist() == [90]


def test_long_runs_are_read_some_at_a_time(staging):
    write_part(staging, "one", [("train", "text", block("en", 3 * READ_IDS + 5))])
    pieces = list(Parts(staging, ["one"], IDS).ids(Group("train", "en", "text"), [(2, 3 * READ_IDS + 5)]))
    assert [len(piece) for piece in pieces] == [READ_IDS, READ_IDS, READ_IDS, 3]


def test_lost_bytes_and_damage_are_said(staging):
    advice = f"remove {staging.parent} and start again"
    write_part(staging, "one", [("train", "text", block("en", 8))])
    (staging / FOLDER / "one.ids").write_bytes(b"\0" * 6)
    found = Parts(staging, ["one"], IDS)
    with pytest.raises(BadData, match=rf"one\.ids has lost bytes since it was written; {advice}"):
        list(found.ids(Group("train", "en", "text"), [(0, 8)]))
    (staging / FOLDER / "one.ids").unlink()
    with pytest.raises(BadData, match=rf"one\.ids is missing or damaged; {advice}"):
        list(found.ids(Group("train", "en", "text"), [(0, 8)]))
    (staging / FOLDER / "one.json").write_text("{")
    with pytest.raises(BadData, match=rf"one\.json is missing or damaged; {advice}"):
        Parts(staging, ["one"], IDS)
    (staging / FOLDER / "one.json").unlink()
    with pytest.raises(BadData, match=rf"one\.json is missing or damaged; {advice}"):
        Parts(staging, ["one"], IDS)

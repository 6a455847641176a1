"""Ranks that share the work: the bytes of one process, and one sentence for all where one of them is refused."""

from __future__ import annotations

import pytest

from megas2s.data import assemble
from megas2s.data.documents import input_files
from megas2s.data.inputs import Inputs
from megas2s.data.making import Making
from megas2s.data.preprocess import Choices
from megas2s.data.screen import Screening
from megas2s.errors import BadData

from .byte_corpus import KEEP_ALL, TOKENIZER, content, make, texts
from .ranks import by_ranks, make_by_ranks


@pytest.mark.parametrize("size", [2, 3, 7])
def test_the_number_of_ranks_changes_no_byte(inputs, tmp_path, size, monkeypatch):
    monkeypatch.setattr(assemble, "SHARD_TOKENS", 100)
    choices = Choices(held_out=0.2)
    make(inputs, tmp_path / "one", choices=choices)
    corpus = make_by_ranks(size, inputs, tmp_path / "ranks", choices=choices, piece_size=200)
    assert content(tmp_path / "one") == content(tmp_path / "ranks")
    assert make_by_ranks(size, inputs, tmp_path / "ranks", choices=choices) == corpus


def test_what_one_rank_refuses_all_are_told(inputs, tmp_path):
    (inputs / "it.txt").write_bytes(b"uno\n\xff\n")
    said = make_by_ranks(3, inputs, tmp_path / "out", piece_size=100)
    assert said.endswith("it.txt, line 2: invalid UTF-8; repair it, or use --invalid-utf8 drop")
    (inputs / "it.txt").write_bytes(b"uno\ndue\n")
    assert texts(make_by_ranks(2, inputs, tmp_path / "out", piece_size=100), language="it") == ["uno", "due"]


def test_a_rank_that_does_not_see_what_the_others_see_ends_all_in_one_sentence(inputs, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    said = by_ranks(3, lambda rank, team: make(elsewhere if rank == 2 else inputs, tmp_path / "out", team=team))
    assert said == f"BadData: there is no file or folder {elsewhere}; a Hugging Face dataset is named with --dataset"
    absent = Choices(screening=Screening(evaluation=(str(elsewhere),)))
    said = by_ranks(
        2, lambda rank, team: make(inputs, tmp_path / "out", team=team, choices=absent if rank else KEEP_ALL)
    )
    assert said.startswith(f"BadData: {elsewhere}: no evaluation file here")
    folders = [tmp_path / "first", tmp_path / "second"]
    said = by_ranks(2, lambda rank, team: make(inputs, folders[rank], team=team))
    assert said.endswith(f"does not see {folders[1]} as the first rank's host does; let all hosts share it")
    for folder in folders:
        make(inputs, folder)
    (folders[1] / "corpus.json").unlink()
    said = by_ranks(2, lambda rank, team: make(inputs, folders[rank], team=team))
    assert said.endswith(f"does not see {folders[1]} as the first rank's host does; let all hosts share it")


def test_hosts_with_other_content_under_the_same_names_are_refused(inputs, tmp_path):
    def seen():
        return Making(tmp_path / "out", input_files(Inputs(paths=(str(inputs),))), TOKENIZER, KEEP_ALL, False)

    first = seen()
    (inputs / "de.txt").write_bytes((inputs / "de.txt").read_bytes().replace(b"7", b"9"))
    with pytest.raises(BadData, match="sees other input files than the first rank's host"):
        seen().check_same({"digest": first.digest})

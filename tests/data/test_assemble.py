"""What stays, what is held out, and how the documents of a group are laid into shards."""

from __future__ import annotations

import pytest

from megas2s.data import assemble, making
from megas2s.data.inputs import Inputs
from megas2s.data.preprocess import Choices
from megas2s.errors import BadData

from .byte_corpus import content, make, texts


def test_the_first_of_equal_documents_stays(inputs, tmp_path):
    corpus = make(inputs, tmp_path / "out", choices=Choices(held_out=0))
    assert texts(corpus, language="en") == [f"en text number {number}" for number in range(45)]
    dropped = {language: facts["dropped"] for language, facts in corpus.record["languages"].items()}
    assert dropped == {"de": {}, "en": {"duplicate": 65}, "fr": {}}


def test_held_out_documents_follow_from_their_text_alone(tmp_path):
    documents = [f"text {number}" for number in range(1000)]
    (tmp_path / "en.txt").write_text("\n".join(documents * 2))
    (tmp_path / "back").mkdir()
    (tmp_path / "back" / "en.txt").write_text("\n".join(reversed(documents)))
    choices = Choices(deduplicate=False, held_out=0.1)
    corpus = make(tmp_path / "en.txt", tmp_path / "out", choices=choices)
    train, heldout = texts(corpus), texts(corpus, "heldout")
    assert not set(train) & set(heldout)
    assert sorted(train + heldout) == sorted(documents * 2)
    assert 2 * 70 < len(heldout) < 2 * 130
    other = make(tmp_path / "back", tmp_path / "other", choices=choices)
    assert set(texts(other, "heldout")) == set(heldout)


@pytest.mark.parametrize("held_out", [0.000001, 0.5])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_language_of_two_documents_has_one_held_out_and_one_to_train_on(tmp_path, count, held_out):
    (tmp_path / "fr.txt").write_text("\n".join(f"text {number}" for number in range(count)))
    corpus = make(tmp_path / "fr.txt", tmp_path / "out", choices=Choices(held_out=held_out))
    assert len(texts(corpus)) >= 1
    assert (len(texts(corpus, "heldout")) >= 1) == (count >= 2)


def test_no_text_of_a_held_out_file_is_trained_on(tmp_path):
    (tmp_path / "en.txt").write_text("a\nb\nc\n")
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "en.txt").write_text("b\nd\n")
    wanted = [
        Inputs(paths=(f"{tmp_path}/en.txt",)),
        Inputs(paths=(f"{tmp_path}/test",), split="heldout"),
    ]
    corpus = make(wanted, tmp_path / "out", choices=Choices(held_out=0))
    assert texts(corpus) == ["a", "c"]
    assert texts(corpus, "heldout") == ["b", "d"]


def test_a_group_is_cut_into_shards_in_order(inputs, tmp_path, monkeypatch):
    whole = make(inputs, tmp_path / "whole")
    monkeypatch.setattr(assemble, "SHARD_TOKENS", 100)
    corpus = make(inputs, tmp_path / "cut")
    english = corpus.shards(language="en")
    assert [entry.path.name for entry in english] == [f"text-{number:05d}.arrow" for number in range(len(english))]
    assert all(entry.tokens <= 100 for entry in english)
    assert texts(corpus) == texts(whole)
    monkeypatch.setattr(assemble, "SHARD_TOKENS", 3)  # shorter than any document
    assert all(entry.documents == 1 for entry in make(inputs, tmp_path / "single").shards())


def test_sources_of_one_language_stay_apart(tmp_path):
    for source in ("web", "books"):
        (tmp_path / source).mkdir()
        (tmp_path / source / "en.txt").write_text(f"{source}\n")
    wanted = [Inputs(paths=(f"{tmp_path}/{source}",), source=source) for source in ("web", "books")]
    corpus = make(wanted, tmp_path / "out")
    assert [(entry.source, entry.path.name) for entry in corpus.shards()] == [
        ("books", "books-00000.arrow"),
        ("web", "web-00000.arrow"),
    ]


@pytest.mark.parametrize("entry", ["kept", "removed"])
def test_a_shard_that_is_not_what_its_entry_says_is_written_again(inputs, tmp_path, monkeypatch, entry):
    make(inputs, tmp_path / "straight")
    monkeypatch.setattr(making.Making, "finish", lambda _: pytest.fail("stopped here"))
    with pytest.raises(pytest.fail.Exception):
        make(inputs, tmp_path / "out")
    monkeypatch.undo()
    damaged, alien = sorted((tmp_path / "out" / "train").rglob("*.arrow"))[:2]
    size = damaged.stat().st_size
    damaged.write_bytes(b"\0" * size)
    alien.write_bytes(b"of somebody else")
    if entry == "removed":
        for path in (tmp_path / "out" / ".staging" / "entries").iterdir():
            path.unlink()
    make(inputs, tmp_path / "out")
    assert content(tmp_path / "out") == content(tmp_path / "straight")


def test_shards_that_an_interrupted_run_has_written_are_not_written_again(inputs, tmp_path, monkeypatch):
    monkeypatch.setattr(making.Making, "finish", lambda _: pytest.fail("stopped here"))
    with pytest.raises(pytest.fail.Exception):
        make(inputs, tmp_path / "out")
    monkeypatch.undo()
    monkeypatch.setattr(assemble, "write_shard", lambda *_, **__: pytest.fail("all are there"))
    assert len(make(inputs, tmp_path / "out").entries["train"]) == 3


def test_plans_survive_a_power_cut_and_damage_is_said(unflushed, inputs, tmp_path, monkeypatch):
    monkeypatch.setattr(assemble, "write_shard", lambda *_, **__: pytest.fail("stopped here"))
    with pytest.raises(pytest.fail.Exception):
        make(inputs, tmp_path / "out")
    staging = tmp_path / "out" / ".staging"
    assert not {path for path in unflushed(staging) if path.startswith("plans")}
    monkeypatch.undo()
    plans = staging / "plans"
    (plans / "000001.npy").write_bytes(b"")
    with pytest.raises(BadData, match=rf"000001\.npy is damaged; remove {tmp_path}/out and start again"):
        make(inputs, tmp_path / "out")

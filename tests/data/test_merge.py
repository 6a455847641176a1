"""Corpora of one tokenizer become one: every document once, in a corpus that verifies, appearing whole."""

from __future__ import annotations

import os

import pytest

from megas2s.data.corpus import verify_corpus
from megas2s.data.inputs import Inputs
from megas2s.data.merge import merge
from megas2s.data.preprocess import Choices
from megas2s.errors import BadConfig, BadData

from .byte_corpus import TOKENIZER, make, texts


def corpus_of(folder, name, languages, source="text", **settings):
    place = folder / f"{name}-text"
    place.mkdir()
    for language in languages:
        (place / f"{language}.txt").write_text("\n".join(f"{name} {language} {number}" for number in range(30)))
    settings.setdefault("choices", Choices(held_out=0.1))
    return make([Inputs(paths=(str(place),), source=source)], folder / name, **settings)


@pytest.fixture
def corpora(tmp_path):
    return [
        corpus_of(tmp_path, "one", ["en", "fr"]),
        corpus_of(tmp_path, "two", ["en", "sw"]),
        corpus_of(tmp_path, "three", ["en"], source="web"),
    ]


@pytest.mark.parametrize("copies", [False, True])
def test_every_document_of_every_corpus_is_there_once(corpora, tmp_path, copies):
    merged = merge(corpora, tmp_path / "all", copies=copies)
    verify_corpus(merged)
    for split in ("train", "heldout"):
        assert sorted(texts(merged, split)) == sorted(text for corpus in corpora for text in texts(corpus, split))
    places = [entry.path.relative_to(merged.folder).as_posix() for entry in merged.entries["train"]]
    assert places == [
        "train/en/text-00000.arrow",
        "train/en/text-00001.arrow",
        "train/en/web-00000.arrow",
        "train/fr/text-00000.arrow",
        "train/sw/text-00000.arrow",
    ]
    linked = {os.stat(entry.path).st_nlink for entry in merged.entries["train"]}
    assert linked == ({1} if copies else {2})
    facts = merged.record["languages"]["en"]
    assert facts["documents"] + facts["heldout_documents"] == 90


def test_a_merged_corpus_merges_again(corpora, tmp_path):
    first = merge(corpora[:2], tmp_path / "first")
    assert sorted(texts(merge([first, corpora[2]], tmp_path / "all"))) == sorted(
        texts(merge(corpora, tmp_path / "other"))
    )


def test_an_interrupted_merge_leaves_nothing_that_looks_whole_and_starts_again(corpora, tmp_path, monkeypatch):
    def interrupted(progress):
        if progress.files == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        merge(corpora, tmp_path / "all", report=interrupted)
    assert not (tmp_path / "all").exists()
    merged = merge(corpora, tmp_path / "all")
    assert merge(corpora, tmp_path / "all").digest == merged.digest
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_what_cannot_be_one_is_refused(corpora, tmp_path):
    other = corpus_of(tmp_path, "other", ["en"], tokenizer=TOKENIZER._replace(fingerprint="others"))
    with pytest.raises(BadConfig, match="has another tokenizer than"):
        merge([*corpora, other], tmp_path / "all")
    with pytest.raises(BadConfig, match="hold the same shards; name them once"):
        merge([corpora[0], corpora[0]], tmp_path / "all")
    with pytest.raises(BadConfig, match="one alone is merged already; name two or more"):
        merge(corpora[:1], tmp_path / "all")
    both = merge(corpora[:2], tmp_path / "all")
    with pytest.raises(BadConfig, match=rf"{both.folder} and {corpora[1].folder} hold the same shards"):
        merge([both, corpora[2], corpora[1]], tmp_path / "third")
    with pytest.raises(BadConfig, match="is a corpus of other documents"):
        merge(corpora, tmp_path / "all")
    (corpora[0].entries["train"][0].path).unlink()
    with pytest.raises(BadData, match="missing"):
        merge(corpora, tmp_path / "third")


def test_a_folder_that_is_no_corpus_is_left_alone(corpora, tmp_path):
    (tmp_path / "all").mkdir()
    (tmp_path / "all" / "letter").write_text("dear")
    with pytest.raises(BadData):
        merge(corpora, tmp_path / "all")
    assert (tmp_path / "all" / "letter").read_text() == "dear"
    assert [path.name for path in (tmp_path / "all").iterdir()] == ["letter"]

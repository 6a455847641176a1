"""A corpus is complete when its corpus.json is there, and says where every language lies."""

from __future__ import annotations

import json
import os
import shutil

import numpy as np
import pytest

from megas2s.data import corpus as corpus_module
from megas2s.data.corpus import Corpus, check_sizes, verify_changed, verify_corpus, write_corpus
from megas2s.data.shards import Shard, ShardMeta, write_shard
from megas2s.errors import BadConfig, BadData


def shard(folder, split, language, documents):
    return write_shard(
        folder / split / language / "text-00000.arrow",
        np.array([len(document) for document in documents]),
        (np.array(document) for document in documents),
        dtype=np.dtype(np.uint16),
        meta=ShardMeta(language=language, source="text", fingerprint="abc", separator=5),
    )


@pytest.fixture
def corpus(tmp_path):
    folder = tmp_path / "corpus"
    train = [shard(folder, "train", "sw", [[9, 5]]), shard(folder, "train", "en", [[7, 8, 5], [6, 5]])]
    heldout = [shard(folder, "heldout", "en", [[11, 5]])]
    return write_corpus(folder, {"train": train, "heldout": heldout}, fingerprint="abc", separator=5, record={"a": 1})


def test_a_corpus_reads_back_as_it_was_written(corpus):
    again = Corpus.open(corpus.folder)
    assert again == corpus
    assert again.languages == ("en", "sw")
    assert again.tokenizer_folder == corpus.folder / "tokenizer"
    assert [(entry.language, entry.documents, entry.tokens) for entry in again.shards()] == [("sw", 1, 2), ("en", 2, 5)]
    assert Shard.open(again.shards("heldout")[0]).tokens.tolist() == [11, 5]
    verify_corpus(again)


def test_a_corpus_can_be_moved(corpus, tmp_path):
    moved = Corpus.open(shutil.move(corpus.folder, tmp_path / "elsewhere"))
    verify_corpus(moved)
    assert moved.digest == corpus.digest


def test_the_digest_follows_the_ids(corpus, tmp_path):
    other = shard(tmp_path / "b", "train", "sw", [[10, 5]])
    changed = write_corpus(tmp_path / "b", {"train": [other]}, fingerprint="abc", separator=5, record={})
    assert changed.digest != corpus.digest


def test_a_missing_corpus_is_refused(tmp_path):
    with pytest.raises(BadConfig, match=r"there is no corpus at .*nowhere"):
        Corpus.open(tmp_path / "nowhere")


def test_an_unfinished_corpus_is_refused(corpus):
    (corpus.folder / "corpus.json").unlink()
    with pytest.raises(BadData, match="never finished"):
        Corpus.open(corpus.folder)


@pytest.mark.parametrize("content", ["", "{", "[]", "null", '{"format": "megas2s-corpus-1"}', "\ufeff{}"])
def test_a_damaged_corpus_json_is_refused(corpus, content):
    (corpus.folder / "corpus.json").write_text(content)
    with pytest.raises(BadData, match=r"corpus\.json is damaged"):
        Corpus.open(corpus.folder)


def test_a_corpus_of_another_format_is_refused(corpus):
    (corpus.folder / "corpus.json").write_text('{"format": "megas2s-corpus-99"}')
    with pytest.raises(BadData, match="megas2s-corpus-99"):
        Corpus.open(corpus.folder)


def test_a_shard_outside_the_corpus_is_refused(corpus):
    marker = corpus.folder / "corpus.json"
    facts = json.loads(marker.read_text())
    facts["splits"]["train"][0]["path"] = "../../etc/passwd"
    marker.write_text(json.dumps(facts))
    with pytest.raises(BadData, match="outside the corpus"):
        Corpus.open(corpus.folder)


def test_a_language_without_documents_is_refused(corpus):
    with pytest.raises(BadData, match="has no heldout documents of language 'sw'; it has en"):
        corpus.shards("heldout", language="sw")


def alter(path):
    """Flip one bit among the ids, as a bad disk or copy does."""
    content = bytearray(path.read_bytes())
    content[-len(content) // 2] ^= 1
    path.write_bytes(content)


def test_verification_names_an_altered_shard(corpus):
    alter(corpus.shards()[1].path)
    with pytest.raises(BadData, match=r"en/text-00000\.arrow is truncated or altered"):
        verify_corpus(corpus)


def test_a_shard_of_another_size_is_found_without_opening_any(corpus):
    check_sizes(corpus)
    path = corpus.shards("heldout")[0].path
    os.truncate(path, path.stat().st_size - 8)
    with pytest.raises(BadData, match=r"heldout/en/text-00000\.arrow is truncated or altered: it has \d+ bytes"):
        check_sizes(corpus)
    path.unlink()
    with pytest.raises(BadData, match=r"heldout/en/text-00000\.arrow is missing"):
        check_sizes(corpus)


def test_shards_are_read_once_and_again_only_when_they_change(corpus, tmp_path, monkeypatch):
    read = []
    verify_shard = corpus_module.verify_shard
    monkeypatch.setattr(corpus_module, "verify_shard", lambda entry: (read.append(entry), verify_shard(entry)))
    memory = tmp_path / "verified.json"
    verify_changed(corpus, memory)
    assert len(read) == 3
    verify_changed(corpus, memory)
    assert len(read) == 3
    changed = corpus.shards()[0]
    changed.path.write_bytes(changed.path.read_bytes())
    verify_changed(corpus, memory)
    assert read[3:] == [changed]
    memory.write_text("{")
    verify_changed(corpus, memory)
    assert len(read) == 7


def test_an_altered_shard_is_not_remembered_as_sound(corpus, tmp_path):
    alter(corpus.shards()[1].path)
    for _ in range(2):
        with pytest.raises(BadData, match=r"en/text-00000\.arrow is truncated or altered"):
            verify_changed(corpus, tmp_path / "verified.json")

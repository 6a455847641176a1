"""Corpora, tokenizers and documents that cannot be trusted are refused before the first step."""

from __future__ import annotations

import os
import shutil

import pytest

from .conftest import PRETRAIN, SAMPLE, content, flip_byte, refused, shard


def test_a_missing_corpus_is_refused(script, recipe, tmp_path):
    result = script(PRETRAIN, recipe, f"run={tmp_path}/run", f"corpus={tmp_path}/nowhere")
    refused(result, 2, f"there is no corpus at {tmp_path}/nowhere; tools/preprocess.py makes one")


def test_an_unfinished_corpus_is_refused(script, recipe, tmp_path, corpus):
    (corpus / "corpus.json").unlink()
    result = script(PRETRAIN, recipe, f"run={tmp_path}/run", f"corpus={corpus}")
    refused(result, 3, "its preprocessing was never finished; the same command continues")


def test_a_tokenizer_that_did_not_write_the_shards_is_refused(script, recipe, tmp_path, corpus):
    other = tmp_path / "other"
    flags = ["--input", SAMPLE / "en.txt", "--output", other, "--vocab-size", 1024, "language_slots=8"]
    assert script("tools/train_tokenizer.py", *flags).returncode == 0
    shutil.rmtree(corpus / "tokenizer")
    shutil.copytree(other, corpus / "tokenizer")
    result = script(PRETRAIN, recipe, f"run={tmp_path}/run", f"corpus={corpus}")
    refused(result, 3, "is not the one that wrote the shards", "put it back or preprocess again")
    assert not (tmp_path / "run").exists()


def test_a_truncated_shard_is_found_before_anything_is_built(script, recipe, tmp_path, corpus):
    path = shard(corpus)
    os.truncate(path, path.stat().st_size - 1000)
    found = f"{path} is truncated or altered: it has {path.stat().st_size} bytes, corpus.json says"
    refused(script(PRETRAIN, recipe, f"run={tmp_path}/run", f"corpus={corpus}", "--dry-run"), 3, found)
    assert not (tmp_path / "run").exists()
    refused(script(PRETRAIN, recipe, f"run={tmp_path}/run", f"corpus={corpus}"), 3, found, "restore it from a copy")
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_an_altered_shard_is_found_before_the_first_step_unless_the_recipe_waives_it(script, recipe, tmp_path, corpus):
    flip_byte(shard(corpus))
    arguments = [PRETRAIN, recipe, f"run={tmp_path}/run", f"corpus={corpus}", "stages.mlm.steps=1"]
    refused(script(*arguments), 3, f"{shard(corpus)} is truncated or altered: its SHA-256 is another")
    assert not (tmp_path / "run" / "metrics.jsonl").exists()
    trained = script(*arguments, "verify_corpus=false")
    assert trained.returncode == 0, trained.stdout
    assert not (tmp_path / "run" / "verified.json").exists()


def test_a_shard_altered_between_two_starts_is_found_too(script, recipe, corpus, interrupted):
    overrides = [recipe, f"run={interrupted}", f"corpus={corpus}"]
    before = content(interrupted)
    path = shard(corpus)
    time_of_change = path.stat().st_mtime_ns
    flip_byte(path)
    os.utime(path, ns=(time_of_change, time_of_change + 1))
    refused(script(PRETRAIN, *overrides), 3, f"{path} is truncated or altered: its SHA-256 is another")
    assert content(interrupted) == before


def test_a_language_too_small_for_one_window_is_refused(script, recipe, tmp_path):
    result = script(PRETRAIN, recipe, f"run={tmp_path}/run", "stages.mlm.length=4096", "stages.mlm.batch_tokens=32768")
    refused(result, 3, "language 'ar' of source 'text' has ", " tokens and no shard of 4095 or more, the length of one")


@pytest.mark.parametrize("tool", ["preprocess", "train_tokenizer"])
@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("sw.txt", b"moja\nmbili \xff\n", "{path}, line 2: invalid UTF-8; repair it, or"),
        ("sw.jsonl", b'{"text": "moja"}\n{"body": "mbili"}\n', "{path}, line 2: no field 'text' (found 'body')"),
        ("sw.txt", b"\n \n", "no documents of language sw"),
    ],
    ids=["invalid UTF-8", "no text field", "empty language"],
)
def test_documents_that_cannot_be_read_are_refused_with_file_and_line(
    script, corpus_folder, tmp_path, tool, name, text, said
):
    path = tmp_path / "in" / name
    path.parent.mkdir()
    path.write_bytes(text)
    shutil.copy(SAMPLE / "en.txt", path.parent)
    flags = ["--input", path.parent, "--output", tmp_path / "out"]
    extra = {
        "preprocess": ["--tokenizer", corpus_folder / "tokenizer", "--workers", 1],
        "train_tokenizer": ["--vocab-size", 1024, "language_slots=8"],
    }
    refused(script(f"tools/{tool}.py", *flags, *extra[tool]), 3, said.format(path=path))
    assert not (tmp_path / "out" / "corpus.json").exists()
    assert not (tmp_path / "out" / "MANIFEST.json").exists()

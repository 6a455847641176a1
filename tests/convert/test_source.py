import json

import pytest
import yaml

from megas2s import files
from megas2s.convert.source import find, find_tokenizer, hashes
from megas2s.errors import BadCheckpoint, BadConfig, BadData


@pytest.fixture
def run(tmp_path, small, write_weights):
    """A run of three stages, the last of which has a checkpoint and no more."""
    folder = tmp_path / "runs" / "small"
    folder.mkdir(parents=True)
    stages = [{"name": "mlm"}, {"name": "frozen"}, {"name": "seq2seq"}]
    recipe = {"run": str(folder), "corpus": str(tmp_path / "corpus"), "stages": stages}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
    for stage in ("mlm", "frozen"):
        write_weights(small(num_decoder_layers=int(stage == "frozen")), folder / stage / "weights", stage=stage)
    for step in (5, 10):
        checkpoint(folder / "seq2seq" / "checkpoints" / f"step_{step:08d}", step, small, write_weights)
    return folder


def checkpoint(folder, step, small, write_weights):
    temporary = files.temporary_folder(folder)
    write_weights(small(num_decoder_layers=1), temporary / "weights")
    (temporary / "weights" / files.MANIFEST).unlink()
    (temporary / "optimizer").mkdir()
    (temporary / "optimizer" / "moments").write_text("large")
    files.write_json(temporary / "state.json", {"state": {"step": step, "tokens": 1, "skipped": 0}})
    files.publish(temporary, folder, {"kind": "checkpoint", "step": step})


def test_a_run_means_its_last_complete_stage(run):
    found = find(run)
    assert (found.folder, found.run, found.stage, found.step) == (run / "frozen" / "weights", run, "frozen", None)


def test_a_stage_and_its_weights_folder_mean_the_same(run):
    assert find(run / "mlm") == find(run / "mlm" / "weights")
    assert find(run / "mlm").stage == "mlm"


def test_a_checkpoint_and_its_weights_folder_mean_the_same(run):
    folder = run / "seq2seq" / "checkpoints" / "step_00000010"
    found = find(folder)
    assert found == find(folder / "weights")
    assert (found.folder, found.run, found.stage, found.step) == (folder / "weights", run, "seq2seq", 10)


def test_a_checkpoints_weights_are_verified_and_its_moments_are_not_read(run):
    folder = run / "seq2seq" / "checkpoints" / "step_00000010"
    (folder / "optimizer" / "moments").write_text("other")
    assert find(folder).open().config.is_seq2seq
    shard = folder / "weights" / "model-00001.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1] + b"\x01")
    with pytest.raises(BadCheckpoint, match="does not match its SHA-256"):
        find(folder).open()


def test_weights_without_a_run_are_found_too(tmp_path, small, write_weights):
    write_weights(small(), tmp_path / "alone")
    found = find(tmp_path / "alone")
    assert (found.folder, found.run, found.stage, found.recipe) == (tmp_path / "alone", None, None, None)


def test_an_unfinished_stage_names_its_newest_checkpoint(run):
    with pytest.raises(BadCheckpoint, match=r"seq2seq is not complete.*step_00000010"):
        find(run / "seq2seq")


def test_a_run_without_a_complete_stage_names_a_checkpoint(run):
    for stage in ("mlm", "frozen"):
        files.remove_published(run / stage / "weights")
    with pytest.raises(BadCheckpoint, match=r"no stage of .* is complete.*step_00000010"):
        find(run)


def test_an_unfinished_checkpoint_is_refused(run):
    folder = run / "seq2seq" / "checkpoints" / "step_00000010"
    (folder / files.MANIFEST).unlink()
    with pytest.raises(BadCheckpoint, match="never finished"):
        find(folder)


@pytest.mark.parametrize("content", ['{"state": {"st', "[]", '{"state": 3}', '{"state": {"step": "ten"}}'])
def test_a_damaged_state_is_named(run, content):
    folder = run / "seq2seq" / "checkpoints" / "step_00000010"
    (folder / "state.json").write_text(content)
    with pytest.raises(BadCheckpoint, match=r"state\.json is damaged; give another checkpoint or restore it"):
        find(folder)


def test_unpublished_weights_are_refused(tmp_path, small, write_weights):
    write_weights(small(), tmp_path / "alone")
    (tmp_path / "alone" / files.MANIFEST).unlink()
    with pytest.raises(BadCheckpoint, match="never finished"):
        find(tmp_path / "alone").open()


@pytest.mark.parametrize("exists", [True, False])
def test_a_folder_that_is_none_of_these_is_refused(tmp_path, exists):
    folder = tmp_path / "holiday"
    if exists:
        folder.mkdir()
    with pytest.raises(BadConfig, match="holiday"):
        find(folder)


def test_the_tokenizer_is_the_runs_copy_or_the_corpus(run, tokenizer_folder, stored, tmp_path):
    found = find(run)
    reader = found.open()
    with pytest.raises(BadConfig, match=r"not found in .*tokenizer.*tokenizer=FOLDER"):
        find_tokenizer(found, reader, None)
    (tmp_path / "corpus").mkdir()
    (tmp_path / "corpus" / "tokenizer").symlink_to(tokenizer_folder)
    assert find_tokenizer(found, reader, None).fingerprint == stored.fingerprint
    (run / "tokenizer").mkdir()
    with pytest.raises(BadData, match=str(run / "tokenizer")):
        find_tokenizer(found, reader, None)
    assert find_tokenizer(found, reader, tokenizer_folder).fingerprint == stored.fingerprint


def test_another_tokenizer_than_the_weights_is_refused(tmp_path, small, write_weights, tokenizer_folder):
    write_weights(small(), tmp_path / "alone", tokenizer="0" * 64)
    found = find(tmp_path / "alone")
    with pytest.raises(BadData, match=r"not the one these weights were trained with \(000000000000\)"):
        find_tokenizer(found, found.open(), tokenizer_folder)


@pytest.mark.parametrize("change", [{"vocab_size": 128}, {"pad_id": 0}])
def test_a_tokenizer_that_does_not_fit_the_embedding_is_refused(
    tmp_path, small, write_weights, tokenizer_folder, stored, change
):
    write_weights(small(**change), tmp_path / "alone")
    found = find(tmp_path / "alone")
    with pytest.raises(BadData, match="do not belong together"):
        find_tokenizer(found, found.open(), tokenizer_folder)


@pytest.mark.parametrize("content", ["stages: 3", "stages: [", "stages: [{name: mlm}]\nstages: [{name: frozen}]"])
def test_a_damaged_recipe_is_named(run, content):
    """A key stated twice is damage too: the last one would win unseen."""
    (run / "recipe.yaml").write_text(content, encoding="utf-8")
    with pytest.raises(BadCheckpoint, match=r"recipe\.yaml is damaged"):
        find(run)


def test_hashes_tell_weights_apart_and_ignore_a_checkpoints_moments(run, stored):
    def weights(path):
        found = find(path)
        return hashes(found, found.open(), stored)["weights"]

    checkpoints = run / "seq2seq" / "checkpoints"
    assert weights(run / "mlm") != weights(run / "frozen")
    before = weights(checkpoints / "step_00000010")
    manifest = checkpoints / "step_00000010" / files.MANIFEST
    record = json.loads(manifest.read_text())
    record["files"]["optimizer/moments"]["sha256"] = "0" * 64
    manifest.write_text(json.dumps(record))
    assert weights(checkpoints / "step_00000010") == before

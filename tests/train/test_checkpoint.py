"""Checkpoints: whole or not there, checked to the last byte, kept as long as they are wanted, bound to their recipe."""

from __future__ import annotations

import itertools

import pytest
import torch

from megas2s import files
from megas2s.engine.base import MOMENTS
from megas2s.errors import BadCheckpoint
from megas2s.train import checkpoint, record
from megas2s.train.state import TrainState

from .tiny import BINDING, CONFIG


def steps(stage_folder):
    return [int(folder.name.removeprefix("step_")) for folder in checkpoint.published(stage_folder)]


def test_a_checkpoint_gives_back_every_tensor_and_counter(save, make_engine, tmp_path):
    engine = make_engine()
    folder = save(4, engine)
    saved = checkpoint.newest(tmp_path)
    assert saved.folder == folder
    assert saved.state == TrainState(step=4, tokens=40, skipped=1)
    assert saved.counters == engine.counters() == {"optimizer_step": 6.0}
    assert (saved.weights.config, saved.weights.metadata) == (CONFIG, {"stage": "mlm"})
    values = dict(engine.values())
    assert set(saved.weights.names) == values.keys()
    assert all(torch.equal(saved.weights.tensor(name), value) for name, value in values.items())
    assert set(saved.optimizer.names) == {f"{kind}.{name}" for kind in MOMENTS for name in values}
    assert all(torch.equal(saved.optimizer.tensor(name), value) for name, value in engine.moments())


def test_its_manifest_names_what_it_is_what_wrote_it_and_every_file(save, make_engine, monkeypatch):
    engine = make_engine()
    monkeypatch.setenv("WORLD_SIZE", "3")
    folder = save(4, engine)
    manifest = files.read_json(folder / files.MANIFEST)
    said = {key: value for key, value in manifest.items() if key not in ("files", "binding_sha256")}
    assert said == {"kind": "checkpoint", "step": 4, "ranks": 3, "git": record.git_revision()}
    found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert manifest["files"].keys() == found - {files.MANIFEST}


@pytest.mark.parametrize("where", ["values", "moments"])
def test_a_save_that_breaks_off_leaves_nothing_that_counts_and_nothing_for_the_next_one(
    save, make_engine, monkeypatch, tmp_path, where
):
    save(2)
    engine = make_engine()
    whole = getattr(engine, where)

    def breaks_off():
        yield from itertools.islice(whole(), 1)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(engine, where, breaks_off)
        with pytest.raises(KeyboardInterrupt):
            save(4, engine)
    assert not checkpoint.step_folder(tmp_path, 4).exists()
    assert checkpoint.newest(tmp_path).state.step == 2
    (left,) = [path for path in (tmp_path / "checkpoints").iterdir() if not files.is_published(path)]
    (left / "stray").write_text("of the first attempt")
    folder = save(4, engine)
    assert not left.exists()
    assert "stray" not in files.verify(folder)["files"]


def test_manifests_of_one_recipe_have_the_same_hash_of_it(save, make_engine, tmp_path):
    def hashed(binding):
        checkpoint.save_weights_alone(
            tmp_path / "weights", make_engine(), TrainState(step=6), CONFIG, {}, binding=binding
        )
        return files.read_json(tmp_path / "weights" / files.MANIFEST)["binding_sha256"]

    found = files.read_json(save(4) / files.MANIFEST)["binding_sha256"]
    assert found == files.read_json(save(6) / files.MANIFEST)["binding_sha256"]
    assert found == hashed(dict(reversed(BINDING.items())))
    assert found != hashed({**BINDING, "seed": "18"})


def test_git_is_asked_once_however_often_a_run_saves(save, monkeypatch):
    asked = []
    monkeypatch.setattr(record, "_git", lambda folder, *arguments: asked.append(arguments) or "0123abc")
    record.git_revision.cache_clear()
    try:
        revisions = {files.read_json(save(step) / files.MANIFEST)["git"] for step in (2, 4)}
    finally:
        record.git_revision.cache_clear()
    assert revisions == {"0123abc-dirty"}
    assert [arguments[0] for arguments in asked] == ["rev-parse", "status"]


def test_a_checkpoint_without_its_manifest_does_not_count(save, tmp_path, caplog):
    save(2)
    (save(4) / files.MANIFEST).unlink()
    assert steps(tmp_path) == [2]
    assert checkpoint.newest(tmp_path).state.step == 2
    assert not caplog.records  # it was never finished: nothing has been lost


def test_without_any_checkpoint_a_stage_begins_anew(tmp_path, save):
    assert checkpoint.newest(tmp_path) is None
    (save(2) / files.MANIFEST).unlink()
    assert checkpoint.newest(tmp_path) is None


def test_one_that_was_to_be_replaced_comes_back_when_that_broke_off(save, monkeypatch, tmp_path):
    save(2)
    folder = save(4)

    def breaks_off(source, target, *, replace=files.os.replace):
        if target == folder:
            raise KeyboardInterrupt
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(files.os, "replace", breaks_off)
        with pytest.raises(KeyboardInterrupt):
            save(4)
    assert not folder.exists()
    assert checkpoint.newest(tmp_path).state.step == 4


def test_the_newest_is_the_one_of_the_highest_step_however_long_its_number(save, tmp_path):
    for step in (99_999_999, 100_000_000, 3):
        save(step)
    assert steps(tmp_path) == [3, 99_999_999, 100_000_000]
    assert checkpoint.newest(tmp_path).state.step == 100_000_000


def test_a_change_to_any_of_its_files_is_found(save, tmp_path, caplog):
    save(2)
    folder = save(4)
    paths = [path for path in folder.rglob("*") if path.is_file()]
    assert len(paths) == 7  # weights and moments with an index each, the model, the state, the manifest
    for path in paths:
        content = path.read_bytes()
        path.write_bytes(content[:-2])
        with pytest.raises(BadCheckpoint, match=str(path)):
            checkpoint.read(folder)
        caplog.clear()
        assert checkpoint.newest(tmp_path).state.step == 2
        assert f"passing over a damaged checkpoint: {path}" in caplog.text
        path.write_bytes(content)
    assert checkpoint.newest(tmp_path).state.step == 4


def test_a_digest_tells_checkpoints_apart_by_their_manifest_and_state(save):
    folder, other = save(2), save(4)
    first = checkpoint.digest(folder)
    assert first == checkpoint.digest(folder / "weights")
    assert first != checkpoint.digest(other)
    for path in (folder / "state.json", folder / files.MANIFEST):
        content = path.read_bytes()
        path.write_bytes(content + b" ")
        assert checkpoint.digest(folder) != first
        path.write_bytes(content)
    assert checkpoint.digest(folder) == first
    (folder / files.MANIFEST).unlink()
    assert checkpoint.digest(folder / "weights") is None
    assert checkpoint.digest(folder.with_name("step_00000006")) is None


@pytest.mark.parametrize(
    ("rules", "kept"),
    [
        ({"keep_last": 1}, [12]),
        ({"keep_last": 2}, [10, 12]),
        ({"keep_last": 9}, [2, 4, 6, 8, 10, 12]),
        ({"keep_last": 1, "keep_every": 4}, [4, 8, 12]),
        ({"keep_last": 1, "keep_every": 5}, [10, 12]),
        ({"keep_last": 1, "needed": 4}, [4, 12]),
        ({"keep_last": 2, "keep_every": 6, "needed": 2}, [2, 6, 10, 12]),
    ],
    ids=str,
)
def test_the_last_ones_the_multiples_and_the_needed_one_stay(tmp_path, rules, kept):
    for step in (2, 4, 6, 8, 10, 12):
        put(tmp_path, step)
    needed = checkpoint.step_folder(tmp_path, rules["needed"]) if "needed" in rules else None
    checkpoint.retain(tmp_path, **{"step": 12, "keep_every": 0, **rules, "needed": needed})
    assert steps(tmp_path) == kept
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == [f"step_{step:08d}" for step in kept]


def test_checkpoints_after_the_last_step_neither_count_nor_go(tmp_path):
    """A run that passed over the damaged ones of steps 6 and 8 is at 4: what it resumed from is its last good one."""
    for step in (2, 4, 6, 8):
        put(tmp_path, step)
    checkpoint.retain(tmp_path, step=4, keep_last=1, keep_every=0)
    assert steps(tmp_path) == [4, 6, 8]


def test_half_written_ones_go(tmp_path):
    put(tmp_path, 2)
    for name in (".tmp-step_00000004", "step_00000006"):
        (tmp_path / "checkpoints" / name / "weights").mkdir(parents=True)
    checkpoint.retain(tmp_path, step=2, keep_last=1, keep_every=0)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step_00000002"]


def test_only_the_first_rank_deletes(tmp_path, monkeypatch):
    for step in (2, 4):
        put(tmp_path, step)
    monkeypatch.setenv("RANK", "1")
    checkpoint.retain(tmp_path, step=4, keep_last=1, keep_every=0)
    assert steps(tmp_path) == [2, 4]


def put(stage_folder, step):
    """Publish a folder that passes for a checkpoint wherever only its name and its manifest are looked at."""
    folder = checkpoint.step_folder(stage_folder, step)
    temporary = files.temporary_folder(folder)
    temporary.mkdir(parents=True)
    files.publish(temporary, folder, {})


@pytest.mark.parametrize(
    ("now", "said"),
    [
        ({"seed": "18"}, "seed was 17 and is now 18"),
        ({"stage.part": "all"}, "stage.part was absent and is now all"),
        ({"seed": None}, "seed was 17 and is now absent"),
        ({"corpus": "c"}, "corpus was absent and is now c"),
    ],
)
def test_what_belongs_to_another_recipe_is_refused_by_its_differences(save, make_engine, tmp_path, now, said):
    binding = {key: value for key, value in {**BINDING, **now}.items() if value is not None}
    saved = checkpoint.read(save(2))
    checkpoint.check_binding(saved, BINDING)
    with pytest.raises(BadCheckpoint, match=f"{saved.folder} belongs to another recipe: {said}; put it back, allow"):
        checkpoint.check_binding(saved, binding)
    checkpoint.save_weights_alone(tmp_path / "weights", make_engine(), saved.state, CONFIG, {}, binding=BINDING)
    checkpoint.check_complete(tmp_path, BINDING)
    with pytest.raises(BadCheckpoint, match=f"{tmp_path / 'weights'} belongs to another recipe: {said}; put it"):
        checkpoint.check_complete(tmp_path, binding)


def test_a_stage_is_complete_once_its_weights_are_whole(make_engine, monkeypatch, tmp_path):
    engine, state = make_engine(), TrainState(step=6, tokens=60)

    def breaks_off():
        yield next(values())
        raise KeyboardInterrupt

    values = engine.values
    monkeypatch.setattr(engine, "values", breaks_off)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.save_weights_alone(tmp_path / "weights", engine, state, CONFIG, {}, binding=BINDING)
    assert not checkpoint.is_complete(tmp_path)
    monkeypatch.undo()
    checkpoint.save_weights_alone(tmp_path / "weights", engine, state, CONFIG, {}, binding=BINDING)
    assert checkpoint.is_complete(tmp_path)
    manifest = files.verify(tmp_path / "weights")
    assert (manifest["kind"], manifest["step"], manifest["tokens"], manifest["binding"]) == ("weights", 6, 60, BINDING)
    (tmp_path / "weights" / files.MANIFEST).write_text("{}")
    with pytest.raises(BadCheckpoint, match=r"MANIFEST\.json is damaged; restore it from a copy"):
        checkpoint.check_complete(tmp_path, BINDING)


def test_a_checkpoint_is_needed_as_long_as_frozen_weights_are_read_from_it(save, make_engine):
    trained, frozen = save(2), save(4, make_engine("encoder.*"))
    assert checkpoint.read(trained).needed is None
    assert checkpoint.read(frozen).needed == frozen

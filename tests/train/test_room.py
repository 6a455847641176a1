"""Room on the disk is looked for before a checkpoint is written, and every rank hears of it."""

from __future__ import annotations

import shutil

import pytest
import torch

from megas2s import dist, files
from megas2s.errors import DiskTrouble
from megas2s.train import checkpoint
from megas2s.train.state import TrainState

from .tiny import BINDING, CONFIG


def bytes_of(folder):
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and path.name != files.MANIFEST)


@pytest.fixture
def free(monkeypatch):
    """`free(bytes)`: so many are free on the disk."""
    whole = shutil.disk_usage("/")

    def only(number: float) -> None:
        monkeypatch.setattr(shutil, "disk_usage", lambda folder: whole._replace(free=int(number)))

    return only


def test_a_disk_without_room_for_another_one_is_refused_before_anything_is_written(save, free, tmp_path):
    size = bytes_of(save(2))
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    free(1.2 * size - 1)
    folder = checkpoint.step_folder(tmp_path, 4)
    sentence = rf"no room to write {folder}: \d\S* GB are asked for, \d\S* GB are free; free some space and start again"
    with pytest.raises(DiskTrouble, match=sentence):
        save(4)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before
    assert checkpoint.newest(tmp_path).state.step == 2
    free(1.2 * size + 1)
    save(4)


@pytest.mark.parametrize("frozen", [(), ("encoder.*",)])
def test_room_for_the_first_one_is_asked_for_by_the_size_of_its_tensors(save, make_engine, free, tmp_path, frozen):
    engine = make_engine(*frozen)
    tensors = [tensor for _, tensor in (*engine.values(), *engine.moments())]
    size = sum(tensor.nbytes for tensor in tensors)
    assert {tensor.dtype for tensor in tensors} == {torch.float32}
    free(1.2 * size - 1)
    with pytest.raises(DiskTrouble, match="no room to write"):
        save(2, engine)
    assert not list(tmp_path.iterdir())
    free(1.2 * size + 1)
    (save(2, engine) / files.MANIFEST).write_text("{}")  # a damaged one says nothing of sizes
    free(1.2 * size - 1)
    with pytest.raises(DiskTrouble, match="no room to write"):
        save(4, engine)


def test_room_for_the_last_weights_is_asked_for_by_theirs(make_engine, free, tmp_path):
    engine, state = make_engine(), TrainState(step=6, tokens=60)
    size = sum(tensor.nbytes for _, tensor in engine.values())
    free(1.2 * size - 1)
    with pytest.raises(DiskTrouble, match=f"no room to write {tmp_path / 'weights'}"):
        checkpoint.save_weights_alone(tmp_path / "weights", engine, state, CONFIG, {}, binding=BINDING)
    assert not list(tmp_path.iterdir())
    free(1.2 * size + 1)
    checkpoint.save_weights_alone(tmp_path / "weights", engine, state, CONFIG, {}, binding=BINDING)


def test_what_rank_0_finds_of_the_disk_is_said_on_every_rank(save, free, monkeypatch, tmp_path):
    monkeypatch.setenv("RANK", "1")
    free(0)  # of another host's view of the disk
    said = ["", "no room to write it"]
    monkeypatch.setattr(dist, "gather_texts", lambda text, *, longest=256: [said.pop(), text])
    with pytest.raises(DiskTrouble, match=r"^no room to write it$"):
        save(2)
    save(4)
    assert not list(tmp_path.iterdir())


def test_what_a_killed_save_of_another_step_left_takes_no_room(save, free, tmp_path):
    size = bytes_of(save(2))
    left = files.temporary_folder(checkpoint.step_folder(tmp_path, 3))
    left.mkdir()
    (left / "half.safetensors").write_bytes(b"0" * 100)
    free(1.2 * size + 1)
    save(4)
    assert not left.exists()
    save(5)

import errno
import os
from pathlib import Path

import pytest

from megas2s import files
from megas2s.errors import BadCheckpoint, DiskTrouble


@pytest.fixture
def published(tmp_path):
    final = tmp_path / "thing"
    temporary = files.temporary_folder(final)
    (temporary / "inner").mkdir(parents=True)
    (temporary / "a.bin").write_bytes(b"0123456789")
    (temporary / "inner" / "b.txt").write_text("hello")
    files.publish(temporary, final, {"kind": "test"})
    return final


def test_a_published_folder_verifies_and_keeps_its_record(published):
    manifest = files.verify(published)
    assert manifest["kind"] == "test"
    assert {name: facts["bytes"] for name, facts in manifest["files"].items()} == {"a.bin": 10, "inner/b.txt": 5}


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda folder: (folder / "a.bin").unlink(), "missing"),
        (lambda folder: (folder / "a.bin").write_bytes(b"01234"), "has 5 bytes, its manifest says 10"),
        (lambda folder: (folder / "a.bin").write_bytes(b"0123456780"), "does not match its SHA-256"),
        (lambda folder: (folder / files.MANIFEST).unlink(), "was never finished"),
        (lambda folder: (folder / files.MANIFEST).write_text('{"files"'), "is damaged"),
        (lambda folder: (folder / files.MANIFEST).write_text("[]"), "is damaged"),
        (lambda folder: (folder / files.MANIFEST).write_text('{"files": {"a.bin": {"bytes": 10}}}'), "is damaged"),
    ],
)
def test_damage_is_found_and_named(published, damage, sentence):
    damage(published)
    with pytest.raises(BadCheckpoint, match=sentence):
        files.verify(published)


def test_a_folder_that_takes_entries_and_cannot_be_read_is_flushed_with_everything_else(tmp_path, monkeypatch):
    """Mode -wx, as of some shared folders of runs; root may read it all the same, so that is made up here."""
    drop = tmp_path / "drop"
    drop.mkdir(mode=0o300)
    opened, synced = os.open, []

    def refusing(path, *arguments, **options):
        if path == drop:
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return opened(path, *arguments, **options)

    monkeypatch.setattr(os, "open", refusing)
    monkeypatch.setattr(os, "sync", lambda: synced.append((drop / "run").is_dir()))
    files.make_folder(drop / "run" / "logs")
    assert (drop / "run" / "logs").is_dir()
    assert synced == [True], "after the entry was made"


def test_a_folder_that_another_process_makes_meanwhile_is_there(tmp_path, monkeypatch):
    folder, is_dir = tmp_path / "made", Path.is_dir

    def made_after_the_question(path):
        found = is_dir(path)
        if path == folder and not found:
            folder.mkdir()
        return found

    monkeypatch.setattr(Path, "is_dir", made_after_the_question)
    files.make_folder(folder)
    assert folder.exists()


def test_publishing_again_replaces(published):
    replace(published)
    assert sorted(files.verify(published)["files"]) == ["c"]


def replace(published):
    """Publish a new folder over a published one."""
    temporary = files.empty_temporary(published)
    (temporary / "c").write_text("new")
    files.publish(temporary, published, {"kind": "test"})


def breaks_off_before(monkeypatch, call, name):
    """`call`, a function of modules that `files` uses, is Ctrl-C once its first path is called `name`."""
    module, function = call
    original = getattr(module, function)

    def broken(path, *others):
        if path.name == name:
            raise KeyboardInterrupt
        return original(path, *others)

    monkeypatch.setattr(module, function, broken)


@pytest.mark.parametrize(
    ("call", "name", "left"),
    [
        ((os, "replace"), "thing", ["a.bin", "inner/b.txt"]),  # before the old one steps aside
        ((os, "replace"), ".tmp-thing", ["a.bin", "inner/b.txt"]),  # before the new one has its place
        ((files, "remove_published"), ".old-thing", ["c"]),  # before the old one is removed
        ((files.shutil, "rmtree"), ".old-thing", ["c"]),  # while it is removed
    ],
)
def test_one_of_two_is_whole_wherever_replacing_breaks_off(published, monkeypatch, call, name, left):
    with monkeypatch.context() as patch:
        breaks_off_before(patch, call, name)
        with pytest.raises(KeyboardInterrupt):
            replace(published)
    files.settle(published)
    assert sorted(files.verify(published)["files"]) == left
    assert {path.name for path in published.parent.iterdir()} <= {"thing", ".tmp-thing"}
    replace(published)
    assert os.listdir(published.parent) == ["thing"]


def test_publishing_settles_what_was_left_before(published, monkeypatch):
    with monkeypatch.context() as patch:
        breaks_off_before(patch, (files, "remove_published"), ".old-thing")
        with pytest.raises(KeyboardInterrupt):
            replace(published)
    replace(published)
    assert sorted(files.verify(published)["files"]) == ["c"]
    assert os.listdir(published.parent) == ["thing"]


def test_a_file_is_replaced_whole(tmp_path):
    path = tmp_path / "x" / "y.txt"
    files.write_text(path, "one")
    files.write_text(path, "two")
    assert path.read_text() == "two"
    assert os.listdir(path.parent) == ["y.txt"]


def test_a_copied_folder_is_there_once_it_is_whole(tmp_path, monkeypatch):
    source, final = tmp_path / "source", tmp_path / "final"
    files.write_text(source / "a.txt", "a")
    files.write_text(source / "below" / "b.txt", "b")

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as broken:
        broken.setattr(files.shutil, "copyfile", full)
        with pytest.raises(DiskTrouble, match=f"no room to write {final}"):
            files.copy_folder(source, final)
    assert not final.exists()
    files.copy_folder(source, final)
    assert [(path.name, path.read_text()) for path in files.files_below(final)] == [("a.txt", "a"), ("b.txt", "b")]
    assert sorted(os.listdir(tmp_path)) == ["final", "source"]


def test_a_published_folder_and_the_folders_made_for_it_survive_a_power_cut(tmp_path, unflushed):
    final = tmp_path / "run" / "stage" / "checkpoints" / "step"
    temporary = files.empty_temporary(final)
    (temporary / "inner" / "most").mkdir(parents=True)
    (temporary / "inner" / "most" / "b.txt").write_text("hello")
    files.publish(temporary, final, {})
    assert (final / "inner" / "most" / "b.txt").is_file()
    assert not unflushed(tmp_path)


def test_a_copied_folder_survives_a_power_cut_without_what_an_earlier_attempt_left(tmp_path, unflushed):
    source, final = tmp_path / "source", tmp_path / "run" / "final"
    files.write_text(source / "a.txt", "a")
    files.write_text(source / "below" / "most" / "b.txt", "b")
    files.write_text(files.temporary_folder(final) / "stray.txt", "of the first attempt")
    files.copy_folder(source, final)
    assert [path.name for path in files.files_below(final)] == ["a.txt", "b.txt"]
    assert not unflushed(tmp_path)


def test_a_file_in_new_folders_survives_a_power_cut(tmp_path, unflushed):
    files.write_text(tmp_path / "x" / "y" / "z.txt", "one")
    assert not unflushed(tmp_path)


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES])
def test_trouble_with_the_disk_is_a_sentence_that_names_the_file(tmp_path, code):
    with pytest.raises(DiskTrouble, match=r"shard\.arrow"), files.disk_trouble(tmp_path / "shard.arrow"):
        raise OSError(code, os.strerror(code))


def test_a_file_in_the_place_of_a_folder_is_named(tmp_path):
    (tmp_path / "run").touch()
    with pytest.raises(DiskTrouble, match="run is a file where a folder is needed; name another place"):
        files.make_folder(tmp_path / "run" / "logs")


def test_other_errors_pass_through(tmp_path):
    with pytest.raises(OSError, match="No such"), files.disk_trouble(tmp_path):
        raise OSError(errno.ENOENT, os.strerror(errno.ENOENT))

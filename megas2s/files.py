"""Files that appear whole or not at all.

A file is written beside its final name, flushed to the disk and renamed. A folder is filled under a temporary
name, gets a MANIFEST.json with the size and SHA-256 of every file, is flushed and renamed. A reader
trusts a folder that has a manifest and nothing else. A folder that is replaced steps aside under a third name until
the new one has its place.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from megas2s.errors import BadCheckpoint, DiskTrouble

MANIFEST = "MANIFEST.json"
TEMPORARY = ".tmp-"
REPLACED = ".old-"
CHUNK = 1 << 22


def write_text(path: Path, text: str) -> None:
    """Replace `path` by `text` in one step."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, content: bytes) -> None:
    """Replace `path` by `content` in one step; a crash leaves the old file or the new one."""
    beside = path.with_name(f"{TEMPORARY}{os.getpid()}-{path.name}")
    with disk_trouble(path):
        make_folder(path.parent)
        with open(beside, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
        sync_folder(path.parent)


def write_json(path: Path, value: object) -> None:
    """`value` as readable JSON, in one step."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """The value in a JSON file; UTF-8."""
    return json.loads(path.read_text(encoding="utf-8"))


def read_record(path: Path) -> list[Any]:
    """The list in a JSON file that only informs; raises BadCheckpoint where it is damaged."""
    try:
        entries = read_json(path)
    except ValueError:
        entries = None
    if not isinstance(entries, list) or not entries:
        raise BadCheckpoint(f"{path} is damaged; restore it from a copy, or remove it")
    return entries


def hash_file(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal, read in blocks."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(CHUNK):
            digest.update(block)
    return digest.hexdigest()


def sync_folder(folder: Path) -> None:
    """Flush a folder's own entries: a rename survives a power cut only after this."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except PermissionError:  # one may make entries in a folder of mode -wx and not open it: then everything is flushed
        os.sync()
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(folder: Path) -> None:
    """Make a folder and those above it where they are missing, and flush the entry of each new one."""
    if not folder.is_dir():
        if folder.exists() and not folder.is_dir():  # asked again: another process may have made it in between
            raise DiskTrouble(f"{folder} is a file where a folder is needed; name another place, or move it away")
        make_folder(folder.parent)
        folder.mkdir(exist_ok=True)
        sync_folder(folder.parent)


def files_below(folder: Path) -> list[Path]:
    """Every regular file below `folder`, sorted, without its manifest."""
    return sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / MANIFEST)


def temporary_folder(final: Path) -> Path:
    """The name under which `final` is filled before it is published; the same on every rank."""
    return final.with_name(TEMPORARY + final.name)


def empty_temporary(final: Path) -> Path:
    """Make `temporary_folder(final)`, without what an interrupted attempt left in it; one rank does this."""
    temporary = temporary_folder(final)
    with disk_trouble(final):
        if temporary.exists():
            shutil.rmtree(temporary)
        make_folder(temporary)
    return temporary


def publish(temporary: Path, final: Path, record: Mapping[str, Any]) -> None:
    """Give a filled folder its manifest and its final name; `record` is kept in the manifest beside the hashes."""
    with disk_trouble(final):
        paths = files_below(temporary)
        with ThreadPoolExecutor() as pool:
            hashes = list(pool.map(_sync_and_hash, paths))
        files = {
            path.relative_to(temporary).as_posix(): {"bytes": path.stat().st_size, "sha256": digest}
            for path, digest in zip(paths, hashes, strict=True)
        }
        write_json(temporary / MANIFEST, {**record, "files": files})
        _sync_folders(temporary)
        settle(final)
        aside = final.with_name(REPLACED + final.name)
        if final.exists():
            os.replace(final, aside)
        os.replace(temporary, final)
        sync_folder(final.parent)
        if aside.exists():
            remove_published(aside)


def settle(final: Path) -> None:
    """Finish what a crash in the middle of replacing `final` left: without a new folder the old one comes back."""
    aside = final.with_name(REPLACED + final.name)
    if not aside.exists():
        return
    if final.exists():
        remove_published(aside)
    else:
        os.replace(aside, final)
        sync_folder(final.parent)


def copy_folder(source: Path, final: Path) -> None:
    """Copy a folder's files under a temporary name and give it its own once they are all there."""
    with disk_trouble(final):
        temporary = empty_temporary(final)
        for path in (path for path in source.rglob("*") if path.is_file()):
            target = temporary / path.relative_to(source)
            make_folder(target.parent)
            shutil.copyfile(path, target)  # copytree would gather errors into one without an errno
            with open(target, "rb") as file:
                os.fsync(file.fileno())
        _sync_folders(temporary)
        os.replace(temporary, final)
        sync_folder(final.parent)


def remove_published(folder: Path) -> None:
    """Delete a published folder, its manifest first: an interrupted deletion then leaves nothing that looks whole."""
    (folder / MANIFEST).unlink(missing_ok=True)
    shutil.rmtree(folder)


def is_published(folder: Path) -> bool:
    """Whether `folder` has been published; says nothing of whether its files are still intact (see `verify`)."""
    return (folder / MANIFEST).is_file()


def read_manifest(folder: Path) -> dict[str, Any]:
    """What a folder was published with; raises BadCheckpoint where its manifest is missing or damaged."""
    try:
        manifest: dict[str, Any] = read_json(folder / MANIFEST)
        whole = all({"bytes", "sha256"} <= facts.keys() for facts in manifest["files"].values())
    except FileNotFoundError:
        raise BadCheckpoint(f"{folder} has no {MANIFEST}: it was never finished; remove it or name another") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        whole = False
    if not whole:
        raise BadCheckpoint(f"{folder / MANIFEST} is damaged; restore it from a copy, or remove {folder}")
    return manifest


def verify(folder: Path, *, below: str = "") -> dict[str, Any]:
    """The manifest of a published folder after checking the size and hash of every file; raises BadCheckpoint.

    With `below`, only of files whose path in the folder begins so, for example `weights/`.
    """
    manifest = read_manifest(folder)
    expected = {name: facts for name, facts in manifest["files"].items() if name.startswith(below)}
    for name, facts in expected.items():
        path = folder / name
        if not path.is_file():
            raise BadCheckpoint(f"{path} is missing; remove {folder} or restore it from a copy")
        if path.stat().st_size != facts["bytes"]:
            found = path.stat().st_size
            raise BadCheckpoint(f"{path} has {found} bytes, its manifest says {facts['bytes']}; restore it from a copy")
    with ThreadPoolExecutor() as pool:
        for name, digest in zip(expected, pool.map(lambda name: hash_file(folder / name), expected), strict=True):
            if digest != expected[name]["sha256"]:
                raise BadCheckpoint(f"{folder / name} does not match its SHA-256; restore it from a copy")
    return manifest


def lack_of_room(path: Path, needed: float) -> str:
    """What is to be said where fewer than `needed` bytes are free on the disk that `path` will lie on; else nothing."""
    there = next(folder for folder in path.absolute().parents if folder.is_dir())
    free = shutil.disk_usage(there).free
    if free >= needed:
        return ""
    return (
        f"no room to write {path}: {needed / 1e9:.3g} GB are asked for, {free / 1e9:.3g} GB are free; "
        "free some space and start again"
    )


@contextlib.contextmanager
def disk_trouble(path: Path) -> Iterator[None]:
    """Turn the errors of a full or read-only disk into a sentence that names `path`."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise DiskTrouble(f"no room to write {path}: {error.strerror}; free some space and start again") from error
        if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
            raise DiskTrouble(f"cannot write {path}: {error.strerror}; choose a folder that takes writes") from error
        raise


def _sync_folders(folder: Path) -> None:
    """Flush the entries of a folder and of all below it."""
    for path in (folder, *(path for path in folder.rglob("*") if path.is_dir())):
        sync_folder(path)


def _sync_and_hash(path: Path) -> str:
    with open(path, "rb") as file:
        os.fsync(file.fileno())
    return hash_file(path)

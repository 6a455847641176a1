"""Where tokenised documents wait until all input is read: append-only files, and a state that says how much counts.

    .staging/state.json                       written after each input file (at most once a second) and at the end
    .staging/train/<language>/<source>.ids    token ids, flat
    .staging/train/<language>/<source>.docs   one RECORD a document

A run that ends in the middle of an input file leaves bytes that no state counts; the next run cuts them off and goes
on with that file. So restarting costs one file's work, many tiny input files cost no tiny files here, and what is
staged is the same however often it was interrupted.
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import os
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import IO, Any, NamedTuple

import numpy as np

from megas2s import files
from megas2s.data.inputs import InputFile, Inputs
from megas2s.data.tokenise import RECORD, Tokenised
from megas2s.errors import BadConfig, BadData, DiskTrouble
from megas2s.spec import plain

FOLDER = ".staging"
STATE = "state.json"
COMMIT_SECONDS = 1.0
READ_DOCUMENTS = 1 << 16


class Group(NamedTuple):
    """What becomes one row of shards."""

    split: str
    language: str
    source: str


class Chain:
    """A running hash of the input files in order: equal chains, equal inputs."""

    def __init__(self, value: str = "") -> None:
        self.value = value

    def add(self, file: InputFile) -> None:
        """Take in one more file: its name, size, language and how it is read."""
        facts = (file.name, file.bytes, file.language, file.shard, _reading(file.inputs))
        self.value = hashlib.sha256(f"{self.value}{facts!r}".encode()).hexdigest()


class Staging:
    """The staged documents of one corpus; `with Staging(...)` holds its lock and writes its state on the way out."""

    def __init__(self, corpus: Path, arguments: Mapping[str, Any], dtype: np.dtype[np.unsignedinteger]) -> None:
        self.folder = corpus / FOLDER
        self.dtype = dtype
        self.arguments = dict(arguments)
        self.files = 0  # input files that are staged whole
        self.chain = Chain()
        self.documents = 0  # the ordinal of the next document
        self.groups: dict[Group, tuple[int, int]] = {}  # documents and tokens staged
        self.dropped: Counter[tuple[str, str]] = Counter()
        self.assembling = ""  # the chain of all inputs, once shards are being written
        self._open: dict[Group, tuple[int, int]] = {}  # of the file being staged
        self._open_documents = 0
        self._open_dropped: Counter[tuple[str, str]] = Counter()
        self._touched: set[Group] = set()  # since the last commit
        self._committed = 0.0
        self._lock: IO[str] | None = None

    def __enter__(self) -> Staging:
        with files.disk_trouble(self.folder):
            files.make_folder(self.folder)
            self._lock = (self.folder / "lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._lock.close()
            raise BadConfig(
                f"another process is writing {self.folder.parent}; wait for it or name another folder"
            ) from None
        if (self.folder / STATE).is_file():
            self._restore()
        self._cut_off()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        try:
            if not isinstance(error, DiskTrouble) and self.folder.is_dir():
                self.commit()
        finally:
            if self._lock is not None:
                self._lock.close()

    def add(self, split: str, source: str, result: Tokenised) -> None:
        """Append the documents of one block to their groups."""
        for language, records in result.records.items():
            group = Group(split, language, source)
            records["ordinal"] += np.uint64(self.documents + self._open_documents)
            tokens = result.tokens[language]
            with files.disk_trouble(self._ids(group)):
                files.make_folder(self._ids(group).parent)
                with open(self._ids(group), "ab") as file:
                    file.write(tokens.data)
                with open(self._docs(group), "ab") as file:
                    file.write(records.data)
            documents, ids = self._open.get(group, (0, 0))
            self._open[group] = (documents + len(records), ids + len(tokens))
        self._open_documents += result.documents
        self._open_dropped += result.dropped

    def finish_file(self, file: InputFile) -> None:
        """What has been added since the last call is all of `file`."""
        for group, (documents, tokens) in self._open.items():
            before = self.groups.get(group, (0, 0))
            self.groups[group] = (before[0] + documents, before[1] + tokens)
        self._touched.update(self._open)
        self.documents += self._open_documents
        self.dropped += self._open_dropped
        self.files += 1
        self.chain.add(file)
        self._open, self._open_documents, self._open_dropped = {}, 0, Counter()
        if time.monotonic() - self._committed > COMMIT_SECONDS:
            self.commit()

    def commit(self) -> None:
        """Flush all finished files' documents to the disk, then the state that counts them."""
        with files.disk_trouble(self.folder):
            for group in self._touched:
                for path in (self._ids(group), self._docs(group)):
                    with open(path, "rb") as file:
                        os.fsync(file.fileno())
            for folder in {self._ids(group).parent for group in self._touched}:
                files.sync_folder(folder)  # a new group's files are new entries
        self._touched.clear()
        state = {
            "arguments": self.arguments,
            "files": self.files,
            "chain": self.chain.value,
            "documents": self.documents,
            "groups": [[*group, *counts] for group, counts in sorted(self.groups.items())],
            "dropped": [[*key, count] for key, count in sorted(self.dropped.items())],
            "assembling": self.assembling,
        }
        files.write_json(self.folder / STATE, state)
        self._committed = time.monotonic()

    def records(self, group: Group) -> Iterator[np.ndarray]:
        """The records of a group, in order of input, some at a time."""
        with open(self._docs(group), "rb") as file:
            while len(records := np.fromfile(file, RECORD, READ_DOCUMENTS)):
                yield records

    def open_ids(self, group: Group) -> IO[bytes]:
        """The flat ids of a group."""
        return open(self._ids(group), "rb")

    def remove(self) -> None:
        """Delete everything staged; the corpus is complete."""
        shutil.rmtree(self.folder)

    def _restore(self) -> None:
        try:
            state = files.read_json(self.folder / STATE)
        except ValueError:
            raise BadData(f"{self.folder / STATE} is damaged; remove {self.folder.parent} and start again") from None
        refuse_other_arguments(self.folder.parent, state["arguments"], self.arguments)
        self.files, self.chain, self.documents = state["files"], Chain(state["chain"]), state["documents"]
        self.groups = {Group(*group): (documents, tokens) for *group, documents, tokens in state["groups"]}
        self.dropped = Counter({(language, reason): count for language, reason, count in state["dropped"]})
        self.assembling = state["assembling"]

    def _cut_off(self) -> None:
        """Remove the bytes that no state counts, left by a run that was stopped; a first state may never have come."""
        known = {self._ids(group): n * self.dtype.itemsize for group, (_, n) in self.groups.items()}
        known |= {self._docs(group): n * RECORD.itemsize for group, (n, _) in self.groups.items()}
        for path in [*self.folder.rglob("*.ids"), *self.folder.rglob("*.docs")]:
            if path not in known:
                path.unlink()
        for path, size in known.items():
            if not path.is_file() or path.stat().st_size < size:
                raise BadData(
                    f"{path} has lost bytes since it was written; remove {self.folder.parent} and start again"
                )
            os.truncate(path, size)

    def _ids(self, group: Group) -> Path:
        return self.folder / group.split / group.language / f"{group.source}.ids"

    def _docs(self, group: Group) -> Path:
        return self.folder / group.split / group.language / f"{group.source}.docs"


def refuse_other_arguments(corpus: Path, found: Mapping[str, Any], given: Mapping[str, Any]) -> None:
    """Raise BadConfig, naming what differs, unless a corpus was begun with the arguments now given."""
    different = [key for key in given if found.get(key) != given[key]]
    if different:
        listed = ", ".join(f"{key.replace('_', ' ')} (was {found.get(key)}, now {given[key]})" for key in different)
        raise BadConfig(f"{corpus} was made with other arguments: {listed}; name another folder or remove this one")


@functools.cache
def _reading(inputs: Inputs) -> tuple[tuple[str, Any], ...]:
    """How files are read, without the list of which."""
    facts: dict[str, Any] = plain(Inputs, inputs)
    return tuple(sorted((key, value) for key, value in facts.items() if key != "paths"))

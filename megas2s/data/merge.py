"""Several corpora of one tokenizer as one: their shards under new numbers, linked where the disk can, else copied.

A document that two of them have is in the whole twice, and what one holds out another may train on; `preprocess` over
all input at once is the way to drop it. Equal texts fall on the same side of the held-out split where the corpora were
made with the same share (see `choice.py`).
"""

from __future__ import annotations

import dataclasses
import errno
import os
import shutil
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from megas2s import files
from megas2s.data.corpus import SPLITS, TOKENIZER, Corpus, check_sizes, write_corpus
from megas2s.data.progress import Progress
from megas2s.data.shards import ShardEntry
from megas2s.errors import BadConfig

NO_LINK = (errno.EXDEV, errno.EPERM, errno.EOPNOTSUPP, errno.EMLINK, errno.EACCES)


def merge(
    corpora: Sequence[Corpus],
    folder: Path,
    *,
    copies: bool = False,
    report: Callable[[Progress], None] = lambda _: None,
) -> Corpus:
    """Make the corpus at `folder` of all shards of `corpora`, in their order; it appears whole or not at all.

    `copies` writes every byte anew also where a link would do. Raises BadConfig where they cannot be one.
    """
    check(corpora)
    made_of = [corpus.digest for corpus in corpora]
    if folder.exists() and any(folder.iterdir()):
        found = Corpus.open(folder)
        if found.record["arguments"].get("merged") != made_of:
            raise BadConfig(f"{folder} is a corpus of other documents; name another folder or remove this one")
        return found
    temporary = files.empty_temporary(folder)
    with files.disk_trouble(folder):
        entries = {split: _placed(corpora, split, temporary) for split in SPLITS}
        pairs = [pair for split in SPLITS for pair in entries[split]]
        total, done = sum(entry.bytes for entry, _ in pairs), 0
        for number, (entry, path) in enumerate(pairs, start=1):
            files.make_folder(path.parent)
            _put(entry.path, path, copies)
            done += entry.bytes
            report(Progress("merge", "", number, len(pairs), done, total, 0, 0, "shards"))
        files.copy_folder(corpora[0].tokenizer_folder, temporary / TOKENIZER)
        for place in [path for path in temporary.rglob("*") if path.is_dir()]:
            files.sync_folder(place)
        write_corpus(
            temporary,
            {split: [dataclasses.replace(entry, path=path) for entry, path in entries[split]] for split in SPLITS},
            fingerprint=corpora[0].fingerprint,
            separator=corpora[0].separator,
            record=_record(corpora, made_of),
        )
        if folder.exists():
            folder.rmdir()
        os.replace(temporary, folder)
        files.sync_folder(folder.parent)
    return Corpus.open(folder)


def check(corpora: Sequence[Corpus]) -> None:
    """Raise BadConfig where corpora cannot be one: fewer than two, of two tokenizers, or with a shard twice."""
    if len(corpora) < 2:
        raise BadConfig(f"{len(corpora)} corpus is named, and one alone is merged already; name two or more")
    first = corpora[0]
    owners: dict[str, int] = {}  # the SHA-256 of a shard -> the place of the corpus that has it
    for place, corpus in enumerate(corpora):
        if (corpus.fingerprint, corpus.separator) != (first.fingerprint, first.separator):
            raise BadConfig(
                f"{corpus.folder} has another tokenizer than {first.folder} ({corpus.fingerprint[:12]}, not "
                f"{first.fingerprint[:12]}): their ids mean different tokens; preprocess its text again"
            )
        for entry in (entry for split in SPLITS for entry in corpus.entries[split]):
            owner = owners.setdefault(entry.sha256, place)  # within one, documents that were kept twice may fill two
            if owner != place:
                raise BadConfig(f"{corpora[owner].folder} and {corpus.folder} hold the same shards; name them once")
        check_sizes(corpus)


def _placed(corpora: Sequence[Corpus], split: str, folder: Path) -> list[tuple[ShardEntry, Path]]:
    """All shards of a split in the order of `corpus.json`, and where each will lie."""
    entries = [entry for corpus in corpora for entry in corpus.entries[split]]
    entries.sort(key=lambda entry: (entry.language, entry.source))  # stable: corpora stay in order
    numbers: Counter[tuple[str, str]] = Counter()
    found = []
    for entry in entries:
        number = numbers[entry.language, entry.source]
        numbers[entry.language, entry.source] += 1
        found.append((entry, folder / split / entry.language / f"{entry.source}-{number:05d}.arrow"))
    return found


def _put(source: Path, target: Path, copies: bool) -> None:
    if not copies:
        try:
            os.link(source, target)
        except OSError as error:
            if error.errno not in NO_LINK:
                raise
        else:
            return
    shutil.copyfile(source, target)
    with open(target, "rb") as file:
        os.fsync(file.fileno())


def _record(corpora: Sequence[Corpus], made_of: Sequence[str]) -> dict[str, Any]:
    languages: dict[str, dict[str, Any]] = {}
    for corpus in corpora:
        for language, facts in corpus.record["languages"].items():
            found = languages.setdefault(language, {"dropped": {}})
            for name, value in facts.items():
                if name != "dropped":
                    found[name] = found.get(name, 0) + value
            found["dropped"] = dict(sorted((Counter(found["dropped"]) + Counter(facts["dropped"])).items()))
    inputs = [corpus.record["inputs"] for corpus in corpora]
    return {
        "arguments": {"merged": list(made_of), "of": [corpus.record["arguments"] for corpus in corpora]},
        "inputs": {
            "files": sum(each["files"] for each in inputs),
            "bytes": sum(each["bytes"] for each in inputs),
            "digest": "+".join(each["digest"][:16] for each in inputs),
        },
        "languages": dict(sorted(languages.items())),
    }

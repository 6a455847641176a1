"""What a person asks to be read (`Inputs`) and one work unit of it (`InputFile`). Opens nothing, imports little."""

from __future__ import annotations

import dataclasses
import re
from typing import Literal

from megas2s.spec import spec

LONGEST = 1 << 24

_SOURCE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@spec
class Inputs:
    """Text of one source: files, folders and globs, or a dataset, with one way to read them."""

    paths: tuple[str, ...] = ()  # files, folders, globs; `fr=path` says the language of what lies there
    dataset: str | None = None  # name of a Hugging Face dataset, or a folder that holds one
    dataset_config: str | None = None
    dataset_split: str = "train"
    dataset_revision: str | None = None
    text_column: str = "text"
    language_column: str | None = None
    language: str | None = None  # without this or a column the language is read from the names of file and folder
    source: str = "text"
    documents: Literal["lines", "paragraphs"] = "lines"  # of .txt: one a line, or parted by blank lines
    invalid_utf8: Literal["refuse", "drop"] = "refuse"
    longest_document: int = LONGEST  # bytes; a longer line is refused, so that memory stays bounded
    split: Literal["train", "heldout"] = "train"

    def __post_init__(self) -> None:
        if not self.paths and self.dataset is None:
            raise ValueError("no input: give files, folders, globs or a dataset")
        if self.language is not None and self.language_column is not None:
            raise ValueError("language and language_column are both given; one of them must go")
        if not _SOURCE.fullmatch(self.source):
            raise ValueError(f"source must be letters, digits, '.', '_' and '-', found {self.source!r}")
        if self.longest_document < 1:
            raise ValueError(f"longest_document must be at least 1 byte, found {self.longest_document}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class InputFile:
    """One work unit: a file, or one shard of a dataset."""

    name: str  # the path, or dataset:NAME:CONFIG:SPLIT:SHARD
    format: Literal["txt", "jsonl", "parquet", "csv", "dataset"]
    compression: Literal["", "gz", "zst"]
    language: str | None  # None: the language column says it, document by document
    bytes: int  # on disk; 0 where that is not known
    shard: int  # of a dataset; 0 for files
    inputs: Inputs
    sample: str = ""  # a hash of a file's first and last bytes, where somebody has looked (`pieces.sampled`)

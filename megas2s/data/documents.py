"""Documents from the outside world: which files there are, in what order, and the text in them, as a stream.

    input_files    `Inputs` -> the work units of preprocessing: one a file, or one a shard of a Hugging Face dataset
    read_blocks    a work unit -> blocks of about a megabyte, cheap to make (`lines.py`, `tables.py`)
    read_documents all of it at once, in this process: `Document(text, language, source)`

Decoding a block is the costly half and lives in `decode.py`, so that worker processes can do it. Every mistake that can
be seen without reading is refused by `input_files`, before any work is done.
"""

from __future__ import annotations

import glob
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path, PurePath

from megas2s.data.decode import Block, Document, decode
from megas2s.data.inputs import InputFile, Inputs
from megas2s.data.languages import language_code, language_of_name, language_of_path
from megas2s.data.lines import read_lines
from megas2s.data.pieces import Span
from megas2s.data.progress import Progress
from megas2s.data.tables import count_shards, read_tables
from megas2s.errors import BadConfig, BadData

FORMATS = ("txt", "jsonl", "parquet", "csv")
COMPRESSED = ("txt", "jsonl")
BLOCK = 1 << 20  # bytes of text that travel to a worker at once

_SUFFIX = re.compile(rf"\.(?:({'|'.join(FORMATS)})|({'|'.join(COMPRESSED)})\.(gz|zst))$", re.IGNORECASE)
_PREFIX = re.compile(r"([A-Za-z]{2,3}(?:[-_][A-Za-z0-9]{2,8})*)=(.+)")
_PATTERN = re.compile(r"[*?\[]")


def input_files(inputs: Inputs | Sequence[Inputs]) -> list[InputFile]:
    """Every work unit, held-out ones first and then by name; the same list wherever and whenever it is made."""
    groups = [inputs] if isinstance(inputs, Inputs) else list(inputs)
    found: dict[str, InputFile] = {}
    for group in groups:
        for file in [*_files(group), *_dataset_shards(group)]:
            known = found.setdefault(file.name, file)
            if known != file:
                raise BadConfig(f"{file.name} is named twice, with different ways to read it; name it once")
    return sorted(found.values(), key=lambda file: (file.inputs.split == "train", file.name))


def read_blocks(span: Span, *, size: int = BLOCK) -> Iterator[Block]:
    """The blocks of one file, or of a span of it, in order; raises BadData where it cannot be read."""
    if span.file.format in ("txt", "jsonl"):
        return read_lines(span, size=size)
    return read_tables(span.file, size=size)


def bytes_to_read(files: Sequence[InputFile]) -> int:
    """What all files have on disk; 0 where that of one is not known."""
    return 0 if any(file.format == "dataset" for file in files) else sum(file.bytes for file in files)


def read_documents(
    inputs: Inputs | Sequence[Inputs],
    *,
    dropped: Counter[tuple[str, str]] | None = None,
    report: Callable[[Progress], None] = lambda _: None,
) -> Iterator[Document]:
    """Every document, cleaned, in the order of `input_files`; `dropped` counts the others by (language, reason)."""
    counts: Counter[tuple[str, str]] = Counter() if dropped is None else dropped
    files = input_files(inputs)
    total = bytes_to_read(files)
    before = documents = text_bytes = 0
    for number, file in enumerate(files):
        for block in read_blocks(Span(file)):
            for document in decode(block, counts):
                yield document
                documents += 1
            text_bytes += len(block.content)
            position = before + block.position
            report(Progress("read", file.name, number, len(files), position, total, documents, text_bytes))
        before += file.bytes
        report(Progress("read", file.name, number + 1, len(files), before, total, documents, text_bytes))


def _files(inputs: Inputs) -> Iterable[InputFile]:
    for given in inputs.paths:
        prefix = None if Path(given).exists() else _PREFIX.fullmatch(given)
        fixed, pattern = (prefix[1], prefix[2]) if prefix else (inputs.language, given)
        root = Path(pattern)
        if root.is_file() and not _SUFFIX.search(root.name):
            raise BadData(f"{pattern} is of no known format; {_formats()}")
        paths = [root] if root.is_file() else _matches(pattern)
        if not paths:
            raise BadData(_nothing(pattern))
        top = root if root.is_dir() else Path(_PATTERN.split(pattern)[0]).parent
        for path in paths:
            yield _input_file(path, top, fixed, inputs)


def _matches(pattern: str) -> list[Path]:
    """The readable files that a folder (searched to the bottom) or a glob names; hidden ones are left out."""
    root = Path(pattern)
    if root.is_dir():
        candidates = [path for path in root.rglob("*") if not _hidden(path.relative_to(root))]
    else:
        candidates = [Path(path) for path in glob.glob(pattern, recursive=True)]
    return [path for path in candidates if path.is_file() and _SUFFIX.search(path.name)]


def _hidden(path: PurePath) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _input_file(path: Path, top: Path, fixed: str | None, inputs: Inputs) -> InputFile:
    suffix = _SUFFIX.search(path.name)
    if suffix is None:
        raise BadData(f"{path} is of no known format; {_formats()}")
    language = None
    if fixed is not None:
        language = language_code(fixed, where=str(path))
    elif inputs.language_column is None:
        # Folders above what was named say nothing: /data/it/crawl/en.txt is read as a file of `crawl`.
        inside = PurePath(top.name) / path.relative_to(top).parent if path.is_relative_to(top) else path.parent
        language = language_of_path(path.name[: suffix.start()], inside)
        if language is None:
            raise BadData(
                f"{path}: its name and folder state no language; give --lang, --language-column, or CODE={path}"
            )
    return InputFile(
        name=str(path),
        format=(suffix[1] or suffix[2]).lower(),  # type: ignore[arg-type]
        compression=(suffix[3] or "").lower(),  # type: ignore[arg-type]
        language=language,
        bytes=path.stat().st_size,
        shard=0,
        inputs=inputs,
    )


def _dataset_shards(inputs: Inputs) -> Iterable[InputFile]:
    if inputs.dataset is None:
        return
    names = [name for name in (inputs.dataset_config, PurePath(inputs.dataset).name) if name is not None]
    language = inputs.language or next((code for name in names if (code := language_of_name(name))), None)
    if inputs.language_column is not None:
        language = None
    elif language is None:
        raise BadData(f"dataset {inputs.dataset}: its name states no language; give --lang or --language-column")
    else:
        language = language_code(language, where=f"dataset {inputs.dataset}")
    head = f"dataset:{inputs.dataset}:{inputs.dataset_config or ''}:{inputs.dataset_split}"
    for shard in range(count_shards(inputs)):
        yield InputFile(
            name=f"{head}:{shard:06d}",
            format="dataset",
            compression="",
            language=language,
            bytes=0,
            shard=shard,
            inputs=inputs,
        )


def _formats() -> str:
    compressed = ", ".join(f".{kind}.gz, .{kind}.zst" for kind in COMPRESSED)
    return f"known are {', '.join(f'.{kind}' for kind in FORMATS)}, {compressed}"


def _nothing(pattern: str) -> str:
    if _PATTERN.search(pattern):
        return f"{pattern} matches no readable file; {_formats()}"
    if Path(pattern).is_dir():
        return f"{pattern} holds no readable file; {_formats()}"
    return f"there is no file or folder {pattern}; a Hugging Face dataset is named with --dataset"

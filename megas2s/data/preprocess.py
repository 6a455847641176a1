"""From raw text to a corpus: read, tokenise, stage, choose, write shards, and last `corpus.json`.

    input files --parent--> blocks --workers--> ids --parent--> .staging/ --parent--> train/ heldout/ corpus.json

The work unit is the input file (or one shard of a dataset). Started again after any interruption, it goes on at the
first input file that is not staged whole; the corpus is the same byte for byte, whatever the number of workers and
interruptions. While shards are written the ids lie on the disk twice.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from megas2s.data.assemble import Assembly, Tally, write_shards
from megas2s.data.corpus import MARKER, TOKENIZER, Corpus, write_corpus
from megas2s.data.decode import DUPLICATE, Block
from megas2s.data.documents import BLOCK, bytes_to_read, input_files, read_blocks
from megas2s.data.inputs import InputFile, Inputs
from megas2s.data.progress import Progress
from megas2s.data.shards import FORMAT, SHARD_DOCUMENTS, SHARD_TOKENS
from megas2s.data.staging import FOLDER, Chain, Staging, refuse_other_arguments
from megas2s.data.tokenise import Encoder, Ids, tokenise
from megas2s.errors import BadConfig, BadData
from megas2s.spec import plain, spec

log = logging.getLogger(__name__)


@spec
class Choices:
    """Which documents go where; part of what makes a corpus what it is."""

    deduplicate: bool = True  # drop a document whose normalised text an earlier one has
    held_out: float = 0.005  # share of each language's documents that is kept from training

    def __post_init__(self) -> None:
        if not 0 <= self.held_out <= 0.5:
            raise ValueError(f"held_out must lie in [0, 0.5], found {self.held_out}")


class CorpusTokenizer(NamedTuple):
    """A tokenizer, as far as this room knows one."""

    fingerprint: str
    ids: Ids
    load: Callable[[], Encoder]  # called in each worker: must be importable from there
    copy_to: Callable[[Path], None]  # writes the tokenizer's folder


def preprocess(
    inputs: Sequence[Inputs],
    folder: Path,
    *,
    tokenizer: CorpusTokenizer,
    choices: Choices,
    workers: int | None = None,
    allow_empty_languages: bool = False,
    report: Callable[[Progress], None] = lambda _: None,
    block_size: int = BLOCK,
) -> Corpus:
    """Make the corpus at `folder`, or go on making it, or find it complete; raises a Refusal where it cannot be."""
    files = input_files(inputs)
    arguments = _arguments(tokenizer, choices)
    chain = Chain()
    for file in files:
        chain.add(file)
    if (folder / MARKER).is_file():
        return _complete(folder, arguments, chain)
    if folder.exists() and not (folder / FOLDER).is_dir() and any(folder.iterdir()):
        raise BadConfig(f"{folder} is neither empty nor a corpus; name another folder")
    _refuse_empty(_empty_before(files), allow_empty_languages)
    with Staging(folder, arguments, tokenizer.ids.dtype) as staging:
        _go_on(staging, files, chain)
        if not staging.assembling:
            processes = _workers(workers, files, block_size)
            _stage(staging, files, tokenizer, workers=processes, report=report, size=block_size)
            staging.assembling = chain.value
            staging.commit()
        return _assemble(staging, files, tokenizer, choices, workers, allow_empty_languages, report)


def _stage(
    staging: Staging,
    files: Sequence[InputFile],
    tokenizer: CorpusTokenizer,
    *,
    workers: int,
    report: Callable[[Progress], None],
    size: int,
) -> None:
    """Tokenise every input file that is not staged yet."""
    total = bytes_to_read(files)
    before = sum(file.bytes for file in files[: staging.files])
    documents = text_bytes = 0

    def blocks() -> Iterator[Block | None]:
        for file in files[staging.files :]:
            yield from read_blocks(file, size=size)
            yield None

    for result in tokenise(blocks(), tokenizer.load, tokenizer.ids, workers=workers):
        file = files[staging.files]
        if result.block is None:
            staging.finish_file(file)
            before += file.bytes
            position = before
        else:
            staging.add(file.inputs.split, file.inputs.source, result)
            documents += result.documents
            text_bytes += result.text_bytes
            position = before + result.block.position
        report(Progress("tokenise", file.name, staging.files, len(files), position, total, documents, text_bytes))


def _assemble(
    staging: Staging,
    files: Sequence[InputFile],
    tokenizer: CorpusTokenizer,
    choices: Choices,
    workers: int | None,
    allow_empty_languages: bool,
    report: Callable[[Progress], None],
) -> Corpus:
    """Shards, the tokenizer's copy, and last the file that says the corpus is complete."""
    folder = staging.folder.parent
    assembly = Assembly(staging, deduplicate=choices.deduplicate, held_out=choices.held_out)
    languages = _summary(assembly.tallies, staging, files)
    empty = [code for code, facts in languages.items() if facts["documents"] + facts["heldout_documents"] == 0]
    _refuse_empty(empty, allow_empty_languages)
    if not any(facts["documents"] for facts in languages.values()):
        raise BadData(f"no document is left to train on; dropped: {_dropped(languages) or 'none'}")
    total = sum(facts["tokens"] + facts["heldout_tokens"] for facts in languages.values())
    written = 0

    def tell(tokens: int) -> None:
        nonlocal written
        written += tokens
        report(Progress("write shards", "", len(files), len(files), written, total, 0, 0))

    entries = write_shards(
        assembly,
        folder,
        fingerprint=tokenizer.fingerprint,
        separator=tokenizer.ids.separator,
        workers=workers or _cores(),
        report=tell,
    )
    if (folder / TOKENIZER).exists():
        shutil.rmtree(folder / TOKENIZER)
    tokenizer.copy_to(folder / TOKENIZER)
    record = {
        "arguments": staging.arguments,
        "inputs": {"files": len(files), "bytes": sum(file.bytes for file in files), "digest": staging.chain.value},
        "languages": languages,
    }
    corpus = write_corpus(
        folder, entries, fingerprint=tokenizer.fingerprint, separator=tokenizer.ids.separator, record=record
    )
    staging.remove()
    return corpus


def _summary(tallies: Mapping[str, Tally], staging: Staging, files: Sequence[InputFile]) -> dict[str, dict[str, Any]]:
    """Per language: documents, tokens, characters, and what was dropped for which reason."""
    dropped = dict(staging.dropped)
    for language, tally in tallies.items():
        if tally.duplicates:
            dropped[language, DUPLICATE] = tally.duplicates
    named = {file.language for file in files if file.language is not None}
    return {
        language: {
            "documents": tally.documents,
            "tokens": tally.tokens,
            "characters": tally.characters,
            "heldout_documents": tally.heldout_documents,
            "heldout_tokens": tally.heldout_tokens,
            "dropped": {reason: n for (code, reason), n in sorted(dropped.items()) if code == language},
        }
        for language in sorted(named | set(tallies) | {code for code, _ in dropped})
        for tally in [tallies.get(language, Tally())]
    }


def _arguments(tokenizer: CorpusTokenizer, choices: Choices) -> dict[str, Any]:
    return {
        "format": FORMAT,
        "tokenizer": tokenizer.fingerprint,
        "separator": tokenizer.ids.separator,
        **plain(Choices, choices),
        "shard_tokens": SHARD_TOKENS,
        "shard_documents": SHARD_DOCUMENTS,
    }


def _complete(folder: Path, arguments: Mapping[str, Any], chain: Chain) -> Corpus:
    corpus = Corpus.open(folder)
    refuse_other_arguments(folder, corpus.record["arguments"], arguments)
    if corpus.record["inputs"]["digest"] != chain.value:
        found = corpus.record["inputs"]
        raise BadConfig(
            f"{folder} is a complete corpus of other inputs ({found['files']} files of {found['bytes']} bytes, "
            "or read in another way); name another folder"
        )
    if (folder / FOLDER).is_dir():
        shutil.rmtree(folder / FOLDER)
    return corpus


def _go_on(staging: Staging, files: Sequence[InputFile], chain: Chain) -> None:
    """Say where it goes on; refuse where the input files that are already staged are not the ones now named."""
    begun = Chain()
    for file in files[: staging.files]:
        begun.add(file)
    unchanged = staging.files <= len(files) and begun.value == staging.chain.value
    if not unchanged or staging.assembling not in ("", chain.value):
        raise BadConfig(
            f"{staging.folder.parent} was begun with other inputs: of its first {staging.files} input files some have "
            "changed, gone or come in between; name another folder or remove this one"
        )
    if staging.files:
        log.info("going on after %d of %d input files", staging.files, len(files))


def _empty_before(files: Sequence[InputFile]) -> list[str]:
    """Languages of which nothing can come: all their files are empty."""
    sized = {file.language for file in files if file.bytes or file.format == "dataset"}
    return sorted({file.language for file in files if file.language is not None} - sized)


def _refuse_empty(languages: Sequence[str], allowed: bool) -> None:
    if languages and not allowed:
        raise BadData(
            f"no documents of language {', '.join(languages)}: all are empty, duplicates or invalid; "
            "add some, leave the language out, or go on without it by --allow-empty-languages"
        )


def _dropped(languages: Mapping[str, Mapping[str, Any]]) -> str:
    reasons: dict[str, int] = {}
    for facts in languages.values():
        for reason, count in facts["dropped"].items():
            reasons[reason] = reasons.get(reason, 0) + count
    return ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items()))


def _workers(wanted: int | None, files: Sequence[InputFile], size: int) -> int:
    """No more processes than there are blocks for them; starting one costs a second."""
    if any(file.format == "dataset" for file in files):
        return wanted or _cores()
    return max(1, min(wanted or _cores(), sum(max(1, file.bytes // size) for file in files)))


def _cores() -> int:
    return len(os.sched_getaffinity(0))

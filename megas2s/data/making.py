"""One corpus in the making: what is done once, by rank 0, and what every process does its share of."""

from __future__ import annotations

import contextlib
import logging
import shutil
import socket
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from megas2s.data.assemble import ENTRIES, ShardPlan, read_entry, write_plans, write_shard_of
from megas2s.data.choice import Choice, Choices, Tally
from megas2s.data.contamination import digest_of as digest_of_texts
from megas2s.data.contamination import evaluation_files, write_grams
from megas2s.data.corpus import MARKER, TOKENIZER, Corpus, write_corpus
from megas2s.data.decode import BEYOND_QUOTA, DUPLICATE, NEAR_DUPLICATE
from megas2s.data.documents import bytes_to_read
from megas2s.data.inputs import InputFile
from megas2s.data.parts import Group, Parts, is_written
from megas2s.data.pieces import Piece, cut, digest_of, name_of, piece_bytes, sampled
from megas2s.data.screen import Screen
from megas2s.data.shards import FORMAT, SHARD_DOCUMENTS, SHARD_TOKENS, ShardEntry
from megas2s.data.share import CLAIMS, Job, prepare
from megas2s.data.staging import FOLDER, STATE, held, read_state, refuse_other_arguments
from megas2s.data.tokenise import Encoder, Ids
from megas2s.errors import BadConfig, BadData
from megas2s.files import disk_trouble, make_folder, read_json, write_json
from megas2s.spec import plain

GRAMS = "grams.npy"
MOST_THREADS = 8

log = logging.getLogger(__name__)


class CorpusTokenizer(NamedTuple):
    """A tokenizer, as far as this room knows one."""

    fingerprint: str
    ids: Ids
    load: Callable[[], Encoder]  # called in each worker: must be importable from there
    copy_to: Callable[[Path], None]  # writes the tokenizer's folder


class Making:
    """One corpus in the making, as this process sees it."""

    def __init__(
        self,
        folder: Path,
        inputs: Sequence[InputFile],
        tokenizer: CorpusTokenizer,
        choices: Choices,
        allow_empty_languages: bool,
    ) -> None:
        self.folder = folder
        self.staging = folder / FOLDER
        self.files = sampled(inputs)
        self.digest = digest_of(self.files)
        self.pieces: list[Piece] = []
        self.names: list[str] = []
        self._tokenizer = tokenizer
        self._choices = choices
        self._allow_empty = allow_empty_languages
        self._evaluation = evaluation_files(choices.screening.evaluation)

    def begin(self, lock: contextlib.ExitStack, piece_size: int | None) -> dict[str, Any]:
        """Rank 0: whether it is complete, else how its input is cut and whether its shards are planned."""
        arguments = self._arguments()
        if (self.folder / MARKER).is_file():
            self._check_complete(arguments)
            return {"digest": self.digest, "complete": True}
        if self.folder.exists() and not self.staging.is_dir() and any(self.folder.iterdir()):
            raise BadConfig(f"{self.folder} is neither empty nor a corpus; name another folder")
        _refuse_empty(_empty_before(self.files), self._allow_empty)
        _refuse_unknown(self._choices.quotas, self.files)
        Screen(self._choices.screening, None)  # an extra or a model that is missing is said before anything is written
        lock.enter_context(held(self.staging))
        state = read_state(self.staging)
        if state is None:
            size = piece_size or piece_bytes(bytes_to_read(self.files))
            state = {"arguments": arguments, "piece_bytes": size, "plans": None}
            write_json(self.staging / STATE, state)
        refuse_other_arguments(self.folder, state["arguments"], arguments)
        if state["plans"] is not None and state["digest"] != self.digest:
            raise BadConfig(
                f"{self.folder} was begun with other inputs: some input files have changed, gone or come since all "
                "were read; name another folder or remove this one"
            )
        mark = prepare(self.staging)
        if self._evaluation and not (self.staging / GRAMS).is_file():
            write_grams(self._evaluation, self.staging / GRAMS)
        return {
            "digest": self.digest,
            "complete": False,
            "mark": mark,
            "piece_bytes": state["piece_bytes"],
            "planned": state["plans"] is not None,
        }

    def check_same(self, begun: Mapping[str, Any]) -> None:
        """Refuse input or an output that is another one here than before rank 0."""
        host = socket.gethostname()
        if begun["digest"] != self.digest:
            raise BadData(f"{host} sees other input files than the first rank's host; let all hosts see the same")
        seen = self.folder / MARKER if begun["complete"] else self.staging / CLAIMS / begun["mark"]
        if not seen.is_file():
            raise BadData(f"{host} does not see {self.folder} as the first rank's host does; let all hosts share it")

    def cut(self, size: int) -> None:
        """Cut the input into pieces, and say which of them need not be read again."""
        self.pieces = cut(self.files, size)
        self.names = [name_of(piece) for piece in self.pieces]
        done = self.done()
        if done:
            log.info("going on after %d of %d pieces of input", done, len(self.pieces))

    def done(self) -> int:
        """How many pieces have their part."""
        return sum(is_written(self.staging, name) for name in self.names)

    def job(self, block_size: int) -> Job:
        """What processes that tokenise are given."""
        return Job(
            self.staging,
            self.pieces,
            self.names,
            self._tokenizer.load,
            self._tokenizer.ids,
            self._choices.screening,
            self.staging / GRAMS if self._evaluation else None,
            block_size,
        )

    def plan(self) -> None:
        """Rank 0: choose documents and plan shards."""
        parts = self._parts()
        choice = Choice(parts, self.staging, self._choices)
        languages = _summary(choice.tallies, parts, self.files)
        empty = [code for code, facts in languages.items() if facts["documents"] + facts["heldout_documents"] == 0]
        _refuse_empty(empty, self._allow_empty)
        if not any(facts["documents"] for facts in languages.values()):
            raise BadData(f"no document is left to train on; dropped: {_dropped(languages) or 'none'}")
        plans = [[plan.split, list(plan.group), *plan[2:]] for plan in write_plans(choice, self.staging)]
        state = read_json(self.staging / STATE)
        write_json(self.staging / STATE, {**state, "digest": self.digest, "languages": languages, "plans": plans})

    def write(self, rank: int, size: int, threads: int, told: Callable[[int, int], None]) -> None:
        """This rank's share of the shards, and what `corpus.json` will say of each."""
        parts, plans = self._parts(), self._plans()
        total = sum(plan.tokens for plan in plans[rank::size])

        def write_one(index: int) -> int:
            entry = write_shard_of(
                plans[index],
                index,
                parts,
                self.folder,
                self.staging,
                fingerprint=self._tokenizer.fingerprint,
                separator=self._tokenizer.ids.separator,
            )
            return entry.tokens

        with disk_trouble(self.staging):
            make_folder(self.staging / ENTRIES)
        with ThreadPoolExecutor(min(threads, MOST_THREADS)) as pool:
            try:
                for tokens in pool.map(write_one, range(rank, len(plans), size)):
                    told(tokens, total)
            finally:
                pool.shutdown(cancel_futures=True)

    def finish(self) -> None:
        """Rank 0: the tokenizer's copy, and last the file that says the corpus is complete."""
        state = read_json(self.staging / STATE)
        entries: dict[str, list[ShardEntry]] = {"train": [], "heldout": []}
        for index, plan in enumerate(self._plans()):
            entries[plan.split].append(read_entry(plan, index, self.folder, self.staging))
        if (self.folder / TOKENIZER).exists():
            shutil.rmtree(self.folder / TOKENIZER)
        self._tokenizer.copy_to(self.folder / TOKENIZER)
        read = {"files": len(self.files), "bytes": sum(file.bytes for file in self.files), "digest": self.digest}
        write_corpus(
            self.folder,
            entries,
            fingerprint=self._tokenizer.fingerprint,
            separator=self._tokenizer.ids.separator,
            record={"arguments": state["arguments"], "inputs": read, "languages": state["languages"]},
        )
        shutil.rmtree(self.staging)

    def _arguments(self) -> dict[str, Any]:
        """What makes the corpus what it is, beside its input; files by what they hold."""
        choices = plain(Choices, self._choices)
        screening = choices.pop("screening")
        model = screening["language_model"]
        screening["language_model"] = digest_of_texts([Path(model)]) if model and Path(model).is_file() else model
        screening["evaluation"] = digest_of_texts(self._evaluation) if self._evaluation else None
        return {
            "format": FORMAT,
            "tokenizer": self._tokenizer.fingerprint,
            "separator": self._tokenizer.ids.separator,
            **choices,
            **screening,
            "shard_tokens": SHARD_TOKENS,
            "shard_documents": SHARD_DOCUMENTS,
        }

    def _parts(self) -> Parts:
        return Parts(self.staging, self.names, self._tokenizer.ids.dtype)

    def _plans(self) -> list[ShardPlan]:
        plans = read_json(self.staging / STATE)["plans"]
        return [ShardPlan(split, Group(*group), *numbers) for split, group, *numbers in plans]

    def _check_complete(self, arguments: Mapping[str, Any]) -> None:
        corpus = Corpus.open(self.folder)
        refuse_other_arguments(self.folder, corpus.record["arguments"], arguments)
        if corpus.record["inputs"]["digest"] != self.digest:
            found = corpus.record["inputs"]
            raise BadConfig(
                f"{self.folder} is a complete corpus of other inputs ({found['files']} files of {found['bytes']} "
                "bytes, or read in another way); name another folder"
            )
        if self.staging.is_dir():
            shutil.rmtree(self.staging)


def _summary(tallies: Mapping[str, Tally], parts: Parts, files: Sequence[InputFile]) -> dict[str, dict[str, Any]]:
    """Per language: documents, tokens, characters, and what was dropped for which reason."""
    dropped = dict(parts.dropped)
    for language, tally in tallies.items():
        for reason, count in (
            (DUPLICATE, tally.duplicates),
            (NEAR_DUPLICATE, tally.near_duplicates),
            (BEYOND_QUOTA, tally.beyond_quota),
        ):
            if count:
                dropped[language, reason] = count
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


def _empty_before(files: Sequence[InputFile]) -> list[str]:
    """Languages of which nothing can come: all their files are empty."""
    sized = {file.language for file in files if file.bytes or file.format == "dataset"}
    return sorted({file.language for file in files if file.language is not None} - sized)


def _refuse_unknown(quotas: Mapping[str, int], files: Sequence[InputFile]) -> None:
    sources = {file.inputs.source for file in files}
    for name in quotas:
        source, _, language = name.partition("/")
        if source not in sources:
            raise BadConfig(f"quota {name!r} is of no source; the input has {', '.join(sorted(sources))}")
        languages = {file.language for file in files if (file.inputs.split, file.inputs.source) == ("train", source)}
        if language and not languages & {language, None}:
            raise BadConfig(f"quota {name} is of no file; source {source} has {', '.join(sorted(map(str, languages)))}")


def _refuse_empty(languages: Sequence[str], allowed: bool) -> None:
    if languages and not allowed:
        raise BadData(
            f"no documents of language {', '.join(languages)}: all are empty, duplicates, invalid or screened out; "
            "add some, leave the language out, or go on without it by --allow-empty-languages"
        )


def _dropped(languages: Mapping[str, Mapping[str, Any]]) -> str:
    reasons: dict[str, int] = {}
    for facts in languages.values():
        for reason, count in facts["dropped"].items():
            reasons[reason] = reasons.get(reason, 0) + count
    return ", ".join(f"{count} {reason}" for reason, count in sorted(reasons.items()))

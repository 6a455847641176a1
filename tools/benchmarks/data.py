"""Text to shards: our whole preprocessing against `datasets.map` with the same tokenizer, on one core.

Ours reads JSON lines, cleans, normalises, hashes, drops duplicates, tokenises, sets documents aside and writes hashed
shards. `datasets.map` gets the text already loaded as an Arrow table and only tokenises it (batched, through the same
folder's tokenizer.json) and writes its own Arrow file. Texts are sized by repeating documents, each repetition numbered
so that none is a duplicate.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import datasets
import transformers
from preprocess import corpus_tokenizer

from benchmarks import measure
from benchmarks.measure import Table
from megas2s.data.documents import read_documents
from megas2s.data.inputs import Inputs
from megas2s.data.preprocess import Choices, preprocess
from megas2s.tokenizer.folder import FAST
from megas2s.tokenizer.train import TokenizerSpec, train_tokenizer

SAMPLE = Path(__file__).resolve().parents[2] / "launch" / "sample_corpus"
TRAINING_CHARACTERS = 4_000_000  # of the tokenizer that is trained where none is given
MB = 1_000_000
TARGET = ">= 3"


def run(given: argparse.Namespace) -> list[Table]:
    """Speed against `datasets.map`, scaling over two workers, and peak memory by size."""
    source = _source(given)
    tokenizer = _tokenizer(given, source)
    tables = [_speed(given, source, tokenizer), _scaling(given, source, tokenizer), _memory(given, source, tokenizer)]
    shutil.rmtree(given.work / "made", ignore_errors=True)
    return tables


def _speed(given: argparse.Namespace, source: tuple[str, ...], tokenizer: Path) -> Table:
    text = _text(source, given.megabytes, given.work)
    makes = {
        "ours": partial(ours, text, tokenizer, 1, given.work),
        "datasets.map": partial(theirs, text, tokenizer, given.work),
    }
    with measure.arms(makes, one_process=given.one_process) as both:
        runs = measure.interleaved(both, rounds=given.rounds)
    counts = {name: round(timed[-1].value) for name, timed in runs.items()}
    if len(set(counts.values())) > 1:
        raise RuntimeError(f"the arms made different numbers of tokens: {counts}")
    found = measure.ratio(runs, "datasets.map", "ours")
    rows = [
        {
            "arm": name,
            "MB/s": round(_bytes(text) / MB / measure.seconds(timed), 2),
            "tokens/s": round(counts[name] / measure.seconds(timed)),
            "MB/CPU s": round(_bytes(text) / MB / measure.cpu_seconds(timed), 2),
            "tokens": counts[name],
            **(found._asdict() if name == "ours" else dict.fromkeys(found._fields)),
            "by CPU s": round(measure.cpu_seconds(runs["datasets.map"]) / measure.cpu_seconds(timed), 2),
            "target": TARGET if name == "ours" else None,
        }
        for name, timed in runs.items()
    ]
    return Table(f"{_bytes(text) / MB:.1f} MB of text on one core", rows)


def _scaling(given: argparse.Namespace, source: tuple[str, ...], tokenizer: Path) -> Table:
    text = _text(source, given.scaling_megabytes, given.work)
    makes = {f"{workers} workers": partial(ours, text, tokenizer, workers, given.work) for workers in (1, 2)}
    with measure.arms(makes, one_process=given.one_process) as both:
        runs = measure.interleaved(both, rounds=min(given.rounds, 3))
    rows = [
        {
            "arm": name,
            "MB/s": round(_bytes(text) / MB / measure.seconds(timed), 2),
            "x one worker": measure.ratio(runs, "1 workers", name).ratio,
            "cores": len(os.sched_getaffinity(0)),
        }
        for name, timed in runs.items()
    ]
    return Table(f"{_bytes(text) / MB:.1f} MB of text by workers, starting them included", rows)


def _memory(given: argparse.Namespace, source: tuple[str, ...], tokenizer: Path) -> Table:
    rows = []
    for size in [*given.memory_megabytes, *([1000.0] if given.gigabyte else [])]:
        text = _text(source, size, given.work)
        with measure.arms(
            {"ours": partial(ours, text, tokenizer, 1, given.work)}, one_process=given.one_process
        ) as one:
            peak = measure.peak_gib([one["ours"].run()], one_process=given.one_process)
        rows.append({"text, MB": round(_bytes(text) / MB, 1), "peak GiB": peak})
    return Table("peak resident memory of preprocessing with one worker", rows)


def ours(text: Path, tokenizer: Path, workers: int, work: Path) -> Callable[[], float]:
    """Preprocess `text` into a new corpus; returns its ids without separators."""
    about = corpus_tokenizer(tokenizer)
    numbers = itertools.count()

    def make() -> float:
        folder = work / "made" / f"{os.getpid()}-{workers}-{next(numbers)}"
        corpus = preprocess([Inputs(paths=(str(text),))], folder, tokenizer=about, choices=Choices(), workers=workers)
        entries = [entry for split in corpus.entries.values() for entry in split]
        shutil.rmtree(folder)
        return float(sum(entry.tokens - entry.documents for entry in entries))

    return make


def theirs(text: Path, tokenizer: Path, work: Path) -> Callable[[], float]:
    """`datasets.map` over the same text with the fast tokenizer of the same folder; returns its ids."""
    fast = transformers.PreTrainedTokenizerFast(tokenizer_file=str(tokenizer / FAST))
    cache = work / "made" / f"datasets-{os.getpid()}"
    paths = [str(path) for path in sorted(text.glob("*.jsonl"))]
    loaded = datasets.load_dataset("json", data_files=paths, split="train", cache_dir=str(cache))
    datasets.disable_progress_bars()

    def encode(batch: dict[str, list[str]]) -> dict[str, list[list[int]]]:
        encoded = fast(
            batch["text"], add_special_tokens=False, return_attention_mask=False, return_token_type_ids=False
        )
        return {"input_ids": encoded["input_ids"]}

    numbers = itertools.count()

    def make() -> float:
        target = cache / f"mapped-{next(numbers)}.arrow"
        mapped = loaded.map(
            encode,
            batched=True,
            remove_columns=loaded.column_names,
            cache_file_name=str(target),
            load_from_cache_file=False,
        )
        flat = mapped.data.column("input_ids")
        target.unlink()
        return float(sum(len(chunk.flatten()) for chunk in flat.chunks))

    return make


def _source(given: argparse.Namespace) -> tuple[str, ...]:
    """What to repeat: what is given, the development data, or the sample that comes with the code."""
    if given.input:
        return tuple(given.input)
    data = os.environ.get("MEGAS2S_DEV_DATA")
    if data:
        return (str(Path(data) / "corpus"),)
    print(
        "MEGAS2S_DEV_DATA is not set, so the sample corpus is repeated: little text, a tokenizer that knows all of it"
    )
    return (str(SAMPLE),)


def _tokenizer(given: argparse.Namespace, source: tuple[str, ...]) -> Path:
    """The tokenizer given, or one trained on a sample of the text; made once."""
    if given.tokenizer:
        return Path(given.tokenizer)
    folder: Path = given.work / f"tokenizer-{given.vocab_size}-{_name(source)}"
    if not folder.exists():
        documents = ((document.language, document.text) for document in read_documents(Inputs(paths=source)))
        spec = TokenizerSpec(vocab_size=given.vocab_size, num_threads=2, sample_characters=TRAINING_CHARACTERS)
        train_tokenizer(documents, spec, folder)
    return folder


def _text(source: tuple[str, ...], megabytes: float, work: Path) -> Path:
    """A folder of JSON lines, a file per language, of about so many MB of text; written once."""
    folder = work / f"text-{megabytes:g}MB-{_name(source)}"
    if (folder / "complete").exists():
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    written, wanted = 0, megabytes * MB
    for language, text in _repeated(source, wanted):
        with open(folder / f"{language}.jsonl", "a", encoding="utf-8") as file:
            file.write(json.dumps({"text": text}, ensure_ascii=False) + "\n")
        written += len(text.encode())
        if written >= wanted:
            break
    (folder / "complete").write_text(str(written), encoding="utf-8")
    return folder


def _repeated(source: tuple[str, ...], wanted: float) -> Iterator[tuple[str, str]]:
    """Documents of all languages, evenly thinned where less is wanted, repeated with a number where more is."""
    total = sum(len(document.text.encode()) for document in read_documents(Inputs(paths=source)))
    stride = max(1, int(total // wanted))
    for repetition in itertools.count():
        thinned = itertools.islice(read_documents(Inputs(paths=source)), repetition % stride, None, stride)
        for document in thinned:
            yield (
                document.language,
                f"{document.text} {repetition // stride}" if repetition >= stride else document.text,
            )


def _bytes(text: Path) -> int:
    return int((text / "complete").read_text(encoding="utf-8"))


def _name(source: tuple[str, ...]) -> str:
    return "-".join(Path(path).resolve().name for path in source)[:40]

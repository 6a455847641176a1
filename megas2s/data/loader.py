"""The loader: from sample numbers to the micro-batches of one rank, beginning at any step.

    step 7, rows 8, micro_batch 2, two ranks         samples 56 ... 63
    micro-batch 0        rank 0: 56 57   rank 1: 58 59
    micro-batch 1        rank 0: 60 61   rank 1: 62 63

Which samples a step holds depends on its number alone; ranks, workers and micro-batches only share them out. What
makes an example of a window (`corrupt`) is passed down by the caller: this room knows no objective.
"""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import multiprocessing.connection
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from multiprocessing.process import BaseProcess
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from megas2s.data.mixture import Mixture
from megas2s.data.windows import Unit
from megas2s.errors import LostRank, Refusal
from megas2s.labels import IGNORED
from megas2s.processes import without_ctrl_c
from megas2s.rng import generator

PREFETCHED = 4  # micro-batches that each worker prepares ahead

Example = Mapping[str, np.ndarray]  # one row per field, without the batch axis
Batch = dict[str, Tensor]
Corrupt = Callable[[np.ndarray, np.random.Generator, int], Example]  # (window, its randomness, its number); picklable


class Columns(NamedTuple):
    """The width of a batch. `full` says that every row fills it, so that no attention mask is needed."""

    source: int
    target: int  # 0 where nothing is written
    full: bool
    pad: int  # id that fills a row's end


def sample_numbers(step: int, *, rows: int, micro_batch: int, rank: int, world_size: int) -> list[range]:
    """The samples of each of a rank's micro-batches in a step of `rows` samples over all ranks."""
    if rows % (micro_batch * world_size):
        raise ValueError(f"{rows} rows do not divide into micro-batches of {micro_batch} on {world_size} ranks")
    first = range(step * rows + rank * micro_batch, (step + 1) * rows, world_size * micro_batch)
    return [range(start, start + micro_batch) for start in first]


class Samples:
    """Samples of a stage by number, as padded batches. Picklable: shards are mapped in the process that reads them."""

    def __init__(
        self,
        mixture: Mixture,
        units: Sequence[Unit],
        corrupt: Corrupt,
        columns: Columns,
        *,
        languages: Sequence[str],
        seed: int,
        stage: str,
    ) -> None:
        self.mixture = mixture
        self._windows = [unit.windows for unit in units]
        self._languages = [languages.index(unit.language) for unit in units]
        self._corrupt = corrupt
        self._columns = columns
        self._seed = seed
        self._stage = stage

    def window(self, number: int) -> np.ndarray:
        """The raw tokens of sample `number`."""
        unit, index = self.mixture[number]
        return self._windows[unit][index]

    def example(self, number: int) -> tuple[Example, int]:
        """Sample `number`, unpadded, and the place of its language in `languages`."""
        unit, index = self.mixture[number]
        rng = generator(self._seed, "corrupt", self._stage, number)
        return self._corrupt(self._windows[unit][index], rng, number), self._languages[unit]

    def batch(self, numbers: Sequence[int]) -> Batch:
        """The samples as one batch, with `language` and `sample`, (B,) each."""
        examples, languages = zip(*map(self.example, numbers), strict=True)
        return {
            **collate(examples, self._columns),
            "language": torch.from_numpy(np.array(languages)),
            "sample": torch.from_numpy(np.array(numbers)),
        }


class Loader:
    """A rank's micro-batches, step by step, prepared by `workers` processes (0: in this one).

    `wait_seconds` is the time spent so far waiting for a batch: the share of a run that its loader costs. A process
    that delivers nothing for `patience` seconds (0: it may take any time) is named and given up.
    """

    def __init__(
        self,
        batch: Callable[[Sequence[int]], Batch],
        *,
        rows: int,
        micro_batch: int,
        rank: int = 0,
        world_size: int = 1,
        workers: int = 0,
        pin_memory: bool = False,
        patience: float = 0.0,
    ) -> None:
        self._batch = batch
        self._rows = rows
        self._micro_batch = micro_batch
        self._rank = rank
        self._world_size = world_size
        self._workers = workers
        self._pin_memory = pin_memory
        self._patience = patience if workers else 0.0
        self._received = 0
        self._processes: list[BaseProcess] = []
        self.wait_seconds = 0.0

    def numbers(self, step: int) -> list[range]:
        """The samples of this rank's micro-batches in a step."""
        return sample_numbers(
            step, rows=self._rows, micro_batch=self._micro_batch, rank=self._rank, world_size=self._world_size
        )

    def steps(self, first: int, stop: int | None = None) -> Iterator[list[Batch]]:
        """The micro-batches of step `first`, of the one after it, and so on before `stop`; starts at once anywhere."""
        source: DataLoader[_Packed | Refusal] = DataLoader(
            _ByNumbers(self._batch),
            batch_size=None,
            sampler=_MicroBatches(self.numbers, first, stop),
            num_workers=self._workers,
            prefetch_factor=PREFETCHED if self._workers else None,
            pin_memory=self._pin_memory,
            timeout=self._patience,
        )
        before = multiprocessing.active_children()
        with _no_surprise(), without_ctrl_c():
            batches = iter(source)
        self._processes = [process for process in multiprocessing.active_children() if process not in before]
        self._processes.sort(key=lambda process: int(process.name.rpartition("-")[2]))  # as they were started
        self._received = 0
        try:
            for step in _steps(first, stop):
                received = [self._next(batches) for _ in self.numbers(step)]
                for refusal in received:
                    if isinstance(refusal, Refusal):
                        raise refusal
                yield [packed.unpack() for packed in received if isinstance(packed, _Packed)]
        finally:
            del batches  # ends the workers now, also where a traceback keeps this frame

    def _next(self, batches: Iterator[_Packed | Refusal]) -> _Packed | Refusal:
        started = time.perf_counter()
        try:
            batch = next(batches)
            self._received += 1
            return batch
        except (RuntimeError, OSError, EOFError) as error:
            if dead := _dead(self._processes):
                raise Refusal(
                    f"loader process {dead} died; if memory ran out, lower `workers` in the recipe or free some;"
                    " the same command continues"
                ) from error
            if "timed out" in str(error):  # DataLoader has no name for it; its processes take turns
                stalled = self._processes[self._received % len(self._processes)].pid
                raise LostRank(
                    f"loader process {stalled} has delivered no batch for {self._patience:g} s; look at the disk that "
                    "the corpus lies on, or raise watch.batch in the recipe; the same command continues"
                ) from error
            raise
        finally:
            self.wait_seconds += time.perf_counter() - started


class Field(NamedTuple):
    """How a field is padded: to which column, with what; None is the pad id."""

    column: str
    padding: int | None


FIELDS = {
    "input_ids": Field("source", None),
    "second_input_ids": Field("source", None),
    "segment_ids": Field("source", 0),
    "token_type_ids": Field("source", 0),
    "pooled": Field("source", 0),
    "encoder_labels": Field("source", IGNORED),
    "decoder_input_ids": Field("target", None),
    "decoder_segment_ids": Field("target", 0),
    "target_ids": Field("target", None),
    "pseudo_ids": Field("target", None),
    "target_spans": Field("target", 1 << 30),  # behind all others
    "labels": Field("target", IGNORED),
}
LABELS = {"labels", "encoder_labels"}
MASKS = {"input_ids": "attention_mask", "second_input_ids": "second_attention_mask"}


def collate(examples: Sequence[Example], columns: Columns) -> Batch:
    """Examples as LongTensors (B, ...), padded on the right to `columns`.

    A field that is not in FIELDS, or whose column has no width, must be as long in every example. The masks of sources
    (1 for a token, 0 for padding) are there only where rows are not full.
    """
    batch: Batch = {}
    for name in examples[0]:
        rows = [example[name] for example in examples]
        field = FIELDS.get(name)
        width = getattr(columns, field.column) if field else 0
        if field is None or not width or columns.full:
            joined = np.stack(rows)
            if width and joined.shape[1] != width:
                raise ValueError(f"{name} has {joined.shape[1]} entries, the batch has {width} columns, all full")
        else:
            joined = np.full((len(rows), width), columns.pad if field.padding is None else field.padding)
            for line, row in zip(joined, rows, strict=True):
                line[: len(row)] = row
        batch[name] = torch.from_numpy(joined)
    for name in () if columns.full else MASKS.keys() & batch.keys():
        lengths = torch.tensor([len(example[name]) for example in examples])
        batch[MASKS[name]] = (torch.arange(columns.source) < lengths.unsqueeze(1)).long()
    return batch


class _Packed:
    """A batch as one tensor: between processes each tensor costs a file descriptor and a fifth of a millisecond.

    Numbers have eight bytes each, so that whole ones and others lie side by side as bits.
    """

    def __init__(self, values: Tensor, kinds: dict[str, tuple[torch.Size, torch.dtype]]) -> None:
        self._values = values
        self._kinds = kinds

    @classmethod
    def pack(cls, batch: Batch) -> _Packed:
        """One after the other."""
        values = torch.cat([tensor.flatten().view(torch.int64) for tensor in batch.values()])
        return cls(values, {name: (tensor.shape, tensor.dtype) for name, tensor in batch.items()})

    def pin_memory(self) -> _Packed:
        """Called by DataLoader where memory is to be pinned."""
        return _Packed(self._values.pin_memory(), self._kinds)

    def unpack(self) -> Batch:
        """Views on the one tensor."""
        parts = torch.split(self._values, [shape.numel() for shape, _ in self._kinds.values()])
        kinds = zip(parts, self._kinds.items(), strict=True)
        return {name: part.view(dtype).view(shape) for part, (name, (shape, dtype)) in kinds}


class _ByNumbers(Dataset["_Packed | Refusal"]):
    """What a worker runs. A Refusal travels back as a value: re-raised by DataLoader it would be a traceback."""

    def __init__(self, batch: Callable[[Sequence[int]], Batch]) -> None:
        self._batch = batch

    def __getitem__(self, numbers: range) -> _Packed | Refusal:
        try:
            return _Packed.pack(self._batch(numbers))
        except Refusal as refusal:
            return refusal


class _MicroBatches:
    """The sample numbers of each micro-batch of each step, one after the other; what DataLoader calls a sampler."""

    def __init__(self, numbers: Callable[[int], list[range]], first: int, stop: int | None) -> None:
        self._numbers = numbers
        self._first = first
        self._stop = stop

    def __iter__(self) -> Iterator[range]:
        return itertools.chain.from_iterable(map(self._numbers, _steps(self._first, self._stop)))


def _steps(first: int, stop: int | None) -> Iterator[int]:
    return itertools.count(first) if stop is None else iter(range(first, stop))


@contextlib.contextmanager
def _no_surprise() -> Iterator[None]:
    """Keep DataLoader from installing a signal handler that raises wherever the program is when a worker dies.

    Without it the death shows at the next batch, within five seconds.
    """
    handler = signal.getsignal(signal.SIGCHLD)
    yield
    if threading.current_thread() is threading.main_thread() and handler is not None:
        signal.signal(signal.SIGCHLD, handler)


def _dead(processes: Sequence[BaseProcess]) -> str:
    """Which of the processes have ended, and how: "4711 (signal 9)"; nothing where all live."""
    ended = multiprocessing.connection.wait([process.sentinel for process in processes], timeout=1.0)
    codes = {}
    for process in processes:
        if process.sentinel in ended:
            process.join()  # its files close a moment before it can be asked how it ended
            codes[process.pid] = process.exitcode or 0
    return ", ".join(f"{pid} ({f'signal {-code}' if code < 0 else f'exit code {code}'})" for pid, code in codes.items())

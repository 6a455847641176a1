"""The loader in one process: sampling, the window, noise and collation, in raw tokens of text per second.

The other side is transformers' DataCollatorForLanguageModeling on the same windows, already in memory and ending in
`</s>`: as a list of tensors, the fastest input it takes, and as the dicts of lists that `datasets` hands out.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
import tokenizers
import torch
import transformers

from benchmarks import measure, synthetic
from benchmarks.measure import Table
from megas2s.data.loader import Loader
from megas2s.data.mixture import Sampling
from megas2s.labels import IGNORED
from megas2s.objectives import Objective
from megas2s.objectives.denoising import Denoising
from megas2s.objectives.mlm import MLM
from megas2s.tokenizer.vocab import stand_in
from megas2s.train.assemble import StageData, stage_data
from megas2s.train.schedule import Schedule
from megas2s.train.stage import Stage

VOCABULARY = 32_768
OBJECTIVES: dict[str, Objective] = {"mlm": MLM(), "denoising": Denoising()}
TARGET, COLLATOR_TARGET = ">= 2M tokens/s", ">= 10 x the collator"


def run(given: argparse.Namespace) -> list[Table]:
    """Ours in process and through one worker process, and the collator, all in turns."""
    synthetic.corpus(given.work, stand_in(VOCABULARY))  # written before any arm reads it
    sizes = {"work": given.work, "length": given.length, "rows": given.rows, "batches": given.batches}
    makes = {f"{name}, in process": partial(_ours, name, 0, **sizes) for name in OBJECTIVES}
    makes |= {f"{name}, one worker": partial(_ours, name, 1, **sizes) for name in OBJECTIVES}
    collators = {"collator, tensors": False, "collator, lists": True}
    makes |= {name: partial(_theirs, lists, **sizes) for name, lists in collators.items()}
    with measure.arms(makes, one_process=given.one_process) as all_arms:
        runs = measure.interleaved(all_arms, rounds=given.rounds)
    rows = []
    for name, timed in runs.items():
        ours, alone = name not in collators, not name.endswith("worker")
        rows.append(
            {
                "arm": name,
                "tokens/s": round(timed[-1].value / measure.seconds(timed)),
                "tokens/CPU s": round(timed[-1].value / measure.cpu_seconds(timed)) if alone else None,
                "target": f"{TARGET}, {COLLATOR_TARGET}" if ours else "",
                **{f"x {other}": measure.ratio(runs, other, name).ratio if ours else None for other in collators},
                **{f"CPU x {other}": _by_cpu(runs[other], timed) if ours and alone else None for other in collators},
            }
        )
    masked = _masked_shares(**sizes)
    title = f"loader, rows of {given.length}, micro-batches of {given.rows}, one core"
    return [Table(title, rows), Table("share of columns that carry a label: the same work", [masked])]


def stage(name: str, *, length: int, rows: int) -> Stage:
    """A stage of the recipe's kind for an objective."""
    return Stage(
        name=name,
        objective=OBJECTIVES[name],
        length=length,
        batch_tokens=length * rows,
        steps=1,
        schedule=Schedule(lr=1.0),
    )


def data(name: str, *, work: Path, length: int, rows: int) -> StageData:
    """The samples of such a stage over the synthetic corpus."""
    vocabulary = stand_in(VOCABULARY)
    return stage_data(
        stage(name, length=length, rows=rows), synthetic.corpus(work, vocabulary), vocabulary, Sampling(), seed=0
    )


def _by_cpu(theirs: list[measure.Run], ours: list[measure.Run]) -> float:
    """How many times their CPU time ours goes into."""
    return round(measure.cpu_seconds(theirs) / measure.cpu_seconds(ours), 1)


def _ours(name: str, workers: int, *, work: Path, length: int, rows: int, batches: int) -> Callable[[], float]:
    """`batches` micro-batches through the real loader, each run where the one before it stopped."""
    torch.set_num_threads(1)
    found = data(name, work=work, length=length, rows=rows)
    loader = Loader(found.samples.batch, rows=rows, micro_batch=rows, workers=workers)
    steps = loader.steps(0)

    def take() -> float:
        for _ in itertools.islice(steps, batches):
            pass
        return float(batches * rows * found.window)

    return take


def _theirs(lists: bool, *, work: Path, length: int, rows: int, batches: int) -> Callable[[], float]:
    """The collator on the same windows."""
    torch.set_num_threads(1)
    collate = _collator()
    prepared = list(_windows(lists, work=work, length=length, rows=rows, batches=batches))

    def take() -> float:
        for batch in prepared:
            collate(batch)
        return float(batches * rows * (length - 1))

    return take


def _windows(lists: bool, *, work: Path, length: int, rows: int, batches: int) -> Iterator[list[object]]:
    """Micro-batches of the windows that our MLM reads, `</s>` appended."""
    found, eos = data("mlm", work=work, length=length, rows=rows), stand_in(VOCABULARY).eos
    for first in range(0, batches * rows, rows):
        windows = [np.append(found.samples.window(n).astype(np.int64), eos) for n in range(first, first + rows)]
        if lists:
            yield [{"input_ids": window.tolist()} for window in windows]
        else:
            yield [torch.from_numpy(window) for window in windows]


def _collator() -> transformers.DataCollatorForLanguageModeling:
    special = {0: "<s>", 1: "<pad>", 2: "</s>", 3: "<unk>", 4: "<mask>"}
    words = {special.get(number, f"t{number}"): number for number in range(VOCABULARY)}
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="<unk>")),
        bos_token="<s>",
        pad_token="<pad>",
        eos_token="</s>",
        unk_token="<unk>",
        mask_token="<mask>",
    )
    return transformers.DataCollatorForLanguageModeling(fast, mlm_probability=0.15)


def _masked_shares(*, work: Path, length: int, rows: int, batches: int) -> dict[str, object]:
    """Labelled columns of one micro-batch on either side: ours exactly, theirs in expectation."""
    (batch,) = next(
        Loader(data("mlm", work=work, length=length, rows=rows).samples.batch, rows=rows, micro_batch=rows).steps(0)
    )
    theirs = _collator()(next(_windows(False, work=work, length=length, rows=rows, batches=1)))
    labelled = [int((side["labels"] != IGNORED).sum()) / (rows * length) for side in (batch, theirs)]
    return {"ours": round(labelled[0], 4), "collator": round(labelled[1], 4)}

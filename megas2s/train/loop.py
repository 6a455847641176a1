"""The loop: a list of plain sentences. What happens in a step is what is written here, in that order."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from megas2s import dist
from megas2s.engine.base import Batch, Engine, StepResult
from megas2s.labels import IGNORED
from megas2s.models.config import ModelConfig
from megas2s.train import best, checkpoint, spent, stragglers
from megas2s.train.metrics import MetricsLog, Scalars, console_line, losses_from
from megas2s.train.samples import reconstructions
from megas2s.train.schedule import Schedule
from megas2s.train.stage import Checkpoints, Log
from megas2s.train.state import TrainState, every
from megas2s.train.watchdog import Watchdog


@dataclasses.dataclass(frozen=True)
class Training:
    """One stage, ready to run: everything the loop needs, and nothing it has to look up."""

    stage: str
    folder: Path
    steps: int
    schedule: Schedule
    log: Log
    checkpoints: Checkpoints
    engine: Engine
    metrics: MetricsLog
    config: ModelConfig
    metadata: Mapping[str, str]
    binding: Mapping[str, str]
    languages: Sequence[str]
    batches_from: Callable[[int], Iterator[Sequence[Batch]]]  # this rank's micro-batches, from any step
    largest: Callable[[], Sequence[Batch]] | None  # micro-batches that no others exceed; None where all are alike
    waited: Callable[[], float]  # seconds spent waiting for batches so far
    heldout: Sequence[Batch]  # this rank's held-out batches, the same number on every rank
    measures: Callable[[Engine], Scalars]  # what is found out beside held-out losses; collective
    decode: Callable[[np.ndarray], str]  # ids to text, special tokens written by name
    tokens_per_step: int  # raw tokens over all ranks
    flops_per_step: float  # over all ranks
    peak_flops: float | None  # of one rank's device
    dog: Watchdog
    clock: spent.Clock
    hosts: Sequence[str]  # of each rank
    straggler: float  # times the median rank's own time in a step, from which a rank is named; 0: none is
    best: best.Best | None = None  # which weights it ends with; the last ones where absent


def train(run: Training, state: TrainState, saved: checkpoint.Saved | None, *, trial: bool) -> TrainState:
    """Run a stage from `state` to its end, write its weights and return its last state."""
    if trial:
        try_largest(run, state)
    if saved is not None:
        run.engine.load_moments(saved.optimizer.tensor, saved.counters)
    window = _Window(run, state)
    kept = best.tell(run.folder) if run.best is not None else None
    for batches in run.batches_from(state.step):
        run.dog.enter("step", state.step + 1)
        window.begin_step()
        lr = run.schedule.at(state.step, steps=run.steps)
        result = run.engine.train_step(batches, step=state.step, lr=lr)
        state = state.after(tokens=run.tokens_per_step, skipped=result.skipped)
        window.add(result)
        saving = every(run.checkpoints.every, state.step) and state.step < run.steps
        # No report reaches back over a checkpoint: a run that resumes there could not repeat it.
        if every(run.log.every, state.step) or saving or state.step == run.steps:
            window.report(state, lr)
        ends = state.step == run.steps
        if every(run.log.evaluate_every, state.step) or ends:
            found = evaluate(run, state)
            if run.best is not None:
                kept = keep_best(run, state, kept, found)
                ends = ends or gave_up(run, state, kept)
        if every(run.log.samples_every, state.step) or state.step == run.steps:
            show_samples(run, state)
        if saving:
            save(run, state, needed=saved.needed if saved is not None else None)
        if ends:
            window.report(state, lr)
            break
        window.go_on()
    if kept is not None:
        checkpoint.promote(run.folder / best.FOLDER, run.folder)
        run.metrics.say(f"{run.stage} ends with the weights of step {kept.step}, the best ones")
    else:
        folder = run.folder / checkpoint.WEIGHTS
        checkpoint.save_weights_alone(folder, run.engine, state, run.config, run.metadata, binding=run.binding)
    _retain(run, state, needed=None)
    return state


def try_largest(run: Training, state: TrainState) -> None:
    """One whole step that leaves no trace, so that a model too large fails in the first minute.

    With a learning rate of 0 AdamW changes no weight, and the moments it leaves are taken back. Where batches have
    fixed shapes the first one, with a label in every slot, sends as many positions through the head as any can.
    """
    first = next(iter(run.batches_from(state.step))) if run.largest is None else run.largest()
    batches = [_fully_labelled(batch) for batch in first]
    untouched = run.engine.counters()
    run.engine.train_step(batches, step=state.step, lr=0.0)
    if run.heldout:
        run.engine.evaluate(run.heldout[:1])
    run.engine.load_moments(None, untouched)


def _fully_labelled(batch: Batch) -> Batch:
    """The batch with a token to predict in every slot: where rows are padded, the head skips ignored ones."""
    if "labels" not in batch:  # a number or tags to learn, which skip no work
        return batch
    labels = batch["labels"]
    return {**batch, "labels": labels.masked_fill(labels == IGNORED, 0)}


def keep_best(run: Training, state: TrainState, kept: best.Mark | None, found: Scalars) -> best.Mark:
    """The better of what is kept and what the engine has now, which is then kept; collective."""
    assert run.best is not None, "who asks has a wish"
    now = best.Mark(state.step, best.value_of(run.best, found))
    if kept is not None and now.value <= kept.value:
        return kept
    facts = {"step": now.step, "value": now.value, "by": run.best.by}
    checkpoint.save_weights_alone(
        run.folder / best.FOLDER, run.engine, state, run.config, run.metadata, binding=run.binding, facts=facts
    )
    return now


def gave_up(run: Training, state: TrainState, kept: best.Mark) -> bool:
    """Whether nothing better has come for as many evaluations as `patience` allows."""
    assert run.best is not None, "who asks has a wish"
    waited = (state.step - kept.step) / run.log.evaluate_every
    return 0 < run.best.patience <= waited


def evaluate(run: Training, state: TrainState) -> Scalars:
    """Held-out losses by part and language, and what else is found out; collective."""
    if not run.log.evaluate_every or not run.heldout:
        return {}
    run.dog.enter("evaluate", state.step)
    started = time.perf_counter()
    sums = dist.sum_over_ranks(run.engine.evaluate(run.heldout))
    values = losses_from(sums, run.engine.part_weights(), run.languages)
    measured = run.measures(run.engine)
    run.metrics.scalars("heldout", state.step, values | measured)
    found = [f"{name.removeprefix('measure/')} {value:.4f}" for name, value in measured.items() if name.count("/") == 1]
    run.metrics.say(
        " | ".join([f"{run.stage} {state.step}/{run.steps}", f"held-out loss {values['loss']:.4f}", *found])
    )
    run.clock.other("evaluate", state.step, time.perf_counter() - started)
    return values | measured


def show_samples(run: Training, state: TrainState) -> None:
    """What the model makes of a few held-out examples: a text file, and the same text in TensorBoard."""
    if not run.log.samples_every or not run.heldout:
        return
    text = reconstructions(run.engine, run.heldout, run.decode)
    run.metrics.text("reconstructions", state.step, text)


def save(run: Training, state: TrainState, *, needed: Path | None) -> None:
    """Publish a checkpoint, then delete those that need not stay; `needed` must."""
    run.dog.enter("save", state.step)
    started = time.perf_counter()
    folder = checkpoint.step_folder(run.folder, state.step)
    checkpoint.save(folder, run.engine, state, run.config, run.metadata, binding=run.binding)
    _retain(run, state, needed=needed)
    run.clock.other("save", state.step, time.perf_counter() - started)
    run.metrics.show("time", state.step, spent.shares(run.clock.summarise()))


def _retain(run: Training, state: TrainState, *, needed: Path | None) -> None:
    kept = run.checkpoints
    checkpoint.retain(run.folder, step=state.step, keep_last=kept.keep_last, keep_every=kept.keep_every, needed=needed)


class _Window:
    """The steps since the last report: their losses, and how long they took, the wait for their batches included."""

    def __init__(self, run: Training, state: TrainState) -> None:
        self._run = run
        self._begin(state)
        self.go_on()

    def _begin(self, state: TrainState) -> None:
        self._sums: Tensor | None = None
        self._norm = 0.0
        self._from = state
        self._seconds = self._own = 0.0
        self._waited = self._run.waited()

    def go_on(self) -> None:
        """Start the clock of the next step; an evaluation or a save since the last one is not counted."""
        self._started = time.perf_counter()

    def begin_step(self) -> None:
        """The batches of the next step are there."""
        self._own += time.perf_counter() - self._started

    def add(self, result: StepResult) -> None:
        """Count one step in."""
        self._seconds += time.perf_counter() - self._started
        self._own += result.own_seconds
        self._sums = result.sums if self._sums is None else self._sums + result.sums
        self._norm = result.grad_norm

    def report(self, state: TrainState, lr: float) -> None:
        """Report the steps since the last time, where there are any, and begin again."""
        if self._sums is None:
            return
        run = self._run
        values = losses_from(dist.sum_over_ranks(self._sums), run.engine.part_weights(), run.languages)
        steps = state.step - self._from.step
        seconds = self._seconds
        flops = run.flops_per_step * steps / seconds
        world = dist.place().world_size
        values |= {
            "lr": lr,
            "grad_norm": self._norm,
            "tokens": float(state.tokens),
            "tokens_per_second": run.tokens_per_step * steps / seconds,
            "tflops": flops / 1e12,
            "memory_gib": _memory_gib(),
            "data_wait": min(1.0, (run.waited() - self._waited) / seconds),
            "skipped": float(state.skipped),
            "eta_seconds": (run.steps - state.step) * seconds / steps,
        }
        if run.peak_flops is not None:
            values["mfu"] = flops / world / run.peak_flops
        run.metrics.scalars("train", state.step, values)
        run.metrics.say(console_line(run.stage, state.step, run.steps, values))
        run.clock.steps(self._from.step + 1, state.step, seconds=seconds, waited=run.waited() - self._waited)
        if run.straggler and world > 1:
            self._name_stragglers(seconds / steps, steps)
        self._begin(state)

    def _name_stragglers(self, step: float, steps: int) -> None:
        own, factor = self._own / steps, self._run.straggler
        for line in stragglers.sentences(own, hosts=self._run.hosts, factor=factor, step=step, steps=steps):
            self._run.metrics.say(line)


def _memory_gib() -> float:
    """Peak memory of this rank's GPU, or the peak resident memory of the process."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 2**30
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20

"""A session: one phase of training, checked and read, and how it is launched. Pretraining and fine-tuning end here.

    train_session(session, saved_step=0)     engine, loader, log and loop, to the weights that it ends with

Every rank calls it in step. Rank 0 has found before what there is to go on from.
"""

from __future__ import annotations

import dataclasses
import logging
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from megas2s import dist, files
from megas2s.data.loader import Batch, Loader
from megas2s.engine import EngineSpec, make_engine
from megas2s.engine.base import Engine, Losses, Precision, Profile, Setup
from megas2s.engine.optim import AdamW, Depths
from megas2s.models.config import ModelConfig
from megas2s.models.freezing import freeze, frozen_names
from megas2s.models.init import first_values
from megas2s.models.parameters import ALL, SomeValues
from megas2s.models.parts import Cut, Span, construct_part
from megas2s.models.transformer import Network, construct
from megas2s.rng import torch_seed
from megas2s.train import agree, checkpoint, lock, record
from megas2s.train.best import Best
from megas2s.train.ledger import peak_flops
from megas2s.train.loop import Training, train
from megas2s.train.metrics import MetricsLog, Scalars
from megas2s.train.schedule import Schedule
from megas2s.train.spent import Clock
from megas2s.train.stage import Checkpoints, Log
from megas2s.train.state import TrainState
from megas2s.train.watchdog import Watch, Watchdog

log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Session:
    """All that a launch must know. Callables are called once, when their turn comes."""

    run: Path
    stage: str
    seed: int
    workers: int
    trial_step: bool
    watch: Watch
    log: Log
    checkpoints: Checkpoints
    config: ModelConfig
    freeze: tuple[str, ...]
    frozen_dropout: bool
    activation_checkpointing: bool
    compile: bool
    losses: Losses
    optimizer: AdamW
    precision: Precision
    engine: EngineSpec
    spans: Sequence[Span]  # of the engine's parts, where it is a pipeline
    schedule: Schedule
    steps: int
    rows: int  # of a step, over all ranks
    micro_batch: int
    batch: Callable[[Sequence[int]], Batch]  # the samples of these numbers
    largest: Callable[[], Sequence[Batch]] | None = None  # micro-batches that no others exceed, where shapes differ
    languages: Sequence[str]
    heldout: Callable[[], list[Batch]]  # this rank's, the same number on every rank
    measures: Callable[[Engine], Scalars]  # what is found out beside held-out losses; collective
    decode: Callable[[np.ndarray], str]
    start: Path | None  # where the weights lie that it begins with
    initial: Callable[[], SomeValues]  # and how each parameter begins
    begin: Callable[[], None]  # what rank 0 checks and writes before anything trains
    look: Sequence[str]  # what every rank must see alike, as phrases
    announcement: Callable[[TrainState], Sequence[str]]
    binding: Mapping[str, str]
    metadata: Mapping[str, str]
    tokens_per_step: int
    flops_per_step: float
    best: Best | None = None  # which weights it ends with

    @property
    def folder(self) -> Path:
        """Where checkpoints and weights of this phase lie."""
        return self.run / self.stage


def train_session(session: Session, *, saved_step: int) -> None:
    """Train to the end, from the checkpoint of `saved_step` or, where that is 0, from the beginning; collective."""
    start = checkpoint.step_folder(session.folder, saved_step) if saved_step else session.start
    agree.check_same(lambda: _look(session, start))
    saved = checkpoint.open_saved(start) if saved_step and start is not None else None
    if dist.is_main():
        session.begin()
    state = saved.state if saved is not None else TrainState()
    if saved is not None:
        checkpoint.check_shapes(saved, session.config)
        _tell_of_other_code(saved.folder)
    clock = Clock(session.run, session.stage, state.step)
    dog = Watchdog(session.run, session.watch, launch=agree.told(f"{time.time_ns()}"))
    try:
        _train(session, saved, state, clock, dog)
    finally:
        dog.close()
    log.info("stage %s is complete: %s", session.stage, session.folder / checkpoint.WEIGHTS)


def _train(session: Session, saved: checkpoint.Saved | None, state: TrainState, clock: Clock, dog: Watchdog) -> None:
    """From a state to the end, watched and timed."""
    for line in session.announcement(state):
        log.info("%s", line)
    engine = make_engine(session.engine, setup(session, saved.weights.tensor if saved else session.initial()))
    hosts = dist.gather_texts(socket.gethostname())
    record.append(session.run, session.seed, hosts)
    place = dist.data_place()
    loader = Loader(
        session.batch,
        rows=session.rows,
        micro_batch=session.micro_batch,
        rank=place.rank,
        world_size=place.world_size,
        workers=session.workers,
        pin_memory=torch.cuda.is_available(),
        patience=session.watch.batch,
    )
    metrics = MetricsLog(session.run, session.stage, resumed_at=state.step, tensorboard=session.log.tensorboard)
    training = Training(
        stage=session.stage,
        folder=session.folder,
        steps=session.steps,
        schedule=session.schedule,
        log=session.log,
        checkpoints=session.checkpoints,
        engine=engine,
        metrics=metrics,
        config=session.config,
        metadata=session.metadata,
        binding=session.binding,
        languages=session.languages,
        batches_from=lambda step: loader.steps(step, session.steps),
        largest=session.largest,
        waited=lambda: loader.wait_seconds,
        heldout=session.heldout(),
        measures=session.measures,
        decode=session.decode,
        tokens_per_step=session.tokens_per_step,
        flops_per_step=session.flops_per_step,
        peak_flops=_peak(session.precision),
        dog=dog,
        clock=clock,
        hosts=hosts,
        straggler=session.watch.straggler,
        best=session.best,
    )
    train(training, state, saved, trial=session.trial_step)
    clock.summarise()
    metrics.close()
    engine.close()


def setup(session: Session, initial: SomeValues) -> Setup:
    """What an engine needs of a session whose weights begin as `initial` says, at random where it says nothing."""
    fresh = first_values(session.config, torch_seed(session.seed, "init", session.stage))

    def begun(name: str, rows: slice = ALL) -> Tensor:
        carried = initial(name, rows)
        return fresh(name, rows) if carried is None else carried

    def built(span: Span | None = None) -> Network:
        model = construct(session.config) if span is None else construct_part(session.config, span)
        model.frozen_dropout = session.frozen_dropout
        freeze(model, session.freeze)
        model.checkpoint_layers(session.activation_checkpointing)
        if session.compile:
            model.compile_layers()
        return model

    frozen = frozenset(frozen_names(session.config, session.freeze))
    return Setup(
        build=built,
        initial=begun,
        losses=session.losses,
        optimizer=session.optimizer,
        precision=session.precision,
        micro_batch=session.micro_batch,
        micro_batches=session.rows // (session.micro_batch * dist.data_place().world_size),
        depths=Depths(session.config.num_encoder_layers, session.config.num_decoder_layers),
        cut=Cut(session.config, frozen, tuple(session.spans)) if session.spans else None,
        profile=Profile(session.log.profile, session.run / "profile", session.stage) if session.log.profile else None,
        languages=len(session.languages),
        dropout_seed=lambda step, index, rank: torch_seed(session.seed, "dropout", session.stage, step, index, rank),
    )


def _look(session: Session, start: Path | None) -> list[str]:
    """What this rank sees of all that every rank must see alike."""
    found = checkpoint.digest(start) if start is not None else None
    return [
        record.versions(),
        f"the run folder {session.run} in use by {lock.held_by(session.run)}",
        *session.look,
        f"{start} ({found})" if found is not None else f"nothing at {start}",
    ]


def _tell_of_other_code(folder: Path) -> None:
    made, now = files.read_manifest(folder).get("git", "unknown"), record.git_revision()
    if made != now:
        log.warning("%s was written by the code at %s, and goes on with that at %s", folder, made, now)


def _peak(precision: Precision) -> float | None:
    """FLOP/s that MFU is a share of. A device's table entry is its peak in 16 bits, so there is none for fp32."""
    device = dist.device()
    if device.type != "cuda" or precision == "fp32":
        return None
    return peak_flops(torch.cuda.get_device_name(device))

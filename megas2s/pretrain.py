"""Pretraining: the stages of a recipe, one after another, each a run of its own.

    pretrain(recipe)        trains the first stage that is not complete; says whether another one is left

The same call after any interruption skips complete stages and resumes the current one. A stage hands over a file:
its published weights. The caller starts every stage in a fresh process (`launch/pretrain.py` re-executes itself),
because engines leave memory behind.
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from megas2s import dist, files
from megas2s.data.corpus import Corpus, check_sizes, verify_changed
from megas2s.data.heldout import heldout_batches, heldout_rows
from megas2s.data.loader import Batch, Loader
from megas2s.data.windows import units
from megas2s.engine import join, make_engine
from megas2s.engine.base import Precision, Setup
from megas2s.models.freezing import freeze
from megas2s.models.transformer import Model, build
from megas2s.models.weights import verify_weights
from megas2s.prepare import (
    Prepared,
    announcement,
    bound,
    flops_per_step,
    open_corpus,
    prepare,
    start_folder,
    starting_weights,
)
from megas2s.recipe import Recipe, dump_recipe
from megas2s.rng import torch_seed
from megas2s.tokenizer.load import Tokenizer
from megas2s.train import agree, checkpoint, lock, record
from megas2s.train.assemble import Corruption
from megas2s.train.ledger import peak_flops
from megas2s.train.loop import Training, train
from megas2s.train.metrics import MetricsLog
from megas2s.train.state import TrainState

log = logging.getLogger(__name__)

VERIFIED = "verified.json"  # in the run folder: which shards have been read and hashed, and when they last changed


def pretrain(recipe: Recipe) -> bool:
    """Train the first incomplete stage to its end. True when another stage is left after it; collective."""
    place = dist.place()
    recipe.check_ranks(place.world_size)
    corpus, tokenizer = open_corpus(recipe)
    prepared = [
        prepare(recipe, stage, corpus, tokenizer.vocabulary, world_size=place.world_size) for stage in recipe.stages
    ]
    run = Path(recipe.run)
    record.log_to(run)
    if dist.is_main():
        lock.hold(run)
    join()
    text = json.dumps(_find_next(recipe, prepared, corpus)) if dist.is_main() else ""
    following = Next(*json.loads(agree.told(text)))
    if not following.left:
        log.info("every stage is complete; weights lie in %s/<stage>/weights", run)
        return False
    _train_stage(recipe, prepared[following.stage], corpus, tokenizer, saved_step=following.step)
    return following.left > 1


class Next(NamedTuple):
    """What is trained next. Rank 0 finds it and tells the others."""

    left: int  # stages that are not complete
    stage: int = 0  # number of the first of them in the recipe
    step: int = 0  # of the checkpoint that it goes on from; 0 begins it


def _find_next(recipe: Recipe, prepared: Sequence[Prepared], corpus: Corpus) -> Next:
    """Find out how far the run has come, and verify what it goes on from; all of it must be of this recipe."""
    left = []
    for number, one in enumerate(prepared):
        if checkpoint.is_complete(recipe.folder(one.stage)):
            checkpoint.check_complete(recipe.folder(one.stage), bound(recipe, one, corpus))
        else:
            left.append(number)
    if not left:
        return Next(0)
    one = prepared[left[0]]
    saved = checkpoint.newest(recipe.folder(one.stage))
    if saved is not None:
        checkpoint.check_binding(saved, bound(recipe, one, corpus))
    elif (start := start_folder(recipe, one.stage)) is not None:
        verify_weights(start)
    return Next(len(left), left[0], saved.state.step if saved is not None else 0)


def _look(recipe: Recipe, corpus: Corpus, start: Path | None) -> list[str]:
    """What this rank sees of all that every rank must see alike."""
    found = checkpoint.digest(start) if start is not None else None
    return [
        f"the run folder {recipe.run} in use by {lock.held_by(Path(recipe.run))}",
        f"the recipe {hashlib.sha256(dump_recipe(recipe).encode()).hexdigest()[:12]}",
        f"the corpus {corpus.digest}",
        f"{start} ({found})" if found is not None else f"nothing at {start}",
    ]


def _train_stage(recipe: Recipe, prepared: Prepared, corpus: Corpus, tokenizer: Tokenizer, *, saved_step: int) -> None:
    stage, folder = prepared.stage, recipe.folder(prepared.stage)
    binding = bound(recipe, prepared, corpus)
    start = checkpoint.step_folder(folder, saved_step) if saved_step else start_folder(recipe, stage)
    agree.check_same(lambda: _look(recipe, corpus, start))
    saved = checkpoint.open_saved(start) if saved_step and start is not None else None
    if dist.is_main():
        _begin(recipe, corpus)
    state = saved.state if saved is not None else TrainState()
    for line in announcement(prepared, state):
        log.info("%s", line)
    initial = saved.weights.tensor if saved is not None else starting_weights(recipe, prepared)
    engine = make_engine(stage.engine, _setup(recipe, prepared, corpus, initial))
    record.append(Path(recipe.run), recipe.seed)
    place = dist.place()
    loader = Loader(
        prepared.data.samples.batch,
        rows=stage.rows,
        micro_batch=prepared.micro_batch,
        rank=place.rank,
        world_size=place.world_size,
        workers=recipe.workers,
        pin_memory=torch.cuda.is_available(),
    )
    metrics = MetricsLog(Path(recipe.run), stage.name, resumed_at=state.step, tensorboard=recipe.log.tensorboard)
    training = Training(
        stage=stage.name,
        folder=folder,
        steps=stage.total_steps,
        schedule=stage.schedule,
        log=recipe.log,
        checkpoints=recipe.checkpoints,
        engine=engine,
        metrics=metrics,
        config=prepared.config,
        metadata=_metadata(recipe, prepared, corpus),
        binding=binding,
        languages=corpus.languages,
        batches_from=lambda step: loader.steps(step, stage.total_steps),
        waited=lambda: loader.wait_seconds,
        heldout=_heldout(recipe, prepared, corpus),
        decode=functools.partial(tokenizer.decode, specials=True),
        tokens_per_step=stage.rows * prepared.data.window,
        flops_per_step=flops_per_step(prepared),
        peak_flops=_peak(stage.precision),
    )
    train(training, state, saved, trial=recipe.trial_step)
    metrics.close()
    engine.close()
    log.info("stage %s is complete: %s", stage.name, folder / "weights")


def _setup(recipe: Recipe, prepared: Prepared, corpus: Corpus, initial: Callable[[str], Tensor | None]) -> Setup:
    stage = prepared.stage

    def construct() -> Model:
        model = build(prepared.config)
        model.frozen_dropout = stage.frozen_dropout
        freeze(model, stage.freeze)
        model.checkpoint_layers(stage.activation_checkpointing)
        if stage.compile:
            model.compile_layers()
        return model

    return Setup(
        build=construct,
        initial=initial,
        losses=stage.objective,
        optimizer=stage.optimizer,
        precision=stage.precision,
        micro_batch=prepared.micro_batch,
        micro_batches=stage.rows // (prepared.micro_batch * dist.place().world_size),
        languages=len(corpus.languages),
        init_seed=torch_seed(recipe.seed, "init", stage.name),
        dropout_seed=lambda step, index, rank: torch_seed(recipe.seed, "dropout", stage.name, step, index, rank),
    )


def _metadata(recipe: Recipe, prepared: Prepared, corpus: Corpus) -> dict[str, str]:
    """What is written beside weights: enough to say where they come from and which tokenizer they need."""
    return {
        "run": Path(recipe.run).name,
        "stage": prepared.stage.name,
        "objective": prepared.stage.objective.name,
        "tokenizer": corpus.fingerprint,
        "corpus": corpus.digest,
        "languages": " ".join(corpus.languages),
    }


def _heldout(recipe: Recipe, prepared: Prepared, corpus: Corpus) -> list[Batch]:
    """This rank's held-out batches; empty where the corpus has no held-out split or none is asked for."""
    if not recipe.log.heldout_rows or not corpus.shards("heldout"):
        return []
    data, place = prepared.data, dist.place()
    rows = heldout_rows(
        units(corpus.shards("heldout"), data.window),
        Corruption(prepared.stage.objective, data.shape),
        languages=corpus.languages,
        rows_per_language=recipe.log.heldout_rows,
        seed=recipe.seed,
    )
    return heldout_batches(
        rows, data.loader_columns, micro_batch=prepared.micro_batch, rank=place.rank, world_size=place.world_size
    )


def _peak(precision: Precision) -> float | None:
    """FLOP/s that MFU is a share of. A device's table entry is its peak in 16 bits, so there is none for fp32."""
    device = dist.device()
    if device.type != "cuda" or precision == "fp32":
        return None
    return peak_flops(torch.cuda.get_device_name(device))


def _begin(recipe: Recipe, corpus: Corpus) -> None:
    """Check the shards, then write down what runs in the run folder. Nothing is written over before all is checked."""
    run = Path(recipe.run)
    check_sizes(corpus)
    if recipe.verify_corpus:
        verify_changed(corpus, run / VERIFIED)
    files.write_text(run / "recipe.yaml", dump_recipe(recipe))
    if not (run / "tokenizer").exists():  # what the weights need besides themselves, should the corpus move
        files.copy_folder(corpus.tokenizer_folder, run / "tokenizer")

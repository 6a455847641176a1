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
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from megas2s import dist, files
from megas2s.data.corpus import Corpus, check_sizes, verify_changed
from megas2s.data.heldout import heldout_batches, heldout_rows
from megas2s.data.loader import Batch
from megas2s.data.windows import units
from megas2s.engine import join, pipe_stages
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
from megas2s.session import Session, train_session
from megas2s.tokenizer.load import Tokenizer
from megas2s.train import agree, checkpoint, lock, record
from megas2s.train.assemble import Corruption

log = logging.getLogger(__name__)

VERIFIED = "verified.json"  # in the run folder: which shards have been read and hashed, and when they last changed


def pretrain(recipe: Recipe, *, allowed: Sequence[str] = ()) -> bool:
    """Train the first incomplete stage to its end. True when another stage is left after it; collective.

    What is there must be of this recipe, but for keys that match a pattern of `allowed` (see `train.binding`).
    """
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
    join(recipe.patience)
    text = json.dumps(_find_next(recipe, prepared, corpus, allowed)) if dist.is_main() else ""
    following = Next(*json.loads(agree.told(text)))
    if not following.left:
        log.info("every stage is complete; weights lie in %s/<stage>/weights", run)
        return False
    one = prepared[following.stage]
    dist.lay_out(pipe_stages(one.stage.engine))
    train_session(session_of(recipe, one, corpus, tokenizer), saved_step=following.step)
    return following.left > 1


class Next(NamedTuple):
    """What is trained next. Rank 0 finds it and tells the others."""

    left: int  # stages that are not complete
    stage: int = 0  # number of the first of them in the recipe
    step: int = 0  # of the checkpoint that it goes on from; 0 begins it


def _find_next(recipe: Recipe, prepared: Sequence[Prepared], corpus: Corpus, allowed: Sequence[str]) -> Next:
    """Find out how far the run has come, and verify what it goes on from; all of it must be of this recipe."""
    left = []
    for number, one in enumerate(prepared):
        if checkpoint.is_complete(recipe.folder(one.stage)):
            checkpoint.check_complete(recipe.folder(one.stage), bound(recipe, one, corpus), allowed)
        else:
            left.append(number)
    if not left:
        return Next(0)
    one = prepared[left[0]]
    saved = checkpoint.newest(recipe.folder(one.stage))
    if saved is not None:
        checkpoint.check_binding(saved, bound(recipe, one, corpus), allowed)
    elif (start := start_folder(recipe, one.stage)) is not None:
        verify_weights(start)
    return Next(len(left), left[0], saved.state.step if saved is not None else 0)


def session_of(recipe: Recipe, prepared: Prepared, corpus: Corpus, tokenizer: Tokenizer) -> Session:
    """A stage as it is launched."""
    stage = prepared.stage
    return Session(
        run=Path(recipe.run),
        stage=stage.name,
        seed=recipe.seed,
        workers=recipe.workers,
        trial_step=recipe.trial_step,
        watch=recipe.watch,
        log=recipe.log,
        checkpoints=recipe.checkpoints,
        config=prepared.config,
        freeze=stage.freeze,
        frozen_dropout=stage.frozen_dropout,
        activation_checkpointing=stage.activation_checkpointing,
        compile=stage.compile,
        losses=stage.objective,
        optimizer=stage.optimizer,
        precision=stage.precision,
        engine=stage.engine,
        spans=prepared.spans,
        schedule=stage.schedule,
        steps=stage.total_steps,
        rows=stage.rows,
        micro_batch=prepared.micro_batch,
        batch=prepared.data.samples.batch,
        languages=corpus.languages,
        heldout=lambda: _heldout(recipe, prepared, corpus),
        measures=lambda engine: {},
        decode=functools.partial(tokenizer.decode, specials=True),
        start=start_folder(recipe, stage),
        initial=lambda: starting_weights(recipe, prepared),
        begin=lambda: _begin(recipe, corpus),
        look=[
            f"the recipe {hashlib.sha256(dump_recipe(recipe).encode()).hexdigest()[:12]}",
            f"the corpus {corpus.digest}",
        ],
        announcement=lambda state: announcement(prepared, state),
        binding=bound(recipe, prepared, corpus),
        metadata=_metadata(recipe, prepared, corpus),
        tokens_per_step=stage.rows * prepared.data.window,
        flops_per_step=flops_per_step(prepared),
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
    data, place = prepared.data, dist.data_place()
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


def _begin(recipe: Recipe, corpus: Corpus) -> None:
    """Check the shards, then write down what runs in the run folder. Nothing is written over before all is checked."""
    run = Path(recipe.run)
    check_sizes(corpus)
    if recipe.verify_corpus:
        verify_changed(corpus, run / VERIFIED)
    files.write_text(run / "recipe.yaml", dump_recipe(recipe))
    if not (run / "tokenizer").exists():  # what the weights need besides themselves, should the corpus move
        files.copy_folder(corpus.tokenizer_folder, run / "tokenizer")

"""Pretraining: the stages of a recipe, one after another, each a run of its own.

    pretrain(recipe)        trains the first stage that is not complete; says whether another one is left

The same call after any interruption skips complete stages and resumes the current one. A stage hands over a file:
its published weights. The caller starts every stage in a fresh process (`launch/pretrain.py` re-executes itself),
because engines leave memory behind.
"""

from __future__ import annotations

import dataclasses
import functools
import logging
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from megas2s import dist, files
from megas2s.data.corpus import Corpus
from megas2s.data.heldout import heldout_batches, heldout_rows
from megas2s.data.loader import Batch, Loader
from megas2s.data.windows import units
from megas2s.engine import Zero, make_engine
from megas2s.engine.base import Setup
from megas2s.errors import BadConfig
from megas2s.models.config import ModelConfig, Tying
from megas2s.models.freezing import count_by_part, freeze
from megas2s.models.parameters import parameter_shapes
from megas2s.models.transformer import Model, build
from megas2s.models.weights import open_weights, start_from
from megas2s.recipe import Recipe, dump_recipe
from megas2s.rng import torch_seed
from megas2s.spec import plain
from megas2s.tokenizer.load import Tokenizer
from megas2s.tokenizer.vocab import Vocabulary
from megas2s.train import checkpoint, lock, record
from megas2s.train.assemble import (
    Corruption,
    StageData,
    check_positions,
    check_tokenizer,
    flat,
    init_folder,
    stage_data,
    stage_frozen,
)
from megas2s.train.flops import step_flops
from megas2s.train.ledger import peak_flops, step_size
from megas2s.train.loop import Training, train
from megas2s.train.metrics import MetricsLog
from megas2s.train.stage import Stage
from megas2s.train.state import TrainState

log = logging.getLogger(__name__)


class Prepared(NamedTuple):
    """A stage, checked and read, before any model is built."""

    stage: Stage
    config: ModelConfig
    frozen: set[str]
    data: StageData
    micro_batch: int


def pretrain(recipe: Recipe) -> bool:
    """Train the first incomplete stage to its end. True when another stage is left after it; collective."""
    place = dist.place()
    recipe.check_ranks(place.world_size)
    corpus, vocabulary = open_corpus(recipe)
    prepared = [prepare(recipe, stage, corpus, vocabulary, world_size=place.world_size) for stage in recipe.stages]
    run = Path(recipe.run)
    if dist.is_main():
        _begin(run, recipe, corpus)
    record.log_to(run)
    left = [one for one in prepared if not checkpoint.is_complete(recipe.folder(one.stage))]
    if not left:
        log.info("every stage is complete; weights lie in %s/<stage>/weights", run)
        return False
    _train_stage(recipe, left[0], corpus, vocabulary)
    return len(left) > 1


def open_corpus(recipe: Recipe) -> tuple[Corpus, Vocabulary]:
    """The recipe's corpus and the vocabulary of the tokenizer beside it, checked against each other."""
    corpus = Corpus.open(Path(recipe.corpus))
    vocabulary = Tokenizer.load(corpus.tokenizer_folder).vocabulary
    check_tokenizer(corpus, vocabulary)
    return corpus, vocabulary


def prepare(recipe: Recipe, stage: Stage, corpus: Corpus, vocabulary: Vocabulary, *, world_size: int) -> Prepared:
    """Check everything about a stage that can be checked without building its model."""
    config = model_config(recipe, stage, vocabulary)
    data = stage_data(stage, corpus, vocabulary, recipe.sampling, seed=recipe.seed)
    check_positions(stage, data.columns, config)
    if isinstance(stage.engine, Zero):
        # Read here so that a mistake in the file is found on the login node.
        from megas2s.engine.ds_config import read_ds_config

        read_ds_config(stage.engine.config)
    return Prepared(stage, config, stage_frozen(stage, config), data, stage.micro_batch_rows(world_size))


def model_config(recipe: Recipe, stage: Stage, vocabulary: Vocabulary) -> ModelConfig:
    """The shape of the model that a stage trains."""
    config = recipe.model.config(vocab_size=vocabulary.size, pad_id=vocabulary.pad, tying=tying(recipe, stage))
    if stage.objective.architecture == "encoder":
        return config.encoder_only()
    if not config.is_seq2seq:
        raise BadConfig(
            f"stage {stage.name!r}: objective {stage.objective.name!r} needs a decoder, and the model has "
            "num_decoder_layers 0; give it some"
        )
    return config


def tying(recipe: Recipe, stage: Stage) -> Tying:
    """Which embedding matrices are one in a stage: as it says, else as in what it starts from, else all."""
    if stage.decoder is not None:
        return stage.decoder.tying
    if stage.objective.architecture == "encoder" or stage.init is None:
        return "tied"
    before: Callable[[], Tying]
    if stage.init in [other.name for other in recipe.stages]:
        earlier = recipe.stage(stage.init)
        has_decoder, before = earlier.objective.architecture == "seq2seq", functools.partial(tying, recipe, earlier)
    else:
        config = open_weights(Path(stage.init)).config
        has_decoder, before = config.is_seq2seq, lambda: config.tying
    if not has_decoder:
        raise BadConfig(
            f"stage {stage.name!r} attaches a decoder to the encoder of {stage.init!r}; "
            "say how it begins, for example decoder: {tying: tied_to_decoder, embeddings: copied}"
        )
    return before()


def _train_stage(recipe: Recipe, prepared: Prepared, corpus: Corpus, vocabulary: Vocabulary) -> None:
    stage, folder = prepared.stage, recipe.folder(prepared.stage)
    binding = flat(_bound(recipe, prepared, corpus))
    saved = checkpoint.newest(folder)
    if saved is not None:
        checkpoint.check_binding(saved, binding)
    state = saved.state if saved is not None else TrainState()
    _announce(prepared, state)
    initial = saved.weights.tensor if saved is not None else starting_weights(recipe, prepared)
    engine = make_engine(stage.engine, _setup(recipe, prepared, corpus, initial))
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
        samples=None,
        tokens_per_step=stage.rows * prepared.data.window,
        flops_per_step=_flops(prepared),
        peak_flops=_peak(),
    )
    train(training, state, saved, trial=recipe.trial_step)
    metrics.close()
    engine.close()
    log.info("stage %s is complete: %s", stage.name, folder / "weights")


def starting_weights(recipe: Recipe, prepared: Prepared) -> Callable[[str], Tensor | None]:
    """Where each parameter of a stage begins: a function from its name to a tensor, or None for a random start."""
    stage = prepared.stage
    folder = init_folder(stage.init, Path(recipe.run), [other.name for other in recipe.stages])
    if folder is None:
        return lambda name: None
    if folder.parent.parent == Path(recipe.run) or files.is_published(folder):
        files.verify(folder)
    reader = open_weights(folder)
    embeddings = "copied" if stage.decoder is None else stage.decoder.embeddings
    sources = start_from(reader.config, prepared.config, part=stage.part, decoder_embeddings=embeddings)
    shapes = parameter_shapes(prepared.config)

    def initial(name: str) -> Tensor | None:
        source = sources[name]
        # A longer table of positions is cut to the rows that this model has.
        return None if source is None else reader.tensor(source)[: shapes[name][0]].float()

    return initial


def _setup(recipe: Recipe, prepared: Prepared, corpus: Corpus, initial: Callable[[str], Tensor | None]) -> Setup:
    stage = prepared.stage

    def construct() -> Model:
        model = build(prepared.config)
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


def _bound(recipe: Recipe, prepared: Prepared, corpus: Corpus) -> dict[str, object]:
    """What must not change between the parts of an interrupted stage. Where it runs and how often it reports may."""
    stage = plain(Stage, prepared.stage)
    for free in ("engine", "micro_batch", "activation_checkpointing", "compile"):
        del stage[free]
    return {
        "seed": recipe.seed,
        "corpus": corpus.digest,
        "tokenizer": corpus.fingerprint,
        "model": dataclasses.asdict(prepared.config),
        "sampling": dataclasses.asdict(recipe.sampling),
        "stage": stage,
    }


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


def _flops(prepared: Prepared) -> float:
    size = step_size(prepared.stage.objective, prepared.data.shape, rows=prepared.stage.rows)
    return step_flops(parameter_shapes(prepared.config), size, frozen=prepared.frozen)


def _peak() -> float | None:
    device = dist.device()
    return peak_flops(torch.cuda.get_device_name(device)) if device.type == "cuda" else None


def _begin(run: Path, recipe: Recipe, corpus: Corpus) -> None:
    """Take the run folder and write down what runs in it."""
    lock.hold(run)
    files.write_text(run / "recipe.yaml", dump_recipe(recipe))
    record.append(run, recipe.seed)


def _announce(prepared: Prepared, state: TrainState) -> None:
    stage, columns = prepared.stage, prepared.data.columns
    where = f"from step {state.step}" if state.step else "from its beginning"
    log.info("stage %s (%s), %d steps, %s", stage.name, stage.objective.name, stage.total_steps, where)
    log.info(
        "  %d rows a step, windows of %d tokens, rows of %d%s columns, %s",
        stage.rows,
        prepared.data.window,
        columns.source,
        f" and {columns.target}" if columns.target else "",
        "all full" if columns.full else "padded",
    )
    for part, count in count_by_part(prepared.config, prepared.frozen).items():
        log.info("  %-10s %13s trainable %13s frozen", part, f"{count.trainable:,}", f"{count.frozen:,}")


def dry_run(recipe: Recipe) -> str:
    """Load and check everything that a launch on these ranks would, train nothing; returns the plan as text."""
    world_size = dist.place().world_size
    recipe.check_ranks(world_size)
    corpus, vocabulary = open_corpus(recipe)
    lines = [f"run {recipe.run}, corpus {recipe.corpus} ({corpus.digest}), vocabulary {vocabulary.size}"]
    for stage in recipe.stages:
        prepared = prepare(recipe, stage, corpus, vocabulary, world_size=world_size)
        lines += _plan(prepared, recipe.folder(stage))
    return "\n".join(lines)


def _plan(prepared: Prepared, folder: Path) -> list[str]:
    stage, data = prepared.stage, prepared.data
    trainable = sum(count.trainable for count in count_by_part(prepared.config, prepared.frozen).values())
    frozen = sum(count.frozen for count in count_by_part(prepared.config, prepared.frozen).values())
    state = "complete" if checkpoint.is_complete(folder) else f"{len(checkpoint.published(folder))} checkpoints"
    shares = ", ".join(
        f"{unit.name} {share / sum(data.shares):.1%}" for unit, share in zip(data.units, data.shares, strict=True)
    )
    return [
        f"stage {stage.name}: {stage.objective.name}, {stage.total_steps} steps of {stage.rows} rows, {state}",
        f"  windows of {data.window} tokens; {trainable:,} trainable and {frozen:,} frozen parameters",
        f"  {prepared.micro_batch} rows per rank and pass; {_flops(prepared):.3g} FLOPs per step",
        f"  shares {shares}",
    ]

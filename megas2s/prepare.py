"""From a recipe's stage to everything that can be read and checked before a model is built.

A plan, a dry run and a launch all begin here, so a mistake is found on the login node in seconds, in the same words.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

from megas2s import dist
from megas2s.convert import family_of
from megas2s.data.corpus import Corpus, check_sizes
from megas2s.engine import check_engine
from megas2s.errors import BadConfig, BadData, Refusal
from megas2s.models.config import ModelConfig, Tying
from megas2s.models.freezing import count_by_part
from megas2s.models.handoff import Beginnings, hand_off, start_from
from megas2s.models.parameters import ALL, SomeValues, parameter_shapes
from megas2s.models.parts import Span
from megas2s.models.weights import WeightsReader, open_weights
from megas2s.recipe import Recipe
from megas2s.spec import plain
from megas2s.tokenizer.load import Tokenizer
from megas2s.tokenizer.vocab import Vocabulary
from megas2s.train import checkpoint
from megas2s.train.assemble import (
    StageData,
    check_positions,
    check_tokenizer,
    flat,
    init_folder,
    stage_data,
    stage_frozen,
)
from megas2s.train.binding import PLACEMENT, code
from megas2s.train.flops import StepSize, step_flops
from megas2s.train.ledger import step_size
from megas2s.train.placement import spans_of
from megas2s.train.stage import Stage
from megas2s.train.state import TrainState


class Prepared(NamedTuple):
    """A stage, checked and read, before any model is built."""

    stage: Stage
    config: ModelConfig
    frozen: set[str]
    data: StageData
    micro_batch: int
    size: StepSize  # of one optimizer step
    spans: tuple[Span, ...]  # of units, where the engine is a pipeline


def open_corpus(recipe: Recipe) -> tuple[Corpus, Tokenizer]:
    """The recipe's corpus and the tokenizer beside it, checked against each other."""
    corpus = Corpus.open(Path(recipe.corpus))
    tokenizer = Tokenizer.load(corpus.tokenizer_folder)
    check_tokenizer(corpus, tokenizer.vocabulary)
    return corpus, tokenizer


def prepare(recipe: Recipe, stage: Stage, corpus: Corpus, vocabulary: Vocabulary, *, world_size: int) -> Prepared:
    """Check everything about a stage that can be checked without building its model."""
    config = model_config(recipe, stage, vocabulary)
    data = stage_data(stage, corpus, vocabulary, recipe.sampling, seed=recipe.seed, decoder_start=config.decoder_start)
    check_positions(stage, data.columns, config)
    with _named(stage):
        check_engine(stage.engine, precision=stage.precision, profile=recipe.log.profile > 0)
        # What is trained shall be exported: a shape that no family of transformers has is refused here.
        family_of(config.without_heads(), "seq2seq" if config.is_seq2seq else "encoder", vocabulary)
        check_start(recipe, stage, config, corpus, vocabulary)
    ranks = stage.data_ranks(world_size)
    micro_batch = stage.micro_batch_rows(ranks)
    try:
        stage.objective.check_layout(micro_batch, ranks)
    except ValueError as error:
        raise BadConfig(f"stage {stage.name!r}: {error}") from None
    frozen = stage_frozen(stage, config)
    size = step_size(stage.objective, data.shape, rows=stage.rows)
    with _named(stage):
        spans = spans_of(stage.engine, config, size, frozen=frozen, recomputed=stage.activation_checkpointing)
    return Prepared(stage, config, frozen, data, micro_batch, size, spans)


def model_config(recipe: Recipe, stage: Stage, vocabulary: Vocabulary) -> ModelConfig:
    """The shape of the model that a stage trains."""
    config = recipe.model.config(vocab_size=vocabulary.size, pad_id=vocabulary.pad, tying=tying(recipe, stage))
    if stage.objective.architecture == "seq2seq" and not config.is_seq2seq:
        raise BadConfig(
            f"stage {stage.name!r}: objective {stage.objective.name!r} needs a decoder, and the model has "
            "num_decoder_layers 0; give it some"
        )
    return stage.objective.shaped(config)


def tying(recipe: Recipe, stage: Stage) -> Tying:
    """Which embedding matrices are one in a stage: as it says, else as in what it starts from, else all."""
    if stage.decoder is not None:
        return stage.decoder.tying
    if stage.objective.architecture == "encoder":
        return "tied"
    if stage.init is None:
        return recipe.model.tying
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


def check_start(recipe: Recipe, stage: Stage, config: ModelConfig, corpus: Corpus, vocabulary: Vocabulary) -> None:
    """Refuse an `init` whose weights cannot become the stage's model, or whose tokenizer is not the corpus'."""
    if stage.init is None:
        return
    if stage.init in [other.name for other in recipe.stages]:
        source = model_config(recipe, recipe.stage(stage.init), vocabulary)
    else:
        reader = open_weights(Path(stage.init))
        _check_same_tokenizer(reader, corpus)
        source = reader.config
    start_from(source, config, part=stage.part, **_beginnings(stage))


def _check_same_tokenizer(reader: WeightsReader, corpus: Corpus) -> None:
    theirs = reader.metadata.get("tokenizer")
    if theirs is None:
        raise BadData(
            f"the weights {reader.folder} do not say which tokenizer they know, so their embeddings may mean other "
            "tokens than the corpus'; import them again together with their tokenizer"
        )
    if theirs != corpus.fingerprint:
        raise BadData(
            f"the weights {reader.folder} know another tokenizer (fingerprint {theirs[:12]}) than the corpus "
            f"{corpus.folder} ({corpus.fingerprint[:12]}); preprocess with theirs, or start from other weights"
        )


def _beginnings(stage: Stage) -> Beginnings:
    """How a decoder begins, as `handoff` takes it."""
    if stage.decoder is None:
        return {}
    return {"decoder_embeddings": stage.decoder.embeddings or "copied", "decoder_layers": stage.decoder.layers}


@contextlib.contextmanager
def _named(stage: Stage) -> Iterator[None]:
    """Put the stage's name before what is refused inside the block."""
    try:
        yield
    except Refusal as refusal:
        raise type(refusal)(f"stage {stage.name!r}: {refusal}") from None


def start_folder(recipe: Recipe, stage: Stage) -> Path | None:
    """The folder of weights that a stage starts from, if any."""
    return init_folder(stage.init, Path(recipe.run), [other.name for other in recipe.stages])


def starting_weights(recipe: Recipe, prepared: Prepared) -> SomeValues:
    """Where each parameter of a stage begins: a function from its name to a tensor, or None for a random start."""
    stage = prepared.stage
    folder = start_folder(recipe, stage)
    if folder is None:
        return lambda name, rows=ALL: None
    return hand_off(open_weights(folder), prepared.config, part=stage.part, **_beginnings(stage))


def bound(recipe: Recipe, prepared: Prepared, corpus: Corpus) -> dict[str, str]:
    """What must not change between the parts of an interrupted stage. Where it runs and how often it reports may."""
    stage = plain(Stage, prepared.stage)
    for free in (*PLACEMENT, "compile"):
        del stage[free]
    return flat(
        {
            **code(),
            "seed": recipe.seed,
            "corpus": corpus.digest,
            "tokenizer": corpus.fingerprint,
            "model": dataclasses.asdict(prepared.config),
            "sampling": dataclasses.asdict(recipe.sampling),
            "stage": stage,
        }
    )


def flops_per_step(prepared: Prepared) -> float:
    """Model FLOPs of one optimizer step over all ranks."""
    return step_flops(parameter_shapes(prepared.config), prepared.size, frozen=prepared.frozen)


def announcement(prepared: Prepared, state: TrainState) -> list[str]:
    """What a stage says of itself when it begins: size, shape, and what trains."""
    stage, columns = prepared.stage, prepared.data.columns
    where = f"from step {state.step}" if state.step else "from its beginning"
    wide = f"{columns.source} and {columns.target}" if columns.target else f"{columns.source}"
    parts = count_by_part(prepared.config, prepared.frozen).items()
    return [
        f"stage {stage.name} ({stage.objective.name}), {stage.total_steps} steps, {where}",
        f"  {stage.rows} rows a step, windows of {prepared.data.window} tokens, rows of {wide} columns, "
        + ("all full" if columns.full else "padded"),
        *(f"  {part:<10} {count.trainable:>13,} trainable {count.frozen:>13,} frozen" for part, count in parts),
        *_below_peak(stage),
        *_left_here(prepared),
    ]


def dry_run(recipe: Recipe) -> str:
    """Load and check everything that a launch would, train nothing; returns the plan as text.

    A single process, as on a login node, stands for the ranks that the recipe asks for, or the fewest it can run on.
    """
    started = dist.place().world_size
    world_size = started if started > 1 else recipe.ranks or recipe.fewest_ranks
    recipe.check_ranks(world_size)
    corpus, tokenizer = open_corpus(recipe)
    vocabulary = tokenizer.vocabulary
    check_sizes(corpus)
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
        f"  {prepared.micro_batch} rows per rank and pass; {flops_per_step(prepared):.3g} FLOPs per step",
        f"  shares {shares}",
        *_below_peak(stage),
        *_left_here(prepared),
    ]


def _left_here(prepared: Prepared) -> list[str]:
    """A line where what is trained has a head that no export keeps: encoders as T5's have none in transformers."""
    if prepared.config.is_seq2seq:
        return []
    family = family_of(prepared.config, "encoder", prepared.data.shape.vocabulary)
    if family.has_head:
        return []
    return [
        f"  the head for masked language modelling serves training alone: it is exported as a "
        f"{family.architecture(head=False)}, which has none"
    ]


def _below_peak(stage: Stage) -> list[str]:
    """A line where a stage ends within its warm-up. That is no mistake in one cut short to be tried, but is said."""
    warmup, steps = stage.schedule.warmup_steps, stage.total_steps
    if warmup <= steps:
        return []
    last = stage.schedule.at(steps - 1, steps=steps)
    return [
        f"  warm-up takes {warmup:,} steps: the learning rate ends at {last:.3g}, below its peak {stage.schedule.lr:g}"
    ]

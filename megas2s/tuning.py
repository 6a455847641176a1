"""All of a recipe of fine-tuning that can be read and checked before a model is built.

A dry run and a launch both begin here, so a mistake is found on the login node in seconds, in the same words.
"""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path
from typing import NamedTuple

from megas2s import dist
from megas2s.convert import source
from megas2s.convert.importing import HEAD, RANDOM
from megas2s.engine import Pipe, check_engine, pipe_stages
from megas2s.errors import BadConfig
from megas2s.finetuning import Finetuning
from megas2s.methods import WRITERS
from megas2s.methods.base import Facts, Method, Task
from megas2s.methods.one_row import OneRow, blocks_of
from megas2s.methods.writing import described
from megas2s.models.config import ModelConfig
from megas2s.models.freezing import count_by_part, frozen_names
from megas2s.models.handoff import hand_off, start_from
from megas2s.models.parameters import ALL, SomeValues, parameter_shapes
from megas2s.models.parts import Span
from megas2s.models.reinitialising import reinitialised_names
from megas2s.models.weights import WeightsReader
from megas2s.spec import plain
from megas2s.splits import SPLITS, Split, SplitName, encode, read
from megas2s.tasks import Order, check_lengths, order_of, said_of
from megas2s.tokenizer.extending import extended
from megas2s.tokenizer.folder import Stored
from megas2s.tokenizer.load import Tokenizer
from megas2s.train import checkpoint
from megas2s.train.assemble import flat
from megas2s.train.best import LOSS, Best, value_of
from megas2s.train.binding import PLACEMENT, code
from megas2s.train.flops import StepSize
from megas2s.train.placement import spans_of
from megas2s.train.state import TrainState

# Where a run is trained, what it says and when, and how long its ranks and loaders wait.
FREE = (*PLACEMENT, "run", "workers", "log", "checkpoints", "trial_step", "watch", "patience")


class Prepared(NamedTuple):
    """A recipe, checked and read, before any model is built."""

    recipe: Finetuning
    reader: WeightsReader
    stored: Stored
    config: ModelConfig
    frozen: tuple[str, ...]  # patterns, those of heads that no example reaches included
    task: Task
    splits: dict[SplitName, Split]
    steps: int
    languages: tuple[str, ...]  # that occur in them, those that are trained on first
    order: Order  # in which they are trained on
    digests: dict[str, str]  # of the sources of examples
    size: StepSize  # of a step of examples as long as the mean
    spans: tuple[Span, ...]  # of units, where the engine is a pipeline


def prepare(recipe: Finetuning) -> Prepared:
    """Read and check everything that can be without building a model."""
    check_engine(recipe.engine, precision=recipe.precision, profile=recipe.log.profile > 0)
    if isinstance(recipe.engine, Pipe) and recipe.method.name != "seq2seq":
        raise BadConfig(
            f"engine 'pipe' fine-tunes with method: {{name: seq2seq}} alone, found {recipe.method.name}; "
            "use engine: {name: zero}"
        )
    recipe.data.look()
    found = source.find(Path(recipe.init))
    reader = found.open()
    stored = source.find_tokenizer(found, reader, Path(recipe.tokenizer) if recipe.tokenizer else None)
    stored = extended(stored, recipe.new_tokens)
    tokenizer = Tokenizer(stored, Path(recipe.run) / "tokenizer")
    reading = read(recipe.method, recipe.data)
    try:
        config = recipe.method.shaped(_taken(recipe, reader.config, stored), reading.labels)
        config = config if recipe.lora is None else recipe.lora.shaped(config)
        frozen = (*recipe.freeze, *recipe.method.unused(config))
        made_up = _makes_up_head(recipe, reader, config)
        if recipe.lora is not None:
            frozen = (*frozen, *recipe.lora.frozen(config, anew=("mlm.",) if made_up else ()))
        frozen_names(config, frozen)
        reinitialised_names(config, recipe.reinitialise)
    except ValueError as error:
        raise BadConfig(str(error)) from None
    facts = Facts(
        tokenizer=tokenizer,
        length=recipe.length,
        target_length=recipe.target_length or 64,
        decoder_start=config.decoder_start,
        is_seq2seq=config.is_seq2seq,
        labels=reading.labels,
        typed=config.segment_types > 1,
    )
    if isinstance(recipe.method, OneRow):
        recipe.method.check(facts.vocabulary)
    check_lengths(recipe.method, recipe.data, facts, config.longest_row)
    splits = {split: encode(recipe.method, recipe.data, split, reading, facts) for split in reading.entries}
    steps = recipe.steps or max(1, math.ceil((recipe.epochs or 0) * len(splits["train"]) / recipe.rows))
    size = _mean_size(recipe.rows, splits["train"], recipe.method)
    names = frozen_names(config, frozen)
    spans = spans_of(recipe.engine, config, size, frozen=names, recomputed=recipe.activation_checkpointing)
    task = Task(recipe.method, facts)
    if recipe.best is not None:
        _check_best(recipe.best, task, splits["dev"])
    order = order_of(splits["train"], reading.languages, alpha=recipe.data.alpha, seed=recipe.seed)
    return Prepared(
        recipe=recipe,
        reader=reader,
        stored=stored,
        config=config,
        frozen=frozen,
        task=task,
        splits=splits,
        steps=steps,
        languages=reading.languages,
        order=order,
        digests=reading.digests,
        size=size,
        spans=spans,
    )


def _mean_size(rows: int, split: Split, method: Method) -> StepSize:
    """A step of examples with as many tokens as the mean, padding aside."""

    def mean(name: str) -> int:
        return round(sum(len(example.get(name, ())) for example in split.examples) / len(split))

    written = (mean("target_ids"),) * blocks_of(method) if "target_ids" in split.examples[0] else ()
    return StepSize(rows, mean("input_ids"), mean("decoder_input_ids"), mean("labels"), written=written)


def _makes_up_head(recipe: Finetuning, reader: WeightsReader, config: ModelConfig) -> bool:
    """Whether the head for masked language modelling is one that nobody has trained."""
    begins = start_from(reader.config, config, part=recipe.part, grows=True)
    return begins.get("mlm.bias", "") is None or reader.metadata.get(HEAD) == RANDOM


def _check_best(best: Best, task: Task, dev: Split) -> None:
    """Refuse a score that the method does not give: what it says of answers that are right names all it has."""
    right = task.method.references(dev.records, dev.examples, dev.columns, task.facts)
    names = {f"measure/{name}": value for name, value in task.method.scores(right, right).items()}
    value_of(best, {LOSS: 0.0, **names})


def _taken(recipe: Finetuning, config: ModelConfig, stored: Stored) -> ModelConfig:
    """The model that is taken from the weights, its tables as large as they are to be."""
    if recipe.part == "encoder":
        config = config.encoder_only()
    changes: dict[str, int | float] = {} if recipe.dropout is None else {"dropout": recipe.dropout}
    if recipe.new_tokens:
        changes["vocab_size"] = max(config.vocab_size, stored.metadata.size)
    if recipe.max_positions is not None:
        if not config.has_learned_positions:
            raise ValueError("max_positions: this model has no table of positions, so rows may be of any length")
        if recipe.max_positions < config.max_positions:
            raise ValueError(
                f"max_positions {recipe.max_positions} is less than the {config.max_positions} that the weights have; "
                "leave it out"
            )
        changes["max_positions"] = recipe.max_positions
    return dataclasses.replace(config, **changes)  # type: ignore[arg-type]


def initial(prepared: Prepared) -> SomeValues:
    """Where each parameter begins: in the weights, or anew."""
    recipe = prepared.recipe
    carried = hand_off(prepared.reader, prepared.config, part=recipe.part, grows=True)
    anew = reinitialised_names(prepared.config, recipe.reinitialise)
    if not _knows_labels(prepared):  # a head of as many classes may tell other ones apart
        anew |= {name for name in parameter_shapes(prepared.config) if name.startswith(("classes.", "text."))}
    return lambda name, rows=ALL: None if name in anew else carried(name, rows)


def bound(prepared: Prepared) -> dict[str, str]:
    """What must not change between the parts of an interrupted run. Where it runs and how often it reports may."""
    kept = plain(Finetuning, prepared.recipe)
    for name in FREE:
        del kept[name]
    if prepared.recipe.best is not None:  # which weights those are depends on when it is looked, and at what
        kept["log"] = {name: getattr(prepared.recipe.log, name) for name in ("evaluate_every", "heldout_rows")}
    kept["data"] = {**prepared.digests, **{key: value for key, value in kept["data"].items() if key not in SPLITS}}
    kept["init"] = checkpoint.digest(prepared.reader.folder)
    return flat(
        {**code(), **kept, "tokenizer": prepared.stored.fingerprint, "model": dataclasses.asdict(prepared.config)}
    )


def _knows_labels(prepared: Prepared) -> bool:
    """Whether the weights were fine-tuned by this method for the same labels."""
    theirs, ours = prepared.reader.metadata, metadata(prepared)
    return all(theirs.get(key) == ours[key] for key in ("objective", "labels"))


def metadata(prepared: Prepared) -> dict[str, str]:
    """What is written beside weights: where they come from, which tokenizer they need, what their scores mean."""
    recipe = prepared.recipe
    made_up = _makes_up_head(recipe, prepared.reader, prepared.config)
    made_up &= "mlm.dense.weight" in frozen_names(prepared.config, prepared.frozen)  # else it was trained here
    facts = prepared.task.facts
    writes = described(recipe.method, recipe.data.columns, facts) if recipe.method.name in WRITERS else {}
    return {
        **({HEAD: RANDOM} if made_up else {}),
        **writes,
        "run": Path(recipe.run).name,
        "stage": recipe.method.name,
        "objective": recipe.method.name,
        "labels": json.dumps(prepared.task.facts.labels, ensure_ascii=False),
        "tokenizer": prepared.stored.fingerprint,
        "languages": " ".join(prepared.languages),
        **({"tags": recipe.data.tags} if recipe.data.tags else {}),
    }


def announcement(prepared: Prepared, state: TrainState) -> list[str]:
    """What a run says of itself when it begins: how much there is to learn from, and what trains."""
    recipe = prepared.recipe
    where = f"from step {state.step}" if state.step else "from its beginning"
    parts = count_by_part(prepared.config, frozen_names(prepared.config, prepared.frozen)).items()
    sizes = ", ".join(f"{len(split):,} to {name}" for name, split in prepared.splits.items())
    labels = prepared.task.facts.labels
    return [
        f"{recipe.method.name}, {prepared.steps} steps of {recipe.rows} rows, {where}",
        f"  examples: {sizes}" + (f"; {len(labels)} labels: {', '.join(labels[:8])}" if labels else ""),
        *(f"  {line}" for name, split in prepared.splits.items() for line in said_of(name, split)),
        *(f"  {line}" for line in prepared.order.said(prepared.steps * recipe.rows)),
        *(f"  {part:<10} {count.trainable:>13,} trainable {count.frozen:>13,} frozen" for part, count in parts),
    ]


def dry_run(recipe: Finetuning) -> str:
    """Load and check everything that a launch would, train nothing; returns the plan as text.

    A single process stands for the ranks of a pipeline.
    """
    prepared = prepare(recipe)
    started = dist.place().world_size
    recipe.rows_of_a_pass(started if started > 1 else pipe_stages(recipe.engine))
    return "\n".join([f"run {recipe.run}, from {prepared.reader.folder}", *announcement(prepared, TrainState())])

"""Fine-tuning: one method on one task, through the loop, checkpoints and engines of pretraining.

    run: runs/cola                                  data: {train: cola/train.jsonl, dev: ..., test: ...}
    init: runs/two_stage/mlm                        data: {train: {en: ...}, test: {en: ..., de: ..., sw: ...}}
    method: {name: classify}                        the second trains on one language and is tested on all

The same command continues after any interruption. Beside what every run keeps there are `results.json` and the answers
to the test set, given by the weights as they were published.
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from megas2s import dist, files
from megas2s.data.loader import Batch
from megas2s.data.skipped import by_reason
from megas2s.engine import join, make_engine, pipe_stages
from megas2s.engine.base import Engine
from megas2s.finetuning import Finetuning, dump
from megas2s.methods.base import Task
from megas2s.methods.one_row import blocks_of
from megas2s.models.freezing import frozen_names
from megas2s.models.parameters import parameter_shapes
from megas2s.models.weights import open_weights
from megas2s.rng import generator
from megas2s.session import Session, setup, train_session
from megas2s.splits import ALONE, Split
from megas2s.tasks import Samples, answer, batches_of, measured
from megas2s.tokenizer import folder as tokenizer_folder
from megas2s.train import agree, best, checkpoint, lock, record
from megas2s.train.flops import step_flops
from megas2s.train.metrics import Scalars
from megas2s.tuning import Prepared, announcement, bound, initial, metadata, prepare

log = logging.getLogger(__name__)

RESULTS = "results.json"


def finetune(recipe: Finetuning, *, allowed: Sequence[str] = ()) -> bool:
    """Train to the end or, where that is done, answer dev and test set. True when the answers are left; collective.

    What is there must be of this recipe, but for keys that match a pattern of `allowed` (see `train.binding`).

    The caller answers in a process made new (`launch/finetune.py` re-executes itself): engines leave memory behind.
    """
    micro_batch = recipe.rows_of_a_pass(dist.place().world_size)
    prepared = prepare(recipe)
    run = Path(recipe.run)
    record.log_to(run)
    if dist.is_main():
        lock.hold(run)
    join(recipe.patience)
    dist.lay_out(pipe_stages(recipe.engine))
    session = _session(prepared, micro_batch)
    step = json.loads(agree.told(json.dumps(_progress(session, allowed)) if dist.is_main() else ""))
    if step is not None:
        train_session(session, saved_step=step)
        return True
    if agree.told(str((run / RESULTS).is_file())) == "True":
        log.info("all is done: weights lie in %s, results in %s", session.folder / checkpoint.WEIGHTS, run / RESULTS)
    else:
        _answer_all(prepared, session)
    return False


def _progress(session: Session, allowed: Sequence[str]) -> int | None:
    """The step of the checkpoint to go on from, 0 for the beginning, None where training is complete."""
    if checkpoint.is_complete(session.folder):
        checkpoint.check_complete(session.folder, session.binding, allowed)
        return None
    if session.best is not None and best.marked(session.folder) is not None:
        checkpoint.check_weights(session.folder / best.FOLDER, session.binding, allowed)
    saved = checkpoint.newest(session.folder)
    if saved is None:
        return 0
    checkpoint.check_binding(saved, session.binding, allowed)
    return saved.state.step


def _session(prepared: Prepared, micro_batch: int) -> Session:
    recipe, train = prepared.recipe, prepared.splits["train"]
    frozen = frozen_names(prepared.config, prepared.frozen)
    dev = prepared.splits.get("dev")
    task, rows = prepared.task, recipe.log.heldout_rows
    shown = batches_of(dev, task, micro_batch=micro_batch, rows=rows) if dev is not None else []
    return Session(
        run=Path(recipe.run),
        stage=recipe.method.name,
        seed=recipe.seed,
        workers=recipe.workers,
        trial_step=recipe.trial_step,
        watch=recipe.watch,
        log=recipe.log.log,
        checkpoints=recipe.checkpoints,
        config=prepared.config,
        freeze=prepared.frozen,
        frozen_dropout=recipe.frozen_dropout,
        activation_checkpointing=recipe.activation_checkpointing,
        compile=False,
        losses=prepared.task,
        optimizer=recipe.optimizer,
        precision=recipe.precision,
        engine=recipe.engine,
        spans=prepared.spans,
        schedule=recipe.schedule,
        steps=prepared.steps,
        rows=recipe.rows,
        micro_batch=micro_batch,
        batch=Samples(train, task, recipe.seed, prepared.order).batch,
        largest=functools.partial(_largest, train, task, recipe.rows, micro_batch),
        languages=prepared.languages,
        heldout=lambda: shown,
        measures=functools.partial(_measures, prepared, shown),
        decode=functools.partial(task.facts.tokenizer.decode, specials=True),
        start=prepared.reader.folder,
        initial=lambda: initial(prepared),
        begin=lambda: _begin(prepared),
        look=[
            f"the recipe {hashlib.sha256(dump(recipe).encode()).hexdigest()[:12]}",
            f"the examples {hashlib.sha256(json.dumps(prepared.digests).encode()).hexdigest()[:12]}",
        ],
        announcement=lambda state: announcement(prepared, state),
        binding=bound(prepared),
        metadata=metadata(prepared),
        tokens_per_step=recipe.rows * prepared.size.source,
        best=recipe.best,
        flops_per_step=step_flops(parameter_shapes(prepared.config), prepared.size, frozen=frozen),
    )


def _measures(prepared: Prepared, shown: list[Batch], engine: Engine) -> Scalars:
    """How good the answers to the dev set are; collective."""
    dev = prepared.splits.get("dev")
    if dev is None:
        return {}
    return _scalars(measured(prepared.task, prepared.languages, dev, answer(engine, prepared.task, dev, shown)))


def _largest(train: Split, task: Task, rows: int, micro_batch: int) -> list[Batch]:
    """The micro-batches of a rank with the largest examples in them, and with room for two also the longest target."""
    written = blocks_of(task.method)

    def target(place: int) -> int:
        return max(len(train.examples[place].get(name, ())) for name in ("decoder_input_ids", "target_ids"))

    def columns(place: int) -> int:
        return len(train.examples[place]["input_ids"]) + written * target(place)

    largest = sorted(range(len(train)), key=columns, reverse=True)
    first = [largest[0], max(range(len(train)), key=target), *largest[1:]][:micro_batch]
    places = (first * micro_batch)[:micro_batch]
    noise = [generator(0, "largest", place) for place in places]
    batch = Samples(train, task, 0, range(len(train))).of_places(places, noise)
    return [batch] * (rows // (micro_batch * dist.data_place().world_size))


def _begin(prepared: Prepared) -> None:
    run = Path(prepared.recipe.run)
    files.write_text(run / "recipe.yaml", dump(prepared.recipe))
    splits = prepared.splits.items()
    lengths = {name: {side: found.plain() for side, found in split.lengths.items()} for name, split in splits}
    files.write_json(run / "lengths.json", lengths)
    if prepared.recipe.data.skip_bad_lines:
        reasons = {name: [reason._asdict() for reason in by_reason(split.skipped)] for name, split in splits}
        files.write_json(run / "skipped.json", reasons)
    if not (run / "tokenizer").exists():
        tokenizer_folder.write(prepared.stored, run / "tokenizer", {"kind": "tokenizer"})


def _answer_all(prepared: Prepared, session: Session) -> None:
    """Answer dev and test with the published weights, and keep answers and scores."""
    run, task = Path(prepared.recipe.run), prepared.task
    weights = open_weights(session.folder / checkpoint.WEIGHTS, merged=False)
    asked = {name: split for name, split in prepared.splits.items() if name != "train"}
    if not asked:
        log.info("neither data.dev nor data.test is given: nothing to answer")
        return
    engine = make_engine(session.engine, setup(session, weights.tensor))
    results: dict[str, dict[str, Scalars]] = {}
    for name, split in asked.items():
        answers = answer(engine, task, split, batches_of(split, task, micro_batch=session.micro_batch))
        results[name] = measured(task, prepared.languages, split, answers)
        if dist.is_main():
            _keep(run / "answers" / f"{name}.jsonl", prepared, split, answers)
        if not split.labelled:
            log.info("%s has no labels: %d answers, no scores", name, len(answers))
        for language, scores in results[name].items():
            log.info("%s %s: %s", name, language, ", ".join(f"{key} {value:.4f}" for key, value in scores.items()))
    engine.close()
    if dist.is_main():
        step = files.read_manifest(session.folder / checkpoint.WEIGHTS)["step"]
        files.write_json(run / RESULTS, {"steps": step, **results})
    dist.barrier()


def _keep(path: Path, prepared: Prepared, split: Split, answers: dict[int, Any]) -> None:
    task = prepared.task
    references = task.method.references(split.records, split.examples, split.columns, task.facts)
    lines = []
    for place, given in sorted(answers.items()):
        language = split.languages[place]
        line = {"language": prepared.languages[language]}
        if isinstance(source := split.records[place].get(split.columns.text), str):
            line["source"] = source
        line["answer"] = given
        if language in split.labelled:
            line["reference"] = references[place]
        lines.append(json.dumps(line, ensure_ascii=False) + "\n")
    files.write_text(path, "".join(lines))


def _scalars(scores: dict[str, Scalars]) -> Scalars:
    """`measure/accuracy` over all, and `measure/accuracy/de` for each language."""
    named = {}
    for language, found in scores.items():
        for name, value in found.items():
            named[f"measure/{name}" if language == ALONE else f"measure/{name}/{language}"] = value
    return named

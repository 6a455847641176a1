"""Checkpoints: everything a stage needs to go on, as named full tensors and a few integers.

    step_00000100/
      weights/        canonical weights, what export and the next stage read
      optimizer/      exp_avg.<name> and exp_avg_sq.<name>
      state.json      step, tokens, optimizer counters, what the run was
      MANIFEST.json   size and SHA-256 of every file, and what people ask first; written last

No rank's own files, no pickle; no reader asks which engine or how many ranks wrote it. A checkpoint is filled under a
temporary name and published in one rename; a reader takes the newest that verifies, and says which it passed over.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import logging
import math
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from megas2s import dist, files
from megas2s.engine.base import MOMENTS, Engine
from megas2s.errors import BadCheckpoint, DiskTrouble
from megas2s.models.config import ModelConfig
from megas2s.models.parameters import parameter_shapes
from megas2s.models.weights import TensorFolder, WeightsReader, open_tensors, open_weights, save_tensors, save_weights
from megas2s.train import agree, record
from megas2s.train.binding import refuse_other
from megas2s.train.state import TrainState

log = logging.getLogger(__name__)

WEIGHTS = "weights"
OPTIMIZER = "optimizer"
STATE = "state.json"
ROOM = 1.2  # free bytes that a save asks for, as a multiple of what it is expected to write
NAME = re.compile(r"step_(\d{8,})")


class Saved(NamedTuple):
    """A checkpoint, opened for reading."""

    folder: Path
    state: TrainState
    counters: dict[str, float]
    weights: WeightsReader
    optimizer: TensorFolder

    @property
    def needed(self) -> Path | None:
        """The folder, where some weights are frozen (they have no moments): an engine reads those whenever it saves."""
        return self.folder if len(self.optimizer.names) < len(MOMENTS) * len(self.weights.names) else None


def step_folder(stage_folder: Path, step: int) -> Path:
    """Where the checkpoint of `step` lies."""
    return stage_folder / "checkpoints" / f"step_{step:08d}"


def save(
    folder: Path,
    engine: Engine,
    state: TrainState,
    config: ModelConfig,
    metadata: Mapping[str, str],
    *,
    binding: Mapping[str, str],
) -> None:
    """Write and publish one checkpoint; collective. `binding` is what it belongs to, compared when it is resumed.

    Raises DiskTrouble on every rank, before anything is written, where the disk has no room for it.
    """
    temporary = files.temporary_folder(folder)
    _begin(folder, lambda: _last_size(folder.parents[1]) or size(config, trainable=engine.trainable()))
    with files.disk_trouble(folder):
        _write_collectively(temporary / WEIGHTS, engine, config, metadata)
        if dist.is_main():
            save_tensors(temporary / OPTIMIZER, engine.moments())
        else:
            for _ in engine.moments():
                pass
        if dist.is_main():
            content = {"state": dataclasses.asdict(state), "counters": engine.counters(), "binding": dict(binding)}
            files.write_json(temporary / STATE, content)
            files.publish(temporary, folder, _facts("checkpoint", state, binding))
    dist.barrier()


def save_weights_alone(
    folder: Path,
    engine: Engine,
    state: TrainState,
    config: ModelConfig,
    metadata: Mapping[str, str],
    *,
    binding: Mapping[str, str],
    facts: Mapping[str, object] | None = None,
) -> None:
    """Write and publish the weights of an engine as they are, `facts` in their manifest; collective.

    Published as `weights` of a stage they make it complete.
    """
    temporary = files.temporary_folder(folder)
    _begin(folder, lambda: size(config, trainable=0))
    with files.disk_trouble(folder):
        _write_collectively(temporary, engine, config, metadata)
        if dist.is_main():
            known = {"tokens": state.tokens, "binding": dict(binding), **(facts or {})}
            files.publish(temporary, folder, _facts("weights", state, binding) | known)
    dist.barrier()


def promote(folder: Path, stage_folder: Path) -> None:
    """Let weights that are published already be those that the stage ends with; collective."""
    _begin(stage_folder / WEIGHTS, lambda: sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()))
    if dist.is_main():
        facts = {key: value for key, value in files.read_manifest(folder).items() if key != "files"}
        temporary = files.temporary_folder(stage_folder / WEIGHTS)
        with files.disk_trouble(temporary):
            shutil.copytree(folder, temporary, dirs_exist_ok=True, ignore=shutil.ignore_patterns(files.MANIFEST))
            files.publish(temporary, stage_folder / WEIGHTS, facts)
    dist.barrier()


def is_complete(stage_folder: Path) -> bool:
    """Whether the stage has written its last weights."""
    return files.is_published(stage_folder / WEIGHTS)


def newest(stage_folder: Path) -> Saved | None:
    """The newest checkpoint whose files are all intact, or None where none was ever published.

    Raises BadCheckpoint where there are some and every one is damaged: a silent start from scratch would throw
    the run away.
    """
    for aside in (stage_folder / "checkpoints").glob(f"{files.REPLACED}*"):
        files.settle(aside.with_name(aside.name.removeprefix(files.REPLACED)))
    candidates = published(stage_folder)
    damaged: list[str] = []
    for folder in reversed(candidates):
        try:
            saved = read(folder)
        except BadCheckpoint as error:
            damaged.append(str(error))
            log.warning("passing over a damaged checkpoint: %s", error)
            continue
        return saved
    if damaged:
        raise BadCheckpoint(f"every checkpoint in {stage_folder / 'checkpoints'} is damaged: {damaged[0]}")
    return None


def published(stage_folder: Path) -> list[Path]:
    """Checkpoints that have a manifest, oldest first."""
    parent = stage_folder / "checkpoints"
    if not parent.is_dir():
        return []
    found = [folder for folder in parent.iterdir() if NAME.fullmatch(folder.name) and files.is_published(folder)]
    return sorted(found, key=_step)


def read(folder: Path) -> Saved:
    """Verify one checkpoint and open it."""
    files.verify(folder)
    return open_saved(folder)


def open_saved(folder: Path) -> Saved:
    """Open a checkpoint that has been verified, by this rank or another; tensors are read when asked for."""
    content: dict[str, Any] = files.read_json(folder / STATE)
    return Saved(
        folder,
        TrainState(**content["state"]),
        dict(content["counters"]),
        open_weights(folder / WEIGHTS, merged=False),
        open_tensors(folder / OPTIMIZER),
    )


def digest(folder: Path) -> str | None:
    """A short hash of what a checkpoint or a folder of weights says of itself; None where it is not published.

    The manifest has the hash of every file, so equal digests are equal tensors, as far as the disk is to be trusted.
    """
    published = folder if files.is_published(folder) else folder.parent
    if not files.is_published(published):
        return None
    found = [path.read_bytes() for path in (published / files.MANIFEST, published / STATE) if path.is_file()]
    return hashlib.sha256(b"".join(found)).hexdigest()[:12]


def check_binding(saved: Saved, binding: Mapping[str, str], allowed: Sequence[str] = ()) -> None:
    """Refuse a checkpoint that is bound to something else, but for keys that match a pattern of `allowed`."""
    refuse_other(saved.folder, files.read_json(saved.folder / STATE)["binding"], binding, allowed)


def check_shapes(saved: Saved, config: ModelConfig) -> None:
    """Refuse a checkpoint whose tensors have other shapes than the model's: no change of those can be allowed."""
    made, now = parameter_shapes(saved.weights.config), parameter_shapes(config)
    for name in sorted(made.keys() | now.keys()):
        if made.get(name) != now.get(name):
            raise BadCheckpoint(
                f"{saved.folder}: {name} has the shape {made.get(name, 'of nothing')}, the recipe asks for "
                f"{now.get(name, 'none')}; put the model's shape back, or choose another run folder"
            )


def check_complete(stage_folder: Path, binding: Mapping[str, str], allowed: Sequence[str] = ()) -> None:
    """Refuse a complete stage that is bound to something else: it would pass for this one's."""
    check_weights(stage_folder / WEIGHTS, binding, allowed)


def check_weights(weights: Path, binding: Mapping[str, str], allowed: Sequence[str] = ()) -> None:
    """Refuse published weights that are bound to something else."""
    made = files.read_manifest(weights).get("binding")
    if not isinstance(made, dict):
        raise BadCheckpoint(f"{weights / files.MANIFEST} is damaged; restore it from a copy")
    refuse_other(weights, made, binding, allowed)


def retain(stage_folder: Path, *, step: int, keep_last: int, keep_every: int, needed: Path | None = None) -> None:
    """Once `step` is published: delete checkpoints beyond the `keep_last` newest, and half-written ones.

    Multiples of `keep_every` and `needed` stay. Those after `step` were damaged when it was resumed: they do not count.
    """
    if not dist.is_main():
        return
    reached = [folder for folder in published(stage_folder) if _step(folder) <= step]
    for folder in reached[:-keep_last]:
        if folder != needed and (not keep_every or _step(folder) % keep_every):
            files.remove_published(folder)
    for leftover in (stage_folder / "checkpoints").glob("*"):
        if leftover.is_dir() and not files.is_published(leftover):
            shutil.rmtree(leftover)


def _begin(folder: Path, size: Callable[[], int]) -> None:
    """Rank 0 clears what an interrupted save left and looks whether there is room; all ranks hear what it found."""
    lack = ""
    if dist.is_main():
        for left in folder.parent.glob(f"{files.TEMPORARY}*"):
            shutil.rmtree(left, ignore_errors=True)
        lack = files.lack_of_room(folder, ROOM * size())
    if said := agree.told(lack):
        raise DiskTrouble(said)
    if dist.is_main():
        files.empty_temporary(folder)


def _facts(kind: str, state: TrainState, binding: Mapping[str, str]) -> dict[str, Any]:
    """What a manifest says, for people, beside the files: nothing is decided by it."""
    return {
        "kind": kind,
        "step": state.step,
        "ranks": dist.place().world_size,
        "git": record.git_revision(),
        "binding_sha256": hashlib.sha256(json.dumps(dict(binding), sort_keys=True).encode()).hexdigest(),
    }


def _last_size(stage_folder: Path) -> int:
    """Bytes of the newest published checkpoint, by its manifest; 0 where there is none to tell."""
    for folder in reversed(published(stage_folder)):
        with contextlib.suppress(BadCheckpoint):
            return sum(facts["bytes"] for facts in files.read_manifest(folder)["files"].values())
    return 0


def size(config: ModelConfig, *, trainable: int) -> int:
    """Bytes of a model's weights and of the moments of so many trainable numbers, all in fp32."""
    weights = sum(math.prod(shape) for shape in parameter_shapes(config).values())
    return 4 * (weights + len(MOMENTS) * trainable)


def _step(folder: Path) -> int:
    return int(folder.name.removeprefix("step_"))


def _write_collectively(folder: Path, engine: Engine, config: ModelConfig, metadata: Mapping[str, str]) -> None:
    if dist.is_main():
        save_weights(folder, engine.values(), config=config, metadata=dict(metadata))
    else:
        for _ in engine.values():  # the gathering is collective
            pass

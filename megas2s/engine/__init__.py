"""The list of engines: how a recipe names one, and how it is made.

An engine's module is imported when a recipe asks for it, so that everything but DeepSpeed's engines runs where it is
not installed, and checking a recipe does not wait seconds for its import.
"""

from __future__ import annotations

import importlib
from typing import Annotated, Literal

import torch
from pydantic import Discriminator

from megas2s import dist
from megas2s.engine.base import Engine, Precision, Setup
from megas2s.engine.ds_config import check_pipeline, read_ds_config
from megas2s.errors import BadConfig
from megas2s.spec import spec


@spec
class Local:
    """Plain PyTorch on one device."""

    name: Literal["local"] = "local"


@spec
class Zero:
    """DeepSpeed ZeRO. `config` is a JSON file of DeepSpeed's own knobs, looked up from the working directory."""

    name: Literal["zero"] = "zero"
    config: str = "ds_configs/zero1.json"


@spec
class Pipe:
    """DeepSpeed's pipeline: layers on `stages` ranks, times data parallel under ZeRO-1. `config` as for Zero."""

    name: Literal["pipe"] = "pipe"
    stages: int = 2
    config: str = "ds_configs/pipeline.json"

    def __post_init__(self) -> None:
        if self.stages < 1:
            raise ValueError(f"stages must be at least 1, got {self.stages}")


Engines = Local | Zero | Pipe
EngineSpec = Annotated[Engines, Discriminator("name")]


def pipe_stages(spec: Engines) -> int:
    """How many ranks hold a model together, each some of its layers."""
    return spec.stages if isinstance(spec, Pipe) else 1


def data_ranks(spec: Engines, world_size: int) -> int:
    """How many of the ranks read samples of their own; raises BadConfig where an engine cannot run on so many."""
    if isinstance(spec, Local) and world_size > 1:
        raise BadConfig(f"engine 'local' runs one rank, {world_size} were started; use engine: {{name: zero}}")
    if world_size % pipe_stages(spec):
        raise BadConfig(
            f"{world_size} ranks do not divide into pipelines of {pipe_stages(spec)} stages; change engine.stages or "
            "the ranks"
        )
    return world_size // pipe_stages(spec)


def check_engine(spec: Engines, *, precision: Precision, profile: bool = False) -> None:
    """Refuse what an engine cannot do, without building it."""
    if profile and isinstance(spec, Local):
        raise BadConfig("log.profile asks for DeepSpeed's profilers, which engine 'local' has not; take another engine")
    if isinstance(spec, Pipe):
        check_pipeline(spec.config, precision=precision)
    elif isinstance(spec, Zero):
        read_ds_config(spec.config, precision=precision)
    elif precision == "fp16":
        raise BadConfig("engine 'local' has no loss scaling for fp16; use precision: bf16, or engine: {name: zero}")


def make_engine(spec: Engines, setup: Setup) -> Engine:
    """Build the engine of a stage; collective for the distributed ones."""
    check_engine(spec, precision=setup.precision, profile=setup.profile is not None)
    engine: Engine
    if isinstance(spec, Local):
        engine = importlib.import_module("megas2s.engine.local").LocalEngine(setup)
    elif isinstance(spec, Pipe):
        engine = importlib.import_module("megas2s.engine.pipe").PipeEngine(setup, spec.config)
    else:
        engine = importlib.import_module("megas2s.engine.zero").ZeroEngine(setup, spec.config)
    return engine


def join(patience: float | None = None) -> None:
    """Join the process group where there are several ranks; collective. Engines join by themselves if need be.

    From then on a rank gives up after `patience` seconds without an answer from the others.
    """
    if dist.place().world_size > 1:
        importlib.import_module("megas2s.engine.zero").join(patience)


def leave() -> None:
    """Leave the process group once every rank has come so far; collective.

    Rank 0 keeps the group's address book. A rank made new that is early would find the old one and wait in it.
    """
    if dist.active():
        dist.barrier()
        torch.distributed.destroy_process_group()

"""The list of engines: how a recipe names one, and how it is made.

An engine's module is imported when a recipe asks for it, so that everything but `zero.py` runs where DeepSpeed is
not installed, and checking a recipe does not wait seconds for its import.
"""

from __future__ import annotations

import importlib
from typing import Annotated, Literal

import torch
from pydantic import Discriminator

from megas2s import dist
from megas2s.engine.base import Engine, Precision, Setup
from megas2s.engine.ds_config import read_ds_config
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


EngineSpec = Annotated[Local | Zero, Discriminator("name")]


def check_engine(spec: Local | Zero, *, precision: Precision) -> None:
    """Refuse what an engine cannot do, without building it."""
    if isinstance(spec, Zero):
        read_ds_config(spec.config, precision=precision)
    elif precision == "fp16":
        raise BadConfig("engine 'local' has no loss scaling for fp16; use precision: bf16, or engine: {name: zero}")


def make_engine(spec: Local | Zero, setup: Setup) -> Engine:
    """Build the engine of a stage; collective for the distributed ones."""
    check_engine(spec, precision=setup.precision)
    engine: Engine
    if isinstance(spec, Local):
        engine = importlib.import_module("megas2s.engine.local").LocalEngine(setup)
    else:
        engine = importlib.import_module("megas2s.engine.zero").ZeroEngine(setup, spec.config)
    return engine


def join() -> None:
    """Join the process group where there are several ranks; collective. Engines join by themselves if need be."""
    if dist.place().world_size > 1:
        importlib.import_module("megas2s.engine.zero").join()


def leave() -> None:
    """Leave the process group once every rank has come so far; collective.

    Rank 0 keeps the group's address book. A rank made new that is early would find the old one and wait in it.
    """
    if dist.active():
        dist.barrier()
        torch.distributed.destroy_process_group()

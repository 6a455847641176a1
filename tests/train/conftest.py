"""Engines and checkpoints of a tiny model."""

from __future__ import annotations

import pytest
import torch

from megas2s.engine.base import Setup
from megas2s.engine.local import LocalEngine
from megas2s.engine.optim import AdamW
from megas2s.models.freezing import freeze
from megas2s.models.init import first_values
from megas2s.models.parameters import ALL
from megas2s.models.transformer import construct
from megas2s.objectives.mlm import MLM
from megas2s.train import checkpoint
from megas2s.train.state import TrainState

from .tiny import BINDING, CONFIG


@pytest.fixture
def make_engine():
    """A tiny engine whose moments are told apart from each other and from the weights."""

    def make(*frozen: str) -> LocalEngine:
        def built():
            model = construct(CONFIG)
            freeze(model, frozen)
            return model

        setup = Setup(
            build=built,
            initial=first_values(CONFIG, 1),
            losses=MLM(),
            optimizer=AdamW(),
            precision="fp32",
            micro_batch=1,
            micro_batches=1,
            languages=1,
            dropout_seed=lambda step, index, rank: 0,
        )
        engine = LocalEngine(setup)
        shapes = {name: tensor.shape for name, tensor in engine.values()}

        def moments(name, rows=ALL):
            return torch.full(shapes[name.split(".", 1)[1]], len(name) / 2)[rows]

        engine.load_moments(moments, {"optimizer_step": 6.0})
        return engine

    return make


@pytest.fixture
def save(make_engine, tmp_path):
    """Save a checkpoint of a step in the stage's folder `tmp_path`; gives its folder."""

    def at(step: int, engine: LocalEngine | None = None):
        folder = checkpoint.step_folder(tmp_path, step)
        state = TrainState(step=step, tokens=10 * step, skipped=1)
        checkpoint.save(folder, engine or make_engine(), state, CONFIG, {"stage": "mlm"}, binding=BINDING)
        return folder

    return at

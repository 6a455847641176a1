"""What a stage takes over, what it trains and what stands still, seen through a run of many small stages.

One run serves most claims: an encoder; from it, for each way of tying embeddings, a stage with the encoder frozen and
one with everything free; decoders that begin in other ways; an encoder taken out again. Dropout and weight decay are
on everywhere.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from megas2s import session
from megas2s.models.config import ModelConfig
from megas2s.models.parameters import canonical_parameters
from megas2s.models.transformer import Model, build

ROWS = torch.arange(200, 248).view(2, 24)

TYINGS = ("tied", "tied_to_decoder", "untied")
DECODER = ["decoder.positions.weight", "decoder.embed_norm.*", "decoder.layers.*", "decoder.norm.*"]
ENCODER = ["encoder.positions.weight", "encoder.embed_norm.*", "encoder.layers.*", "encoder.norm.*"]
MOVING = {  # while `encoder.*` is frozen; a parameter is frozen wherever it is used
    "tied": DECODER,
    "tied_to_decoder": [*DECODER, "decoder.embed.weight"],
    "untied": [*DECODER, "decoder.embed.weight", "head.weight"],
}
STILL = {
    "tied": [*ENCODER, "shared.weight"],
    "tied_to_decoder": [*ENCODER, "encoder.embed.weight"],
    "untied": [*ENCODER, "encoder.embed.weight"],
}


class Pass(NamedTuple):
    """One forward pass of the encoder."""

    training: bool  # whether it belongs to a training step
    drops_out: bool
    asks_for_gradient: bool
    stored: int  # tensors kept for a backward pass


@dataclasses.dataclass
class Seen:
    """What a stage built, the weights it began with, and each pass through its encoder."""

    model: Model
    passes: list[Pass]
    start: dict[str, Tensor] = dataclasses.field(default_factory=dict)


def watched(make_engine: Callable, seen: list[Seen]) -> Callable:
    """`make_engine` that notes what it makes."""

    def make(spec, setup):
        def construct() -> Model:
            seen.append(Seen(setup.build(), []))
            watch_encoder(seen[-1])
            return seen[-1].model

        engine = make_engine(spec, dataclasses.replace(setup, build=construct))
        seen[-1].start = {name: value.clone() for name, value in engine.values()}
        return engine

    return make


def watch_encoder(stage: Seen) -> None:
    stored: list[torch.Size] = []
    hooks: list[torch.autograd.graph.saved_tensors_hooks] = []

    def before(encoder, arguments) -> None:
        stored.clear()
        hooks.append(torch.autograd.graph.saved_tensors_hooks(lambda t: stored.append(t.shape) or t, lambda t: t))
        hooks[-1].__enter__()

    def after(encoder, arguments, output) -> None:
        hooks.pop().__exit__()
        stage.passes.append(Pass(stage.model.training, encoder.training, output.requires_grad, len(stored)))

    stage.model.encoder.register_forward_pre_hook(before)
    stage.model.encoder.register_forward_hook(after)


class Run(NamedTuple):
    """A run of many stages: what it left, and what each stage built."""

    finished: object
    seen: dict[str, Seen]

    def end(self, stage: str) -> dict[str, Tensor]:
        return self.finished.weights(stage)

    def start(self, stage: str) -> dict[str, Tensor]:
        return self.seen[stage].start

    def moved(self, stage: str) -> set[str]:
        return moved(self.start(stage), self.end(stage))

    def training(self, stage: str) -> list[Pass]:
        return [each for each in self.seen[stage].passes if each.training]


def moved(before: Mapping[str, Tensor], after: Mapping[str, Tensor]) -> set[str]:
    assert before.keys() == after.keys()
    return {name for name in before if not torch.equal(before[name], after[name])}


def matching(names: Sequence[str], patterns: Sequence[str]) -> set[str]:
    """The names that a list of patterns means; every pattern means some."""
    found = {pattern: {name for name in names if fnmatchcase(name, pattern)} for pattern in patterns}
    assert all(found.values())
    return set().union(*found.values())


def without_keys_bias(names: set[str]) -> set[str]:
    """A key's bias adds the same to all scores of a query, so it has no gradient but what rounding leaves."""
    return {name for name in names if not name.endswith("attention.k.bias")}


def part(weights: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name: value for name, value in weights.items() if name.startswith(prefix)}


def same(left: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> bool:
    return not moved(left, right)


@torch.no_grad()
def model_of(config: ModelConfig, weights: Mapping[str, Tensor]) -> Model:
    model = build(config).eval()
    for name, parameter in canonical_parameters(model).items():
        parameter.copy_(weights[name])
    return model


def stages(data: dict) -> list[dict]:
    """The tree of stages that most tests look at; each stage of three steps."""
    first, frozen, free = ({**stage, "steps": 3} for stage in data["stages"])
    found = [first]
    for tying in TYINGS:
        found += [
            {**frozen, "name": f"frozen_{tying}", "decoder": {"tying": tying}},
            {**free, "name": f"free_{tying}", "init": f"frozen_{tying}"},
        ]
    random = {"steps": 1, "freeze": []}
    encoder = {"part": "encoder", "steps": 1}
    return [
        *found,
        *(
            {**frozen, **random, "name": f"random_{tying}", "decoder": {"tying": tying, "embeddings": "random"}}
            for tying in ("tied_to_decoder", "untied")
        ),
        {**frozen, **random, "name": "untied_later", "init": "free_tied", "decoder": {"tying": "untied"}},
        {**frozen, **encoder, "name": "new_decoder", "init": "free_untied", "decoder": {"tying": "tied"}},
        {**frozen, "name": "dropping_out", "frozen_dropout": True, "steps": 1},
        *({**first, **encoder, "name": f"encoder_of_{tying}", "init": f"free_{tying}", "steps": 2} for tying in TYINGS),
    ]


@pytest.fixture(scope="package")
def run(make_recipe, train_within, tmp_path_factory) -> Run:
    data = make_recipe(tmp_path_factory.mktemp("stages") / "run")
    data["model"] |= {"dropout": 0.2, "attention_dropout": 0.1}
    data["log"] = {"every": 1, "evaluate_every": 0, "heldout_rows": 1, "samples_every": 0, "tensorboard": False}
    data["checkpoints"] = {"every": 1, "keep_last": 2}
    data["stages"] = [{**stage, "engine": {"name": "local"}} for stage in stages(data)]
    seen: list[Seen] = []
    with pytest.MonkeyPatch.context() as patch, train_within() as train:
        patch.setattr(session, "make_engine", watched(session.make_engine, seen))
        finished = train(data)
    return Run(finished, dict(zip([stage["name"] for stage in data["stages"]], seen, strict=True)))

"""What a stage takes over, what it trains and what stands still, seen through a run of many small stages.

One run serves most claims: an encoder; from it, for each way of tying embeddings, a stage with the encoder frozen and
one with everything free; decoders that begin in other ways; an encoder taken out again. Dropout and weight decay are
on everywhere.
"""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
import yaml
from torch import Tensor

from megas2s import pretrain
from megas2s.errors import BadConfig
from megas2s.models.config import ModelConfig
from megas2s.models.parameters import canonical_parameters
from megas2s.models.transformer import Model, build
from megas2s.train import checkpoint

PROGRAM = Path(__file__).with_name("every_stage.py")
DS_CONFIGS = Path(__file__).resolve().parents[1] / "ds_configs"
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


@pytest.fixture(scope="module")
def run(make_recipe, train_here, tmp_path_factory) -> Run:
    data = make_recipe(tmp_path_factory.mktemp("stages") / "run")
    data["model"] |= {"dropout": 0.2, "attention_dropout": 0.1}
    data["log"] = {"every": 1, "evaluate_every": 0, "heldout_rows": 1, "samples_every": 0, "tensorboard": False}
    data["checkpoints"] = {"every": 1, "keep_last": 2}
    data["stages"] = [{**stage, "engine": {"name": "local"}} for stage in stages(data)]
    seen: list[Seen] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pretrain, "make_engine", watched(pretrain.make_engine, seen))
        finished = train_here(data)
    return Run(finished, dict(zip([stage["name"] for stage in data["stages"]], seen, strict=True)))


# What moves


@pytest.mark.parametrize("tying", TYINGS)
def test_while_the_encoder_is_frozen_exactly_the_listed_parameters_move(run: Run, tying: str):
    names = list(run.end(f"frozen_{tying}"))
    moving, still = matching(names, MOVING[tying]), matching(names, STILL[tying])
    assert moving.isdisjoint(still)
    assert moving | still == set(names)
    assert without_keys_bias(run.moved(f"frozen_{tying}")) == without_keys_bias(moving)
    assert run.moved(f"frozen_{tying}").isdisjoint(still)


@pytest.mark.parametrize("tying", TYINGS)
def test_once_unfrozen_everything_moves_again(run: Run, tying: str):
    assert same(run.start(f"free_{tying}"), run.end(f"frozen_{tying}"))
    names = set(run.end(f"free_{tying}"))
    assert without_keys_bias(run.moved(f"free_{tying}")) == without_keys_bias(names)


@pytest.mark.parametrize("tying", TYINGS)
def test_the_encoder_s_output_is_bit_equal_after_the_frozen_stage_and_another_after_the_next(run: Run, tying: str):
    outputs = [
        model_of(run.finished.config(stage), run.end(stage)).encode(ROWS)
        for stage in ("mlm", f"frozen_{tying}", f"free_{tying}")
    ]
    assert outputs[0].std() > 0.1
    assert torch.equal(outputs[0], outputs[1])
    assert not torch.equal(outputs[1], outputs[2])


@pytest.mark.parametrize("tying", TYINGS)
def test_what_is_frozen_has_no_gradient_no_moments_and_no_place_in_the_optimizer(run: Run, tying: str):
    parameters = canonical_parameters(run.seen[f"frozen_{tying}"].model)
    still = matching(list(parameters), STILL[tying])
    assert {name for name, parameter in parameters.items() if not parameter.requires_grad} == still
    assert all(parameters[name].grad is None for name in still)
    saved = checkpoint.newest(run.finished.folder / f"frozen_{tying}")
    moments = {f"{kind}.{name}" for kind in ("exp_avg", "exp_avg_sq") for name in parameters.keys() - still}
    assert set(saved.optimizer.names) == moments
    after = checkpoint.newest(run.finished.folder / f"free_{tying}")
    assert len(after.optimizer.names) == 2 * len(parameters)


@pytest.mark.parametrize("tying", TYINGS)
def test_a_frozen_encoder_stores_no_activation_in_the_steps_of_its_stage(run: Run, tying: str):
    frozen, free = run.training(f"frozen_{tying}"), run.training(f"free_{tying}")
    assert len(frozen) == len(free) >= 3
    assert not any(each.stored or each.asks_for_gradient for each in frozen)
    assert all(each.stored and each.asks_for_gradient for each in free)


# Dropout


@pytest.mark.parametrize("tying", TYINGS)
def test_a_frozen_encoder_does_not_drop_out_while_the_decoder_does(run: Run, tying: str):
    assert not any(each.drops_out for each in run.training(f"frozen_{tying}"))
    assert all(each.drops_out for each in run.training(f"free_{tying}"))
    model = run.seen[f"frozen_{tying}"].model.train()
    assert all(layer.training for layer in model.decoder.layers)
    assert torch.equal(model.encode(ROWS), model.encode(ROWS))
    memory = model.encode(ROWS)
    assert not torch.equal(model.decode(ROWS, memory), model.decode(ROWS, memory))


def test_a_frozen_encoder_drops_out_where_the_recipe_says_so_and_stands_still_all_the_same(run: Run):
    assert all(each.drops_out and not each.stored for each in run.training("dropping_out"))
    model = run.seen["dropping_out"].model.train()
    assert not torch.equal(model.encode(ROWS), model.encode(ROWS))
    assert run.moved("dropping_out").isdisjoint(matching(list(run.end("dropping_out")), STILL["tied_to_decoder"]))
    assert same(part(run.end("dropping_out"), "encoder."), part(run.end("mlm"), "encoder."))


# How a decoder begins


def test_copied_embeddings_are_the_encoder_s_at_the_hand_off_and_train_from_the_first_step(run: Run):
    matrix = run.end("mlm")["encoder.embed.weight"]
    copies = {"tied_to_decoder": ["decoder.embed.weight"], "untied": ["decoder.embed.weight", "head.weight"]}
    for tying, names in copies.items():
        stage = f"frozen_{tying}"
        first = checkpoint.read(checkpoint.step_folder(run.finished.folder / stage, 1)).weights
        assert torch.equal(run.start(stage)["encoder.embed.weight"], matrix)
        for name in names:
            assert torch.equal(run.start(stage)[name], matrix)
            assert not torch.equal(first.tensor(name), matrix)
        assert torch.equal(first.tensor("encoder.embed.weight"), matrix)
    assert not torch.equal(*(run.end("frozen_untied")[name] for name in copies["untied"]))
    assert torch.equal(run.start("frozen_tied")["shared.weight"], matrix)


def test_the_head_is_the_decoder_s_embedding_unless_untied(run: Run):
    matrices = {"shared.weight", "encoder.embed.weight", "decoder.embed.weight", "head.weight"}
    held = {tying: matrices & run.end(f"free_{tying}").keys() for tying in TYINGS}
    assert held == {
        "tied": {"shared.weight"},
        "tied_to_decoder": {"encoder.embed.weight", "decoder.embed.weight"},
        "untied": matrices - {"shared.weight"},
    }


@pytest.mark.parametrize("tying", ["tied_to_decoder", "untied"])
def test_random_embeddings_leave_the_encoder_as_it_was_and_are_no_copies(run: Run, tying: str):
    start = run.start(f"random_{tying}")
    assert same(part(start, "encoder."), part(run.end("mlm"), "encoder."))
    for name in start.keys() & {"decoder.embed.weight", "head.weight"}:
        assert not torch.equal(start[name], start["encoder.embed.weight"])
        assert start[name].std() == pytest.approx(0.02, rel=0.05)


def test_the_decoder_s_layers_are_random_and_their_own_in_every_stage_that_attaches_one(run: Run):
    layers = [
        part(run.start(stage), "decoder.layers.")
        for stage in ("frozen_tied", "frozen_untied", "random_untied", "new_decoder")
    ]
    name = "decoder.layers.0.ffn.up.weight"
    assert len({tuple(layer[name].flatten().tolist()) for layer in layers}) == len(layers)
    assert all(layer[name].std() == pytest.approx(0.02, rel=0.1) for layer in layers)


def test_a_seq2seq_model_goes_on_whole_also_with_its_matrices_untied(run: Run):
    before, after = run.end("free_tied"), run.start("untied_later")
    for role in ("encoder.embed.weight", "decoder.embed.weight", "head.weight"):
        assert torch.equal(after[role], before["shared.weight"])
    shared = before.keys() & after.keys()
    assert len(shared) == len(before) - 1
    assert all(torch.equal(before[name], after[name]) for name in shared)


def test_part_encoder_takes_the_encoder_alone_into_a_new_seq2seq_model(run: Run):
    before, after = run.end("free_untied"), run.start("new_decoder")
    assert torch.equal(after["shared.weight"], before["encoder.embed.weight"])
    assert all(torch.equal(after[name], before[name]) for name in matching(list(after), ENCODER))
    fresh = matching(list(after), ["decoder.layers.*.weight", "decoder.positions.weight"])
    assert not any(torch.equal(after[name], before[name]) for name in fresh)


@pytest.mark.parametrize("tying", TYINGS)
def test_an_encoder_is_taken_out_of_a_seq2seq_model_and_trains_on(run: Run, tying: str):
    stage = f"encoder_of_{tying}"
    whole, alone = run.finished.config(f"free_{tying}"), run.finished.config(stage)
    assert alone == whole.encoder_only()
    before = model_of(whole, run.end(f"free_{tying}")).encode(ROWS)
    assert torch.equal(before, model_of(alone, run.start(stage)).encode(ROWS))
    assert not torch.equal(before, model_of(alone, run.end(stage)).encode(ROWS))
    assert not any(name.startswith("decoder.") for name in run.end(stage))
    assert not torch.equal(run.start(stage)["mlm.dense.weight"], run.end("mlm")["mlm.dense.weight"])


def test_tying_is_taken_over_where_a_stage_does_not_say(run: Run):
    assert [run.finished.config(f"free_{tying}").tying for tying in TYINGS] == list(TYINGS)


def test_a_folder_of_weights_is_as_good_as_an_earlier_stage(run: Run, local_recipe, train_here):
    weights = run.finished.folder / "free_untied" / "weights"
    last = {**local_recipe["stages"][2], "name": "on", "init": str(weights), "freeze": ["encoder.*"], "steps": 1}
    on = train_here({**local_recipe, "stages": [last]})
    assert on.config("on").tying == "untied"
    still = matching(list(on.weights("on")), STILL["untied"])
    found = moved(run.end("free_untied"), on.weights("on"))
    assert found
    assert found.isdisjoint(still)


# What a stage says of itself


def test_every_stage_prints_trainable_and_frozen_parameters_by_part(run: Run):
    vocabulary, width, positions = run.finished.config("mlm").vocab_size * 32, 32, 64 * 32
    attention, norm, ffn = 4 * (32 * 32 + 32), 2 * width, (32 * 64 + 64) + (64 * 32 + 32)
    encoder = 2 * (attention + ffn + 2 * norm) + 2 * norm
    decoder = 2 * (2 * attention + ffn + 3 * norm) + 2 * norm
    mlm_head = vocabulary // 32 + (32 * 32 + 32) + norm
    table = vocabulary + positions
    expected = {
        "mlm": {"embeddings": (table, 0), "encoder": (encoder, 0), "head": (mlm_head, 0)},
        "frozen_tied": {"embeddings": (positions, table), "encoder": (0, encoder), "decoder": (decoder, 0)},
        "frozen_tied_to_decoder": {"embeddings": (table, table), "encoder": (0, encoder), "decoder": (decoder, 0)},
        "frozen_untied": {
            "embeddings": (table, table),
            "encoder": (0, encoder),
            "decoder": (decoder, 0),
            "head": (vocabulary, 0),
        },
        "free_tied": {"embeddings": (table + positions, 0), "encoder": (encoder, 0), "decoder": (decoder, 0)},
    }
    said = announced((run.finished.folder / "logs" / "rank_0.log").read_text(encoding="utf-8"))
    assert {stage: said[stage] for stage in expected} == expected
    for stage in run.seen:
        parameters = canonical_parameters(run.seen[stage].model).values()
        assert sum(trainable for trainable, _ in said[stage].values()) == sum(
            math.prod(parameter.shape) for parameter in parameters if parameter.requires_grad
        )


def announced(log: str) -> dict[str, dict[str, tuple[int, int]]]:
    """By stage and part, the numbers of trainable and frozen parameters in a log."""
    found: dict[str, dict[str, tuple[int, int]]] = {}
    for line in log.splitlines():
        if begun := re.search(r"stage (\S+) \(\w+\), \d+ steps, from its beginning", line):
            found[begun[1]] = {}
        elif counts := re.search(r"  (\w+) +([\d,]+) trainable +([\d,]+) frozen$", line):
            found[list(found)[-1]][counts[1]] = tuple(int(text.replace(",", "")) for text in counts.groups()[1:])
    return found


# What is refused before anything is built


@pytest.mark.parametrize(
    ("tying", "freeze", "loose"),
    [
        ("tied_to_decoder", ["encoder.layers.*", "encoder.norm.*"], "encoder.embed.weight, encoder.positions.weight"),
        ("tied", ["encoder.layers.*", "encoder.positions.*", "encoder.embed_norm.*"], "shared.weight"),
        ("untied", ["encoder.layers.*", "encoder.positions.*", "encoder.embed_norm.*"], "encoder.embed.weight"),
    ],
)
def test_frozen_layers_behind_a_training_embedding_are_refused(local_recipe, train_here, tying, freeze, loose):
    first, frozen, _ = local_recipe["stages"]
    local_recipe["stages"] = [first, {**frozen, "freeze": freeze, "decoder": {"tying": tying}}]
    with pytest.raises(BadConfig) as refusal:
        train_here(local_recipe)
    assert str(refusal.value).startswith(
        f"stage 'seq2seq_frozen': freeze: all layers of the encoder are frozen but {loose}"
    )
    assert "would train, so the input of frozen layers would drift; freeze 'encoder.*', or let" in str(refusal.value)
    assert not Path(local_recipe["run"]).exists()


def test_a_decoder_that_nobody_described_is_refused(local_recipe, train_here):
    del local_recipe["stages"][1]["decoder"]
    with pytest.raises(BadConfig, match=r"attaches a decoder to the encoder of 'mlm'; say how it begins, for example"):
        train_here(local_recipe)
    assert not Path(local_recipe["run"]).exists()


# Under ZeRO


@pytest.mark.slow
@pytest.mark.ranks
def test_frozen_and_unfrozen_stages_follow_each_other_under_every_zero_stage(make_recipe, ranks, finished, tmp_path):
    data = make_recipe(tmp_path / "run")
    first, frozen, free = ({**stage, "steps": 2} for stage in data["stages"])
    data["log"] |= {"tensorboard": False, "evaluate_every": 0, "heldout_rows": 0}
    pairs = {}
    data["stages"] = [first]
    for number in range(4):
        engine = {"name": "zero", "config": str(DS_CONFIGS / f"zero{number}.json")}
        pairs[number] = f"frozen{number}", f"free{number}"
        data["stages"] += [
            {**frozen, "engine": engine, "name": f"frozen{number}", "precision": "bf16" if number == 3 else "fp32"},
            {**free, "engine": engine, "name": f"free{number}", "init": f"frozen{number}"},
        ]
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump(data), encoding="utf-8")
    done = ranks(2, PROGRAM, recipe)
    assert done.returncode == 0, done.stdout[-4000:]
    left = finished(tmp_path / "run")
    encoder = part(left.weights("mlm"), "encoder.")
    for before, after in pairs.values():
        assert same(encoder, part(left.weights(before), "encoder."))
        assert not torch.equal(encoder["encoder.embed.weight"], left.weights(before)["decoder.embed.weight"])
        change = moved(left.weights(before), left.weights(after))
        assert without_keys_bias(change) == without_keys_bias(set(left.weights(after)))

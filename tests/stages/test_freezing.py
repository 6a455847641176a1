"""What is frozen stands still, costs nothing and does not drop out; once unfrozen, everything moves again."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest
import torch
import yaml

from megas2s.errors import BadConfig
from megas2s.models.parameters import canonical_parameters
from megas2s.train import checkpoint

from .conftest import MOVING, ROWS, STILL, TYINGS, Run, matching, model_of, moved, part, same, without_keys_bias

PROGRAM = Path(__file__).resolve().parents[1] / "every_stage.py"
DS_CONFIGS = Path(__file__).resolve().parents[2] / "ds_configs"


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

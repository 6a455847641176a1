"""What a stage takes over, from an earlier one or a folder: how a decoder begins, how an encoder is taken out."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from megas2s.errors import BadConfig
from megas2s.train import checkpoint

from .conftest import ENCODER, ROWS, STILL, TYINGS, Run, matching, model_of, moved, part, same


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


def test_a_decoder_that_nobody_described_is_refused(local_recipe, train_here):
    del local_recipe["stages"][1]["decoder"]
    with pytest.raises(BadConfig, match=r"attaches a decoder to the encoder of 'mlm'; say how it begins, for example"):
        train_here(local_recipe)
    assert not Path(local_recipe["run"]).exists()

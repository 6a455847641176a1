import numpy as np
import pytest
import torch

from megas2s.analysis.passes import Place, layers, mean, passes, pooled, watch
from megas2s.errors import BadCheckpoint


def test_a_batch_holds_at_most_so_many_tokens_and_every_row_once(rows):
    batches = passes(rows, pad=1, start=2, batch_tokens=20)
    assert sorted(row for batch in batches for row in batch.rows) == list(range(len(rows)))
    assert all(batch.input_ids.numel() <= 20 or len(batch.rows) == 1 for batch in batches)


def test_a_row_is_padded_on_the_right_and_the_decoder_reads_it_one_later(rows):
    (batch,) = passes(rows[:2], pad=1, start=2, batch_tokens=100)
    assert batch.rows == [1, 0]
    short = batch.input_ids[0]
    assert short.tolist() == [*rows[1], 1, 1, 1, 1, 1]
    assert batch.decoder_input_ids[0].tolist() == [2, *rows[1][:-1], 1, 1, 1, 1, 1]
    assert batch.attention_mask[0].tolist() == [True] * 4 + [False] * 5


def test_a_mean_is_over_real_positions():
    states = torch.tensor([[[1.0], [3.0], [100.0]]])
    assert mean(states, torch.tensor([[True, True, False]])).tolist() == [[2.0]]


@pytest.mark.parametrize("norm_position", ["pre", "post"])
def test_pooled_states_are_those_of_a_row_alone(small, rows, read, norm_position):
    model = small(norm_position=norm_position)
    together = pooled(model, read(rows))
    assert together.shape == (4, len(rows), 16)
    for number, row in enumerate(rows):
        ids = torch.from_numpy(row)[None]
        with torch.no_grad():
            hidden = model.encoder.embedded(ids, None)
            for height, layer in enumerate(model.encoder.layers):
                torch.testing.assert_close(together[height, number], hidden[0].mean(0), rtol=0, atol=1e-5)
                hidden = layer(hidden)
            torch.testing.assert_close(together[3, number], model.encode(ids)[0].mean(0), rtol=0, atol=1e-5)


def test_the_decoder_runs_only_where_it_is_watched_and_nothing_stays_hooked(small, rows, read):
    model = small()
    seen = []
    encoder = {Place("encoder", 1, "layer"): layers(model, "encoder")[0]}
    decoder = {Place("decoder", 2, "layer"): layers(model, "decoder")[1]}
    ran = model.decoder.register_forward_hook(lambda *_: seen.append("decoder"))
    watch(model, read(rows[:1]), encoder, lambda place, call: seen.append(place.stack))
    assert seen == ["encoder"]
    ran.remove()
    watch(model, read(rows[:1]), encoder | decoder, lambda place, call: seen.append(place.layer))
    assert seen == ["encoder", 1, 2]
    assert not any(module._forward_hooks for module in model.modules())


def test_hooks_go_where_looking_fails(small, rows, read):
    model = small()
    with pytest.raises(ZeroDivisionError):
        watch(model, read(rows), {Place("encoder", 1, "layer"): layers(model, "encoder")[0]}, lambda *_: 1 / 0)
    assert not any(module._forward_hooks for module in model.modules())


def test_pooled_states_do_not_depend_on_the_batches(small, rows, read):
    model = small()
    np.testing.assert_allclose(pooled(model, read(rows, 14)), pooled(model, read(rows, 1000)), atol=1e-5)


def test_a_model_that_has_diverged_is_refused(small, rows, read):
    model = small()
    with torch.no_grad():
        model.encoder.layers[1].ffn.down.weight[0, 0] = float("nan")
    with pytest.raises(BadCheckpoint, match="not finite; analyse an earlier checkpoint"):
        pooled(model, read(rows))

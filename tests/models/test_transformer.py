import dataclasses

import pytest
import torch

from megas2s.models.attention import causal_mask, segment_mask, segment_positions
from megas2s.models.config import ModelConfig
from megas2s.models.parameters import canonical_parameters
from megas2s.models.transformer import build

VOCABULARY = 60
ENCODER = ModelConfig(
    vocab_size=VOCABULARY,
    hidden_size=32,
    num_heads=4,
    ffn_size=48,
    num_encoder_layers=3,
    max_positions=24,
    dropout=0.1,
    attention_dropout=0.1,
)
SEQ2SEQ = dataclasses.replace(ENCODER, num_decoder_layers=2)
T5 = {"positions": "relative", "relative_buckets": 8, "relative_max_distance": 12, "norm": "rms", "gated": True}
T5 |= {"biases": False, "embed_norm": False, "scale_attention": False, "head_size": 6, "output_dropout": 0.1}
SHAPES = {
    "pre": SEQ2SEQ,
    "post": dataclasses.replace(SEQ2SEQ, norm_position="post", scale_embedding=True),
    "t5": dataclasses.replace(SEQ2SEQ, **T5),
}
every_shape = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)


def model_of(config, *, training=False):
    torch.manual_seed(0)
    model = build(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.0, 0.2)
    return model.train(training)


def ids(*shape, seed=1):
    return torch.randint(5, VOCABULARY, shape, generator=torch.Generator().manual_seed(seed))


def loss_of(model, batch, labels):
    output = model(batch)
    if output.decoder_hidden is None:
        return output.encoder_vocabulary_loss(output.encoder_hidden.flatten(0, 1), labels.flatten()).total
    return output.decoder_vocabulary_loss(output.decoder_hidden.flatten(0, 1), labels.flatten()).total


def gradients(model, batch, labels, *, seed=3):
    """The loss and every gradient, dropout drawn from `seed`."""
    model.zero_grad(set_to_none=True)
    torch.manual_seed(seed)
    total = loss_of(model, batch, labels)
    total.backward()
    return total.detach(), {n: p.grad.clone() for n, p in canonical_parameters(model).items() if p.grad is not None}


BATCH = {"input_ids": ids(2, 13), "decoder_input_ids": ids(2, 8)}
LABELS = ids(2, 8, seed=2)


def test_an_encoder_offers_its_own_head_and_an_encoder_decoder_only_the_decoders():
    encoder = model_of(ENCODER)(BATCH)
    assert encoder.decoder_hidden is None
    assert encoder.decoder_vocabulary_loss is None
    assert encoder.encoder_vocabulary_loss is not None
    both = model_of(SEQ2SEQ)(BATCH)
    assert both.encoder_vocabulary_loss is None
    assert both.encoder_hidden.shape == (2, 13, 32)
    assert both.decoder_hidden.shape == (2, 8, 32)


@every_shape
def test_full_rows_equal_the_masked_path(shape):
    model = model_of(shape)
    bare = model(BATCH)
    masked = model({**BATCH, "attention_mask": torch.ones(2, 13, dtype=torch.long)})
    torch.testing.assert_close(bare.encoder_hidden, masked.encoder_hidden)
    torch.testing.assert_close(bare.decoder_hidden, masked.decoder_hidden)


@every_shape
def test_padding_on_the_right_changes_nothing_for_real_positions(shape):
    model = model_of(shape)
    bare = model(BATCH)
    padded = {name: torch.nn.functional.pad(rows, (0, 4), value=1) for name, rows in BATCH.items()}
    mask = torch.nn.functional.pad(torch.ones(2, 13, dtype=torch.long), (0, 4))
    output = model({**padded, "attention_mask": mask})
    torch.testing.assert_close(output.encoder_hidden[:, :13], bare.encoder_hidden)
    torch.testing.assert_close(output.decoder_hidden[:, :8], bare.decoder_hidden)


@every_shape
def test_the_decoder_does_not_see_ahead(shape):
    model = model_of(shape)
    changed = BATCH["decoder_input_ids"].clone()
    changed[:, 5] = 4
    before = model(BATCH).decoder_hidden
    after = model({**BATCH, "decoder_input_ids": changed}).decoder_hidden
    torch.testing.assert_close(before[:, :5], after[:, :5])
    assert not torch.allclose(before[:, 5:], after[:, 5:])


@every_shape
@pytest.mark.parametrize("padding", [0, 3])
def test_documents_that_share_a_row_equal_documents_alone(shape, padding):
    model = model_of(shape)
    sources, targets = [ids(1, 6), ids(1, 9, seed=4)], [ids(1, 5, seed=5), ids(1, 4, seed=6)]
    alone = [
        model({"input_ids": source, "decoder_input_ids": target})
        for source, target in zip(sources, targets, strict=True)
    ]

    def row(pieces):
        return torch.nn.functional.pad(torch.cat(pieces, dim=1), (0, padding), value=1)

    def segments(pieces):
        return row([torch.full_like(piece, index + 7) for index, piece in enumerate(pieces)])

    batch = {
        "input_ids": row(sources),
        "segment_ids": segments(sources),
        "decoder_input_ids": row(targets),
        "decoder_segment_ids": segments(targets),
    }
    if padding:
        batch["attention_mask"] = (batch["segment_ids"] > 1).long()
    together = model(batch)
    hidden = torch.cat([output.encoder_hidden for output in alone], dim=1)
    torch.testing.assert_close(together.encoder_hidden[:, :15], hidden)
    hidden = torch.cat([output.decoder_hidden for output in alone], dim=1)
    torch.testing.assert_close(together.decoder_hidden[:, :9], hidden)
    assert together.encoder_hidden.isfinite().all()
    assert together.decoder_hidden.isfinite().all()


def test_segments_of_the_target_need_segments_of_the_source():
    with pytest.raises(ValueError, match="need segment_ids"):
        model_of(SEQ2SEQ)({**BATCH, "decoder_segment_ids": torch.zeros(2, 8)})


def test_masks_and_positions_by_value():
    segments = torch.tensor([[4, 4, 9, 9, 9, 4]])
    assert segment_positions(segments).tolist() == [[0, 1, 0, 1, 2, 0]]
    mask = segment_mask(torch.tensor([[1, 2, 3]]), torch.tensor([[1, 1, 2]]))
    assert mask.int().tolist() == [[[[1, 1, 0], [0, 0, 1], [1, 1, 1]]]]  # segment 3 has no key and sees all
    assert causal_mask(3, torch.device("cpu")).int().tolist() == [[1, 0, 0], [1, 1, 0], [1, 1, 1]]


def test_keys_and_values_can_be_kept_between_steps():
    attention = model_of(SEQ2SEQ).decoder.layers[0].self_attention
    hidden = torch.randn(2, 7, 32)
    whole = attention(hidden, hidden, causal=True)
    keys, values = attention.keys_values(hidden[:, :6])
    newest = attention.keys_values(hidden[:, 6:])
    kept = torch.cat([keys, newest[0]], dim=2), torch.cat([values, newest[1]], dim=2)
    torch.testing.assert_close(attention.attend(hidden[:, 6:], *kept), whole[:, 6:])


def test_a_row_longer_than_the_positions_is_refused():
    with pytest.raises(ValueError, match=r"a row of 25 tokens exceeds the model's 24 positions"):
        model_of(ENCODER)({"input_ids": ids(1, 25)})


def test_dropout_acts_in_training_only():
    model = model_of(SEQ2SEQ, training=True)
    assert not torch.equal(model(BATCH).decoder_hidden, model(BATCH).decoder_hidden)
    model.eval()
    assert torch.equal(model(BATCH).decoder_hidden, model(BATCH).decoder_hidden)


def test_logits_are_what_the_loss_is_made_of():
    for config in (ENCODER, SEQ2SEQ):
        model = model_of(config)
        output = model(BATCH)
        hidden = output.encoder_hidden if output.decoder_hidden is None else output.decoder_hidden
        loss = output.encoder_vocabulary_loss or output.decoder_vocabulary_loss
        labels = ids(*hidden.shape[:2], seed=9).flatten()
        logits = model.logits(hidden).flatten(0, 1)
        expected = torch.nn.functional.cross_entropy(logits, labels, reduction="sum")
        torch.testing.assert_close(loss(hidden.flatten(0, 1), labels).total, expected)


@every_shape
@pytest.mark.parametrize("frozen", [False, True], ids=["all_train", "encoder_frozen"])
def test_checkpointed_layers_give_the_same_bits(shape, frozen):
    model = model_of(shape, training=True)
    if frozen:
        model.encoder.requires_grad_(False)
        model.decoder.embed.weight.requires_grad_(True)
        model.train()
    plain_loss, plain = gradients(model, BATCH, LABELS)
    model.checkpoint_layers()
    loss, recomputed = gradients(model, BATCH, LABELS)
    assert torch.equal(loss, plain_loss)
    assert plain.keys() == recomputed.keys()
    assert all(torch.equal(plain[name], recomputed[name]) for name in plain)


@every_shape
def test_checkpointed_layers_store_less(shape):
    def stored(model):
        total = 0

        def count(tensor):
            nonlocal total
            total += tensor.numel()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            model(BATCH)
        return total

    model = model_of(shape, training=True)
    plain = stored(model)
    model.checkpoint_layers()
    assert stored(model) < 0.5 * plain
    model.checkpoint_layers(False)
    assert stored(model) == plain


@pytest.mark.slow
@every_shape
def test_compiled_layers_equal_plain_ones_and_keep_their_names(shape):
    still = {"dropout": 0.0, "attention_dropout": 0.0, "output_dropout": 0.0}
    model = model_of(dataclasses.replace(shape, **still), training=True)
    names = list(canonical_parameters(model))
    plain_loss, plain = gradients(model, BATCH, LABELS)
    model.compile_layers()
    for checkpointed in (False, True):
        model.checkpoint_layers(checkpointed)
        loss, compiled = gradients(model, BATCH, LABELS)
        torch.testing.assert_close(loss, plain_loss)
        for name in plain:
            torch.testing.assert_close(compiled[name], plain[name], atol=1e-4, rtol=1e-4)
    assert list(canonical_parameters(model)) == names

"""Our models against the transformers classes they export to: same weights, same inputs, same numbers."""

import pytest
import torch
import torch.nn.functional as F
import transformers

from megas2s.models.config import ModelConfig
from megas2s.models.parameters import canonical_parameters
from megas2s.models.transformer import build

PAD, EOS, VOCABULARY = 1, 2, 101
ROBERTA = {
    "encoder.embed.weight": "roberta_prelayernorm.embeddings.word_embeddings.weight",
    "encoder.positions.weight": "roberta_prelayernorm.embeddings.position_embeddings.weight",
    "encoder.embed_norm": "roberta_prelayernorm.embeddings.LayerNorm",
    "encoder.norm": "roberta_prelayernorm.LayerNorm",
    "mlm.dense": "lm_head.dense",
    "mlm.norm": "lm_head.layer_norm",
    "mlm.bias": "lm_head.bias",
}
ROBERTA_LAYER = {
    "self_attention_norm": "attention.LayerNorm",
    "self_attention.q": "attention.self.query",
    "self_attention.k": "attention.self.key",
    "self_attention.v": "attention.self.value",
    "self_attention.out": "attention.output.dense",
    "ffn_norm": "intermediate.LayerNorm",
    "ffn.up": "intermediate.dense",
    "ffn.down": "output.dense",
}
MBART_STACK = {
    "embed.weight": "embed_tokens.weight",
    "positions.weight": "embed_positions.weight",
    "embed_norm": "layernorm_embedding",
    "norm": "layer_norm",
}
MBART_LAYER = {
    "self_attention_norm": "self_attn_layer_norm",
    "cross_attention_norm": "encoder_attn_layer_norm",
    "ffn_norm": "final_layer_norm",
    "ffn.up": "fc1",
    "ffn.down": "fc2",
    **{
        f"{ours}.{projection}": f"{theirs}.{projection_theirs}"
        for ours, theirs in (("self_attention", "self_attn"), ("cross_attention", "encoder_attn"))
        for projection, projection_theirs in (("q", "q_proj"), ("k", "k_proj"), ("v", "v_proj"), ("out", "out_proj"))
    },
}


def small(**changes):
    sizes = {"vocab_size": VOCABULARY, "hidden_size": 32, "num_heads": 4, "ffn_size": 64, "num_encoder_layers": 3}
    return ModelConfig(**{**sizes, "max_positions": 20, "dropout": 0.0, **changes})


def lookup(name, table):
    if name in table:
        return table[name]
    stem, _, leaf = name.rpartition(".")
    return f"{table[stem]}.{leaf}"


def roberta_name(name):
    if not name.startswith("encoder.layers."):
        return lookup(name, ROBERTA)
    _, _, index, rest = name.split(".", 3)
    return f"roberta_prelayernorm.encoder.layer.{index}.{lookup(rest, ROBERTA_LAYER)}"


def mbart_name(name):
    if name in ("shared.weight", "head.weight"):
        return {"shared.weight": "model.shared.weight", "head.weight": "lm_head.weight"}[name]
    stack, rest = name.split(".", 1)
    if not rest.startswith("layers."):
        return f"model.{stack}.{lookup(rest, MBART_STACK)}"
    _, index, rest = rest.split(".", 2)
    return f"model.{stack}.layers.{index}.{lookup(rest, MBART_LAYER)}"


@torch.no_grad()
def randomise(model):
    for parameter in model.parameters():
        parameter.normal_(0.0, 0.2)
    return model.eval()


@torch.no_grad()
def copy_into(theirs, ours, rename, *, position_offset):
    """Give the transformers model our values; every one of its parameters must be reached or stay as it was made."""
    target = dict(theirs.named_parameters(remove_duplicate=False))
    reached = set()
    for name, value in canonical_parameters(ours).items():
        parameter = target[rename(name)]
        rows = parameter[position_offset:] if name.endswith("positions.weight") else parameter
        assert rows.shape == value.shape, name
        rows.copy_(value)
        reached.add(id(parameter))
    return [name for name, parameter in theirs.named_parameters() if id(parameter) not in reached]


def roberta_twin(ours, config):
    theirs = transformers.RobertaPreLayerNormForMaskedLM(
        transformers.RobertaPreLayerNormConfig(
            vocab_size=config.vocab_size,
            hidden_size=config.hidden_size,
            num_hidden_layers=config.num_encoder_layers,
            num_attention_heads=config.num_heads,
            intermediate_size=config.ffn_size,
            hidden_act=config.activation,
            max_position_embeddings=config.max_positions + PAD + 1,
            type_vocab_size=1,
            layer_norm_eps=config.norm_epsilon,
            pad_token_id=PAD,
        )
    ).eval()
    left = copy_into(theirs, ours, roberta_name, position_offset=PAD + 1)
    assert left == ["roberta_prelayernorm.embeddings.token_type_embeddings.weight"]
    with torch.no_grad():
        theirs.get_parameter(left[0]).zero_()
    return theirs


def mbart_twin(ours, config):
    theirs = transformers.MBartForConditionalGeneration(
        transformers.MBartConfig(
            vocab_size=config.vocab_size,
            d_model=config.hidden_size,
            encoder_layers=config.num_encoder_layers,
            decoder_layers=config.num_decoder_layers,
            encoder_attention_heads=config.num_heads,
            decoder_attention_heads=config.num_heads,
            encoder_ffn_dim=config.ffn_size,
            decoder_ffn_dim=config.ffn_size,
            activation_function=config.activation,
            max_position_embeddings=config.max_positions,
            tie_word_embeddings=config.tying == "tied",
            pad_token_id=PAD,
            eos_token_id=EOS,
        )
    ).eval()
    copy_into(theirs, ours, mbart_name, position_offset=2)
    if config.tying == "tied_to_decoder":
        with torch.no_grad():
            theirs.lm_head.weight.copy_(theirs.model.decoder.embed_tokens.weight)
    return theirs


def padded_rows(lengths, generator):
    """Right-padded rows that end in </s>, their mask, and the labels' form with -100 for padding."""
    ids = torch.full((len(lengths), max(lengths)), PAD)
    for row, length in enumerate(lengths):
        ids[row, :length] = torch.randint(5, VOCABULARY, (length,), generator=generator)
        ids[row, length - 1] = EOS
    return ids, ids.ne(PAD).long(), ids.masked_fill(ids.eq(PAD), -100)


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(7)


@pytest.mark.parametrize("activation", ["gelu", "relu"])
def test_encoder_and_its_head_equal_roberta_prelayernorm_on_padded_rows(generator, activation):
    config = small(activation=activation)
    ours = randomise(build(config))
    theirs = roberta_twin(ours, config)
    ids, mask, labels = padded_rows([15, 9, 20], generator)
    output = ours({"input_ids": ids, "attention_mask": mask})
    expected = theirs(input_ids=ids, attention_mask=mask, labels=labels)
    real = mask.bool()
    torch.testing.assert_close(ours.logits(output.encoder_hidden)[real], expected.logits[real], atol=1e-5, rtol=1e-5)
    loss = output.encoder_vocabulary_loss(output.encoder_hidden.flatten(0, 1), labels.flatten())
    torch.testing.assert_close(loss.total / real.sum(), expected.loss, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("tying", ["tied", "tied_to_decoder", "untied"])
def test_encoder_decoder_equals_mbart_on_padded_rows(generator, tying):
    config = small(num_decoder_layers=2, tying=tying)
    ours = randomise(build(config))
    theirs = mbart_twin(ours, config)
    ids, mask, _ = padded_rows([15, 9, 20], generator)
    target, _, labels = padded_rows([7, 12, 11], generator)
    shifted = torch.cat([torch.full((3, 1), EOS), target[:, :-1]], dim=1)
    output = ours({"input_ids": ids, "attention_mask": mask, "decoder_input_ids": shifted})
    expected = theirs(input_ids=ids, attention_mask=mask, labels=labels)
    real = labels.ne(-100)
    torch.testing.assert_close(ours.logits(output.decoder_hidden)[real], expected.logits[real], atol=1e-5, rtol=1e-5)
    loss = output.decoder_vocabulary_loss(output.decoder_hidden.flatten(0, 1), labels.flatten())
    torch.testing.assert_close(loss.total / real.sum(), expected.loss, atol=1e-5, rtol=1e-5)
    each = F.cross_entropy(expected.logits.flatten(0, 1), labels.flatten(), reduction="none")
    torch.testing.assert_close(loss.each, each, atol=1e-4, rtol=1e-5)


def test_gradients_equal_mbarts(generator):
    config = small(num_decoder_layers=2, tying="tied")
    ours = randomise(build(config))
    theirs = mbart_twin(ours, config)
    ids, mask, _ = padded_rows([15, 9, 20], generator)
    target, _, labels = padded_rows([7, 12, 11], generator)
    shifted = torch.cat([torch.full((3, 1), EOS), target[:, :-1]], dim=1)
    output = ours({"input_ids": ids, "attention_mask": mask, "decoder_input_ids": shifted})
    loss = output.decoder_vocabulary_loss(output.decoder_hidden.flatten(0, 1), labels.flatten())
    (loss.total / labels.ne(-100).sum()).backward()
    theirs(input_ids=ids, attention_mask=mask, labels=labels).loss.backward()
    target_parameters = dict(theirs.named_parameters(remove_duplicate=False))
    largest = max(parameter.grad.abs().max() for parameter in theirs.parameters())
    for name, parameter in canonical_parameters(ours).items():
        expected = target_parameters[mbart_name(name)].grad
        expected = expected[2:] if name.endswith("positions.weight") else expected
        assert (parameter.grad - expected).abs().max() <= 1e-6 * largest, name

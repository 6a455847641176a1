"""The attention that analyses look at is what transformers returns as `attentions`, for BART and T5."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import transformers

from megas2s.analysis.attention import entropies, entropy
from megas2s.analysis.passes import passes
from megas2s.convert import hf
from megas2s.convert.importing import incoming
from megas2s.models.loading import filled

SIZES = {"vocab_size": 120, "d_model": 24}
BART = {**SIZES, "encoder_layers": 3, "decoder_layers": 2, "encoder_attention_heads": 4, "decoder_attention_heads": 4}
BART |= {"encoder_ffn_dim": 40, "decoder_ffn_dim": 40, "max_position_embeddings": 40}
T5 = {**SIZES, "d_kv": 6, "d_ff": 40, "num_layers": 3, "num_decoder_layers": 2, "num_heads": 4, "pad_token_id": 0}
T5 |= {"relative_attention_num_buckets": 8, "relative_attention_max_distance": 20, "decoder_start_token_id": 0}
CASES = {"BartForConditionalGeneration": BART, "T5ForConditionalGeneration": T5}
KINDS = {
    "encoder_self_attention": "encoder_attentions",
    "decoder_self_attention": "decoder_attentions",
    "decoder_cross_attention": "cross_attentions",
}


@pytest.fixture(params=CASES)
def theirs(request):
    kind = getattr(transformers, request.param)
    model = kind(kind.config_class(**CASES[request.param], attn_implementation="eager")).eval()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name != "final_logits_bias":
                parameter.copy_(torch.normal(0.0, 0.3, tuple(parameter.shape), generator=generator))
    return model


@torch.no_grad()
def test_entropies_are_those_of_their_attentions_over_real_positions(theirs, tmp_path):
    theirs.save_pretrained(tmp_path)
    found = incoming(tmp_path, hf.read_settings(tmp_path))
    ours = filled(found.config, lambda name: found.sources[name]())
    rows = [np.random.default_rng(length).integers(5, 120, length) for length in (21, 8, 15)]
    batches = passes(rows, pad=found.config.pad_id, start=2, batch_tokens=1000)
    (batch,) = batches
    output = theirs(
        input_ids=batch.input_ids,
        attention_mask=batch.attention_mask.long(),
        decoder_input_ids=batch.decoder_input_ids,
        output_attentions=True,
    )
    measured = entropies(ours, batches, ["encoder", "decoder"])
    for kind, key in KINDS.items():
        for layer, attention in zip(measured[kind], getattr(output, key), strict=True):
            expected = entropy(attention).transpose(1, 2)[batch.attention_mask].mean(0)
            torch.testing.assert_close(torch.tensor(layer.nats), expected, rtol=0, atol=1e-5)
            assert max(layer.share) <= 1

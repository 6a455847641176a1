"""A small encoder, encoder-decoders around it, and their weights on disk."""

from __future__ import annotations

import dataclasses

import torch

from megas2s.files import publish, temporary_folder
from megas2s.models.config import ModelConfig
from megas2s.models.init import seeded
from megas2s.models.parameters import canonical_parameters
from megas2s.models.transformer import build
from megas2s.models.weights import open_weights, save_weights

ENCODER = ModelConfig(
    vocab_size=40, hidden_size=16, num_heads=2, ffn_size=24, num_encoder_layers=2, max_positions=16, dropout=0.0
)
TYINGS = ["tied", "tied_to_decoder", "untied"]
BATCH = {"input_ids": torch.arange(5, 23).view(2, 9), "decoder_input_ids": torch.arange(5, 19).view(2, 7)}
FACTS = {"tokenizer": "abc", "step": "12"}


def seq2seq(tying="tied", **changes):
    return dataclasses.replace(ENCODER, **{"num_decoder_layers": 2, "tying": tying, **changes})


def made(config, seed=1):
    with seeded(seed, "init"):
        return build(config).eval()


def write(model, folder, **options):
    temporary = temporary_folder(folder)
    save_weights(temporary, canonical_parameters(model).items(), config=model.config, metadata=FACTS, **options)
    publish(temporary, folder, {"kind": "weights"})
    return open_weights(folder)

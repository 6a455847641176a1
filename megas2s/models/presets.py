"""Shapes with a name, and how many parameters a shape has.

    preset("small", vocab_size=32_000)
    preset("encoder12_decoder2_1024", vocab_size=250_112)      any depth on either side, any width

A preset is an encoder-decoder; a stage that trains an encoder alone takes `encoder_only()` of it.
"""

from __future__ import annotations

import dataclasses
import math
import re

from megas2s.models.config import ModelConfig
from megas2s.models.parameters import parameter_shapes
from megas2s.spec import nearest

HEAD_SIZE = 64  # width of one attention head in the presets that do not say otherwise
ALEXATM_VOCABULARY = 150_016  # 150 k, rounded up to a multiple of 128
DEPTHS_AND_WIDTH = re.compile(r"encoder(\d+)_decoder(\d+)_(\d+)")


def _shape(
    encoder: int, decoder: int, width: int, *, num_heads: int | None = None, max_positions: int = 1024
) -> ModelConfig:
    return ModelConfig(
        vocab_size=1,
        hidden_size=width,
        num_heads=num_heads or max(1, width // HEAD_SIZE),
        ffn_size=4 * width,
        num_encoder_layers=encoder,
        num_decoder_layers=decoder,
        max_positions=max_positions,
    )


PRESETS: dict[str, ModelConfig] = {  # the vocabulary's size is the tokenizer's and is filled in by `preset`
    "tiny": _shape(2, 2, 64, num_heads=4, max_positions=256),
    "small": _shape(6, 6, 512),
    "base": _shape(12, 12, 768),
    "encoder12_decoder12_1024": _shape(12, 12, 1024),
    # Soltan et al. 2022, section 3: pre-LN, 32 heads, positions for 1024 tokens, no embedding tied to another.
    "alexatm_20b": dataclasses.replace(_shape(46, 32, 4096, num_heads=32), tying="untied"),
}


def preset(name: str, *, vocab_size: int, pad_id: int = 1) -> ModelConfig:
    """The shape called `name` for a vocabulary of `vocab_size`; change it further with `dataclasses.replace`."""
    found = PRESETS.get(name)
    numbers = DEPTHS_AND_WIDTH.fullmatch(name)
    if found is None and numbers:
        encoder, decoder, width = (int(number) for number in numbers.groups())
        found = _shape(encoder, decoder, width)
    if found is None:
        raise ValueError(f"no preset is called {name!r}; {nearest(name, PRESETS)}")
    return dataclasses.replace(found, vocab_size=vocab_size, pad_id=pad_id)


def count_parameters(config: ModelConfig) -> int:
    """Distinct parameters: a matrix with several roles counts once."""
    return sum(math.prod(shape) for shape in parameter_shapes(config).values())

"""Shapes with a name, and how many parameters a shape has.

    preset("small", vocab_size=32_000)
    preset("encoder12_decoder2_1024", vocab_size=250_112)      any depth on either side, any width

A preset is an encoder-decoder; a stage that trains an encoder alone takes `encoder_only()` of it.
"""

from __future__ import annotations

import math
import re
from dataclasses import replace

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


def _bart(layers: int, width: int) -> ModelConfig:
    """BART (Lewis et al. 2020): norms after the sublayers, all embeddings one."""
    shape = _shape(layers, layers, width)
    return replace(shape, norm_position="post", attention_dropout=0.1, ffn_dropout=0.1, family="bart")


def _t5(
    layers: int, width: int, ffn: int, heads: int, head: int = 64, *, gated: bool, family: str = "t5"
) -> ModelConfig:
    """T5 1.0 (Raffel et al. 2020), or gated: 1.1 and mT5 (Xue et al. 2021)."""
    return ModelConfig(
        vocab_size=1,
        hidden_size=width,
        num_heads=heads,
        head_size=None if heads * head == width else head,
        ffn_size=ffn,
        num_encoder_layers=layers,
        num_decoder_layers=layers,
        max_positions=512,
        tying="untied_head" if gated else "tied",
        family=family,
        activation="gelu_tanh" if gated else "relu",
        gated=gated,
        scale_head=not gated,
        biases=False,
        norm="rms",
        norm_epsilon=1e-6,
        embed_norm=False,
        positions="relative",
        scale_attention=False,
        decoder_start="pad",
        attention_dropout=0.1,
        ffn_dropout=0.1,
        output_dropout=0.1,
        init="fan_in",
        init_std=1.0,
    )


def _bert(layers: int, width: int, family: str, *, positions: int = 512, types: int = 0) -> ModelConfig:
    """Encoders of BERT's line (Devlin et al. 2019), without a decoder."""
    shape = _shape(layers, 0, width, max_positions=positions)
    shape = replace(shape, norm_position="post", attention_dropout=0.1, segment_types=types, family=family)
    return replace(shape, norm_epsilon=1e-12) if family == "bert" else shape


T5_SIZES = {  # layers, width, feed-forward, heads, width of a head
    "small": (6, 512, 2048, 8, 64),
    "base": (12, 768, 3072, 12, 64),
    "large": (24, 1024, 4096, 16, 64),
    "3b": (24, 1024, 16384, 32, 128),
    "11b": (24, 1024, 65536, 128, 128),
}
T5_1_1_SIZES = {
    "small": (8, 512, 1024, 6, 64),
    "base": (12, 768, 2048, 12, 64),
    "large": (24, 1024, 2816, 16, 64),
    "xl": (24, 2048, 5120, 32, 64),
    "xxl": (24, 4096, 10240, 64, 64),
}

PRESETS: dict[str, ModelConfig] = {  # the vocabulary's size is the tokenizer's and is filled in by `preset`
    "tiny": _shape(2, 2, 64, num_heads=4, max_positions=256),
    "small": _shape(6, 6, 512),
    "base": _shape(12, 12, 768),
    "encoder12_decoder12_1024": _shape(12, 12, 1024),
    # Soltan et al. 2022, section 3: pre-LN, 32 heads, positions for 1024 tokens, no embedding tied to another.
    "alexatm_20b": replace(_shape(46, 32, 4096, num_heads=32), tying="untied"),
    "bart_base": _bart(6, 768),
    "bart_large": _bart(12, 1024),
    # Liu et al. 2020: norms before the sublayers, embeddings scaled.
    "mbart_large": replace(_shape(12, 12, 1024), scale_embedding=True, family="mbart"),
    **{f"t5_{size}": _t5(*numbers, gated=False) for size, numbers in T5_SIZES.items()},
    **{f"t5_1_1_{size}": _t5(*numbers, gated=True) for size, numbers in T5_1_1_SIZES.items()},
    **{f"mt5_{size}": _t5(*numbers, gated=True, family="mt5") for size, numbers in T5_1_1_SIZES.items()},
    "roberta_base": _bert(12, 768, "roberta"),
    "roberta_large": _bert(24, 1024, "roberta"),
    "xlmr_base": _bert(12, 768, "xlm-roberta"),
    "xlmr_large": _bert(24, 1024, "xlm-roberta"),
    "bert_base": _bert(12, 768, "bert", types=2),
    "bert_large": _bert(24, 1024, "bert", types=2),
}


def preset(name: str, *, vocab_size: int, pad_id: int = 1) -> ModelConfig:
    """The shape called `name` for a vocabulary of `vocab_size`; change it further with `replace`."""
    found = PRESETS.get(name)
    numbers = DEPTHS_AND_WIDTH.fullmatch(name)
    if found is None and numbers:
        encoder, decoder, width = (int(number) for number in numbers.groups())
        found = _shape(encoder, decoder, width)
    if found is None:
        raise ValueError(f"no preset is called {name!r}; {nearest(name, PRESETS)}")
    return replace(found, vocab_size=vocab_size, pad_id=pad_id)


def count_parameters(config: ModelConfig) -> int:
    """Distinct parameters: a matrix with several roles counts once."""
    return sum(math.prod(shape) for shape in parameter_shapes(config).values())

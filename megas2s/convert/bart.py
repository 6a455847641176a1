"""Encoder-decoders as BART (Lewis et al. 2020) and MBart (Liu et al. 2020).

They differ in one thing: MBart has its norms before the sublayers and one more after each stack, BART after them.

What is odd there:
- both position tables have two rows before the first, which nothing reads
- `final_logits_bias` is a buffer of zeros
- tied, the file holds the vocabulary matrix once, as `model.shared`; otherwise it holds four: `model.shared`, a copy
  of the encoder's, is what `get_input_embeddings` returns and no forward pass reads, and the decoder's and the head's
  are separate parameters also where ours are one (`tied_to_decoder`): fine-tuned there they part
- transformers 4 has one matrix for both stacks also beside a head of its own, and stores it as `model.shared` alone
- every layer norm has epsilon 1e-5, without a key to change it
- the released BART is a `BartModel`: no `lm_head` and no prefix `model.` in its file, the head is the embedding
- MBart makes decoder inputs from labels by moving the row's last token, here always `</s>`, to the front; BART puts
  its start token there, `</s>` too
"""

from __future__ import annotations

from functools import partial
from typing import Literal

from megas2s.convert.names import (
    ACTIVATIONS,
    Entry,
    Family,
    Found,
    NameTable,
    Settings,
    Unlike,
    activation,
    decoder_start,
    fixed,
    read_keys,
    require,
    start_of,
    whole,
)
from megas2s.errors import BadConfig
from megas2s.models.config import ModelConfig
from megas2s.models.parameters import aliases, parameter_shapes
from megas2s.spec import parse
from megas2s.tokenizer.vocab import Vocabulary

EPSILON = 1e-5
LEADING = 2
BODY = "model."
SHARED = f"{BODY}shared.weight"
LOGITS_BIAS = "final_logits_bias"

NAMES = NameTable(
    {
        f"{stack}.{ours}": f"model.{stack}.{theirs}"
        for stack in ("encoder", "decoder")
        for ours, theirs in {
            "embed": "embed_tokens",
            "positions": "embed_positions",
            "embed_norm": "layernorm_embedding",
            "layers.{n}.self_attention_norm": "layers.{n}.self_attn_layer_norm",
            "layers.{n}.self_attention.q": "layers.{n}.self_attn.q_proj",
            "layers.{n}.self_attention.k": "layers.{n}.self_attn.k_proj",
            "layers.{n}.self_attention.v": "layers.{n}.self_attn.v_proj",
            "layers.{n}.self_attention.out": "layers.{n}.self_attn.out_proj",
            "layers.{n}.cross_attention_norm": "layers.{n}.encoder_attn_layer_norm",
            "layers.{n}.cross_attention.q": "layers.{n}.encoder_attn.q_proj",
            "layers.{n}.cross_attention.k": "layers.{n}.encoder_attn.k_proj",
            "layers.{n}.cross_attention.v": "layers.{n}.encoder_attn.v_proj",
            "layers.{n}.cross_attention.out": "layers.{n}.encoder_attn.out_proj",
            "layers.{n}.ffn_norm": "layers.{n}.final_layer_norm",
            "layers.{n}.ffn.up": "layers.{n}.fc1",
            "layers.{n}.ffn.down": "layers.{n}.fc2",
            "norm": "layer_norm",
        }.items()
    }
    | {"head": "lm_head"}
)


INTEGERS = {
    "vocab_size": "vocab_size",
    "hidden_size": "d_model",
    "num_heads": "encoder_attention_heads",
    "ffn_size": "encoder_ffn_dim",
    "num_encoder_layers": "encoder_layers",
    "num_decoder_layers": "decoder_layers",
    "max_positions": "max_position_embeddings",
    "pad_id": "pad_token_id",
}
NUMBERS = {
    "dropout": "dropout",
    "attention_dropout": "attention_dropout",
    "ffn_dropout": "activation_dropout",
    "init_std": "init_std",
}


def family(model_type: str, title: str, norm_position: Literal["pre", "post"]) -> Family:
    """A family with norms before or after the sublayers."""
    check = partial(fixed, title=title, free=("activation", "scale_embedding"), norm_position=norm_position)

    def settings(config: ModelConfig, vocabulary: Vocabulary) -> dict[str, object]:
        check(config)
        if config.tying == "untied_head":
            raise Unlike([f"the model's tying is 'untied_head', and {title} has all matrices apart or none"])
        return {
            "vocab_size": config.vocab_size,
            "d_model": config.hidden_size,
            "encoder_layers": config.num_encoder_layers,
            "decoder_layers": config.num_decoder_layers,
            "encoder_attention_heads": config.num_heads,
            "decoder_attention_heads": config.num_heads,
            "encoder_ffn_dim": config.ffn_size,
            "decoder_ffn_dim": config.ffn_size,
            "activation_function": ACTIVATIONS[config.activation],
            "dropout": config.dropout,
            "attention_dropout": config.attention_dropout,
            "activation_dropout": config.ffn_dropout,
            "encoder_layerdrop": 0.0,
            "decoder_layerdrop": 0.0,
            "max_position_embeddings": config.max_positions,
            "init_std": config.init_std,
            "scale_embedding": config.scale_embedding,
            "pad_token_id": config.pad_id,
            "bos_token_id": vocabulary.bos,
            "eos_token_id": vocabulary.eos,
            "decoder_start_token_id": decoder_start(config, vocabulary),
            "forced_eos_token_id": None,  # a text cut short by max_length should not look finished
            "is_encoder_decoder": True,
            "tie_word_embeddings": config.tying == "tied",
        }

    def model_config(theirs: Settings, found: Found) -> ModelConfig:
        values = _values(theirs) | {"norm_position": norm_position, "family": model_type}
        config: ModelConfig = parse(ModelConfig, values, source="config.json")
        return config

    return Family(
        model_type=model_type,
        part="seq2seq",
        architectures={f"{title}ForConditionalGeneration": True, f"{title}Model": False},
        settings=settings,
        model_config=model_config,
        entries=entries,
        copies=copies,
        keys=INTEGERS | NUMBERS | {"activation": "activation_function"},
        otherwise=otherwise,
        body=BODY,
    )


def _values(theirs: Settings) -> dict[str, object]:
    """The keys of config.json as ours; without tied embeddings, all three matrices are apart."""
    require(
        theirs,
        "config.json",
        {"encoder_layerdrop": 0.0, "decoder_layerdrop": 0.0, "is_encoder_decoder": True},
    )
    for ours, pair in {
        "attention heads": ("encoder_attention_heads", "decoder_attention_heads"),
        "widths of the feed-forward": ("encoder_ffn_dim", "decoder_ffn_dim"),
    }.items():
        one, other = (whole(theirs, key) for key in pair)
        if one != other:
            raise BadConfig(
                f"config.json has {pair[0]} {one} and {pair[1]} {other}: models here have the same {ours} in both "
                "stacks; convert another model"
            )
    return {
        **read_keys(theirs, integers=INTEGERS, numbers=NUMBERS),
        "tying": "tied" if theirs.get("tie_word_embeddings", True) else "untied",
        "activation": activation(theirs, "activation_function"),
        "norm_epsilon": EPSILON,
        "scale_embedding": bool(theirs.get("scale_embedding", False)),
        "decoder_start": start_of(theirs),
    }


def entries(config: ModelConfig, head: bool) -> list[Entry]:
    """The tensors of the file; a class without a head has no prefix, and its head is the embedding."""
    table = (config.vocab_size, config.hidden_size)
    roles = [role for several in aliases(config).values() for role in several]
    plan = [Entry(LOGITS_BIAS, None, (1, config.vocab_size)), Entry(SHARED, "encoder.embed.weight", table)]
    if config.tying != "tied":
        plan += [Entry(NAMES.theirs(role), role, table) for role in roles]
    for ours, shape in parameter_shapes(config).items():
        if ours in aliases(config):
            continue
        if ours.endswith(".positions.weight"):
            plan.append(Entry(NAMES.theirs(ours), ours, (shape[0] + LEADING, shape[1]), LEADING))
        else:
            plan.append(Entry(NAMES.theirs(ours), ours, shape))
    if head:
        return plan
    return [entry._replace(theirs=entry.theirs.removeprefix(BODY)) for entry in plan if entry.theirs.startswith(BODY)]


def copies(config: ModelConfig, head: bool) -> dict[str, str]:
    """What older files repeat where all embeddings are tied."""
    if config.tying != "tied":
        return {}
    repeated = {NAMES.theirs(role): SHARED for role in ("encoder.embed.weight", "decoder.embed.weight", "head.weight")}
    return repeated if head else {name.removeprefix(BODY): SHARED.removeprefix(BODY) for name in repeated}


def otherwise(config: ModelConfig) -> dict[str, str]:
    """Beside a head of its own, what transformers 4 did not store apart."""
    if config.tying == "tied":
        return {}
    encoder, decoder = (NAMES.theirs(f"{stack}.embed.weight") for stack in ("encoder", "decoder"))
    return {encoder: SHARED, decoder: SHARED, SHARED: encoder}


BART = family("bart", "Bart", "post")
MBART = family("mbart", "MBart", "pre")

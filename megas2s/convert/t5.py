"""Encoder-decoders as T5 (Raffel et al. 2020) and mT5 (Xue et al. 2021), and their encoders alone.

T5 1.0 has ReLU, one matrix for everything, and scales the decoder's states before it; 1.1 and mT5 gate a tanh-GELU,
have a head of their own, and scale nothing.

What is odd there:
- transformers 5 says `tie_word_embeddings` of every T5, keeps the scaling apart (`scale_decoder_outputs`), and keeps a
  distinct `lm_head` that is in the file: so whether the head is distinct is read from the weights, and an export with
  a head of its own writes both matrices
- encoder and decoder always embed with one matrix, `shared`
- the table of relative positions lies in the first layer of each stack; there is no bound on the length of a row
- one `dropout_rate` stands for all four of ours
- an encoder alone has no head for masked language modelling
- published files still say `T5WithLMHeadModel`, the class's first name
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from megas2s.convert.names import (
    ACTIVATIONS,
    Entry,
    Family,
    Found,
    NameTable,
    Part,
    Settings,
    Unlike,
    decoder_start,
    fixed,
    read_keys,
    require,
    start_of,
    whole,
)
from megas2s.errors import BadConfig
from megas2s.models.config import ModelConfig
from megas2s.models.parameters import parameter_shapes
from megas2s.spec import parse
from megas2s.tokenizer.vocab import Vocabulary

SHARED, HEAD = "shared.weight", "lm_head.weight"
EMBEDDINGS = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")  # what the shared one may be called too
MAX_POSITIONS = 512  # of the published ones; a length for tokenizers, not a bound of the model

SWITCHES: dict[str, object] = {
    "biases": False,
    "norm": "rms",
    "embed_norm": False,
    "positions": "relative",
    "scale_attention": False,
}
FREE = ("activation", "gated", "head_size", "norm_epsilon", "scale_head")

FEED_FORWARDS = {  # our activation, and whether it gates -> their name; their "gated-gelu" is the tanh one
    **{(ours, False): theirs for ours, theirs in ACTIVATIONS.items()},
    ("gelu_tanh", True): "gated-gelu",
    ("relu", True): "gated-relu",
    ("silu", True): "gated-silu",
}

INTEGERS = {
    "vocab_size": "vocab_size",
    "hidden_size": "d_model",
    "num_heads": "num_heads",
    "ffn_size": "d_ff",
    "num_encoder_layers": "num_layers",
    "relative_buckets": "relative_attention_num_buckets",
    "relative_max_distance": "relative_attention_max_distance",
    "pad_id": "pad_token_id",
}
NUMBERS = dict.fromkeys(("dropout", "attention_dropout", "ffn_dropout", "output_dropout"), "dropout_rate") | {
    "norm_epsilon": "layer_norm_epsilon",
    "init_std": "initializer_factor",
}
OTHERS = {"num_decoder_layers": "num_decoder_layers", "max_positions": "n_positions", "head_size": "d_kv"}
OTHERS |= {"activation": "feed_forward_proj"}

MODULES = {"self_attention": "SelfAttention", "cross_attention": "EncDecAttention", "ffn": "DenseReluDense"}
ATTENTION = {"q": "q", "k": "k", "v": "v", "out": "o"}
FEED_FORWARD = {False: {"up": "wi", "down": "wo"}, True: {"gate": "wi_0", "up": "wi_1", "down": "wo"}}


def names(*, gated: bool) -> NameTable:
    """Canonical names to theirs; a gated feed-forward has other names."""
    table = {}
    for stack, sublayers in {
        "encoder": ("self_attention", "ffn"),
        "decoder": ("self_attention", "cross_attention", "ffn"),
    }.items():
        table[f"{stack}.relative_bias"] = f"{stack}.block.0.layer.0.SelfAttention.relative_attention_bias"
        table[f"{stack}.norm"] = f"{stack}.final_layer_norm"
        for place, sublayer in enumerate(sublayers):
            ours, theirs = f"{stack}.layers.{{n}}.{sublayer}", f"{stack}.block.{{n}}.layer.{place}"
            table[f"{ours}_norm"] = f"{theirs}.layer_norm"
            inside = FEED_FORWARD[gated] if sublayer == "ffn" else ATTENTION
            module = MODULES[sublayer]
            table |= {f"{ours}.{one}": f"{theirs}.{module}.{other}" for one, other in inside.items()}
    return NameTable(table)


def settings(config: ModelConfig, vocabulary: Vocabulary, *, title: str, scales: bool) -> dict[str, object]:
    """The content of config.json, class name and dtype apart; `scales`: whether the family knows of a scaled head."""
    fixed(config, title, free=FREE, **SWITCHES)
    if config.is_seq2seq and config.tying not in ("tied", "untied_head"):
        raise Unlike([f"the model's tying is {config.tying!r}, and {title} has 'tied' or 'untied_head' only"])
    if config.scale_head and not scales:
        raise Unlike([f"the model's scale_head is True, and {title} has False only"])
    return {
        "vocab_size": config.vocab_size,
        "d_model": config.hidden_size,
        "d_kv": config.head_width,
        "d_ff": config.ffn_size,
        "num_layers": config.num_encoder_layers,
        "num_decoder_layers": config.num_decoder_layers or config.num_encoder_layers,
        "num_heads": config.num_heads,
        "relative_attention_num_buckets": config.relative_buckets,
        "relative_attention_max_distance": config.relative_max_distance,
        "dropout_rate": config.dropout,
        "layer_norm_epsilon": config.norm_epsilon,
        "initializer_factor": config.init_std if config.init == "fan_in" else 1.0,
        "feed_forward_proj": _feed_forward(config, title),
        "n_positions": config.max_positions,
        "pad_token_id": config.pad_id,
        "eos_token_id": vocabulary.eos,
        "decoder_start_token_id": decoder_start(config, vocabulary),
        "is_encoder_decoder": config.is_seq2seq,
        "tie_word_embeddings": config.tying == "tied",
        **({"scale_decoder_outputs": config.scale_head} if scales else {}),
    }


def model_config(theirs: Settings, found: Found, *, model_type: str, part: Part, scales: bool) -> ModelConfig:
    """The shape that a config.json and the tensors beside it describe."""
    require(theirs, "config.json", {"is_decoder": False})
    feed_forward = str(theirs.get("feed_forward_proj"))
    known = {name: shape for shape, name in FEED_FORWARDS.items()}
    if feed_forward not in known:
        raise BadConfig(
            f"config.json has feed_forward_proj {feed_forward!r}; models here have one of {', '.join(known)}, convert "
            "another model"
        )
    act, gated = known[feed_forward]
    require(theirs, "config.json", dict(zip(("is_gated_act", "dense_act_fn"), _acts(feed_forward), strict=True)))
    plain = read_keys(theirs, integers=INTEGERS, numbers=NUMBERS)
    head_width, seq2seq = whole(theirs, "d_kv"), part == "seq2seq"
    values = {
        **SWITCHES,
        **plain,
        "head_size": None if plain["hidden_size"] == head_width * whole(theirs, "num_heads") else head_width,
        "num_decoder_layers": whole(theirs, "num_decoder_layers") if seq2seq else 0,
        "max_positions": whole(theirs, "n_positions") if "n_positions" in theirs else MAX_POSITIONS,
        "tying": "untied_head" if seq2seq and _has_own_head(theirs, found) else "tied",
        "family": model_type,
        "activation": act,
        "gated": gated,
        "scale_head": scales and seq2seq and bool(theirs.get("scale_decoder_outputs")),
        "init": "fan_in",
        "decoder_start": start_of(theirs),
    }
    config: ModelConfig = parse(ModelConfig, values, source="config.json")
    return config


def _acts(feed_forward: str) -> tuple[bool, str]:
    """What transformers computes with: it derives two keys from the one, and believes them where they are given."""
    gated, act = feed_forward.startswith("gated-"), feed_forward.removeprefix("gated-")
    return gated, "gelu_new" if (gated, act) == (True, "gelu") else act


def _has_own_head(theirs: Settings, found: Found) -> bool:
    """Whether the head is another matrix than the embedding; alone, it is both where config.json ties the two."""
    if HEAD not in found.names:
        return False
    embedding = next((name for name in (SHARED, *EMBEDDINGS) if name in found.names), None)
    return not (theirs.get("scale_decoder_outputs") if embedding is None else found.same(HEAD, embedding))


def entries(config: ModelConfig, head: bool) -> list[Entry]:
    """The tensors of the file."""
    table = names(gated=config.gated)
    plan = [Entry(SHARED, "encoder.embed.weight", (config.vocab_size, config.hidden_size))]
    for ours, shape in parameter_shapes(config).items():
        if ours in ("shared.weight", "encoder.embed.weight") or ours.startswith("mlm."):
            continue
        plan.append(Entry(HEAD if ours == "head.weight" else table.theirs(ours), ours, shape))
    return plan


def copies(config: ModelConfig, head: bool) -> dict[str, str]:
    """What files may repeat."""
    repeated = [*EMBEDDINGS] if config.is_seq2seq else [*EMBEDDINGS[:1]]
    return dict.fromkeys(repeated + [HEAD] * (config.is_seq2seq and config.tying == "tied"), SHARED)


def _feed_forward(config: ModelConfig, title: str) -> str:
    found = FEED_FORWARDS.get((config.activation, config.gated))
    if found is None:
        gated = "gated " if config.gated else ""
        raise Unlike([f"the model has a {gated}feed-forward with {config.activation}, for which {title} has no name"])
    return found


def _families(
    model_type: str, title: str, prefix: str, *, scales: bool, older: Sequence[str] = ()
) -> tuple[Family, Family]:
    """The encoder-decoder and the encoder; `older` are names that the first had before."""
    classes: dict[Part, dict[str, bool]] = {
        "seq2seq": dict.fromkeys((f"{prefix}ForConditionalGeneration", *older), True),
        "encoder": {f"{prefix}EncoderModel": False},
    }
    both = (
        Family(
            model_type=model_type,
            part=part,
            architectures=architectures,
            settings=partial(settings, title=title, scales=scales),
            model_config=partial(model_config, model_type=model_type, part=part, scales=scales),
            entries=entries,
            copies=copies,
            keys=INTEGERS | NUMBERS | OTHERS,
            dropped=("decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.",),  # of the first releases
        )
        for part, architectures in classes.items()
    )
    seq2seq, encoder = both
    return seq2seq, encoder


T5, T5_ENCODER = _families("t5", "T5", "T5", scales=True, older=["T5WithLMHeadModel"])
MT5, MT5_ENCODER = _families("mt5", "mT5", "MT5", scales=False)

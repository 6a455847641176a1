"""The encoder as `RobertaPreLayerNorm` of transformers (fairseq, Ott et al. 2019), with its MLM head or without.

An encoder that was trained alone is a `RobertaPreLayerNormForMaskedLM`. The encoder of a seq2seq model has no MLM
head and is a `RobertaPreLayerNormModel`: what AutoModel, and every fine-tuning class, loads. A head made up for it
would look trained and not be.

What is odd there:
- positions count from pad_id + 1, so the table has pad_id + 1 rows before the first; only padding reads one of them
- token types are one row of zeros; an imported row that is not zero is added to every position instead
- the projection onto the vocabulary (`lm_head.decoder`) is tied to the embedding and its bias to `lm_head.bias`
- `LayerNorm` before self-attention lies in `attention`, the one before the feed-forward in `intermediate`
"""

from __future__ import annotations

from megas2s.convert.names import Entry, Family, NameTable, Settings, activation, number, require, whole
from megas2s.errors import BadConfig
from megas2s.models.config import ModelConfig
from megas2s.models.parameters import parameter_shapes
from megas2s.spec import parse
from megas2s.tokenizer.vocab import Vocabulary

BODY = "roberta_prelayernorm."  # absent where the class has no head
TOKEN_TYPES = "embeddings.token_type_embeddings.weight"

NAMES = NameTable(
    {
        "encoder.embed": "embeddings.word_embeddings",
        "encoder.positions": "embeddings.position_embeddings",
        "encoder.embed_norm": "embeddings.LayerNorm",
        "encoder.layers.{n}.self_attention_norm": "encoder.layer.{n}.attention.LayerNorm",
        "encoder.layers.{n}.self_attention.q": "encoder.layer.{n}.attention.self.query",
        "encoder.layers.{n}.self_attention.k": "encoder.layer.{n}.attention.self.key",
        "encoder.layers.{n}.self_attention.v": "encoder.layer.{n}.attention.self.value",
        "encoder.layers.{n}.self_attention.out": "encoder.layer.{n}.attention.output.dense",
        "encoder.layers.{n}.ffn_norm": "encoder.layer.{n}.intermediate.LayerNorm",
        "encoder.layers.{n}.ffn.up": "encoder.layer.{n}.intermediate.dense",
        "encoder.layers.{n}.ffn.down": "encoder.layer.{n}.output.dense",
        "encoder.norm": "LayerNorm",
        "mlm": "lm_head",  # its bias
        "mlm.dense": "lm_head.dense",
        "mlm.norm": "lm_head.layer_norm",
    }
)


def settings(config: ModelConfig, vocabulary: Vocabulary) -> dict[str, object]:
    """The content of config.json, class name and dtype apart."""
    return {
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "num_hidden_layers": config.num_encoder_layers,
        "num_attention_heads": config.num_heads,
        "intermediate_size": config.ffn_size,
        "hidden_act": config.activation,
        "hidden_dropout_prob": config.dropout,
        "attention_probs_dropout_prob": config.attention_dropout,
        "max_position_embeddings": config.max_positions + config.pad_id + 1,
        "type_vocab_size": 1,
        "initializer_range": config.init_std,
        "layer_norm_eps": config.norm_epsilon,
        "pad_token_id": config.pad_id,
        "bos_token_id": vocabulary.bos,
        "eos_token_id": vocabulary.eos,
        "is_decoder": False,
        "add_cross_attention": False,
        "tie_word_embeddings": True,
    }


def model_config(theirs: Settings) -> ModelConfig:
    """The shape that a config.json describes."""
    require(theirs, "config.json", {"is_decoder": False, "add_cross_attention": False})
    require(theirs, "config.json", {"position_embedding_type": "absolute", "tie_word_embeddings": True})
    pad = whole(theirs, "pad_token_id")
    positions = whole(theirs, "max_position_embeddings") - pad - 1
    if positions < 1:
        raise BadConfig(
            f"config.json has max_position_embeddings {positions + pad + 1} and pad_token_id {pad}: positions count "
            "from pad_token_id + 1, so none is left; correct it"
        )
    values = {
        "vocab_size": whole(theirs, "vocab_size"),
        "hidden_size": whole(theirs, "hidden_size"),
        "num_heads": whole(theirs, "num_attention_heads"),
        "ffn_size": whole(theirs, "intermediate_size"),
        "num_encoder_layers": whole(theirs, "num_hidden_layers"),
        "max_positions": positions,
        "activation": activation(theirs, "hidden_act"),
        "norm_epsilon": number(theirs, "layer_norm_eps"),
        "dropout": number(theirs, "hidden_dropout_prob"),
        "attention_dropout": number(theirs, "attention_probs_dropout_prob"),
        "init_std": number(theirs, "initializer_range"),
        "pad_id": pad,
    }
    config: ModelConfig = parse(ModelConfig, values, source="config.json")
    return config


def entries(config: ModelConfig, head: bool) -> list[Entry]:
    """The tensors of the file."""
    body = BODY if head else ""
    plan = [Entry(body + TOKEN_TYPES, None, (1, config.hidden_size), folded_into="encoder.positions.weight")]
    for ours, shape in parameter_shapes(config).items():
        theirs = NAMES.theirs(ours)
        if ours.startswith("mlm."):
            plan += [Entry(theirs, ours, shape)] if head else []
        elif ours == "encoder.positions.weight":
            leading = config.pad_id + 1
            plan.append(Entry(body + theirs, ours, (shape[0] + leading, shape[1]), leading))
        else:
            plan.append(Entry(body + theirs, ours, shape))
    return plan


def copies(config: ModelConfig, head: bool) -> dict[str, str]:
    """What older files repeat."""
    embedding = f"{BODY}embeddings.word_embeddings.weight"
    return {"lm_head.decoder.weight": embedding, "lm_head.decoder.bias": "lm_head.bias"} if head else {}


FAMILY = Family(
    model_type="roberta-prelayernorm",
    part="encoder",
    architectures={"RobertaPreLayerNormForMaskedLM": True, "RobertaPreLayerNormModel": False},
    settings=settings,
    model_config=model_config,
    entries=entries,
    copies=copies,
    dropped=("pooler.", "embeddings.position_ids", f"{BODY}embeddings.position_ids"),  # AutoModel makes up a pooler
)

"""Small random models of published kinds, in folders as transformers saves them with a tokenizer of their own."""

from __future__ import annotations

from pathlib import Path

import torch
import transformers

from .small_tokenizers import KINDS

BART = {"d_model": 32, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4}
BART |= {"decoder_attention_heads": 4, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "max_position_embeddings": 64}
T5 = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4, "decoder_start_token_id": 0}
BERT = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
BERT |= {"max_position_embeddings": 64}


def save_pretrained(folder: Path, *, tokenizer: str, kind: str, sizes: dict[str, object]) -> type:
    """A model of the class `kind` with a tokenizer of that name among `small_tokenizers.KINDS`; returns the class."""
    library, roles = KINDS[tokenizer]()
    theirs = transformers.PreTrainedTokenizerFast(tokenizer_object=library, **roles)
    theirs.save_pretrained(folder)
    eos = theirs.eos_token_id if theirs.eos_token_id is not None else theirs.sep_token_id
    architecture = getattr(transformers, kind)
    settings = {**sizes, "vocab_size": len(theirs), "pad_token_id": theirs.pad_token_id, "eos_token_id": eos}
    settings |= {"bos_token_id": theirs.bos_token_id}
    settings |= {"decoder_start_token_id": eos} if kind.startswith(("Bart", "MBart")) else {}
    torch.manual_seed(4)
    architecture(architecture.config_class(**settings)).save_pretrained(folder)
    return architecture

"""Encoders as RoBERTa (Liu et al. 2019), XLM-R (Conneau et al. 2020), and RoBERTa with norms before the sublayers.

`roberta-prelayernorm` (fairseq, Ott et al. 2019) is what our own recipes train. An encoder that was trained alone is a
`...ForMaskedLM`. The encoder of a seq2seq model has no MLM head and is a `...Model`: what AutoModel, and every
fine-tuning class, loads. A head made up for it would look trained and not be.

What is odd there:
- positions count from pad_id + 1, so the table has pad_id + 1 rows before the first; only padding reads one of them
- token types are one row of zeros
- the projection onto the vocabulary (`lm_head.decoder`) is tied to the embedding and its bias to `lm_head.bias`
- in the pre-norm kind, `LayerNorm` before self-attention lies in `attention`, the one before the feed-forward in
  `intermediate`, and one more after the last layer
"""

from __future__ import annotations

from megas2s.convert.encoders import POST, encoder_family
from megas2s.convert.names import Family

PRE = {
    "encoder.layers.{n}.self_attention_norm": "encoder.layer.{n}.attention.LayerNorm",
    "encoder.layers.{n}.ffn_norm": "encoder.layer.{n}.intermediate.LayerNorm",
    "encoder.norm": "LayerNorm",
}
HEAD = {"mlm": "lm_head", "mlm.dense": "lm_head.dense", "mlm.norm": "lm_head.layer_norm"}  # the first is its bias


def _family(model_type: str, title: str, prefix: str, body: str, *, pre: bool = False) -> Family:
    return encoder_family(
        model_type=model_type,
        title=title,
        architectures={f"{prefix}ForMaskedLM": True, f"{prefix}Model": False},
        body=body,
        norms=PRE if pre else POST,
        norm_position="pre" if pre else "post",
        head=HEAD,
        copies={
            "lm_head.decoder.weight": f"{body}embeddings.word_embeddings.weight",
            "lm_head.decoder.bias": "lm_head.bias",
        },
        first_position=lambda pad: pad + 1,
    )


ROBERTA = _family("roberta", "RoBERTa", "Roberta", "roberta.")
XLM_ROBERTA = _family("xlm-roberta", "XLM-R", "XLMRoberta", "roberta.")
PRE_LAYER_NORM = _family(
    "roberta-prelayernorm", "RobertaPreLayerNorm", "RobertaPreLayerNorm", "roberta_prelayernorm.", pre=True
)

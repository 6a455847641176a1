"""Encoders as BERT (Devlin et al. 2019) and ELECTRA (Clark et al. 2020).

What is odd there:
- BERT's head has the activation of the layers, ours has gelu; so BERT is gelu here, as all published ones are
- the head for next sentences, the pooler, and ELECTRA's discriminator head are left behind
- ELECTRA's embeddings may be narrower than its layers; its head leads back to their width
"""

from __future__ import annotations

from megas2s.convert.encoders import encoder_family

BERT = encoder_family(
    model_type="bert",
    title="BERT",
    architectures={"BertForMaskedLM": True, "BertModel": False, "BertForPreTraining": True},
    body="bert.",
    head={
        "mlm": "cls.predictions",
        "mlm.dense": "cls.predictions.transform.dense",
        "mlm.norm": "cls.predictions.transform.LayerNorm",
    },
    copies={
        "cls.predictions.decoder.weight": "bert.embeddings.word_embeddings.weight",
        "cls.predictions.decoder.bias": "cls.predictions.bias",
    },
    first_position=lambda pad: 0,
    free=(),
    dropped=("cls.seq_relationship.",),
)

ELECTRA = encoder_family(
    model_type="electra",
    title="ELECTRA",
    architectures={"ElectraForMaskedLM": True, "ElectraModel": False, "ElectraForPreTraining": False},
    body="electra.",
    head={
        "mlm": "generator_lm_head",
        "mlm.dense": "generator_predictions.dense",
        "mlm.norm": "generator_predictions.LayerNorm",
    },
    copies={"generator_lm_head.weight": "electra.embeddings.word_embeddings.weight"},
    first_position=lambda pad: 0,
    free=("activation", "embedding_size"),
    dropped=("discriminator_predictions.",),
)

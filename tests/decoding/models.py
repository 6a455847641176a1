"""Small random models that write, each in its way, and their logits by whole passes without a cache."""

from __future__ import annotations

import torch

from megas2s.decoding.rules import Rules
from megas2s.models.config import ModelConfig
from megas2s.models.init import seeded
from megas2s.models.transformer import build

SIZES = {"vocab_size": 40, "hidden_size": 16, "num_heads": 2, "ffn_size": 32, "max_positions": 32, "init_std": 0.5}
KINDS = ("decoder", "causal", "masked")
MASK = 4
RULES = {
    "decoder": Rules(start=2, eos=2, pad=1, length=9),
    "causal": Rules(start=2, eos=2, pad=1, length=9),
    "masked": Rules(start=2, eos=2, pad=1, length=9, mask=MASK),
}


def made(kind: str):
    decoder = {"num_decoder_layers": 2} if kind == "decoder" else {"segment_types": 2}
    with seeded(5, kind):
        return build(ModelConfig(**SIZES, num_encoder_layers=2, **decoder)).eval()


def sources():
    """Three rows of 7, 5 and 2 tokens."""
    ids = torch.randint(5, 40, (3, 7), generator=torch.Generator().manual_seed(2))
    real = torch.arange(7) < torch.tensor([7, 5, 2])[:, None]
    return {"input_ids": ids.masked_fill(~real, 1), "attention_mask": real.long()}


@torch.no_grad()
def logits_of(model, batch, row: int, ids: list[int], rules: Rules):
    """Scores of the token that follows `ids` for one source, (V,), by a whole pass over that row alone."""
    source = {"input_ids": batch["input_ids"][row : row + 1, : int(batch["attention_mask"][row].sum())]}
    if rules.mask is not None:
        output = model({**source, "target_ids": torch.tensor([[*ids, rules.mask]])})
        return model.logits(output.encoder_hidden[0, -1])
    written = torch.tensor([[rules.start, *ids]])
    if model.config.is_seq2seq:
        return model.logits(model({**source, "decoder_input_ids": written}).decoder_hidden[0, -1])
    return model.logits(model({**source, "target_ids": written}).encoder_hidden[0, -1])

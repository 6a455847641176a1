"""A source, its target and pseudo tokens as one row of transformers: what `models.packed` is compared with.

It knows nothing of blocks: one square mask over all columns, which is added to the scores, and positions and types.
"""

from __future__ import annotations

import torch

from .cases import VOCABULARY, Case

ENDS = (9, 6, 2)  # of the sources, real tokens
WRITTEN = 7
SOURCE, TARGET = 0, 1


def batch(case: Case, *, pseudo: bool, spans: bool = False) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(9)
    real = torch.arange(max(ENDS)) < torch.tensor(ENDS)[:, None]
    drawn = torch.randint(5, VOCABULARY, (3, len(ENDS), max(ENDS)), generator=generator)
    found = {"input_ids": drawn[0].masked_fill(~real, case.pad), "attention_mask": real.long()}
    found |= {"target_ids": drawn[1, :, :WRITTEN]}
    found |= {"pseudo_ids": drawn[2, :, :WRITTEN]} if pseudo else {}
    return found | ({"target_spans": torch.tensor([[0, 0, 1, 1, 1, 2, 3]]).expand(3, -1)} if spans else {})


def sees(asks: int, at: int, asked: int, there: int) -> bool:
    """Whether a column looks at a real one, by their blocks and places (Bao et al. 2021, figure 1)."""
    if asks == SOURCE or asked == SOURCE:
        return asked == SOURCE
    if asks == TARGET:
        return asked == TARGET and there <= at
    return there < at if asked == TARGET else there == at


def packed(given: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The row as transformers takes it, its mask filled in column by column."""
    blocks = [given[name] for name in ("input_ids", "target_ids", "pseudo_ids") if name in given]
    width, copies = blocks[0].shape[1], len(blocks) - 1
    kinds = [number for number, block in enumerate(blocks) for _ in range(block.shape[1])]
    order = given.get("target_spans", torch.arange(WRITTEN).expand(len(ENDS), -1))
    hidden = torch.ones(len(ENDS), 1, len(kinds), len(kinds), dtype=torch.bool)
    for row, end in enumerate(ENDS):
        columns = list(zip(kinds, [*range(width), *(order[row].tolist() * copies)], strict=True))
        for query, asking in enumerate(columns):
            for key, other in enumerate(columns):
                padding = other[0] == SOURCE and key >= end
                hidden[row, 0, query, key] = padding or not sees(*asking, *other)
    after = torch.tensor(ENDS)[:, None] + torch.arange(WRITTEN)
    return {
        "input_ids": torch.cat(blocks, dim=1),
        "position_ids": torch.cat([torch.arange(width).expand(len(ENDS), -1), *([after] * copies)], dim=1),
        "token_type_ids": torch.tensor(kinds).clamp(max=1).expand(len(ENDS), -1),
        "attention_mask": torch.zeros(hidden.shape).masked_fill(hidden, torch.finfo(torch.float32).min),
    }

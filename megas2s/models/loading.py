"""A model with given values, for looking at what it does: what compares and analyses weights builds it here.

It is made without memory and takes each tensor as it is read, so that nothing is held twice and nothing is random.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from megas2s.models.config import ModelConfig
from megas2s.models.parameters import canonical_parameters
from megas2s.models.transformer import EncoderModel, Seq2SeqModel, build


def filled(
    config: ModelConfig, value: Callable[[str], Tensor], *, masked_head: bool = True
) -> EncoderModel | Seq2SeqModel:
    """The model of `config` with `value(canonical name)` for each parameter, in evaluation mode.

    Without `masked_head`, the head for masked language modelling stays empty and must not be called.
    """
    with torch.device("meta"):
        model = build(config)
    names = {id(parameter): name for name, parameter in canonical_parameters(model).items()}
    read: dict[str, Tensor] = {}
    state: dict[str, Tensor] = {}
    for place, parameter in model.named_parameters(remove_duplicate=False):
        name = names[id(parameter)]
        if name.startswith("mlm.") and not masked_head:
            continue
        if name not in read:
            read[name] = value(name)
        state[place] = read[name]
    model.load_state_dict(state, assign=True, strict=masked_head)
    model.eval()
    return model

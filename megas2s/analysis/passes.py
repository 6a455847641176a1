"""Forward passes of a whole model over sentences, and a look at what its modules are given and give.

    watch(model, passes, places, see)      see(place, call) after each call of each watched module

The encoder reads a sentence framed as in training; the decoder reads the same sentence one later (teacher forcing), and
so rebuilds what it is shown. Layers count from 1; 0 is what the first one reads.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from megas2s.errors import BadCheckpoint
from megas2s.models.transformer import EncoderModel, Model, Seq2SeqModel
from megas2s.objectives.noise import teacher_forced

Stack = Literal["encoder", "decoder"]


class Place(NamedTuple):
    """One module of one layer."""

    stack: Stack
    layer: int
    part: str  # as the layer calls it: "self_attention", "ffn"


class Pass(NamedTuple):
    """A few rows as a model reads them, padded on the right."""

    rows: list[int]  # which ones of all
    input_ids: Tensor  # (B, S)
    attention_mask: Tensor  # (B, S) bool
    decoder_input_ids: Tensor  # (B, S): the decoder reads as many

    def to(self, device: torch.device) -> Pass:
        """The same rows there."""
        return Pass(self.rows, *(tensor.to(device) for tensor in self[1:]))


class Call(NamedTuple):
    """One call of a module: what it was given, what it gave, and where rows are real."""

    inputs: tuple[Any, ...]
    options: dict[str, Any]
    output: Tensor
    rows: list[int]
    real: Tensor  # (B, T) bool, of the positions that the module's stack reads


def passes(rows: Sequence[np.ndarray], *, pad: int, start: int, batch_tokens: int) -> list[Pass]:
    """Framed rows in batches of at most `batch_tokens`, padding included, rows of like length together."""
    order = sorted(range(len(rows)), key=lambda row: (len(rows[row]), row))
    groups: list[list[int]] = [[]]
    for row in order:
        if groups[-1] and (len(groups[-1]) + 1) * len(rows[row]) > batch_tokens:
            groups.append([])
        groups[-1].append(row)
    return [_pass(group, rows, pad, start) for group in groups if group]


def watch(
    model: Model, batches: Sequence[Pass], places: Mapping[Place, nn.Module], see: Callable[[Place, Call], None]
) -> None:
    """Run `model` over all batches, the decoder too if a place is in it, and `see` every call of a watched module.

    Raises BadCheckpoint where states are not finite: whatever is counted in them would mean nothing.
    """
    device = next(model.parameters()).device
    decodes = any(place.stack == "decoder" for place in places)
    for batch in batches:
        here = batch.to(device)

        def hook(place: Place, here: Pass = here) -> Callable[..., None]:
            return lambda module, inputs, options, output: see(
                place, Call(inputs, options, output, here.rows, here.attention_mask)
            )

        with torch.no_grad(), _hooked({module: hook(place) for place, module in places.items()}):
            states = memory = model.encode(here.input_ids, attention_mask=here.attention_mask)
            if decodes:
                assert isinstance(model, Seq2SeqModel), "an encoder has no places in a decoder"
                states = model.decode(here.decoder_input_ids, memory, attention_mask=here.attention_mask)
        if not bool(torch.isfinite(states).all()):
            raise BadCheckpoint("the model gives values that are not finite; analyse an earlier checkpoint")


def layers(model: Model, stack: Stack) -> list[nn.Module]:
    """The layers of a stack, bottom first."""
    return list(getattr(model, stack).layers)


def pooled(model: EncoderModel | Seq2SeqModel, batches: Sequence[Pass]) -> Tensor:
    """Each row's mean state over its real positions, at every height of the encoder: (layers + 1, N, D) float32.

    Heights are the stream of states before the first layer and after each; the last is what the encoder returns.
    """
    config = model.config
    count = sum(len(batch.rows) for batch in batches)
    found = torch.empty(config.num_encoder_layers + 1, count, config.hidden_size)

    def see(place: Place, call: Call) -> None:
        found[place.layer, call.rows] = mean(call.output, call.real).cpu()
        if place.layer == 1 and place.part == "layer":
            found[0, call.rows] = mean(call.inputs[0], call.real).cpu()

    places: dict[Place, nn.Module] = {
        Place("encoder", number, "layer"): layer for number, layer in enumerate(layers(model, "encoder"), start=1)
    }
    # It is left after its last layer, so what it returns, normed, replaces that layer's stream.
    places[Place("encoder", config.num_encoder_layers, "stack")] = model.encoder
    watch(model, batches, places, see)
    return found


def mean(states: Tensor, real: Tensor) -> Tensor:
    """The mean over real positions: (B, S, D), (B, S) -> (B, D) float32."""
    weights = real.unsqueeze(-1).float()
    return (states.float() * weights).sum(1) / weights.sum(1)


def _pass(group: list[int], rows: Sequence[np.ndarray], pad: int, start: int) -> Pass:
    width = max(len(rows[row]) for row in group)
    ids = np.full((len(group), width), pad, dtype=np.int64)
    shifted = ids.copy()
    real = np.zeros((len(group), width), dtype=bool)
    for place, row in enumerate(group):
        length = len(rows[row])
        ids[place, :length] = rows[row]
        shifted[place, :length] = teacher_forced(rows[row], start)
        real[place, :length] = True
    return Pass(group, *(torch.from_numpy(array) for array in (ids, real, shifted)))


@contextlib.contextmanager
def _hooked(hooks: Mapping[nn.Module, Callable[..., None]]) -> Iterator[None]:
    handles = [module.register_forward_hook(hook, with_kwargs=True) for module, hook in hooks.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()

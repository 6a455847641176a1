"""The models: an encoder with its masked-language head, and an encoder-decoder.

    model = build(config)
    output = model(batch)                                         # hidden states, heads not yet applied
    output.decoder_vocabulary_loss(output.decoder_hidden[chosen], labels)

A batch holds `input_ids` and, for an encoder-decoder, `decoder_input_ids`. `attention_mask` (1 = real) says that rows
are padded on the right; `segment_ids` (and `decoder_segment_ids`) that documents share a row without seeing each
other, each with positions from 0. Absent, all rows are full: no mask is made and the fastest kernels run.
`token_type_ids` say which text of a pair a token is of, where the encoder has a table of types; absent, all are of the
first.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial

import torch
from torch import Tensor, nn

from megas2s.models.attention import causal_mask, padding_mask, segment_mask, segment_positions
from megas2s.models.cache import Cache, Guesses, RowCache
from megas2s.models.config import ModelConfig
from megas2s.models.freezing import quiet_frozen
from megas2s.models.heads import MaskedHead, TextHead, TokenHead, VocabularyHead
from megas2s.models.init import fill, first_values
from megas2s.models.layers import Table
from megas2s.models.output import ModelOutput, VocabularyLoss
from megas2s.models.packed import pack
from megas2s.models.parameters import aliases
from megas2s.models.stacks import Decoder, Encoder, Stack

SOURCE = ("input_ids", "attention_mask", "segment_ids", "token_type_ids")  # what the encoder reads of a batch


def source_of(batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What the encoder reads of a batch, as `Model.encode` takes it."""
    return {name: batch[name] for name in SOURCE if name in batch}


class Model(nn.Module):
    """What both models share."""

    encoder: Encoder

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.mlm: MaskedHead | None = None
        self.classes: TokenHead | None = None
        self.text: TextHead | None = None
        self.frozen_dropout = False  # whether frozen modules follow `train` too, and with it drop out

    def _add_heads(self) -> None:
        """The heads beside the decoder's, where there are any; the last parameters of a model."""
        if self.config.has_masked_head:
            self.mlm = MaskedHead(self.config, weight=self.encoder.embed.weight)
        if self.config.token_classes:
            self.classes = TokenHead(self.config)
        if self.config.text_classes:
            self.text = TextHead(self.config)

    def logits(self, hidden: Tensor) -> Tensor:
        """Scores of the whole vocabulary at a few positions: (..., D) -> (..., V)."""
        raise NotImplementedError

    def most_likely(self, hidden: Tensor) -> Tensor:
        """The token with the best score at a few positions: (..., D) -> (...) int64."""
        return self.logits(hidden).argmax(-1)

    def _masked_loss(self, *, padded: bool) -> VocabularyLoss | None:
        return None if self.mlm is None else partial(self.mlm, drop_ignored=padded)

    def encode(
        self,
        input_ids: Tensor,
        *,
        attention_mask: Tensor | None = None,
        segment_ids: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        hidden: Tensor | None = None,
    ) -> Tensor:
        """The encoder's states: (B, S) -> (B, S, D); from `hidden` on, where the first layers lie elsewhere."""
        segments = _padding_apart(segment_ids, attention_mask)
        mask = None if attention_mask is None else padding_mask(attention_mask)
        if segments is not None:
            mask = segment_mask(segments, segments)
        positions = None if segment_ids is None else segment_positions(segment_ids)
        states: Tensor = self.encoder(input_ids, mask, positions, token_type_ids, hidden)
        return states

    def train(self, mode: bool = True) -> Model:
        """Training or evaluation mode; frozen modules stay in evaluation mode unless `frozen_dropout` is set."""
        super().train(mode)
        if not self.frozen_dropout:
            quiet_frozen(self)
        return self

    def checkpoint_layers(self, enabled: bool = True) -> None:
        """Recompute layers in the backward pass (Chen et al. 2016): memory of one layer for a third more time."""
        for stack in self._stacks():
            stack.checkpointed = enabled

    def compile_layers(self) -> None:
        """Compile each layer by itself: one small graph serves all layers of a stack; names stay as they are."""
        for stack in self._stacks():
            for layer in stack.layers:
                layer.compile(dynamic=False)

    def _stacks(self) -> list[Stack]:
        return [module for module in self.children() if isinstance(module, Stack)]


class EncoderModel(Model):
    """An encoder with its head for masked language modelling."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.encoder = Encoder(config)
        self._add_heads()

    def forward(self, batch: Mapping[str, Tensor]) -> ModelOutput:
        """Encode `input_ids`; see the head of this module for the fields.

        With `target_ids` the states of what is written, (B, T, D): source and target are one row (`models.packed`).
        """
        if "target_ids" not in batch:
            return self.output(batch, self.encode(**source_of(batch)))
        row = pack(batch, self.config)
        return self.output(batch, self.encoder(row.ids, row.blocks, row.positions, row.types))

    def output(self, batch: Mapping[str, Tensor], hidden: Tensor) -> ModelOutput:
        """The last states, with the heads that read them."""
        masked = self._masked_loss(padded="attention_mask" in batch)
        return ModelOutput(hidden, None, masked, None, self.mlm, self.classes, self.text)

    def begin(
        self, batch: Mapping[str, Tensor], *, length: int, copies: int = 1, mask: int | None = None
    ) -> Guesses | RowCache:
        """See `models.output.Writer`."""
        cache = RowCache(self.encoder, batch, length=length, copies=copies, typed=self.config.segment_types > 1)
        return cache if mask is None else Guesses(cache, mask)

    def logits(self, hidden: Tensor) -> Tensor:
        """Those of the head for masked language modelling."""
        assert self.mlm is not None, "an encoder has this head"
        states: Tensor = self.mlm(hidden)
        return states


class Seq2SeqModel(Model):
    """An encoder-decoder."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        shared: nn.Parameter | None = None
        if "shared.weight" in aliases(config):
            # Registered first, so that named_parameters calls the matrix shared.weight; never called itself.
            self.shared = Table(config.vocab_size, config.hidden_size)
            shared = self.shared.weight
        self.encoder = Encoder(config, embedding=shared)
        self.decoder = Decoder(config, embedding=shared)
        apart = "head.weight" in aliases(config)
        self.head = VocabularyHead(config, weight=None if apart else self.decoder.embed.weight)
        self._add_heads()

    def forward(self, batch: Mapping[str, Tensor]) -> ModelOutput:
        """Encode `input_ids`, decode `decoder_input_ids`; see the head of this module for the other fields."""
        memory = self.encode(**source_of(batch))
        return self.output(batch, memory, self.decoded(batch, memory))

    def output(self, batch: Mapping[str, Tensor], memory: Tensor, hidden: Tensor) -> ModelOutput:
        """The last states of both stacks, with the heads that read them."""
        head = partial(self.head, drop_ignored="attention_mask" in batch)
        return ModelOutput(memory, hidden, self._masked_loss(padded=True), head, self.mlm, self.classes, self.text)

    def decoded(self, batch: Mapping[str, Tensor], memory: Tensor, hidden: Tensor | None = None) -> Tensor:
        """`decode` of a batch's fields."""
        return self.decode(
            batch["decoder_input_ids"],
            memory,
            attention_mask=batch.get("attention_mask"),
            segment_ids=batch.get("segment_ids"),
            decoder_segment_ids=batch.get("decoder_segment_ids"),
            hidden=hidden,
        )

    def decode(
        self,
        decoder_input_ids: Tensor,
        memory: Tensor,
        *,
        attention_mask: Tensor | None = None,
        segment_ids: Tensor | None = None,
        decoder_segment_ids: Tensor | None = None,
        hidden: Tensor | None = None,
    ) -> Tensor:
        """The decoder's states, (B, T), (B, S, D) -> (B, T, D); `attention_mask` and `segment_ids` are the source's.

        From `hidden` on, where the first layers lie elsewhere.
        """
        self_mask = None
        cross_mask = None if attention_mask is None else padding_mask(attention_mask)
        if decoder_segment_ids is not None:
            sources = _padding_apart(segment_ids, attention_mask)
            if sources is None:
                raise ValueError("decoder_segment_ids need segment_ids: which source each target belongs to")
            causal = causal_mask(decoder_input_ids.shape[1], decoder_input_ids.device)
            self_mask = segment_mask(decoder_segment_ids, decoder_segment_ids) & causal
            cross_mask = segment_mask(decoder_segment_ids, sources)
        positions = None if decoder_segment_ids is None else segment_positions(decoder_segment_ids)
        states: Tensor = self.decoder(decoder_input_ids, memory, self_mask, cross_mask, positions, hidden)
        return states

    def begin(self, batch: Mapping[str, Tensor], *, length: int, copies: int = 1, mask: int | None = None) -> Cache:
        """See `models.output.Writer`."""
        assert mask is None, "a decoder reads tokens"
        return self.cache(self.encode(**source_of(batch)), batch.get("attention_mask"), length=length, copies=copies)

    def cache(self, memory: Tensor, attention_mask: Tensor | None, *, length: int, copies: int = 1) -> Cache:
        """For writing up to `length` tokens one at a time; memory (B, S, D) and mask (B, S) are the source's."""
        return Cache(self.decoder, memory, attention_mask, length=length, copies=copies)

    def logits(self, hidden: Tensor) -> Tensor:
        """Those of the decoder's head."""
        states: Tensor = self.head(hidden)
        return states


Network = EncoderModel | Seq2SeqModel


def construct(config: ModelConfig) -> Network:
    """The model that `config` describes, its weights empty."""
    return Seq2SeqModel(config) if config.is_seq2seq else EncoderModel(config)


def build(config: ModelConfig) -> Network:
    """The model that `config` describes, with first values by a seed from torch's generator; on meta without any."""
    model = construct(config)
    if not any(parameter.is_meta for parameter in model.parameters()):
        fill(model, first_values(config, int(torch.randint(1 << 62, (), device="cpu"))))
    return model


def _padding_apart(segments: Tensor | None, attention_mask: Tensor | None) -> Tensor | None:
    """Segments in which padding is one of its own, so that no real token sees it and no row of a mask is empty."""
    if segments is None or attention_mask is None:
        return segments
    return segments.masked_fill(~attention_mask.bool(), -1)

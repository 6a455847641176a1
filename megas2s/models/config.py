"""The shape of a model: a few orthogonal switches.

A switch is read where the part that it shapes is built; by `parameters.py`, which names parameters without building
any; and by `handoff.py`, which makes weights of one shape another's. Nothing else in this room asks.

                 norm           position  positions  what else
    BART         layer          post      learned
    MBart        layer          pre       learned
    T5           rms            pre       relative   no biases, no embedding norm, attention not scaled
    RoBERTa      layer          post      learned    encoder alone
    BERT         layer          post      learned    encoder alone, two segment types
    ELECTRA      layer          post      learned    as BERT, embeddings narrower than the layers
    UniLM 2      layer          post      both       as BERT

`presets.py` has the published sizes, `convert/` the families of transformers that these shapes are.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Literal

from megas2s.spec import spec

Tying = Literal["tied", "tied_to_decoder", "untied_head", "untied"]
FirstToken = Literal["eos", "pad"]
Activation = Literal["gelu", "gelu_tanh", "relu", "silu"]

LORA_ALPHA = 16.0
LOW_RANK_TARGETS = ("q", "k", "v", "out", "gate", "up", "down")  # maps of a layer that may have an adapter


@spec
class ModelConfig:
    """An encoder (`num_decoder_layers` = 0) or an encoder-decoder. Lengths are in tokens."""

    vocab_size: int
    hidden_size: int
    num_heads: int
    ffn_size: int
    num_encoder_layers: int
    num_decoder_layers: int = 0
    max_positions: int = 512
    tying: Tying = "tied"  # which embedding matrices are one; an encoder's MLM head is always tied to its embedding
    family: str | None = None  # model_type to be exported as, where several can be; absent: the first that can
    head_size: int | None = None  # width of one attention head; absent: hidden_size / num_heads (T5 may differ)
    embedding_size: int | None = None  # width of the embeddings, projected to hidden_size (ELECTRA); absent: the same
    segment_types: int = 0  # rows of a table added to the embeddings (BERT has 2); 0: no table
    activation: Activation = "gelu"
    gated: bool = False  # the activation gates a second linear map (Shazeer 2020)
    biases: bool = True  # of linear maps; T5 has none
    norm: Literal["layer", "rms"] = "layer"  # rms: no mean, no bias (Zhang and Sennrich 2019)
    norm_position: Literal["pre", "post"] = "pre"  # of each sublayer; pre has one more norm at the end of a stack
    norm_epsilon: float = 1e-5  # MBart's layer norms have this one and no key to change it
    embed_norm: bool = True  # a norm over the summed embeddings
    positions: Literal["learned", "relative", "both"] = "learned"  # relative: T5's bias on attention scores
    relative_buckets: int = 32
    relative_max_distance: int = 128  # in tokens; all further ones share a bucket
    token_classes: int = 0  # of a linear head over states of tokens; 0: no such head
    text_classes: int = 0  # of a head over one state of a row; 0: no such head
    encoder_restores: bool = False  # whether the encoder of an encoder-decoder has a head for masked language modelling
    scale_embedding: bool = False  # by the root of hidden_size (mBART)
    scale_attention: bool = True  # by one over the root of the head's width; T5 does not
    scale_head: bool = False  # states by one over the root of hidden_size before the vocabulary (T5 with tied weights)
    decoder_start: FirstToken = "eos"  # the token that a decoder reads first; pad for T5
    dropout: float = 0.1
    attention_dropout: float = 0.0
    ffn_dropout: float = 0.0  # inside the feed-forward, after the activation
    output_dropout: float = 0.0  # after the last norm of a stack (T5)
    init: Literal["normal", "fan_in"] = "normal"  # of weights; fan_in: divided by the root of their inputs (T5)
    init_std: float = 0.02
    pad_id: int = 1
    lora_rank: int = 0  # of the adapters on the maps in `lora_targets` (`lowrank`); 0: there are none
    lora_alpha: float = LORA_ALPHA
    lora_targets: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in ("vocab_size", "hidden_size", "num_heads", "ffn_size", "num_encoder_layers", "max_positions"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if (self.lora_rank > 0) != bool(self.lora_targets):
            raise ValueError(f"lora_rank {self.lora_rank} and lora_targets {self.lora_targets}: give both or neither")
        if self.num_decoder_layers < 0:
            raise ValueError(f"num_decoder_layers must be 0 (an encoder) or more, got {self.num_decoder_layers}")
        if self.head_size is None and self.hidden_size % self.num_heads:
            raise ValueError(
                f"hidden_size {self.hidden_size} is not divisible by num_heads {self.num_heads}; change one, or "
                "give head_size"
            )
        for name in ("head_size", "embedding_size"):
            if (getattr(self, name) or 1) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.embedding_size == self.hidden_size:
            raise ValueError(f"embedding_size {self.embedding_size} is that of the layers; leave it out")
        if self.embedding_size is not None and self.is_seq2seq:
            raise ValueError(f"embedding_size {self.embedding_size}: only encoders have embeddings of another width")
        for name, absent in (("segment_types", "table"), ("token_classes", "head"), ("text_classes", "head")):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be 0 (no {absent}) or more, got {getattr(self, name)}")
        if self.relative_buckets < 4 or self.relative_buckets % 4:
            raise ValueError(f"relative_buckets must be a multiple of 4, got {self.relative_buckets}")
        if self.relative_max_distance <= self.relative_buckets // 2:
            raise ValueError(
                f"relative_max_distance must exceed half of relative_buckets ({self.relative_buckets // 2}), "
                f"got {self.relative_max_distance}"
            )
        for name in ("dropout", "attention_dropout", "ffn_dropout", "output_dropout"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must lie in [0, 1), got {getattr(self, name)}")

    @property
    def is_seq2seq(self) -> bool:
        """Whether there is a decoder."""
        return self.num_decoder_layers > 0

    @property
    def head_width(self) -> int:
        """Width of one attention head."""
        return self.head_size or self.hidden_size // self.num_heads

    @property
    def embedding_width(self) -> int:
        """Width of the embeddings."""
        return self.embedding_size or self.hidden_size

    @property
    def has_learned_positions(self) -> bool:
        """Whether a table of positions bounds the length of a row."""
        return self.positions != "relative"

    @property
    def longest_row(self) -> float:
        """Tokens that a row may have; without end where positions are only relative."""
        return self.max_positions if self.has_learned_positions else math.inf

    @property
    def has_relative_positions(self) -> bool:
        """Whether a stack has a table of distances."""
        return self.positions != "learned"

    @property
    def has_masked_head(self) -> bool:
        """Whether there is a head for masked language modelling; encoders always have one."""
        return self.encoder_restores or not self.is_seq2seq

    def deviation(self, inputs: int) -> float:
        """The deviation of a weight's first values, which adds up so many inputs; 1 for a table."""
        return self.init_std if self.init == "normal" else self.init_std * inputs**-0.5

    def encoder_only(self) -> ModelConfig:
        """The encoder's half of this model; what scaled its embedding is in the matrix (`handoff`).

        It goes on saying where a decoder starts: the configuration of T5's encoder does, and a decoder may come back.
        """
        return dataclasses.replace(
            self.without_heads(), num_decoder_layers=0, tying="tied", scale_embedding=False, scale_head=False
        )

    def without_heads(self) -> ModelConfig:
        """This model without the heads that an objective or a task put on it."""
        return dataclasses.replace(self, token_classes=0, text_classes=0, encoder_restores=False)

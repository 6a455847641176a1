"""Decoding: our beams against transformers', and what a cache of keys and values saves an encoder that writes.

The reference of the second comparison is what s2s-ft's code keeps: hidden states of every layer, from which it computes
the keys and values of all earlier positions anew at each step.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial

import torch
import transformers
from torch import Tensor

from benchmarks import measure, models, synthetic
from benchmarks.measure import Table
from megas2s.decoding.beam import Gnmt, Power, gnmt, power
from megas2s.decoding.rules import Rules
from megas2s.models.config import ModelConfig
from megas2s.models.init import seeded
from megas2s.models.layers import EncoderLayer
from megas2s.models.transformer import EncoderModel, build
from megas2s.tokenizer.vocab import stand_in

BEAMS = 5


def run(given: argparse.Namespace) -> list[Table]:
    """Sentences a second of each arm, and the ratio."""
    return [
        Table(f"beams of {BEAMS}, {given.target} tokens each; seconds by seconds", [_beams(given)]),
        Table(f"greedy, {given.target} tokens each, an encoder that fills masks", [_cached(given)]),
    ]


def _beams(given: argparse.Namespace) -> dict[str, object]:
    config = _config(given, decoder_layers=given.layers, vocabulary=given.vocab_size)
    makes = {"ours": partial(ours, config, given), "transformers": partial(theirs, config, given)}
    return _row(given, config, makes, ">= 1")


def _cached(given: argparse.Namespace) -> dict[str, object]:
    config = _config(given, decoder_layers=0, vocabulary=min(given.vocab_size, 32_768))
    makes = {"keys and values": partial(kept, config, given), "hidden states": partial(projected, config, given)}
    return _row(given, config, makes, ">= 2")


def _row(
    given: argparse.Namespace, config: ModelConfig, makes: dict[str, Callable[[], Callable[[], float]]], target: str
) -> dict[str, object]:
    with measure.arms(makes, one_process=given.one_process) as both:
        runs = measure.interleaved(both, rounds=given.rounds)
    ours, other = makes
    if runs[ours][0].value != runs[other][0].value:
        raise RuntimeError(f"{ours} and {other} write differently and cannot be compared")
    return {
        "arm": ours,
        "other": other,
        "width": config.hidden_size,
        "vocabulary": config.vocab_size,
        "sources": given.rows,
        "sentences/s": round(given.rows / measure.seconds(runs[ours]), 3),
        "other sentences/s": round(given.rows / measure.seconds(runs[other]), 3),
        **measure.ratio(runs, other, ours)._asdict(),
        "target": target,
        "peak GiB": measure.peak_gib(runs[ours], one_process=given.one_process),
        "other peak GiB": measure.peak_gib(runs[other], one_process=given.one_process),
    }


def _config(given: argparse.Namespace, *, decoder_layers: int, vocabulary: int) -> ModelConfig:
    return ModelConfig(
        vocab_size=vocabulary,
        hidden_size=given.width,
        num_heads=max(1, given.width // 64),
        ffn_size=4 * given.width,
        num_encoder_layers=given.layers,
        num_decoder_layers=decoder_layers,
        max_positions=given.source + given.target + 2,
        dropout=0.0,
        init_std=0.1,  # so that answers differ
    )


def _sources(config: ModelConfig, given: argparse.Namespace) -> dict[str, Tensor]:
    """Sources of all lengths up to the longest, padded."""
    vocabulary = stand_in(config.vocab_size)
    ids = torch.from_numpy(synthetic.tokens(given.rows * given.source, vocabulary, "decode")).long()
    lengths = torch.linspace(given.source // 2, given.source, given.rows).long()
    real = torch.arange(given.source) < lengths[:, None]
    return {"input_ids": ids.view(given.rows, -1).masked_fill(~real, vocabulary.pad), "attention_mask": real.long()}


def _rules(config: ModelConfig, given: argparse.Namespace) -> Rules:
    """As many tokens of each, for random weights end where they will."""
    vocabulary = stand_in(config.vocab_size)
    return Rules(vocabulary.eos, vocabulary.eos, vocabulary.pad, given.target, min_length=given.target, from_start=True)


def _digest(ids: Tensor) -> float:
    return float((ids.double() * torch.arange(1, ids.numel() + 1).view_as(ids)).sum())


def ours(config: ModelConfig, given: argparse.Namespace) -> Callable[[], float]:
    """Our beam search; the tokens of the best rows in one number."""
    model, batch, rules = _built(config), _sources(config, given), _rules(config, given)

    @torch.inference_mode()
    def timed() -> float:
        return _digest(power(model, batch, rules, Power(BEAMS)).ids[:, 0])

    return timed


def theirs(config: ModelConfig, given: argparse.Namespace) -> Callable[[], float]:
    """MBartForConditionalGeneration.generate with the same weights."""
    batch, rules = _sources(config, given), _rules(config, given)
    with seeded(models.SEED, "decode"):
        model = models.Whole(config, "MBartForConditionalGeneration").model.eval()
    model.generation_config.forced_eos_token_id = None
    assert isinstance(model, transformers.MBartForConditionalGeneration)

    @torch.inference_mode()
    def timed() -> float:
        found = model.generate(
            **batch,
            num_beams=BEAMS,
            do_sample=False,
            max_length=given.target + 1,
            min_length=given.target + 1,
            decoder_start_token_id=rules.start,
            eos_token_id=rules.eos,
            pad_token_id=rules.pad,
        )
        return _digest(found[:, 1:])

    return timed


def kept(config: ModelConfig, given: argparse.Namespace) -> Callable[[], float]:
    """An encoder that fills one mask after another, keys and values kept."""
    return _written(config, given)


def projected(config: ModelConfig, given: argparse.Namespace) -> Callable[[], float]:
    """The same with hidden states kept, and keys and values of them all computed at each step."""
    return _written(config, given, Projecting)


def _written(
    config: ModelConfig, given: argparse.Namespace, kind: type[EncoderModel] = EncoderModel
) -> Callable[[], float]:
    model, batch = _built(config), _sources(config, given)
    model.__class__ = kind
    rules = _rules(config, given)._replace(mask=stand_in(config.vocab_size).mask, from_start=False)

    @torch.inference_mode()
    def timed() -> float:
        return _digest(gnmt(model, batch, rules, Gnmt(1))[0].ids[:, 0])

    return timed


def _built(config: ModelConfig) -> EncoderModel:
    with seeded(models.SEED, "decode"):
        return build(config).eval()


class Projecting(EncoderModel):
    """An encoder that keeps hidden states while it writes."""

    def begin(self, batch, *, length: int, copies: int = 1, mask: int | None = None) -> HiddenStates:
        """See `models.output.Writer`."""
        assert copies == 1
        assert mask is not None
        return HiddenStates(self, batch, mask)


class HiddenStates:
    """Inputs of every layer at all positions so far; the mask's do not stay."""

    def __init__(self, model: EncoderModel, batch, mask: int) -> None:
        self._encoder, self._mask = model.encoder, mask
        real = batch["attention_mask"]
        self._ends, self._seen = real.sum(dim=1, keepdim=True), real.bool()[:, None, None, :]
        hidden = self._encoder.embedded(batch["input_ids"])
        self._layers: list[Tensor] = []
        for layer in self._encoder.layers:
            self._layers.append(hidden)
            hidden = layer(hidden, self._seen)
        self._place = 0

    def step(self, ids: Tensor) -> Tensor:
        """The state of the next mask."""
        masks = torch.full_like(ids, self._mask)
        read = torch.cat([ids, masks], dim=1) if self._place else masks
        first = self._place - (read.shape[1] - 1)
        positions = self._ends + torch.arange(first, self._place + 1)
        hidden = self._encoder.embedded(read, positions)
        count, rows = read.shape[1], len(read)
        own = torch.arange(self._place + 1)[None] <= torch.arange(first, self._place + 1)[:, None]
        seen = self._seen.expand(-1, 1, count, -1)
        mask = torch.cat([seen, own.expand(rows, 1, -1, -1)], dim=-1)
        for place, layer in enumerate(self._encoder.layers):
            assert isinstance(layer, EncoderLayer)
            whole = torch.cat([self._layers[place], hidden], dim=1)
            self._layers[place] = whole[:, :-1]
            hidden = self._through(layer, hidden, whole, mask)
        self._place += 1
        return self._encoder.ended(hidden)[:, -1:]

    def _through(self, layer: EncoderLayer, hidden: Tensor, whole: Tensor, mask: Tensor) -> Tensor:
        memory = layer.self_attention_norm(whole) if layer.pre else whole
        hidden = layer.add(hidden, layer.self_attention_norm, lambda x: layer.self_attention(x, memory, mask))
        return layer.add(hidden, layer.ffn_norm, layer.ffn)

    def reorder(self, rows: Tensor) -> None:
        """One row for each source stays where it is."""

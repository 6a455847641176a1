"""Both sides of a step: our models, and transformers' with the same weights, in the same engine on the same batch.

Both run in `LocalEngine`: the same fp32 master weights, clipping and AdamW, so that the model and its loss are all that
differs. transformers' classes get what is fastest for them: no attention mask, since rows are full, and sdpa.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
import torch
import transformers
from torch import Tensor, nn

from benchmarks import synthetic
from megas2s.convert import bart, roberta
from megas2s.convert.names import Family
from megas2s.engine.base import Batch, Precision, Setup
from megas2s.engine.local import LocalEngine
from megas2s.engine.optim import AdamW
from megas2s.labels import IGNORED
from megas2s.models.config import ModelConfig
from megas2s.models.freezing import freeze
from megas2s.models.parameters import ALL, canonical_parameters, owners
from megas2s.models.transformer import Model, build
from megas2s.objectives.base import Part, Plain, Shape
from megas2s.objectives.denoising import Denoising
from megas2s.objectives.losses import label_counts
from megas2s.objectives.mlm import MLM
from megas2s.rng import generator
from megas2s.tokenizer.vocab import stand_in

LR = 1e-4
SEED = 17


def mlm_batch(config: ModelConfig, *, rows: int, length: int) -> Batch:
    """Rows of random text with our MLM objective's masks."""
    vocabulary = stand_in(config.vocab_size)
    shape, objective = Shape(vocabulary, length, length), MLM()
    windows = synthetic.tokens(rows * objective.window_size(shape), vocabulary, "mlm").reshape(rows, -1)
    examples = [objective.corrupt(window, generator(0, "mlm", n), shape, n) for n, window in enumerate(windows)]
    stacked = {name: torch.from_numpy(np.stack([example[name] for example in examples])) for name in examples[0]}
    return {**stacked, "language": torch.zeros(rows, dtype=torch.long)}


def seq2seq_batch(config: ModelConfig, *, rows: int, source: int, target: int) -> Batch:
    """Rows of random text, source and target unrelated."""
    vocabulary = stand_in(config.vocab_size)
    both = torch.from_numpy(synthetic.tokens(rows * (source + target), vocabulary, "seq2seq")).long().view(rows, -1)
    both[:, [source - 1, -1]] = vocabulary.eos
    labels = both[:, source:].contiguous()
    shifted = torch.cat([torch.full((rows, 1), vocabulary.eos), labels[:, :-1]], dim=1)
    ids = {"input_ids": both[:, :source].contiguous(), "decoder_input_ids": shifted, "labels": labels}
    return {**ids, "language": torch.zeros(rows, dtype=torch.long)}


def ours(
    config: ModelConfig, make_batch: Callable[[], Batch], precision: Precision, frozen: tuple[str, ...] = ()
) -> Callable[[], float]:
    """One training step of our model; returns the loss."""
    return our_engine(config, make_batch, precision, frozen)[1]


def our_engine(
    config: ModelConfig, make_batch: Callable[[], Batch], precision: Precision, frozen: tuple[str, ...] = ()
) -> tuple[LocalEngine, Callable[[], float]]:
    """An engine with our model, and a step of it."""

    def construct() -> Model:
        model = build(config)
        freeze(model, frozen)
        return model

    return engine(construct, Denoising() if config.is_seq2seq else MLM(), make_batch(), precision)


def theirs(
    config: ModelConfig, make_batch: Callable[[], Batch], precision: Precision, architecture: str
) -> Callable[[], float]:
    """One training step of a class of transformers on the same batch, all logits as it makes them."""
    return engine(partial(Whole, config, architecture), _TheirLoss(), _full_labels(make_batch()), precision)[1]


def their_loss(config: ModelConfig, make_batch: Callable[[], Batch], architecture: str) -> Callable[[], float]:
    """The loss alone, in fp32, of a class of transformers with our weights on the same batch."""
    torch.manual_seed(SEED)
    whole, batch = Whole(config, architecture), _full_labels(make_batch())

    @torch.no_grad()
    def forward() -> float:
        return float(whole(batch).loss)

    return forward


class _TheirLoss(Plain):
    """The mean loss that a transformers class returns, as an objective."""

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        return {"theirs": label_counts(batch["labels"])}

    def loss(self, output: object, batch: Batch, step: int | None = None) -> dict[str, Part]:
        total = output.loss * label_counts(batch["labels"]).sum()
        rows = len(batch["labels"])
        return {"theirs": Part(total, 1.0, (total.detach() / rows).expand(rows))}


class Whole(nn.Module):
    """A class of transformers with the weights that ours would be built with, where it has a place for them."""

    def __init__(self, config: ModelConfig, architecture: str) -> None:
        super().__init__()
        weights = {name: value.detach() for name, value in canonical_parameters(build(config)).items()}
        family = bart.MBART if config.is_seq2seq else roberta.PRE_LAYER_NORM
        kind = getattr(transformers, architecture)
        settings = family.settings(config, stand_in(config.vocab_size))
        self.model = kind(kind.config_class(**settings))
        if architecture in family.architectures:
            self.model.load_state_dict(_renamed(weights, family, config), strict=False)
            self.model.tie_weights()
        self._inputs = ("input_ids", "labels", *(("decoder_input_ids",) if config.is_seq2seq else ()))
        self._options = {"use_cache": False} if config.is_seq2seq else {}

    def forward(self, batch: Mapping[str, Tensor]) -> object:
        """What the class gives."""
        return self.model(**{name: batch[name] for name in self._inputs}, **self._options)


def _renamed(weights: Mapping[str, Tensor], family: Family, config: ModelConfig) -> dict[str, Tensor]:
    """Our weights under their names."""
    renamed = {}
    for entry in family.entries(config, True):
        if entry.ours is None:
            renamed[entry.theirs] = torch.zeros(entry.shape)
        else:
            value = weights[owners(config).get(entry.ours, entry.ours)]
            renamed[entry.theirs] = torch.cat([value.new_zeros(entry.leading, *value.shape[1:]), value])
    return renamed


def _full_labels(batch: Batch) -> Batch:
    """Labels at every column, most of them ignored, where ours lists the predicted positions."""
    if "masked_positions" not in batch:
        return batch
    labels = torch.full_like(batch["input_ids"], IGNORED).scatter(1, batch["masked_positions"], batch["labels"])
    return {"input_ids": batch["input_ids"], "labels": labels, "language": batch["language"]}


def engine(
    construct: Callable[[], nn.Module], losses: object, batch: Batch, precision: Precision
) -> tuple[LocalEngine, Callable[[], float]]:
    """An engine with a model, and a step of it on the same batch again and again."""
    torch.manual_seed(SEED)
    model = construct()
    engine = LocalEngine(
        Setup(
            build=lambda: model,
            initial=lambda name, rows=ALL: dict(model.named_parameters())[name][rows],
            losses=losses,
            optimizer=AdamW(),
            precision=precision,
            micro_batch=len(batch["labels"]),
            micro_batches=1,
            languages=1,
            dropout_seed=lambda step, index, rank: SEED,
        )
    )
    number = itertools.count()

    def step() -> float:
        total, count = engine.train_step([batch], step=next(number), lr=LR).sums[0, 0].tolist()
        return total / count

    return engine, step

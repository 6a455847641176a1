"""E2S2: work for the encoder beside the decoder's. It finds what was corrupted, and tells sentences apart.

    tokens              the cat sat on the mat while it rained
    second_input_ids    the cat sat on <mask> while it rained </s>          the base objective's noise
    input_ids           the sat cat on <mask> while blue rained </s>        and on top of it, words to be found
    encoder_labels      0   1   1   0  0      0     2    0      0
    labels              the cat sat on the mat while it rained </s>         of both

    L = w1 NLL(first view) + w2 NLL(second) + lambda_de L_de + lambda_cl L_cl

Zhong et al. 2022 (arXiv 2205.14912). The defaults are the released code's, (0.5, 0.5, 0.05, 0.05); its abstract writes
the first two as 1. That code ignores a class instead of the padding, reads neither of its rates, averages over padding
and never turns the contrast on; none of that is repeated, but `as_released` brings its labels back for comparison.

Both views go through the model in one pass, as 2 B rows. Every term is a mean over items of its own, so the released
code's scaling of the contrast to the size of token sums is there without a factor.
"""

from __future__ import annotations

import dataclasses
import math
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Discriminator
from torch import Tensor

from megas2s.models.config import ModelConfig
from megas2s.models.output import ModelOutput
from megas2s.objectives.base import Batch, Example, Part, RowLengths, Shape
from megas2s.objectives.contrast import Contrasting
from megas2s.objectives.denoising import Denoising
from megas2s.objectives.disorder import disorder
from megas2s.objectives.finding import Finding
from megas2s.objectives.losses import label_counts, vocabulary_part
from megas2s.objectives.prompts import Prompt, longest, read_prompt
from megas2s.objectives.span_corruption import SpanCorruption
from megas2s.objectives.teacher_forced import TeacherForced
from megas2s.spec import spec

NLLS = ("nll_first", "nll_second")
ROW = ("input_ids", "attention_mask")  # what the two views have apart


@spec
class E2S2(TeacherForced):
    """Reconstruct a window from two views of it, find what was corrupted in the first, tell windows apart.

    `denoise: null` and `contrast: null` turn a part off; `views: 1` reads the first view alone, which then weighs 1.
    """

    name: Literal["e2s2"] = "e2s2"
    base: Annotated[Denoising | SpanCorruption, Discriminator("name")] = Denoising(noise="mask", whole_word=True)
    views: Literal[1, 2] = 2
    nll_weights: tuple[float, float] | None = None  # of the two views; the formula's are 1 and 1
    shuffle: float = 0.05  # n-grams that are shuffled, per token
    ngram: int = 3
    replace: float = 0.15  # share of tokens that are replaced by others
    denoise: Finding | None = Finding()
    contrast: Contrasting | None

    def __post_init__(self) -> None:
        if self.ngram < 2:
            raise ValueError(f"ngram must be at least 2, for one token has one order; got {self.ngram}")
        if not 0 <= self.shuffle * self.ngram <= 1:
            raise ValueError(f"shuffle must lie in [0, 1 / ngram], for n-grams do not overlap; got {self.shuffle}")
        if not 0 <= self.replace < 1:
            raise ValueError(f"replace must lie in [0, 1), got {self.replace}")
        if self.views == 1 and (self.contrast is not None or self.nll_weights is not None):
            raise ValueError("views: 1 has nothing to contrast or to weigh; say contrast: null, without nll_weights")
        shares = self.nll_weights or (0.5, 0.5)
        if not all(0 <= share < math.inf for share in shares) or not sum(shares):
            raise ValueError(f"nll_weights must be finite, not negative, nor both 0; got {list(shares)}")
        if self.denoise is not None and not self.kinds[1:]:
            raise ValueError("denoise has nothing to find where shuffle and replace are 0; say denoise: null")
        weights = self.denoise.class_weights if self.denoise is not None else None
        if weights is not None and len(weights) != len(self.kinds):
            raise ValueError(
                f"class_weights must be {len(self.kinds)}, for {', '.join(self.kinds)}; got {len(weights)}"
            )

    @property
    def kinds(self) -> tuple[str, ...]:
        """What may have happened to a token, in the order of labels."""
        noises = (("shuffled", self.shuffle), ("replaced", self.replace))
        return ("original", *(kind for kind, rate in noises if rate))

    def shaped(self, config: ModelConfig) -> ModelConfig:
        """The recipe's model with the head that L_de needs."""
        target = self.denoise.target if self.denoise is not None else None
        return dataclasses.replace(
            config,
            token_classes=len(self.kinds) if target == "kind" else 0,
            encoder_restores=target == "token",
        )

    def check_layout(self, micro_batch: int, world_size: int) -> None:
        """Refuse groups that micro-batches split."""
        if self.contrast is not None:
            self.contrast.check_layout(micro_batch, world_size)

    def window_size(self, shape: Shape) -> int:
        """As many tokens as the base objective takes in a source that has room for the prompts."""
        room = shape.source_length - longest(self._prompts(shape))
        if room <= shape.vocabulary.ends:
            raise ValueError(
                f"objective e2s2: the prompts take {shape.source_length - room} tokens, and a source has "
                f"{shape.source_length} in all; shorten the prompts or lengthen the source"
            )
        tokens = self.base.window_size(shape._replace(source_length=room))
        columns = self.row_lengths(tokens, shape).source
        if self.shuffle and columns - shape.vocabulary.ends < self.ngram:
            raise ValueError(
                f"objective e2s2: ngram {self.ngram} is longer than the {columns} columns of a source; shorten it"
            )
        if self.contrast is not None and self.contrast.group * self.contrast.units(columns) < 2:
            raise ValueError(
                f"objective e2s2: contrast.group 1 and one segment in {columns} columns leave one sentence, with none "
                "to be told from; shorten segment_length or raise group"
            )
        return tokens

    def row_lengths(self, tokens: int, shape: Shape) -> RowLengths:
        """The base objective's, and the longest prompt."""
        prompts, lengths = self._prompts(shape), self.base.row_lengths(tokens, shape)
        alike = len({prompt.length for prompt in prompts}) <= 1
        return lengths._replace(source=lengths.source + longest(prompts), full=lengths.full and alike)

    def corrupt(self, tokens: np.ndarray, rng: np.random.Generator, shape: Shape, number: int) -> Example:
        """The base objective's example with a second look for the encoder; prompts are written after all noise."""
        example = self.base.corrupt(tokens, rng, shape, number)
        clean, vocabulary = example.pop("input_ids"), shape.vocabulary
        noised = disorder(clean, rng, vocabulary, shuffle=self.shuffle, replace=self.replace, ngram=self.ngram)
        found = {"input_ids": noised.tokens}
        if self.views == 2:
            found["second_input_ids"] = clean
        if self.denoise is not None:
            found["encoder_labels"] = self.denoise.targets(clean, noised, self.kinds)
        if prompts := self._prompts(shape):
            rows = zip(("input_ids", "second_input_ids"), prompts, strict=True)
            lengths = len(clean)
            found |= {name: prompt.around(found[name], vocabulary) for name, prompt in rows}
            if "encoder_labels" in found:
                found["encoder_labels"] = prompts[0].ignored(found["encoder_labels"], vocabulary)
            found["prompt_positions"] = np.array([prompt.position(lengths, vocabulary) for prompt in prompts])
        return {**found, **example}

    def inputs(self, batch: Batch) -> Batch:
        """All first views, then all second ones, each before the same target."""
        if self.views == 1:
            return batch
        joined = {name: torch.cat([batch[name], batch[f"second_{name}"]]) for name in ROW if name in batch}
        return {**joined, "decoder_input_ids": batch["decoder_input_ids"].repeat(2, 1)}

    def counts(self, batch: Batch) -> dict[str, Tensor]:
        """Target tokens, twice; labels of the encoder, weighed by their classes; sentences."""
        counted = dict.fromkeys(NLLS[: self.views], label_counts(batch["labels"]))
        if self.denoise is not None:
            counted["denoise"] = self.denoise.counts(batch)
        if self.contrast is not None:
            counted["contrast"] = self.contrast.counts(batch)
        return counted

    def loss(self, output: ModelOutput, batch: Batch, step: int | None = None) -> dict[str, Part]:
        """Each term by its name, and how well the encoder does as measures."""
        assert output.decoder_hidden is not None, "e2s2 trains an encoder-decoder"
        assert output.decoder_vocabulary_loss is not None, "an encoder-decoder has a head"
        encoded, decoded = output.encoder_hidden.chunk(self.views), output.decoder_hidden.chunk(self.views)
        weights = (1.0,) if self.views == 1 else self.nll_weights or (0.5, 0.5)
        found = {
            name: vocabulary_part(output.decoder_vocabulary_loss, hidden, batch["labels"], weight=weight)
            for name, weight, hidden in zip(NLLS, weights, decoded, strict=False)
        }
        if self.denoise is not None:
            found |= self.denoise.parts(output, encoded[0], batch, self.kinds, step)
        if self.contrast is not None:
            found |= self.contrast.parts(encoded, batch, step)
        return found

    def _prompts(self, shape: Shape) -> tuple[Prompt, ...]:
        templates = self.contrast.templates if self.contrast is not None else ()
        return tuple(read_prompt(template, shape.vocabulary) for template in templates)

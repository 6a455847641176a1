"""L_de of E2S2: the encoder finds what was corrupted, or what stood there (Zhong et al. 2022, local denoising).

    row       the sat cat on <mask> while blue rained </s>
    kind      0   1   1   0  0      0     2    0      0         original, shuffled, replaced
    token     -   cat sat -  -      -     it   -      -         the older target: the word that was there

In the released code padding is label 0 and the ignored label is 1, so that the encoder never learns what is shuffled
and learns padding instead. `as_released` does that; nothing else does.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from megas2s.labels import IGNORED
from megas2s.models.output import ModelOutput
from megas2s.objectives.base import Part, measure
from megas2s.objectives.disorder import ORIGINAL, REPLACED, SHUFFLED, Disordered
from megas2s.objectives.losses import check_weight, label_counts, warmed
from megas2s.spec import spec


@spec
class Finding:
    """A label for every token of a view; `class_weights` weigh the kinds, in the order in which labels count them."""

    weight: float = 0.05
    warm_in_steps: int = 0  # the weight grows linearly over so many steps
    target: Literal["kind", "token"] = "kind"
    class_weights: tuple[float, ...] | None = None
    as_released: bool = False  # ignore label 1 and count padding as label 0

    def __post_init__(self) -> None:
        check_weight(self.weight, self.warm_in_steps)
        if self.target == "token" and (self.class_weights is not None or self.as_released):
            raise ValueError("class_weights and as_released are about kinds; leave them out, or say target: kind")
        if self.class_weights is not None and not all(0 < weight < math.inf for weight in self.class_weights):
            raise ValueError(f"class_weights must be above 0 and finite, got {list(self.class_weights)}")

    def targets(self, clean: np.ndarray, noised: Disordered, kinds: Sequence[str]) -> np.ndarray:
        """The label of each token of a row, (S,) int64: its kind's place in `kinds`, or its id before the noise."""
        if self.target == "token":
            return np.where(noised.labels != ORIGINAL, clean, IGNORED)
        labels = noised.labels
        return labels if "shuffled" in kinds else np.where(labels == REPLACED, 1, labels)

    def labels(self, batch: dict[str, Tensor]) -> Tensor:
        """The labels that count, (B, S)."""
        labels = batch["encoder_labels"]
        if not self.as_released:
            return labels
        real = (batch["sample"] >= 0).unsqueeze(1)
        return labels.where((labels != IGNORED) | ~real, ORIGINAL).masked_fill(labels == SHUFFLED, IGNORED)

    def counts(self, batch: dict[str, Tensor]) -> Tensor:
        """By what the loss of each row is divided, (B,): its labels, each weighed by its class."""
        labels = self.labels(batch)
        weights = self._weights(labels.device)
        return label_counts(labels) if weights is None else (weights[labels.clamp(min=0)] * (labels != IGNORED)).sum(1)

    def parts(
        self, output: ModelOutput, hidden: Tensor, batch: dict[str, Tensor], kinds: Sequence[str], step: int | None
    ) -> dict[str, Part]:
        """The loss of the states of a view, (B, S, D), and how well the encoder does."""
        weight, labels = warmed(self.weight, self.warm_in_steps, step), self.labels(batch)
        if self.target == "token":
            return _tokens(output, hidden, labels, weight)
        assert output.token_scores is not None, "the objective asks for this head"
        scores = output.token_scores(hidden).float()
        each = F.cross_entropy(
            scores.flatten(0, 1),
            labels.flatten(),
            weight=self._weights(labels.device),
            ignore_index=IGNORED,
            reduction="none",
        ).view(labels.shape)
        return {
            "denoise": Part(each.sum(), weight, each.detach().sum(1)),
            **_measures(scores.detach().argmax(-1), labels, kinds),
        }

    def _weights(self, device: torch.device) -> Tensor | None:
        return None if self.class_weights is None else torch.tensor(self.class_weights, device=device)


def _measures(guess: Tensor, labels: Tensor, kinds: Sequence[str]) -> dict[str, Part]:
    """Accuracy, and of each kind its own (the share that is found) and F1 = 2 hits / (guessed + true)."""
    real = labels != IGNORED
    right = (guess == labels) & real
    found = {"denoise_accuracy": measure(right.sum(1), real.sum(1))}
    for label, kind in enumerate(kinds):
        true, guessed = labels == label, (guess == label) & real
        found[f"denoise_accuracy_{kind}"] = measure((right & true).sum(1), true.sum(1))
        found[f"denoise_f1_{kind}"] = measure(2 * (right & true).sum(1), guessed.sum(1) + true.sum(1))
    return found


def _tokens(output: ModelOutput, hidden: Tensor, labels: Tensor, weight: float) -> dict[str, Part]:
    """Measures are the mean probability of the right token and, on held-out rows, how often it is the likeliest one.

    The likeliest one takes the logits once more, which a training step need not pay for.
    """
    assert output.encoder_vocabulary_loss is not None, "the objective asks for this head"
    kept = (labels.flatten() != IGNORED).nonzero().squeeze(1)
    total, each, _ = output.encoder_vocabulary_loss(hidden.flatten(0, 1)[kept], labels.flatten()[kept])
    rows = torch.zeros(labels.numel(), device=each.device)
    nll, probability = (rows.index_copy(0, kept, values).view(labels.shape).sum(1) for values in (each, (-each).exp()))
    found = {
        "denoise": Part(total, weight, nll),
        "denoise_probability": measure(probability, label_counts(labels)),
    }
    if not torch.is_grad_enabled() and output.encoder_logits is not None:
        # In a fixed number of parts: under ZeRO-3 each gathers the head, and ranks have unlike numbers of labels.
        parts = zip(hidden.flatten(0, 1)[kept].tensor_split(8), labels.flatten()[kept].tensor_split(8), strict=True)
        hits = torch.cat([(output.encoder_logits(states).argmax(-1) == truth).float() for states, truth in parts])
        right = rows.index_copy(0, kept, hits).view(labels.shape).sum(1)
        found["denoise_accuracy"] = measure(right, label_counts(labels))
    return found

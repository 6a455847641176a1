"""Cross-entropy against the vocabulary without ever holding (tokens x vocabulary) logits.

    logits = hidden W' + bias          a chunk of positions at a time
    nll    = logsumexp(logits) - logits[label]
    error  = softmax(logits) - onehot(label)         the gradient of the nll by the logits

The gradients by `hidden`, `W` and `bias` are matrix products of the error, so they are made in the same pass over
the chunk, while it is there; the backward pass only scales them. Nothing is computed twice.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from megas2s.labels import IGNORED
from megas2s.models.output import TokenLoss

LOGITS_PER_CHUNK = 1 << 27  # elements; bounds memory: 256 MiB of bfloat16 logits
SOFTMAX_ELEMENTS = {"cpu": 1 << 20}  # a slice whose float32 copy stays in a CPU's cache
SOFTMAX_ELEMENTS_ELSEWHERE = 1 << 26
FEW_CHUNKS = 4  # a sum over more is kept in float32: each addition in bfloat16 costs a rounding
WEIGHT_ROWS = 1 << 13  # rows of the weight's gradient added at a time where it is summed in another dtype


class Smoothing(NamedTuple):
    """Labels are right with 1 - amount; every other id shares the rest alike, but for `never`, which has none of it.

    So the loss is the divergence of the model from that (Bao et al. 2021 after Vaswani et al. 2017, section 5.4): it is
    0 at best, and the cross-entropy where `amount` is 0.
    """

    amount: float
    never: int  # the id of padding

    def share(self, vocabulary: int) -> float:
        """Of each other id."""
        return self.amount / (vocabulary - 2)


def cross_entropy(
    hidden: Tensor,
    weight: Tensor,
    labels: Tensor,
    *,
    bias: Tensor | None = None,
    drop_ignored: bool = True,
    smoothing: Smoothing | None = None,
) -> TokenLoss:
    """Summed nll of `labels` (N,) under softmax(hidden weight' + bias); hidden (N, D), weight (V, D), bias (V,).

    `drop_ignored` skips the work for ignored positions; on a GPU it waits for the labels' values, so a caller
    who knows that (nearly) all labels count says False. The result is the same.
    """
    if drop_ignored:
        kept = (labels != IGNORED).nonzero().squeeze(1)
        if len(kept) < len(labels):
            total, *some = _apply(hidden[kept], weight, bias, labels[kept], smoothing)
            each, nll = (torch.zeros(len(labels), device=part.device).index_copy(0, kept, part) for part in some)
            return TokenLoss(total, each, nll)
    return _apply(hidden, weight, bias, labels, smoothing)


def _apply(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor, smoothing: Smoothing | None
) -> TokenLoss:
    smoothing = smoothing if smoothing is not None and smoothing.amount else None
    found = _CrossEntropy.apply(hidden, weight, bias, labels, smoothing, torch.is_grad_enabled())  # type: ignore[no-untyped-call]
    total, each, nll = found
    return TokenLoss(total, each.float(), nll.float())


class _Wants(NamedTuple):
    """Which gradients are to be made."""

    hidden: bool
    weight: bool
    bias: bool


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: FunctionCtx,
        hidden: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        labels: Tensor,
        smoothing: Smoothing | None,
        differentiate: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        flags = ctx.needs_input_grad[:3]  # type: ignore[attr-defined]
        wants = _Wants(*(differentiate and flag for flag in flags))
        device = hidden.device.type
        autocast = torch.is_autocast_enabled(device)
        dtype = torch.get_autocast_dtype(device) if autocast else weight.dtype
        with torch.autocast(device, enabled=False):
            operands = hidden.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
            (each, nll), gradients = _run(*operands, labels, wants, smoothing)
        ctx.save_for_backward(*gradients)  # type: ignore[arg-type]
        ctx.dtypes = hidden.dtype, weight.dtype, weight.dtype if bias is None else bias.dtype  # type: ignore[attr-defined]
        ctx.mark_non_differentiable(each, nll)
        return each.sum(), each, nll

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, scale: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        gradients = zip(ctx.saved_tensors, ctx.dtypes, strict=True)  # type: ignore[attr-defined]
        scaled = [None if gradient is None else _scaled(gradient, scale, dtype) for gradient, dtype in gradients]
        return (*scaled, None, None, None)


def _run(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor, wants: _Wants, smoothing: Smoothing | None
) -> tuple[tuple[Tensor, Tensor], tuple[Tensor | None, Tensor | None, Tensor | None]]:
    positions, vocabulary = len(hidden), len(weight)
    chunks = max(1, -(-positions * vocabulary // LOGITS_PER_CHUNK))
    rows = max(1, -(-positions // chunks))
    sum_dtype = weight.dtype if chunks <= FEW_CHUNKS else _at_least_float32(weight.dtype)
    each = hidden.new_zeros((2, positions), dtype=_at_least_float32(weight.dtype))  # with smoothing, and without
    grad_hidden = torch.empty_like(hidden) if wants.hidden else None
    grad_weight = torch.empty_like(weight, dtype=sum_dtype) if wants.weight else None
    grad_bias = hidden.new_zeros(vocabulary, dtype=each.dtype) if wants.bias else None
    if grad_weight is not None and not positions:
        grad_weight.zero_()
    for start in range(0, positions, rows):
        part = slice(start, start + rows)
        logits = hidden[part] @ weight.t()
        if bias is not None:
            logits += bias
        each[:, part] = _losses_and_errors(logits, labels[part], smoothing, wants_errors=any(wants))
        if grad_hidden is not None:
            torch.mm(logits, weight, out=grad_hidden[part])
        if grad_weight is not None:
            _add_product(grad_weight, logits, hidden[part], onto_nothing=start == 0)
        if grad_bias is not None:
            grad_bias += logits.sum(dim=0, dtype=grad_bias.dtype)
    return (each[0], each[1]), (grad_hidden, grad_weight, grad_bias)


def _losses_and_errors(logits: Tensor, labels: Tensor, smoothing: Smoothing | None, *, wants_errors: bool) -> Tensor:
    """The loss and the nll of each row, (2, N); with `wants_errors` the logits are overwritten by softmax - target."""
    found = logits.new_empty((2, len(logits)), dtype=_at_least_float32(logits.dtype))
    limit = SOFTMAX_ELEMENTS.get(logits.device.type, SOFTMAX_ELEMENTS_ELSEWHERE)
    rows = max(1, limit // max(1, logits.shape[1]))
    counted = labels != IGNORED
    safe = labels.where(counted, 0)[:, None]
    for start in range(0, len(logits), rows):
        part = slice(start, start + rows)
        log_probabilities = torch.log_softmax(logits[part], dim=-1, dtype=found.dtype)
        nll = -log_probabilities.gather(1, safe[part]).squeeze(1)
        found[0, part] = nll if smoothing is None else _divergence(log_probabilities, nll, smoothing)
        found[1, part] = nll
        if wants_errors:
            errors = log_probabilities.exp_()
            right = 1.0
            if smoothing is not None:
                share = smoothing.share(errors.shape[1])
                right = 1.0 - smoothing.amount - share
                errors -= share
                errors[:, smoothing.never] += share
            errors.scatter_(1, safe[part], errors.gather(1, safe[part]) - right)
            torch.mul(errors, counted[part, None], out=logits[part])  # 0 where ignored
    return found.where(counted, 0)


def _divergence(log_probabilities: Tensor, nll: Tensor, smoothing: Smoothing) -> Tensor:
    """Of the model from the smoothed labels: (N, V), (N,) -> (N,)."""
    amount, share = smoothing.amount, smoothing.share(log_probabilities.shape[1])
    others = log_probabilities.sum(-1) + nll - log_probabilities[:, smoothing.never]
    certain = (1 - amount) * math.log1p(-amount) + amount * math.log(share)
    return certain + (1 - amount) * nll - share * others


def _add_product(target: Tensor, errors: Tensor, hidden: Tensor, *, onto_nothing: bool) -> None:
    """target += errors' hidden, or = where it holds nothing yet; in slices where the target has a wider dtype."""
    if target.dtype == hidden.dtype:
        torch.addmm(target, errors.t(), hidden, beta=0 if onto_nothing else 1, out=target)
        return
    for start in range(0, len(target), WEIGHT_ROWS):
        part = slice(start, start + WEIGHT_ROWS)
        product = errors[:, part].t() @ hidden
        if onto_nothing:
            target[part] = product
        else:
            target[part].add_(product)


def _at_least_float32(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)


def _scaled(gradient: Tensor, scale: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.mul(gradient, scale, out=torch.empty_like(gradient, dtype=dtype))

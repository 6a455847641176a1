"""Cross-entropy against the vocabulary without ever holding (tokens x vocabulary) logits.

    logits = hidden W' + bias          a chunk of positions at a time
    nll    = logsumexp(logits) - logits[label]
    error  = softmax(logits) - onehot(label)         the gradient of the nll by the logits

The gradients by `hidden`, `W` and `bias` are matrix products of the error, so they are made in the same pass over
the chunk, while it is there; the backward pass only scales them. Nothing is computed twice.
"""

from __future__ import annotations

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


def cross_entropy(
    hidden: Tensor, weight: Tensor, labels: Tensor, *, bias: Tensor | None = None, drop_ignored: bool = True
) -> TokenLoss:
    """Summed nll of `labels` (N,) under softmax(hidden weight' + bias); hidden (N, D), weight (V, D), bias (V,).

    `drop_ignored` skips the work for ignored positions; on a GPU it waits for the labels' values, so a caller
    who knows that (nearly) all labels count says False. The result is the same.
    """
    if drop_ignored:
        kept = (labels != IGNORED).nonzero().squeeze(1)
        if len(kept) < len(labels):
            total, each = _apply(hidden[kept], weight, bias, labels[kept])
            return TokenLoss(total, torch.zeros(len(labels), device=each.device).index_copy(0, kept, each))
    return TokenLoss(*_apply(hidden, weight, bias, labels))


def _apply(hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor) -> tuple[Tensor, Tensor]:
    total, each = _CrossEntropy.apply(hidden, weight, bias, labels, torch.is_grad_enabled())  # type: ignore[no-untyped-call]
    return total, each.float()


class _Wants(NamedTuple):
    """Which gradients are to be made."""

    hidden: bool
    weight: bool
    bias: bool


class _CrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: FunctionCtx, hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor, differentiate: bool
    ) -> tuple[Tensor, Tensor]:
        flags = ctx.needs_input_grad[:3]  # type: ignore[attr-defined]
        wants = _Wants(*(differentiate and flag for flag in flags))
        device = hidden.device.type
        autocast = torch.is_autocast_enabled(device)
        dtype = torch.get_autocast_dtype(device) if autocast else weight.dtype
        with torch.autocast(device, enabled=False):
            operands = hidden.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
            each, gradients = _run(*operands, labels, wants)
        ctx.save_for_backward(*gradients)  # type: ignore[arg-type]
        ctx.dtypes = hidden.dtype, weight.dtype, weight.dtype if bias is None else bias.dtype  # type: ignore[attr-defined]
        ctx.mark_non_differentiable(each)
        return each.sum(), each

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, scale: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        gradients = zip(ctx.saved_tensors, ctx.dtypes, strict=True)  # type: ignore[attr-defined]
        scaled = [None if gradient is None else _scaled(gradient, scale, dtype) for gradient, dtype in gradients]
        return (*scaled, None, None)


def _run(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor, wants: _Wants
) -> tuple[Tensor, tuple[Tensor | None, Tensor | None, Tensor | None]]:
    positions, vocabulary = len(hidden), len(weight)
    chunks = max(1, -(-positions * vocabulary // LOGITS_PER_CHUNK))
    rows = max(1, -(-positions // chunks))
    sum_dtype = weight.dtype if chunks <= FEW_CHUNKS else _at_least_float32(weight.dtype)
    each = hidden.new_zeros(positions, dtype=_at_least_float32(weight.dtype))
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
        each[part] = _nll_and_errors(logits, labels[part], wants_errors=any(wants))
        if grad_hidden is not None:
            torch.mm(logits, weight, out=grad_hidden[part])
        if grad_weight is not None:
            _add_product(grad_weight, logits, hidden[part], onto_nothing=start == 0)
        if grad_bias is not None:
            grad_bias += logits.sum(dim=0, dtype=grad_bias.dtype)
    return each, (grad_hidden, grad_weight, grad_bias)


def _nll_and_errors(logits: Tensor, labels: Tensor, *, wants_errors: bool) -> Tensor:
    """The nll of each row; with `wants_errors` the logits are overwritten by softmax - onehot (0 where ignored)."""
    nll = logits.new_empty(len(logits), dtype=_at_least_float32(logits.dtype))
    limit = SOFTMAX_ELEMENTS.get(logits.device.type, SOFTMAX_ELEMENTS_ELSEWHERE)
    rows = max(1, limit // max(1, logits.shape[1]))
    counted = labels != IGNORED
    safe = labels.where(counted, 0)[:, None]
    for start in range(0, len(logits), rows):
        part = slice(start, start + rows)
        log_probabilities = torch.log_softmax(logits[part], dim=-1, dtype=nll.dtype)
        nll[part] = -log_probabilities.gather(1, safe[part]).squeeze(1)
        if wants_errors:
            errors = log_probabilities.exp_()
            errors.scatter_(1, safe[part], errors.gather(1, safe[part]) - 1)
            torch.mul(errors, counted[part, None], out=logits[part])
    return nll.where(counted, 0)


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

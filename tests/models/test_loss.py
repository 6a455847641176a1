import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from megas2s.labels import IGNORED
from megas2s.models import loss as loss_module
from megas2s.models.loss import Smoothing, cross_entropy

POSITIONS, WIDTH, VOCABULARY = 11, 8, 53


def operands(dtype=torch.float32, *, ignored=()):
    generator = torch.Generator().manual_seed(3)
    hidden = torch.randn(POSITIONS, WIDTH, generator=generator).to(dtype).requires_grad_()
    weight = torch.randn(VOCABULARY, WIDTH, generator=generator).to(dtype).requires_grad_()
    bias = torch.randn(VOCABULARY, generator=generator).to(dtype).requires_grad_()
    labels = torch.randint(0, VOCABULARY, (POSITIONS,), generator=generator)
    labels[list(ignored)] = IGNORED
    return hidden, weight, bias, labels


def gradients(total, *inputs):
    return torch.autograd.grad(total, inputs)


@pytest.fixture(params=[1, 3, 11], ids=lambda chunks: f"{chunks}_chunks")
def chunks(request, monkeypatch):
    rows = -(-POSITIONS // request.param)
    monkeypatch.setattr(loss_module, "LOGITS_PER_CHUNK", rows * VOCABULARY)
    monkeypatch.setattr(loss_module, "SOFTMAX_ELEMENTS", {"cpu": 2 * VOCABULARY})
    monkeypatch.setattr(loss_module, "WEIGHT_ROWS", 20)
    return request.param


@pytest.mark.parametrize("drop_ignored", [True, False])
@pytest.mark.parametrize("ignored", [(), (0, 4, 10)], ids=["all_count", "some_ignored"])
def test_loss_and_gradients_equal_cross_entropy_on_full_logits(chunks, ignored, drop_ignored):
    hidden, weight, bias, labels = operands(ignored=ignored)
    logits = F.linear(hidden, weight, bias)
    expected = F.cross_entropy(logits, labels, reduction="sum")
    total, each, nll = cross_entropy(hidden, weight, labels, bias=bias, drop_ignored=drop_ignored)
    assert torch.equal(each, nll)
    torch.testing.assert_close(total, expected)
    torch.testing.assert_close(each, F.cross_entropy(logits, labels, reduction="none"))
    assert each.dtype == torch.float32
    assert not each.requires_grad
    scale = 0.25
    for ours, theirs in zip(
        gradients(scale * total, hidden, weight, bias), gradients(scale * expected, hidden, weight, bias), strict=True
    ):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("ignored", [(), (0, 4, 10)], ids=["all_count", "some_ignored"])
def test_smoothed_labels_are_a_distribution_that_the_model_diverges_from(chunks, ignored):
    """KL of s2s-ft: 1 - e at the label, e / (V - 2) at all others but padding, here id 3."""
    hidden, weight, bias, labels = operands(ignored=ignored)
    safe = labels.clamp(min=4)
    labels = torch.where(labels == IGNORED, labels, safe)
    target = torch.full((POSITIONS, VOCABULARY), 0.1 / (VOCABULARY - 2))
    target[:, 3] = 0.0
    target.scatter_(1, safe[:, None], 0.9)
    torch.testing.assert_close(target.sum(1), torch.ones(POSITIONS))
    logits = F.linear(hidden, weight, bias)
    expected = F.kl_div(logits.log_softmax(-1), target, reduction="none").sum(1).masked_fill(labels == IGNORED, 0)
    found = cross_entropy(hidden, weight, labels, bias=bias, smoothing=Smoothing(0.1, never=3))
    torch.testing.assert_close(found.each, expected)
    torch.testing.assert_close(found.total, expected.sum())
    torch.testing.assert_close(found.nll, F.cross_entropy(logits, labels, reduction="none"))
    for ours, theirs in zip(
        gradients(found.total, hidden, weight, bias), gradients(expected.sum(), hidden, weight, bias), strict=True
    ):
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)


def test_gradcheck_in_float64(chunks):
    hidden, weight, bias, labels = operands(torch.float64, ignored=(2,))
    assert torch.autograd.gradcheck(
        lambda *x: cross_entropy(x[0], x[1], labels, bias=x[2]).total, (hidden, weight, bias)
    )


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 2e-2), (torch.float16, 3e-3)])
def test_half_precision_stays_near_float32(chunks, dtype, tolerance):
    hidden, weight, bias, labels = operands(dtype)
    wide = [tensor.detach().float().requires_grad_() for tensor in (hidden, weight, bias)]
    expected = F.cross_entropy(F.linear(*wide), labels, reduction="sum")
    total = cross_entropy(hidden, weight, labels, bias=bias).total
    assert total.dtype == torch.float32
    torch.testing.assert_close(total, expected, atol=0, rtol=tolerance)
    for ours, theirs in zip(gradients(total, hidden, weight, bias), gradients(expected, *wide), strict=True):
        assert ours.dtype == dtype
        assert (ours.float() - theirs).norm() <= tolerance * theirs.norm()


def test_many_chunks_lose_no_bits_of_a_bfloat16_gradient(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(2048, WIDTH, generator=generator).bfloat16()
    weight = torch.randn(VOCABULARY, WIDTH, generator=generator).bfloat16().requires_grad_()
    labels = torch.randint(0, VOCABULARY, (2048,), generator=generator)
    (whole,) = gradients(cross_entropy(hidden, weight, labels).total, weight)
    monkeypatch.setattr(loss_module, "LOGITS_PER_CHUNK", 8 * VOCABULARY)
    (pieces,) = gradients(cross_entropy(hidden, weight, labels).total, weight)
    exact = weight.detach().float().requires_grad_()
    (reference,) = gradients(F.cross_entropy(F.linear(hidden.float(), exact), labels, reduction="sum"), exact)
    assert (pieces.float() - reference).norm() <= 1.5 * (whole.float() - reference).norm()


def test_autocast_computes_in_its_dtype_and_returns_gradients_in_the_weights(chunks):
    hidden, weight, bias, labels = operands()
    with torch.autocast("cpu", torch.bfloat16):
        total = cross_entropy(hidden, weight, labels, bias=bias).total
    narrow = cross_entropy(hidden.bfloat16(), weight.bfloat16(), labels, bias=bias.bfloat16()).total
    torch.testing.assert_close(total, narrow, atol=0, rtol=0)
    assert all(gradient.dtype == torch.float32 for gradient in gradients(total, hidden, weight, bias))


@pytest.mark.parametrize("frozen", ["hidden", "weight", "bias"])
def test_what_is_frozen_gets_no_gradient_and_the_rest_the_same(frozen):
    hidden, weight, bias, labels = operands()
    named = {"hidden": hidden, "weight": weight, "bias": bias}
    expected = dict(
        zip(named, gradients(cross_entropy(hidden, weight, labels, bias=bias).total, *named.values()), strict=True)
    )
    named[frozen].requires_grad_(False)
    cross_entropy(hidden, weight, labels, bias=bias).total.backward()
    assert named.pop(frozen).grad is None
    for name, tensor in named.items():
        assert torch.equal(tensor.grad, expected[name])


def products(call):
    """How many rows the matrix products of `call` have in all."""
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops() / (2 * VOCABULARY * WIDTH)


def test_nothing_is_computed_twice_and_nothing_without_need():
    hidden, weight, _, labels = operands()
    both = products(lambda: cross_entropy(hidden, weight, labels).total.backward())
    assert both == 3 * POSITIONS  # logits, and one product for each gradient
    weight.requires_grad_(False)
    assert products(lambda: cross_entropy(hidden, weight, labels).total.backward()) == 2 * POSITIONS
    with torch.no_grad():
        assert products(lambda: cross_entropy(hidden, weight, labels)) == POSITIONS


def test_ignored_positions_cost_nothing_when_dropped():
    hidden, weight, _, labels = operands(ignored=range(8))
    assert products(lambda: cross_entropy(hidden, weight, labels).total.backward()) == 3 * 3


def test_all_ignored_is_a_zero_with_zero_gradients():
    hidden, weight, bias, labels = operands(ignored=range(POSITIONS))
    for drop_ignored in (True, False):
        total, each, _ = cross_entropy(hidden, weight, labels, bias=bias, drop_ignored=drop_ignored)
        assert total.item() == 0
        assert not each.any()
        assert not any(gradient.any() for gradient in gradients(total, hidden, weight, bias))


def test_full_logits_never_exist(monkeypatch):
    monkeypatch.setattr(loss_module, "LOGITS_PER_CHUNK", 2 * VOCABULARY)
    hidden, weight, bias, labels = operands()
    heights = set()

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            result = function(*args, **(kwargs or {}))
            if isinstance(result, torch.Tensor) and result.shape[1:] == (VOCABULARY,):
                heights.add(result.shape[0])
            return result

    with Watch():
        cross_entropy(hidden, weight, labels, bias=bias).total.backward()
    assert heights - {WIDTH} == {1, 2}  # the weight's transpose has WIDTH rows, the last chunk 1


def test_the_same_call_gives_the_same_bits(chunks):
    hidden, weight, bias, labels = operands(torch.bfloat16)
    runs = [gradients(cross_entropy(hidden, weight, labels, bias=bias).total, hidden, weight, bias) for _ in range(2)]
    assert all(torch.equal(first, second) for first, second in zip(*runs, strict=True))


@pytest.mark.skipif(not hasattr(F, "linear_cross_entropy"), reason="torch has it from 2.13 on")
def test_equals_torchs_own_linear_cross_entropy(chunks):
    hidden, weight, bias, labels = operands(ignored=(1,))
    theirs = F.linear_cross_entropy(hidden, weight, labels, linear_bias=bias, reduction="sum")
    ours = cross_entropy(hidden, weight, labels, bias=bias).total
    torch.testing.assert_close(ours, theirs)
    for mine, other in zip(gradients(ours, hidden, weight), gradients(theirs, hidden, weight), strict=True):
        torch.testing.assert_close(mine, other, atol=1e-6, rtol=1e-5)

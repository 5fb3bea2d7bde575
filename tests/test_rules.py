"""Gradient rules, each written a second time: slowly, from the paper, with what is constant detached by hand."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import attcat
from attcat.capture.rules import RULES, make_rule
from attcat.capture.torch_calls import Interception

torch.manual_seed(0)
WEIGHT, BIAS = torch.randn(5, dtype=torch.double), torch.randn(5, dtype=torch.double)
QUERY, KEY = torch.randn(2, 1, 2, 4, 5, dtype=torch.double)


def layer_norm(x: Tensor) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt().detach() * WEIGHT + BIAS


def rms_norm(x: Tensor) -> Tensor:
    return x / (x.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt().detach() * WEIGHT


def gelu(x: Tensor) -> Tensor:
    return x * (0.5 * (1 + torch.erf(x / math.sqrt(2)))).detach()


def gelu_tanh(x: Tensor) -> Tensor:
    return x * (0.5 * (1 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))).detach()


def attention(x: Tensor) -> Tensor:
    weights = (QUERY @ (KEY + x.detach()).transpose(-2, -1) / math.sqrt(5)).softmax(-1)
    return weights @ x


def eager_attention(x: Tensor) -> Tensor:
    return F.softmax(QUERY @ (KEY + x).transpose(-2, -1) / math.sqrt(5), dim=-1) @ x


class OwnSilu(torch.autograd.Function):
    """As a model may bring it along."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x * x.sigmoid()

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return gradient * x.sigmoid() * (1 + x * (1 - x.sigmoid()))


class KeepingSilu(OwnSilu):
    """Keeps more than it needs: another tensor of its shape, one of another shape, and nothing."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        ctx.save_for_backward(x, x.sigmoid(), x.new_ones(()), None)
        return x * x.sigmoid()

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        x, gate, one, _ = ctx.saved_tensors
        return gradient * gate * (one + x * (one - gate))


class OwnProduct(torch.autograd.Function):
    """Of two tensors: no activation."""

    @staticmethod
    def forward(ctx, a: Tensor, b: Tensor) -> Tensor:
        ctx.save_for_backward(a, b)
        return a * b

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, Tensor]:
        a, b = ctx.saved_tensors
        return gradient * b, gradient * a


CASES = {
    "layer norm": (lambda x: F.layer_norm(x, (5,), WEIGHT, BIAS), layer_norm),
    "layer norm module": (lambda x: nn.LayerNorm(5).double()(x), lambda x: (layer_norm(x) - BIAS) / WEIGHT),
    "rms norm": (lambda x: F.rms_norm(x, (5,), WEIGHT, 1e-5), rms_norm),
    "rms norm written out": (lambda x: x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5) * WEIGHT, rms_norm),
    "layer norm written out": (
        lambda x: (
            (x - x.mean(-1, keepdim=True)) / torch.sqrt(x.var(-1, keepdim=True, unbiased=False) + 1e-5) * WEIGHT + BIAS
        ),
        layer_norm,
    ),
    "gelu": (F.gelu, gelu),
    "gelu module": (lambda x: nn.GELU()(x), gelu),
    "gelu tanh": (lambda x: F.gelu(x, approximate="tanh"), gelu_tanh),
    "gelu_new": (
        lambda x: 0.5 * x * (1.0 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * torch.pow(x, 3.0)))),
        gelu_tanh,
    ),
    "gelu_fast": (lambda x: 0.5 * x * (1.0 + torch.tanh(x * 0.7978845608028654 * (1.0 + 0.044715 * x * x))), gelu_tanh),
    "gelu python": (lambda x: x * 0.5 * (1.0 + torch.erf(x / math.sqrt(2.0))), gelu),
    "quick gelu": (lambda x: x * torch.sigmoid(1.702 * x), lambda x: x * torch.sigmoid(1.702 * x).detach()),
    "silu": (F.silu, lambda x: x * x.sigmoid().detach()),
    "silu of the model's own": (lambda x: 2 * OwnSilu.apply(x), lambda x: 2 * x * x.sigmoid().detach()),
    "silu that keeps more": (lambda x: 2 * KeepingSilu.apply(x), lambda x: 2 * x * x.sigmoid().detach()),
    "mish": (F.mish, lambda x: x * F.softplus(x).tanh().detach()),
    "tanh": (torch.tanh, lambda x: x * (x.tanh() / x).detach()),
    "relu": (F.relu, lambda x: x * (x > 0)),
    "softmax": (lambda x: x.softmax(-1) * x, lambda x: x.softmax(-1).detach() * x),
    "attention": (lambda x: F.scaled_dot_product_attention(QUERY, KEY + x, x), attention),
    "eager attention": (eager_attention, attention),
    "self-gating product": (
        lambda x: F.silu(x) * (2 * x),
        lambda x: 0.5 * (x * x.sigmoid().detach() * (2 * x).detach() + F.silu(x).detach() * 2 * x),
    ),
    "square": (lambda x: F.relu(x).square(), lambda x: F.relu(x) * F.relu(x).detach()),
    "normalize": (lambda x: F.normalize(x, dim=-1), lambda x: x / x.norm(dim=-1, keepdim=True).detach()),
    "power of minus a half": (
        lambda x: x * torch.pow(x.pow(2).mean(-1, keepdim=True) + 1e-5, -0.5) * WEIGHT,
        rms_norm,
    ),
    "einsum": (
        lambda x: torch.einsum("bhqd,bhkd->bhqk", x, 2 * x),
        lambda x: x @ x.detach().transpose(-2, -1) + x.detach() @ x.transpose(-2, -1),
    ),
    "einsum of three": (
        lambda x: torch.einsum("bhqd,bhqd,bhqd->bhqd", [x, 2 * x, x]),
        lambda x: 2 * x * x.detach() ** 2,
    ),
    "product that is added": (
        lambda x: torch.addcmul(x, x, 2 * x),
        lambda x: x + 2 * x * x.detach(),
    ),
    "constant factor": (lambda x: x * WEIGHT, lambda x: x * WEIGHT),
}


def gradient(function, x: Tensor, rule: str | None = None) -> tuple[Tensor, Tensor]:
    x = x.clone().requires_grad_()
    if rule is None:
        value = function(x)
    else:
        with Interception(make_rule(rule), []):
            value = function(x)
    weight = torch.randn(value.shape, generator=torch.Generator().manual_seed(1), dtype=value.dtype)
    return value.detach(), torch.autograd.grad((value * weight).sum(), x)[0]


@pytest.mark.parametrize("name", CASES)
def test_libra_is_the_slow_rule(name: str) -> None:
    function, slow = CASES[name]
    x = torch.randn(1, 2, 4, 5, dtype=torch.double, generator=torch.Generator().manual_seed(2))
    plain_value, plain = gradient(function, x)
    value, actual = gradient(function, x, "libra")
    slow_value, expected = gradient(slow, x)
    torch.testing.assert_close(value, plain_value)
    torch.testing.assert_close(slow_value, plain_value)
    torch.testing.assert_close(actual, expected)
    if name not in ("relu", "constant factor"):
        assert (actual - plain).abs().max() > 1e-3  # the rule does something
    torch.testing.assert_close(gradient(function, x, "plain")[1], plain)


@pytest.mark.parametrize("function", [F.gelu, F.silu, F.mish, torch.tanh, F.elu, F.hardswish])
def test_a_gate_has_its_limit_at_zero(function) -> None:
    zero, small = torch.zeros(3, dtype=torch.double), torch.full((3,), 1e-7, dtype=torch.double)
    torch.testing.assert_close(
        gradient(function, zero, "libra")[1], gradient(function, small, "libra")[1], rtol=1e-5, atol=1e-7
    )
    assert gradient(function, torch.zeros(3, dtype=torch.bfloat16), "libra")[1].isfinite().all()


def test_a_function_of_the_models_own_that_is_no_activation_keeps_its_gradient() -> None:
    x = torch.randn(3, 5, dtype=torch.double, generator=torch.Generator().manual_seed(2))
    expected = gradient(lambda x: 2 * x * x.cos(), x)
    for rule in ("plain", "libra"):
        torch.testing.assert_close(gradient(lambda x: 2 * OwnProduct.apply(x, x.cos()), x, rule), expected)


def test_parameters_are_constants_inside_a_trace() -> None:
    parameter = nn.Parameter(torch.ones(5))
    x = torch.randn(5, requires_grad=True)
    with Interception(make_rule("libra"), []):
        scaled = x * parameter  # a LayerScale, not a self-gating product: x gets the whole gradient
        assert not (1 + parameter).requires_grad
    torch.testing.assert_close(torch.autograd.grad(scaled.sum(), x)[0], torch.ones(5))


def test_ordinary_gradients_are_ordinary_again_afterwards() -> None:
    x = torch.randn(4, 5, dtype=torch.double)
    expected = gradient(lambda x: F.gelu(F.layer_norm(x, (5,))), x)[1]
    with pytest.raises(ZeroDivisionError), Interception(make_rule("libra"), []):
        raise ZeroDivisionError
    gradient(lambda x: F.gelu(F.layer_norm(x, (5,))), x, "libra")
    torch.testing.assert_close(gradient(lambda x: F.gelu(F.layer_norm(x, (5,))), x)[1], expected)


def test_another_thread_sees_no_rule() -> None:
    import threading

    x = torch.randn(4, 5, dtype=torch.double)
    expected, found = gradient(F.gelu, x)[1], []
    with Interception(make_rule("libra"), []):
        thread = threading.Thread(target=lambda: found.append(gradient(F.gelu, x)[1]))
        thread.start()
        thread.join()
    torch.testing.assert_close(found[0], expected)


def test_multi_head_attention_of_torch_is_seen_inside() -> None:
    from attcat.capture.blocks import Block

    layer = nn.MultiheadAttention(8, 2, batch_first=True).double().eval()
    x = torch.randn(1, 4, 8, dtype=torch.double, requires_grad=True)
    block = Block(x)
    expected, weights = layer(x, x, x, need_weights=True, average_attn_weights=False)
    with Interception(make_rule("libra"), [block]):
        output, _ = layer(x, x, x, need_weights=False)
    torch.testing.assert_close(output, expected)
    torch.testing.assert_close(block.attention[0].weights(), weights)


def test_rules_are_found_by_name() -> None:
    assert set(RULES) >= {"plain", "libra"}
    with pytest.raises(attcat.OptionError, match="no gradient rule 'x': use one of plain, libra"):
        make_rule("x")


def test_attnlrp_shares_products_and_differentiates_softmax() -> None:
    """Written a second time: half of the gradient to each factor of both products, softmax as it is."""

    def half(a: Tensor, b: Tensor) -> Tensor:
        return 0.5 * (a @ b.detach() + a.detach() @ b)

    def slow(x: Tensor) -> Tensor:
        weights = half((QUERY + x) / math.sqrt(5), (KEY + x).transpose(-2, -1)).softmax(-1)
        return half(weights, x)

    x = torch.randn(1, 2, 4, 5, dtype=torch.double, generator=torch.Generator().manual_seed(2))
    expected = gradient(slow, x)
    fused = gradient(lambda x: F.scaled_dot_product_attention(QUERY + x, KEY + x, x), x, "attnlrp")
    eager = gradient(lambda x: ((QUERY + x) / math.sqrt(5) @ (KEY + x).transpose(-2, -1)).softmax(-1) @ x, x, "attnlrp")
    for found in (fused, eager):
        torch.testing.assert_close(found[0], expected[0])
        torch.testing.assert_close(found[1], expected[1])


@pytest.mark.parametrize(
    "function",
    [
        *(F.selu, F.celu, F.relu6, F.softsign, F.tanhshrink, torch.expm1, torch.asinh),
        lambda x: F.hardtanh(x, -0.5, 0.5),
        lambda x: x.clamp(-0.5, 0.5),
        lambda x: torch.clip(x, max=0.3),
    ],
)
def test_other_functions_through_zero_have_a_gate(function: Callable[[Tensor], Tensor]) -> None:
    """x times the gradient is f(x), also where a bound is met, and the slope at 0 is f'(0)."""
    x = torch.tensor([-2.0, -0.4, 0.0, 0.4, 2.0], requires_grad=True)
    with Interception(make_rule("libra"), []):
        y = function(x)
    (slope,) = torch.autograd.grad(y.sum(), x)
    assert torch.equal(y, function(x))
    assert torch.allclose(x * slope, y, atol=1e-6)
    left, right = (float(function(torch.tensor([step]))) / step for step in (-1e-3, 1e-3))
    assert min(left, right) - 1e-3 <= float(slope[2]) <= max(left, right) + 1e-3


def test_a_bound_above_zero_is_no_gate() -> None:
    x = torch.tensor([-1.0, 2.0], requires_grad=True)
    with Interception(make_rule("libra"), []):
        y = x.clamp(min=0.5)
    assert torch.autograd.grad(y.sum(), x)[0].tolist() == [0.0, 1.0]


def test_a_gated_linear_unit_of_torch() -> None:
    x = torch.randn(3, 8, requires_grad=True, generator=torch.Generator().manual_seed(0))
    with Interception(make_rule("libra"), []):
        y = F.glu(x)
    assert torch.allclose(y, F.glu(x))
    (slope,) = torch.autograd.grad(y.sum(), x)
    assert torch.allclose((x * slope).sum(-1), y.sum(-1), atol=1e-6)
    assert not slope[:, 4:].any()


def test_the_input_of_an_activation_may_be_written_over_afterwards() -> None:
    """Its gate is formed at once, as the models that write in place expect."""
    x = torch.randn(4, 5, requires_grad=True, generator=torch.Generator().manual_seed(0))
    with Interception(make_rule("libra"), []):
        state = x + 1
        y = F.gelu(state)
        state.zero_()
    (slope,) = torch.autograd.grad(y.sum(), x)
    assert torch.allclose((x + 1) * slope, y, atol=1e-6)


@pytest.mark.parametrize("weight", [None, WEIGHT], ids=["no weight", "a weight"])
def test_the_gradient_that_arrives_at_a_normalisation_is_not_written_over(weight: Tensor | None) -> None:
    x, arrived = torch.randn(2, 4, 5, dtype=torch.double, generator=torch.Generator().manual_seed(0)).unbind()
    before = arrived.clone()
    with Interception(make_rule("libra"), []):
        y = F.layer_norm(x.requires_grad_(), (5,), weight)
    torch.autograd.grad(y, x, arrived)
    assert torch.equal(arrived, before)


@pytest.mark.parametrize("rule", RULES)
def test_an_einsum_of_constants_alone(rule: str) -> None:
    with Interception(make_rule(rule), []):
        product = torch.einsum("hqd,hkd->hqk", QUERY[0], KEY[0])
    assert torch.equal(product, torch.einsum("hqd,hkd->hqk", QUERY[0], KEY[0]))

"""Gradient rules where operations are spelled in other ways: operands in another order, by keyword, along another axis.

Each is written a second time with what is constant detached by hand, as in test_rules.py.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from test_graded import KEY, QUERY, VALUE, gradient, halved, shared
from test_rivals import softened
from torch import Tensor

from attcat.capture import rules
from attcat.capture.attention import Call
from attcat.capture.relevance import Relevance
from attcat.capture.rules import RULES, Rule, make_rule, register_rule
from attcat.capture.torch_calls import Interception
from attcat.errors import OptionError

DOUBLE = torch.double
BETA = 0.3
WEIGHT, BIAS = torch.randn(2, 4, dtype=DOUBLE, generator=torch.Generator().manual_seed(7))


def weights_of(x: Tensor) -> Tensor:
    return F.softmax((QUERY + x) / math.sqrt(5) @ (KEY + x).transpose(-2, -1), dim=-1)


def slow_weights(x: Tensor) -> Tensor:
    return halved((QUERY + x) / math.sqrt(5), (KEY + x).transpose(-2, -1)).softmax(-1)


def slow_mix(x: Tensor) -> Tensor:
    return shared(slow_weights(x), VALUE + x, BETA)


def after(steps: int) -> Callable[[Tensor], Tensor]:
    """A mix of values with so many operations between softmax and product."""

    def function(x: Tensor) -> Tensor:
        weights = weights_of(x)
        for step in range(steps):
            weights = weights.unsqueeze(0) if step % 2 == 0 else weights.squeeze(0)
        return (weights @ (VALUE + x)).view_as(x)

    return function


def flat(x: Tensor) -> Tensor:
    return x.flatten(0, 1)


MIXES: dict[str, Callable[[Tensor], Tensor]] = {
    "weights behind the values": lambda x: ((VALUE + x).transpose(-2, -1) @ weights_of(x).transpose(-2, -1)).transpose(
        -2, -1
    ),
    "einsum": lambda x: torch.einsum("bhqk,bhkd->bhqd", weights_of(x), VALUE + x),
    "einsum, values first": lambda x: torch.einsum("bhkd,bhqk->bhqd", VALUE + x, weights_of(x)),
    "einsum with a constant between": lambda x: torch.einsum(
        "bhqk,k,bhkd->bhqd", weights_of(x), torch.ones(4, dtype=DOUBLE), VALUE + x
    ),
    "einsum of a list": lambda x: torch.einsum("bhqk,bhkd->bhqd", [weights_of(x), VALUE + x]),
    "baddbmm": lambda x: torch.baddbmm(flat(QUERY), flat(weights_of(x)), flat(VALUE + x)).view_as(x) - QUERY,
    "baddbmm by keyword": lambda x: torch.baddbmm(
        flat(QUERY), batch2=flat(VALUE + x), batch1=flat(weights_of(x)), beta=0
    ).view_as(x),
    "baddbmm, one by keyword": lambda x: torch.baddbmm(
        flat(QUERY), flat(weights_of(x)), batch2=flat(VALUE + x), beta=0
    ).view_as(x),
    "a step between": after(1),
    "as many steps as are looked back": after(rules.STEPS_BACK - 1),
}


@pytest.mark.parametrize("name", MIXES)
def test_values_and_weights_have_their_shares_however_they_are_multiplied(name: str) -> None:
    value, expected = gradient(slow_mix, None)
    found = gradient(MIXES[name], make_rule("graded", beta=BETA))
    torch.testing.assert_close(found[0], value)
    torch.testing.assert_close(found[1], expected)


def test_a_softmax_far_from_its_product_is_a_hidden_state() -> None:
    """With more operations between than are looked back: half of the gradient to each, and beta of it through softmax."""
    assert rules.STEPS_BACK == 6

    def slow(x: Tensor) -> Tensor:
        weights = slow_weights(x)
        return 0.5 * (weights.detach() @ (VALUE + x)) + 0.5 * BETA * (weights @ (VALUE + x).detach())

    found = gradient(after(6), make_rule("graded", beta=BETA))[1]
    torch.testing.assert_close(found, gradient(slow, None)[1])


def test_what_is_made_of_two_is_no_softmax() -> None:
    """A softmax times something that varies is a hidden state like any other."""

    def function(x: Tensor) -> Tensor:
        return (weights_of(x) * x[..., :1]) @ (VALUE + x)

    def slow(x: Tensor) -> Tensor:
        a = slow_weights(x)
        mixed = (1 - BETA / 2) * a.detach() * x[..., :1] + BETA / 2 * a * x[..., :1].detach()
        return 0.5 * (mixed.detach() @ (VALUE + x) + mixed @ (VALUE + x).detach())

    torch.testing.assert_close(gradient(function, make_rule("graded", beta=BETA))[1], gradient(slow, None)[1])


def constant(x: Tensor) -> Tensor:
    return x.detach()


# Name: as a model writes it, and what it is under `libra`, for x [1, 2, 4, 5] of any sign.
SPELLED: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "a power of one": (lambda x: x.pow(1), lambda x: x),
    "a power of one and a half": (lambda x: x.exp().pow(1.5) * x, lambda x: constant(x.exp() ** 1.5) * x),
    "a cube": (lambda x: torch.pow(x, 3), lambda x: x * constant(x**2)),
    "a cube by operator": (lambda x: x**3, lambda x: x * constant(x**2)),
    "a root": (lambda x: (x * x).pow(0.5) * x, lambda x: constant(x.abs()) * x),
    "a power that varies": (lambda x: torch.pow(2.0, x), lambda x: torch.pow(2.0, x)),
    "a tensor as exponent": (lambda x: torch.pow(x, torch.full((5,), 2.0, dtype=DOUBLE)), lambda x: x**2),
    "square": (lambda x: torch.square(x), lambda x: x * constant(x)),
    "squares of constants": (lambda x: x * torch.square(QUERY) * QUERY.square(), lambda x: x * QUERY**4),
    "powers of constants": (lambda x: x * torch.pow(QUERY, 2) * QUERY.pow(3), lambda x: x * QUERY**5),
    "quotient of two": (lambda x: x / (x.exp() + 1), lambda x: x / constant(x.exp() + 1)),
    "quotient of a constant": (lambda x: x * (1.0 / (1 + x * x)), lambda x: x * constant(1 / (1 + x * x))),
    "divided by a constant": (lambda x: x / QUERY, lambda x: x / QUERY),
    "bounded from below, at zero": (lambda x: x.clamp(min=0.0), lambda x: x * (x > 0)),
    "bounded from above, at zero": (lambda x: x.clamp(max=0.0), lambda x: x * (x < 0)),
    "bounded from below, under zero": (lambda x: x.clamp(-0.2), lambda x: x * constant(x.clamp(-0.2) / x)),
    "bounded from above, over zero": (
        lambda x: torch.clip(x, None, 0.2),
        lambda x: x * constant(x.clip(None, 0.2) / x),
    ),
    "bounded by keyword": (lambda x: x.clip(min=-0.2, max=0.1), lambda x: x * constant(x.clip(-0.2, 0.1) / x)),
    "bounded from above, under zero": (lambda x: x.clamp(max=-0.2), lambda x: x.clamp(max=-0.2)),
    "bounded from below, over zero": (lambda x: x.clamp(0.2, 0.4), lambda x: x.clamp(0.2, 0.4)),
    "bounded by a tensor": (
        lambda x: x.clamp(min=torch.full_like(x, -0.2)),
        lambda x: x.clamp(min=torch.full_like(x, -0.2)),
    ),
    "glu along the heads": (lambda x: F.glu(x, 1), lambda x: x[:, :1] * constant(x[:, 1:].sigmoid())),
    "glu by keyword": (lambda x: F.glu(x, dim=2), lambda x: x[:, :, :2] * constant(x[:, :, 2:].sigmoid())),
    "softmax along another axis": (lambda x: torch.softmax(x, 2) * x, lambda x: constant(x.softmax(2)) * x),
    "a solved system": (
        lambda x: torch.linalg.solve_triangular(square(x) + 3 * torch.eye(4, dtype=DOUBLE), x, upper=False),
        lambda x: torch.linalg.solve_triangular(constant(square(x) + 3 * torch.eye(4, dtype=DOUBLE)), x, upper=False),
    ),
    "a gelu written in another order": (
        lambda x: (torch.tanh(x) + 1.0) * x,
        lambda x: constant(torch.tanh(x) + 1.0) * x,
    ),
    "tanh and a tensor": (
        lambda x: torch.tanh(x) + QUERY,
        lambda x: x * constant(torch.tanh(x) / x) + QUERY,
    ),
    "product with itself transposed": (
        lambda x: torch.matmul(x, x.transpose(-2, -1)),
        lambda x: halved(x, x.transpose(-2, -1)),
    ),
    "product with a constant in front": (lambda x: QUERY.transpose(-2, -1) @ x, lambda x: QUERY.transpose(-2, -1) @ x),
    "einsum of one that varies": (
        lambda x: torch.einsum("bhtd,de->bhte", x, torch.eye(5, dtype=DOUBLE)[:, :4]),
        lambda x: x[..., :4],
    ),
    "einsum of one alone": (lambda x: torch.einsum("bhtd->bht", x), lambda x: x.sum(-1)),
    "product that is added to a sum": (
        lambda x: torch.addcmul(x, tensor1=x, tensor2=3 * x, value=2),
        lambda x: x + 6 * x * constant(x),
    ),
}


def square(x: Tensor) -> Tensor:
    """A lower triangle that varies, `[1, 2, 4, 4]`."""
    return (x[..., :4] * 0.1).tril()


def same_under_libra(function: Callable[[Tensor], Tensor], slow: Callable[[Tensor], Tensor]) -> None:
    """Value and gradient are those of the rule written out."""
    value, expected = gradient(slow, None)
    found = gradient(function, make_rule("libra"))
    torch.testing.assert_close(found[0], value)
    torch.testing.assert_close(found[1], expected)


@pytest.mark.parametrize("name", SPELLED)
def test_libra_is_the_slow_rule_in_every_spelling(name: str) -> None:
    function, slow = SPELLED[name]
    same_under_libra(function, slow)


# -- normalisations of channels --------------------------------------------------------------------------------------


def frozen(x: Tensor, axes: tuple[int, ...], eps: float) -> Tensor:
    mean = x.mean(axes, keepdim=True)
    return (x - mean) / ((x - mean).pow(2).mean(axes, keepdim=True) + eps).sqrt().detach()


def in_groups(x: Tensor, groups: int, eps: float, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    """A group at a time."""
    parts = [frozen(part, tuple(range(1, x.dim())), eps) for part in x.chunk(groups, 1)]
    result = torch.cat(parts, 1)
    across = [-1] + [1] * (x.dim() - 2)
    result = result if weight is None else result * weight.reshape(across)
    return result if bias is None else result + bias.reshape(across)


def trained(x: Tensor, mean: Tensor, variance: Tensor, weight: Tensor | None, bias: Tensor | None) -> Tensor:
    result = (x - mean) / (variance + 1e-5).sqrt()
    return result if weight is None or bias is None else result * weight.view(mean.shape) + bias.view(mean.shape)


KINDS = ["groups", "groups by keyword", "instances", "trained"]


@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize(
    ("kind", "shape"),
    [
        (kind, shape)
        for kind in KINDS
        for shape in [(2, 4, 3), (2, 4, 3, 2), (2, 4)]
        if "groups" in kind or len(shape) > 2
    ],
)
def test_normalisations_of_channels_have_a_constant_deviation(kind: str, affine: bool, shape: tuple[int, ...]) -> None:
    weight, bias = (WEIGHT, BIAS) if affine else (None, None)
    mean, variance = torch.linspace(-1, 1, 4, dtype=DOUBLE), torch.linspace(0.5, 2, 4, dtype=DOUBLE)
    across = [1, -1] + [1] * (len(shape) - 2)
    functions = {
        "groups": (
            lambda x: F.group_norm(x, 2, weight, bias, 1e-2),
            lambda x: in_groups(x, 2, 1e-2, weight, bias),
        ),
        "groups by keyword": (
            lambda x: F.group_norm(x, num_groups=1, bias=bias, weight=weight),
            lambda x: in_groups(x, 1, 1e-5, weight, bias),
        ),
        "instances": (
            lambda x: F.instance_norm(x, weight=weight, bias=bias),
            lambda x: in_groups(x, 4, 1e-5, weight, bias),
        ),
        "trained": (
            lambda x: F.instance_norm(x, mean, variance, weight, bias, use_input_stats=False),
            lambda x: trained(x, mean.view(across), variance.view(across), weight, bias),
        ),
    }
    function, slow = functions[kind]
    x = torch.randn(shape, dtype=DOUBLE, generator=torch.Generator().manual_seed(3)).requires_grad_()
    start = torch.randn(shape, dtype=DOUBLE, generator=torch.Generator().manual_seed(4))
    with Interception(make_rule("libra"), []):
        found = function(x)
    expected = slow(x)
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(torch.autograd.grad(found, x, start), torch.autograd.grad(expected, x, start))


@pytest.mark.parametrize("axes", [1, 2])
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("kind", ["layer", "rms"])
def test_normalisations_of_features_over_one_axis_or_two(kind: str, affine: bool, axes: int) -> None:
    shape = (4, 5)[-axes:]
    weight = torch.randn(shape, dtype=DOUBLE, generator=torch.Generator().manual_seed(5)) if affine else None
    over = tuple(range(-axes, 0))

    def function(x: Tensor) -> Tensor:
        if kind == "layer":
            return F.layer_norm(x, shape, weight, weight)
        return F.rms_norm(x, shape, weight)

    def slow(x: Tensor) -> Tensor:
        if kind == "layer":
            result = frozen(x, over, 1e-5)
            return result if weight is None else result * weight + weight
        result = x / (x.pow(2).mean(over, keepdim=True) + torch.finfo(DOUBLE).eps).sqrt().detach()
        return result if weight is None else result * weight

    same_under_libra(function, slow)


# -- attention that is not the usual one -----------------------------------------------------------------------------


def slow_attention(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | float = 0.0) -> Tensor:
    return (query @ key.transpose(-2, -1) / math.sqrt(query.shape[-1]) + mask).softmax(-1).detach() @ value


def repeated(x: Tensor) -> Tensor:
    return torch.cat([x[:, :1], x[:, :1], x[:, 1:], x[:, 1:]], 1)


CAUSAL = torch.zeros(4, 4, dtype=DOUBLE).masked_fill(torch.ones(4, 4).triu(1).bool(), -torch.inf)
CALLS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "heads and batch in one axis": (
        lambda x: F.scaled_dot_product_attention(flat(QUERY + x), flat(KEY + x), flat(VALUE + x)),
        lambda x: flat(slow_attention(QUERY + x, KEY + x, VALUE + x)),
    ),
    "windows": (
        lambda x: F.scaled_dot_product_attention((QUERY + x)[None], (KEY + x)[None], (VALUE + x)[None])[0],
        lambda x: slow_attention(QUERY + x, KEY + x, VALUE + x),
    ),
    "a mask that varies": (
        lambda x: F.scaled_dot_product_attention(QUERY, KEY, VALUE + x, x[..., :4]),
        lambda x: slow_attention(QUERY, KEY, VALUE + x, x[..., :4]),
    ),
    "a mask that varies, by keyword, in one axis": (
        lambda x: F.scaled_dot_product_attention(flat(QUERY), flat(KEY), flat(VALUE + x), attn_mask=flat(x[..., :4])),
        lambda x: flat(slow_attention(QUERY, KEY, VALUE + x, x[..., :4])),
    ),
    "causal": (
        lambda x: F.scaled_dot_product_attention(QUERY + x, KEY + x, VALUE + x, is_causal=True),
        lambda x: slow_attention(QUERY + x, KEY + x, VALUE + x, CAUSAL),
    ),
    "a scale": (
        lambda x: F.scaled_dot_product_attention(QUERY, KEY, VALUE + x, scale=0.7),
        lambda x: (QUERY @ KEY.transpose(-2, -1) * 0.7).softmax(-1) @ (VALUE + x),
    ),
    "keys of several heads": (
        lambda x: F.scaled_dot_product_attention(
            torch.cat([QUERY + x, QUERY - x], 1), KEY + x, VALUE + x, enable_gqa=True
        ),
        lambda x: slow_attention(torch.cat([QUERY + x, QUERY - x], 1), repeated(KEY + x), repeated(VALUE + x)),
    ),
    "queries of one example for two": (
        lambda x: F.scaled_dot_product_attention(
            (QUERY + x).expand(2, -1, -1, -1), KEY.expand(2, -1, -1, -1), torch.cat([VALUE + x, VALUE - x])
        ),
        lambda x: slow_attention(QUERY + x, KEY, torch.cat([VALUE + x, VALUE - x])),
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_attention_is_constant_however_it_is_called(name: str) -> None:
    function, slow = CALLS[name]
    same_under_libra(function, slow)


def test_attention_is_constant_where_its_weights_are_not_computed_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a device whose kernel is as fast: the same numbers."""
    x = torch.randn(1, 2, 4, 5, dtype=DOUBLE, generator=torch.Generator().manual_seed(2)).requires_grad_()

    def found() -> tuple[Tensor, ...]:
        with Interception(make_rule("libra"), []):
            value = F.scaled_dot_product_attention(QUERY + x, KEY + x, VALUE + x, x[..., :4])
        return value.detach(), *torch.autograd.grad(value.square().sum(), x)

    expected = found()
    monkeypatch.setattr(rules, "RECOMPUTED_ON", ())
    torch.testing.assert_close(found(), expected)


# -- rivals ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("axis", [1, 2, -1])
@pytest.mark.parametrize("spelling", ["positional", "keyword", "method"])
def test_gims_softmax_along_any_axis(axis: int, spelling: str) -> None:
    def function(x: Tensor) -> Tensor:
        if spelling == "method":
            return x.softmax(axis)
        return torch.softmax(x, axis) if spelling == "positional" else F.softmax(x, dim=axis)

    value, expected = gradient(lambda x: softened(x.transpose(axis, -1), 3.0).transpose(axis, -1), None)
    found = gradient(function, make_rule("gim", temperature=3.0))
    torch.testing.assert_close(found[0], value)
    torch.testing.assert_close(found[1], expected)


def test_gims_attention_in_one_call() -> None:
    """Values get half of their gradient, queries and keys a quarter each, of a softmax at twice the temperature."""

    def halves(a: Tensor, b: Tensor) -> Tensor:
        return 0.5 * (a @ b.detach() + a.detach() @ b)

    def slow(x: Tensor) -> Tensor:
        products = halves((QUERY + x) / math.sqrt(5), (KEY + x).transpose(-2, -1))
        return halves(softened(products, 2.0), VALUE + x)

    found = gradient(lambda x: F.scaled_dot_product_attention(QUERY + x, KEY + x, VALUE + x), make_rule("gim"))
    torch.testing.assert_close(found, gradient(slow, None))


PLAIN_UNDER_GIM: dict[str, Callable[[Tensor], Tensor]] = {
    "power": lambda x: x.pow(3),
    "square": lambda x: x.square(),
    "clamp": lambda x: x.clamp(-0.2, 0.2),
    "selu": F.selu,
    "glu": lambda x: F.glu(x, 2),
    "mish": lambda x: x * torch.tanh(F.softplus(x)),
    "gate in front": lambda x: torch.sigmoid(x) * x,
    "gate behind a number": lambda x: (1.0 + torch.tanh(x)) * x,
    "gate before a number": lambda x: (torch.tanh(x) + 1.0) * x,
    "gate times a number": lambda x: (torch.sigmoid(x) * 2.0) * x,
}


@pytest.mark.parametrize("name", PLAIN_UNDER_GIM)
def test_gim_differentiates_activations_as_they_are(name: str) -> None:
    function = PLAIN_UNDER_GIM[name]
    torch.testing.assert_close(gradient(function, make_rule("gim")), gradient(function, None))


def test_gim_halves_what_an_activation_has_become() -> None:
    """x * sigmoid(x) is an activation; multiplied by another hidden state it is one of two factors."""

    def function(x: Tensor) -> Tensor:
        return (x * torch.sigmoid(x)) * (QUERY + x)

    def slow(x: Tensor) -> Tensor:
        return 0.5 * (F.silu(x) * (QUERY + x).detach() + F.silu(x).detach() * (QUERY + x))

    torch.testing.assert_close(gradient(function, make_rule("gim"))[1], gradient(slow, None)[1])


def test_gim_of_a_query_that_sees_nothing() -> None:
    """A row that is masked as a whole is 0, and so is its gradient."""
    leaves = [x.clone().requires_grad_() for x in (QUERY, KEY, VALUE)]
    mask = torch.ones(4, 4, dtype=torch.bool)
    mask[1] = False
    output, weights = make_rule("gim").attend(Call.of(*leaves, mask), leaves[2])  # type: ignore[attr-defined]
    assert not weights[:, :, 1].any()
    assert not output[:, :, 1].any()
    found = torch.autograd.grad(output.sum(), leaves)
    assert all(g.isfinite().all() for g in found)
    assert not found[0][:, :, 1].any()


def residual(gamma: float, *shape: int, a: list[float], b: list[float]) -> tuple[list[float], list[float]]:
    leaves = [torch.tensor(x, dtype=DOUBLE).view(shape).requires_grad_() for x in (a, b)]
    with Interception(make_rule("reslrp", gamma=gamma), []):
        z = leaves[0] + leaves[1]
    return tuple(g.flatten().tolist() for g in torch.autograd.grad(z.sum(), leaves))  # type: ignore[return-value]


def test_reslrp_at_its_bounds() -> None:
    """gamma = 1. A summand of 0 agrees with nothing: b = 2 has weight 2 of z = 2, so g_a = 1 * 2/4; a sum of 0 is plain."""
    assert residual(1.0, 1, 1, 3, a=[0.0, 1.0, 3.0], b=[2.0, -1.0, 1.0]) == ([0.5, 1.0, 1.0], [1.0, 1.0, 1.0])
    assert residual(1.0, 1, 1, 1, a=[3.0], b=[-1.0]) == ([2 * 2 / 5], [2 / 5])  # 2 / (2 * 3 - 1)
    assert residual(1.0, 1, 1, 1, a=[0.25], b=[-0.125]) == ([2 / 3], [1 / 3])  # however small: 1 / 8 of 1 / 2 - 1 / 8
    assert residual(1.0, 1, 1, a=[3.0], b=[-1.0]) == ([1.0], [1.0])  # no residual connection: two axes
    assert residual(1.0, 1, 1, 1, 1, a=[3.0], b=[-1.0]) == ([1.0], [1.0])


def test_reslrp_leaves_sums_of_other_shapes_and_with_a_factor() -> None:
    a = torch.tensor([[[3.0], [-2.0]]], requires_grad=True)
    b = torch.tensor([[[-1.0]]], requires_grad=True)
    with Interception(make_rule("reslrp"), []):
        spread, factor, constant = a + b, torch.add(a, a * 1.0, alpha=-2), a + torch.ones(1, 2, 1)
    assert torch.autograd.grad(spread.sum(), (a, b))[0].flatten().tolist() == [1.0, 1.0]
    assert torch.autograd.grad(factor.sum(), a)[0].flatten().tolist() == [-1.0, -1.0]
    assert torch.autograd.grad(constant.sum(), a)[0].flatten().tolist() == [1.0, 1.0]


# -- rules by name ---------------------------------------------------------------------------------------------------


def test_rules_have_options_with_defaults() -> None:
    assert {name: dict(rule.options) for name, rule in RULES.items() if rule.options} == {
        "graded": {"beta": 0.75},
        "gim": {"temperature": 2.0},
        "reslrp": {"gamma": 1.0},
    }
    assert make_rule("graded").beta == 0.75  # type: ignore[attr-defined]
    assert make_rule("gim").temperature == 2.0  # type: ignore[attr-defined]
    assert make_rule("reslrp").gamma == 1.0  # type: ignore[attr-defined]
    assert make_rule("graded", beta=1).weight_share == 0.5
    assert make_rule("graded", beta=0).weight_share == make_rule("libra").weight_share == 1.0


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("graded", {"beta": True}, "beta=True of the rule graded: expected a number"),
        ("graded", {"beta": "0.5"}, "beta='0.5' of the rule graded: expected a number"),
        ("graded", {"beta": -0.1}, "expected a number from 0"),
        ("graded", {"beta": 1.01}, "expected a number from 0"),
        ("graded", {"beta": float("nan")}, "expected a number from 0"),
        ("gim", {"temperature": 0}, "expected a positive number"),
        ("gim", {"temperature": float("nan")}, "expected a positive number"),
        ("reslrp", {"gamma": float("nan")}, "expected 0 or more"),
        ("graded", {"z": 1, "a": 2}, "the rule graded has no option a, z; it has beta"),
        ("plain", {"beta": 1}, "it has none"),
        (None, {}, "no gradient rule None"),
        (["libra"], {}, "no gradient rule"),
    ],
)
def test_what_is_no_rule_or_no_option(name: str, options: dict[str, float], message: str) -> None:
    with pytest.raises(OptionError, match=message):
        make_rule(name, **options)


def test_rules_of_your_own_have_a_name_of_their_own() -> None:
    class Mine(Rule):
        name = "mine_for_this_test"

    class Unnamed(Mine):
        pass

    class Taken(Rule):
        name = "libra"

    class Untypable(Rule):
        name = "two words"

    class Number(Rule):
        name = 3  # type: ignore[assignment]

    try:
        assert register_rule(Mine) is register_rule(Mine) is RULES["mine_for_this_test"]
        assert type(make_rule("mine_for_this_test")) is Mine
        for other, message in (
            (Unnamed, "has no name that can be typed"),
            (Untypable, "has no name that can be typed"),
            (Number, "has no name that can be typed"),
            (Taken, "there is a rule 'libra' already"),
        ):
            with pytest.raises(OptionError, match=message):
                register_rule(other)
        for other in (Mine(), dict, "libra"):
            with pytest.raises(TypeError, match="is not a subclass"):
                register_rule(other)  # type: ignore[arg-type]
    finally:
        RULES.pop("mine_for_this_test", None)


# -- relevance -------------------------------------------------------------------------------------------------------


def of(function: Callable[..., Tensor], *inputs: Tensor, start: Tensor | None = None) -> tuple[Tensor, ...]:
    leaves = [x.clone().requires_grad_() for x in inputs]
    with Interception(Relevance(), []):
        value = function(*leaves)
    return torch.autograd.grad(value, leaves, torch.ones_like(value) if start is None else start)


def contributions(x: Tensor, jacobian: Tensor, relevance: Tensor) -> Tensor:
    """R_i = sum_o x_i J_oi R_o / z_o, one product at a time; 0 where z is 0."""
    found = torch.zeros_like(x)
    for i in range(len(x)):
        for o in range(len(relevance)):
            z = float(jacobian[o] @ x)
            found[i] += 0.0 if z == 0 else float(x[i] * jacobian[o, i] * relevance[o]) / z
    return found


LINEAR: dict[str, Callable[[Tensor], Tensor]] = {
    "a constant matrix in front": lambda x: torch.matmul(LINE, x[..., None])[..., 0],
    "a constant matrix behind": lambda x: torch.matmul(x, LINE.t()),
    "batches": lambda x: torch.bmm(x[None, None], LINE.t()[None])[0, 0],
    "mean": lambda x: x.mean(0, keepdim=True),
    "sum": lambda x: x.sum(0, keepdim=True),
    "mean of a half": lambda x: x.view(2, 2).mean(dim=1),
}
LINE = torch.tensor([[1.0, 2.0, -1.0, 0.5], [0.0, 1.0, 1.0, -3.0]], dtype=DOUBLE)


@pytest.mark.parametrize("name", LINEAR)
def test_linear_operations_pass_relevance_by_contribution(name: str) -> None:
    function, x = LINEAR[name], torch.tensor([0.5, -1.0, 2.0, 1.5], dtype=DOUBLE)
    jacobian = torch.autograd.functional.jacobian(function, x).view(-1, 4)
    start = torch.tensor([0.7, -0.2], dtype=DOUBLE)[: len(jacobian)]
    (found,) = of(function, x, start=start)
    torch.testing.assert_close(found, contributions(x, jacobian, start), rtol=1e-6, atol=1e-8)


def test_a_product_of_two_hidden_states_halves_relevance() -> None:
    a, b = torch.tensor([2.0, -3.0], dtype=DOUBLE), torch.tensor([0.5, 4.0], dtype=DOUBLE)
    for found in (of(lambda a, b: a * b, a, b), of(lambda a, b: torch.mul(b, a), a, b)):
        torch.testing.assert_close(torch.stack(found), torch.full((2, 2), 0.5, dtype=DOUBLE))
    zero = of(lambda a, b: a * b, torch.zeros(2, dtype=DOUBLE), b)
    assert not torch.stack(zero).any()


def test_what_does_not_vary_stays_what_it_is() -> None:
    """Constants among themselves, under the rule: the operations' own results."""
    a, b = QUERY[0, 0], KEY[0, 0]
    functions = [torch.mul, torch.div, lambda a, b: a @ b.t(), lambda a, b: (a + b).mean(0), lambda a, b: F.gelu(a)]
    functions += [lambda a, b: F.linear(a, b), lambda a, b: torch.softmax(a, -1), lambda a, b: a.sum((0, 1))]
    for function in functions:
        with Interception(Relevance(), []):
            found = function(a, b)
        assert torch.equal(found, function(a, b))
        assert not found.requires_grad


def test_a_denominator_that_varies_gets_no_relevance() -> None:
    a, b = torch.tensor([2.0, -3.0], dtype=DOUBLE), torch.tensor([0.5, 4.0], dtype=DOUBLE)
    torch.testing.assert_close(of(lambda a: a / (a * 2), a, start=b)[0], b)
    found = of(lambda a, b: a / b + 0 * b, a, b)
    torch.testing.assert_close(found[0] + found[1], torch.ones(2, dtype=DOUBLE))


def test_a_sum_that_is_spread_keeps_its_relevance() -> None:
    """b [1, 2] is added to both rows of a [2, 2]: an example at a time, and what arrives at b is summed up."""
    a, b = torch.tensor([[[1.0, 2.0], [3.0, -1.0]]], dtype=DOUBLE), torch.tensor([[[0.5, 4.0]]], dtype=DOUBLE)
    start = torch.tensor([[[0.1, 0.2], [0.3, 0.4]]], dtype=DOUBLE)
    of_a, of_b = of(lambda a, b: a + b, a, b, start=start)
    share = start / (a + b)
    to_a, to_b = a * share, b * share
    sizes = to_a.sum().abs() + to_b.sum().abs()
    torch.testing.assert_close(of_a, to_a / to_a.sum() * to_a.sum().abs() / sizes * start.sum(), rtol=1e-6, atol=1e-8)
    expected = (to_b / to_b.sum() * to_b.sum().abs() / sizes * start.sum()).sum(1, keepdim=True)
    torch.testing.assert_close(of_b, expected, rtol=1e-6, atol=1e-8)
    assert of_a.shape == a.shape
    assert of_b.shape == b.shape


def test_relevance_of_attention_with_keys_of_several_heads() -> None:
    """One head of keys for two of queries: the relevance of both arrives at it, as if it had been repeated."""
    query, key, value = QUERY.clone(), KEY[:, :1].clone(), VALUE[:, :1].clone()

    def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        return Relevance().attend(Call.of(query, key, value), value)[0]

    start = torch.rand(1, 2, 4, 5, dtype=DOUBLE, generator=torch.Generator().manual_seed(1))

    def found(*inputs: Tensor) -> tuple[Tensor, ...]:
        leaves = [x.clone().requires_grad_() for x in inputs]
        return torch.autograd.grad(attend(*leaves), leaves, start)

    of_query, of_key, of_value = found(query, key, value)
    twice = found(query, key.expand(-1, 2, -1, -1), value.expand(-1, 2, -1, -1))
    torch.testing.assert_close(of_query, twice[0])
    torch.testing.assert_close(of_key, twice[1].sum(1, keepdim=True))
    torch.testing.assert_close(of_value, twice[2].sum(1, keepdim=True))
    # Half to the values; the other half through softmax as it is, and again by halves to queries and keys.
    assert float(of_value.sum()) == pytest.approx(float(start.sum()) / 2, rel=1e-6)
    assert float(of_query.sum()) == pytest.approx(float(start.sum()) / 4, rel=1e-6)
    assert float(of_key.sum()) == pytest.approx(float(start.sum()) / 4, rel=1e-6)

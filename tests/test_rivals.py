"""Rules of rivals, each written a second time, slowly, from its formula."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from reference import eager_twin
from test_graded import KEY, QUERY, VALUE, eager, eager_and_flat, fused, gradient, gradients, halved
from torch import Tensor
from zoo import EVERY, FAMILIES

import attcat
from attcat.capture.rules import make_rule
from attcat.capture.torch_calls import Interception
from attcat.errors import OptionError

DOUBLE = torch.double
WEIGHT, BIAS = torch.randn(2, 5, dtype=DOUBLE, generator=torch.Generator().manual_seed(5))


# -- GIM -------------------------------------------------------------------------------------------------------------


def softened(products: Tensor, temperature: float) -> Tensor:
    """softmax(x), with the Jacobian diag(s) - s s^T of s = softmax(x / T), a row at a time."""
    rows = products.reshape(-1, products.shape[-1])
    found = []
    for row in rows:
        s = (row / temperature).softmax(-1).detach()
        linear = (torch.diag(s) - s[:, None] * s[None]) @ row
        found.append(row.softmax(-1).detach() + linear - linear.detach())
    return torch.stack(found).reshape(products.shape)


def slow_gim(x: Tensor, temperature: float = 2.0) -> Tensor:
    weights = softened(halved((QUERY + x) / math.sqrt(5), (KEY + x).transpose(-2, -1)), temperature)
    return halved(weights, VALUE + x)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("function", [fused, eager, eager_and_flat])
def test_gim_differentiates_a_softer_softmax(function, temperature: float) -> None:
    value, expected = gradient(lambda x: slow_gim(x, temperature), None)
    found = gradient(function, make_rule("gim", temperature=temperature))
    torch.testing.assert_close(found[0], value)
    torch.testing.assert_close(found[1], expected)


def frozen(x: Tensor) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.pow(2).mean(-1, keepdim=True) + 1e-5).sqrt().detach() * WEIGHT + BIAS


CASES = {
    "norms are frozen": (lambda x: F.layer_norm(x, (5,), WEIGHT, BIAS), frozen),
    "gelu is differentiated": (F.gelu, None),
    "tanh is differentiated": (torch.tanh, None),
    "gelu python": (lambda x: x * 0.5 * (1.0 + torch.erf(x / math.sqrt(2.0))), None),
    "gelu with its constant inside": (lambda x: x * (0.5 * (1.0 + torch.erf(x / math.sqrt(2.0)))), None),
    "gelu_new": (
        lambda x: 0.5 * x * (1.0 + torch.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * torch.pow(x, 3.0)))),
        None,
    ),
    "quick gelu": (lambda x: x * torch.sigmoid(1.702 * x), None),
    "factors of a gated layer get half each": (
        lambda x: F.silu(x) * (2 * x),
        lambda x: 0.5 * (F.silu(x) * (2 * x).detach() + F.silu(x).detach() * (2 * x)),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_gim_is_the_slow_rule(name: str) -> None:
    function, slow = CASES[name]
    value, expected = gradient(slow or function, None)  # without a slow rule: ordinary differentiation
    found = gradient(function, make_rule("gim"))
    torch.testing.assert_close(found[0], value)
    torch.testing.assert_close(found[1], expected)


@pytest.mark.parametrize("name", ["bert", "gpt2", "dinov2-swiglu"])
def test_gim_is_the_same_for_eager_models_and_in_a_batch(name: str) -> None:
    family = FAMILIES[name]
    model, batch = family.model(), family.arguments()
    together = attcat.Explainer(model, method="gim")(batch, [1, 1])
    for row, explanation in enumerate(together):
        alone = attcat.Explainer(eager_twin(model), method="gim")(family.row(batch, row), 1)
        scale = float(alone.layers.abs().max())
        torch.testing.assert_close(explanation.layers, alone.layers, rtol=1e-4, atol=1e-5 * scale)


# -- ResLRP ----------------------------------------------------------------------------------------------------------


def slow_residual(a: float, b: float, g: float, gamma: float) -> tuple[float, float]:
    z = a + b
    w_a, w_b = (1 + gamma if x * z > 0 else 1.0 for x in (a, b))
    return g * w_a * z / (w_a * a + w_b * b), g * w_b * z / (w_a * a + w_b * b)


@pytest.mark.parametrize("gamma", [0.0, 1.0, 3.0])
def test_reslrp_favours_what_agrees_with_the_sum(gamma: float) -> None:
    a, b, start = torch.randn(3, 2, 3, 4, dtype=DOUBLE, generator=torch.Generator().manual_seed(6))
    leaves = [x.clone().requires_grad_() for x in (a, b)]
    with Interception(make_rule("reslrp", gamma=gamma), []):
        z = leaves[0] + leaves[1]
    of_a, of_b = torch.autograd.grad(z, leaves, start)
    torch.testing.assert_close(z.detach(), a + b)
    triples = zip(a.flatten().tolist(), b.flatten().tolist(), start.flatten().tolist(), strict=True)
    expected = torch.tensor([slow_residual(*triple, gamma) for triple in triples], dtype=DOUBLE)
    torch.testing.assert_close(torch.stack([of_a.flatten(), of_b.flatten()], 1), expected)
    torch.testing.assert_close(a * of_a + b * of_b, (a + b) * start)  # conserved


def test_nothing_is_made_of_a_sum_that_is_zero() -> None:
    a = torch.tensor([[[1.0, 0.0]]], requires_grad=True)
    with Interception(make_rule("reslrp"), []):
        z = a + (-1 * a)
    assert torch.autograd.grad(z.sum(), a)[0].isfinite().all()


@pytest.mark.parametrize("name", EVERY)
def test_reslrp_with_gamma_zero_is_attnlrp(name: str) -> None:
    model, arguments = FAMILIES[name].model().double(), FAMILIES[name].row(FAMILIES[name].arguments(), 0)
    arguments = {n: v.double() if v.is_floating_point() else v for n, v in arguments.items()}
    expected = gradients(model, arguments, make_rule("attnlrp"))
    for a, b in zip(gradients(model, arguments, make_rule("reslrp", gamma=0.0)), expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-9 * float(b.abs().max()))
    changed = gradients(model, arguments, make_rule("reslrp"))
    assert not torch.allclose(changed[0], expected[0], rtol=1e-3)


@pytest.mark.parametrize(("rule", "options"), [("gim", {"temperature": 0.0}), ("reslrp", {"gamma": -1.0})])
def test_options_out_of_range(rule: str, options: dict) -> None:
    with pytest.raises(OptionError, match="expected"):
        make_rule(rule, **options)

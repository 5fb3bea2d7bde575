"""Relevance rules: numbers worked out on paper, and nothing lost on the way."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from attcat.capture.blocks import Block
from attcat.capture.relevance import Relevance, safe_divide
from attcat.capture.torch_calls import Interception

DOUBLE = {"dtype": torch.double}


def relevance(function, *inputs: Tensor, start: Tensor | None = None) -> tuple[Tensor, ...]:
    """The relevance of the inputs, from R = 1 (or `start`) at the function's result."""
    leaves = [x.clone().requires_grad_() for x in inputs]
    with Interception(Relevance(), []):
        value = function(*leaves)
    return torch.autograd.grad(value, leaves, torch.ones_like(value) if start is None else start)


def test_two_blocks_worked_out_on_paper() -> None:
    """h = (1, 2); block 1 adds W1 h = (1, 1), block 2 adds W2 (2, 3) = (1, 3); the head sums (3, 6) to 9.

    Head: R = (3/9, 6/9). Block 2 shares it: (2/9, 3/9) to its input and (1/9, 3/9) to W2, whose positive weights
    ((2, 0), (0, 1)) hand down 2 * 2/36 and 3 * 1/9: together (1/3, 2/3). Block 1: (1/6, 4/9) to its input and
    (1/6, 2/9) to W1, which hands them down as they are: together (1/3, 2/3).
    """
    first = torch.tensor([[1.0, 0.0], [-1.0, 1.0]], **DOUBLE)
    second = torch.tensor([[2.0, -1.0], [0.0, 1.0]], **DOUBLE)
    middle = torch.tensor([[2.0, 3.0]], **DOUBLE)
    head = torch.ones(1, 2, **DOUBLE)
    (of_middle,) = relevance(lambda x: F.linear(x + F.linear(x, second), head), middle)
    torch.testing.assert_close(of_middle, torch.tensor([[1 / 3, 2 / 3]], **DOUBLE))

    def network(x: Tensor) -> Tensor:
        x = x + F.linear(x, first)
        x = x + F.linear(x, second)
        return F.linear(x, head)

    (of_input,) = relevance(network, torch.tensor([[1.0, 2.0]], **DOUBLE))
    torch.testing.assert_close(of_input, torch.tensor([[1 / 3, 2 / 3]], **DOUBLE))


def test_a_linear_layer_counts_what_pushes_up() -> None:
    """x = (1, -2, 3), w = (2, -1, -1): x+ w+ = 2, x- w- = 2, the rest is left out: R = (1/2, 1/2, 0)."""
    weight = torch.tensor([[2.0, -1.0, -1.0]], **DOUBLE)
    x = torch.tensor([[1.0, -2.0, 3.0]], **DOUBLE)
    expected = torch.tensor([[0.5, 0.5, 0.0]], **DOUBLE)
    torch.testing.assert_close(relevance(lambda x: F.linear(x, weight, torch.tensor([7.0], **DOUBLE)), x)[0], expected)
    gpt2 = relevance(lambda x: torch.addmm(torch.tensor([7.0], **DOUBLE), x, weight.t()), x)[0]
    torch.testing.assert_close(gpt2, expected)


def test_weights_times_values_worked_out_on_paper() -> None:
    """a = (1/4, 3/4), v = (2, 4): z = 3.5, of which 0.5 and 3; half to each factor: 1/14 and 6/14."""
    a, v = torch.tensor([[[0.25, 0.75]]], **DOUBLE), torch.tensor([[[2.0], [4.0]]], **DOUBLE)
    of_a, of_v = relevance(lambda a, v: a @ v, a, v)
    torch.testing.assert_close(of_a, torch.tensor([[[1 / 14, 6 / 14]]], **DOUBLE))
    torch.testing.assert_close(of_v, torch.tensor([[[1 / 14], [6 / 14]]], **DOUBLE))


def test_a_sum_keeps_sign_and_total() -> None:
    """a = 2, b = -1, R = 1: contributions 2 and -1 are rescaled to shares of 2/3 and 1/3."""
    of_a, of_b = relevance(lambda a, b: a + b, torch.tensor([[2.0]], **DOUBLE), torch.tensor([[-1.0]], **DOUBLE))
    assert (float(of_a), float(of_b)) == pytest.approx((2 / 3, 1 / 3))


def test_a_sum_of_one_example_does_not_see_its_neighbour() -> None:
    a, b = torch.randn(2, 3, 4, 5, **DOUBLE)
    together = relevance(lambda a, b: a + b, a, b)
    alone = relevance(lambda a, b: a + b, a[1:2], b[1:2])
    torch.testing.assert_close(together[0][1:2], alone[0])


@pytest.mark.parametrize(
    "function",
    [
        lambda x: F.gelu(x),
        lambda x: torch.tanh(x),
        lambda x: F.layer_norm(x, (5,), torch.ones(5, **DOUBLE), torch.ones(5, **DOUBLE)),
        lambda x: 3.0 * x,
        lambda x: x * torch.arange(1.0, 6.0, **DOUBLE),
        lambda x: x / 7,
        lambda x: x + torch.ones(5, **DOUBLE),
    ],
)
def test_what_acts_on_each_element_passes_relevance_on(function) -> None:
    x, start = torch.rand(2, 3, 5, **DOUBLE) + 0.1, torch.randn(2, 3, 5, **DOUBLE)
    torch.testing.assert_close(relevance(function, x, start=start)[0], start)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x.mean(1),
        lambda x: x.sum((1, 2)),
        lambda x: F.linear(x, torch.linspace(-1, 2, 20, **DOUBLE).view(5, 4).t()),
        lambda x: x + F.gelu(x),
        lambda x: F.silu(x) * x,
        lambda x: torch.cat([x[:, 0], x[:, 1:].mean(1)], dim=1),
        lambda x: F.scaled_dot_product_attention(x[:, None], x[:, None] * 2, x[:, None]),
        lambda x: (x @ x.transpose(1, 2)).softmax(-1) @ x,
    ],
)
def test_relevance_is_conserved(function) -> None:
    x = torch.rand(2, 3, 5, generator=torch.Generator().manual_seed(0), **DOUBLE) + 0.1
    with Interception(Relevance(), [Block(x)]):
        leaf = x.clone().requires_grad_()
        value = function(leaf)
    start = torch.rand(value.shape, generator=torch.Generator().manual_seed(1), **DOUBLE)
    (found,) = torch.autograd.grad(value, leaf, start)
    torch.testing.assert_close(found.sum((1, 2)), start.reshape(2, -1).sum(1), rtol=1e-6, atol=1e-6)


def test_division_by_zero_gives_nothing() -> None:
    a, b = torch.tensor([1.0, 1.0, -1.0]), torch.tensor([0.0, 2.0, -4.0])
    torch.testing.assert_close(safe_divide(a, b), torch.tensor([0.0, 0.5, 0.25]))


def test_denominators_are_kept_away_from_zero_with_their_sign() -> None:
    b = torch.tensor([1e-9, -1e-9, 3e-9, -3e-9], **DOUBLE)
    expected = torch.tensor([5e8, -5e8, 2.5e8, -2.5e8], **DOUBLE)
    torch.testing.assert_close(safe_divide(torch.ones_like(b), b), expected)

"""What biases contribute, operation by operation: gradient times input and the biases' shares make up what is explained.

Of each example by itself: each has a number of its own with which it counts, so that shares that are mixed up do not add up.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attcat.capture.blocks import Block
from attcat.capture.rules import make_rule
from attcat.capture.torch_calls import Interception
from attcat.errors import CaptureError

DOUBLE = torch.double
EXAMPLES, TOKENS, FEATURES = 3, 4, 6


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, dtype=DOUBLE, generator=torch.Generator().manual_seed(seed + math.prod(shape)))


W, B = drawn(5, FEATURES), drawn(5)
SCALE, SHIFT = drawn(FEATURES, seed=1), drawn(FEATURES, seed=2)
CHANNELS = drawn(TOKENS, seed=3), drawn(TOKENS, seed=4)
MEAN, VARIANCE = drawn(TOKENS, seed=5), drawn(TOKENS, seed=6).abs() + 0.5
TOKEN = drawn(EXAMPLES, 1, FEATURES, seed=7)


def kernels(axes: int, transposed: bool = False) -> tuple[Tensor, Tensor]:
    shape = (TOKENS, 2) if transposed else (2, TOKENS)
    return drawn(*shape, *(2,) * axes, seed=8), drawn(2, seed=9)


def rows(x: Tensor) -> Tensor:
    return x.flatten(0, 1)


def in_place(x: Tensor) -> Tensor:
    y = x * 2
    y += SHIFT
    y.add_(SHIFT)
    return y


# x is [B, 4, 6]; what has other shapes is made of it.
OPERATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "linear": lambda x: F.linear(x, W, B),
    "linear by keyword": lambda x: F.linear(x, bias=B, weight=W),
    "linear without": lambda x: F.linear(x, W),
    "linear of rows": lambda x: F.linear(rows(x), W, B),
    "addmm": lambda x: torch.addmm(B, rows(x), W.t()),
    "layer norm": lambda x: F.layer_norm(x, (FEATURES,), SCALE, SHIFT),
    "layer norm by keyword": lambda x: F.layer_norm(x, normalized_shape=(FEATURES,), bias=SHIFT, weight=SCALE, eps=0.1),
    "layer norm without": lambda x: F.layer_norm(x, (FEATURES,)),
    "group norm": lambda x: F.group_norm(x, 2, *CHANNELS),
    "group norm of pictures": lambda x: F.group_norm(x.view(EXAMPLES, TOKENS, 3, 2), 2, bias=CHANNELS[1], eps=0.1),
    "instance norm": lambda x: F.instance_norm(x, None, None, *CHANNELS),
    "instance norm by keyword": lambda x: F.instance_norm(x, bias=CHANNELS[1], weight=CHANNELS[0], eps=0.1),
    "batch norm": lambda x: F.batch_norm(x, MEAN, VARIANCE, *CHANNELS),
    "batch norm by statistics alone": lambda x: F.batch_norm(x, MEAN, VARIANCE, eps=0.1),
    "batch norm with weights alone": lambda x: F.batch_norm(x, MEAN, VARIANCE, CHANNELS[0]),
    "batch norm of rows": lambda x: F.batch_norm(x[..., 0], running_mean=MEAN, running_var=VARIANCE, bias=CHANNELS[1]),
    "batch norm of pictures": lambda x: F.batch_norm(x.view(EXAMPLES, TOKENS, 3, 2), MEAN, VARIANCE, *CHANNELS),
    "conv1d": lambda x: F.conv1d(x, *kernels(1)),
    "conv1d by keyword": lambda x: F.conv1d(x, bias=kernels(1)[1], weight=kernels(1)[0], padding=1),
    "conv1d with a stride": lambda x: F.conv1d(x, *kernels(1), 2),
    "conv1d without": lambda x: F.conv1d(x, kernels(1)[0]),
    "conv2d": lambda x: F.conv2d(x.view(EXAMPLES, TOKENS, 3, 2), *kernels(2)),
    "conv3d": lambda x: F.conv3d(x.view(EXAMPLES, TOKENS, 3, 2, 1), *kernels(3), padding=(0, 0, 1)),
    "transposed": lambda x: F.conv_transpose1d(x, *kernels(1, True)),
    "a number": lambda x: x + 1.5,
    "a number in front": lambda x: 1.5 + x,
    "a number by method": lambda x: x.add(2),
    "a tensor": lambda x: x + SHIFT,
    "a tensor in front": lambda x: SHIFT + x,
    "a tensor for each token": lambda x: x + drawn(TOKENS, FEATURES),
    "a number of each example": lambda x: x.sum((1, 2)) + 0.5,
    "in place": in_place,
    "addcmul": lambda x: torch.addcmul(SHIFT, x, SCALE),
    "two hidden states": lambda x: x + F.gelu(x),
    "a class token in front": lambda x: torch.cat([TOKEN, x], 1),
    "a class token behind, by keyword": lambda x: torch.cat([x, TOKEN], dim=1),
    "stacked": lambda x: torch.stack((x, drawn(EXAMPLES, TOKENS, FEATURES)), 1),
    "a gelu that is written out": lambda x: (0.5 * x * (1.0 + torch.tanh(x))) + 1.0,
    "one after another": lambda x: F.linear(F.layer_norm(F.linear(x, W, B), (5,), B, B), W.t(), SHIFT) + x + 0.25,
    "attention of torch": lambda x: nn.functional.multi_head_attention_forward(
        *(x.transpose(0, 1),) * 3, FEATURES, 2, drawn(18, FEATURES), drawn(18), None, None, False, 0.0,
        drawn(FEATURES, FEATURES), SHIFT, training=False, need_weights=False,
    )[0].transpose(0, 1),
}  # fmt: skip


@pytest.mark.parametrize("name", OPERATIONS)
def test_inputs_and_biases_make_up_the_result(name: str) -> None:
    function = OPERATIONS[name]
    x = drawn(EXAMPLES, TOKENS, FEATURES, seed=11).requires_grad_()
    ones = torch.ones(EXAMPLES, TOKENS + 1, requires_grad=True)
    block = Block(x)
    with Interception(make_rule("libra"), [block], ones=ones):
        y = function(x)
    torch.testing.assert_close(y.detach(), function(x).detach())
    each = y.reshape(EXAMPLES, -1)
    each = (each * drawn(*each.shape, seed=12)).sum(1)
    of_x, of_ones = torch.autograd.grad(each.sum(), (x, ones), allow_unused=True)
    bias = torch.zeros(EXAMPLES, dtype=DOUBLE) if of_ones is None else of_ones.double().sum(1)
    torch.testing.assert_close((x * of_x).sum((1, 2)) + bias, each, rtol=1e-5, atol=1e-5)
    assert (of_ones is not None and bool(of_ones.any())) == (
        "without" not in name.split() and name != "two hidden states"
    )


@pytest.mark.parametrize(
    ("layout", "back", "by_token"),
    [
        (lambda x: x, lambda y: y, True),
        (lambda x: x.flatten(0, 1), lambda y: y.view(EXAMPLES, TOKENS, -1), True),
        (lambda x: x.view(EXAMPLES, 2, 2, FEATURES), lambda y: y.flatten(1, 2), False),
        (lambda x: x[:, :3], lambda y: F.pad(y, (0, 0, 0, 1)), False),
    ],
)
def test_the_biases_of_a_token_are_its_own(
    layout: Callable[[Tensor], Tensor], back: Callable[[Tensor], Tensor], by_token: bool
) -> None:
    """As far as it is seen whose a row is; else they are the example's."""
    x = drawn(EXAMPLES, TOKENS, FEATURES, seed=11).requires_grad_()
    ones, weights = torch.ones(EXAMPLES, TOKENS + 1, requires_grad=True), drawn(EXAMPLES, TOKENS, 5, seed=13)
    with Interception(make_rule("libra"), [Block(x)], ones=ones):
        y = back(F.linear(layout(x), W, B))
    (found,) = torch.autograd.grad((y * weights).sum(), ones)
    each = ((weights * B).sum(-1) * (y != 0).any(-1)).detach()
    none = torch.zeros_like(each[:, :1])
    expected = torch.cat([each, none] if by_token else [0 * each, each.sum(1, keepdim=True)], 1)
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["linear", "layer norm", "conv2d", "batch norm", "addmm", "a tensor", "addcmul"])
def test_constants_among_themselves_have_no_share(name: str) -> None:
    """What does not depend on the hidden states is computed as it is, bias and all."""
    x, ones = drawn(EXAMPLES, TOKENS, FEATURES, seed=11), torch.ones(EXAMPLES, TOKENS + 1, requires_grad=True)
    with Interception(make_rule("libra"), [], ones=ones):
        y = OPERATIONS[name](x)
    assert not y.requires_grad
    assert torch.equal(y, OPERATIONS[name](x))


def test_a_batch_normalisation_in_training_goes_by_the_batch() -> None:
    """Not by the statistics that it was given."""
    x = drawn(EXAMPLES, TOKENS, FEATURES, seed=11).requires_grad_()
    with Interception(make_rule("libra"), [], ones=torch.ones(EXAMPLES, TOKENS + 1, requires_grad=True)):
        y = F.batch_norm(x, MEAN.clone(), VARIANCE.clone(), training=True)
    centred = x - x.mean((0, 2), keepdim=True)
    expected = centred / (centred.square().mean((0, 2), keepdim=True) + 1e-5).sqrt()
    torch.testing.assert_close(y.detach(), expected.detach())


def test_examples_that_cannot_be_distinguished_are_refused() -> None:
    x, ones = drawn(4, FEATURES).requires_grad_(), torch.ones(3, TOKENS + 1, requires_grad=True)
    with (
        pytest.raises(CaptureError, match=r"cannot tell the examples apart in a tensor of shape \(4, 5\)"),
        Interception(make_rule("libra"), [], ones=ones),
    ):
        F.linear(x, W, B)
    with Interception(make_rule("libra"), [], ones=ones):
        y = x + 1.0  # a number belongs to no example
    assert torch.equal(y, x + 1.0)
    assert torch.autograd.grad(y.sum(), (x, ones), allow_unused=True)[1] is None


@pytest.mark.parametrize(
    "pick",
    [
        lambda x: x[torch.tensor([5, 0, 7])],
        lambda x: x[[5, 0, 7]],
        lambda x: x[torch.tensor([5, 0, 7]), :],
        lambda x: x.index_select(0, torch.tensor([5, 0, 7])),
        lambda x: torch.gather(x, 0, torch.tensor([5, 0, 7])[:, None].expand(3, FEATURES)),
    ],
)
def test_rows_that_are_picked_by_number_belong_to_nobody(pick: Callable[[Tensor], Tensor]) -> None:
    """In the block in which that happened biases of matrices have one factor for all examples together, not in the next one."""
    x = drawn(EXAMPLES, TOKENS, FEATURES, seed=11).requires_grad_()
    ones = torch.ones(EXAMPLES, TOKENS + 1, requires_grad=True)
    running = [Block(x)]
    watching = Interception(make_rule("libra"), running, ones=ones)
    with watching:
        y = F.linear(pick(rows(x)), W, B)
    assert watching.mingled
    (share,) = torch.autograd.grad(y.sum(), ones)
    torch.testing.assert_close(share.double().sum(1), (3 * B.sum() / EXAMPLES).expand(EXAMPLES), rtol=1e-5, atol=1e-5)
    running[-1] = Block(x)
    watching.mingled = False
    with watching:
        y = F.linear(rows(x), W, B)
    assert not watching.mingled
    torch.testing.assert_close(
        torch.autograd.grad(y.sum(), ones)[0].double(),
        torch.cat([B.sum().expand(EXAMPLES, TOKENS), torch.zeros(EXAMPLES, 1)], 1),
        rtol=1e-5,
        atol=1e-5,
    )


@pytest.mark.parametrize(
    "other",
    [
        lambda x: x[2:5],
        lambda x: x[0][None],
        lambda x: x[:, 1][:, None],
        lambda x: rows(x) * 1.0,
        lambda x: x[(slice(None),)],
    ],
)
def test_rows_in_their_order_keep_their_examples(other: Callable[[Tensor], Tensor]) -> None:
    x = drawn(EXAMPLES, TOKENS, FEATURES, seed=11).requires_grad_()
    watching = Interception(make_rule("libra"), [Block(x)], ones=torch.ones(EXAMPLES, TOKENS + 1, requires_grad=True))
    with watching:
        other(rows(x) if other(x).dim() == 2 else x)
    assert watching.routed is None


def test_a_batch_normalisation_gives_torchs_gradient_in_any_layout() -> None:
    """Its backward pass is given the gradient in the layout of its input: channels in front, or behind as [B, T, D] turned."""
    for layout in (
        lambda x: x.view(1, TOKENS, 3, 2),
        lambda x: x.view(1, 6, TOKENS).transpose(1, 2).view(1, TOKENS, 3, 2),
    ):
        x = drawn(1, TOKENS, FEATURES, seed=13).requires_grad_()
        start = drawn(1, 3, 2, TOKENS, seed=14).permute(0, 3, 1, 2)
        with Interception(make_rule("plain"), []):
            y = F.batch_norm(layout(x), MEAN, VARIANCE, *CHANNELS)
        (found,) = torch.autograd.grad(y, x, start)
        factor = (CHANNELS[0] / (VARIANCE + 1e-5).sqrt()).view(1, TOKENS, 1, 1)
        (expected,) = torch.autograd.grad(layout(x) * factor, x, start)
        torch.testing.assert_close(found, expected)

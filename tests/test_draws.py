"""What draws at random, answered from a generator of our own: the numbers are those of torch for the same generator."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from attcat.capture.randomness import SEED, OwnRandomness
from attcat.errors import CaptureError

X = torch.rand(4, 6, 5, generator=torch.Generator().manual_seed(1))


def own() -> torch.Generator:
    return torch.Generator().manual_seed(SEED)


def kept(shape: tuple[int, ...], p: float) -> Tensor:
    return torch.empty(shape).bernoulli_(1 - p, generator=own())


def channels(x: Tensor, p: float) -> Tensor:
    return x * kept((*x.shape[:2], *(1,) * (x.dim() - 2)), p) / (1 - p)


def gumbel(x: Tensor, tau: float = 1.0, dim: int = -1) -> Tensor:
    noise = -torch.empty_like(x).exponential_(generator=own()).log()
    return torch.softmax((x + noise) / tau, dim)


def hard(x: Tensor, dim: int) -> Tensor:
    return F.one_hot(gumbel(x, dim=dim).argmax(dim), x.shape[dim]).float().movedim(-1, dim)


DRAWN: dict[str, tuple[Callable[[], Tensor], Callable[[], Tensor]]] = {
    "rand": (lambda: torch.rand(3, 2), lambda: torch.rand(3, 2, generator=own())),
    "rand on a device": (lambda: torch.rand(3, device="cpu"), lambda: torch.rand(3, generator=own())),
    "randint": (lambda: torch.randint(2, 9, (5,)), lambda: torch.randint(2, 9, (5,), generator=own())),
    "randperm": (lambda: torch.randperm(9), lambda: torch.randperm(9, generator=own())),
    "normal": (lambda: torch.normal(X, 2.0), lambda: torch.normal(X, 2.0, generator=own())),
    "bernoulli": (lambda: X.bernoulli(), lambda: X.bernoulli(generator=own())),
    "multinomial": (lambda: torch.multinomial(X[0], 2), lambda: torch.multinomial(X[0], 2, generator=own())),
    "in place": (lambda: X.clone().uniform_(2, 3), lambda: X.clone().uniform_(2, 3, generator=own())),
    "rand like": (lambda: torch.rand_like(X), lambda: torch.rand(X.shape, generator=own())),
    "rand like, wider": (
        lambda: torch.rand_like(X, dtype=torch.double),
        lambda: torch.empty(X.shape, dtype=torch.double).uniform_(generator=own()),
    ),
    "randn like": (lambda: torch.randn_like(X), lambda: torch.empty(X.shape).normal_(generator=own())),
    "randint like": (lambda: torch.randint_like(X, 7), lambda: torch.empty(X.shape).random_(0, 7, generator=own())),
    "randint like, from": (
        lambda: torch.randint_like(X, 3, 7),
        lambda: torch.empty(X.shape).random_(3, 7, generator=own()),
    ),
    "dropout": (lambda: F.dropout(X, 0.3, True), lambda: X * kept(X.shape, 0.3) / 0.7),
    "dropout as it is by default": (lambda: F.dropout(X), lambda: X * kept(X.shape, 0.5) / 0.5),
    "dropout by keyword": (lambda: F.dropout(X, p=0.2, training=True), lambda: X * kept(X.shape, 0.2) / 0.8),
    "dropout of everything": (lambda: F.dropout(X, 1.0), lambda: torch.zeros_like(X)),
    "dropout of nothing": (lambda: F.dropout(X, 0.0), lambda: X),
    "dropout that is off": (lambda: F.dropout(X, 0.5, False), lambda: X),
    "dropout that is off, by keyword": (lambda: F.dropout(X, training=False), lambda: X),
    "torch's dropout": (lambda: torch.dropout(X, 0.3, True), lambda: X * kept(X.shape, 0.3) / 0.7),
    "torch's dropout, by keyword": (lambda: torch.dropout(X, 0.3, train=False), lambda: X),
    "dropout of channels": (lambda: F.dropout1d(X, 0.3), lambda: channels(X, 0.3)),
    "dropout of maps": (lambda: F.dropout2d(X[..., None], 0.3), lambda: channels(X[..., None], 0.3)),
    "gumbel": (lambda: F.gumbel_softmax(X), lambda: gumbel(X)),
    "gumbel, colder": (lambda: F.gumbel_softmax(X, 0.5, dim=1), lambda: gumbel(X, 0.5, 1)),
    "gumbel, hard": (lambda: F.gumbel_softmax(X, hard=True, dim=1), lambda: hard(X, 1)),
}


@pytest.mark.parametrize("name", DRAWN)
def test_numbers_are_those_of_a_generator_of_our_own(name: str) -> None:
    function, expected = DRAWN[name]
    before = torch.get_rng_state()
    with OwnRandomness():
        found = function()
    assert torch.equal(torch.get_rng_state(), before)
    torch.testing.assert_close(found, expected())


def test_what_is_drawn_next_goes_on_from_what_was_drawn() -> None:
    generator = own()
    with OwnRandomness():
        found = torch.rand(3), torch.randn(2)
    assert torch.equal(found[0], torch.rand(3, generator=generator))
    assert torch.equal(found[1], torch.randn(2, generator=generator))


def test_a_generator_that_the_model_brings_stays() -> None:
    with OwnRandomness():
        found = torch.rand(3, generator=torch.Generator().manual_seed(5))
    assert torch.equal(found, torch.rand(3, generator=torch.Generator().manual_seed(5)))


def test_a_hard_choice_has_the_gradient_of_the_soft_one() -> None:
    x = X[0].clone().requires_grad_()
    with OwnRandomness():
        found = F.gumbel_softmax(x, hard=True)
    start = torch.rand(found.shape, generator=torch.Generator().manual_seed(3))
    torch.testing.assert_close(torch.autograd.grad(found, x, start), torch.autograd.grad(gumbel(x), x, start))


@pytest.mark.parametrize("positional", [True, False])
def test_dropout_in_place_writes_where_it_was_asked_to(positional: bool) -> None:
    x, y, z = X.clone(), X.clone(), X.clone()
    with OwnRandomness():
        result = F.dropout(x, 0.3, True, True) if positional else F.dropout(x, 0.3, inplace=True)
    with OwnRandomness():
        torch.dropout_(y, 0.3, True)
    with OwnRandomness():
        F.dropout(z, 0.3, True, False)
    expected = X * kept(X.shape, 0.3) / 0.7
    assert result is x
    torch.testing.assert_close(x, expected)
    torch.testing.assert_close(y, expected)
    assert torch.equal(z, X)


REFUSED: dict[str, Callable[[bool], Tensor]] = {
    "rrelu": lambda on: F.rrelu(X, 0.1, 0.3, on),
    "rrelu by keyword": lambda on: F.rrelu(X, training=on),
    "alpha dropout": lambda on: F.alpha_dropout(X, 0.5, on),
    "alpha dropout by keyword": lambda on: F.alpha_dropout(X, training=on),
    "dropout of features": lambda on: F.feature_alpha_dropout(X, 0.5, on),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_takes_no_generator_is_refused_where_it_draws(name: str) -> None:
    with OwnRandomness():
        found = REFUSED[name](False)
    torch.testing.assert_close(found, REFUSED[name](False))
    with pytest.raises(CaptureError, match="draws random numbers in evaluation mode"), OwnRandomness():
        REFUSED[name](True)


def test_pooling_at_random_is_refused() -> None:
    with pytest.raises(CaptureError, match="by fractional_max_pool2d"), OwnRandomness():
        F.fractional_max_pool2d(X[None], 2, output_size=(2, 2))


def test_attention_that_is_dropped_is_refused() -> None:
    q = X[None]
    for arguments, options in (((None, 0.1), {}), ((), {"dropout_p": 0.1})):
        with (
            pytest.raises(CaptureError, match=r"drops attention in evaluation mode \(dropout_p=0.1\)"),
            OwnRandomness(),
        ):
            F.scaled_dot_product_attention(q, q, q, *arguments, **options)
    with OwnRandomness():
        found = F.scaled_dot_product_attention(q, q, q, None, 0.0), F.scaled_dot_product_attention(q, q, q)
    for each in found:
        torch.testing.assert_close(each, F.scaled_dot_product_attention(q, q, q))

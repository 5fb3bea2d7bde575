"""Relevance propagation as a gradient rule (Chefer et al., Transformer Interpretability Beyond Attention, CVPR 2021).

The backward pass carries relevance instead of gradients: autograd's walk through the graph, its routing through reshapes,
slices and selections, and its sum where a value is used twice are what relevance needs as well. Only what an operation
does to the relevance R of its output z is replaced:

    linear layers    alpha-beta rule with alpha = 1:  R_x = x+ (W+^T s) + x- (W-^T s),  s = R / (W+ x+ + W- x-)
    a + b            by relative contribution, R_a = a R / (a + b), rescaled to the share |R_a| / (|R_a| + |R_b|)
    a b, a @ b       by relative contribution, half to each factor
    sums, means      by relative contribution
    softmax, LayerNorm, GELU, Tanh, constant factors    R passes as it is

The start is R = 1 at the logit that is explained. Where the authors' code normalises over the batch, this is done per
example, so that neighbours in a batch do not matter.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .attention import Call, mix
from .rules import Explicit, Libra, TorchFunction, named, varies


class Relevance(Libra, Explicit):
    """Relevance by the rules of Chefer et al.; see the module's text. Gates and denominators are constants, as in Libra."""

    name = "relevance"

    def replacements(self) -> Mapping[TorchFunction, TorchFunction]:
        """Every operation that is more than routing."""
        table = dict(super().replacements())
        groups: tuple[tuple[list[TorchFunction], TorchFunction], ...] = (
            ([F.layer_norm, F.rms_norm, F.gelu, F.silu, F.mish, F.elu, F.hardswish, F.relu], _pass),
            (named("softmax", "relu"), _pass),
            (named("mul", "multiply"), _times),
            (named("matmul", "bmm"), _product),
            (named("mean", "sum"), _reduction),
            (named("div", "divide", "true_divide"), _over),
        )
        for functions, replacement in groups:
            table.update(dict.fromkeys(functions, replacement))
        table[F.linear], table[torch.addmm] = _linear, _addmm
        return table

    def attend(self, call: Call, value: Tensor) -> tuple[Tensor, Tensor]:
        """softmax(q k^T) v: the two products by relative contribution, softmax and scale as identity."""
        key = call.key.repeat_interleave(call.query.shape[1] // call.key.shape[1], dim=1)
        products = _contribute(torch.matmul, 0.5, call.query, key.transpose(-2, -1))
        weights = _Pass.apply(products, call.weights().detach())
        return mix(weights, value, product=lambda a, b: _contribute(torch.matmul, 0.5, a, b)), weights

    def _tanh(self, function: TorchFunction, x: Tensor) -> Tensor:
        result = _pass(function, x)
        self._saturating[result] = True
        return result

    def _add(self, function: TorchFunction, a: Any, b: Any, **options: Any) -> Tensor:
        if varies(a) and varies(b):
            result: Tensor = _Add.apply(a, b)
            return result
        return super()._add(function, a, b, **options)


def safe_divide(a: Tensor, b: Tensor) -> Tensor:
    """a / b, and 0 where b is 0; denominators are kept 1e-9 away from 0, with their sign."""
    away = b + torch.where(b < 0, -1e-9, 1e-9).to(b.dtype)
    return torch.where(b == 0, torch.zeros_like(a), a / away)


class _Pass(torch.autograd.Function):
    """A value computed elsewhere, element by element from x: relevance passes as it is."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, value: Tensor) -> Tensor:
        ctx.shape, ctx.dtype = x.shape, x.dtype
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, relevance: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return relevance.sum_to_size(ctx.shape).to(ctx.dtype), None


def _pass(function: TorchFunction, x: Tensor, *args: Any, **options: Any) -> Tensor:
    options.pop("inplace", None)
    if not varies(x):
        unchanged: Tensor = function(x, *args, **options)
        return unchanged
    result: Tensor = _Pass.apply(x, function(x.detach(), *args, **options))
    return result


def _times(function: TorchFunction, a: Any, b: Any, **options: Any) -> Tensor:
    if varies(a) and varies(b):
        return _contribute(function, 0.5, a, b)
    if not (varies(a) or varies(b)):
        unchanged: Tensor = function(a, b, **options)
        return unchanged
    x, constant = (a, b) if varies(a) else (b, a)
    return _contribute(lambda x: function(x, constant), 1.0, x)


def _over(function: TorchFunction, a: Any, b: Any, **options: Any) -> Tensor:
    constant = b.detach() if isinstance(b, Tensor) else b
    if not varies(a):
        unchanged: Tensor = function(a, constant, **options)
        return unchanged
    return _contribute(lambda x: function(x, constant, **options), 1.0, a)


def _product(function: TorchFunction, a: Tensor, b: Tensor) -> Tensor:
    if varies(a) and varies(b):
        return _contribute(function, 0.5, a, b)
    return _contribute(lambda x: function(x, b), 1.0, a) if varies(a) else _contribute(lambda x: function(a, x), 1.0, b)


def _reduction(function: TorchFunction, x: Tensor, *args: Any, **options: Any) -> Tensor:
    if not varies(x):
        unchanged: Tensor = function(x, *args, **options)
        return unchanged
    return _contribute(lambda x: function(x, *args, **options), 1.0, x)


def _contribute(function: Callable[..., Tensor], share: float, *inputs: Tensor) -> Tensor:
    result: Tensor = _Contribution.apply(function, share, *inputs)
    return result


class _Contribution(torch.autograd.Function):
    """z = f(x, ...), linear in each input: R_x = share * x * (dz/dx)^T (R / z)."""

    @staticmethod
    def forward(ctx: Any, function: Callable[..., Tensor], share: float, *inputs: Tensor) -> Tensor:
        ctx.function, ctx.share = function, share
        ctx.save_for_backward(*inputs)
        return function(*inputs)

    @staticmethod
    def backward(ctx: Any, relevance: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        with torch.enable_grad():
            inputs = [x.detach().requires_grad_() for x in ctx.saved_tensors]
            z = ctx.function(*inputs)
        shares = torch.autograd.grad(z, inputs, safe_divide(relevance, z.detach()))
        return None, None, *(ctx.share * x.detach() * s for x, s in zip(inputs, shares, strict=True))


def _linear(function: TorchFunction, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    if not varies(input):
        unchanged: Tensor = function(input, weight, bias)
        return unchanged
    result: Tensor = _Linear.apply(input, weight, function(input.detach(), weight, bias))
    return result


def _addmm(function: TorchFunction, bias: Tensor, input: Tensor, weight: Tensor, **options: Any) -> Tensor:
    result: Tensor = _Linear.apply(input, weight.t(), function(bias, input.detach(), weight, **options))
    return result


class _Linear(torch.autograd.Function):
    """Alpha-beta rule with alpha = 1: only what pushes the output up counts."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, value: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return value.view_as(value)

    @staticmethod
    def backward(ctx: Any, relevance: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, weight = ctx.saved_tensors
        x_up, x_down, w_up, w_down = x.clamp(min=0), x.clamp(max=0), weight.clamp(min=0), weight.clamp(max=0)
        s = safe_divide(relevance, F.linear(x_up, w_up) + F.linear(x_down, w_down))
        return x_up * (s @ w_up) + x_down * (s @ w_down), None, None


class _Add(torch.autograd.Function):
    """a + b by relative contribution, each part rescaled so that the two keep the sign and the sum of R."""

    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor) -> Tensor:
        ctx.save_for_backward(a, b)
        return a + b

    @staticmethod
    def backward(ctx: Any, relevance: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        a, b = ctx.saved_tensors
        s = safe_divide(relevance, a + b)
        parts = [a * s, b * s]
        sums = [_per_example(part) for part in parts]
        total, size = _per_example(relevance), sums[0].abs() + sums[1].abs()
        scaled = [
            part * safe_divide(safe_divide(amount.abs(), size) * total, amount)
            for part, amount in zip(parts, sums, strict=True)
        ]
        return scaled[0].sum_to_size(a.shape), scaled[1].sum_to_size(b.shape)


def _per_example(x: Tensor) -> Tensor:
    return x.sum(tuple(range(1, x.dim())), keepdim=True)

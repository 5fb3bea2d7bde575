"""Normalisations and activations that are linear in their input as far as the backward pass knows.

Each takes the torch function in whose place it is called, and that function's arguments; the value is the function's own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

TorchFunction = Callable[..., Any]


def layer_norm(
    function: TorchFunction,
    input: Tensor,
    normalized_shape: Iterable[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """y = (x - mean(x)) / s * weight + bias, with a constant standard deviation s."""
    result: Tensor = _LayerNorm.apply(input, list(normalized_shape), weight, bias, eps)
    return result


class _LayerNorm(torch.autograd.Function):
    """y = (x - mean(x)) / s * weight + bias, with the standard deviation s constant in the backward pass."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, shape: list[int], weight: Tensor | None, bias: Tensor | None, eps: float
    ) -> Tensor:
        result, _, reciprocal = torch.native_layer_norm(x, shape, weight, bias, eps)
        ctx.save_for_backward(reciprocal, weight)
        ctx.shape, ctx.axes = shape, tuple(range(-len(shape), 0))
        return result

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        reciprocal, weight = ctx.saved_tensors
        # One new tensor, written over: to touch fresh memory costs several times what the arithmetic does.
        scaled = gradient.clone() if weight is None else gradient * weight
        scaled.mul_(reciprocal.to(scaled.dtype))
        to_bias = gradient.sum_to_size(ctx.shape) if ctx.needs_input_grad[3] else None  # measures completeness
        return scaled.sub_(scaled.mean(ctx.axes, keepdim=True)), None, None, to_bias, None


def rms_norm(
    function: TorchFunction,
    input: Tensor,
    normalized_shape: Iterable[int],
    weight: Tensor | None = None,
    eps: float | None = None,
) -> Tensor:
    """y = x / rms(x) * weight, with a constant rms."""
    shape = list(normalized_shape)
    constant = input.detach()
    result: Tensor = function(constant, shape, weight, eps)
    wide = constant.to(torch.promote_types(constant.dtype, torch.float32))
    epsilon = torch.finfo(input.dtype).eps if eps is None else eps
    reciprocal = wide.pow(2).mean(tuple(range(-len(shape), 0)), keepdim=True).add(epsilon).rsqrt().to(input.dtype)
    return _Linearised.apply(input, result, reciprocal if weight is None else reciprocal * weight)


def group_norm(
    function: TorchFunction,
    input: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """y = (x - mean(x)) / s * weight + bias within groups of channels `[B, C, ...]`, with a constant standard deviation s."""
    return _normalised(input, num_groups, weight, bias, eps)


def instance_norm(
    function: TorchFunction,
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """The same within each channel; with statistics of the training, which are constants, it is linear as it stands."""
    if not use_input_stats:
        result: Tensor = function(input, running_mean, running_var, weight, bias, use_input_stats, momentum, eps)
        return result
    return _normalised(input, input.shape[1], weight, bias, eps)


def _normalised(x: Tensor, groups: int, weight: Tensor | None, bias: Tensor | None, eps: float) -> Tensor:
    grouped = x.reshape(len(x), groups, -1)
    constant = grouped.detach().to(torch.promote_types(x.dtype, torch.float32))
    reciprocal = constant.var(-1, correction=0, keepdim=True).add(eps).rsqrt().to(x.dtype)
    result = ((grouped - grouped.mean(-1, keepdim=True)) * reciprocal).view_as(x)
    across = (-1, *(1,) * (x.dim() - 2))
    result = result if weight is None else result * weight.view(across)
    return result if bias is None else result + bias.view(across)


_SLOPE_AT_ZERO = {
    F.gelu: 0.5,
    F.silu: 0.5,
    F.mish: 0.6,
    F.elu: 1.0,
    F.hardswish: 0.5,
    F.selu: 1.0507,
    F.tanhshrink: 0.0,
    F.relu6: 0.0,
}


def gate(function: TorchFunction, x: Tensor, *args: Any, **options: Any) -> Tensor:
    """f(x) = x * g with the constant gate g = f(x) / x, and its limit f'(0) where x is 0.

    The gate is formed at once, while both are at hand, and is all that is kept.
    """
    options.pop("inplace", None)
    result: Tensor = function(x.detach(), *args, **options)
    if not x.requires_grad:
        return result
    return _Linearised.apply(x, result, _slope(x.detach(), result, _SLOPE_AT_ZERO.get(function, 1.0)))


def late_gate(function: TorchFunction, x: Tensor) -> Tensor:
    """The same, with a gate that is formed only if a gradient arrives, for a slope of 1 at 0."""
    return _Gated.apply(x, function(x.detach()))


def _slope(x: Tensor, result: Tensor, at_zero: float) -> Tensor:
    return (result / x).nan_to_num_(nan=at_zero)


class _Gated(torch.autograd.Function):
    """A value y that was computed elsewhere, with the slope y / x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, result: Tensor) -> Tensor:
        ctx.save_for_backward(x, result)
        return result.view_as(result)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, result = ctx.saved_tensors
        return gradient * _slope(x, result, 1.0), None


class _Linearised(torch.autograd.Function):
    """A value that was computed elsewhere, with the given slope towards x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, result: Tensor, slope: Tensor) -> Tensor:
        ctx.save_for_backward(slope)
        return result.view_as(result)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        (slope,) = ctx.saved_tensors
        return gradient * slope, None, None

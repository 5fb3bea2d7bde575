"""Gradient rules: what the backward pass does where plain differentiation misleads.

A rule leaves every *value* of the forward pass as it is and changes only *gradients*. It is a table from torch functions
to replacements, consulted by a `TorchFunctionMode` during one forward pass in the current thread; it knows operations, not
architectures, and leaves nothing behind.

`plain`
    No replacement: the published AttCAT.
`libra` (LibraGrad, Mehri et al. 2024, arXiv 2411.16760)
    The network becomes locally linear in its hidden states, so that gradient x input, summed over tokens, plus the biases
    is the logit. Attention weights and the denominators of normalisations count as constants, an activation as its input
    times a constant gate, and of a product of two hidden states each factor gets half of the gradient.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from ..errors import OptionError
from .attention import Call, mix

TorchFunction = Callable[..., Any]


class Rule:
    """A gradient rule: one instance serves one forward pass.

    `replacements` maps a torch function to what is called in its place, with the same arguments and the function itself
    in front. The plain rule replaces nothing.
    """

    name: ClassVar[str] = "plain"

    def replacements(self) -> Mapping[TorchFunction, TorchFunction]:
        """From a torch function to what is called in its place: `replacement(function, *args, **kwargs)`."""
        return {}


class Explicit(ABC):
    """What a rule is too if the fused attention kernel does not follow it: it computes attention by itself."""

    @abstractmethod
    def attend(self, call: Call, value: Tensor) -> tuple[Tensor, Tensor]:
        """Attention with its matrix in the graph.

        Returns:
            The output `[B, H, T, d]` and the weights `[B, H, T, S]`, with respect to which one can differentiate.
        """


class Libra(Rule):
    """LibraGrad: see the module's text."""

    name = "libra"

    def __init__(self) -> None:
        self._saturating = WeakIdKeyDictionary()  # results of tanh, which become a gate once a constant is added

    def replacements(self) -> Mapping[TorchFunction, TorchFunction]:
        """Attention, normalisations, activations and products of hidden states."""
        table: dict[TorchFunction, TorchFunction] = {F.layer_norm: _layer_norm, F.rms_norm: _rms_norm}
        groups: tuple[tuple[list[TorchFunction], TorchFunction], ...] = (
            (named("softmax"), _constant_result),
            (
                [
                    *named("rsqrt", "sqrt", "norm", "std", "reciprocal", "rdiv", "rtruediv"),
                    torch.linalg.vector_norm,
                    torch.linalg.norm,
                ],
                _constant_result,
            ),
            ([*named("sigmoid", "erf"), F.softplus, torch.special.erf], _constant_result),
            ([F.gelu, F.silu, F.mish, F.elu, F.hardswish], _gate),
            (named("tanh"), self._tanh),
            (named("add", "__radd__"), self._add),
            (named("mul", "multiply"), _product),
            (named("matmul", "bmm"), _product),
            (named("div", "divide", "true_divide"), _quotient),
            (named("pow", "square"), _power),
        )
        for functions, replacement in groups:
            table.update(dict.fromkeys(functions, replacement))
        table[F.scaled_dot_product_attention] = _attention
        return table

    def _tanh(self, function: TorchFunction, x: Tensor) -> Tensor:
        result = _gate(function, x)
        self._saturating[result] = True
        return result

    def _add(self, function: TorchFunction, a: Any, b: Any, **options: Any) -> Tensor:
        """1 + tanh(u) is the gate of a GELU written out in elementary operations (GPT-2's `gelu_new`)."""
        result: Tensor = function(a, b, **options)
        for x, constant in ((a, b), (b, a)):
            if isinstance(x, Tensor) and x in self._saturating and isinstance(constant, (int, float)):
                return result.detach()
        return result


class AttnLRP(Libra, Explicit):
    """AttnLRP (Achtibat et al., ICML 2024) in its gradient form: input times this gradient is the relevance.

    As LibraGrad, but attention is not constant: softmax is differentiated (deep Taylor expansion, their eq. 13), and the
    products query x key and weight x value are shared equally between their factors (their eq. 15). Linear layers
    follow the epsilon rule with epsilon = 0; the paper's gamma rule for vision models is not applied.
    """

    name = "attnlrp"

    def replacements(self) -> Mapping[TorchFunction, TorchFunction]:
        """Libra's, without the constant softmax."""
        return {f: replacement for f, replacement in super().replacements().items() if f not in named("softmax")}

    def attend(self, call: Call, value: Tensor) -> tuple[Tensor, Tensor]:
        """Both products halved, softmax as it is."""
        weights = call.weights(product=_halved)
        return mix(weights, value, product=_halved), weights


RULES: dict[str, type[Rule]] = {rule.name: rule for rule in (Rule, Libra, AttnLRP)}


def make_rule(name: str) -> Rule:
    """A fresh rule by its name.

    Raises:
        OptionError: if there is no such rule.
    """
    if name not in RULES:
        raise OptionError(f"no gradient rule {name!r}: use one of {', '.join(RULES)}")
    return RULES[name]()


# -- replacements ----------------------------------------------------------------------------------------------------


@cache
def named(*names: str) -> list[TorchFunction]:
    """Every spelling of an operation: `torch.f`, `torch.nn.functional.f`, `Tensor.f`, `Tensor.__f__`."""
    places = (torch, F, Tensor)
    found = [getattr(place, spelling, None) for name in names for spelling in (name, f"__{name}__") for place in places]
    return [function for function in found if function is not None]


RECOMPUTED_ON: tuple[str, ...] = ("cpu",)
"""Where constant attention weights are computed again for the backward pass: on a CPU the fused kernel's own takes more than
twice the time of its forward pass, and most of that for queries and keys."""


def _attention(
    function: TorchFunction, query: Tensor, key: Tensor, value: Tensor, *args: Any, **options: Any
) -> Tensor:
    """sum_j a_ij v_j with constant a."""
    call = Call.of(query.detach(), key.detach(), value, *args, **options)
    usual = value.dim() == 4 and query.shape[0] == value.shape[0]  # what is not may still stand outside of the blocks
    if not usual or value.device.type not in RECOMPUTED_ON:
        fused: Tensor = function(call.query, call.key, value, *args, **options)
        return fused
    with torch.no_grad():
        output = function(call.query, call.key, value, *args, **options)
    result: Tensor = _ConstantAttention.apply(value, output, call)
    return result


class _ConstantAttention(torch.autograd.Function):
    """An output that was computed elsewhere, whose gradient goes to the values only."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, output: Tensor, call: Call) -> Tensor:
        ctx.call, ctx.groups = call, value.shape[1]
        return output.view_as(output)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        return ctx.call.pulled_back(gradient, ctx.groups), None, None


def _constant_result(function: TorchFunction, *args: Any, **options: Any) -> Tensor:
    """An attention weight, a denominator or a gate: its value counts, its gradient does not."""
    result: Tensor = function(*args, **options)
    return result.detach()


def _product(function: TorchFunction, a: Any, b: Any, **options: Any) -> Tensor:
    """a * b of two hidden states: a function of degree two, of which each factor gets half."""
    if not (varies(a) and varies(b)):
        result: Tensor = function(a, b, **options)
        return result
    return 0.5 * (function(a, b.detach(), **options) + function(a.detach(), b, **options))


def _halved(a: Tensor, b: Tensor) -> Tensor:
    """a @ b of two hidden states, each factor with half of the gradient."""
    return _product(torch.matmul, a, b)


def _quotient(function: TorchFunction, a: Any, b: Any, **options: Any) -> Tensor:
    """a / b with constant b, the denominator of a normalisation."""
    result: Tensor = function(a, b.detach() if varies(b) else b, **options)
    return result


def _power(function: TorchFunction, x: Any, exponent: Any = 2) -> Tensor:
    """x^n = x * x^(n-1) with a constant second factor."""
    if not varies(x) or not isinstance(exponent, (int, float)) or exponent < 1:
        arguments = (x,) if function in (torch.square, Tensor.square) else (x, exponent)
        result: Tensor = function(*arguments)
        return result
    return x * (x.detach() ** (exponent - 1))


def _layer_norm(
    function: TorchFunction,
    input: Tensor,
    normalized_shape: Iterable[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
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
        weighted = gradient if weight is None else gradient * weight
        scaled = weighted * reciprocal.to(weighted.dtype)
        to_bias = gradient.sum_to_size(ctx.shape) if ctx.needs_input_grad[3] else None  # measures completeness
        return scaled - scaled.mean(ctx.axes, keepdim=True), None, None, to_bias, None


def _rms_norm(
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


_SLOPE_AT_ZERO = {F.gelu: 0.5, F.silu: 0.5, F.mish: 0.6, F.elu: 1.0, F.hardswish: 0.5}


def _gate(function: TorchFunction, x: Tensor, *args: Any, **options: Any) -> Tensor:
    """f(x) = x * g with the constant gate g = f(x) / x, and its limit f'(0) where x is 0."""
    options.pop("inplace", None)
    result: Tensor = function(x.detach(), *args, **options)
    return _Gated.apply(x, result, _SLOPE_AT_ZERO.get(function, 1.0))


class _Gated(torch.autograd.Function):
    """A value y that was computed elsewhere, with the slope y / x; the gate is formed only if the gradient arrives."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, result: Tensor, at_zero: float) -> Tensor:
        ctx.save_for_backward(x, result)
        ctx.at_zero = at_zero
        return result.view_as(result)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        x, result = ctx.saved_tensors
        gate = (result / x).nan_to_num_(nan=ctx.at_zero)
        return gate * gradient, None, None  # not in place: the gradients of several targets may come at once


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


def varies(x: Any) -> bool:
    """Whether x depends on the hidden states: inside a trace parameters are constants."""
    return isinstance(x, Tensor) and x.requires_grad

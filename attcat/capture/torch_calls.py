"""Attention, seen where every family computes it, and the gradient rule, applied on the way.

A `TorchFunctionMode` sees each call of `torch.nn.functional.scaled_dot_product_attention` (or, in eager models, the softmax). It
is per thread, knows no architecture, and leaves nothing behind.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..errors import CaptureError, Option
from .attention import Call, is_flat
from .blocks import Block
from .foreign import Foreign, gated, is_softmax_of
from .randomness import DRAWING, Draws
from .rules import Explicit, Libra, Rule, as_weights, named, varies


class Interception(TorchFunctionMode):
    """Sees every torch call of one forward pass: notes attention, applies the gradient rule, answers what draws at random.

    Args:
        rule: replaces operations so that their gradient follows the rule.
        open_blocks: the blocks that are running; the innermost gets the attention that is seen.
        attention: note with the queries and keys what the gradient of the attention matrix is made from.
        ones: a factor for every bias, whose gradient is what the biases contribute: at each token, and in a last column those
            that belong to no single one, `[B, T + 1]`.
    """

    def __init__(
        self, rule: Rule, open_blocks: list[Block], *, attention: bool = False, ones: Tensor | None = None
    ) -> None:
        super().__init__()
        self.rule = rule
        self.replacements = rule.replacements()
        self.open_blocks = open_blocks
        self.attention = attention
        self.ones = ones
        self.draws = Draws()
        self.routed: Block | None = (
            None  # the block in which rows were last picked, so that nobody knows whose they are
        )
        self.mingled = False  # whether a bias was added to rows of which that is not known
        self.inside: Tensor | None = None  # the last softmax within an autograd function of the model's own
        self.own: dict[int, tuple[Tensor, Tensor]] = {}  # what such functions returned, and what stands for it
        self.positions_first = False  # whether tensors are [T, B, ...], as inside torch's own attention layer

    @contextmanager
    def _positions_first(self, inside: bool) -> Iterator[None]:
        self.positions_first, before = self.positions_first or inside, self.positions_first
        try:
            yield
        finally:
            self.positions_first = before

    def __torch_function__(
        self, func: Callable[..., Any], _types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in DRAWING:
            return self.draws(func, args, kwargs)
        if not torch.is_grad_enabled():  # below the first block, or inside of an autograd function
            result = func(*args, **kwargs)
            if func in _SOFTMAX and self.open_blocks and isinstance(result, Tensor):
                self.inside = result
            return result
        if (
            type(func) is types.MethodWrapperType
        ):  # a tensor's property, as .shape, or .T, which of a parameter is constant
            return _constant(func(*args, **kwargs)) if isinstance(args[0], nn.Parameter) else func(*args, **kwargs)
        if func in COMPOSITES:
            with self, self._positions_first(func is F.multi_head_attention_forward and args[0].dim() == 3):
                return COMPOSITES[func](*args, **kwargs)  # what happens inside has to be seen as well
        # Parameters become constants, so that only the hidden states are differentiated.
        args = tuple([self._taken(a) for a in args])
        if kwargs:
            kwargs = {name: self._taken(a) for name, a in kwargs.items()}
        if func is F.scaled_dot_product_attention:
            return self._attend(*args, **kwargs)
        if self.ones is not None:
            if func in _JOIN:
                args = (_with_factor(args[0], self.ones), *args[1:])
            elif func in _ADD_TO and len(args) == 2 and not kwargs and _is_bias(*args):
                args = (args[0], self._plus(torch.zeros_like(args[0]), args[1]))
            func, args, kwargs, bias = _without_bias(self.rule, func, args, kwargs)
            result = self._plus(self._call(func, args, kwargs), bias)
            if _picks_rows(func, args, result) and self.open_blocks:
                self.routed = self.open_blocks[-1]
        else:
            result = self._call(func, args, kwargs)
        if self.open_blocks and self.open_blocks[-1].windowed:
            if is_softmax(func, result):
                self.open_blocks[-1].attention.append(result)
        elif func in _SOFTMAX and self.open_blocks and isinstance(result, Tensor):
            return self._weights(result, any(map(varies, (*args, *kwargs.values()))))
        elif func is Tensor.__getitem__ and self.open_blocks and args[0] is self.open_blocks[-1].last:
            self.open_blocks[-1].sink |= isinstance(args[0], Tensor) and _without_last(args[0], result)
        return result

    def _plus(self, result: Any, bias: Tensor | None) -> Any:
        """result + bias with a factor for each token; of all examples together where nobody knows whose the rows are."""
        assert self.ones is not None
        within = bool(self.open_blocks) and self.routed is self.open_blocks[-1]
        if bias is not None and within and len(self.ones) > 1 and result.dim() == 2:
            self.mingled = True
            return result + bias * self.ones[:, -1].mean().to(result.dtype)
        return _plus(result, bias, self.ones, self.positions_first)

    def _weights(self, result: Tensor, variable: bool) -> Tensor:
        """A softmax inside of a block, noted if it is attention: `[B, H, T, S]`, or with batch and heads in one axis."""
        block = self.open_blocks[-1]
        flat = is_flat(result, *block.input.shape[:2])
        if result.dim() != 4 and not flat:
            return result
        if self.attention and not result.requires_grad and variable:
            result = as_weights(result.requires_grad_())  # constant under the rule, but asked for
        apart = result.view(len(block.input), -1, *result.shape[1:]) if flat else result
        block.attention.append(apart)
        block.last = apart.flatten(0, 1) if flat else apart
        return block.last

    def _taken(self, x: Any) -> Any:
        """An argument, with parameters as constants, and the gate of an activation that is an autograd function of its own."""
        if type(x) is Tensor:
            if not x.requires_grad:
                return x
            if isinstance(x.grad_fn, Foreign):
                if self.open_blocks and is_softmax_of(self.inside, x):
                    return self._own_softmax(x)
                if isinstance(self.rule, Libra):
                    return gated(x.grad_fn, x)
            return _constant(x)
        if type(x) in (list, tuple):
            return type(x)([self._taken(part) for part in x])
        return _constant(x)

    def _own_softmax(self, x: Tensor) -> Tensor:
        """The result of a softmax that is an autograd function of the model's own, by the rule's; noted once, like any other."""
        if isinstance(self.rule, Explicit):
            raise CaptureError(
                f"the rule {self.rule.name} needs what goes into softmax, which this model computes in an autograd function of "
                "its own: use ",
                Option("rule", "libra"),
            )
        if id(x) not in self.own:
            replacement = self.replacements.get(torch.softmax)
            result = x if replacement is None else replacement(lambda weights: weights, x)
            self.own[id(x)] = x, self._weights(result, True)
        return self.own[id(x)][1]

    def _call(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        replacement = self.replacements.get(func)
        result = func(*args, **kwargs) if replacement is None else replacement(func, *args, **kwargs)
        if func is F.batch_norm and result.requires_grad:
            result.register_hook(_in_order_of(args[0] if args else kwargs["input"]))
        return result

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> Any:
        self.draws.check_attention(query, key, value, *args, **kwargs)
        call = Call.of(query, key, value, *args, **kwargs)
        seen: Call | Tensor = call
        if isinstance(self.rule, Explicit):
            output, seen = self.rule.attend(call, value)
        else:
            output = self._call(F.scaled_dot_product_attention, (query, key, value, *args), kwargs)
            share = self.rule.weight_share
            seen = replace(call, value=value, output=output, share=share) if self.attention else call
        if self.open_blocks:
            self.open_blocks[-1].attention.append(seen)
        return output


def _constant(x: Any) -> Any:
    """A parameter, or a view of one that was made elsewhere, without its gradient."""
    if not isinstance(x, Tensor) or not x.requires_grad:
        return x
    return x.detach() if isinstance(x, nn.Parameter) or isinstance(x._base, nn.Parameter) else x


_SOFTMAX = {torch.softmax, F.softmax, Tensor.softmax}


class Looking(TorchFunctionMode):
    """Looks at every torch call of a forward pass, those inside of composite functions too, and changes none."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in COMPOSITES:
            with self:
                return COMPOSITES[func](*args, **kwargs)
        result = func(*args, **kwargs)
        self.look(func, args, kwargs, result)
        return result

    def look(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
        """Called after each."""
        raise NotImplementedError


def _picks_rows(func: Callable[..., Any], args: tuple[Any, ...], result: Any) -> bool:
    """Whether rows of a matrix are picked by their numbers, as a router of experts does with the tokens of all examples."""
    if not isinstance(result, Tensor) or result.dim() != 2 or not varies(result):
        return False
    if func is Tensor.__getitem__:
        first = args[1][0] if isinstance(args[1], tuple) and args[1] else args[1]
        return isinstance(first, (Tensor, list))
    return func in _PICK


def _in_order_of(x: Tensor) -> Callable[[Tensor], Tensor]:
    """A hook that gives a gradient the memory layout of x.

    Torch's backward pass of a batch normalisation reads the memory of one example in the wrong order if the two differ, and
    gives another gradient without a word (seen with torch 2.14, in CvT).
    """
    strides: tuple[int, ...] = torch.empty_like(x, device="meta").stride()
    order = sorted(range(x.dim()), key=lambda axis: -strides[axis])
    back = [order.index(axis) for axis in range(x.dim())]
    return lambda gradient: gradient.permute(order).contiguous().permute(back)


def _without_last(matrix: Tensor, taken: Any) -> bool:
    """Whether all of a matrix of weights was taken but its last column."""
    whole = (*matrix.shape[:-1], matrix.shape[-1] - 1)
    return isinstance(taken, Tensor) and taken.shape == whole and taken.data_ptr() == matrix.data_ptr()


def is_softmax(func: Callable[..., Any], result: Any) -> bool:
    """Whether what was called is a softmax that may be attention: matrices, whatever else they are arranged by."""
    return func in _SOFTMAX and isinstance(result, Tensor) and result.dim() >= 3


def _without_bias(
    rule: Rule, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any], Tensor | None]:
    """Split the constant that an operation adds to something that depends on the hidden states."""
    names = {
        F.linear: ("input", "weight", "bias"),
        F.layer_norm: ("input", "normalized_shape", "weight", "bias", "eps"),
    }
    if func in names:
        given = {**dict(zip(names[func], args, strict=False)), **kwargs}
        bias = given.pop("bias", None)
        if bias is None or not varies(given["input"]):
            return func, args, kwargs, None
        first = tuple(given.pop(name) for name in names[func][:2])  # by position, as quantised weights expect them
        return func, first, given, bias
    if func is F.group_norm or func is F.instance_norm:
        return _without_bias_of_channels(func, args, kwargs)
    if func is F.batch_norm:
        return _by_statistics(func, args, kwargs)
    if func in _CONVOLUTIONS:
        given = {**dict(zip(("input", "weight", "bias"), args, strict=False)), **kwargs}
        bias = given.get("bias") if varies(given["input"]) else None
        if bias is None:
            return func, args, kwargs, None
        others = {name: value for name, value in kwargs.items() if name not in ("input", "weight", "bias")}
        spread = bias.view(-1, *(1,) * (given["weight"].dim() - 2))
        return func, (given["input"], given["weight"], None, *args[3:]), others, spread
    if func in _ADDCMUL and len(args) == 3 and not kwargs and not varies(args[0]) and any(map(varies, args[1:])):
        return torch.mul, args[1:], {}, args[0]
    if func is torch.addmm and len(args) == 3 and not kwargs and varies(args[1]):
        return torch.mm, args[1:], {}, args[0]
    if func in _ADD and len(args) == 2 and not kwargs:
        variable = [x for x in args if varies(x)]
        if len(variable) == 1 and variable[0].is_floating_point():
            (constant,) = (x for x in args if x is not variable[0])
            if isinstance(constant, Tensor):
                return func, (variable[0], torch.zeros_like(constant)), {}, constant
            if isinstance(constant, (int, float)) and constant and not rule.is_gate(variable[0]):
                return (
                    func,
                    (variable[0], 0),
                    {},
                    torch.tensor(constant, device=variable[0].device, dtype=variable[0].dtype),
                )
    return func, args, kwargs, None


def _without_bias_of_channels(
    func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any], Tensor | None]:
    """A normalisation within groups or channels, `[B, C, ...]`."""
    names = _GROUP_NORM if func is F.group_norm else _INSTANCE_NORM
    given = {**dict(zip(names, args, strict=False)), **kwargs}
    x, bias = given["input"], given.pop("bias", None)
    if bias is None or not varies(x):
        return func, args, kwargs, None
    return func, (), given, bias.view(-1, *(1,) * (x.dim() - 2))


def _by_statistics(
    func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[Callable[..., Any], tuple[Any, ...], dict[str, Any], Tensor | None]:
    """Batch normalisation by the statistics of the training: a factor and a constant for each channel."""
    given = {**dict(zip(_BATCH_NORM, args, strict=False)), **kwargs}
    x, mean, variance = given["input"], given.get("running_mean"), given.get("running_var")
    if mean is None or variance is None or given.get("training", False) or not varies(x):
        return func, args, kwargs, None
    factor = (variance + given.get("eps", 1e-5)).rsqrt()
    factor = factor if given.get("weight") is None else factor * given["weight"]
    bias = -mean * factor if given.get("bias") is None else given["bias"] - mean * factor
    across = (-1, *(1,) * (x.dim() - 2))
    return torch.mul, (x, factor.to(x.dtype).view(across)), {}, bias.to(x.dtype).view(across)


_GROUP_NORM = ("input", "num_groups", "weight", "bias", "eps")
_INSTANCE_NORM = (
    "input",
    "running_mean",
    "running_var",
    "weight",
    "bias",
    "use_input_stats",
    "momentum",
    "eps",
)
_BATCH_NORM = ("input", "running_mean", "running_var", "weight", "bias", "training", "momentum", "eps")
_ADD = set(named("add", "radd"))
_ADDCMUL = set(named("addcmul"))
_ADD_TO = set(named("add_", "iadd"))
_CONVOLUTIONS = set(named(*(f"conv{how}{axes}d" for how in ("", "_transpose") for axes in (1, 2, 3))))
_PICK = set(named("index_select", "gather", "take_along_dim"))
_JOIN = set(named("cat", "concat", "concatenate", "stack"))


def _is_bias(x: Tensor, added: Any) -> bool:
    """Whether something that does not depend on the hidden states is added, in place, to something that does."""
    return varies(x) and x.is_floating_point() and isinstance(added, Tensor) and not varies(added)


def _with_factor(parts: Any, ones: Tensor) -> Any:
    """What is joined to hidden states and does not depend on them, as a class token, with a factor of one per example."""
    if not isinstance(parts, (tuple, list)) or not any(varies(part) for part in parts):
        return parts
    return [
        _plus(torch.zeros_like(part), part, ones) if part.is_floating_point() and not varies(part) else part
        for part in parts
    ]


def _plus(result: Any, bias: Tensor | None, ones: Tensor, positions_first: bool = False) -> Any:
    """result + bias, with a factor of one for each token, or where a row stands for no token for each example.

    Args:
        result: rows of a flattened batch belong to its examples in order.
        bias: what is added, if anything.
        ones: `[B, T + 1]`.
        positions_first: whether tokens come before examples, `[T, B, ...]` or flattened.
    """
    if bias is None:
        return result
    (batch, length), whole = ones[:, :-1].shape, ones[:, -1]
    if bias.dim() == 0 and (result.dim() == 0 or result.shape[0] % batch) and not positions_first:
        return result + bias  # a number that is added to something that belongs to no example
    if positions_first:
        flat = result.dim() < 3
        count = result.shape[0] // batch if flat else result.shape[0]
        factor = ones[:, :-1].T if count == length else whole.expand(count, batch)
        factor = factor.flatten() if flat else factor
    elif result.shape[0] % batch:
        raise CaptureError(
            f"cannot tell the examples apart in a tensor of shape {tuple(result.shape)}: use ",
            Option("completeness", False),
        )
    elif result.dim() == 3 and result.shape[:2] == (batch, length):
        factor = ones[:, :-1]
    elif result.dim() == 2 and result.shape[0] == batch * length:
        factor = ones[:, :-1].flatten()
    else:
        factor = whole.repeat_interleave(result.shape[0] // batch)
    return result + bias * factor.to(result.dtype).view(*factor.shape, *(1,) * (result.dim() - factor.dim()))


def _open_function(function: Callable[..., Any]) -> Callable[..., Any]:
    """A copy of a composite torch function that does its work at once, instead of asking the active modes first."""
    source: types.FunctionType = function  # type: ignore[assignment]
    namespace = {
        **source.__globals__,
        "has_torch_function": _no,
        "has_torch_function_unary": _no,
        "has_torch_function_variadic": _no,
    }
    copy = types.FunctionType(source.__code__, namespace, source.__name__, source.__defaults__, source.__closure__)
    copy.__kwdefaults__ = source.__kwdefaults__
    return copy


def _no(*_: Any) -> bool:
    return False


COMPOSITES = {function: _open_function(function) for function in (F.multi_head_attention_forward, F.normalize)}

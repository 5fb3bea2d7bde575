"""Run a model once forward and once backward; what is left is a `Trace` of plain tensors.

Attention is seen where every family computes it: a `TorchFunctionMode` sees each call of
`torch.nn.functional.scaled_dot_product_attention` (or, in eager models, the softmax). Hidden states are seen by hooks on
the blocks that the adapter names; the first block's input becomes a leaf, so that nothing below it is differentiated.
Inside a trace parameters are constants: a tensor requires a gradient exactly if it depends on the hidden states.
Mode, hooks, training flags and random state are put back whatever happens.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from .attention import Call, Matrices, counting
from .errors import CaptureError, InputError
from .rules import Explicit, Rule, named, varies
from .wrappers import CHECKPOINTING, is_compiled

if TYPE_CHECKING:
    from .adapter import Adapter, Encoding

Hidden = Literal["input", "output"]
Queries = Literal["mean", "pooled"]


@dataclass(frozen=True)
class Needs:
    """What a method reads from a Trace; nothing else is computed.

    Args:
        gradient: gradients of the target (with respect to hidden states, and attention if that is read).
        received: the attention that each token receives; linear memory.
        attention: the attention matrices, a block at a time; memory grows with the square of the sequence.
        relevance: the relevance of attention and of the first hidden state (one more forward and backward pass).
    """

    gradient: bool = True
    received: bool = False
    attention: bool = False
    relevance: bool = False


@dataclass(frozen=True)
class Trace:
    """What one forward and one backward pass left behind, for a batch of `B` examples and `L` blocks.

    Args:
        hidden: per block, the hidden state `[B, T, D]`.
        gradient: per block, the gradient of the target's logit with respect to it, `[B, T, D]`.
        received: per block, the attention that each token receives, `[B, T]`; padding receives none.
        attention: per block, the attention matrix `[B, H, T, T]`, rows are queries; made anew whenever it is read.
        attention_gradient: per block, the gradient of the target with respect to it, `[B, H, T, T]`; made anew likewise.
        attention_relevance: per block, the relevance of it, `[B, H, T, T]`.
        relevance: the relevance of the first block's input, `[B, T, D]`; None if not asked for.
        last: the last block's output, `[B, T, D]`.
        bias: what the bias terms contribute to the target under the gradient rule, `[B]`; None if not asked for.
        logits: `[B, C]`.
        target: the class explained, `[B]`; None if the target was a function of the output.
        value: what is explained, `[B]`: the target's logit, or what the function gave.
        mask: True for real tokens, `[B, T]`.
        read: the tokens that the model's head reads, bool `[B, T]`.

    What the method did not ask for is empty.
    """

    hidden: tuple[Tensor, ...]
    gradient: tuple[Tensor, ...]
    received: tuple[Tensor, ...]
    logits: Tensor
    target: Tensor | None
    value: Tensor
    mask: Tensor
    read: Tensor
    attention: Sequence[Tensor] = ()
    attention_gradient: Sequence[Tensor] = ()
    attention_relevance: tuple[Tensor, ...] = ()
    relevance: Tensor | None = None
    last: Tensor | None = None
    bias: Tensor | None = None

    def __post_init__(self) -> None:
        batch, length = self.mask.shape
        if self.read.shape != self.mask.shape or self.logits.shape[0] != batch:
            raise CaptureError(
                f"mask {tuple(self.mask.shape)}, read {tuple(self.read.shape)} and logits {tuple(self.logits.shape)} disagree"
            )
        for name, shape in (("hidden", 3), ("gradient", 3), ("received", 2)):
            for block, tensor in enumerate(getattr(self, name)):
                if tensor.dim() != shape or tensor.shape[:2] != (batch, length):
                    raise CaptureError(
                        f"block {block}: {name} has shape {tuple(tensor.shape)}, but there are {batch} examples of {length} "
                        "tokens: the adapter's tokens do not line up with the model's hidden states"
                    )


@dataclass
class Block:
    """What was seen of one call of a block."""

    input: Tensor
    output: Tensor | None = None
    attention: list[Call | Tensor] = field(default_factory=list)


@dataclass(frozen=True)
class Recording:
    """A forward pass, ready to be differentiated towards any target."""

    blocks: tuple[Block, ...]
    output: Any
    logits: Tensor
    mask: Tensor
    read: Tensor
    ones: Tensor | None = None  # factor of every bias, [B], when their share is measured

    def trace(
        self,
        value: Tensor,
        target: Tensor | None = None,
        *,
        needs: Needs = Needs(received=True),
        hidden: Hidden = "input",
        queries: Queries = "mean",
        keep: bool = False,
    ) -> Trace:
        """Differentiate one number per example with respect to the blocks' hidden states.

        Args:
            value: what is explained, `[B]`, computed from `logits` or `output`.
            target: the class it stands for, if any, `[B]`.
            needs: what to compute.
            hidden: the blocks' inputs or outputs.
            queries: which queries count in the received attention.
            keep: keep the graph for another target.

        Raises:
            CaptureError: if the value does not depend on a block, or a block's attention was not seen.
        """
        states = tuple(block.input if hidden == "input" else _output(block) for block in self.blocks)
        seen = self._seen() if needs.attention else ()
        mixed = [_mixed(attention) for attention in seen]
        wanted = (*states, *mixed, *(() if self.ones is None else (self.ones,))) if needs.gradient else ()
        gradient = _differentiate(value, wanted, keep)
        count, last = len(states), len(states) + len(mixed)
        lost = [str(block) for block, g in enumerate(gradient[:count]) if g is None]
        if lost:
            raise CaptureError(
                f"the target does not depend on the {hidden} of block {', '.join(lost)}: check the adapter's blocks"
            )
        with torch.no_grad():
            return Trace(
                hidden=tuple(state.detach() for state in states),
                gradient=_filled(gradient[:count], states),
                received=self._received(queries) if needs.received else (),
                attention=Matrices([partial(_matrix, attention) for attention in seen]),
                attention_gradient=_matrix_gradients(seen, gradient[count:last]),
                last=None if self.blocks[-1].output is None else self.blocks[-1].output.detach(),
                bias=_filled(gradient[last:], () if self.ones is None else (self.ones,))[0]
                if gradient[last:]
                else None,
                logits=self.logits.detach(),
                target=target,
                value=value.detach(),
                mask=self.mask,
                read=self.read,
            )

    def relevance(self, value: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The relevance of the first block's input, `[B, T, D]`, and of each attention matrix, `[B, H, T, T]`.

        The forward pass must have been recorded under the rule `Relevance`, whose backward pass carries it.
        """
        matrices = [_mixed(attention) for attention in self._seen()]  # the rule is explicit: matrices
        first, *rest = _differentiate(value, (self.blocks[0].input, *matrices), keep=False)
        if first is None:
            raise CaptureError("the target does not depend on the first block's input: check the adapter's blocks")
        return first, _filled(rest, matrices)

    def matrix(self, block: int) -> Tensor:
        """The attention matrix of a block, `[B, H, T, T]`, without a graph."""
        with torch.no_grad():
            return _matrix(one_attention(block, self.blocks[block]))

    def attention_gradient(self, value: Tensor, block: int) -> Tensor:
        """The gradient of a value `[B]` with respect to one block's attention matrix, `[B, H, T, T]`.

        The forward pass must have been recorded with `attention=True`.
        """
        attention = one_attention(block, self.blocks[block])
        return _matrix_gradients([attention], _differentiate(value, [_mixed(attention)], keep=False))[0]

    def _seen(self) -> tuple[Call | Tensor, ...]:
        return tuple(one_attention(index, block) for index, block in enumerate(self.blocks))

    def _received(self, queries: Queries) -> tuple[Tensor, ...]:
        counted = (self.mask if queries == "mean" else self.read & self.mask).float()
        weights = counted / counted.sum(-1, keepdim=True)
        rows = counting(weights)
        return tuple(_received(index, block, weights, rows) * self.mask for index, block in enumerate(self.blocks))


def _differentiate(value: Tensor, wanted: Sequence[Tensor], keep: bool) -> tuple[Tensor | None, ...]:
    if not wanted:
        return ()
    if not value.requires_grad:
        raise CaptureError(
            "the target does not depend on the hidden states: the model, or the target function, computes it without "
            "gradient (torch.no_grad, .detach(), argmax or numpy inside)"
        )
    return torch.autograd.grad(value, tuple(wanted), torch.ones_like(value), retain_graph=keep, allow_unused=True)


def _filled(gradient: Sequence[Tensor | None], like: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Gradients, with zeros where the target does not depend on a tensor."""
    return tuple(torch.zeros_like(x) if g is None else g for g, x in zip(gradient, like, strict=False))


def record(
    adapter: Adapter,
    encoding: Encoding,
    rule: Rule,
    *,
    attention: bool = False,
    biases: bool = False,
    gradient: bool = True,
    before: Callable[[Tensor], Tensor] | None = None,
    early: int | None = None,
) -> Recording:
    """Run the model forward once, under a gradient rule, and keep what explanations need.

    Args:
        adapter: of the model.
        encoding: the batch.
        rule: gradient rule, made for this pass.
        attention: keep what attention matrices and their gradients are made from, for methods that read them.
        biases: measure what the bias terms contribute.
        gradient: build the graph; without it nothing can be differentiated, and less is kept.
        before: replaces the first block's input.
        early: the block whose output the head reads, in place of the last one's.

    Raises:
        CaptureError: inside `torch.inference_mode()`, or if the blocks were not called.
        InputError: if a logit is not finite.
    """
    if torch.is_inference_mode_enabled():
        raise CaptureError(
            "gradients cannot be computed inside torch.inference_mode(): call AttCAT outside of it (torch.no_grad() is fine)"
        )
    blocks: list[Block] = []
    open_blocks: list[Block] = []
    ones = torch.ones(len(encoding.tokens), device=adapter.device, requires_grad=True) if biases else None
    with (
        as_found(adapter.model),
        _watch(adapter.blocks, blocks, open_blocks, gradient, before, early),
        torch.no_grad(),  # until the first block is reached
        Interception(rule, open_blocks, attention=attention, ones=ones),
    ):
        output = adapter.call(encoding)
        logits = adapter.logits(output)
    if not blocks:
        raise CaptureError(
            f"{type(adapter.model).__name__} was run, but none of its {len(adapter.blocks)} blocks was called"
        )
    if logits.dim() != 2:
        raise CaptureError(f"logits have shape {tuple(logits.shape)}, expected [B, C]")
    # Of very many classes some may be ruled out with -inf, as the spans that are no answer.
    if not (logits if adapter.head.kept is None else logits.max(-1).values).isfinite().all():
        raise InputError(
            "the model's logits are not finite (NaN or infinity) for this input: there is nothing to explain"
        )
    return Recording(tuple(blocks), output, logits, encoding.mask, adapter.read(encoding), ones)


# -- the forward pass, watched ---------------------------------------------------------------------------------------


@contextmanager
def as_found(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, eager, without checkpoints, a scratch random state; afterwards every flag and the state are as before."""
    modules = tuple(model.modules())  # walked once: in small models these walks are a good part of the cost
    training = [module for module in modules if module.training]
    flags = [(m, name) for m in modules for name in CHECKPOINTING if vars(m).get(name) is True]
    parameters = [p for module in modules for p in module._parameters.values() if p is not None]
    if any(p.is_inference() for p in parameters):
        raise CaptureError("the model was made inside torch.inference_mode(), so it has no gradients: make it outside")
    devices = {p.device.index or 0 for p in parameters if p.is_cuda}
    with ExitStack() as undo:
        undo.enter_context(torch.random.fork_rng(devices=sorted(devices)))
        if any(map(is_compiled, modules)):
            undo.enter_context(torch.compiler.set_stance("force_eager"))
        try:
            if training:
                model.eval()
            for module, name in flags:
                setattr(module, name, False)
            yield
        finally:
            for module in training:
                module.training = True
            for module, name in flags:
                setattr(module, name, True)


@contextmanager
def _watch(
    modules: Sequence[nn.Module],
    blocks: list[Block],
    open_blocks: list[Block],
    gradient: bool,
    before: Callable[[Tensor], Tensor] | None = None,
    early: int | None = None,
) -> Iterator[None]:
    """Hook the blocks: note their input and output, and make the first input a leaf that requires a gradient."""

    def enter(
        module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        place, state = hidden_state(module, args, kwargs)
        if not blocks:
            torch.set_grad_enabled(True)
            state = state if before is None else before(state)
            state = state if state.requires_grad else state.detach().requires_grad_(gradient)
            args, kwargs = with_state(place, state, args, kwargs)
        block = Block(state)
        blocks.append(block)
        open_blocks.append(block)
        return args, kwargs

    def leave(module: nn.Module, args: Any, output: Any) -> Any:
        block = open_blocks.pop()
        parts = [output] if isinstance(output, Tensor) else [part for part in output if isinstance(part, Tensor)]
        block.output = parts[0] if parts else None
        if early is None or len(blocks) < len(modules):
            return None
        state = _output(blocks[early])  # the head reads an earlier block
        return state if isinstance(output, Tensor) else type(output)((state, *output[1:]))

    with ExitStack() as hooks:
        for module in dict.fromkeys(modules):  # a block that is called several times is hooked once
            hooks.callback(module.register_forward_pre_hook(enter, with_kwargs=True).remove)
            hooks.callback(module.register_forward_hook(leave).remove)
        yield


def hidden_state(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[int | str, Tensor]:
    """The first floating point tensor `[B, T, D]` among a block's arguments, and its place."""
    places: list[tuple[int | str, Any]] = [*enumerate(args), *kwargs.items()]
    for place, value in places:
        if isinstance(value, Tensor) and value.is_floating_point() and value.dim() == 3:
            return place, value
    shapes = [tuple(value.shape) for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
    raise CaptureError(
        f"{type(module).__name__} was called without a hidden state [B, T, D]: its tensors have shapes {shapes}"
    )


def with_state(
    place: int | str, state: Tensor, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """A block's arguments with another hidden state in that place."""
    if isinstance(place, int):
        return (*args[:place], state, *args[place + 1 :]), kwargs
    return args, {**kwargs, place: state}


class Interception(TorchFunctionMode):
    """Sees every torch call of one forward pass: notes attention, applies the gradient rule.

    Args:
        rule: replaces operations so that their gradient follows the rule.
        open_blocks: the blocks that are running; the innermost gets the attention that is seen.
        attention: note with the queries and keys what the gradient of the attention matrix is made from.
        ones: a factor for every bias, `[B]`, whose gradient is what the biases contribute.
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
        if type(func) is types.MethodWrapperType or not torch.is_grad_enabled():
            return func(*args, **kwargs)  # a tensor's property; or below the first block, where there is nothing to see
        if func in COMPOSITES:
            with self, self._positions_first(func is F.multi_head_attention_forward and args[0].dim() == 3):
                return COMPOSITES[func](*args, **kwargs)  # what happens inside has to be seen as well
        # Parameters become constants, so that only the hidden states are differentiated.
        args = tuple([_constant(a) for a in args])
        if kwargs:
            kwargs = {name: _constant(a) for name, a in kwargs.items()}
        if func is F.scaled_dot_product_attention:
            return self._attend(*args, **kwargs)
        if self.ones is not None:
            if func in _JOIN:
                args = (_with_factor(args[0], self.ones), *args[1:])
            func, args, kwargs, bias = _without_bias(func, args, kwargs)
            result = _plus(self._call(func, args, kwargs), bias, self.ones, self.positions_first)
        else:
            result = self._call(func, args, kwargs)
        if func in _SOFTMAX and self.open_blocks and isinstance(result, Tensor) and result.dim() == 4:
            if self.attention and not result.requires_grad and any(map(varies, (*args, *kwargs.values()))):
                result.requires_grad_()  # constant under the rule, but asked for
            self.open_blocks[-1].attention.append(result)
        return result

    def _call(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        replacement = self.replacements.get(func)
        return func(*args, **kwargs) if replacement is None else replacement(func, *args, **kwargs)

    def _attend(self, query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> Any:
        call = Call.of(query, key, value, *args, **kwargs)
        seen: Call | Tensor = call
        if isinstance(self.rule, Explicit):
            output, seen = self.rule.attend(call, value)
        else:
            output = self._call(F.scaled_dot_product_attention, (query, key, value, *args), kwargs)
            seen = replace(call, value=value, output=output) if self.attention else call
        if self.open_blocks:
            self.open_blocks[-1].attention.append(seen)
        return output


def _constant(x: Any) -> Any:
    """A parameter without its gradient. Most calls get none, and asking for their type is cheaper than `isinstance`."""
    return x.detach() if type(x) is not Tensor and isinstance(x, Tensor) and isinstance(x, nn.Parameter) else x


_SOFTMAX = {torch.softmax, F.softmax, Tensor.softmax}


def _without_bias(
    func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
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
    if func is torch.addmm and len(args) == 3 and not kwargs and varies(args[1]):
        return torch.mm, args[1:], {}, args[0]
    if func in _ADD and len(args) == 2 and not kwargs and all(isinstance(x, Tensor) for x in args):
        variable = [x for x in args if varies(x)]
        if len(variable) == 1 and variable[0].is_floating_point():
            (constant,) = (x for x in args if x is not variable[0])
            return func, (variable[0], torch.zeros_like(constant)), {}, constant
    return func, args, kwargs, None


_ADD = set(named("add", "radd"))
_JOIN = set(named("cat", "concat", "concatenate", "stack"))


def _with_factor(parts: Any, ones: Tensor) -> Any:
    """What is joined to hidden states and does not depend on them, as a class token, with a factor of one per example."""
    if not isinstance(parts, (tuple, list)) or not any(varies(part) for part in parts):
        return parts
    return [
        _plus(torch.zeros_like(part), part, ones) if part.is_floating_point() and not varies(part) else part
        for part in parts
    ]


def _plus(result: Any, bias: Tensor | None, ones: Tensor, positions_first: bool = False) -> Any:
    """result + bias, with a factor of one for each example (rows of a flattened batch belong to it in order)."""
    if bias is None:
        return result
    if positions_first:  # [T, B, ...], or flattened to [T * B, ...]
        factor = ones.to(result.dtype)
        flat = result.dim() < 3
        return result + bias * (factor.repeat(result.shape[0] // len(ones))[:, None] if flat else factor[:, None])
    if result.shape[0] % len(ones):
        raise CaptureError(
            f"cannot tell the examples apart in a tensor of shape {tuple(result.shape)}: completeness=False"
        )
    factor = ones.to(result.dtype).repeat_interleave(result.shape[0] // len(ones))
    return result + bias * factor.view(-1, *(1,) * (result.dim() - 1))


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


# -- reading a block -------------------------------------------------------------------------------------------------


def _output(block: Block) -> Tensor:
    if block.output is None:
        raise CaptureError('a block returned no tensor: use hidden="input"')
    return block.output


def _received(index: int, block: Block, query_weights: Tensor, counted: Sequence[int]) -> Tensor:
    """The attention that the tokens of one block receive, `[B, T]` float32 or wider."""
    attention = one_attention(index, block)
    if isinstance(attention, Call):
        return attention.received(query_weights, counted)
    wide = attention.to(torch.promote_types(attention.dtype, torch.float32))
    return torch.einsum("bq,bhqk->bk", query_weights.to(wide.dtype), wide.nan_to_num(0.0)) / wide.shape[1]


def _mixed(attention: Call | Tensor) -> Tensor:
    """What the gradient of the matrix is read off: the attention's output, or the matrix itself where it is in the graph."""
    if isinstance(attention, Tensor):
        return attention
    if attention.output is None:
        raise CaptureError("the forward pass was recorded without its attention: record(..., attention=True)")
    return attention.output


def _matrix(attention: Call | Tensor) -> Tensor:
    return attention.detach() if isinstance(attention, Tensor) else attention.weights()


def _matrix_gradients(seen: Sequence[Call | Tensor], gradient: Sequence[Tensor | None]) -> Matrices:
    """Of the attention matrices, from gradients at what `_mixed` gives; 0 where the target does not depend on it."""
    filled = _filled(gradient, [_mixed(attention) for attention in seen]) if gradient else ()
    return Matrices(
        [
            partial(attention.weight_gradient, g) if isinstance(attention, Call) else g.detach
            for attention, g in zip(seen, filled, strict=False)
        ]
    )


def one_attention(index: int, block: Block) -> Call | Tensor:
    """The block's self-attention: exactly one, over all of the block's tokens."""
    batch, length = block.input.shape[:2]
    seen = [a for a in block.attention if isinstance(a, Call)] or block.attention
    if not seen:
        raise CaptureError(
            f"the attention of block {index} was not seen: it calls neither scaled_dot_product_attention nor softmax "
            "(flash or flex attention?); load the model with its default attention or attn_implementation='eager'"
        )
    if len(seen) > 1:
        raise CaptureError(f"block {index} calls attention {len(seen)} times, expected once")
    shape = tuple(seen[0].shape)
    if shape[0] != batch or shape[2:] != (length, length):
        raise CaptureError(
            f"block {index} attends with a matrix of shape {shape} over {batch} x {length} tokens: windowed, block-sparse "
            "or cross attention is not supported"
        )
    return seen[0]

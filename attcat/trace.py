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
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from .attention import Call
from .errors import CaptureError, InputError, TargetError
from .rules import Rule

if TYPE_CHECKING:
    from .adapter import Adapter, Encoding

Hidden = Literal["input", "output"]
Queries = Literal["mean", "pooled"]


@dataclass(frozen=True)
class Trace:
    """What one forward and one backward pass left behind, for a batch of `B` examples and `L` blocks.

    Args:
        hidden: per block, the hidden state `[B, T, D]`.
        gradient: per block, the gradient of the target's logit with respect to it, `[B, T, D]`.
        received: per block, the attention that each token receives, `[B, T]`; padding receives none. Empty if not asked for.
        logits: `[B, C]`.
        target: the class explained, `[B]`; None if the target was a function of the output.
        mask: True for real tokens, `[B, T]`.
        read: the tokens that the model's head reads, bool `[B, T]`.
    """

    hidden: tuple[Tensor, ...]
    gradient: tuple[Tensor, ...]
    received: tuple[Tensor, ...]
    logits: Tensor
    target: Tensor | None
    mask: Tensor
    read: Tensor

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

    def trace(
        self,
        value: Tensor,
        target: Tensor | None = None,
        *,
        hidden: Hidden = "input",
        queries: Queries | None = "mean",
        keep: bool = False,
    ) -> Trace:
        """Differentiate one number per example with respect to the blocks' hidden states.

        Args:
            value: what is explained, `[B]`, computed from `logits` or `output`.
            target: the class it stands for, if any, `[B]`.
            hidden: the blocks' inputs or outputs.
            queries: which queries count in the received attention; None leaves it out.
            keep: keep the graph for another target.

        Raises:
            CaptureError: if the value does not depend on a block, or a block's attention was not seen.
        """
        states = tuple(block.input if hidden == "input" else _output(block) for block in self.blocks)
        if not value.requires_grad:
            raise CaptureError(
                "the target does not depend on the hidden states: the model, or the target function, computes it without "
                "gradient (torch.no_grad, .detach(), argmax or numpy inside)"
            )
        gradient = torch.autograd.grad(value.sum(), states, retain_graph=keep, allow_unused=True)
        lost = [str(block) for block, g in enumerate(gradient) if g is None]
        if lost:
            raise CaptureError(
                f"the target does not depend on the {hidden} of block {', '.join(lost)}: check the adapter's blocks"
            )
        with torch.no_grad():
            return Trace(
                hidden=tuple(state.detach() for state in states),
                gradient=gradient,
                received=() if queries is None else self._received(queries),
                logits=self.logits.detach(),
                target=target,
                mask=self.mask,
                read=self.read,
            )

    def _received(self, queries: Queries) -> tuple[Tensor, ...]:
        counted = (self.mask if queries == "mean" else self.read & self.mask).float()
        weights = counted / counted.sum(-1, keepdim=True)
        return tuple(_received(index, block, weights) * self.mask for index, block in enumerate(self.blocks))


def record(adapter: Adapter, encoding: Encoding, rule: Rule) -> Recording:
    """Run the model forward once, under a gradient rule, and keep what explanations need.

    Raises:
        CaptureError: inside `torch.inference_mode()`, or if the blocks were not called.
        InputError: if a logit is not finite.
    """
    if torch.is_inference_mode_enabled():
        raise CaptureError(
            "gradients cannot be computed inside torch.inference_mode(): call AttCAT outside of it (torch.no_grad() is fine)"
        )
    if any(parameter.is_inference() for parameter in adapter.model.parameters()):
        raise CaptureError("the model was made inside torch.inference_mode(), so it has no gradients: make it outside")
    blocks: list[Block] = []
    open_blocks: list[Block] = []
    with (
        _as_found(adapter.model),
        _watch(adapter.blocks, blocks, open_blocks),
        torch.no_grad(),  # until the first block is reached
        Interception(rule, open_blocks),
    ):
        output = adapter.call(encoding)
        logits = adapter.logits(output)
    if not blocks:
        raise CaptureError(
            f"{type(adapter.model).__name__} was run, but none of its {len(adapter.blocks)} blocks was called"
        )
    if logits.dim() != 2:
        raise CaptureError(f"logits have shape {tuple(logits.shape)}, expected [B, C]")
    if not logits.isfinite().all():
        raise InputError(
            "the model's logits are not finite (NaN or infinity) for this input: there is nothing to explain"
        )
    return Recording(tuple(blocks), output, logits, encoding.mask, adapter.read(encoding))


def class_values(logits: Tensor, target: Tensor) -> Tensor:
    """The logit of each example's class, `[B]`.

    Raises:
        TargetError: if a class does not exist.
    """
    if (target < 0).any() or (target >= logits.shape[1]).any():
        raise TargetError(f"class {target.tolist()} does not exist: the model has classes 0 to {logits.shape[1] - 1}")
    return logits.gather(1, target[:, None]).squeeze(1)


# -- the forward pass, watched ---------------------------------------------------------------------------------------


@contextmanager
def _as_found(model: nn.Module) -> Iterator[None]:
    """Evaluation mode and a scratch random state; afterwards every module's flag and the random state are as before."""
    training = [module for module in model.modules() if module.training]
    devices = {p.device.index or 0 for p in model.parameters() if p.device.type == "cuda"}
    with torch.random.fork_rng(devices=sorted(devices)):
        try:
            if training:
                model.eval()
            yield
        finally:
            for module in training:
                module.training = True


@contextmanager
def _watch(modules: Sequence[nn.Module], blocks: list[Block], open_blocks: list[Block]) -> Iterator[None]:
    """Hook the blocks: note their input and output, and make the first input a leaf that requires a gradient."""

    def enter(
        module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        place, state = _hidden_state(module, args, kwargs)
        if not blocks:
            torch.set_grad_enabled(True)
            state = state.detach().requires_grad_()
            if isinstance(place, int):
                args = (*args[:place], state, *args[place + 1 :])
            else:
                kwargs = {**kwargs, place: state}
        block = Block(state)
        blocks.append(block)
        open_blocks.append(block)
        return args, kwargs

    def leave(module: nn.Module, args: Any, output: Any) -> None:
        open_blocks.pop().output = (
            output if isinstance(output, Tensor) else next((part for part in output if isinstance(part, Tensor)), None)
        )

    with ExitStack() as hooks:
        for module in dict.fromkeys(modules):  # a block that is called several times is hooked once
            hooks.callback(module.register_forward_pre_hook(enter, with_kwargs=True).remove)
            hooks.callback(module.register_forward_hook(leave).remove)
        yield


def _hidden_state(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[int | str, Tensor]:
    """The first floating point tensor `[B, T, D]` among a block's arguments, and its place."""
    places: list[tuple[int | str, Any]] = [*enumerate(args), *kwargs.items()]
    for place, value in places:
        if isinstance(value, Tensor) and value.is_floating_point() and value.dim() == 3:
            return place, value
    shapes = [tuple(value.shape) for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
    raise CaptureError(
        f"{type(module).__name__} was called without a hidden state [B, T, D]: its tensors have shapes {shapes}"
    )


class Interception(TorchFunctionMode):
    """Sees every torch call of one forward pass: notes attention, applies the gradient rule.

    Args:
        rule: replaces operations so that their gradient follows the rule.
        open_blocks: the blocks that are running; the innermost gets the attention that is seen.
    """

    def __init__(self, rule: Rule, open_blocks: list[Block]) -> None:
        super().__init__()
        self.rule = rule
        self.replacements = rule.replacements()
        self.open_blocks = open_blocks

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _COMPOSITES:
            with self:  # what happens inside has to be seen as well
                return _COMPOSITES[func](*args, **kwargs)
        if torch.is_grad_enabled() and getattr(func, "__name__", "") not in ("__get__", "__set__"):
            args = tuple(_constant(value) for value in args)
            kwargs = {name: _constant(value) for name, value in kwargs.items()}
        if func is F.scaled_dot_product_attention and self.open_blocks:
            self.open_blocks[-1].attention.append(Call.of(*args, **kwargs))
        replacement = self.replacements.get(func)
        result = func(*args, **kwargs) if replacement is None else replacement(func, *args, **kwargs)
        if func in _SOFTMAX and self.open_blocks and isinstance(result, Tensor) and result.dim() == 4:
            self.open_blocks[-1].attention.append(result)
        return result


_SOFTMAX = {torch.softmax, F.softmax, Tensor.softmax}


def _constant(value: Any) -> Any:
    """A parameter as a constant, so that only the hidden states are differentiated."""
    return value.detach() if isinstance(value, nn.Parameter) and value.requires_grad else value


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


_COMPOSITES = {function: _open_function(function) for function in (F.multi_head_attention_forward, F.normalize)}


# -- reading a block -------------------------------------------------------------------------------------------------


def _output(block: Block) -> Tensor:
    if block.output is None:
        raise CaptureError('a block returned no tensor: use hidden="input"')
    return block.output


def _received(index: int, block: Block, query_weights: Tensor) -> Tensor:
    """The attention that the tokens of one block receive, `[B, T]` float32 or wider."""
    attention = _one_attention(index, block)
    if isinstance(attention, Call):
        return attention.received(query_weights)
    wide = attention.to(torch.promote_types(attention.dtype, torch.float32))
    return torch.einsum("bq,bhqk->bk", query_weights.to(wide.dtype), wide.nan_to_num(0.0)) / wide.shape[1]


def _one_attention(index: int, block: Block) -> Call | Tensor:
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

"""The forward pass, watched: hooks on the blocks note their input and output.

The first block's input is where differentiation begins. Some models add it again outside of the block (`x = attn(x) + x`), so
that it is not enough to hand the block another tensor: the model's own tensor has to depend on the leaf.

The hooks are removed whatever happens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from copy import copy
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import CaptureError
from .attention import Call


@dataclass
class Block:
    """What was seen of one call of a block; its states are `[B, T, D]`, whichever axis the model has in front."""

    input: Tensor
    output: Tensor | None = None
    attention: list[Call | Tensor] = field(default_factory=list)
    version: int = 0
    """Torch's count of changes in place of the input, when the block was called."""
    windowed: bool = False
    """Whether every softmax may be attention, within windows or over coarser keys."""
    several: bool = False
    """Whether it may attend several times, with heads of its own each time."""
    last: Tensor | None = None
    """The last matrix, as the model goes on with it."""
    sink: bool = False
    """Whether the model was seen to leave out the last column of a matrix, which stands for no token: a sink."""


def output_of(block: Block) -> Tensor:
    """The output of a block, `[B, T, D]`.

    Raises:
        CaptureError: if it returned none.
    """
    if block.output is None:
        raise CaptureError('a block returned no hidden state [B, T, D] like its input: use hidden="input"')
    return block.output


@contextmanager
def watch(
    modules: Sequence[nn.Module],
    blocks: list[Block],
    open_blocks: list[Block],
    gradient: bool,
    before: Callable[[Tensor], Tensor] | None = None,
    early: int | None = None,
    outputs: bool = True,
    position_axis: int = 1,
    several: bool = False,
    lasting: Callable[[], Iterable[Tensor]] = tuple,
    starts: Sequence[int] = (0,),
    until_next: bool = False,
) -> Iterator[None]:
    """Hook the blocks: note their input and output, and make the first input depend on a leaf that requires a gradient.

    Args:
        modules: the blocks.
        blocks: where their calls are noted.
        open_blocks: those that are running.
        gradient: whether the leaf requires a gradient.
        before: replaces the first block's input.
        early: the block whose output the last one passes on.
        outputs: whether what a block returns is a hidden state; if the sum stands outside of it, it is not.
        position_axis: of the model's states, with which the second one is exchanged.
        several: whether a block may attend several times.
        lasting: tensors that outlive the pass, as the caller's and the model's: they are not touched.
        starts: the blocks at which a sequence begins, whose input is made to depend on a leaf: the first; and that of a decoder.
        until_next: whether a block lasts until the next one is called, and not until its module returns.
    """

    def turned(state: Tensor) -> Tensor:
        return state if position_axis == 1 else state.transpose(1, position_axis)

    def enter(
        module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        place, own = hidden_state(module, args, kwargs)
        state = turned(own)
        if len(blocks) in starts:
            torch.set_grad_enabled(True)
            state = state if before is None else before(state)
            if not state.requires_grad:
                state = state.detach().clone().requires_grad_(gradient)
            kept = any(own is tensor for tensor in lasting())
            kept = kept or own is state or own.requires_grad
            if kept or not (gradient or before is not None) or not rebind(own, turned(state)):
                args, kwargs = with_state(place, turned(state), args, kwargs)
        elif position_axis != 1:
            state = state.clone()
            if outputs or not rebind(own, turned(state)):  # what is added outside has to be computed from it, too
                args, kwargs = with_state(place, turned(state), args, kwargs)
        version = 0 if state.is_inference() else state._version
        block = Block(state, version=version, windowed=until_next, several=several)
        blocks.append(block)
        if until_next:
            open_blocks.clear()
        open_blocks.append(block)
        return args, kwargs

    def leave(module: nn.Module, args: Any, output: Any) -> Any:
        if until_next:
            return None
        block = open_blocks.pop()
        # A block may return its attention weights as well, in front or behind.
        shape = turned(block.input).shape
        own = next((part for part in flat(output) if part.shape == shape), None)
        block.output = turned(own) if outputs and own is not None else None
        if early is not None and len(blocks) == len(modules):
            passed, _ = output_of(blocks[early]), output_of(block)  # the head reads an earlier block
        elif position_axis != 1 and block.output is not None:
            passed = block.output
        else:
            return None
        state = turned(passed)
        return replaced(output, own, state)

    with ExitStack() as hooks:
        for module in dict.fromkeys(modules):  # a block that is called several times is hooked once
            hooks.callback(module.register_forward_pre_hook(enter, with_kwargs=True).remove)
            hooks.callback(module.register_forward_hook(leave).remove)
        yield


def flat(values: Any) -> Iterator[Tensor]:
    """The tensors in what a module takes or returns: a tensor, or tuples and dictionaries of them, one in another."""
    if isinstance(values, Tensor):
        yield values
    elif isinstance(values, (tuple, list, dict)):
        for value in values.values() if isinstance(values, dict) else values:
            yield from flat(value)


def replaced(values: Any, own: Tensor | None, state: Tensor) -> Any:
    """What a module returns, with one tensor in place of another."""
    if values is own:
        return state
    if isinstance(values, (tuple, list)):
        return type(values)(replaced(value, own, state) for value in values)
    if isinstance(values, dict):
        made = copy(values)
        for name, value in values.items():
            made[name] = replaced(value, own, state)
        return made
    return values


def rebind(own: Tensor, state: Tensor) -> bool:
    """Make the model's own tensor, wherever the model holds it, one that is computed from `state`; whether that can be done.

    Views that were made of it before follow it. A view that was made without gradient cannot be written to with one: there
    the object gets another tensor, which its base does not notice.
    """
    if own.shape != state.shape or own.is_inference() or type(own) is not Tensor:
        return False
    with torch._C.DisableTorchFunction():
        try:
            if own._is_view():
                torch.utils.swap_tensors(own, state.to(own, copy=True))  # type: ignore[no-untyped-call]
            else:
                own.copy_(state)
        except RuntimeError:  # something else in torch holds the view
            return False
    return True


def hidden_state(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[int | str, Tensor]:
    """The first floating point tensor `[B, T, D]` among a block's arguments, or else one with a grid, and its place."""
    places: list[tuple[int | str, Any]] = [*enumerate(args), *kwargs.items()]
    for axes in (3, 4):
        for place, value in places:
            if isinstance(value, Tensor) and value.is_floating_point() and value.dim() == axes:
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

"""The forward pass, watched: hooks on the blocks note their input and output.

Mode, hooks, training flags and random state are put back whatever happens.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import CaptureError
from .attention import Call


@dataclass
class Block:
    """What was seen of one call of a block."""

    input: Tensor
    output: Tensor | None = None
    attention: list[Call | Tensor] = field(default_factory=list)


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
        parts = (output,) if isinstance(output, Tensor) else tuple(output)
        # A block may return its attention weights as well, in front or behind.
        alike = (part for part in parts if isinstance(part, Tensor) and part.shape == block.input.shape)
        block.output = next(alike, None)
        if early is None or len(blocks) < len(modules):
            return None
        state, own = output_of(blocks[early]), output_of(block)  # the head reads an earlier block
        return state if isinstance(output, Tensor) else type(output)(state if part is own else part for part in parts)

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

"""An encoder with a decoder: two sequences, and what the decoder reads of the first.

The blocks of the encoder come first, those of the decoder after them. Each block of the decoder reads the encoder's output, its
memory, once more; so that it is known which part of the gradient reaches the memory through which block, each reads a node of
its own in a chain:

    memory -> m_1 -> m_2 -> ... -> m_D -> m_{D+1},      block j reads m_j

The gradient at m_j is then what comes through the blocks from j on; at m_{D+1} it is nothing.

What is read need not come from blocks that are watched: of words that read what a tower has seen, states of several layers put
together, the memory itself is where differentiation begins.

An encoder may itself read what another one has made, as a question that reads a picture, and whose states the answer reads. Then
there are three sequences, and a chain for each that is read.

Where two encoders read nothing of each other, and blocks behind them read both in one sequence, there is no
memory: see `Meeting`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import CaptureError
from .blocks import with_state

Place = int | str
"""An argument of a block: the number of a positional one, or a name."""


@dataclass(frozen=True)
class Streams:
    """How a model's two sequences go through its blocks.

    Args:
        encoder: how many blocks are the encoder's, 0 if what is read comes from something else; all others are the decoder's.
        places: for each block of the decoder the argument that is the memory.
        own: for each block of the decoder which of the attention calls within it is over what was written before, None if none
            is; empty if it is not known which is over what.
        cross: the same for the call over the memory.
        shift: where both read the same text, the position of the decoder that reads a token, less the token's own.
        causal: whether a token of the decoder sees only those before it.
        before: where the encoder's blocks are again those of two sequences, of which one reads the other: how these go.
    """

    encoder: int
    places: tuple[Place, ...]
    own: tuple[int | None, ...]
    cross: tuple[int | None, ...]
    shift: int = 0
    causal: bool = True
    before: Streams | None = None

    @property
    def apart(self) -> str:
        """Why there is no attention matrix over all tokens, in words."""
        if self.encoder:
            return "an encoder and a decoder attend each on its own"
        return "words attend to words, and in some blocks to what they read of a picture"

    @property
    def starts(self) -> tuple[int, ...]:
        """The blocks at which a sequence begins."""
        return tuple(dict.fromkeys([*((0,) if self.before is None else self.before.starts), self.encoder]))

    @property
    def weighs(self) -> bool:
        """Whether it is known which tokens attend to which."""
        return bool(self.cross)

    def attends_alone(self, block: int) -> bool:
        """Whether a block's attention is over its own sequence and over nothing else."""
        return block < self.encoder

    def behind(self, count: int) -> Streams:
        """The same with so many more blocks in front."""
        before = None if self.before is None else self.before.behind(count)
        return replace(self, encoder=self.encoder + count, before=before)


@dataclass(frozen=True)
class Meeting(Streams):
    """Two encoders that read nothing of each other, and blocks behind them whose one sequence is what both have made.

    `encoder` counts the blocks of the encoder that is called first, and no block is given a memory.

    Args:
        second: how many blocks are the other encoder's; all behind these read both.
        lead: how many tokens of its own the sequence of both begins with.
        turned: whether the first encoder's tokens stand there behind the second's.
    """

    second: int = 0
    lead: int = 0
    turned: bool = False

    @property
    def apart(self) -> str:
        """As `Streams`."""
        return "two encoders attend each on its own before the blocks that read both"

    @property
    def weighs(self) -> bool:
        """True."""
        return True

    def attends_alone(self, block: int) -> bool:
        """True."""
        return True


@contextmanager
def remembered(
    modules: Sequence[nn.Module],
    streams: Streams | None,
    memory: list[Tensor],
    position_axis: int = 1,
    batch: int | None = None,
    first: Callable[[Tensor], Tensor] | None = None,
) -> Iterator[None]:
    """Each block of the decoder reads a node of its own; the D + 1 nodes, `[B, S, D]`, are put into `memory`, behind those of
    an encoder that reads another sequence.

    Args:
        modules: all blocks.
        streams: which are the decoder's; None if there is no decoder. Of a `Meeting` there is no memory.
        memory: where the nodes are noted.
        position_axis: of the model's states; see `attcat.model.Adapter`.
        batch: B, where the model may hold the memory of an example in several rows, as one for each tile of a picture.
        first: where no block makes the memory, what it is replaced by: a leaf, e.g.

    Raises:
        CaptureError: if a block is not given the memory.
    """
    if streams is None or not streams.places:
        yield
        return
    decoder = list(modules[streams.encoder :])
    given: list[Tensor] = []

    def enter(
        module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        place = streams.places[len(given)] if len(given) < len(streams.places) else None
        state = memory_of(args, kwargs, place)
        if state is None or (given and state is not given[0]):
            raise CaptureError(
                f"block {streams.encoder + len(given)} was called without the encoder's output that the decoder's first block "
                "reads"
            )
        assert place is not None
        given.append(state)
        with torch._C.DisableTorchFunction():
            own = state.transpose(1, position_axis)
            if len(given) == 1:
                flat = own if batch is None else own.reshape(batch, -1, own.shape[-1])
                memory.append(flat if first is None else first(flat))
            memory.append(memory[-1].view_as(memory[-1]))
            read = memory[-2].reshape(own.shape).transpose(1, position_axis)
        return with_state(place, read, args, kwargs)

    with ExitStack() as hooks:
        hooks.enter_context(remembered(modules[: streams.encoder], streams.before, memory, position_axis))
        for module in dict.fromkeys(decoder):
            hooks.callback(module.register_forward_pre_hook(enter, with_kwargs=True).remove)
        yield


def memory_of(args: tuple[Any, ...], kwargs: dict[str, Any], place: Place | None) -> Tensor | None:
    """The tensor at a place among a block's arguments; None if there is none."""
    value = None if place is None else dict([*enumerate(args), *kwargs.items()]).get(place)
    return value if isinstance(value, Tensor) else None

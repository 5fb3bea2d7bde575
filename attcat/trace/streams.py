"""The hidden states of an encoder with a decoder, as one state over all tokens for each block.

While one sequence goes through a block, the other one rests, and its state stays what it is. So every block cuts the forward
pass in two, and what lies at the cut is all that the prediction depends on:

    a block of the encoder: what it takes,               and the embeddings of the decoder
    a block of the decoder: the memory that is yet to be read, and what it takes

Where the memory is made by no blocks that are watched, as of words that read a picture's states, only the latter are there.
Gradient times state at any cut adds up to what is explained, as far as the gradient rule is complete.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..capture.attention import Call, Seen, counting
from ..capture.blocks import Block, output_of
from ..capture.streams import Streams
from ..errors import CaptureError
from .values import Hidden


@dataclass(frozen=True)
class Cuts:
    """What lies at the cut of each block.

    Args:
        streams: the blocks of either sequence.
        memory: the nodes that the decoder's blocks read, and a last one that nothing reads; see `attcat.capture.streams`.
        source: S, how many positions the encoder has.
        shared: whether both sequences are the same text, so that a token has a state in each.
    """

    streams: Streams
    memory: tuple[Tensor, ...]
    source: int
    shared: bool

    def wanted(self, blocks: Sequence[Block], hidden: Hidden) -> tuple[Tensor, ...]:
        """What is differentiated with respect to: the states of all blocks, the decoder's embeddings, and the memory."""
        states = tuple(block.input if hidden == "input" else output_of(block) for block in blocks)
        rest = self.memory[:-1] if hidden == "input" else self.memory[1:]
        return (*states, blocks[self.streams.encoder].input, *rest)

    def joined(self, tensors: Sequence[Tensor], mask: Tensor) -> tuple[Tensor, ...]:
        """For each block the state over all tokens `[B, T, D]`, from what `wanted` gave, or its gradients.

        Args:
            tensors: of the blocks, the decoder's embeddings and the memory.
            mask: real tokens, `[B, T]`.
        """
        encoder, count = self.streams.encoder, len(self.streams.places)
        first, second, resting = tensors[:encoder], tensors[encoder : encoder + count], tensors[encoder + count]
        memory = tensors[encoder + count + 1 :]
        pairs = [(state, resting) for state in first] + list(zip(memory, second, strict=True))
        return tuple(self._together(*pair, mask) for pair in pairs)

    def _together(self, source: Tensor, target: Tensor, mask: Tensor) -> Tensor:
        source = source[:, : self.source]  # some encoders pad their sequence, which no one reads
        if self.shared:  # a token's features in both
            return torch.cat([source, self._by_token(target, mask)], -1)
        width = max(source.shape[-1], target.shape[-1])
        return torch.cat([_widened(source, width), _widened(target, width)], 1)

    def _by_token(self, values: Tensor, mask: Tensor) -> Tensor:
        """Of the decoder's positions `[B, A, ...]` for each token the one that reads it."""
        places = self._places(mask)
        return values.gather(1, places.view(*places.shape, *(1,) * (values.dim() - 2)).expand(values.shape))

    def _places(self, mask: Tensor) -> Tensor:
        """int64 `[B, T]`: where the decoder reads a token. Its start token, which stands before the text, is the last token's."""
        lengths = mask.sum(-1, keepdim=True)
        own = torch.arange(mask.shape[1], device=mask.device).expand(mask.shape)
        return torch.where(own < lengths, (own + self.streams.shift) % lengths, own)

    def split(self, states: Tensor, mask: Tensor, widths: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """The states of either sequence, from what `joined` makes of them."""
        first, second = widths
        if not self.shared:
            return states[:, : self.source, :first], states[:, self.source :, :second]
        target = states[..., first:]
        places = self._places(mask)[..., None].expand(target.shape)
        return states[..., :first], torch.zeros_like(target).scatter(1, places, target)

    def received(
        self,
        blocks: Sequence[Block],
        mask: Tensor,
        query_weights: Tensor,
        attention: Sequence[Seen | None],
        measured: Callable[[Seen, Tensor, Sequence[int]], Tensor],
    ) -> tuple[Tensor, ...]:
        """Per block, the attention that each token receives, `[B, T]`.

        In the encoder it is that from all tokens of the source; in the decoder it is for tokens of the source the attention over
        the memory, for those of the decoder the attention over what was written before. A token that rests receives none; one
        that stands in both sequences receives the sum.

        Args:
            blocks: all blocks.
            mask: real tokens, `[B, T]`, or for several rows of one example `[N, T]`.
            query_weights: of the decoder's queries, `[B, T]` or `[N, T]`.
            attention: of each block of the encoder its attention; None if it does not attend over all of the source.
            measured: from an attention, the weights of queries `[B, Q]` and which queries count to `[B, K]`.
        """
        if len(self.streams.cross) != len(self.streams.places):
            raise CaptureError(
                "the attention of the decoder's blocks was not seen as one call over its own tokens and one over the source: use "
                "a method that weighs by none, as cat or input_x_gradient"
            )
        weights = _normalised(query_weights if self.shared else query_weights[:, self.source :])
        real = mask[:, : self.source]
        uniform = _normalised(real.to(weights.dtype))
        sources, targets = counting(uniform), counting(weights)
        nothing = torch.zeros_like(query_weights[:, self.source :])  # of tokens that rest
        found = []
        for index, block in enumerate(blocks):
            number = index - self.streams.encoder
            if number < 0:
                seen = attention[index]
                pair = torch.zeros_like(uniform) if seen is None else measured(seen, uniform, sources), nothing
            else:
                length = len(block.input[0])
                own = self._call(index, block, self.streams.own, number, length)
                cross = self._call(index, block, self.streams.cross, number, self.source)
                pair = (
                    torch.zeros_like(uniform) if cross is None else measured(cross, weights, targets),
                    nothing if own is None else measured(own, weights, targets),
                )
            found.append(self._by_sum(*pair, mask) if self.shared else torch.cat(pair, 1))
        return tuple(found)

    def _by_sum(self, source: Tensor, target: Tensor, mask: Tensor) -> Tensor:
        return source if target.shape[1] == 0 else source + self._by_token(target, mask)

    def _call(
        self, index: int, block: Block, places: Sequence[int | None], number: int, keys: int
    ) -> Call | Tensor | None:
        """One of the attention calls of a decoder's block, which are one or two; None if it does not attend so."""
        place, expected = places[number], (self.streams.own[number], self.streams.cross[number])
        if place is None:
            return None
        seen = [a for a in block.attention if isinstance(a, Call)] or block.attention
        often = len(expected) - expected.count(None)
        if len(seen) != often or tuple(seen[place].shape)[2:] != (block.input.shape[1], keys):
            shapes = ", ".join(str(tuple(a.shape)) for a in seen) or "none"
            over = (f"{block.input.shape[1]} tokens of its own", f"{self.source} of the source")
            told = " and ".join(part for part, at in zip(over, expected, strict=True) if at is not None)
            raise CaptureError(
                f"block {index} of the decoder was expected to attend {('once', 'twice')[often - 1]}, over {told}; the attention "
                f"matrices that were seen are {shapes}"
            )
        return seen[place]


def _widened(states: Tensor, width: int) -> Tensor:
    """With further features of 0, where one sequence is narrower than the other."""
    return states if states.shape[-1] == width else torch.nn.functional.pad(states, (0, width - states.shape[-1]))


def _normalised(weights: Tensor) -> Tensor:
    return weights / weights.sum(-1, keepdim=True)

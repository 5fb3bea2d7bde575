"""The hidden states of an encoder with a decoder, as one state over all tokens for each block.

While one sequence goes through a block, the other one rests, and its state stays what it is. So every block cuts the forward
pass in two, and what lies at the cut is all that the prediction depends on:

    a block of the encoder: what it takes,               and the embeddings of the decoder
    a block of the decoder: the memory that is yet to be read, and what it takes

Where the memory is made by no blocks that are watched, as of words that read a picture's states, only the latter are there.
Gradient times state at any cut adds up to what is explained, as far as the gradient rule is complete.

Where the encoder's blocks are again those of two sequences, as a picture and a question that reads it, its states at each cut are
found in the same way. At the decoder's blocks nothing reads the first of them any more, and its tokens have no state: all that is
left of the picture is in the question.

Where two encoders read nothing of each other, and blocks behind them read both in one sequence, see `Met`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import pad

from ..capture.attention import Call, Seen, counting
from ..capture.blocks import Block, output_of
from ..capture.streams import Meeting, Streams
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
        before: the same of an encoder that reads another sequence.
    """

    streams: Streams
    memory: tuple[Tensor, ...]
    source: int
    shared: bool
    before: Cuts | None = None

    @classmethod
    def of(cls, streams: Streams, memory: Sequence[Tensor], source: int, shared: bool) -> Cuts:
        """From the nodes of all sequences, those of the first one first; see `attcat.capture.streams.remembered`."""
        own = len(memory) - len(streams.places) - 1
        before = None
        if streams.before is not None:
            before = cls.of(streams.before, memory[:own], memory[0].shape[1], False)
        return cls(streams, tuple(memory[own:]), source, shared, before)

    @property
    def every(self) -> tuple[Cuts, ...]:
        """Those of the encoder, and these."""
        return (*(() if self.before is None else self.before.every), self)

    @property
    def unread(self) -> int:
        """How many positions of the source the decoder does not read: those of a sequence that the encoder has read."""
        return 0 if self.before is None else self.before.source

    def wanted(self, blocks: Sequence[Block], hidden: Hidden) -> tuple[Tensor, ...]:
        """What is differentiated with respect to: the states of all blocks, and of each pair of sequences the embeddings of the
        second one, and the memory."""
        found = [block.input if hidden == "input" else output_of(block) for block in blocks]
        for cuts in self.every:
            found += [blocks[cuts.streams.encoder].input, *(cuts.memory[:-1] if hidden == "input" else cuts.memory[1:])]
        return tuple(found)

    def joined(self, tensors: Sequence[Tensor], mask: Tensor) -> tuple[Tensor, ...]:
        """For each block the state over all tokens `[B, T, D]`, from what `wanted` gave, or its gradients.

        Args:
            tensors: of the blocks, and for each pair of sequences the embeddings and the memory.
            mask: real tokens, `[B, T]`.
        """
        encoder, count = self.streams.encoder, len(self.streams.places)
        first, second = tensors[:encoder], tensors[encoder : encoder + count]
        resting, memory = tensors[-count - 1], tensors[len(tensors) - count :]
        if self.before is not None:
            first = self.before.joined((*first, *tensors[encoder + count : -count - 1]), mask[:, : self.source])
            memory = [pad(state, (0, 0, self.unread, 0)) for state in memory]
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

    def begun(self, states: Tensor, mask: Tensor, begun: Sequence[Tensor], state: Tensor) -> Tensor:
        """Of states over all tokens those of the sequence that begins.

        Args:
            states: `[B, T, D]`.
            mask: real tokens, `[B, T]`.
            begun: the states with which others have begun.
            state: that with which this one does, of which it has the shape.
        """
        if len(begun) == len(self.streams.starts) - 1:
            width = begun[0].shape[-1] if begun else state.shape[-1]
            return self.split(states, mask, (width, state.shape[-1]))[1]
        source, _ = self.split(states, mask, (state.shape[-1], 0))
        start = sum(each.shape[1] for each in begun)  # of two sequences that a decoder reads
        return source[:, start : start + state.shape[1]]

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
        that stands in both sequences receives the sum. Of an encoder that reads another sequence it is found in the same way.

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
        first = self.streams.encoder
        if self.before is not None:
            within: Sequence[Tensor] = self.before.received(blocks[:first], real, uniform, attention[:first], measured)
        else:
            within = [
                torch.zeros_like(uniform) if seen is None else measured(seen, uniform, sources)
                for seen in attention[:first]
            ]
        pairs = [(each, nothing) for each in within]
        for number, block in enumerate(blocks[first:]):
            own = self._call(block, self.streams.own, number, len(block.input[0]))
            cross = self._call(block, self.streams.cross, number, self.source - self.unread)
            read = uniform * 0 if cross is None else pad(measured(cross, weights, targets), (self.unread, 0))
            pairs.append((read, nothing if own is None else measured(own, weights, targets)))
        return tuple(self._by_sum(*pair, mask) if self.shared else torch.cat(pair, 1) for pair in pairs)

    def _by_sum(self, source: Tensor, target: Tensor, mask: Tensor) -> Tensor:
        return source if target.shape[1] == 0 else source + self._by_token(target, mask)

    def _call(self, block: Block, places: Sequence[int | None], number: int, keys: int) -> Call | Tensor | None:
        """One of the attention calls of a decoder's block, which are one or two; None if it does not attend so."""
        place, expected = places[number], (self.streams.own[number], self.streams.cross[number])
        if place is None:
            return None
        seen = [a for a in block.attention if isinstance(a, Call)] or block.attention
        often = len(expected) - expected.count(None)
        if len(seen) != often or tuple(seen[place].shape)[2:] != (block.input.shape[1], keys):
            shapes = ", ".join(str(tuple(a.shape)) for a in seen) or "none"
            over = (f"{block.input.shape[1]} tokens of its own", f"{self.source - self.unread} of the source")
            told = " and ".join(part for part, at in zip(over, expected, strict=True) if at is not None)
            raise CaptureError(
                f"block {self.streams.encoder + number} of the decoder was expected to attend {('once', 'twice')[often - 1]}, "
                f"over {told}; the attention matrices that were seen are {shapes}"
            )
        return seen[place]


@dataclass(frozen=True)
class Met(Cuts):
    """What lies at the cut of each block, where two encoders meet.

    Neither reads anything of the other, so that a state of the one with any state of the other is a cut. They are read side by
    side: with what a block takes lies what the block of the other encoder takes that is as deep in it. So it makes no difference
    which of them the model calls first. The tokens stand as the blocks of both have them; what these put in front of their own is
    not there before.
    """

    streams: Meeting

    @property
    def pairs(self) -> list[tuple[int, int]]:
        """For each block of the encoders the block of the first and that of the second whose states lie at its cut, the deeper
        ones last."""
        one, other = self.streams.encoder, self.streams.second
        of_first = [(index, one + index * other // one) for index in range(one)]
        of_second = [(index * one // other, one + index) for index in range(other)]
        return sorted(of_first + of_second, key=lambda pair: pair[0] / one + (pair[1] - one) / other)

    def wanted(self, blocks: Sequence[Block], hidden: Hidden) -> tuple[Tensor, ...]:
        """The states of all blocks."""
        return tuple(block.input if hidden == "input" else output_of(block) for block in blocks)

    def joined(self, tensors: Sequence[Tensor], mask: Tensor) -> tuple[Tensor, ...]:
        """As `Cuts`."""
        within = [self._beside(tensors[one], tensors[other]) for one, other in self.pairs]
        return (*within, *tensors[len(within) :])

    def _beside(self, first: Tensor, second: Tensor) -> Tensor:
        """As they stand where they meet, with nothing for the tokens in front, `[B, T, ...]`."""
        if first.dim() == 3:
            width = max(first.shape[-1], second.shape[-1])
            first, second = _widened(first, width), _widened(second, width)
        both = torch.cat([second, first] if self.streams.turned else [first, second], 1)
        return pad(both, (*(0, 0) * (both.dim() - 2), self.streams.lead, 0))

    def begun(self, states: Tensor, mask: Tensor, begun: Sequence[Tensor], state: Tensor) -> Tensor:
        """As `Cuts`: those in front, or those behind."""
        count, width = state.shape[1:]
        front = bool(begun) == self.streams.turned
        start = self.streams.lead if front else states.shape[1] - count
        return states[:, start : start + count, :width]

    def received(
        self,
        blocks: Sequence[Block],
        mask: Tensor,
        query_weights: Tensor,
        attention: Sequence[Seen | None],
        measured: Callable[[Seen, Tensor, Sequence[int]], Tensor],
    ) -> tuple[Tensor, ...]:
        """As `Cuts`: in an encoder that from all of its tokens."""
        both, found = self.streams.encoder + self.streams.second, list[Tensor]()
        for index, (block, seen) in enumerate(zip(blocks, attention, strict=True)):
            count = block.input.shape[1]
            even = query_weights.new_full((len(query_weights), count), 1 / count)
            weights = even if index < both else query_weights
            found.append(torch.zeros_like(weights) if seen is None else measured(seen, weights, counting(weights)))
        return self.joined(found, mask)


def cuts_in(streams: Streams) -> type[Cuts]:
    """What finds the states at the cuts of such sequences."""
    return Met if isinstance(streams, Meeting) else Cuts


def _widened(states: Tensor, width: int) -> Tensor:
    """With further features of 0, where one sequence is narrower than the other."""
    return states if states.shape[-1] == width else pad(states, (0, width - states.shape[-1]))


def _normalised(weights: Tensor) -> Tensor:
    return weights / weights.sum(-1, keepdim=True)

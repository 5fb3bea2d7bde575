"""A picture and a text, each read by an encoder of its own, and blocks behind these that read what both have made (FLAVA).

How the two lines of blocks meet is found by disturbing single states that they pass on: each has to be seen at one place of the
sequence of both. The tokens are those of this sequence: tokens of its own, patches and words as they stand there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ...capture.blocks import flat, replaced
from ...capture.randomness import OwnRandomness
from ...capture.streams import Meeting
from ...capture.survey import Survey, Visit, between
from ...tokens import Tokens
from ..bound import borrowed
from ..encoding import Encoding
from ..writing import numbered
from .base import Found
from .experiments import ordinary_tokens, rounding, stopped_before, until_stopped
from .matching import DiscoveredMatching
from .mixed import lines_of
from .text import LENGTH


class DiscoveredMeeting(DiscoveredMatching):
    """Blocks that read what an encoder of pictures and one of words have made, and classes of both."""

    family = "discovered model whose encoders of pictures and words meet"
    words_first = False
    """Whether the words stand before the patches."""
    sees_first = True
    """Whether the pictures' encoder is called first."""
    eye_sees: tuple[int, int]
    """How many tokens the pictures' encoder has for the picture that was tried, and how wide their states are."""

    # -- found by experiment -----------------------------------------------------------------------------------------

    def _tried(self, count: int) -> Tensor:
        """Ordinary tokens: nothing is written here, so that there is no start token, `[1, 1 + count]`."""
        return ordinary_tokens(self, LENGTH + count)[LENGTH - 1 :][: 1 + count][None]

    def _watch(self, encoding: Encoding) -> Survey:
        self.unnamed = encoding
        return super()._watch(encoding)

    def _blocks_in(self, watched: Survey) -> Found:
        """Three lists of blocks, of which the last one reads both others.

        Raises:
            UnsupportedModelError: if there are others, or it is not clear how they meet.
        """
        lines = lines_of(watched)
        if len(lines) != 3:
            raise self._unclear(
                f"its words and its picture go through {len(lines)} lists of blocks, and not through one of each and one of both",
                hopeless=True,
            )
        if stands := [kind for line in lines for kind in between(watched, line)]:
            raise self._unclear(f"between its blocks stand {', '.join(stands)}", hopeless=True)
        every = [visit for line in lines for visit in line]
        if any(visit.position_axis != 1 for visit in every):
            raise self._unclear("its states do not have the batch in front of the positions", hopeless=True)
        names = tuple(visit.name for visit in every)
        kinds = tuple(type(visit.module).__name__ for visit in every)
        state = every[0].state
        assert state is not None
        self.found = Found(names, kinds, state.shape[2], lines[-1][0].length, (), (True,) * len(every))
        self.streams = self._meets(*lines)
        del self.unnamed
        return self.found

    def _meets(self, first: list[Visit], second: list[Visit], both: list[Visit]) -> Meeting:
        """How the lines of two encoders meet.

        Raises:
            UnsupportedModelError: if what reads both does not have the tokens of the one behind those of the other.
        """
        self.sees_first = self._seen_by(first[0], second[0])
        eye = (first if self.sees_first else second)[0]
        assert eye.state is not None
        self.eye_sees = eye.length, eye.state.shape[2]
        starts = [self._start(line[-1], both[0]) for line in (first, second)]
        lengths = [line[0].length for line in (first, second)]
        lead = min(starts)
        if max(starts) - lead != lengths[starts.index(lead)] or lead + sum(lengths) != both[0].length:
            raise self._unclear(
                f"{both[0].name} reads {both[0].length} tokens, which are not those of its two encoders, {lengths[0]} and "
                f"{lengths[1]}, one behind the other",
                hopeless=True,
            )
        turned = starts[0] > starts[1]
        self.words_first = self.sees_first == turned
        return Meeting(len(first), (), (), (), causal=False, second=len(second), lead=lead, turned=turned)

    def _sensed(self) -> Found:
        """Of the pictures' encoder and what follows it."""
        found = self.found if self.sees_first else self.found.since(self._meeting.encoder)
        length, width = self.eye_sees
        return replace(found, length=length, width=width)

    @property
    def _meeting(self) -> Meeting:
        assert isinstance(self.streams, Meeting)
        return self.streams

    def _seen_by(self, first: Visit, second: Visit) -> bool:
        """Whether the encoder that is called first reads the picture, and the other one the words.

        Raises:
            UnsupportedModelError: if neither reads the picture alone.
        """
        given = self.unnamed.arguments
        pixels = {"pixel_values": given["pixel_values"].flip(-1) * 0.5 + 0.3}
        words = {"decoder_input_ids": given["decoder_input_ids"].flip(-1)}
        moved = [
            [
                _differs(self._taken(visit, self.unnamed), self._taken(visit, self._other(change)))
                for change in (pixels, words)
            ]
            for visit in (first, second)
        ]
        if moved not in ([[True, False], [False, True]], [[False, True], [True, False]]):
            raise self._unclear(
                f"of {first.name} and {second.name} not one reads the picture alone and the other one the words",
                hopeless=True,
            )
        return moved[0][0]

    def _other(self, change: Mapping[str, Tensor]) -> Encoding:
        return replace(self.unnamed, arguments={**self.unnamed.arguments, **change})

    def _taken(self, visit: Visit, encoding: Encoding, last: Visit | None = None, place: int = 0) -> Tensor:
        """What a block takes, `[1, T, D]`; also if another one passes on another state at some place."""
        with borrowed(self) as own, torch.no_grad(), OwnRandomness(), ExitStack() as undo:
            if last is not None:
                block = own.model.get_submodule(last.name)
                undo.callback(block.register_forward_hook(partial(_disturbed, place)).remove)
            seen = undo.enter_context(stopped_before(own.model.get_submodule(visit.name)))
            until_stopped(partial(own.call, encoding))
        return seen[0]

    def _start(self, last: Visit, both: Visit) -> int:
        """Where the first of an encoder's tokens stands among those of both.

        Raises:
            UnsupportedModelError: if single states that its last block passes on are not seen at single places, in order.
        """
        plain, found = self._taken(both, self.unnamed), list[int]()
        for place in sorted({0, last.length // 2, last.length - 1}):
            changed = (self._taken(both, self.unnamed, last, place) - plain)[0].abs().amax(-1)
            where = (changed > rounding(plain) * plain.abs().max()).nonzero().flatten().tolist()
            found.append(where[0] - place if len(where) == 1 else -1)
        if len(set(found)) != 1 or found[0] < 0:
            raise self._unclear(
                f"what {last.name} passes on for one token is not what {both.name} takes at one place", hopeless=True
            )
        return found[0]

    def _check_written(self, trial: Encoding) -> None:
        """What the words' first block takes at a position has to be that position's token alone."""
        first = self._meeting.encoder if self.sees_first else 0
        self._check_alone(trial, "decoder_input_ids", "text", first)

    def _why_no_batch(self) -> str | None:
        return "it reads a picture with a text"

    @property
    def _tokens_found(self) -> str:
        meeting, kinds = self._meeting, ("pictures'", "words'")
        one, other = kinds if self.sees_first else kinds[::-1]
        order = "the words before the patches" if self.words_first else "the patches before the words"
        own = f"{meeting.lead} of its own, then " if meeting.lead else ""
        read = "the first token" if self.reads == "first" else "all tokens"
        return (
            f"the first {meeting.encoder} are the {one}, the next {meeting.second} the {other}, and the others read what both "
            f"have made: {own}{order}; {self.sense.where}; its head reads {read}; it takes one picture with a text at a time"
        )

    # -- as other adapters -------------------------------------------------------------------------------------------

    def named(self, ids: Sequence[int]) -> Tokens:
        """Without characters."""
        return numbered(self, list(ids))

    def followed(self, encoding: Encoding, ids: Sequence[int], tokens: Tokens | None = None) -> Encoding:
        """A picture and a text, with their tokens as they stand where they meet."""
        made = super().followed(encoding, ids, tokens)
        total, patches, lead = made.mask.shape[1], made.offset, self._meeting.lead
        order = [*range(patches, total), *range(patches)] if self.words_first else range(total)
        mask = torch.ones(1, lead + total, dtype=torch.bool, device=made.mask.device)
        named = _ordered(made.tokens[0], order, [f"[own {number}]" for number in range(1, lead + 1)])
        return replace(made, mask=mask, tokens=(named,), offset=0)

    def remove(self, encoding: Encoding, removed: Tensor | None = None, how: str | None = None) -> Encoding:
        """What takes the place of patches and of words in their encoders."""
        how, lead = self.removal(how), self._meeting.lead
        if removed is None:
            removed = ~torch.tensor([tokens.special for tokens in encoding.tokens], device=encoding.mask.device)
        ids = encoding.arguments["decoder_input_ids"]
        count = ids.shape[1] if self.words_first else removed.shape[1] - lead - ids.shape[1]
        parts = removed[:, lead : lead + count], removed[:, lead + count :]
        words, patches = parts if self.words_first else parts[::-1]
        changed = self.sense.remove(encoding, patches, self.sense.lost)
        token = self.blank_token if how == "mask" else self.pad_token
        return replace(changed, arguments={**changed.arguments, "decoder_input_ids": ids.masked_fill(words, token)})


def _disturbed(place: int, module: nn.Module, args: Any, output: Any) -> Any:
    """What a block returns, with another state at one place."""
    passed = next(part for part in flat(output) if part.is_floating_point() and part.dim() == 3)
    state = passed.clone()
    push = torch.linspace(-3, 3, state.shape[-1], device=state.device, dtype=state.dtype)
    state[:, place] += push * state.float().std().clamp(min=1e-3).to(state.dtype)
    return replaced(output, passed, state)


def _differs(one: Tensor, other: Tensor) -> bool:
    return float((one - other).abs().max()) > rounding(one) * float(one.abs().max())


def _ordered(tokens: Tokens, order: Sequence[int], front: Sequence[str]) -> Tokens:
    """In another order, behind special ones that stand for nothing."""

    def moved(values: tuple[Any, ...] | None) -> tuple[Any, ...] | None:
        return None if values is None else (*[None] * len(front), *(values[at] for at in order))

    return replace(
        tokens,
        labels=(*front, *(tokens.labels[at] for at in order)),
        special=(*[True] * len(front), *(tokens.special[at] for at in order)),
        spans=moved(tokens.spans),
        segments=moved(tokens.segments),
        words=moved(tokens.words),
        places=moved(tokens.places),
    )

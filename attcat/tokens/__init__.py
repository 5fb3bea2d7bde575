"""What the positions of a token sequence stand for.

A score is worthless without the word, the pixels or the moment that it belongs to. `Tokens` carries that knowledge from the
adapter, which makes it, to the code that draws or measures, and is checked once, here. Moments of a sound are in `times`,
frames of a video in `frames`, patches among words in `interleaved`.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import compress
from typing import Any

from .. import plain
from .frames import Frames, check_frames, group_of
from .interleaved import Asked, Interleaved, Patches, Place, Shares, check_place, check_places, on_one_grid
from .times import Segment, Time, Waveform, check_time, group_times
from .view import MAX_PIXELS, View, cell_of, check_size

Span = tuple[int, int]
"""Half-open range of characters `[start, end)` in the original string."""

__all__ = [
    "MAX_PIXELS",
    "Asked",
    "Frames",
    "Interleaved",
    "Patches",
    "Place",
    "Segment",
    "Shares",
    "Span",
    "Time",
    "Tokens",
    "View",
    "Waveform",
    "Word",
    "cell_of",
    "check_size",
    "group_of",
    "group_times",
    "group_words",
    "on_one_grid",
    "overlapping",
    "trim",
]


@dataclass(frozen=True)
class Tokens:
    """The tokens of one example, without padding, in the order in which the model sees them.

    Args:
        labels: one string per token: the piece of text, `[CLS]`, or `row,column` of a patch.
        special: True for tokens that stand for no part of the input (class, separator, register tokens).
        spans: for a text, the characters of each token in its original string; None where a token has none.
        segments: for a text, which of the input strings a token belongs to (0, or 1 for the second of a pair).
        words: for a text, the tokenizer's own word number within the segment, shared by the pieces of a word.
        grid: for an image, `(rows, columns)`; the tokens that are not special fill it row by row. For a video, the grid of
            each group of frames, one group after another.
        view: for an image or the frames of a video, how the grid lies on the original picture.
        times: for a sound, the seconds that each token stands for; None where it stands for none.
        bands: for a sound, the band of frequencies `(lowest, one past the highest)` of each token, as numbers of the filters of
            the model's own spectrogram.
        frames: for a video, the frames of each group.
        patches: for words and pictures in one sequence, the grids of the pictures' tokens.
        places: in such a sequence, where each token lies in these grids; None for words and special tokens.

    Raises:
        ValueError: if a field has another type, the lengths disagree, or the grid does not hold the tokens that are not
            special, or is too fine for a heatmap on the picture.
    """

    labels: tuple[str, ...]
    special: tuple[bool, ...]
    spans: tuple[Span | None, ...] | None = None
    segments: tuple[int | None, ...] | None = None
    words: tuple[int | None, ...] | None = None
    grid: tuple[int, int] | None = None
    view: View | None = None
    times: tuple[Time | None, ...] | None = None
    bands: tuple[Span | None, ...] | None = None
    frames: tuple[Frames, ...] | None = None
    patches: tuple[Patches, ...] | None = None
    places: tuple[Place | None, ...] | None = None

    def __post_init__(self) -> None:
        plain.settle(self, _TOKENS)
        for name in ("special", "spans", "segments", "words", "times", "bands", "places"):
            value: Sequence[object] | None = getattr(self, name)
            if value is not None and len(value) != len(self.labels):
                raise ValueError(f"{len(self.labels)} tokens, but {name} has {len(value)} entries")
        if self.grid is not None:
            rows, columns = self.grid
            content, groups = self.special.count(False), 1 if self.frames is None else len(self.frames)
            if rows * columns * groups != content:
                several = f"{groups} times " if self.frames is not None else ""
                raise ValueError(f"{several}a grid of {rows} x {columns} patches does not hold {content} tokens")
            if self.view is not None:
                check_size(self.grid, self.view.height, self.view.width)
        if self.view is not None and self.grid is None:
            raise ValueError("a view says where the grid lies on the picture, but there is no grid")
        if self.frames is not None and self.grid is None:
            raise ValueError("frames are covered by a grid of patches each, but there is no grid")
        if self.bands is not None and self.times is None:
            raise ValueError("bands are those of a sound, but the tokens have no times")
        check_places(self.patches, self.places)
        for patches in self.patches or ():
            if patches.view is not None and patches.grid is not None:
                check_size(patches.grid, patches.view.height, patches.view.width)
        if self.patches is not None and (self.grid is not None or self.times is not None):
            raise ValueError("a sequence of words and patches has grids of its own: leave out grid and times")
        for at, place in enumerate(self.places or ()):
            if place is not None and (self.special[at] or (self.spans is not None and self.spans[at] is not None)):
                raise ValueError(f"token {at} is a patch, so it is neither special nor has it characters")

    def __len__(self) -> int:
        return len(self.labels)

    def kept(self, flags: Sequence[bool]) -> Tokens:
        """Only the tokens that are flagged; a grid does not survive this."""

        def pick(values: tuple[Any, ...] | None) -> tuple[Any, ...] | None:
            return None if values is None else tuple(compress(values, flags))

        return Tokens(
            tuple(compress(self.labels, flags)),
            tuple(compress(self.special, flags)),
            spans=pick(self.spans),
            segments=pick(self.segments),
            words=pick(self.words),
            times=pick(self.times),
            bands=pick(self.bands),
            patches=self.patches,
            places=pick(self.places),
        )


_TOKENS = {
    "labels": plain.tuple_of(plain.text),
    "special": plain.tuple_of(plain.flag),
    "spans": plain.optional(plain.tuple_of(plain.optional(plain.span))),
    "segments": plain.optional(plain.tuple_of(plain.optional(plain.whole()))),
    "words": plain.optional(plain.tuple_of(plain.optional(plain.whole()))),
    "grid": plain.optional(plain.tuple_of(plain.whole(1), 2)),
    "view": plain.optional(plain.a(View)),
    "times": plain.optional(plain.tuple_of(plain.optional(check_time))),
    "bands": plain.optional(plain.tuple_of(plain.optional(plain.span))),
    "frames": plain.optional(check_frames),
    "patches": plain.optional(plain.tuple_of(plain.a(Patches))),
    "places": plain.optional(plain.tuple_of(plain.optional(check_place))),
}


@dataclass(frozen=True)
class Word:
    """A word of the original text and its score, the sum over its pieces.

    Args:
        text: the characters of the original string, `source[start:end]`.
        start: first character.
        end: one past the last character.
        score: summed score of the pieces.
        segment: which of the input strings the word belongs to (1 for the second of a pair).

    Raises:
        ValueError: if a field has another type.
    """

    text: str
    start: int
    end: int
    score: float
    segment: int = 0

    def __post_init__(self) -> None:
        plain.settle(self, _WORD)


_WORD = {
    "text": plain.text,
    "start": plain.whole(),
    "end": plain.whole(),
    "score": plain.real,
    "segment": plain.whole(),
}


def group_words(tokens: Tokens, texts: Sequence[str]) -> list[tuple[int, int, int, list[int]]]:
    """Group the pieces of a text into words by their character offsets.

    Two neighbouring pieces belong to one word when they share the tokenizer's word number and no white space lies
    between them, or when their characters overlap (byte-level tokenizers split one emoji into several tokens, each with
    the span of the whole).

    Returns:
        `(segment, start, end, positions)` per word, in reading order; `start` and `end` without surrounding white space.
    """
    groups: list[tuple[int, int, int, list[int]]] = []
    last_word: int | None = None
    for position in range(len(tokens)):
        span = tokens.spans[position] if tokens.spans else None
        if tokens.special[position] or span is None or span[0] == span[1]:
            continue
        segment = (tokens.segments[position] if tokens.segments else 0) or 0
        word = tokens.words[position] if tokens.words else None
        start, end = trim(texts[segment], span)
        end = _with_marks(texts[segment], end)
        if groups and groups[-1][0] == segment:
            _, first, stop, positions = groups[-1]
            same_word = word is not None and word == last_word and start == stop
            if same_word or start < stop:
                groups[-1] = (segment, min(first, start), max(stop, end), [*positions, position])
                last_word = word
                continue
        groups.append((segment, start, end, [position]))
        last_word = word
    return [group for group in groups if group[1] < group[2]]


def overlapping(tokens: Tokens, place: Span, start: int = 0) -> list[int]:
    """The positions, from `start` on, whose characters (of the only text) have one in common with `place`."""
    spans = enumerate(tokens.spans or ())
    return [at for at, span in spans if at >= start and span and span[0] < place[1] and span[1] > place[0]]


def _with_marks(text: str, end: int) -> int:
    """Move an end behind accents, variation selectors and joiners, which tokenizers drop but which belong to the letter."""
    while end < len(text) and (unicodedata.category(text[end]) in ("Mn", "Me") or text[end] == "\u200d"):
        end += 1
    return end


def trim(text: str, span: Span) -> Span:
    """Drop the white space that byte-level tokenizers count as part of the following word."""
    start, end = span
    while start < end and text[start].isspace():
        start += 1
    while end > start and text[end - 1].isspace():
        end -= 1
    return start, end

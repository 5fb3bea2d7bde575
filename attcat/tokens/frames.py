"""Frames: which frames of a video a grid of patches stands for."""

from __future__ import annotations

from collections.abc import Sequence

from .. import plain

Frames = tuple[int, int]
"""Half-open range of frames `[first, end)`."""


def check_frames(value: object) -> tuple[Frames, ...]:
    """Groups of frames, none of them empty, one after another from the first frame on; a check of `plain`."""
    groups: tuple[Frames, ...] = plain.tuple_of(plain.span)(value)
    ends = [0, *(end for _, end in groups)]
    if not groups or any(first != before or end <= first for (first, end), before in zip(groups, ends, strict=False)):
        raise ValueError(f"got {groups}, expected groups of frames (first, end), one after another, from 0 on")
    return groups


def group_of(groups: Sequence[Frames], frame: int) -> int:
    """The number of the group that holds a frame.

    Raises:
        IndexError: if there is no such frame.
    """
    for number, (first, end) in enumerate(groups):
        if first <= frame < end:
            return number
    raise IndexError(f"no frame {frame}: there are {groups[-1][1]}, counted from 0")

"""Where tokens lie on an input of any number of axes: found by the gradient of a few tokens.

Most models cut their input into equal parts: patches of a spectrogram, tubelets of a video, strides of a waveform. Of such a
lattice a few tokens tell everything: the first, the last along each axis, and two others that have to lie where the rest says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import permutations, product
from math import prod

import numpy as np
import torch
from torch import Tensor

SHARE = 0.1
"""Of the largest gradient along an axis: less is not a part of what a token sees (a norm over time sees a little of all)."""


@dataclass(frozen=True)
class Lattice:
    """Tokens that lie in equal steps on an input.

    Args:
        start: the position of the first of them in the sequence.
        grid: how many there are along each of their own axes, the last one running fastest.
        axes: which axis of the input each of these runs along.
        origin: along each axis of the input, the middle of what the first token sees.
        steps: along each axis of the input, from one token to the next; the whole of it where tokens do not differ.
        size: of the input.
        widths: along each axis of the input, how much a token sees, in steps.
    """

    start: int
    grid: tuple[int, ...]
    axes: tuple[int, ...]
    origin: tuple[float, ...]
    steps: tuple[float, ...]
    size: tuple[int, ...]
    widths: tuple[float, ...] = ()

    def boxes(self, length: int) -> np.ndarray:
        """For each of `length` tokens what it stands for, float `[length, axes, 2]`; NaN for those outside of the lattice."""
        found = np.full((length, len(self.size), 2), np.nan)
        for number, place in enumerate(np.ndindex(*self.grid)):
            for axis, size in enumerate(self.size):
                found[self.start + number, axis] = (0, size)
            for index, axis in zip(place, self.axes, strict=True):
                middle, step = self.origin[axis] + index * self.steps[axis], self.steps[axis]
                found[self.start + number, axis] = (middle - step / 2, middle + step / 2)
        return found


def seen(states: Tensor, given: Tensor, position: int) -> np.ndarray:
    """Along each axis of the input the first and one past the last place that a token sees, float `[axes, 2]`.

    Args:
        states: `[1, T, D]`, computed from `given`.
        given: `[1, ...]`, a leaf.
        position: of the token.
    """
    direction = torch.randn(states.shape[-1], generator=torch.Generator().manual_seed(0)).to(states)
    (gradient,) = torch.autograd.grad(states[0, position] @ direction, given, retain_graph=True, allow_unused=True)
    found = np.full((given.dim() - 1, 2), np.nan)
    if gradient is None:
        return found
    strength = gradient[0].abs().double().cpu().numpy()
    for axis in range(strength.ndim):
        profile = strength.sum(tuple(other for other in range(strength.ndim) if other != axis))
        high = np.flatnonzero(profile > SHARE * profile.max())
        if len(high):
            found[axis] = high[0], high[-1] + 1
    return found


def lattice_of(
    states_of: Callable[[Tensor], Tensor], given: Tensor, grids: Sequence[tuple[int, ...]], fixed: Sequence[int] = ()
) -> Lattice | None:
    """The lattice in which the tokens lie, if it is one of these grids; None otherwise.

    Args:
        states_of: from an input `[1, ...]` to the first block's input `[1, T, D]`.
        given: the input.
        grids: how many tokens there may be along axes of the input; tried in all orders, first those in front.
        fixed: axes of the input along which tokens do not differ, as colours.
    """
    given = given.detach().clone().requires_grad_()
    with torch.enable_grad():
        states = states_of(given)
    fields: dict[int, np.ndarray] = {}

    def field(position: int) -> np.ndarray:
        if position not in fields:
            fields[position] = seen(states, given, position)
        return fields[position]

    size, length = tuple(given.shape[1:]), states.shape[1]
    for start, grid, axes in _candidates(grids, length, [a for a in range(len(size)) if a not in fixed]):
        found = _fitted(field, start, grid, axes, size)
        if found is not None:
            return found
    return None


def _candidates(
    grids: Sequence[tuple[int, ...]], length: int, axes: Sequence[int]
) -> Iterator[tuple[int, tuple[int, ...], tuple[int, ...]]]:
    """Where the first token is, the grid, and along which axes it runs."""
    for grid in grids:
        spare = length - prod(grid)
        if spare < 0:
            continue
        for start in dict.fromkeys((spare, 0, min(1, spare))):
            for order in permutations(range(len(grid))):
                turned = tuple(grid[index] for index in order)
                for along in permutations(axes, len(grid)):
                    yield start, turned, along


def _fitted(
    field: Callable[[int], np.ndarray],
    start: int,
    grid: tuple[int, ...],
    axes: tuple[int, ...],
    size: tuple[int, ...],
) -> Lattice | None:
    """The lattice through the inner tokens along each axis, if others lie on it."""

    def position(place: Sequence[int]) -> int:
        return start + int(np.ravel_multi_index(tuple(place), grid))

    def middle(place: Sequence[int]) -> np.ndarray:
        return np.asarray(field(position(place)).mean(1))

    # Outermost tokens see less where the input is padded: the lines go through the next ones.
    low = [min(1, (count - 1) // 2) for count in grid]
    high = [count - 1 - first for count, first in zip(grid, low, strict=True)]
    first = middle(low)
    if np.isnan(first).any():
        return None
    origin, steps = list(first), [float(length) for length in size]
    for own, axis in enumerate(axes):
        if high[own] == low[own]:
            steps[axis] = size[axis] / grid[own]
            continue
        last = middle([high[own] if other == own else low[other] for other in range(len(grid))])
        steps[axis] = float(last[axis] - first[axis]) / (high[own] - low[own])
        if not steps[axis] > 0:
            return None
        whole = round(steps[axis])  # strides are, and the ends of what a token sees are found to a few positions
        steps[axis] = whole if abs(steps[axis] - whole) * grid[own] < 0.5 * whole else steps[axis]
        origin[axis] = first[axis] - low[own] * steps[axis]
    sees = np.diff(field(position([count // 2 for count in grid])))[:, 0]
    widths = tuple(float(seen / step) for seen, step in zip(sees, steps, strict=True))
    found = Lattice(start, grid, axes, tuple(map(float, origin)), tuple(map(float, steps)), size, widths)
    between = [sorted({low[own], (low[own] + 2 * high[own]) // 3, high[own]}) for own in range(len(grid))]
    tried = [place for place in product(*between) if place != tuple(low)][:CHECKED]
    for place in [*tried, tuple(between[own][-1] for own in range(len(grid)))]:
        there = middle(place)
        for own, axis in enumerate(axes):
            if not abs(there[axis] - (origin[axis] + place[own] * steps[axis])) <= 0.5 * steps[axis]:
                return None
    # A token more in front would lie before the input begins.
    covered = [origin[axis] >= 0 and steps[axis] * (grid[own] + 1) >= 0.7 * size[axis] for own, axis in enumerate(axes)]
    return found if all(covered) else None


CHECKED = 8
"""Tokens that are looked at to see whether they lie on the lattice."""

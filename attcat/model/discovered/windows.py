"""Which token each key of a block's attention was computed from, by moving the tokens a little.

All positions of a block's state are moved in one direction, first equally, then by an amount that grows with their row, then
with their column. How far a key follows says in which row and column its token lies, whatever windows, shifts or dilated grids
are made on the way: no arrangement is assumed. Keys that were pooled lie at the centre of what they were pooled from.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from ...capture.blocks import hidden_state, rebind, with_state
from ...capture.windowed import Keys, KeyWatcher
from .stages import Stage

STEP = 1e-3
"""How far positions are moved, as a share of the state's standard deviation."""

NEAR = 0.35
"""How far from the middle of its row or column a key may be found, in positions."""

MOST = 0.6
"""The share of the keys of which this is asked: at the edges of the picture they see less, and on one side only."""

Matrices = dict[int, list[tuple[tuple[int, ...], Tensor | None]]]
"""For each block its attention matrices: their shapes and their keys."""


def keys_of(blocks: Sequence[nn.Module], stages: Sequence[Stage], run: Callable[[], Any]) -> list[tuple[Keys, ...]]:
    """What the keys of each block's attention stand for.

    Args:
        blocks: of a model that may be written on.
        stages: their grids.
        run: a forward pass of one picture.

    Returns:
        For each block what was found about its matrices; nothing about those whose keys are not tokens, or were not seen.
    """
    states: list[Tensor] = []
    still, *moved = (_matrices(blocks, stages, run, states, code) for code in (None, _even, _by_row, _by_column))
    return [
        tuple(
            keys
            for index in range(len(still.get(number, ())))
            if all(len(other.get(number, ())) > index for other in moved)
            and (keys := _keys(index, stage, [other[number][index] for other in (still, *moved)]))
        )
        for number, stage in enumerate(stages)
    ]


def _matrices(
    blocks: Sequence[nn.Module],
    stages: Sequence[Stage],
    run: Callable[[], Any],
    states: list[Tensor],
    code: Callable[[Stage], Tensor] | None,
) -> Matrices:
    """The keys in a pass in which every block takes the state of the first pass, moved by a code."""
    running: list[int] = []
    found: Matrices = {}

    def enter(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        running.append(len(running))
        place, own = hidden_state(module, args, kwargs)
        if code is None:
            states.append(own.detach().clone())
            return None
        state, stage = states[running[-1]], stages[running[-1]]
        moved = state + stage.like(code(stage), state).to(state) * _direction(stage, state)
        return None if rebind(own, moved) else with_state(place, moved, args, kwargs)

    with torch.no_grad(), ExitStack() as undo:
        for block in blocks:
            undo.callback(block.register_forward_pre_hook(enter, with_kwargs=True).remove)
        with KeyWatcher(running, found):
            run()
    return found


def _direction(stage: Stage, state: Tensor) -> Tensor:
    """A random direction in the features, to be added to a state."""
    return stage.direction(state) * STEP * state.float().std(correction=0).clamp(min=1e-6).to(state)


def _even(stage: Stage) -> Tensor:
    return torch.ones(stage.prefix + stage.count)


def _by_row(stage: Stage) -> Tensor:
    rows, columns = stage.grid
    return _coded(stage, ((torch.arange(rows) + 0.5) / rows)[:, None].expand(rows, columns))


def _by_column(stage: Stage) -> Tensor:
    rows, columns = stage.grid
    return _coded(stage, ((torch.arange(columns) + 0.5) / columns).expand(rows, columns))


def _coded(stage: Stage, share: Tensor) -> Tensor:
    """Positions in front of the grid have a place outside of it: -1, -2, ..."""
    return torch.cat([-1.0 - torch.arange(stage.prefix), share.flatten()])


def _keys(index: int, stage: Stage, seen: Sequence[tuple[tuple[int, ...], Tensor | None]]) -> Keys | None:
    """From the keys of the four passes; None if they do not lie on the block's grid, or on a coarser one."""
    shape, still = seen[0]
    if shape[-2] < 2 or still is None or any(keys is None or keys.shape != still.shape for _, keys in seen):
        return None  # one query only pools
    along, down, across = (keys - still for _, keys in seen[1:] if keys is not None)
    strength = along.pow(2).sum(-1)
    real = strength > 1e-6 * strength.max()
    place = torch.stack([(moved * along).sum(-1) / strength.clamp(min=1e-30) for moved in (down, across)])
    for grid in (stage.grid, *_coarser(stage, shape[-1])):
        places = _places(place, real, grid, stage.prefix)
        if places is None:
            continue
        places = places.reshape(-1, shape[-1])
        heads, left_over = divmod(torch.Size(shape[:-2]).numel(), len(places))
        if left_over or not _one_key_each(places):
            return None
        places = places.repeat_interleave(heads, 0)  # where several heads share keys
        count = stage.prefix + grid[0] * grid[1]
        if grid == stage.grid:
            return Keys(index, places, count)
        cells = stage.prefix + Stage(grid, True, 1).places(stage.grid)
        return Keys(index, places, count, torch.cat([torch.arange(stage.prefix), cells]))
    return None


def _places(place: Tensor, real: Tensor, grid: tuple[int, int], prefix: int) -> Tensor | None:
    """For each key its position on a grid, behind the prefix; None if the keys do not lie in its rows and columns, or not in all.

    Args:
        place: the share of the picture above each key, and left of it; at or below -1 for tokens in front of the grid.
        real: the keys that follow anything at all; the others are padding.
        grid: rows and columns.
        prefix: the number of tokens in front.
    """
    front = (
        (-place[0]).round().long() * (real & (place[0] < -0.5)) if prefix else torch.zeros_like(real, dtype=torch.long)
    )
    ordinary = real & (front == 0)
    if not bool(ordinary.any()):
        return None
    rows, columns = (share * many - 0.5 for share, many in zip(place, grid, strict=True))
    rows, columns = (one - _offset(one[ordinary]) for one in (rows, columns))  # a convolution may look to one side
    off = torch.maximum((rows - rows.round()).abs(), (columns - columns.round()).abs())[ordinary]
    outside = (rows < -1) | (rows > grid[0]) | (columns < -1) | (columns > grid[1])
    if off.quantile(MOST) > NEAR or bool((outside & ordinary).any()):
        return None
    row, column = (one.round().clamp(0, many - 1).long() for one, many in zip((rows, columns), grid, strict=True))
    places = prefix + row * grid[1] + column
    if len(set(places[ordinary].tolist())) < grid[0] * grid[1]:
        return None
    return torch.where(front > 0, front - 1, places).masked_fill(~real, -1)


def _one_key_each(places: Tensor) -> bool:
    """Whether in a matrix each place has one key, but for few at the edges."""
    pairs = [
        place + row * (int(places.max()) + 1)
        for row, line in enumerate(places.tolist())
        for place in line
        if place >= 0
    ]
    return len(set(pairs)) >= 0.9 * len(pairs)


def _offset(places: Tensor) -> Tensor:
    """How far places lie from whole numbers, all in the same direction, between -0.5 and 0.5."""
    turns = 2 * torch.pi * places
    return torch.atan2(turns.sin().mean(), turns.cos().mean()) / (2 * torch.pi)


def _coarser(stage: Stage, keys: int) -> list[tuple[int, int]]:
    """Grids of pooled keys: as many rows and columns fewer as there are fewer keys in all."""
    rows, columns = stage.grid
    grids = []
    for factor in range(2, max(rows, columns) + 1):
        for up in (False, True):
            grid = tuple(-(-many // factor) if up else many // factor for many in (rows, columns))
            if min(grid) >= 1 and grid not in grids and grid[0] * grid[1] <= keys:
                grids.append(grid)
    return grids  # type: ignore[return-value]

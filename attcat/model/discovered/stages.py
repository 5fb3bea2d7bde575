"""Blocks that have grids of their own: windows, pyramids, and whatever is done on a copy that is unfolded.

Each block begins at a state that everything passes through (`attcat.capture.cuts`). Here its axes are told apart, and its
positions put on the picture: row by row, or in an order that is found by changing the picture.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise, permutations

import torch
from torch import Tensor

from ...capture.survey import Unclear, Visit
from ...capture.windowed import Keys


@dataclass(frozen=True)
class Stage:
    """The grid of a block, and the axes of its hidden state.

    Args:
        grid: rows and columns.
        last: whether features are the last axis: `[B, T, D]` or `[B, rows, columns, D]`; else `[B, D, rows, columns]`.
        width: D.
        prefix: how many positions stand in front of the grid.
        order: for each patch, row by row, its place among the positions behind the prefix; empty if it is its own number.
    """

    grid: tuple[int, int]
    last: bool
    width: int
    prefix: int = 0
    order: tuple[int, ...] = ()

    @property
    def count(self) -> int:
        """Rows times columns."""
        return self.grid[0] * self.grid[1]

    @classmethod
    def of(cls, shape: Sequence[int], picture: tuple[int, int], name: str = "a block") -> Stage:
        """By the axes that have the picture's proportions.

        Args:
            shape: of the state: `[B, T, D]`, `[B, rows, columns, D]`, `[B, D, rows, columns]` or `[B, windows, T, D]`.
            picture: height and width in pixels.
            name: of what takes it.

        Raises:
            Unclear: if none have.
        """
        if shape[0] == 1:
            for exact in (True, False):
                found = [stage for stage in _readings(cls, shape, picture) if _fits(stage.grid, picture, exact)]
                if (
                    found
                ):  # of several the first: of prefixes the shortest; a cube may be read either way, which is seen later
                    return found[0]
            if not found and len(shape) == 4 and (grid := _grid(shape[1] * shape[2], picture)):
                return cls(grid, True, shape[3])  # windows, and the positions within them
        raise Unclear(
            f"{name} takes a state of shape {tuple(shape)}, in which a grid of the picture's shape is not seen"
        )

    @property
    def turned(self) -> Stage:
        """The other reading of a state whose three axes are equally long; itself for any other."""
        cube = self.grid == (self.width, self.width) and not self.prefix
        return replace(self, last=not self.last) if cube else self

    def flat(self, state: Tensor) -> Tensor:
        """`[B, prefix + rows * columns, D]`, patches row by row."""
        if state.dim() == 4:
            state = (state if self.last else state.permute(0, 2, 3, 1)).flatten(1, 2)
        if not self.order:
            return state
        order = torch.tensor(self.order, device=state.device) + self.prefix
        return torch.cat([state[:, : self.prefix], state[:, order]], 1)

    def like(self, values: Tensor, state: Tensor) -> Tensor:
        """A number for each position, `[prefix + rows * columns]` with patches row by row, to be multiplied with the state."""
        if self.order:
            arranged = values.clone()
            arranged[torch.tensor(self.order) + self.prefix] = values[self.prefix :]
            values = arranged
        if state.dim() == 3:
            return values[None, :, None]
        grid = values.view(1, *(state.shape[1:3] if self.last else state.shape[2:]))
        return grid[..., None] if self.last else grid[:, None]

    def direction(self, state: Tensor) -> Tensor:
        """A random direction in the features, shaped to be added to a state at each position."""
        found = torch.randn(self.width, generator=torch.Generator().manual_seed(0)).to(state)
        return found if self.last else found[:, None, None]

    def told_by(self, shape: Sequence[int]) -> bool:
        """Whether a state of this shape has axes for rows and columns."""
        return len(shape) == 4 and tuple(shape[1:3] if self.last else shape[2:]) == self.grid

    def follows(self, state: Tensor) -> bool:
        """Whether the quarters of this grid follow those of the picture better than if they lay in any other order.

        Args:
            state: of a picture, and of four copies in each of which another quarter is replaced, `[5, ...]`.
        """
        if min(self.grid) < 2:
            return True
        patches = self.flat(state)[:, self.prefix :]
        if patches.shape[1] != self.count:  # another reading of axes that only happen to be equally long
            return False
        change = (patches[1:] - patches[0]).abs().mean(-1).view(4, *self.grid)
        if not is_heard(change, patches):
            return False
        means = torch.stack([change[:, rows, columns].mean((1, 2)) for rows, columns in quarters(*self.grid)])
        logs = _logs(means)
        *_, second, best = sorted(permutations(range(4)), key=lambda order: float(logs[range(4), order].sum()))
        # What is as good in another order, as where nothing arrives, says nothing.
        return best == (0, 1, 2, 3) and float(logs[range(4), best].sum() - logs[range(4), second].sum()) > 0

    def quarters(self) -> list[Tensor]:
        """For each corner of the grid a number for each position: 1 within, `[prefix + rows * columns]`."""
        found = []
        for rows, columns in quarters(*self.grid):
            part = torch.zeros(self.grid)
            part[rows, columns] = 1.0
            found.append(torch.cat([torch.zeros(self.prefix), part.flatten()]))
        return found

    def strips(self, grid: tuple[int, int]) -> list[Tensor]:
        """The same for each row, then for each column, of another grid."""
        place = torch.arange(self.count)
        found = []
        for own, fine, many in zip((place // self.grid[1], place % self.grid[1]), self.grid, grid, strict=True):
            strip = ((own + 0.5) * many / fine).long()
            found += [torch.cat([torch.zeros(self.prefix), (strip == index).float()]) for index in range(many)]
        return found

    def places(self, fine: tuple[int, int]) -> Tensor:
        """For each patch of a finer grid the position of this one that its centre lies in."""
        rows, columns = (
            ((torch.arange(many) + 0.5) * few / many).long() for many, few in zip(fine, self.grid, strict=True)
        )
        return (rows[:, None] * self.grid[1] + columns).flatten()


def _readings(kind: type[Stage], shape: Sequence[int], picture: tuple[int, int]) -> list[Stage]:
    """Every way to read the axes of a state; several prefixes, the shortest first."""
    if len(shape) == 4:
        return [kind((shape[1], shape[2]), True, shape[3]), kind((shape[2], shape[3]), False, shape[1])]
    grids = ((prefix, _grid(shape[1] - prefix, picture)) for prefix in range(8) if shape[1] > prefix)
    return [kind(grid, True, shape[2], prefix) for prefix, grid in grids if grid]


def _grid(count: int, picture: tuple[int, int]) -> tuple[int, int] | None:
    """Rows and columns of so many patches, whose proportions are nearest to the picture's; None if they are not near."""
    height, width = picture
    grids = [(rows, count // rows) for rows in range(1, count + 1) if count % rows == 0]
    best = min(grids, key=lambda grid: abs(grid[0] * width - grid[1] * height) / (grid[0] * width + grid[1] * height))
    return best if _fits(best, picture, exact=False) else None


def _fits(grid: tuple[int, int], picture: tuple[int, int], exact: bool) -> bool:
    """Whether a grid has the picture's proportions, up to what is left over at the edge."""
    (rows, columns), (height, width) = grid, picture
    if exact:
        return rows * width == columns * height
    patch = max(height / rows, width / columns)
    return abs(height / patch - rows) < 1 and abs(width / patch - columns) < 1


def readable(visits: Sequence[Visit], picture: tuple[int, int]) -> dict[Visit, Stage]:
    """The calls whose state has a grid, and that grid."""
    found = {}
    for visit in visits:
        if visit.taken is None:
            continue
        try:
            stage = Stage.of(visit.taken.shape, picture, visit.name)
        except Unclear:
            continue
        if stage.grid != picture:  # the picture itself
            found[visit] = stage
    return found


@dataclass(frozen=True)
class Layout:
    """How the blocks of a model lie on pictures of one size.

    Args:
        stages: the grid of each block.
        keys: for each block, what the keys of its attention stand for, as far as that is known.
    """

    stages: tuple[Stage, ...]
    keys: tuple[tuple[Keys, ...], ...] = ()

    @property
    def grid(self) -> tuple[int, int]:
        """The finest grid, on which tokens are named."""
        return max(self.stages, key=lambda stage: stage.count).grid

    @property
    def prefix(self) -> int:
        """How many tokens stand in front of the patches, in any block."""
        return max(stage.prefix for stage in self.stages)

    def spread(self, block: int, values: Tensor, share: bool) -> Tensor:
        """A block's values `[B, positions, D]`, patches row by row, for the tokens that are named, `[B, T, D]`.

        Coarser positions are repeated for the patches whose centre lies in them; tokens that the block does not have get 0.

        Args:
            block: its number.
            values: what it has.
            share: divide by the number of patches that a position stands for, so that sums stay as they are.
        """
        stage = self.stages[block]
        places = stage.places(self.grid).to(values.device)
        patches = values[:, stage.prefix :][:, places]
        if share:
            patches = patches / places.bincount()[places][:, None]
        front = values[:, : stage.prefix]
        missing = front.new_zeros(len(values), self.prefix - stage.prefix, values.shape[-1])
        return torch.cat([front, missing, patches], 1)


def quarters(height: int, width: int) -> list[tuple[slice, slice]]:
    """Rows and columns of the four corners; a row or column in the middle belongs to none."""
    down, across = height // 2, width // 2
    ends = ((slice(0, down), slice(height - down, height)), (slice(0, across), slice(width - across, width)))
    return [(rows, columns) for rows in ends[0] for columns in ends[1]]


def strips_of(noise: Tensor, grid: tuple[int, int]) -> Iterator[Tensor]:
    """A picture with each row of a grid replaced, then with each column."""
    other = torch.randn(noise.shape, generator=torch.Generator().manual_seed(1))
    for axis, many in zip((-2, -1), grid, strict=True):
        edges = [round(index * noise.shape[axis] / many) for index in range(many + 1)]
        for start, end in pairwise(edges):
            changed = noise.clone()
            changed.narrow(axis, start, end - start).copy_(other.narrow(axis, start, end - start))
            yield changed


def order_of(change: Tensor, grid: tuple[int, int], told: bool) -> tuple[int, ...] | None:
    """In which order the positions of a block lie on its grid, by how they change with its rows and columns.

    Args:
        change: how much each position changes when a row is replaced, then a column, `[rows + columns, T]`.
        grid: rows and columns.
        told: whether the state itself has axes for rows and columns, so that it is enough if these follow the picture's.

    Returns:
        For each patch, row by row, its position; nothing if that is its own number; None if two lie at the same place.
    """
    rows, columns = grid
    if told:
        as_told, turned = _following(change, grid, False), _following(change, grid, True)
        if as_told > max(turned, SURE):
            return ()
    for lies in (lambda part: part.argmax(0), _centres, lambda part: _relative(part).argmax(0)):
        places = lies(change[:rows]) * columns + lies(change[rows:])
        if len(places.unique()) == rows * columns:
            order = tuple(places.argsort().tolist())
            return () if order == tuple(range(rows * columns)) else order
    return None


def _centres(change: Tensor) -> Tensor:
    """The row, or column, that each position lies in, `[T]`: the centre of what changes it.

    A token that sees pixels of its neighbours, of one more on one side than on the other, lies between two rows; how far is
    the same for all.
    """
    energy = change.double().square()
    peak, last = energy.argmax(0), len(energy) - 1
    weights = []
    for step in (-1, 0, 1):
        near = (peak + step).clamp(0, last)
        weights.append(energy.gather(0, near[None])[0] * (near == peak + step))
    centre = peak + (weights[2] - weights[0]) / torch.stack(weights).sum(0).clamp(min=1e-300)
    turns = 2 * torch.pi * centre
    off = torch.atan2(turns.sin().mean(), turns.cos().mean()) / (2 * torch.pi)
    return (centre - off).round().long().clamp(0, last)


def _relative(change: Tensor) -> Tensor:
    """How much more each position changes with each row than it does on average, and than all do with that row; a logarithm."""
    logs = _logs(change).float()
    return logs - logs.mean(0) - logs.mean(1, keepdim=True) + logs.mean()


def _logs(change: Tensor) -> Tensor:
    """Logarithms of how much something changes, as shares of the most."""
    return (change / change.max().clamp(min=torch.finfo(change.dtype).tiny)).clamp(min=1e-12).log()


def is_heard(change: Tensor, states: Tensor) -> bool:
    """Whether what changes is more than rounding."""
    numbers = torch.finfo(states.dtype)
    return float(change.max()) > max(numbers.eps * float(states.abs().max()), numbers.tiny)


def say_nothing(change: Tensor, grid: tuple[int, int]) -> bool:
    """Whether all positions answer alike to each row, and to each column; see `order_of`."""
    return all(float(_relative(part).std()) < ALIKE for part in (change[: grid[0]], change[grid[0] :]))


ALIKE = 0.02
"""How far logarithms of changes may be apart that are alike."""

SURE = 4.0
"""So many standard errors are no accident."""


def _following(change: Tensor, grid: tuple[int, int], turned: bool) -> float:
    """How much more positions change with their own row and column than with others, in standard errors, the less of the two.

    Args:
        change: see `order_of`.
        grid: rows and columns.
        turned: whether the axes are taken the other way round.
    """
    rows, columns = grid
    place = torch.arange(rows * columns)
    own = (place % rows, place // rows) if turned else (place // columns, place % columns)
    scores = []
    for part, mine in zip((change[:rows], change[rows:]), own, strict=True):
        mine_only = _relative(part)[mine, place]
        scores.append(float(mine_only.mean() / mine_only.std().clamp(min=1e-3) * len(place) ** 0.5))
    return min(scores)

"""Where a picture's tokens may lie: guesses from what the processor shows of it, and pictures to try them with."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ...errors import AttCATError
from ...tokens import Place, cell_of
from ..picture import edges_of

Box = tuple[float, float, float, float]
"""Left, top, right and bottom on a picture."""
TOLD = 5
"""How many cells of a grid are painted, to see whether the tokens lie where they are said to."""


@dataclass(frozen=True)
class Run:
    """Where the tokens of one picture lie, in their order.

    Args:
        grids: rows and columns of each grid, and the box on the picture; None for tokens that lie nowhere in it.
        cells: for each token its grid and cell; None for a token that does not change with the picture (the end of a row).
    """

    grids: tuple[tuple[tuple[int, int] | None, tuple[float, float, float, float] | None], ...]
    cells: tuple[Place | None, ...]


# -- pictures to try with --------------------------------------------------------------------------------------------------


def mosaic(width: int, height: int, seed: int = 0) -> np.ndarray:
    """Coloured tiles, uint8 `[height, width, 3]`, the same for each size and seed."""
    generator = np.random.default_rng(seed)
    tiles = generator.integers(40, 216, (12, 12, 3), dtype=np.uint8)
    return np.asarray(Image.fromarray(tiles).resize((width, height), Image.Resampling.NEAREST))


def inverse(picture: Image.Image) -> Image.Image:
    """The picture with every colour turned into its opposite."""
    return Image.fromarray(255 - np.asarray(picture))


def painted_over(picture: Image.Image, *boxes: Box) -> Image.Image:
    """The picture with the inside of boxes inverted, which do not overlap."""
    pixels = np.array(picture)
    for box in boxes:
        left, top, right, bottom = (max(0, round(edge)) for edge in box)
        part = pixels[top : max(bottom, top + 1), left : max(right, left + 1)]
        part[...] = np.where(part > 127, 0, 255)
    return Image.fromarray(pixels)


def row_of(box: Box, grid: tuple[int, int], axis: int, number: int) -> Box:
    """A whole row (axis 0) or column of a grid over a box."""
    low, high = box[1 - axis], box[3 - axis]
    ends = (low + (high - low) * number / grid[axis], low + (high - low) * (number + 1) / grid[axis])
    return (box[0], ends[0], box[2], ends[1]) if axis == 0 else (ends[0], box[1], ends[1], box[3])


def numbers_of(count: int, change: Callable[[Sequence[int]], Tensor]) -> Tensor:
    """The row or column, out of so many, that each token answers to.

    For each binary digit those that have it are painted, and then the others: a token has the digit if it changes more in the
    first.

    Args:
        count: of rows, or of columns.
        change: from those that are painted to how much each token changes.
    """
    found = torch.zeros_like(change(range(count)), dtype=torch.long)
    for digit in range((count - 1).bit_length()):
        having = [number for number in range(count) if number >> digit & 1]
        others = [number for number in range(count) if not number >> digit & 1]
        found += (change(having) > change(others)).long() << digit
    return found


# -- guesses ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Frame:
    """What a frame of the processor shows: a box on the picture, and its own height and width; or of patches rows and columns."""

    box: tuple[float, float, float, float]
    size: tuple[int, int]
    patches: bool = False


@dataclass(frozen=True)
class Guess:
    """Grids that a picture's tokens may form, one after another, and how many tokens before them stand for all of it.

    Args:
        grids: rows and columns of each, and the box on the picture that it fills.
        order: of the tokens of a single grid the cells, if they do not follow each other.
        whole: how many tokens stand before all grids.
        size: width and height of the picture: what is painted beyond it, where a processor pads, moves no token.
    """

    grids: tuple[tuple[tuple[int, int], tuple[float, float, float, float]], ...]
    order: tuple[int, ...] = ()
    whole: int = 0
    size: tuple[int, int] | None = None

    def off(self, mine: Sequence[int], plain: Tensor, painted: Any) -> int:
        """How many rows or columns the worst painted cell is from the token that changes most."""
        worst, first = 0, self.whole
        for (rows, columns), box in self.grids:
            count = rows * columns
            own = list(mine[first : first + count])
            cells = self._spread((rows, columns), box)[: TOLD if len(self.grids) == 1 else 3]
            change = torch.stack([(painted(cell_of(box, (rows, columns), c)) - plain)[own].norm(dim=-1) for c in cells])
            share = change / change.mean(0).clamp(min=1e-30)
            answers = [_away(each.argmax(-1).tolist(), cells, columns) for each in (change, share)]
            worst, first = max(worst, min(answers)), first + count
        return worst

    def _spread(self, grid: tuple[int, int], box: Box) -> list[int]:
        """Of the cells that lie on the picture the first, the last, the middle and two corners."""
        centres = [cell_of(box, grid, number) for number in range(grid[0] * grid[1])]
        places = [
            divmod(number, grid[1])
            for number, (left, top, right, bottom) in enumerate(centres)
            if self.size is None or (0 < left + right < 2 * self.size[0] and 0 < top + bottom < 2 * self.size[1])
        ]
        rows, columns = (sorted({place[axis] for place in places} or range(grid[axis])) for axis in (0, 1))
        corners = [(rows[0], columns[0]), (rows[-1], columns[-1]), (rows[len(rows) // 2], columns[len(columns) // 2])]
        corners += [(rows[0], columns[-1]), (rows[-1], columns[0])]
        return list(dict.fromkeys(row * grid[1] + column for row, column in corners))


def _away(found: Sequence[int], cells: Sequence[int], columns: int) -> int:
    return max(
        max(abs(one // columns - other // columns), abs(one % columns - other % columns))
        for one, other in zip(found, cells, strict=True)
    )


def possible(mine: Sequence[int], shown: Sequence[Frame], size: tuple[int, int]) -> Iterator[Guess]:
    """Grids, the likeliest first: one over what is shown, perhaps behind a token for all of it; one for each frame; a thumbnail
    and one grid of all tiles."""
    count, whole = len(mine), (0.0, 0.0, float(size[0]), float(size[1]))
    lengths = _lengths(mine)
    row = lengths[0] if len(set(lengths)) == 1 and len(lengths) > 1 else None
    if len(shown) <= 1:
        frame = shown[0] if shown else Frame(whole, (size[1], size[0]))
        for grid in grids_of(count, frame, row):
            yield Guess(((grid, frame.box),), size=size)
        if count > 4:  # a class token of the tower, e.g.
            for grid in grids_of(count - 1, frame, row)[:2]:
                yield Guess(((grid, frame.box),), whole=1, size=size)
        return
    if count % len(shown) == 0:
        for grid in grids_of(count // len(shown), shown[0], None):
            yield Guess(tuple((grid, frame.box) for frame in shown), size=size)
    # A thumbnail first, then all tiles as one grid, each row of which may end with a token of its own.
    columns = lengths[-1] if len(lengths) > 1 else None
    for grid in _grids_of_thumbnail(count, shown[0], columns):
        rest = count - grid[0] * grid[1]
        wide = Frame(whole, (size[1], size[0]))
        for other in grids_of(rest, wide, columns):
            yield Guess(((grid, shown[0].box), (other, whole)), size=size)


def _grids_of_thumbnail(count: int, frame: Frame, columns: int | None) -> Iterator[tuple[int, int]]:
    """Grids of one frame that leave whole rows for the rest."""
    height, width = frame.size
    sizes = range(1, int(count**0.5) + 1)
    for rows in sorted(sizes, reverse=True):
        across = round(rows * width / height)
        rest = count - rows * across
        if across and rest > 0 and (columns is None or rest % columns == 0):
            yield rows, across


def grids_of(count: int, frame: Frame, row: int | None = None) -> list[tuple[int, int]]:
    """Rows and columns that hold so many tokens, those of square cells first."""
    height, width = frame.size
    every = [(count // columns, columns) for columns in range(1, count + 1) if count % columns == 0]
    if row is not None:
        every = [grid for grid in every if grid[1] == row] or every
    return sorted(every, key=lambda grid: abs(np.log((height / grid[0]) / (width / grid[1]))))[:6]


def _lengths(mine: Sequence[int]) -> list[int]:
    """How many positions follow each other without a gap, stretch by stretch."""
    found: list[int] = []
    for before, at in zip([-2, *mine], mine, strict=False):
        if at == before + 1:
            found[-1] += 1
        else:
            found.append(1)
    return found


def run_of(mine: Sequence[int], stretch: Sequence[int], guess: Guess | None) -> Run:
    """The tokens of a picture in their places."""
    if guess is None:
        where: dict[int, Place] = {at: (0, number) for number, at in enumerate(mine)}
        return Run(((None, None),), tuple(where.get(at) for at in stretch))
    cells = [(number, cell) for number, (grid, _) in enumerate(guess.grids) for cell in range(grid[0] * grid[1])]
    if guess.order:
        cells = [(0, cell) for cell in guess.order]
    grids: list[tuple[tuple[int, int] | None, tuple[float, float, float, float] | None]] = [*guess.grids]
    if guess.whole:
        cells = [*((len(grids), number) for number in range(guess.whole)), *cells]
        grids.append((None, None))
    where = dict(zip(mine, cells, strict=True))
    return Run(tuple(grids), tuple(where.get(at) for at in stretch))


def seen_frames(made: Sequence[np.ndarray], width: int, height: int) -> list[Frame]:
    """What is shown, from what became of black, white, and ramps of grey from left to right and from top to bottom."""
    black, white, across, down = made
    contrast = white - black
    seen = np.abs(contrast) > 0.05 * np.abs(contrast).max()
    safe = np.where(seen, contrast, 1.0)
    x, y = (np.where(seen, (ramp - black) / safe, np.nan) for ramp in (across, down))
    if black.ndim >= 4 and black.shape[-3] in (1, 3):
        frames = [each.reshape(-1, *black.shape[-3:]) for each in (x, y)]
        found = [_frame(across, down, width, height) for across, down in zip(*frames, strict=True)]
        return [frame for frame in found if frame is not None]
    if black.ndim in (2, 3):
        return _patches(x.reshape(-1, x.shape[-1]), y.reshape(-1, y.shape[-1]), width, height)
    return []


def _frame(x: np.ndarray, y: np.ndarray, width: int, height: int) -> Frame | None:
    """One frame `[3, H, W]` of what is shown; None if it shows nothing, or not along straight lines."""
    seen = ~np.isnan(x).any(0)
    columns, rows = seen.any(0), seen.any(1)
    if not seen.any() or not seen[rows][:, columns].all():
        return None
    try:
        left, right = edges_of(x.mean(0)[rows][:, columns], columns, width)
        top, bottom = edges_of(y.mean(0)[rows][:, columns].T, rows, height)
    except AttCATError:
        return None
    return Frame((left, top, right, bottom), (x.shape[1], x.shape[2]))


def _patches(x: np.ndarray, y: np.ndarray, width: int, height: int) -> list[Frame]:
    """Patches in a row, each with a place of its own: as one frame of so many rows and columns."""
    kept = ~np.isnan(x).all(1)
    if not kept.any():
        return []
    across, down = (np.nanmean(values[kept], 1) for values in (x, y))
    columns, rows = _steps(across), _steps(down)
    if columns * rows != kept.sum():
        return []
    return [Frame((0.0, 0.0, float(width), float(height)), (rows, columns), True)]


def _steps(values: np.ndarray) -> int:
    """How many different values there are, but for noise."""
    ordered = np.sort(values)
    return 1 + int((np.diff(ordered) > 0.25 * (ordered[-1] - ordered[0]) / max(1, len(ordered)) ** 0.5).sum())

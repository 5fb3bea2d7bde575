"""Where patches lie: a grid on a picture."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .. import plain

MAX_PIXELS = 1 << 27
"""Pictures beyond this many pixels (134 million) are refused before they are decoded."""


@dataclass(frozen=True)
class View:
    """Where the token grid of a vision model lies on a picture: the one geometry of patches.

    A grid's cells are equally large and fill the box, row by row. Heatmaps (`spread`), removed patches (`cells`) and
    localisation (`overlap`) all use it.

    Args:
        width: width of the original picture, in pixels.
        height: height of the original picture, in pixels.
        box: `(left, top, right, bottom)` of the grid, in pixels of the original picture; pixel `x` covers `[x, x + 1)`.
            Smaller than the picture where it was cropped, larger where padding was added.

    Raises:
        ValueError: if there are no pixels or more than `MAX_PIXELS`, or the box covers nothing of them.
    """

    width: int
    height: int
    box: tuple[float, float, float, float]

    def __post_init__(self) -> None:
        plain.settle(self, _VIEW)
        left, top, right, bottom = self.box
        if self.width < 1 or self.height < 1:
            raise ValueError(f"a picture has at least one pixel, got {self.width} x {self.height}")
        if self.width * self.height > MAX_PIXELS:
            raise ValueError(f"a picture has at most {MAX_PIXELS:,} pixels, got {self.width} x {self.height}")
        if not (right - left > _THIN and bottom - top > _THIN):
            raise ValueError(f"the grid covers no area: box {self.box}")
        if not (left < self.width and top < self.height and right > 0 and bottom > 0):
            raise ValueError(f"the grid lies outside {self.width} x {self.height} pixels: box {self.box}")

    def cells(self, grid: tuple[int, int]) -> np.ndarray:
        """Which cell of a grid of `(rows, columns)` each pixel's centre lies in.

        Returns:
            int64 `[height, width]`: the cell's number, counted row by row; -1 for pixels outside the box.
        """
        left, top, right, bottom = self.box
        rows = np.floor(_position(self.height, top, bottom, grid[0])).astype(int)[:, None]
        columns = np.floor(_position(self.width, left, right, grid[1])).astype(int)[None, :]
        inside = (rows >= 0) & (rows < grid[0]) & (columns >= 0) & (columns < grid[1])
        return np.where(inside, rows * grid[1] + columns, -1)

    def spread(self, values: np.ndarray) -> np.ndarray:
        """The values of cells, `[rows, columns]`, interpolated linearly from the cells' centres to the pixels' centres.

        Returns:
            float64 `[height, width]`; beyond the outermost centres the outermost value is kept; NaN outside the box.
        """
        left, top, right, bottom = self.box
        rows = _interpolation(self.height, top, bottom, values.shape[0])
        columns = _interpolation(self.width, left, right, values.shape[1])
        found: np.ndarray = rows @ values @ columns.T
        return found

    def cell(self, grid: tuple[int, int], number: int) -> tuple[float, float, float, float]:
        """Left, top, right and bottom of a cell of a grid of `(rows, columns)`, in pixels; counted row by row."""
        return cell_of(self.box, grid, number)

    def overlap(self, grid: tuple[int, int], box: tuple[float, float, float, float]) -> np.ndarray:
        """Which part of each cell's area lies in another box of the same picture, float64 `[rows, columns]`, 0 to 1."""
        left, top, right, bottom = self.box
        rows = _overlap(top, bottom, grid[0], box[1], box[3])
        columns = _overlap(left, right, grid[1], box[0], box[2])
        return np.outer(rows, columns)


def cell_of(
    box: tuple[float, float, float, float], grid: tuple[int, int], number: int
) -> tuple[float, float, float, float]:
    """Where a cell of a grid of `(rows, columns)` lies in a box that the grid fills; counted row by row."""
    left, top, right, bottom = box
    across, down = (right - left) / grid[1], (bottom - top) / grid[0]
    row, column = divmod(number, grid[1])
    return left + column * across, top + row * down, left + (column + 1) * across, top + (row + 1) * down


_THIN = 1e-6
"""Pixels; nothing is thinner."""
_VIEW = {"width": plain.whole(), "height": plain.whole(), "box": plain.tuple_of(plain.real, 4)}


def _position(pixels: int, start: float, stop: float, cells: int) -> np.ndarray:
    """Where the centres of `pixels` pixels lie, counted in cells from `start`: cell c covers `[c, c + 1)`."""
    return (np.arange(pixels) + 0.5 - start) / (stop - start) * cells


def _interpolation(pixels: int, start: float, stop: float, cells: int) -> np.ndarray:
    """Linear interpolation from the values of `cells` cells to the centres of pixels.

    Returns:
        float64 `[pixels, cells]`, rows summing to 1; NaN for pixels outside.
    """
    where = _position(pixels, start, stop, cells)
    position = np.clip(where - 0.5, 0, cells - 1)
    lower = np.minimum(position.astype(int), max(cells - 2, 0))
    weights = np.zeros((pixels, cells))
    rows = np.arange(pixels)
    weights[rows, lower] = 1 - (position - lower)
    if cells > 1:
        weights[rows, lower + 1] = position - lower
    weights[(where < 0) | (where >= cells)] = np.nan
    return weights


def _overlap(start: float, stop: float, cells: int, low: float, high: float) -> np.ndarray:
    """Which part of each of `cells` stretches between start and stop lies between low and high, `[cells]`."""
    edges = np.linspace(start, stop, cells + 1)
    common = np.minimum(edges[1:], high) - np.maximum(edges[:-1], low)
    part: np.ndarray = np.clip(common, 0, None) / np.diff(edges)
    return part


def check_size(grid: tuple[int, int], height: int, width: int) -> None:
    """Refuse a grid that cannot be laid over a picture in the memory that a picture may take.

    Raises:
        ValueError: if rows times height, or columns times width, are more than `MAX_PIXELS`.
    """
    rows, columns = grid
    if max(rows * height, columns * width) > MAX_PIXELS:
        raise ValueError(f"a grid of {rows} x {columns} patches is too fine for a picture of {width} x {height} pixels")

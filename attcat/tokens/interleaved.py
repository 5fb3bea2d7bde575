"""Words and patches in one sequence: where each patch lies, and what the model was given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from .. import plain
from .view import View

Place = tuple[int, int]
"""The number of a grid of patches, and that of the cell in it, counted row by row."""


@dataclass(frozen=True)
class Patches:
    """A grid of patches within a sequence that has other tokens, too.

    Several may lie on one picture: tiles of it, and a thumbnail of the whole.

    Args:
        picture: which of the input's pictures it lies on, from 0.
        grid: `(rows, columns)`; None where the tokens stand for the picture as a whole and lie nowhere in it, as the queries of
            a Q-Former do.
        view: where the grid lies on the original picture; None where that is not known (model arguments).

    Raises:
        ValueError: if a field has another type.
    """

    picture: int
    grid: tuple[int, int] | None
    view: View | None = None

    def __post_init__(self) -> None:
        grid = plain.optional(plain.tuple_of(plain.whole(1), 2))
        plain.settle(self, {"picture": plain.whole(), "grid": grid, "view": plain.optional(plain.a(View))})
        if self.grid is None and self.view is not None:
            raise ValueError("a view says where a grid lies, but there is no grid")


@dataclass(frozen=True, eq=False)
class Interleaved:
    """A text and the pictures that stand in it.

    Args:
        text: as the model reads it, with one placeholder for each picture.
        pictures: uint8 `[H, W, 3]` each, kept as read-only copies.

    Raises:
        ValueError: if there are no pictures, or they are something else.
    """

    text: str
    pictures: tuple[np.ndarray, ...]

    def __post_init__(self) -> None:
        plain.settle(self, {"text": plain.text, "pictures": plain.tuple_of(_pixels)})
        if not self.pictures:
            raise ValueError("pictures: there are none, so that this is a text")

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Interleaved):
            return NotImplemented
        same = self.text == other.text and len(self.pictures) == len(other.pictures)
        return same and all(map(np.array_equal, self.pictures, other.pictures))

    __hash__ = object.__hash__

    def __reduce__(self) -> tuple[type[Interleaved], tuple[str, tuple[np.ndarray, ...]]]:
        return Interleaved, (self.text, self.pictures)


@dataclass(frozen=True, eq=False)
class Asked(Interleaved):
    """The same with a question first, whose answer is a part of what follows it.

    Args:
        text: the question, a line break, and the text that holds the answer.
        pictures: as of others.
        context: the character at which that text begins.
    """

    context: int = 0


@dataclass(frozen=True)
class Shares:
    """How much of an explanation lies on what, each as a part of the total magnitude, 0 to 1; together they are 1.

    Args:
        pictures: on the tokens of each picture.
        text: on the words that were given.
        written: on the words that the model had written before.
        special: on tokens that stand for no part of the input.
        signed: the sums of the scores themselves, in the same order: each picture, text, written, special.
        completeness: of the explanation, see `Attribution.completeness`.
    """

    pictures: tuple[float, ...]
    text: float
    written: float
    special: float
    signed: tuple[float, ...]
    completeness: float | None = None

    @property
    def picture(self) -> float:
        """The share of all pictures."""
        return sum(self.pictures)

    def __str__(self) -> str:
        """In percent, e.g. `62 % picture, 30 % text, 5 % written before, 3 % special`."""
        many = len(self.pictures) > 1
        named = [(f"picture {number}" if many else "picture", share) for number, share in enumerate(self.pictures, 1)]
        named += [("text", self.text), ("written before", self.written), ("special", self.special)]
        return ", ".join(
            f"{share:.0%} {name}".replace("%", " %") for name, share in named if share or name != "written before"
        )


def check_place(value: object) -> Place:
    """`(grid, cell)`; a check of `plain`."""
    grid, cell = plain.tuple_of(plain.whole(), 2)(value)
    return grid, cell


def check_places(patches: Sequence[Patches] | None, places: Sequence[Place | None] | None) -> None:
    """Refuse places that do not exist.

    Raises:
        ValueError: if there are grids without places or the other way round, or a place is in none of the grids, or taken twice.
    """
    if (patches is None) != (places is None):
        raise ValueError("patches and places belong together: give both, or neither")
    taken = set()
    for place in (place for place in places or () if place is not None):
        if place[0] >= len(patches or ()):
            raise ValueError(f"a token lies in grid {place[0]}, but there are {len(patches or ())}")
        grid = (patches or ())[place[0]].grid
        if grid is not None and place[1] >= grid[0] * grid[1]:
            raise ValueError(f"a token lies in cell {place[1]} of a grid of {grid[0]} x {grid[1]}")
        if place in taken:
            raise ValueError(f"two tokens lie in cell {place[1]} of grid {place[0]}")
        taken.add(place)


def on_one_grid(
    placed: Sequence[tuple[Patches, np.ndarray]],
) -> tuple[np.ndarray, tuple[int, int], View | None]:
    """The values of a picture's grids on one grid; of several, as fine as the finest, and around all of them.

    Each value is spread evenly over its cell, so that sums stay as they are.

    Args:
        placed: the grids with the values of their cells, `[N, cells]`.

    Returns:
        the values `[N, rows * columns]`, the rows and columns, and where the grid lies.

    Raises:
        ValueError: if there is none, or there are several and it is not known where they lie.
    """
    if not placed:
        raise ValueError(
            "its tokens stand for it as a whole and lie nowhere in it: read shares(), or the scores themselves"
        )
    first, values = placed[0]
    if len(placed) == 1 and first.grid is not None:
        return values, first.grid, first.view
    if any(one.view is None for one, _ in placed):
        raise ValueError(
            "where its tiles lie is not known for model arguments: give the picture itself with a processor"
        )
    boxes = np.array([one.view.box for one, _ in placed if one.view is not None])
    (left, top), (right, bottom) = boxes[:, :2].min(0).tolist(), boxes[:, 2:].max(0).tolist()
    down, across = np.min([_step(one) for one, _ in placed], axis=0)
    rows, columns = max(1, round((bottom - top) / down)), max(1, round((right - left) / across))
    assert first.view is not None
    whole = replace(first.view, box=(left, top, right, bottom))
    return sum(found @ _spread(one, (rows, columns), whole) for one, found in placed), (rows, columns), whole


def _step(patches: Patches) -> tuple[float, float]:
    """Height and width of a cell, in pixels."""
    assert patches.grid is not None
    assert patches.view is not None
    left, top, right, bottom = patches.view.box
    return (bottom - top) / patches.grid[0], (right - left) / patches.grid[1]


def _spread(patches: Patches, grid: tuple[int, int], whole: View) -> np.ndarray:
    """Which part of each cell lies in each cell of another grid, `[cells, rows * columns]`; a row sums to 1."""
    assert patches.grid is not None
    assert patches.view is not None
    cells = range(patches.grid[0] * patches.grid[1])
    parts = [whole.overlap(grid, patches.view.cell(patches.grid, number)) for number in cells]
    found: np.ndarray = np.stack(parts).reshape(len(parts), -1)
    return found / found.sum(1, keepdims=True)


def _pixels(value: object) -> np.ndarray:
    if (
        not isinstance(value, np.ndarray)
        or value.dtype != np.uint8
        or value.ndim != 3
        or value.shape[2] != 3
        or not value.size
    ):
        what = f"{value.dtype} {list(value.shape)}" if isinstance(value, np.ndarray) else type(value).__name__
        raise ValueError(f"got {what}, expected pixels uint8 [H, W, 3]")
    return plain.read_only(value)

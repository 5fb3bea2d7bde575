"""Where the patches of a vision tower lie, by experiment: rows and columns are painted after the digits of their numbers.

The states in front of a tower's first block are those of single patches, which have seen nothing of each other. So a few painted
pictures say of every patch at once where it lies: for each binary digit of a row's number one in which the rows that have it are
painted, and one in which the others are; a patch has the digit if it changes more in the first. Towers that merge or shuffle
their patches need no code of their own for this.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from ...capture.randomness import OwnRandomness
from ...errors import OptionError
from ...tokens import Patches, Place, View
from ..adapter import Adapter
from ..bound import borrowed
from ..encoding import Encoding
from ..tower import Tower, tower_state
from .experiments import Stop, rounding, stopped_before, until_stopped
from .guesses import Box, Frame, inverse, mosaic, numbers_of, possible


def find_tower(
    adapter: Adapter,
    sizes: Sequence[tuple[int, int]],
    encoding_of: Callable[[Sequence[Image.Image]], Encoding],
    shown: Callable[[Sequence[Image.Image], int], list[Frame]],
) -> Tower:
    """The tower's first block, and where its patches lie on pictures of these sizes.

    Args:
        adapter: of the model.
        sizes: width and height of each picture.
        encoding_of: from pictures of these sizes to what the model is called with.
        shown: from the pictures and the number of one to what the processor shows of it.

    Raises:
        OptionError: if there is no tower, or no grid explains what its patches see.
    """
    base = [Image.fromarray(mosaic(*size, seed)) for seed, size in enumerate(sizes)]
    block, calls = _first_block(adapter, encoding_of(base))

    def states(number: int, picture: Image.Image) -> list[Tensor]:
        return _states(adapter, block, calls, encoding_of([*base[:number], picture, *base[number + 1 :]]))

    plain = states(0, base[0])
    patches: list[Patches] = []
    places: list[Place | None] = [None] * sum(map(len, plain))
    for number, picture in enumerate(base):
        answers = _Answers(picture, plain, partial(states, number))
        found = answers.frame_by_frame(shown(base, number)) or answers.together(shown(base, number))
        if found is None:
            raise OptionError(f"through_tower=True: no grid explains what the {answers.count} patches of {block} see")
        for grid, box, cells in found:
            for at, cell in cells.items():
                places[at] = (len(patches), cell)
            patches.append(Patches(number, grid, View(*sizes[number], box)))
    return Tower(block, calls, tuple(patches), tuple(places))


Found = tuple[tuple[int, int], Box, dict[int, int]]
"""A grid, where it lies on the picture, and for the positions in it their cells."""


class _Answers:
    """Where patches say that they lie, if a picture is painted.

    Args:
        picture: what is painted.
        plain: the states in rows, one for each frame if the tower has a row for each.
        states: from another picture to the same.
    """

    def __init__(
        self, picture: Image.Image, plain: list[Tensor], states: Callable[[Image.Image], list[Tensor]]
    ) -> None:
        self.picture, self.plain, self.states = picture, torch.cat(plain), states
        mine = _changed(self.plain, torch.cat(states(inverse(picture))))
        ends = np.cumsum([len(row) for row in plain])
        self.rows = [[at for at in mine if end - len(row) <= at < end] for row, end in zip(plain, ends, strict=True)]
        self.rows = [row for row in self.rows if row]
        self.count = len(mine)

    def frame_by_frame(self, shown: Sequence[Frame]) -> list[Found] | None:
        """Each row of states sees one frame; what is padding in it has not changed, so that cells may stay empty."""
        if len(shown) != len(self.rows) or any(frame.patches for frame in shown):
            return None
        largest = max(range(len(shown)), key=lambda at: len(self.rows[at]))
        for guess in possible(self.rows[largest], [shown[largest]], self.picture.size):
            grid = guess.grids[0][0]
            found = [
                (grid, frame.box, self._cells(row, grid, frame.box))
                for row, frame in zip(self.rows, shown, strict=True)
            ]
            if all(len(set(cells.values())) == len(cells) for _, _, cells in found):
                return found
        return None

    def together(self, shown: Sequence[Frame]) -> list[Found] | None:
        """All patches in one row; in no cell there are two, and none is empty."""
        mine = [at for row in self.rows for at in row]
        for guess in possible(mine, shown, self.picture.size):
            found, first = [], 0
            for grid, box in guess.grids:
                own = mine[first : first + grid[0] * grid[1]]
                found.append((grid, box, self._cells(own, grid, box)))
                first += len(own)
            if all(len(set(cells.values())) == grid[0] * grid[1] for grid, _, cells in found):
                return found
        return None

    def _cells(self, own: Sequence[int], grid: tuple[int, int], box: Box) -> dict[int, int]:
        """For each position the cell whose painting it answers to."""
        rows, columns = (self._numbers(own, axis, grid[axis], box) for axis in (0, 1))
        return dict(zip(own, (rows * grid[1] + columns).tolist(), strict=True))

    def _numbers(self, own: Sequence[int], axis: int, count: int, box: Box) -> Tensor:
        """The row (axis 0) or column of each position, out of so many."""

        def change(numbers: Sequence[int]) -> Tensor:
            return self._change(own, axis, np.isin(np.arange(count), numbers), box)

        return numbers_of(count, change).cpu()

    def _change(self, own: Sequence[int], axis: int, painted: np.ndarray, box: Box) -> Tensor:
        states = torch.cat(self.states(_striped(self.picture, axis, painted, box)))
        return (states - self.plain)[list(own)].norm(dim=-1)


def _striped(picture: Image.Image, axis: int, painted: np.ndarray, box: Box) -> Image.Image:
    """The picture with some rows (axis 0) or columns of a grid inverted."""
    pixels = np.array(picture)
    low, high = box[1 - axis], box[3 - axis]
    where = np.floor((np.arange(pixels.shape[axis]) + 0.5 - low) / (high - low) * len(painted)).astype(int)
    flags = (where >= 0) & (where < len(painted)) & painted[where.clip(0, len(painted) - 1)]
    part = pixels[flags] if axis == 0 else pixels[:, flags]
    inverted = np.where(part > 127, 0, 255).astype(np.uint8)
    if axis == 0:
        pixels[flags] = inverted
    else:
        pixels[:, flags] = inverted
    return Image.fromarray(pixels)


def _changed(one: Tensor, other: Tensor) -> list[int]:
    away = (one - other).abs().amax(-1) > rounding(one) * one.abs().max()
    return [int(at) for at in away.nonzero().flatten()]


# -- the tower's first block ----------------------------------------------------------------------------------------------


def _first_block(adapter: Adapter, encoding: Encoding) -> tuple[str, int]:
    """The name of the first of the like modules in a row that are called, with states of positions, before the adapter's first
    block; and how often it is called.

    Raises:
        OptionError: if there is none.
    """
    called: list[str] = []

    def note(name: str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if tower_state(args, kwargs) is not None:
            called.append(name)

    with borrowed(adapter) as own, torch.no_grad(), OwnRandomness(), ExitStack() as undo:
        for name, module in _rows_of_modules(own.model):
            if module is not own.blocks[0]:
                hook = module.register_forward_pre_hook(partial(note, name), with_kwargs=True)
                undo.callback(hook.remove)
        undo.enter_context(stopped_before(own.blocks[0]))
        until_stopped(partial(own.call, encoding))
    if not called:
        raise OptionError(
            f"through_tower=True: {type(adapter.model).__name__} has no vision tower in front of its first block, so that its "
            "tokens are patches already"
        )
    return called[0], called.count(called[0])


def _rows_of_modules(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """The first of each list of modules of one class, if it is made of others."""
    for name, module in model.named_modules():
        if isinstance(module, (nn.ModuleList, nn.Sequential)) and len(module):
            first = module[0]
            if len({type(each) for each in module}) == 1 and any(first.children()):
                yield f"{name}.0" if name else "0", first


def _states(adapter: Adapter, block: str, calls: int, encoding: Encoding) -> list[Tensor]:
    """What the tower's first block takes in all of its calls, `[P, D]` for each row."""
    with borrowed(adapter) as own, torch.no_grad(), OwnRandomness(), ExitStack() as undo:
        seen = undo.enter_context(_gathered(own.model.get_submodule(block), calls))
        until_stopped(partial(own.call, encoding))
    rows = [state.detach().float() for state in seen]
    return [part for row in rows for part in (row if row.dim() == 3 else row[None])]


@contextmanager
def _gathered(block: nn.Module, calls: int) -> Iterator[list[Tensor]]:
    """The states that a module is called with; the pass ends at the last call."""
    with ExitStack() as undo:
        seen: list[Tensor] = []

        def note(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            found = tower_state(args, kwargs)
            if found is not None:
                seen.append(found[1])
            if len(seen) == calls:
                raise Stop

        undo.callback(block.register_forward_pre_hook(note, with_kwargs=True).remove)
        yield seen

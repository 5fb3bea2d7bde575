"""Whether the tokens of pictures lie where they are said to, as `attcat check` asks: cells are painted on the pictures given."""

from __future__ import annotations

from PIL import Image
from torch import Tensor

from ...tokens import Interleaved
from ..encoding import Encoding
from .experiments import first_states
from .guesses import Guess, painted_over
from .mixed import DiscoveredMixed
from .placing import COARSE


def painted_off(adapter: DiscoveredMixed, encoding: Encoding) -> tuple[int, int] | None:
    """By how many rows or columns the token that changes most lies from the cell that is painted, at worst, and how many it may.

    The corners of each grid are painted, and its middle. In grids that are not coarse a neighbour may answer, as towers mix what
    they see.

    Args:
        adapter: of the model.
        encoding: one input, or a batch, of which the first is painted.

    Returns:
        Both numbers; None if it holds no picture, or the tokens of the pictures lie nowhere in them.
    """
    encoding = encoding.alone(0)
    tokens, source = encoding.tokens[0], encoding.sources[0]
    if not isinstance(source, Interleaved) or tokens.patches is None or tokens.places is None:
        return None
    given = [Image.fromarray(picture) for picture in source.pictures]

    def states(number: int, picture: Image.Image) -> Tensor:
        other = adapter.repainted(encoding, source.text, (*given[:number], picture, *given[number + 1 :]))
        return first_states(adapter, other)[0].transpose(1, adapter.position_axis)[0].float()

    plain, off, coarse = states(0, given[0]), [], False
    for number, picture in enumerate(given):
        grids = {
            at: (one.grid, one.view.box)
            for at, one in enumerate(tokens.patches)
            if one.picture == number and one.grid is not None and one.view is not None
        }
        every = [(at, cell) for at, (grid, _) in grids.items() for cell in range(grid[0] * grid[1])]
        mine = [tokens.places.index(place) for place in every]

        def painted(box: tuple[float, float, float, float], number: int = number, on: Image.Image = picture) -> Tensor:
            return states(number, painted_over(on, box))

        if grids:
            off.append(Guess(tuple(grids.values()), size=picture.size).off(mine, plain, painted))
            coarse |= any(min(grid) <= COARSE for grid, _ in grids.values())
    return (max(off), 0 if coarse else 1) if off else None

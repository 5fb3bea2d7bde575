"""The vision tower in front of a language model: where it sees its own patches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..tokens import Patches, Place


@dataclass(frozen=True)
class Tower:
    """What a vision tower's first block is given.

    Args:
        block: the name of this block among the model's modules.
        calls: how often it is called in one pass, e.g. once for each picture.
        patches: the grids of the patches, as those of tokens.
        places: for each position in the states of all calls, one behind another and row by row, where it lies in these grids;
            None for those that are not patches of the picture: class tokens, registers, padding.
    """

    block: str
    calls: int
    patches: tuple[Patches, ...]
    places: tuple[Place | None, ...]


def tower_state(args: Sequence[Any], kwargs: Mapping[str, Any]) -> tuple[int | str, Tensor] | None:
    """The states `[N, P, D]`, or `[P, D]` of all patches in one row, among a block's arguments, and their place; None without."""
    places: list[tuple[int | str, Any]] = [*enumerate(args), *kwargs.items()]
    for place, value in places:
        if isinstance(value, Tensor) and value.is_floating_point():
            return (place, value) if value.dim() in (2, 3) else None
    return None

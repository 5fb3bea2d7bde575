"""The grammar of a call: which rows there are, which targets each is explained for, and the shape of the result."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from ..errors import Option, TargetError
from ..explanation import Explanation, ImageText, TextText
from ..model import Head
from ..targets import Rank, count, listed

Picture = Any
"""A path, a `PIL.Image`, an array or a tensor; see `attcat.model.picture.read_picture`."""

Input = (
    str
    | tuple[str, str]
    | tuple[str, list[str]]
    | os.PathLike[str]
    | np.ndarray
    | Tensor
    | Mapping[str, Tensor]
    | Picture
)
"""One input: a text, a pair of texts, a prompt with its choices, a picture, or ready-made model arguments."""

MOST_CLASSES = 1 << 20
"""No model has more: a larger `top_k` asks for all."""

ALL = object()
"""Every class in turn."""


def column(values: Any) -> Any:
    """A column of inputs or targets as a list; anything else unchanged.

    A column is a pandas or polars Series, an index or array of these, a one-dimensional array of strings or objects, an Arrow
    array, or a sequence such as a column of `datasets`.
    """
    if isinstance(values, (str, bytes, tuple, list, Tensor)):
        return values
    if isinstance(values, np.ndarray):
        return values.tolist() if values.ndim == 1 and values.dtype.kind in "OTU" else values
    if hasattr(values, "to_pylist"):
        return values.to_pylist()
    series = hasattr(values, "to_numpy") and len(getattr(values, "shape", ())) == 1  # and no data frame
    return list(values) if series or isinstance(values, Sequence) else values


def targets_by_row(target: Any, rows: int, many: bool, top_k: int | None) -> tuple[list[Any], bool]:
    """The targets of each row, and whether the caller wants a list per row."""
    if top_k is not None:
        number = min(count("top_k", top_k), MOST_CLASSES)
        if target is not None:
            raise TargetError(Option("top_k", number), " and ", Option("target", target), ": give one of them")
        return [[Rank(place) for place in range(number)]] * rows, True
    target = listed(column(target))
    if isinstance(target, str) and target == "all":
        return [ALL] * rows, True
    if not isinstance(target, list):
        return [[target]] * rows, False
    if not many:
        if not target:
            raise TargetError("an empty list of targets: there is nothing to explain")
        return [target], True
    if len(target) != rows:
        raise TargetError(f"{len(target)} targets for {rows} inputs: give one, or one per input")
    return [[one] for one in target], False


def aimed(head: Head, target: Any) -> tuple[Any, Any]:
    """The places that targets name, and the classes there: one of each, or two lists."""
    if not isinstance(target, list) or not target:
        return head.aim(target)
    places, classes = zip(*map(head.aim, target), strict=True)
    return list(places), list(classes)


def shaped(found: list[list[Explanation]], several: bool, many: bool) -> Any:
    """Results by row and target, without the lists that were not asked for."""
    result = found if several else [explanations[0] for explanations in found]
    return result if many else result[0]


def side_by_side(image: Any, text: Any) -> Any:
    """Two results of the same shape as one result of pairs."""
    if isinstance(image, list):
        return [side_by_side(*pair) for pair in zip(image, text, strict=True)]
    return TextText(image, text) if image.tokens.grid is None else ImageText(image, text)


def batches(costs: Sequence[int], size: int | None, budget: int = 4096) -> list[list[int]]:
    """Group inputs of similar length, to pad little.

    Args:
        costs: about how many tokens each input has.
        size: how many inputs a batch holds; None for as many as `budget` tokens allow, padding included.
        budget: tokens in a batch.

    Returns:
        The inputs' positions, batch by batch.
    """
    found: list[list[int]] = []
    for position in sorted(range(len(costs)), key=lambda index: costs[index]):
        room = size if size is not None else max(1, budget // max(1, costs[position]))
        if found and len(found[-1]) < room:
            found[-1].append(position)
        else:
            found.append([position])
    return found

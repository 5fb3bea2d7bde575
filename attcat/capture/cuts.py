"""Where a forward pass can be cut in two: the states that everything passes through.

Names and lists tell where a model's author drew the line between blocks; the graph tells where one can be drawn. A state is a
cut if every way from the input to the prediction leads through it. The piece between two such states is a block, whatever
modules it is made of: attention and a sum outside of them, a norm in front, several layers on an unfolded copy.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from .survey import Survey, Unclear, Visit


@dataclass(frozen=True)
class Piece:
    """A part of the forward pass, from one state to the next.

    Args:
        visit: the call that takes the state.
        attention: the numbers of the attention that is computed before the next state, counted over the whole pass.
        whole: whether all of it is computed inside the call.
    """

    visit: Visit
    attention: range
    whole: bool


def pieces_of(found: Survey, value: Tensor, leaf: Tensor, usable: Iterable[Visit]) -> list[Piece]:
    """The pieces that attend, in order: each begins at the last state before its attention.

    Args:
        found: a forward pass that was watched with gradient.
        value: what it made of the input, one number.
        leaf: the input.
        usable: the calls whose state could be explained.

    Raises:
        Unclear: if there is no attention, or it does not lie behind such a state.
    """
    if not found.attention:
        raise Unclear("its forward pass computes no attention", hopeless=True)
    through = cuts(value.grad_fn, leaf)
    taken: dict[tuple[Any, int], list[Visit]] = {}
    latest = len(through)
    for visit in usable:
        origin = visit.origin
        # A state that is taken once more when a later one exists does not begin a piece.
        if origin is not None and through.get(origin, latest + 1) <= latest and found.calls[visit.module] == 1:
            latest = through[origin]
            taken.setdefault(origin, []).append(visit)
    states = list(taken.values())
    if not states or states[0][0].before == len(found.attention):
        raise Unclear(
            "no state of its forward pass has a grid and is all that the prediction depends on: several streams run side by "
            "side, or a way leads past its blocks",
            hopeless=True,
        )
    if states[0][0].before:
        raise Unclear(
            f"{states[0][0].before} of {len(found.attention)} attention matrices are computed before the first state that "
            "is all that the prediction depends on",
            hopeless=True,
        )
    starts = [visits[0].before for visits in states]
    ends = [*starts[1:], len(found.attention)]
    return [
        _piece(visits, range(start, end))
        for visits, start, end in zip(states, starts, ends, strict=True)
        if end > start
    ]


def _piece(visits: Sequence[Visit], attention: range) -> Piece:
    """With the innermost call that computes all of its attention, if nothing took the state before; or else the first call."""
    inner: list[Visit] = []
    for visit in (v for v in visits if v.given is not v.taken):  # what gives back what it takes does nothing
        if inner and inner[-1] not in visit.around:
            break
        inner.append(visit)
    for visit in reversed(inner):
        if len(visit.seen) == len(attention):
            return Piece(visit, attention, True)
    return Piece(visits[0], attention, False)


def cuts(root: Any, leaf: Tensor) -> dict[tuple[Any, int], int]:
    """The nodes of the graph, each with the number of its output, that every way from the root to the leaf leads through.

    They are numbered from the root. In an order in which each node comes before those that it depends on, a node is one if no
    edge leads past it.
    """
    order = _ordered(root, leaf)
    place = {node: index for index, node in enumerate(order)}
    found: dict[tuple[Any, int], int] = {}
    furthest, entered = 0, {root: {0}}
    for index, node in enumerate(order):
        outputs = entered[node]
        if furthest <= index and len(outputs) == 1:
            found[node, next(iter(outputs))] = len(found)
        for after, output in node.next_functions:
            if after in place:
                furthest = max(furthest, place[after])
                entered.setdefault(after, set()).add(output)
    return found


def _ordered(root: Any, leaf: Tensor) -> list[Any]:
    """The nodes between the root and the leaf, each before those that it depends on."""
    leads: dict[Any, bool] = {}  # whether a way leads from the node to the leaf
    order: list[Any] = []
    waiting = [(root, False)]
    while waiting:
        node, back = waiting.pop()
        if not back and node not in leads:
            leads[node] = getattr(node, "variable", None) is leaf
            waiting.append((node, True))
            waiting.extend((after, False) for after, _ in node.next_functions if after is not None)
        elif back:
            leads[node] = leads[node] or any(leads.get(after, False) for after, _ in node.next_functions)
            if leads[node]:
                order.append(node)
    return order[::-1]

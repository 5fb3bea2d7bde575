"""Explanations of words and pictures at the resolution of the vision tower, whose patches are often finer than the tokens.

The tower's patches take the place of the picture's tokens, and hold together what those held, but for what lies in no patch: on
the tower's class token or registers, and in its biases. The method and the rule are those of the explanation; where a method has
no rule, libra carries its scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ..capture.rules import make_rule
from ..errors import InputError
from ..explanation import Explanation
from ..model import Adapter, Encoding
from ..model.tower import Tower
from ..tokens import Place, Tokens
from ..trace import Trace
from ..trace.tower import through_tower
from .settings import Settings

REST = "tower_rest"
"""Of `Explanation.measured`: what the pictures' tokens held that lies in no patch of the tower."""


def carried(
    adapter: Adapter,
    settings: Settings,
    encoding: Encoding,
    trace: Trace,
    contributions: Tensor,
    explanation: Explanation,
) -> Explanation:
    """The explanation with patches of the tower in place of the pictures' tokens.

    Args:
        adapter: of the model.
        settings: how it was explained.
        encoding: the only example.
        trace: what was explained.
        contributions: of the method, `[L, 1, T]`.
        explanation: made of them.

    Raises:
        InputError: if there are several examples in one batch.
        OptionError: if there is no tower, or it is not known where its patches lie.
    """
    if len(encoding.tokens) != 1:
        raise InputError("through_tower=True carries one input at a time: give model arguments of one row")
    tower, tokens = adapter.tower(encoding), explanation.tokens
    seen = torch.tensor([place is not None for place in tokens.places or ()])
    scores = contributions.sum(0)[0] * seen
    rule = make_rule("libra") if settings.rule is None else settings.make_rule()
    gradient = _gradient(settings, trace, contributions.flatten(1).any(1).tolist())
    relevance = through_tower(adapter, encoding, tower, rule, scores, gradient).cpu()
    order = _order(tokens, tower)
    words, held = explanation.scores, relevance[[place is not None for place in tower.places]].sum()
    layer = torch.stack([words[one.at] if one.place is None else relevance[one.at] for one in order])
    rest = float(scores.sum() - held)
    moved = [one.at if one.place is None else -1 for one in order]
    start, position = explanation.start, explanation.position
    return replace(
        explanation,
        layers=layer[None],
        tokens=_tokens(tokens, tower, order),
        options={**explanation.options, "through_tower": True},
        measured={**explanation.measured, REST: rest},
        bias=None if explanation.bias is None else explanation.bias + rest,
        position=moved.index(position) if position in moved else None,
        start=moved.index(start) if start in moved else None if start is None else len(order),
    )


def _gradient(settings: Settings, trace: Trace, counted: Sequence[bool]) -> Tensor | None:
    """The sum of the gradients at the blocks that the scores are summed over, weighted as they are, `[T, D]`.

    None where scores are not products of gradient and state.
    """
    if not trace.gradient or settings.method.needs.attention:
        return None
    total: Tensor | None = None
    for block, gradient in enumerate(trace.gradient[: len(counted)]):
        if gradient.shape != trace.gradient[0].shape:
            return None
        if not counted[block]:
            continue
        weight = trace.received[block][0, :, None].float() if trace.received else 1.0
        part = gradient[0].float() * weight
        total = part if total is None else total + part
    return total


@dataclass(frozen=True)
class _Entry:
    """A token that stays, or a patch of the tower: its number there, and of a patch its place."""

    at: int
    place: Place | None


def _order(tokens: Tokens, tower: Tower) -> list[_Entry]:
    """The tokens as they stand, with the tower's patches where the first token of their picture stands."""
    patches: dict[int, list[_Entry]] = {}
    for at, place in enumerate(tower.places):
        if place is not None:
            patches.setdefault(tower.patches[place[0]].picture, []).append(_Entry(at, place))
    found: list[_Entry] = []
    assert tokens.places is not None
    assert tokens.patches is not None
    for at, place in enumerate(tokens.places):
        if place is None:
            found.append(_Entry(at, None))
        else:
            found += patches.pop(tokens.patches[place[0]].picture, [])
    return found


def _tokens(tokens: Tokens, tower: Tower, order: Sequence[_Entry]) -> Tokens:
    def picked(values: tuple[Any, ...] | None) -> tuple[Any, ...] | None:
        return None if values is None else tuple(values[one.at] if one.place is None else None for one in order)

    return Tokens(
        tuple(tokens.labels[one.at] if one.place is None else _label(tower, one.place) for one in order),
        tuple(one.place is None and tokens.special[one.at] for one in order),
        spans=picked(tokens.spans),
        segments=picked(tokens.segments),
        words=picked(tokens.words),
        patches=tower.patches,
        places=tuple(one.place for one in order),
    )


def _label(tower: Tower, place: Place) -> str:
    grid = tower.patches[place[0]].grid
    assert grid is not None
    return f"{place[1] // grid[1]},{place[1] % grid[1]}"

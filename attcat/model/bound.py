"""An adapter for the length of a pass: bound to a twin of its model, which no other thread runs."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from ..capture.borrow import as_found
from ..capture.randomness import OwnRandomness
from ..capture.twin import NotCopied, Twin
from .adapter import Adapter
from .encoding import Encoding

log = logging.getLogger("attcat")

POOL = 16
"""How many twins an adapter keeps: as many passes can run at once without making one."""


@dataclass(frozen=True)
class _Bound:
    adapter: Adapter
    twin: Twin


@contextmanager
def borrowed(adapter: Adapter) -> Iterator[Adapter]:
    """The same adapter with a model that may be written on: in evaluation mode, eager, without checkpoints.

    Usually this is a twin of the model. A model that has none is lent itself, under a lock. A twin that something went wrong
    with is thrown away, so there is nothing to put back.

    Args:
        adapter: of the user's model; or one that is borrowed already, which is given as it is.
    """
    if _is_borrowed(adapter):
        yield adapter
        return
    pool: deque[_Bound] = vars(adapter).setdefault("_twins", deque(maxlen=POOL))
    bound = _taken(adapter, pool)
    if bound is None:
        with as_found(adapter.model):
            yield adapter
    else:
        yield bound.adapter
        pool.append(bound)


def resolved(adapter: Adapter, encoding: Encoding) -> Encoding:
    """The encoding with the place that is explained, chosen in a pass of its own where the head chooses by what is predicted."""
    if not adapter.head.is_open(encoding):
        return encoding
    with borrowed(adapter) as own, torch.no_grad(), OwnRandomness():
        return adapter.head.settle(encoding, own.logits(own.call(encoding)))


def _is_borrowed(adapter: Adapter) -> bool:
    return vars(adapter).get("_twins", ()) is None


def _taken(adapter: Adapter, pool: deque[_Bound]) -> _Bound | None:
    """A twin out of the pool that still is one, or a new one; None if the model has none."""
    while True:
        try:
            bound = pool.pop()
        except IndexError:
            break
        if bound.twin.is_current:
            return bound
    if vars(adapter).get("_lone"):
        return None
    try:
        return _bind(adapter)
    except NotCopied as reason:
        vars(adapter)["_lone"] = True  # walking through all of it takes long, and it would fail at every pass
        log.info("%s is explained in one thread at a time: %s", type(adapter.model).__name__, reason)
        return None


def _bind(adapter: Adapter) -> _Bound:
    adapter.head  # noqa: B018 - found once, for all twins
    twin = Twin(adapter.model)
    _forget_exchanged(adapter, twin)
    bound = twin.of(adapter)
    for tower in (bound, *bound.towers):
        if not set(getattr(tower, "blocks", ())) <= set(twin.model.modules()):  # discovery has none yet
            raise NotCopied(f"the blocks of {type(tower).__name__} are not modules of its own model")
        vars(tower)["_twins"] = None
    return _Bound(bound, twin)


def _forget_exchanged(adapter: Adapter, twin: Twin) -> None:
    """Blocks that the user has exchanged for others are looked for again."""
    for tower in (adapter, *adapter.towers):
        known: tuple[nn.Module, ...] = vars(tower).get("blocks", ())
        if not all(map(twin.knows, known)):
            del vars(tower)["blocks"]

"""Received attention where not every query sees every token: within windows, over coarser keys, several times in a block.

What a block's attention matrices belong to is known by their keys: each row of keys has the place of the token that it was
computed from. A token's weight is the mean over the queries that can see it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .attention import CHUNK, Call
from .rules import named
from .torch_calls import Looking, is_softmax


@dataclass(frozen=True)
class Keys:
    """What the keys of one attention matrix stand for.

    Args:
        index: its number among those of the block.
        places: for each key the position of the block's state, or the coarser cell, that it was computed from; -1 for
            padding. `[N, K]`, where N are the matrices of one example: windows and heads.
        cells: for each position of the block's state, the cell that it lies in; None if keys stand for positions.
        count: the number of positions, or of cells.
    """

    index: int
    places: Tensor
    count: int
    cells: Tensor | None = None


def received_within(seen: Sequence[Call | Tensor], keys: Sequence[Keys], batch: int) -> Tensor:
    """How much attention each position of a block receives.

        w_i = mean over heads, and over the queries q that can see i, of a_{q,i}

    Keys that stand for several positions share their weight among them; of several matrices the mean is taken.

    Args:
        seen: the block's attention.
        keys: what their keys stand for; the others are left out.
        batch: B.

    Returns:
        `[B, T]`, at least float32.
    """
    weights = [_received(seen[one.index], one, batch) for one in keys]
    return torch.stack(weights).mean(0)


def _received(attention: Call | Tensor, keys: Keys, batch: int) -> Tensor:
    count, places = keys.count, keys.places.to(_device(attention))
    *_, queries, number = attention.shape
    target = places.masked_fill(places < 0, count).flatten()  # padding is put behind, and cut off
    padded = (places < 0)[..., None] if queries == number else torch.zeros_like(places[:, :1, None], dtype=torch.bool)
    total = torch.zeros(batch, count + 1, device=target.device)
    able = torch.zeros_like(total)
    for rows, weights in _in_chunks(attention):
        a = weights.reshape(batch, len(places), *weights.shape[-2:])
        a = a.masked_fill(padded[:, rows] if padded.shape[1] > 1 else padded, 0.0)  # queries that are padding
        total = total.index_add(1, target, a.sum(-2).flatten(1).to(total.dtype))
        able = able.index_add(1, target, (a > 0).sum(-2).flatten(1).to(able.dtype))
    mean = (total / able.clamp(min=1))[:, :count]
    if keys.cells is None:
        return mean
    cells = keys.cells.to(mean.device)
    return mean[:, cells] / cells.bincount(minlength=count)[cells]


def _in_chunks(attention: Call | Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Some queries at a time, and their weights `[..., queries, K]`."""
    if isinstance(attention, Tensor):
        yield slice(None), attention.detach().float().nan_to_num(0.0)
        return
    batch, heads, queries, number = attention.shape
    step = max(1, CHUNK // (batch * heads * number))
    for start in range(0, queries, step):
        rows = slice(start, min(start + step, queries))
        weights = attention.weights(rows).float()
        short = number - weights.shape[-1]  # of a causal call, keys that no query of these sees
        yield rows, torch.nn.functional.pad(weights, (0, short)) if short else weights


def _device(attention: Call | Tensor) -> torch.device:
    return attention.device if isinstance(attention, Tensor) else attention.query.device


class KeyWatcher(Looking):
    """Notes the keys of each attention matrix in the blocks that are running, as rows `[..., K, d]`.

    In a fused call they are an argument. Of a softmax that is written out they are the second factor of the last product of
    its shape, or the factor of a sum over indices that has the keys' index.

    Args:
        running: the number of the block that is running, in a list that changes; empty before the first.
        matrices: where the shape of every matrix is noted with its keys, or None if they were not seen, by block.
    """

    def __init__(
        self, running: Sequence[int], matrices: dict[int, list[tuple[tuple[int, ...], Tensor | None]]]
    ) -> None:
        super().__init__()
        self.running = running
        self.matrices = matrices
        self.products: list[tuple[tuple[int, ...], Tensor]] = []

    def look(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
        """One call."""
        if func in _PRODUCT and len(args) == 2 and isinstance(result, Tensor):
            self.products.append((tuple(result.shape), args[1].transpose(-2, -1) if args[1].dim() > 1 else args[1]))
        elif func is torch.einsum and (keys := _summed(*args)) is not None:
            self.products.append((tuple(result.shape), keys))
        elif func is torch.nn.functional.scaled_dot_product_attention and self.running:
            call = Call.of(*args, **kwargs)
            self._note(call.shape, call.key)
        elif self.running and is_softmax(func, result):
            shape = tuple(result.shape)
            self._note(shape, next((keys for made, keys in reversed(self.products) if _alike(made, shape)), None))

    def _note(self, shape: tuple[int, ...], keys: Tensor | None) -> None:
        self.products.clear()
        self.matrices.setdefault(self.running[-1], []).append((shape, None if keys is None else keys.detach().clone()))


def _summed(equation: Any, *given_factors: Any) -> Tensor | None:
    """The keys `[..., K, d]` in a product that is written as a sum over indices: the factor with the last index of the result."""
    if not isinstance(equation, str) or "->" not in equation or "." in equation:
        return None
    factors = given_factors[0] if isinstance(given_factors[0], (list, tuple)) else given_factors
    taken, _, given = equation.replace(" ", "").partition("->")
    for letters, factor in zip(taken.split(","), factors, strict=False):
        if len(given) > 2 and given[-1] in letters and given[-2] not in letters and set(letters) - set(given):
            lead, summed = [x for x in given[:-2] if x in letters], [x for x in letters if x not in given]
            axes = [letters.index(x) for x in (*lead, given[-1], *summed)]
            keys: Tensor = factor.permute(axes).flatten(len(lead) + 1)
            return keys
    return None


def _alike(product: tuple[int, ...], softmax: tuple[int, ...]) -> bool:
    """The same queries and keys, and as many matrices, however their axes are arranged."""
    return product[-2:] == softmax[-2:] and torch.Size(product).numel() == torch.Size(softmax).numel()


_PRODUCT = set(named("matmul", "bmm"))

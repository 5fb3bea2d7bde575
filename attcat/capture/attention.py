"""Attention weights from queries and keys, only as much of them as a method asks for.

What a method reads is made when it reads it: the sum over queries in chunks, or the matrix of one block at a time. Between
the forward pass and the method only queries, keys and values are kept, whose memory grows with the sequence.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import overload

import torch
from torch import Tensor

CHUNK = 1 << 20
"""How many attention weights are held at once: 4 MiB in float32, which a processor's cache still holds."""

ROWS = 64
"""Of long inputs so many queries are taken all the same: matrix products of fewer rows are slow."""


@dataclass(frozen=True)
class Call:
    """The arguments of one call of `scaled_dot_product_attention` that decide its attention weights.

    Args:
        query: `[B, H, T, d]`.
        key: `[B, G, S, d]`, where `G` divides `H` (grouped keys).
        mask: boolean (True takes part) or additive, broadcastable to `[B, H, T, S]`.
        causal: whether a query sees only keys up to its own position.
        scale: factor of the products; None means 1 / sqrt(d).
        value: `[B, G, S, d]`, kept if the gradient of the weights is asked for.
        output: what the call returned, `[B, H, T, d]`, in the graph; kept with `value`.
        share: how much of its gradient the weights are given.
    """

    query: Tensor
    key: Tensor
    mask: Tensor | None = None
    causal: bool = False
    scale: float | None = None
    value: Tensor | None = None
    output: Tensor | None = None
    share: float = 1.0

    @classmethod
    def of(
        cls,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> Call:
        """Read a call's arguments; the parameters are those of torch's function."""
        if query.dim() > 4 and attn_mask is None:  # windows as an axis of their own
            query, key = query.flatten(0, -4), key.flatten(0, -4)
        elif query.dim() == 3:  # batch, windows and heads in one axis
            query, key = query[:, None], key[:, None]
            attn_mask = attn_mask[:, None] if attn_mask is not None and attn_mask.dim() == 3 else attn_mask
        return cls(query, key, attn_mask, is_causal, scale)

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """`(B, H, T, S)` of the attention matrix."""
        return (*self.query.shape[:3], self.key.shape[2])

    def weights(self, rows: slice = slice(None), product: Callable[[Tensor, Tensor], Tensor] = torch.matmul) -> Tensor:
        """softmax(q k^T * scale + mask) of some queries.

        Args:
            rows: which queries.
            product: how q k^T is computed, for rules that differentiate it in their own way.

        Returns:
            `[B, H, len(rows), S']` in the queries' dtype, at least float32. Rows whose keys are all masked are 0. S' is S;
            of a causal call less where `rows` end early, as no query sees a later key.
        """
        weights = self.products(rows, product).softmax(-1)
        return weights if self.mask is None else weights.nan_to_num(0.0)  # a padding query may see no key at all

    def products(self, rows: slice = slice(None), product: Callable[[Tensor, Tensor], Tensor] = torch.matmul) -> Tensor:
        """q k^T * scale + mask, the arguments of softmax; arguments and shape as for `weights`."""
        query = self.query[:, :, rows]
        wide = torch.promote_types(query.dtype, torch.float32)
        key = _per_head(self.key[:, :, : self._seen(rows)], query.shape[1])
        scale = query.shape[-1] ** -0.5 if self.scale is None else self.scale
        products = product(query.to(wide) * scale, key.to(wide).transpose(-2, -1))
        if self.mask is not None:
            mask = self.mask[..., rows, :] if self.mask.shape[-2] > 1 else self.mask
            mask = mask[..., : key.shape[2]]
            products = products.masked_fill(~mask, -torch.inf) if mask.dtype == torch.bool else products + mask
        if self.causal:
            queries, keys = (torch.arange(length, device=products.device) for length in self.shape[2:])
            products = products.masked_fill(keys[: key.shape[2]] > queries[rows, None], -torch.inf)
        return products

    def received(self, query_weights: Tensor, counted: Sequence[int] | None = None, chunk: int | None = None) -> Tensor:
        """How much attention each token receives: the weighted mean over queries, the plain mean over heads.

            w_i = 1/H sum_h sum_q c_q a^h_{q,i}

        The matrix is never held whole: queries are taken in chunks.

        Args:
            query_weights: c, `[B, T]`, summing to 1; queries of weight 0 do not count. Of a single example also several
                rows, `[N, T]`, when it is asked for with several weightings.
            counted: the queries, in order, whose weight is not 0 in every row; looked up if it is not known.
            chunk: how many weights are held at once; by default `CHUNK`.

        Returns:
            w, `[B, S]` (or `[N, S]`), at least float32.
        """
        batch, heads, _, keys = self.shape
        query_weights = query_weights.to(torch.promote_types(self.query.dtype, torch.float32))
        total = query_weights.new_zeros(len(query_weights), keys)
        for rows in self._chunks(counting(query_weights) if counted is None else counted, chunk):
            weights, seen = self.weights(rows), self._seen(rows)
            if len(query_weights) == batch:
                total[:, :seen] += (query_weights[:, None, None, rows] @ weights).sum((1, 2))
            else:
                total[:, :seen] += query_weights[:, rows] @ weights.sum(1).squeeze(0)
        return total / heads

    def pulled_back(self, gradient: Tensor, groups: int) -> Tensor:
        """The gradient at the values for one at the output, with constant attention, in chunks of queries like `received`.

            dy/dv_j = sum_q a_{q,j} dy/do_q

        Args:
            gradient: dy/do, `[B, H, T, d]`.
            groups: G, the heads of the values.

        Returns:
            dy/dv, `[B, G, S, d]`, in the gradient's dtype; summed up in float32 at least.
        """
        batch, heads, queries, keys = self.shape
        wide = gradient.to(torch.promote_types(gradient.dtype, torch.float32))
        total = wide.new_zeros(batch, heads, keys, gradient.shape[-1])
        for rows in self._chunks(range(queries)):
            total[:, :, : self._seen(rows)] += self.weights(rows).transpose(-2, -1) @ wide[:, :, rows]
        return total.view(batch, groups, heads // groups, keys, -1).sum(2).to(gradient.dtype)

    def weight_gradient(self, gradient: Tensor) -> Tensor:
        """The gradient at the attention weights for one at the output: `dy/da_{q,j} = dy/do_q . v_j`.

        Args:
            gradient: dy/do, `[B, H, T, d]`.

        Returns:
            dy/da, `[B, H, T, S]`, at least float32.
        """
        if self.value is None:
            raise ValueError("the call was recorded without its values: record(..., attention=True)")
        wide = torch.promote_types(gradient.dtype, torch.float32)
        value = _per_head(self.value, gradient.shape[1])
        return (gradient.to(wide) * self.share) @ value.to(wide).transpose(-2, -1)

    def _chunks(self, queries: Sequence[int], chunk: int | None = None) -> Iterator[slice]:
        """Slices of these queries, of `chunk` weights each; by default `CHUNK`, but no fewer than `ROWS` queries."""
        batch, heads, _, keys = self.shape
        row = batch * heads * keys
        return _chunks(queries, max(ROWS, CHUNK // row) if chunk is None else max(1, chunk // row))

    def _seen(self, rows: slice) -> int:
        """How many keys these queries can see at most."""
        _, _, queries, keys = self.shape
        return min(keys, rows.indices(queries)[1]) if self.causal else keys


@dataclass(frozen=True)
class Several:
    """Attention that a block computes in several calls over the same tokens: the heads of all of them, one after another."""

    parts: tuple[Call | Tensor, ...]

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """`(B, H, T, S)`, with the heads of all calls."""
        batch, _, queries, keys = self.parts[0].shape
        return batch, sum(part.shape[1] for part in self.parts), queries, keys


Seen = Call | Tensor | Several
"""A block's attention as it was seen: a fused call, a matrix that was written out, or several of them."""


def parts_of(attention: Seen) -> tuple[Call | Tensor, ...]:
    """The calls that make up a block's attention."""
    return attention.parts if isinstance(attention, Several) else (attention,)


class Matrices(Sequence[Tensor]):
    """A matrix `[B, H, T, T]` for each block, made when it is asked for: one pass over them holds one at a time."""

    def __init__(self, makers: Sequence[Callable[[], Tensor]] = ()) -> None:
        self._makers = tuple(makers)

    def __len__(self) -> int:
        return len(self._makers)

    @overload
    def __getitem__(self, block: int) -> Tensor: ...
    @overload
    def __getitem__(self, block: slice) -> Matrices: ...
    def __getitem__(self, block: int | slice) -> Tensor | Matrices:
        if isinstance(block, slice):
            return Matrices(self._makers[block])
        with torch.no_grad():
            return self._makers[block]()


def mix(weights: Tensor, value: Tensor, product: Callable[[Tensor, Tensor], Tensor] = torch.matmul) -> Tensor:
    """sum_j a_ij v_j.

    Args:
        weights: a, `[B, H, T, S]`.
        value: v, `[B, G, S, d]`, where `G` divides `H`.
        product: how the sum is computed.

    Returns:
        `[B, H, T, d]` in the values' dtype.
    """
    return product(weights.to(value.dtype), _per_head(value, weights.shape[1]))


def _per_head(grouped: Tensor, heads: int) -> Tensor:
    """Keys or values `[B, G, S, d]`, repeated for the heads that share them: `[B, H, S, d]`."""
    groups = grouped.shape[1]
    return grouped if groups == heads else grouped.repeat_interleave(heads // groups, dim=1)


def is_flat(softmax: Tensor, batch: int, tokens: int | None = None) -> bool:
    """Whether a softmax may be attention with batch and heads in one axis, `[B * H, T, T]`, perhaps with a sink.

    Of a single token it may be that only where `tokens` says that there is one.
    """
    if softmax.dim() != 3:
        return False
    rows, queries, keys = softmax.shape
    expected = queries > 1 if tokens is None else queries == tokens
    return expected and keys in (queries, queries + 1) and rows % batch == 0


def counting(query_weights: Tensor) -> list[int]:
    """The queries that count in some row of `[B, T]`."""
    counted: list[int] = query_weights.any(0).nonzero().squeeze(-1).tolist()
    return counted


def _chunks(wanted: Sequence[int], size: int) -> Iterator[slice]:
    """Slices of at most `size` that cover the positions from the first to the last, without gaps of more than `size`."""
    while wanted:
        within = bisect_left(wanted, wanted[0] + size)
        yield slice(wanted[0], wanted[within - 1] + 1)
        wanted = wanted[within:]

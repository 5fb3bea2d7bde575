"""A batch that is ready for the model, and masks over its tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from ..tokens import Tokens


@dataclass(frozen=True)
class Encoding:
    """A batch, ready for the model.

    Args:
        arguments: what the model is called with, on its device.
        mask: bool `[B, T]`, True for real tokens.
        tokens: what the real tokens stand for, one `Tokens` per example.
        sources: the input to draw on, one per example: a string, a pair, uint8 pixels `[H, W, 3]`, or None.
        dropped: how many tokens were cut from each example.
        focus: `[B]`, the position whose prediction is explained, where there is one for each token; see `attcat.model.heads`.
    """

    arguments: Mapping[str, Tensor]
    mask: Tensor
    tokens: tuple[Tokens, ...]
    sources: tuple[Any, ...]
    dropped: tuple[int, ...] = field(default=())
    focus: Tensor | None = None

    def __post_init__(self) -> None:
        batch = self.mask.shape[0]
        if not self.dropped:
            object.__setattr__(self, "dropped", (0,) * batch)
        if not len(self.tokens) == len(self.sources) == len(self.dropped) == batch:
            raise ValueError(f"{batch} rows, but {len(self.tokens)} tokens and {len(self.sources)} sources")
        for row, (real, tokens) in enumerate(zip(self.mask.sum(-1).tolist(), self.tokens, strict=True)):
            if real != len(tokens):
                raise ValueError(f"example {row}: {real} positions are real, but {len(tokens)} tokens are named")

    def rows(self, rows: Sequence[int]) -> Encoding:
        """Some examples, in any order and as often as wanted, without the columns that only others need."""
        index = torch.tensor(rows, device=self.mask.device)
        mask = self.mask[index]
        length = int(mask.any(0).nonzero().max()) + 1
        return Encoding(
            {name: _cut(value[index], self.mask, length) for name, value in self.arguments.items()},
            mask[:, :length],
            tuple(self.tokens[row] for row in rows),
            tuple(self.sources[row] for row in rows),
            tuple(self.dropped[row] for row in rows),
            None if self.focus is None else self.focus[index],
        )


def content_of(encoding: Encoding) -> Tensor:
    """bool `[B, T]`: the tokens of a batch that stand for a part of the input."""
    content = encoding.mask.clone()
    for row, tokens in enumerate(encoding.tokens):
        content[row, encoding.mask[row]] = ~torch.tensor(tokens.special, device=content.device)
    return content


def first_of(mask: Tensor) -> Tensor:
    """The first True of each row, as a mask."""
    return mask & (mask.long().cumsum(-1) == 1)


def last_of(mask: Tensor) -> Tensor:
    """The last True of each row, as a mask."""
    rank = mask.long().cumsum(-1)
    return mask & (rank == rank[:, -1:])


def _cut(value: Any, mask: Tensor, length: int) -> Any:
    """An argument with a column per token, cut to `length` tokens; others as they are."""
    return value[:, :length] if value.dim() == 2 and value.shape[1] == mask.shape[1] else value

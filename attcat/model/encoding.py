"""A batch that is ready for the model, and masks over its tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..errors import InputError
from ..tokens import Tokens, View


@dataclass(frozen=True)
class Encoding:
    """A batch, ready for the model.

    Args:
        arguments: what the model is called with, on its device.
        mask: bool `[B, T]`, True for real tokens.
        tokens: what the real tokens stand for, one `Tokens` per example.
        sources: the inputs to draw on, one per example: a string, a pair, uint8 pixels `[H, W, 3]`, or None.
        dropped: how many tokens were cut from each example.
        focus: `[B]`, the position whose prediction is explained, where there is one for each token; see `attcat.model.heads`.
        start: where a prompt ends and the tokens that a model wrote begin, if that is what is explained.
        offset: how many positions come before those that the model's output has rows for: of an encoder with a decoder those of
            the source, unless both read the same text.
        views: what the whole model input shows of each picture; None for other inputs.
        place: `[B]` or `[B, 2]`, the place on the picture whose prediction is explained, where there is one for each of many; see
            `attcat.model.regions`.
    """

    arguments: Mapping[str, Tensor]
    mask: Tensor
    tokens: tuple[Tokens, ...]
    sources: tuple[Any, ...]
    dropped: tuple[int, ...] = field(default=())
    focus: Tensor | None = None
    start: int = 0
    offset: int = 0
    views: tuple[View | None, ...] = field(default=())
    place: Tensor | None = None

    def __post_init__(self) -> None:
        batch = self.mask.shape[0]
        if not self.dropped:
            object.__setattr__(self, "dropped", (0,) * batch)
        if not self.views:
            object.__setattr__(self, "views", (None,) * batch)
        if not len(self.tokens) == len(self.sources) == len(self.dropped) == batch:
            raise ValueError(f"{batch} rows, but {len(self.tokens)} tokens and {len(self.sources)} sources")
        for row, (real, tokens) in enumerate(zip(self.mask.sum(-1).tolist(), self.tokens, strict=True)):
            if real != len(tokens):
                raise ValueError(f"example {row}: {real} positions are real, but {len(tokens)} tokens are named")

    def rows(self, rows: Sequence[int]) -> Encoding:
        """Some examples, in any order and with repeats, without the columns that only others need."""
        index = torch.tensor(rows, device=self.mask.device)
        mask = self.mask[index]
        length = int(mask.any(0).nonzero().max()) + 1
        return self._picked(rows, {"mask": mask[:, :length]}, slice(length))

    def alone(self, row: int) -> Encoding:
        """One example without its padding, on whichever side that is."""
        real = self.mask[row]
        changes: dict[str, Any] = {"mask": self.mask[row : row + 1, real]}
        if self.focus is not None:
            changes["focus"] = real[: int(self.focus[row])].sum()[None]
        return self._picked([row], changes, real)

    def padded_arguments(self, more: int, pad: int) -> dict[str, Tensor]:
        """The arguments with so many columns behind those that have one for each token: the number `pad`, 0 in the others."""
        wide = {n: F.pad(v, (0, more)) if v.shape == self.mask.shape else v for n, v in self.arguments.items()}
        return {**wide, "input_ids": F.pad(self.arguments["input_ids"], (0, more), value=pad)}

    def _picked(self, rows: Sequence[int], changes: dict[str, Any], columns: slice | Tensor) -> Encoding:
        """The entries of some rows in every field, also the fields of a subclass."""
        index = torch.tensor(rows, device=self.mask.device)
        for each in fields(self):
            value = getattr(self, each.name)
            if each.name in changes or each.name == "arguments":
                continue
            if isinstance(value, Tensor):
                changes[each.name] = value[index]
            elif isinstance(value, tuple):
                changes[each.name] = tuple(value[row] for row in rows)
        shape = self.mask.shape
        changes["arguments"] = {
            # An argument with a column per token is cut; others stay as they are.
            name: value[index][:, columns]
            if value.dim() in (2, 3) and value.shape[:2] == shape
            else _rows(value, rows, shape[0])
            for name, value in self.arguments.items()
        }
        return replace(self, **changes)


def _rows(value: Tensor, rows: Sequence[int], batch: int) -> Tensor:
    """An argument for some of the examples; if it has several rows for each, as the tiles of its pictures, all of these."""
    index = torch.tensor(rows, device=value.device)
    if len(value) == batch or len(value) % batch:
        return value[index]
    return value.reshape(batch, len(value) // batch, *value.shape[1:])[index].flatten(0, 1)


def together(encodings: Sequence[Encoding], pad: int) -> Encoding:
    """Examples in one batch, padded behind, whatever the tokenizer says: some models count positions from the first column.

    Args:
        encodings: of one example each.
        pad: the token number of padding.

    Returns:
        The batch; arguments without a column per token have the rows of one example after those of another.

    Raises:
        InputError: if such an argument is not of the same shape in all, as pixels of pictures of other sizes.
    """
    length = max(encoding.mask.shape[1] for encoding in encodings)
    rows: list[dict[str, Tensor]] = []
    for encoding in encodings:
        missing = length - encoding.mask.shape[1]
        padded = encoding.padded_arguments(missing, pad)
        rows.append({**padded, "attention_mask": F.pad(encoding.mask, (0, missing)).to(padded["input_ids"].dtype)})
    shapes = [{name: tuple(value.shape) for name, value in row.items()} for row in rows]
    if other := next((shape for shape in shapes if shape != shapes[0]), None):
        raise InputError(f"these inputs share no batch, as their arguments have other shapes: {shapes[0]} and {other}")
    mask = torch.cat([F.pad(encoding.mask, (0, length - encoding.mask.shape[1])) for encoding in encodings])
    arguments = {name: torch.cat([row[name] for row in rows]) for name in rows[0]}
    tokens, sources, dropped = (
        tuple(getattr(encoding, name)[0] for encoding in encodings) for name in ("tokens", "sources", "dropped")
    )
    return Encoding(arguments, mask, tokens, sources, dropped)


def checked_arguments(arguments: Mapping[str, Any]) -> dict[str, Tensor]:
    """Ready-made model arguments as tensors of real numbers.

    Raises:
        InputError: if one is something else.
    """
    found = {}
    for name, value in arguments.items():
        if not isinstance(name, str):
            raise InputError(f"model arguments have names, got {name!r}: give a dict as the tokenizer makes it")
        expected = f"{name}: expected numbers in a tensor, an array or nested lists of equal length"
        try:
            tensor = torch.as_tensor(value)
        except (TypeError, ValueError, RuntimeError, OverflowError) as error:
            raise InputError(f"{expected}, got a {type(value).__name__} ({error})") from error
        if tensor.is_complex() or tensor.is_sparse or tensor.is_meta or tensor.is_quantized:
            raise InputError(f"{expected}, got {tensor.dtype} on {tensor.device} ({tensor.layout})")
        found[name] = tensor
    return found


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

"""Models that read a sampled signal, as a sound or a video: tokens stand for boxes of it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError
from .adapter import Adapter
from .encoding import Encoding, content_of


@dataclass(frozen=True)
class Places:
    """Where the tokens of an input lie on it.

    Args:
        boxes: for each token and each axis of the input the stretch that it stands for, float `[T, axes, 2]`; NaN for tokens
            that stand for no part of the input.
    """

    boxes: np.ndarray

    def __len__(self) -> int:
        return len(self.boxes)

    @property
    def special(self) -> np.ndarray:
        """bool `[T]`: the tokens that stand for no part of the input."""
        return np.isnan(self.boxes).any((1, 2))

    def area(self, token: int) -> tuple[slice, ...]:
        """What a token stands for, as slices of the input."""
        return tuple(slice(max(0, round(low)), max(1, round(high))) for low, high in self.boxes[token])


class SignalAdapter(Adapter):
    """A model that reads one array of numbers, whose axes are time, frequencies, rows, columns."""

    arguments: ClassVar[tuple[str, ...]] = ()
    """What models call it."""
    axes: ClassVar[str]
    """What its shape is, for an error."""

    @abstractmethod
    def places(self, shape: tuple[int, ...]) -> Places:
        """Where the tokens lie on an input of this shape, without the batch."""

    @abstractmethod
    def named(self, arguments: dict[str, Any], source: Any) -> Encoding:
        """The tokens of one input, by where they lie."""

    @cached_property
    def continuous(self) -> str:  # type: ignore[override]
        """The name of the argument that holds the signal."""
        main = getattr(self.model, "main_input_name", None)
        return main if main in self.arguments else self.arguments[0]

    @property
    def can_batch(self) -> bool:
        """One at a time: in a batch the padding of a shorter one would change the first layers' statistics."""
        return False

    def cost(self, value: Any) -> int:
        """About how many tokens an input has."""
        return 1024

    def encode_arguments(self, arguments: Mapping[str, Tensor]) -> Encoding:
        """Name the tokens of ready-made model arguments of one input; see `Adapter.encode_arguments`."""
        given = arguments.get(self.continuous)
        if not isinstance(given, Tensor) or not given.is_floating_point() or len(given) != 1:
            shown = ", ".join(f"{n}: {tuple(getattr(v, 'shape', ()))}" for n, v in arguments.items())
            raise InputError(f"model arguments need float {self.continuous!r} {self.axes}, got {shown or 'none'}")
        return self.named(self.place(arguments), None)

    removals = ("mean", "zero")

    def remove(self, encoding: Encoding, removed: Tensor | None = None, how: str | None = None) -> Encoding:
        """The mean of the input, or 0, in place of what removed tokens stand for; see `Adapter.remove`."""
        how = self.removal(how)
        given = encoding.arguments[self.continuous]
        places = self.places(tuple(given.shape[1:]))
        removed = content_of(encoding) if removed is None else removed
        area = torch.zeros(given.shape, dtype=torch.bool, device=given.device)
        for token in (removed[0].cpu().numpy() & ~places.special).nonzero()[0]:
            area[0][places.area(token)] = True
        instead = torch.zeros_like(given) if how == "zero" else given.mean().expand_as(given)
        return replace(encoding, arguments={**encoding.arguments, self.continuous: torch.where(area, instead, given)})

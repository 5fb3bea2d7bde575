"""What is explained: a class, by index or by name, or any number that can be computed from the model's output."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from numbers import Integral
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .errors import Option, OptionError, TargetError


@dataclass(frozen=True)
class Rank:
    """The class at this place in the ranking: 0 is the predicted one."""

    place: int


Name = int | str | slice
"""A class by index or label; an answer in a text also by its characters."""

Target = Name | tuple[Name, Name] | Callable[[Any], Tensor] | Rank | None
"""Nothing (the predicted class), an index, a label, a contrast of two (why the first rather than the second), or a function
from the model's output to one number per row, `[B]`."""


class Lookup(Sequence[str]):
    """Names of very many classes, with its own way to find one."""

    @abstractmethod
    def find(self, target: Any) -> int:
        """The index of a class.

        Raises:
            TargetError: if there is no such class.
        """


Measure = Callable[[Tensor, Tensor], Tensor]
"""From logits `[N, C]` and classes `[N]` to what is explained of each class, `[N]`."""


def logit(logits: Tensor, classes: Tensor) -> Tensor:
    """The logit of one class per row, `[N]`."""
    return logits.gather(1, classes[:, None]).squeeze(1)


@dataclass(frozen=True)
class Goal:
    """What is explained in each row of a batch, fixed: the predicted class stays that of the first pass.

    Args:
        classes: `[B]`, -1 where a function is explained.
        against: `[B]`, the class whose logit is subtracted, -1 where there is none.
        functions: one function per row, or None.
        measure: what is explained of a class; a contrast is of two logits, which is what the odds of one class
            against the other are.
    """

    classes: Tensor
    against: Tensor
    functions: tuple[Callable[[Any], Tensor] | None, ...]
    measure: Measure = logit

    @classmethod
    def of(
        cls, logits: Tensor, targets: Sequence[Target], labels: Sequence[Sequence[str]], measure: Measure = logit
    ) -> Goal:
        """Look up the user's targets: one target and the classes' names per row of `logits` `[B, C]`.

        Raises:
            TargetError: if a class does not exist.
        """
        pairs = [_classes(*row) for row in zip(logits.detach(), targets, labels, strict=True)]
        if any(index >= 0 and logits[row, index] == -torch.inf for row, pair in enumerate(pairs) for index in pair):
            raise TargetError("the model rules this class out (its logit is -inf): choose another target")
        functions = tuple(target if callable(target) else None for target in targets)
        classes, against = (torch.tensor(column, device=logits.device) for column in zip(*pairs, strict=True))
        return cls(classes, against, functions, measure)

    def of_row(self, row: int) -> Goal:
        """That of one example."""
        only = slice(row, row + 1)
        return replace(self, classes=self.classes[only], against=self.against[only], functions=self.functions[only])

    def value(self, output: Any, logits: Tensor) -> Tensor:
        """The number that is explained, `[N]`, for a model output of N rows: the batch, or the batch several times.

        Raises:
            TargetError: if a function returns anything but one number per row, or loses the gradient.
        """
        times = len(logits) // len(self.classes)
        classes = self.classes.repeat(times).clamp(min=0)
        value = self.measure(logits, classes)
        if (self.against >= 0).any():
            against = self.against.repeat(times)
            contrast = logit(logits, classes) - logit(logits, against.clamp(min=0))
            value = torch.where(against >= 0, contrast, value)
        for function in dict.fromkeys(f for f in self.functions if f is not None):
            rows = torch.tensor([f is function for f in self.functions] * times, device=logits.device)
            value = torch.where(rows, _checked(function(output), value), value)
        return value


def _classes(logits: Tensor, target: Target, labels: Sequence[str]) -> tuple[int, int]:
    """The class that is explained and the one it is contrasted with, -1 for none."""
    if callable(target):
        return -1, -1
    if target is None:
        return int(logits.argmax()), -1
    if isinstance(target, Rank):
        return int(logits.argsort(descending=True)[target.place]), -1
    if isinstance(target, tuple):
        if len(target) != 2:
            raise TargetError(f"a contrast names two classes (this rather than that), got {len(target)}")
        first, second = (find_class(name, labels) for name in target)
        if first == second:
            raise TargetError(f"a contrast needs two different classes, got {labels[first]!r} twice")
        return first, second
    return find_class(target, labels), -1


def _checked(result: Any, like: Tensor) -> Tensor:
    if not isinstance(result, Tensor) or result.shape != like.shape:
        shape = tuple(result.shape) if isinstance(result, Tensor) else type(result).__name__
        raise TargetError(f"the target function returned {shape}, expected a tensor [{len(like)}]: one number per row")
    if like.requires_grad and not result.requires_grad:
        raise TargetError(
            "the target function's result does not depend on the hidden states: avoid .detach(), argmax and numpy in it"
        )
    return result.to(like.dtype)


def find_class(target: Name, labels: Sequence[str]) -> int:
    """The index of a class, given by index or by label (case-insensitive; one synonym of several is enough).

    Raises:
        TargetError: if there is no such class, or several.
    """
    if isinstance(labels, Lookup):
        return labels.find(target)
    index = integer(target)
    if index is None and not isinstance(target, str):
        raise TargetError(f"a target is a class index, a label or a function, not {type(target).__name__}")
    shown = ", ".join(labels[:20]) + (f", ... ({len(labels)} in all)" if len(labels) > 20 else "")
    if index is not None:
        if not 0 <= index < len(labels):
            raise TargetError(f"no class {index}: the model has 0 to {len(labels) - 1} ({shown})")
        return index
    target = str(target)
    wanted = target.strip().casefold()
    for matches in (
        [i for i, label in enumerate(labels) if label == target],
        [i for i, label in enumerate(labels) if label.casefold() == wanted],
        [i for i, label in enumerate(labels) if wanted in (part.strip().casefold() for part in label.split(","))],
    ):
        if len(matches) == 1:
            return matches[0]
        if matches:
            raise TargetError(f"{len(matches)} classes are called {target!r}: give one of the indices {matches[:10]}")
    raise TargetError(f"no class {target!r}: the model has {shown}")


def integer(value: Any) -> int | None:
    """A Python or numpy integer, or that in a tensor without dimensions; None for anything else, e.g. bools and floats."""
    if isinstance(value, (Tensor, np.ndarray)) and value.ndim == 0:
        value = value.item()
    return int(value) if isinstance(value, Integral) and not isinstance(value, bool) else None


def count(name: str, value: Any) -> int:
    """An option that counts something.

    Raises:
        OptionError: if it is not an integer of at least 1.
    """
    number = integer(value)
    if number is None or number < 1:
        raise OptionError(Option(name, value), ": expected an integer of at least 1")
    return number


def listed(target: Any) -> Any:
    """Class indices in a tensor or array `[B]` as a list; any other target unchanged."""
    if (
        isinstance(target, Tensor)
        and target.dim() == 1
        and not target.is_floating_point()
        and target.dtype != torch.bool
    ):
        return target.tolist()
    return (
        target.tolist() if isinstance(target, np.ndarray) and target.ndim == 1 and target.dtype.kind in "iu" else target
    )

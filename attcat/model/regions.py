"""Heads that predict something for each of many places on a picture: detectors, one class per box, and segmentation, one per
pixel. A target says which place is meant: `("box", 3)`, `("pixel", 120, 40)`.

Of all places the row of one is explained. From there on it is a classification, with contrasts and probabilities.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..errors import InputError, Option, TargetError, UnsupportedModelError
from ..probabilities import Activation
from ..targets import Rank, integer
from ..tokens import View
from .encoding import Encoding
from .heads import Head, register_head

Place = tuple[int, ...]
"""A box by its number, or a pixel by its column and row."""


class RegionHead(Head):
    """One row of logits for each place; what both kinds share."""

    kind: ClassVar[str]
    """What a place is called in a target."""
    numbers: ClassVar[int]
    """How many whole numbers say which one."""
    example: ClassVar[tuple[Any, ...]]
    """A target."""
    aims = True

    def aim(self, target: Any) -> tuple[Any, Any]:
        """The place that a target names, and the class there; see `Head.aim`.

        Raises:
            TargetError: if it names a place in another way.
        """
        if not isinstance(target, tuple) or not target or not (isinstance(target[0], str) and target[0] == self.kind):
            return None, target
        place, rest = tuple(map(integer, target[1 : 1 + self.numbers])), target[1 + self.numbers :]
        if len(place) < self.numbers or None in place or len(rest) > 1:
            raise TargetError(
                Option("target", target),
                ": expected ",
                Option("target", self.example),
                ", or with a class, ",
                Option("target", (*self.example, "cat")),
            )
        return place, rest[0] if rest else None

    def place_of(self, encoding: Encoding, row: int) -> tuple[Any, ...]:
        """As a target names it."""
        assert encoding.place is not None
        numbers = encoding.place[row].flatten().tolist()
        return (self.kind, *numbers)

    def _checked(self, token: Any) -> Place | None:
        if token is None:
            return None
        if isinstance(token, tuple) and token[:1] == (self.kind,):
            token = token[1:]
        if not isinstance(token, tuple) or len(token) != self.numbers or None in map(integer, token):
            raise InputError(
                f"{type(self.model).__name__} is asked by ", Option("target", self.example), f", not by {token!r}"
            )
        return tuple(int(number) for number in token)


@register_head("ForObjectDetection")
class DetectionHead(RegionHead):
    """A detector: `target=("box", 3)` is the fourth of the boxes that it predicts, in the order of its output.

    The classes of a box are the model's own, and `no object` if its softmax has that as a last class (Carion et al., ECCV 2020,
    section 3.1). Without a class the best one is explained that is an object; without a box the most probable one.
    """

    task = "object detection"
    kind, numbers, example = "box", 1, ("box", 3)
    NOTHING: ClassVar[str] = "no object"
    many: ClassVar[str] = "boxes"

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._counted: dict[str, int] = {}  # shared with the twins' heads: it leads to no module

    @property
    def activation(self) -> Activation | None:
        """Softmax where there is a class for no object, else each class by itself; None before the model was run."""
        classes = self._counted.get("classes")
        return None if classes is None else "softmax" if self._has_nothing(classes) else "sigmoid"

    def _has_nothing(self, classes: int) -> bool:
        return classes == len(self.names or ()) + 1

    def trial(self, encoding: Encoding, row: int) -> Any:
        """The first box."""
        return (0,)

    def point(self, encoding: Encoding, tokens: Sequence[Any]) -> Encoding:
        """The boxes that were asked for, -1 where none was; see `Head.point`."""
        places = [self._checked(token) for token in tokens]
        boxes = torch.tensor([-1 if place is None else place[0] for place in places], device=encoding.mask.device)
        if (boxes < -1).any() or any(place is not None and place[0] < 0 for place in places):
            raise TargetError(f"{self.many} are numbered from 0")
        return replace(encoding, place=boxes)

    def is_open(self, encoding: Encoding) -> bool:
        """Whether some box is still to be chosen."""
        return encoding.place is None or bool((encoding.place < 0).any())

    def settle(self, encoding: Encoding, logits: Any) -> Encoding:
        """The most probable box where none was asked for."""
        return replace(encoding, place=self._boxes(self._all(logits), encoding))

    def _all(self, logits: Any) -> Tensor:
        """`[B, Q, C]`, checked."""
        if not isinstance(logits, Tensor) or logits.dim() != 3:
            shape = tuple(logits.shape) if isinstance(logits, Tensor) else "none"
            raise UnsupportedModelError(
                f"{type(self.model).__name__} has no logits [B, {self.many}, classes]: its output has {shape}"
            )
        self._counted["classes"] = logits.shape[2]
        return logits

    def _boxes(self, logits: Tensor, encoding: Encoding) -> Tensor:
        """The box of each row, `[B]`."""
        wide = logits.detach().float()
        objects = wide.softmax(-1)[..., :-1] if self._has_nothing(wide.shape[2]) else wide
        best = objects.amax(-1).argmax(-1)
        if encoding.place is None:
            return best
        if (encoding.place >= logits.shape[1]).any():
            raise TargetError(
                f"no {self.kind} {int(encoding.place.max())}: the model predicts {logits.shape[1]} {self.many}, 0 to "
                f"{logits.shape[1] - 1}"
            )
        return torch.where(encoding.place < 0, best, encoding.place)

    def rows(self, logits: Any, encoding: Encoding) -> Tensor:
        """The row of one box of logits `[B, Q, C]`."""
        every = self._all(logits)
        return every[torch.arange(len(every), device=every.device), self._boxes(every, encoding)]

    def prefer(self, target: Any, logits: Tensor) -> Any:
        """Of the classes of a box `[C]` the best one that is an object, or one of the best."""
        if (target is not None and not isinstance(target, Rank)) or not self._has_nothing(len(logits)):
            return target
        ranked = logits[:-1].argsort(descending=True)
        place = 0 if target is None else target.place
        return int(ranked[place]) if place < len(ranked) else len(logits) - 1

    def labels(self, encoding: Encoding, row: int, count: int) -> Sequence[str]:
        """The classes, with one for no object."""
        names = tuple(self.names or ())
        return (*names, self.NOTHING) if self._has_nothing(count) else super().labels(encoding, row, count)

    def titled(self, label: str, encoding: Encoding, row: int, output: Any) -> str:
        """The class, the box, and where it lies in pixels of the picture: `cat, box 3 from (12, 30) to (80, 96)`."""
        assert encoding.place is not None
        number = int(encoding.place[row])
        return f"{label}, {self.kind} {number}{self.lies(output, row, number, view_of(encoding, row))}"

    def lies(self, output: Any, row: int, number: int, view: View) -> str:
        """Where a box lies, to be put behind its number; empty if the output does not say."""
        boxes = named(output, "pred_boxes")
        if boxes is None or boxes.dim() != 3 or boxes.shape[2] != 4:
            return ""
        across, down, width, height = boxes[row, number].detach().float().tolist()
        return on_picture((across - width / 2, down - height / 2, across + width / 2, down + height / 2), view)


@register_head("ForSemanticSegmentation")
class PixelHead(RegionHead):
    """One class per pixel: `target=("pixel", x, y)` is the column and row of one, in the picture as it was given.

    The model's logits are coarser than the picture; explained is the one whose cell the middle of the pixel lies in.
    """

    task = "semantic segmentation"
    kind, numbers, example = "pixel", 2, ("pixel", 120, 40)

    def trial(self, encoding: Encoding, row: int) -> Any:
        """The pixel in the middle."""
        view = view_of(encoding, row)
        left, top, right, bottom = view.box
        x, y = (left + right) / 2, (top + bottom) / 2
        return int(min(max(x, 0), view.width - 1)), int(min(max(y, 0), view.height - 1))

    def point(self, encoding: Encoding, tokens: Sequence[Any]) -> Encoding:
        """The pixels that were asked for, `[B, 2]`; see `Head.point`."""
        places = []
        for row, token in enumerate(tokens):
            place = self._checked(token)
            if place is None:
                raise InputError(
                    f"{type(self.model).__name__} gives one prediction per pixel: say which one by its column and row, ",
                    Option("target", self.example),
                )
            view = view_of(encoding, row)
            (x, y), (left, top, right, bottom) = place, view.box
            if not (0 <= x < view.width and 0 <= y < view.height):
                raise TargetError(f"no pixel ({x}, {y}): the picture is {view.width} x {view.height}")
            if not (left <= x + 0.5 < right and top <= y + 0.5 < bottom):
                raise TargetError(f"the pixel ({x}, {y}) is cut off by the processor: the model does not see it")
            places.append(place)
        return replace(encoding, place=torch.tensor(places, device=encoding.mask.device))

    def rows(self, logits: Any, encoding: Encoding) -> Tensor:
        """The row of one cell of logits `[B, C, rows, columns]`; in the middle if no pixel is meant."""
        if not isinstance(logits, Tensor) or logits.dim() != 4:
            shape = tuple(logits.shape) if isinstance(logits, Tensor) else "none"
            raise UnsupportedModelError(
                f"{type(self.model).__name__} has no logits [B, classes, rows, columns]: its output has {shape}"
            )
        cells = [self._cell(encoding, row, logits.shape[2:]) for row in range(len(logits))]
        down, across = torch.tensor(cells, device=logits.device).unbind(1)
        return logits[torch.arange(len(logits), device=logits.device), :, down, across]

    def _cell(self, encoding: Encoding, row: int, grid: Sequence[int]) -> tuple[int, int]:
        """The row and column of the logits in which the middle of the pixel lies."""
        x, y = self.trial(encoding, row) if encoding.place is None else encoding.place[row].tolist()
        left, top, right, bottom = view_of(encoding, row).box
        down, across = (y + 0.5 - top) / (bottom - top), (x + 0.5 - left) / (right - left)
        return min(int(down * grid[0]), grid[0] - 1), min(int(across * grid[1]), grid[1] - 1)


def view_of(encoding: Encoding, row: int) -> View:
    """What the whole input of the model shows of a picture; of model arguments, itself."""
    height, width = encoding.arguments["pixel_values"].shape[-2:]
    return encoding.views[row] or View(width, height, (0, 0, width, height))


def named(output: Any, name: str) -> Tensor | None:
    """What a model's output has under a name."""
    found = output.get(name) if isinstance(output, dict) else getattr(output, name, None)
    return found if isinstance(found, Tensor) else None


def on_picture(box: tuple[float, float, float, float], view: View) -> str:
    """Left, top, right and bottom, as shares of the model's input, in pixels of the picture: ` from (12, 30) to (80, 96)`."""
    left, top, right, bottom = view.box
    x = [left + share * (right - left) for share in box[::2]]
    y = [top + share * (bottom - top) for share in box[1::2]]
    return f" from ({x[0]:.0f}, {y[0]:.0f}) to ({x[1]:.0f}, {y[1]:.0f})"

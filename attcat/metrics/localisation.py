"""Does a heatmap lie where the object is? Mosaics of pictures, where no masks are known, and masks."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from PIL import Image

from ..errors import InputError
from ..explanation import Explanation
from ..model.picture import read_picture
from .plausibility import auprc


@dataclass(frozen=True)
class Mosaic:
    """Square pictures side by side.

    Args:
        picture: `side * pixels` wide and high.
        side: pictures in a row.
        classes: what each cell shows, row by row.
        members: the numbers of the pictures in the cells.
    """

    picture: Image.Image
    side: int
    classes: tuple[int, ...]
    members: tuple[int, ...]

    def box(self, cell: int) -> tuple[float, float, float, float]:
        """Left, top, right, bottom of a cell, in the mosaic's pixels."""
        size = self.picture.width / self.side
        row, column = divmod(cell, self.side)
        return column * size, row * size, (column + 1) * size, (row + 1) * size


def mosaics(
    pictures: Sequence[Any], classes: Sequence[int], *, side: int = 2, count: int = 50, pixels: int = 224, seed: int = 0
) -> list[Mosaic]:
    """Mosaics of pictures of different classes, drawn at random.

    Args:
        pictures: those that the model gets right, in any form that an Explainer takes.
        classes: the class of each.
        side: pictures in a row and in a column.
        count: how many mosaics.
        pixels: side of a cell; each picture's largest centred square is scaled to it.
        seed: of the draw.

    Raises:
        InputError: if there are fewer classes than cells.
    """
    by_class: dict[int, list[int]] = {}
    for number, label in enumerate(classes):
        by_class.setdefault(int(label), []).append(number)
    if len(by_class) < side * side:
        raise InputError(
            f"a mosaic of {side} x {side} needs pictures of {side * side} classes that the model gets right, "
            f"there are {len(by_class)}: give more pictures, or a smaller mosaic"
        )
    draw = random.Random(seed)
    found = []
    for _ in range(count):
        labels = tuple(draw.sample(sorted(by_class), side * side))
        members = tuple(draw.choice(by_class[label]) for label in labels)
        found.append(Mosaic(_lay([pictures[m] for m in members], side, pixels), side, labels, members))
    return found


def _lay(pictures: Sequence[Any], side: int, pixels: int) -> Image.Image:
    canvas = Image.new("RGB", (side * pixels, side * pixels))
    for cell, value in enumerate(pictures):
        picture = read_picture(value)
        square = min(picture.size)
        left, top = (picture.width - square) // 2, (picture.height - square) // 2
        row, column = divmod(cell, side)
        part = picture.resize((pixels, pixels), Image.Resampling.BICUBIC, (left, top, left + square, top + square))
        canvas.paste(part, (column * pixels, row * pixels))
    return canvas


def relevance_in_box(explanation: Explanation, box: tuple[float, float, float, float]) -> float:
    """Share of the positive relevance that lies in a box; a patch counts by the part of its area in the box.

        sum over the box of max(s, 0) / sum of max(s, 0)

    Args:
        explanation: that of a picture.
        box: left, top, right, bottom in the picture's pixels.

    Returns:
        0 to 1, NaN if nothing is positive; chance is the box's share of the area. Source: the localisation metric of
        Boehle et al., CVPR 2021, section 4 (grid pointing game), on patches instead of pixels.

    Raises:
        InputError: if the explanation is not of a picture.
    """
    positive = explanation.grid.double().clamp(min=0).numpy()
    inside = explanation.view.overlap(positive.shape, box)
    total = positive.sum()
    return float((inside * positive).sum() / total) if total > 0 else float("nan")


Box = tuple[float, float, float, float]
"""Left, top, right, bottom, in the picture's pixels."""


def covered(explanation: Explanation, boxes: Sequence[Box]) -> np.ndarray:
    """Which part of each patch lies in at least one of several boxes, float64 `[rows, columns]`, 0 to 1.

    Args:
        explanation: that of a picture.
        boxes: they may overlap; what lies in two counts once.

    Raises:
        InputError: if the explanation is not of a picture, or there is no box.
    """
    for box in boxes:
        if len(box) != 4 or not (box[0] < box[2] and box[1] < box[3]):
            raise InputError(f"box {tuple(box)}: expected left < right and top < bottom, as (left, top, right, bottom)")
    if not boxes:
        raise InputError("no boxes: where the evidence lies is what the map is measured against")
    grid, view = explanation.grid.numpy().shape, explanation.view
    across, down = (sorted({box[edge] for box in boxes for edge in edges}) for edges in ((0, 2), (1, 3)))
    found = np.zeros(grid)
    for left, right in pairwise(across):  # the lines through all edges cut the boxes into parts that do not overlap
        for top, bottom in pairwise(down):
            middle, centre = (left + right) / 2, (top + bottom) / 2
            if any(box[0] < middle < box[2] and box[1] < centre < box[3] for box in boxes):
                found += view.overlap(grid, (left, top, right, bottom))
    return found


def relevance_in_boxes(explanation: Explanation, boxes: Sequence[Box]) -> float:
    """Share of the positive relevance that lies in the evidence, for a picture whose evidence is several boxes.

        sum over patches of max(s, 0) * (part of the patch in a box) / sum of max(s, 0)

    Args:
        explanation: that of a picture.
        boxes: where the evidence lies, e.g. the shapes that a question is about.

    Returns:
        0 to 1, NaN if nothing is positive; chance is the boxes' share of the area. Source: as `relevance_in_box`.

    Raises:
        InputError: as for `covered`.
    """
    inside, positive = covered(explanation, boxes), explanation.grid.double().clamp(min=0).numpy()
    total = positive.sum()
    return float((inside * positive).sum() / total) if total > 0 else float("nan")


def points_at(explanation: Explanation, boxes: Sequence[Box]) -> float:
    """The pointing game on patches: 1 if the patch with the highest score has a part in a box, else 0.

    Of several that are the highest, the mean. Arguments as for `relevance_in_boxes`. Source: Zhang et al., ECCV 2016.
    """
    inside, scores = covered(explanation, boxes), explanation.grid.numpy()
    return float((inside[scores == scores.max()] > 0).mean())


def grid_pointing(mosaic: Mosaic, explanations: Sequence[Explanation]) -> list[float]:
    """`relevance_in_box` of each cell, from the explanations of its class.

    Args:
        mosaic: the picture that was explained.
        explanations: one per cell, of `mosaic.classes`.

    Raises:
        InputError: if they are not.
    """
    targets = tuple(explanation.again for explanation in explanations)
    if targets != mosaic.classes:
        raise InputError(f"explanations of {targets}, but the cells show {mosaic.classes}: one per cell, of its class")
    return [relevance_in_box(explanation, mosaic.box(cell)) for cell, explanation in enumerate(explanations)]


def against_mask(explanation: Explanation, mask: np.ndarray) -> dict[str, float]:
    """A heatmap against a segmentation mask, on the pixels that the model saw.

    For the first two figures the heatmap is thresholded at its mean.

    Args:
        explanation: of a picture of `[H, W]` pixels.
        mask: bool `[H, W]`, True on the object.

    Returns:
        `pixel_accuracy`; `miou`, the mean of object's and background's intersection over union; `map`, the mean average
        precision of object and background; `pointing`, 1 if the highest pixel is on the object. All 0 to 1, higher
        is better. Source: Chefer et al., CVPR 2021, section 4 (segmentation); Zhang et al., ECCV 2016 (pointing game).

    Raises:
        InputError: if the mask does not fit, or is all object or all background where the model sees the picture.
    """
    heatmap = explanation.heatmap()
    if mask.shape != heatmap.shape or mask.dtype != bool:
        raise InputError(
            f"mask {mask.dtype} {mask.shape}, expected bool {heatmap.shape}, the picture's height and width"
        )
    seen = np.isfinite(heatmap)
    values, gold = heatmap[seen].astype(np.float64), mask[seen]
    if gold.all() or not gold.any():
        raise InputError("the mask is all object or all background where the model sees the picture: nothing to find")
    cut = values > values.mean()
    scores, flags = torch.from_numpy(values), torch.from_numpy(gold)
    return {
        "pixel_accuracy": float((cut == gold).mean()),
        "miou": float(np.mean([(cut & gold).sum() / (cut | gold).sum(), (~cut & ~gold).sum() / (~cut | ~gold).sum()])),
        "map": (auprc(scores, flags) + auprc(-scores, ~flags)) / 2,
        "pointing": float(gold[values.argmax()]),
    }

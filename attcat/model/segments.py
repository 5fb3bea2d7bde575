"""Heads that predict a class and a mask for each of many segments: `target=("segment", 3)` is the fourth.

Queries compete for the parts of a picture, as a detector's do for its boxes; the class of one of them is explained (Cheng et al.,
MaskFormer, NeurIPS 2021, section 3.2).
"""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from ..tokens import View
from .heads import register_head
from .regions import DetectionHead, named, on_picture

MASKS = ("masks_queries_logits", "pred_masks")
"""Names of the masks' logits `[B, Q, rows, columns]` in a model's output."""


@register_head("ForInstanceSegmentation", "ForUniversalSegmentation", "ForSegmentation")
class SegmentHead(DetectionHead):
    """A class per segment: `target=("segment", 3)` is the fourth that the model predicts, in the order of its output.

    As of boxes, without a class the best one is explained that is an object, and without a segment the most probable one.
    """

    task = "instance segmentation"
    kind, numbers, example = "segment", 1, ("segment", 3)
    many: ClassVar[str] = "segments"

    def logits(self, output: Any) -> Any:
        """`[B, Q, C]`, which have a name of their own beside masks, or the usual one."""
        found = named(output, "class_queries_logits")
        return super().logits(output) if found is None else found

    def lies(self, output: Any, row: int, number: int, view: View) -> str:
        """The smallest rectangle around the pixels that belong to the segment more likely than not."""
        masks = [mask for mask in (named(output, name) for name in MASKS) if mask is not None]
        return _around(masks[0][row, number].detach() > 0, view) if masks else super().lies(output, row, number, view)


def _around(inside: Tensor, view: View) -> str:
    if inside.dim() != 2:
        return ""
    if not bool(inside.any()):
        return " without a pixel"
    rows, columns = inside.any(1).nonzero().flatten().tolist(), inside.any(0).nonzero().flatten().tolist()
    height, width = inside.shape
    return on_picture((columns[0] / width, rows[0] / height, (columns[-1] + 1) / width, (rows[-1] + 1) / height), view)

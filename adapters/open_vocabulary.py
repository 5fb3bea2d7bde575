"""Detectors that are asked in words: OWL-ViT (Minderer et al. 2022) and OWLv2 (2023). `target=("box", 3)` is the box of the
fourth patch; explained is the logit with which it fits the words. Either side is explained, as of CLIP (see `image_text`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from attcat.model import Encoding
from attcat.model.encoding import first_of
from attcat.model.regions import DetectionHead

from .image_text import ClipAdapter, ClipTextTower, PairEncoding


class AskedBoxHead(DetectionHead):
    """Of every box one class: the words that were asked for."""

    activation: ClassVar[Any] = "sigmoid"

    def _has_nothing(self, classes: int) -> bool:
        return False

    def labels(self, encoding: Encoding, row: int, count: int) -> Sequence[str]:
        return (f"match with {encoding.names[row]}" if isinstance(encoding, PairEncoding) else "match",)


class OwlTextTower(ClipTextTower):
    """The head reads the highest token number, which is that of the end."""

    family = "OWL-ViT (text)"
    head_type = AskedBoxHead
    block_paths = ("owlvit.text_model.encoder.layers", "owlv2.text_model.encoder.layers")

    @property
    def reader(self) -> Any:
        model: Any = self.model
        return (getattr(model, "owlvit", None) or model.owlv2).text_model

    def end_of(self, ids: Tensor) -> Tensor:
        return ids.argmax(-1)


class OwlAdapter(ClipAdapter):
    """A box is read at its own patch, and at the class token."""

    family = "OWL-ViT"
    head_type = AskedBoxHead
    text_tower = OwlTextTower
    block_paths = ("owlvit.vision_model.encoder.layers", "owlv2.vision_model.encoder.layers")

    def read(self, encoding: Encoding) -> Tensor:
        found, places = first_of(encoding.mask), encoding.place
        if places is not None:
            found[torch.arange(len(found)), places.clamp(min=0) + len(self.prefix)] = True
        return found

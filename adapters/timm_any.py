"""Every other timm model: inspected, with the transform and the class names that timm knows."""

from functools import cached_property
from typing import Any

from torch import nn

from attcat.model.discovered import DiscoveredVision

from .timm_vit import class_names, evaluation_transform


class TimmAdapter(DiscoveredVision):
    family = "other timm transformers that attend over all patches"

    def __init__(self, model: nn.Module, processor: Any = None) -> None:
        super().__init__(model, processor if processor is not None else evaluation_transform(model))

    @cached_property
    def labels(self) -> tuple[str, ...] | None:  # type: ignore[override]
        """Names from the model's configuration, or of the ImageNet classes that its head was trained on."""
        return class_names(self.model)

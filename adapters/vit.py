"""ViT (Dosovitskiy et al. 2021) in transformers: pre-LayerNorm, the head reads `[CLS]`."""

from collections.abc import Sequence
from typing import ClassVar

from attcat.adapter import VisionAdapter


class ViTAdapter(VisionAdapter):
    family = "ViT"
    block_paths: ClassVar[tuple[str, ...]] = ("vit.layers", "vit.encoder.layer")
    prefix: tuple[str, ...] = ("[CLS]",)

    @property
    def patch_size(self) -> tuple[int, int]:
        """Height and width of a patch, from the configuration."""
        size: int | Sequence[int] = self.model.config.patch_size  # type: ignore[union-attr, assignment]
        return (size, size) if isinstance(size, int) else (size[0], size[1])

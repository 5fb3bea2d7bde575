"""ViT (Dosovitskiy et al. 2021) in transformers: pre-LayerNorm, the head reads `[CLS]`."""

from collections.abc import Sequence
from typing import Any, ClassVar

from attcat.model import Encoding, VisionAdapter


class ViTAdapter(VisionAdapter):
    family = "ViT"
    block_paths: ClassVar[tuple[str, ...]] = ("vit.layers", "vit.encoder.layer")
    prefix: tuple[str, ...] = ("[CLS]",)
    causal = False

    def call(self, encoding: Encoding) -> Any:
        """Position embeddings are interpolated for pictures of a size other than in training."""
        return self.model(**encoding.arguments, **resized(encoding, self.model.config.image_size))  # type: ignore[union-attr]

    @property
    def patch_size(self) -> tuple[int, int]:
        """Height and width of a patch, from the configuration."""
        size: int | Sequence[int] = self.model.config.patch_size  # type: ignore[union-attr, assignment]
        return (size, size) if isinstance(size, int) else (size[0], size[1])


def resized(encoding: Encoding, native: Any) -> dict[str, bool]:
    """The argument that a transformers model needs for pictures of a size other than its `native` one."""
    expected = (native, native) if isinstance(native, int) else tuple(native)
    return {} if encoding.arguments["pixel_values"].shape[-2:] == expected else {"interpolate_pos_encoding": True}

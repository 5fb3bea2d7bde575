"""DINOv2 (Oquab et al. 2023), with or without registers, in transformers: the head reads `[CLS]` and the mean patch."""

from functools import cached_property
from typing import Any, ClassVar

from torch import Tensor

from attcat.model import Encoding

from .vit import ViTAdapter


class Dinov2Adapter(ViTAdapter):
    family = "DINOv2"
    block_paths: ClassVar[tuple[str, ...]] = (
        "dinov2.encoder.layer",
        "dinov2.layers",
        "dinov2_with_registers.encoder.layer",
        "dinov2_with_registers.layers",
    )

    def call(self, encoding: Encoding) -> Any:
        """The model interpolates its own position embeddings."""
        return self.model(**encoding.arguments)

    @cached_property
    def prefix(self) -> tuple[str, ...]:  # type: ignore[override]
        """The class token and the registers."""
        count = getattr(self.model.config, "num_register_tokens", 0)
        return ("[CLS]", *(f"[REG{index + 1}]" for index in range(count)))  # type: ignore[arg-type]

    def read(self, encoding: Encoding) -> Tensor:
        """The class token and every patch, not the registers."""
        read = encoding.mask.clone()
        read[:, 1 : len(self.prefix)] = False
        return read

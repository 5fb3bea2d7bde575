"""A timm model loaded through transformers (`TimmWrapperForImageClassification`)."""

from typing import Any

from torch import Tensor, nn

from attcat.errors import UnsupportedModelError
from attcat.model import Encoding, config_labels, find_adapter

from .timm_any import TimmAdapter
from .timm_vit import TimmVisionTransformerAdapter, check_size


class TimmWrapperAdapter(TimmVisionTransformerAdapter):
    family = "timm models loaded through transformers"
    block_paths = ("timm_model.blocks",)

    def __init__(self, model: nn.Module, processor: Any = None) -> None:
        inner: Any = model.timm_model
        adapter = find_adapter(inner)
        if adapter is TimmAdapter:  # whose blocks are found by experiment; of convolutions it says that there are none
            TimmAdapter(inner, processor)
        if not issubclass(adapter, TimmVisionTransformerAdapter):
            raise UnsupportedModelError(
                f"the wrapped {type(inner).__name__} is served by {adapter.__name__}: explain it directly"
            )
        self.inner: TimmVisionTransformerAdapter = adapter(inner, processor)
        super(TimmVisionTransformerAdapter, self).__init__(model, self.inner.processor)

    def call(self, encoding: Encoding) -> Any:
        """The wrapper takes transformers' arguments."""
        check_size(self.inner.model, encoding)
        return self.model(**encoding.arguments)

    @property
    def patch_size(self) -> tuple[int, int]:
        return self.inner.patch_size

    def grid(self, height: int, width: int) -> tuple[int, int]:
        return self.inner.grid(height, width)

    @property
    def prefix(self) -> tuple[str, ...]:
        return self.inner.prefix

    def read(self, encoding: Encoding) -> Tensor:
        return self.inner.read(encoding)

    @property
    def labels(self) -> tuple[str, ...] | None:
        """The wrapper has transformers' configuration, with its labels."""
        return config_labels(self.model)

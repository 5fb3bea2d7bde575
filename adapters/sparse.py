"""BigBird, whose attention in transformers is block-sparse: refused, unless it is set to attend over all tokens."""

from typing import Any

from torch import nn

from attcat.errors import UnsupportedModelError
from attcat.model.discovered import DiscoveredText


class SparseAdapter(DiscoveredText):
    """Refuses before the model is run: on a short text BigBird would switch itself to full attention permanently."""

    family = "BigBird with attention_type='original_full'"

    def __init__(self, model: nn.Module, processor: Any = None) -> None:
        kind = getattr(model.config, "attention_type", None)
        name = type(model).__name__
        if kind != "original_full":
            raise UnsupportedModelError(
                f"{name} is configured with attention_type={kind!r}: a token does not attend to all others, so that there "
                'is no matrix [B, H, T, T] to read; load the model with attention_type="original_full"'
            )
        super().__init__(model, processor)

"""A model that sees and writes, which no adapter knows: an encoder of pictures, and a decoder that writes what it saw.

Where the patches lie is found as of other models of pictures; the rest is in `sensing`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ...errors import InputError
from ..adapter import Adapter
from ..describing import among_words
from ..encoding import Encoding
from ..heads import Head
from .experiments import picture_size
from .sensing import DiscoveredSensing
from .vision import DiscoveredVision

WRITTEN_AS = "decoder_input_ids"
"""The argument that holds what a decoder has written, as most models call it."""


class Eye(DiscoveredVision):
    """Where the patches of a picture lie; the blocks were found by others.

    Args:
        model: the whole model.
        processor: its processor or image processor.
        written: what the decoder is given meanwhile, int64 `[1, A]`.
    """

    head_type: type[Head] = Head
    written_as = WRITTEN_AS
    reads_what, lost = "one picture", "mean"

    def __init__(self, model: nn.Module, processor: Any, written: Tensor) -> None:
        parts = (getattr(processor, name, None) for name in ("image_processor", "feature_extractor"))
        sees = next((part for part in parts if part is not None), processor)
        Adapter.__init__(self, model, None if hasattr(sees, "convert_ids_to_tokens") else sees)
        self.written = written
        self._grids, self._layouts = {}, {}

    @property
    def where(self) -> str:
        """What a token stands for."""
        (height, width), (rows, columns) = next(iter(self._grids.items()))
        return (
            f"{len(self.prefix)} prefix tokens, then {rows} x {columns} patches of {self.patch_size[0]:.4g} x "
            f"{self.patch_size[1]:.4g} pixels for a picture of {height} x {width}"
        )

    def tried(self) -> tuple[dict[str, Any], None]:
        """Noise of the model's own size; it is no picture."""
        noise = torch.randn(1, 3, *picture_size(self), generator=torch.Generator().manual_seed(0))
        return self.place({"pixel_values": noise}), None

    def unnamed(self, arguments: dict[str, Any]) -> Encoding:
        """A batch whose tokens are not known yet."""
        return replace(self._unnamed(arguments["pixel_values"]), arguments=arguments)

    def settle(self) -> None:
        """Find where the patches lie."""
        self._place(*picture_size(self))

    def call(self, encoding: Encoding) -> Any:
        """As `DiscoveredVision`, with something for the decoder."""
        pixels = encoding.arguments["pixel_values"]
        written = self.written.to(self.device).expand(len(pixels), -1)
        given = {WRITTEN_AS: written, **encoding.arguments}
        return self.model(**{self.written_as if name == WRITTEN_AS else name: value for name, value in given.items()})

    def named(self, arguments: dict[str, Any], source: Any) -> Encoding:
        """Model arguments of one picture."""
        return self.encode_arguments(arguments)

    def encode(self, inputs: Any, *, truncation: bool = False) -> Encoding:
        """One picture."""
        return among_words(super().encode(inputs, truncation=truncation), seen=True)

    def encode_arguments(self, arguments: Any) -> Encoding:
        """Model arguments of one picture."""
        return among_words(super().encode_arguments(arguments), seen=False)

    def remove(self, encoding: Encoding, removed: Tensor | None = None, how: str | None = None) -> Encoding:
        """As `DiscoveredVision`, whose patches stand among no words."""
        height, width = encoding.arguments["pixel_values"].shape[-2:]
        alone = (self._tokens(height, width, None),) * len(encoding.tokens)
        mask = torch.ones(len(alone), len(alone[0]), dtype=torch.bool, device=encoding.mask.device)
        changed = super().remove(replace(encoding, tokens=alone, mask=mask), removed, how)
        return replace(encoding, arguments=changed.arguments)


class DiscoveredDescribing(DiscoveredSensing):
    """An encoder of pictures with a decoder that writes."""

    family = "discovered model that sees and writes"

    def _sense(self, model: nn.Module, processor: Any, written: Tensor) -> Eye:
        return Eye(model, processor, written)


class TextEye(Eye):
    """The same of a model that calls what it has written `input_ids`."""

    written_as = "input_ids"


class DiscoveredCaptioning(DiscoveredDescribing):
    """An encoder of pictures with a text model that reads them by cross-attention, and has no other input than what it wrote."""

    def _sense(self, model: nn.Module, processor: Any, written: Tensor) -> Eye:
        return TextEye(model, processor, written)

    def run(self, model: nn.Module, arguments: Mapping[str, Tensor]) -> Any:
        """With what was written under the model's own name for it."""
        return super().run(model, {TextEye.written_as if n == WRITTEN_AS else n: v for n, v in arguments.items()})

    def encode_arguments(self, arguments: Mapping[str, Tensor]) -> Encoding:
        """As for other models, with what was written under the model's own name for it."""
        given = {n: v for n, v in arguments.items() if n != "attention_mask"}
        if "attention_mask" in arguments and not torch.as_tensor(arguments["attention_mask"]).bool().all():
            raise InputError("the text has padding: give one row of input_ids without it")
        return super().encode_arguments({WRITTEN_AS if n == self.sense.written_as else n: v for n, v in given.items()})

    def encode_source(self, arguments: Any) -> Encoding:
        """As for other models; a text to go on from is no source."""
        if isinstance(arguments, Mapping) and self.sense.written_as in arguments:
            raise InputError(
                f"{type(self.model).__name__} reads {self.sense.written_as} as what it has written so far: give the "
                "picture alone, and the text that it begins with at the beginning of answer="
            )
        return super().encode_source(arguments)

    @property
    def start_token(self) -> int:
        """The token that a text begins with."""
        config = getattr(getattr(self.model, "config", None), "text_config", None)
        token = getattr(config, "bos_token_id", None)
        return token if isinstance(token, int) else super().start_token

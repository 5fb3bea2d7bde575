"""More models that compare a picture with a text, as CLIP does: Chinese-CLIP, MetaCLIP 2, AltCLIP, SigLIP 2 whose pictures keep
their proportions, ALIGN, and any two encoders in a `VisionTextDualEncoderModel`. See `image_text`, which explains either side.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from attcat.errors import InputError, OptionError
from attcat.model import Encoding, TextAdapter
from attcat.model.encoding import content_of
from attcat.model.picture import read_picture, to_pixels

from .image_text import (
    ClipAdapter,
    ClipTextTower,
    ImageTower,
    PairEncoding,
    SiglipAdapter,
    SiglipTextTower,
    TextTower,
    split,
    whole,
)


class BertTextTower(TextTower):
    """Both directions; the head reads the first token."""

    family = "dual encoder (text)"
    block_paths = ("text_model.encoder.layer", "text_model.encoder.layers", "text_model.roberta.encoder.layers")

    @cached_property
    def max_length(self) -> int | None:
        """As many as there are positions, which in RoBERTa's kin begin behind the padding's."""
        tables = (m for n, m in self.reader.named_modules() if n.endswith("position_embeddings"))
        table = next((m for m in tables if isinstance(m, nn.Embedding)), None)
        positions = self.positions_of(table) if table is not None else super().max_length
        said = getattr(self.processor, "model_max_length", None)
        return min((n for n in (positions, said) if isinstance(n, int)), default=None)

    @staticmethod
    def positions_of(table: nn.Embedding) -> int:
        """Rows of a table of positions, less those up to that of the padding."""
        return table.num_embeddings - (0 if table.padding_idx is None else table.padding_idx + 1)


class ChineseClipTextTower(BertTextTower):
    family = "Chinese-CLIP (text)"


class ChineseClipAdapter(ClipAdapter):
    family = "Chinese-CLIP"
    text_tower = ChineseClipTextTower


class AltClipTextTower(BertTextTower):
    family = "AltCLIP (text)"


class AltClipAdapter(ClipAdapter):
    family = "AltCLIP"
    text_tower = AltClipTextTower


class MetaClip2TextTower(ClipTextTower):
    family = "MetaCLIP 2 (text)"
    old_ends = False


class MetaClip2Adapter(ClipAdapter):
    family = "MetaCLIP 2"
    text_tower = MetaClip2TextTower


class DualTextTower(BertTextTower):
    """Of two encoders of whatever kind: CLIP's reads the end of the text, others their first token."""

    def read(self, encoding: Encoding) -> Tensor:
        """What its kind reads."""
        kind = str(self.model.config.text_config.model_type)  # type: ignore[union-attr]
        return ClipTextTower.read(self, encoding) if kind.startswith("clip") else super().read(encoding)  # type: ignore[arg-type]


class DualAdapter(ClipAdapter):
    """The pictures' encoder has a class token, which the head reads."""

    family = "dual encoder"
    block_paths = ("vision_model.encoder.layers", "vision_model.layers", "vision_model.encoder.layer")
    text_tower = DualTextTower


class Siglip2TextTower(SiglipTextTower):
    family = "SigLIP 2 (text)"

    def call(self, encoding: Encoding) -> Any:
        return self.model(**encoding.arguments)


class Siglip2Adapter(SiglipAdapter):
    """Pictures keep their proportions: as many patches as fit, in a row, behind them padding."""

    family = "SigLIP 2"
    text_tower = Siglip2TextTower
    removals: ClassVar[tuple[str, ...]] = ("zero", "mean")  # type: ignore[assignment]
    can_batch = True  # type: ignore[assignment] # the rows are padded

    def samples(self) -> Any:
        """As for others; without a processor 3 x 4 patches of noise and some padding."""
        if self.whole_processor is not None:
            return super().samples()
        config: Any = self.model.config
        pixels = torch.randn(2, 14, 3 * config.vision_config.patch_size**2, generator=torch.Generator().manual_seed(0))
        shapes, mask = torch.tensor([[3, 4], [4, 3]]), torch.arange(14).expand(2, -1) < 12
        ids = torch.arange(3, 3 + min(9, config.text_config.max_position_embeddings))
        return {
            "input_ids": ids.repeat(2, 1),
            "pixel_values": pixels,
            "pixel_attention_mask": mask.long(),
            "spatial_shapes": shapes,
        }

    def call(self, encoding: Encoding) -> Any:
        return self.model(**encoding.arguments)

    def encode_pictures(self, pictures: list[Any]) -> Encoding:
        """Each with a grid of its own."""
        read = [read_picture(picture) for picture in pictures]
        made = self.processor(images=read, return_tensors="pt")
        return self._gridded(dict(made), [picture.size for picture in read], tuple(map(to_pixels, read)))

    def encode_arguments(self, arguments: Mapping[str, Tensor]) -> Encoding:
        missing = {"pixel_values", "pixel_attention_mask", "spatial_shapes"} - set(arguments)
        if missing:
            raise InputError(f"model arguments need also {', '.join(sorted(missing))}, as the processor makes them")
        return self._gridded(dict(arguments), [None] * len(arguments["pixel_values"]), None)

    def _gridded(self, arguments: dict[str, Any], sizes: Sequence[Any], sources: tuple[Any, ...] | None) -> Encoding:
        placed, tokens, (down, across) = self.place(arguments), [], self.patch_size
        for size, (rows, columns) in zip(sizes, placed["spatial_shapes"].tolist(), strict=True):
            named = self._tokens(rows * down, columns * across, None)
            if size is not None:
                assert named.view is not None
                view = replace(named.view, width=size[0], height=size[1], box=(0, 0, size[0], size[1]))
                named = replace(named, view=view)
            tokens.append(named)
        mask = placed["pixel_attention_mask"].bool()
        return Encoding(placed, mask, tuple(tokens), sources or (None,) * len(tokens))

    def remove(self, encoding: Encoding, removed: Tensor | None = None, how: str | None = None) -> Encoding:
        """0, or the mean of the picture's own patches, in place of those that are removed."""
        how = self.removal(how)
        if how not in self.removals:
            raise OptionError(f"patches are removed by {' or '.join(self.removals)}, not {how}")
        removed = content_of(encoding) if removed is None else removed & encoding.mask
        pixels = encoding.arguments["pixel_values"]
        real = encoding.mask[..., None].to(pixels)
        mean = (pixels * real).sum(1, keepdim=True) / real.sum(1, keepdim=True)
        instead = torch.zeros_like(pixels) if how == "zero" else mean.expand_as(pixels)
        made = torch.where(removed[..., None], instead, pixels)
        return replace(encoding, arguments={**encoding.arguments, "pixel_values": made})


class AlignPictures(ImageTower):
    """What the other side needs of pictures; they are seen by convolutions, which have no tokens."""

    text_tower = TextTower
    prefix: ClassVar[tuple[str, ...]] = ()  # type: ignore[misc]


class AlignAdapter(BertTextTower):
    """The words alone: the picture is seen by convolutions (EfficientNet), and counts as a constant."""

    family = "ALIGN (text)"

    def __init__(self, model: Any, processor: Any = None) -> None:
        super().__init__(model, processor)
        self.whole_processor = processor
        self.pictures = AlignPictures(model, processor)

    can_batch = True  # type: ignore[assignment]

    def like(self, model: nn.Module) -> AlignAdapter:  # type: ignore[override]
        return type(self)(model, self.whole_processor)

    def samples(self) -> Any:
        return self.pictures.samples()

    def call(self, encoding: Encoding) -> Any:
        return self.model(**encoding.arguments)

    def describe(self) -> str:
        return f"{super().describe()}; its pictures are seen by convolutions: the words alone are explained"

    def encode(self, inputs: Sequence[Any], *, truncation: bool = False) -> Encoding:
        """The pairs, with the tokens of their texts; what the processor makes of the pictures stands beside them."""
        pictures, texts = split(inputs)
        mine = self.encode_texts(texts, truncation)
        pixels = torch.stack([self.pictures.preprocess(read_picture(picture)) for picture in pictures])
        found = replace(mine, arguments={**mine.arguments, **self.place({"pixel_values": pixels})})
        return PairEncoding(**vars(found), names=("the picture",) * len(texts))

    def encode_arguments(self, arguments: Mapping[str, Tensor]) -> Encoding:
        return TextAdapter.encode_arguments(self, whole(arguments))

"""More models that compare a picture with a text, as CLIP does: Chinese-CLIP, MetaCLIP 2, AltCLIP, SigLIP 2 whose pictures keep
their proportions, ALIGN, and any two encoders in a `VisionTextDualEncoderModel`. See `image_text`, which explains either side.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from types import SimpleNamespace
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attcat.model import Encoding, TextAdapter
from attcat.model.patch_rows import PatchRowsAdapter
from attcat.model.picture import read_picture

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
    block_paths: ClassVar[tuple[str, ...]] = (
        "text_model.encoder.layer",
        "text_model.encoder.layers",
        "text_model.roberta.encoder.layers",
    )

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


class ClipSegAdapter(ClipAdapter):
    """The pair that its segmentation is asked with."""

    family = "CLIPSeg"


class BlipAdapter(ClipAdapter):
    """Both heads read the class token."""

    family = "BLIP"
    text_tower = BertTextTower


class TipsTextTower(BertTextTower):
    """The head averages all tokens."""

    family = "TIPSv2 (text)"

    def read(self, encoding: Encoding) -> Tensor:
        return encoding.mask.clone()


class TipsAdapter(ClipAdapter):
    """Pictures have two class tokens, the first of which is compared."""

    family = "TIPSv2"
    prefix = ("[CLS]", "[CLS2]")
    block_paths = ("vision_model.encoder.layer",)
    text_tower = TipsTextTower


class FlavaTextTower(BertTextTower):
    family = "FLAVA (text)"
    block_paths = ("flava.text_model.encoder.layer",)

    @property
    def reader(self) -> nn.Module:
        return self.model.flava.text_model  # type: ignore[union-attr, return-value]

    def call(self, encoding: Encoding) -> Any:
        return compared(self.model, encoding)


class FlavaAdapter(ClipAdapter):
    """The pair, each side by its own encoder; the encoder of both is no part of their similarity."""

    family = "FLAVA"
    block_paths = ("flava.image_model.encoder.layer",)
    text_tower = FlavaTextTower

    def call(self, encoding: Encoding) -> Any:
        return compared(self.model, encoding)


def compared(model: Any, encoding: Encoding) -> Any:
    """FLAVA's similarity, as `FlavaForPreTraining` computes it: it runs each encoder twice, the second time for words that are
    masked, of which there are none."""
    made = model.flava(**encoding.arguments, skip_multimodal_encoder=True)
    image = F.normalize(model.flava.image_projection(made.image_embeddings[:, 0]), dim=-1)
    text = F.normalize(model.flava.text_projection(made.text_embeddings[:, 0]), dim=-1)
    per_image, per_text, _ = model.global_contrastive_head(image, text, model.flava.logit_scale)
    return SimpleNamespace(logits_per_image=per_image, logits_per_text=per_text)


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


class Siglip2Adapter(SiglipAdapter, PatchRowsAdapter):
    """Pictures keep their proportions."""

    family = "SigLIP 2"
    text_tower = Siglip2TextTower
    can_batch = PatchRowsAdapter.can_batch  # type: ignore[assignment]
    pixel_axes = 3

    def samples(self) -> Any:
        if self.whole_processor is not None:
            return super().samples()
        config: Any = self.model.config
        ids = torch.arange(3, 3 + min(9, config.text_config.max_position_embeddings))
        return {"input_ids": ids.repeat(2, 1), **self.patch_rows(2)}


class PicturesBeside(ImageTower):
    """What the other side needs of pictures that have no tokens."""

    text_tower = TextTower
    prefix: ClassVar[tuple[str, ...]] = ()  # type: ignore[misc]


class WordsOfPair(BertTextTower):
    """The words alone, where pictures have no tokens: these count as a constant."""

    seen_by: ClassVar[str]
    """What sees the pictures."""
    can_batch = True  # type: ignore[assignment]

    def __init__(self, model: Any, processor: Any = None) -> None:
        super().__init__(model, processor)
        self.whole_processor = processor
        self.pictures = PicturesBeside(model, processor)

    def like(self, model: nn.Module) -> WordsOfPair:  # type: ignore[override]
        return type(self)(model, self.whole_processor)

    def samples(self) -> Any:
        return self.pictures.samples()

    def describe(self) -> str:
        return f"{super().describe()}; its pictures are seen by {self.seen_by}: the words alone are explained"

    def encode(self, inputs: Sequence[Any], *, truncation: bool = False) -> Encoding:
        """The pairs, with the tokens of their texts; what the processor makes of the pictures stands beside them."""
        pictures, texts = split(inputs)
        mine = self.encode_texts(texts, truncation)
        pixels = torch.stack([self.pictures.preprocess(read_picture(picture)) for picture in pictures])
        found = replace(mine, arguments={**mine.arguments, **self.place({"pixel_values": pixels})})
        return PairEncoding(**vars(found), names=("the picture",) * len(texts))

    def encode_arguments(self, arguments: Mapping[str, Tensor]) -> Encoding:
        return TextAdapter.encode_arguments(self, whole(arguments))


class AlignAdapter(WordsOfPair):
    family = "ALIGN (text)"
    seen_by = "convolutions"

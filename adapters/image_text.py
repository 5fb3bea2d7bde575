"""Models that compare a picture with a text: CLIP (Radford et al. 2021) and SigLIP (Zhai et al. 2023) in transformers.

There are two towers, and an adapter for each. Both run the whole model and explain the same number, the similarity logit
of the pair; they differ in whose blocks are watched. The output of the other tower is then a constant.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attcat.errors import InputError, ProcessorError
from attcat.model import Adapter, Encoding, TextAdapter, VisionAdapter
from attcat.model.heads import Activation, Head

from .vit import resized


@dataclass(frozen=True)
class PairEncoding(Encoding):
    """A batch of pairs, with the tokens of one tower.

    Args:
        names: what each picture or text is compared with; part of the label.
    """

    names: tuple[str, ...] = ()


class SimilarityHead(Head):
    """The similarity of each picture and its own text: one measured value, or for SigLIP the logit of a match."""

    task = "image-text similarity"
    activation: Activation = "none"

    def logits(self, output: Any) -> Tensor:
        """The diagonal of the similarities of all pictures and all texts, `[B, B]`."""
        diagonal: Tensor = output.logits_per_image.diagonal()
        return diagonal[:, None]

    def labels(self, encoding: Encoding, row: int, count: int) -> Sequence[str]:
        return (f"similarity to {encoding.names[row]}" if isinstance(encoding, PairEncoding) else "similarity",)


class MatchHead(SimilarityHead):
    """The similarity is the logit of a match."""

    activation: Activation = "sigmoid"


def _run(model: Any, encoding: Encoding) -> Any:
    """Run both towers; some ask to be told that pictures have another size than in training."""
    asks = "interpolate_pos_encoding" in inspect.signature(model.forward).parameters
    further = resized(encoding, model.config.vision_config.image_size) if asks else {}
    return model(**encoding.arguments, **further)


class TextTower(TextAdapter):
    """The words of the pair."""

    block_paths: ClassVar[tuple[str, ...]] = ("text_model.encoder.layers",)
    head_type: type[Head] | None = SimilarityHead

    def __init__(self, model: Any, processor: Any = None) -> None:
        super().__init__(model, _part(processor, "tokenizer"))
        self.image_side: ImageTower | None = None  # set by it

    def like(self, model: nn.Module) -> TextTower:
        """The text tower of the pair of adapters for that model."""
        assert self.image_side is not None
        return self.image_side.like(model).text_side

    def call(self, encoding: Encoding) -> Any:
        return _run(self.model, encoding)

    @property
    def reader(self) -> nn.Module:
        return self.model.text_model  # type: ignore[union-attr, return-value]

    @cached_property
    def max_length(self) -> int | None:
        limit: int = self.model.config.text_config.max_position_embeddings  # type: ignore[union-attr, assignment]
        return limit

    def cost(self, value: Any) -> int:
        return Adapter.cost(self, value)

    @property
    def can_batch(self) -> bool:
        return self.image_side is None or self.image_side.can_batch

    def encode(self, inputs: Sequence[Any], *, truncation: bool = False) -> Encoding:
        """The pairs, with the tokens of their texts."""
        assert self.image_side is not None
        pictures, texts = split(inputs)
        mine, other = self.encode_texts(texts, truncation), self.image_side.encode_pictures(pictures)
        return _paired(mine, other, ("the picture",) * len(texts))

    def encode_texts(self, texts: list[str], truncation: bool) -> Encoding:
        """The texts alone."""
        return super().encode(texts, truncation=truncation)

    def encode_arguments(self, arguments: Mapping[str, Tensor]) -> Encoding:
        axes = ImageTower.pixel_axes if self.image_side is None else self.image_side.pixel_axes
        return super().encode_arguments(whole(arguments, axes))


class ImageTower(VisionAdapter):
    """The patches of the picture; this adapter is found first, and brings the other tower along."""

    block_paths: ClassVar[tuple[str, ...]] = ("vision_model.encoder.layers",)
    causal = False
    text_tower: ClassVar[type[TextTower]]
    head_type: type[Head] | None = SimilarityHead
    pixel_axes: ClassVar[int] = 4
    """Of a batch of pictures."""

    def __init__(self, model: Any, processor: Any = None) -> None:
        super().__init__(model, _part(processor, "image_processor"))
        self.whole_processor = processor
        self.text_side = self.text_tower(model, processor)
        self.text_side.image_side = self

    @property
    def towers(self) -> tuple[Adapter, ...]:
        return (self, self.text_side)

    def like(self, model: nn.Module) -> ImageTower:
        return type(self)(model, self.whole_processor)

    def samples(self) -> Any:
        """Pairs of a picture of noise and a text; without a processor, model arguments of the model's own sizes."""
        texts = ["a gray dog", "noise"]
        generator = np.random.default_rng(0)
        if self.whole_processor is not None:
            return [(generator.integers(0, 256, (48, 64, 3), dtype=np.uint8), text) for text in texts]
        config: Any = self.model.config
        side, end = self.sight.image_size, getattr(config.text_config, "eos_token_id", None)
        ids = torch.arange(3, 3 + min(9, config.text_config.max_position_embeddings)).repeat(2, 1)
        ids[:, -1] = end if end is not None and end < config.text_config.vocab_size else ids.max() + 1
        pixels = torch.from_numpy(generator.standard_normal((2, 3, side, side))).float()
        return {"input_ids": ids, "pixel_values": pixels}

    @property
    def sight(self) -> Any:
        """The configuration of the pictures' encoder."""
        config: Any = self.model.config
        return getattr(config, "vision_config", None) or config.image_config

    @property
    def patch_size(self) -> tuple[int, int]:
        size: int = self.sight.patch_size
        return size, size

    def call(self, encoding: Encoding) -> Any:
        return _run(self.model, encoding)

    def encode(self, inputs: Sequence[Any], *, truncation: bool = False) -> Encoding:
        """The pairs, with the tokens of their pictures."""
        pictures, texts = split(inputs)
        mine, other = self.encode_pictures(pictures), self.text_side.encode_texts(texts, truncation)
        return _paired(mine, other, tuple(f'"{text}"' for text in texts))

    def encode_pictures(self, pictures: list[Any]) -> Encoding:
        """The pictures alone."""
        return super().encode(pictures)

    def encode_arguments(self, arguments: Mapping[str, Tensor]) -> Encoding:
        return super().encode_arguments(whole(arguments, self.pixel_axes))


class ClipTextTower(TextTower):
    """Causal; the head reads the end of the text."""

    family = "CLIP (text)"
    causal = True
    old_ends: ClassVar[bool] = True
    """Whether old configurations say 2, which was never the end token: there it is the highest token number."""

    def read(self, encoding: Encoding) -> Tensor:
        """The first end token, as the model looks for it."""
        ids = encoding.arguments["input_ids"]
        return F.one_hot(self.end_of(ids), ids.shape[1]).bool()

    def end_of(self, ids: Tensor) -> Tensor:
        """Where the end of each text is, `[B]`."""
        end: Any = self.model.config.text_config.eos_token_id  # type: ignore[union-attr]
        return ids.argmax(-1) if end == 2 and self.old_ends else (ids == end).int().argmax(-1)


class ClipAdapter(ImageTower):
    """The head reads the class token."""

    family = "CLIP"
    prefix: tuple[str, ...] = ("[CLS]",)
    text_tower: ClassVar[type[TextTower]] = ClipTextTower


class SiglipTextTower(TextTower):
    """Texts are padded to one length, and padding is read like any other token: it is shown as special tokens."""

    family = "SigLIP (text)"
    causal = False
    head_type = MatchHead

    def read(self, encoding: Encoding) -> Tensor:
        """The last position."""
        read = torch.zeros_like(encoding.mask)
        read[:, -1] = True
        return read

    def _tokenize(self, first: list[str], second: list[str], **options: Any) -> Any:
        return super()._tokenize(first, second, **{"max_length": self.max_length, **options, "padding": "max_length"})

    def _encoding(self, batch: Any, texts: tuple[Any, ...], dropped: tuple[int, ...]) -> Encoding:
        rows = range(len(texts))
        known = batch if "offset_mapping" in batch else None
        tokens = tuple(self._tokens(batch["input_ids"][i], batch["special_tokens_mask"][i], known, i) for i in rows)
        arguments = self.place({"input_ids": torch.tensor(batch["input_ids"])})
        self._check_vocabulary(arguments["input_ids"])
        return Encoding(arguments, torch.ones_like(arguments["input_ids"]).bool(), tokens, texts, dropped)


class SiglipAdapter(ImageTower):
    """An attention pool reads all patches; there is no class token."""

    family = "SigLIP"
    prefix = ()
    head_type = MatchHead
    text_tower = SiglipTextTower

    def read(self, encoding: Encoding) -> Tensor:
        """Every patch."""
        return encoding.mask


def _part(processor: Any, name: str) -> Any:
    """The tokenizer or the image processor inside a processor for both."""
    if processor is None:
        return None
    if not hasattr(processor, name):
        raise ProcessorError(
            f"a model of pictures and texts needs the processor for both (AutoProcessor), not {type(processor).__name__}: "
            f"it has no {name}"
        )
    return getattr(processor, name)


def split(inputs: Sequence[Any]) -> tuple[list[Any], list[str]]:
    """Pictures and texts."""
    for value in inputs:
        if not isinstance(value, tuple) or len(value) != 2 or not isinstance(value[1], str):
            shown = (
                "a tuple of " + ", ".join(type(part).__name__ for part in value)
                if isinstance(value, tuple)
                else type(value).__name__
            )
            raise InputError(f"an input is a picture and a text, e.g. (picture, 'a photo of a dog'); got {shown}")
    return [picture for picture, _ in inputs], [text for _, text in inputs]


def _paired(mine: Encoding, other: Encoding, names: tuple[str, ...]) -> PairEncoding:
    arguments = {**other.arguments, **mine.arguments}
    views = mine.views if any(mine.views) else other.views
    return PairEncoding(
        arguments, mine.mask, mine.tokens, mine.sources, mine.dropped, mine.focus, views=views, names=names
    )


def whole(arguments: Mapping[str, Tensor], pixel_axes: int = ImageTower.pixel_axes) -> dict[str, Tensor]:
    """Ready-made arguments of both towers, as many texts as pictures."""
    ids, pixels = arguments.get("input_ids"), arguments.get("pixel_values")
    if not isinstance(ids, Tensor) or not isinstance(pixels, Tensor):
        raise InputError(
            f"model arguments need both 'input_ids' and 'pixel_values', got {', '.join(arguments) or 'none'}"
        )
    whole = {
        n: v[None] if v.dim() == (pixel_axes - 1 if n == "pixel_values" else 1) else v for n, v in arguments.items()
    }
    if len(whole["input_ids"]) != len(whole["pixel_values"]):
        raise InputError(
            f"{len(whole['pixel_values'])} pictures and {len(whole['input_ids'])} texts: give one text to each"
        )
    return whole

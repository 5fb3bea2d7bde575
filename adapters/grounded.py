"""Grounding DINO (Liu et al. 2023), and MM Grounding DINO: a detector that is asked in words, which mix with the picture.

`target=("box", 3, "dog")` is the fourth box and a word of the text; explained is the logit with which the box fits the word. The
text goes through blocks of its own. Where these end, an encoder takes its states and those of the picture, on several grids, and
mixes them: to the library it is one block more, whose sequence is the picture and which reads the text, as in
`attcat.capture.streams`. In training the model holds the places constant at which its queries look; of its prediction they are a
part, and gradients go through them.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from attcat.errors import InputError
from attcat.model import Adapter, Encoding, Streams, TextAdapter, Uncut, borrowed
from attcat.model.describing import with_patches
from attcat.model.discovered.experiments import stopped_before, until_stopped
from attcat.model.picture import Observer, read_picture, to_pixels
from attcat.model.regions import DetectionHead

from .dual import PicturesBeside
from .image_text import split

Grids = tuple[tuple[int, int], ...]
"""Rows and columns of each grid, in the order of the tokens."""


class WordBoxHead(DetectionHead):
    """Of every box a class for each token of the text."""

    activation: ClassVar[Any] = "sigmoid"

    def _has_nothing(self, classes: int) -> bool:
        return False

    def rows(self, logits: Any, encoding: Encoding) -> Tensor:
        """The row of one box, without the places behind the text."""
        return super().rows(logits, encoding)[:, : encoding.offset]

    def labels(self, encoding: Encoding, row: int, count: int) -> Sequence[str]:
        return encoding.tokens[row].labels[:count]


class GroundedAdapter(TextAdapter):
    """The words, then the patches of each grid."""

    family = "Grounding DINO"
    head_type = WordBoxHead
    block_paths = ("model.text_backbone.encoder.layer",)
    causal = False
    passes_state = False
    can_batch = False  # type: ignore[assignment]
    reads_several = True
    removals: ClassVar[tuple[str, ...]] = ("mask", "pad")

    def __init__(self, model: Any, processor: Any = None) -> None:
        super().__init__(model, getattr(processor, "tokenizer", processor))
        self.whole_processor = processor
        self.pictures = PicturesBeside(model, processor if hasattr(processor, "image_processor") else None)
        self._grids: dict[tuple[int, ...], Grids] = {}

    def like(self, model: nn.Module) -> GroundedAdapter:
        return type(self)(model, self.whole_processor)

    @property
    def blocks(self) -> tuple[nn.Module, ...]:
        """Those of the text, and the encoder of both."""
        model: Any = self.model
        return (*super().blocks, model.model.encoder)

    @property
    def attends(self) -> tuple[bool, ...]:
        return (*(True for _ in super().blocks), False)

    @property
    def streams(self) -> Streams:  # type: ignore[override]
        """The encoder of both begins with the picture, and is handed the text."""
        return Streams(len(super().blocks), ("text_features",), (), (), causal=False)

    def call(self, encoding: Encoding) -> Any:
        with Uncut():
            return self.model(**encoding.arguments)

    def read(self, encoding: Encoding) -> Tensor:
        """All words, and all of the picture."""
        return encoding.mask

    def words(self, encoding: Encoding) -> tuple[Tensor, ...]:
        return (encoding.arguments["input_ids"],)

    def cost(self, value: Any) -> int:
        return Adapter.cost(self, value)

    def samples(self) -> Any:
        """A picture of noise and a text; without a processor, model arguments of a picture with a place for every query."""
        generator = torch.Generator().manual_seed(0)
        if self.pictures.processor is not None:
            return [
                (torch.randint(0, 256, (48, 80, 3), generator=generator, dtype=torch.uint8).numpy(), "a dog. a cat.")
            ]
        config: Any = self.model.config
        scale = math.ceil(
            math.sqrt(48 * config.num_queries / (64 * 96))
        )  # a place for 64 pixels, and a third more in coarser grids
        pixels = torch.randn(1, 3, 64 * scale, 96 * scale, generator=generator)
        return {"input_ids": torch.arange(200, 209)[None], "pixel_values": pixels}

    @cached_property
    def trial(self) -> Encoding:  # type: ignore[override]
        """For the checks on first use: which places its queries look at is a question of its weights."""
        samples = self.samples()
        return self.encode_arguments(samples) if isinstance(samples, dict) else self.encode(samples)

    # -- what is read --------------------------------------------------------------------------------------------------

    def encode(self, inputs: Sequence[Any], *, truncation: bool = False) -> Encoding:
        """`(picture, text)`, one at a time.

        Raises:
            InputError: if it is something else, or the text is too long.
        """
        (picture, *more), (text, *_) = split(inputs)
        if more:
            raise InputError(f"one picture with a text at a time, got {len(inputs)}")
        given = read_picture(picture)
        pixels = self.place({"pixel_values": self.pictures.preprocess(given)[None]})
        view, _ = Observer(self.pictures.preprocess)(*given.size, tuple(pixels["pixel_values"].shape[-2:]))
        words = super().encode([text], truncation=truncation)
        return self._beside(words, pixels, view, to_pixels(given))

    def encode_arguments(self, arguments: Mapping[str, Tensor]) -> Encoding:
        """One text and one picture.

        Raises:
            InputError: if one of them is missing, or there are several.
        """
        pixels = {n: torch.as_tensor(v) for n, v in arguments.items() if n.startswith("pixel_")}
        words = super().encode_arguments({n: v for n, v in arguments.items() if n not in pixels})
        shape = tuple(pixels["pixel_values"].shape) if "pixel_values" in pixels else ()
        if len(shape) != 4 or shape[0] != 1 or len(words.tokens) != 1 or not bool(words.mask.all()):
            raise InputError(
                f"model arguments are one row of input_ids without padding, got {len(words.tokens)}, and pixel_values "
                f"[1, 3, H, W], got {list(shape)}"
            )
        return self._beside(words, self.place(pixels))

    def _beside(self, words: Encoding, pixels: dict[str, Tensor], view: Any = None, picture: Any = None) -> Encoding:
        """The words, and the picture's tokens behind them."""
        config: Any = self.model.config
        count = words.mask.shape[1]
        if count > config.max_text_len:
            raise InputError(f"the text has {count} tokens, the model takes at most {config.max_text_len}")
        arguments = {**words.arguments, **pixels}
        return with_patches(replace(words, arguments=arguments), self.grids(arguments), view, picture)

    def grids(self, arguments: Mapping[str, Tensor]) -> Grids:
        """Those of a picture of this size, as the encoder is told them.

        Raises:
            InputError: if the picture is too small for the model.
        """
        key = tuple(arguments["pixel_values"].shape)
        if key not in self._grids:
            found, config = self._told(arguments), self.model.config
            places, queries = sum(rows * columns for rows, columns in found), getattr(config, "num_queries", 0)
            if getattr(config, "two_stage", False) and places < queries:
                raise InputError(
                    f"a picture of {key[-1]} x {key[-2]} pixels has {places} places to look at, and the model looks at the best "
                    f"{queries}: give a larger picture"
                )
            self._grids[key] = found
        return self._grids[key]

    def _told(self, arguments: Mapping[str, Tensor]) -> Grids:
        """What the encoder is told; the model is run no further."""

        def taken(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
            found: Tensor = kwargs["spatial_shapes"]
            return found

        with borrowed(self) as own, torch.no_grad(), stopped_before(own.blocks[-1], taken) as seen:
            until_stopped(lambda: own.model(**arguments))
        return tuple((rows, columns) for rows, columns in seen[0].tolist())

    def remove(self, encoding: Encoding, removed: Tensor | None = None, how: str | None = None) -> Encoding:
        """Another token in place of words, and the mean colour in place of patches."""
        how, count = self.removal(how), encoding.offset
        if removed is None:
            removed = ~torch.tensor([tokens.special for tokens in encoding.tokens], device=encoding.mask.device)
        token = self.blank_token if how == "mask" else self.pad_token
        ids, pixels = encoding.arguments["input_ids"], encoding.arguments["pixel_values"]
        start, lost = count, torch.zeros_like(pixels[:, :1], dtype=torch.bool)
        for rows, columns in self.grids(encoding.rows([0]).arguments):
            part = removed[:, start : start + rows * columns].view(-1, 1, rows, columns)
            lost |= F.interpolate(part.float(), pixels.shape[-2:]).bool()
            start += rows * columns
        changed = torch.where(lost, pixels.mean((2, 3), keepdim=True), pixels)
        words = ids.masked_fill(removed[:, :count], token)
        return replace(encoding, arguments={**encoding.arguments, "input_ids": words, "pixel_values": changed})

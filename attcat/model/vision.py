"""Models that read `pixel_values`, with an image processor or a transform."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ..errors import AttCATError, InputError, OptionError, ProcessorError
from ..tokens import MAX_PIXELS, Tokens, View
from .adapter import Adapter
from .encoding import Encoding, checked_arguments, content_of, first_of
from .picture import Observer, check_proportions, read_picture, to_pixels

PROPORTIONS = 16
"""Whether a picture is too narrow is asked where one side is so many times the other."""


class VisionAdapter(Adapter):
    """A model that reads `pixel_values`, with an image processor or a transform."""

    classes_with_head = "AutoModelForImageClassification"
    continuous = "pixel_values"

    @property
    @abstractmethod
    def patch_size(self) -> tuple[float, float]:
        """Height and width of a patch, in the model's pixels; not whole numbers where a picture is divided into patches that
        overlap.
        """

    @property
    @abstractmethod
    def prefix(self) -> tuple[str, ...]:
        """Names of the tokens before the patches, as `[CLS]`; they are special."""

    suffix: tuple[str, ...] = ()
    """Names of the tokens behind the patches, as the boxes of a detector; they are special."""

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of patches for an input of this size."""
        rows, columns = self.patch_size
        return int(height // rows), int(width // columns)

    @property
    def native_size(self) -> tuple[int, int] | None:
        """Height and width of the pictures that the model was made for, as far as it says."""
        model: Any = self.model
        config = getattr(model, "config", None)
        said = (
            getattr(config, "image_size", None),
            getattr(getattr(config, "vision_config", None), "image_size", None),
            getattr(getattr(config, "image_config", None), "image_size", None),
            getattr(getattr(config, "encoder", None), "image_size", None),
            getattr(getattr(model, "patch_embed", None), "img_size", None),
            getattr(model, "image_size", None),
            (getattr(model, "default_cfg", None) or {}).get("input_size", (None,))[1:] or None,
        )
        size = next((size for size in said if size is not None), None)
        return None if size is None else (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))

    def predict(self, encoding: Encoding) -> tuple[Any, Tensor]:
        """Run the model, see `Adapter.predict`.

        Raises:
            ProcessorError: if it fails on pictures of another size than it was made for.
        """
        try:
            return super().predict(encoding)
        except (ValueError, AssertionError, RuntimeError) as error:  # what models raise on another size
            native, given = self.native_size, tuple(encoding.arguments["pixel_values"].shape[-2:])
            if isinstance(error, AttCATError) or native in (None, given):
                raise
            raise ProcessorError(
                f"the model does not take pictures of {given[0]} x {given[1]} pixels, it was made for {native[0]} x {native[1]}: "
                f"{error}"
            ) from error

    def read(self, encoding: Encoding) -> Tensor:
        """The first token."""
        return first_of(encoding.mask)

    def encode(self, inputs: Sequence[Any], *, truncation: bool = False) -> Encoding:
        """Preprocess pictures (`read_picture` says in which forms); see `Adapter.encode`."""
        pictures = [read_picture(value) for value in inputs]
        pixels = [self.preprocess(picture) for picture in pictures]
        if len({tuple(p.shape) for p in pixels}) > 1:
            raise InputError("the processor gives pictures of different sizes: explain them one by one")
        batch = self.place({"pixel_values": torch.stack(pixels)})
        shown = (pixels[0].shape[1], pixels[0].shape[2])
        views = [self._view(*picture.size, shown) for picture in pictures]
        tokens = tuple(self._tokens(height, width, view) for view, (height, width) in views)
        encoding = self._encoding(batch, tokens, tuple(to_pixels(picture) for picture in pictures))
        return replace(encoding, views=tuple(view for view, _ in views))

    def encode_arguments(self, arguments: Mapping[str, Tensor]) -> Encoding:
        """Name the patches of `pixel_values` `[B, 3, H, W]` (or `[3, H, W]`); see `Adapter.encode_arguments`."""
        pixels = arguments.get("pixel_values")
        if not isinstance(pixels, Tensor) or pixels.dim() not in (3, 4) or not pixels.is_floating_point():
            given = ", ".join(f"{n}: {tuple(getattr(v, 'shape', ()))}" for n, v in arguments.items())
            raise InputError(
                f"model arguments for a vision model need float 'pixel_values' [B, 3, H, W], got {given or 'none'}"
            )
        checked_arguments({"pixel_values": pixels})
        placed = self.place({**arguments, "pixel_values": pixels[None] if pixels.dim() == 3 else pixels})
        batch, channels, height, width = placed["pixel_values"].shape
        self._check_size(batch, channels, height, width)
        tokens = (self._tokens(height, width, None),) * batch
        return self._encoding(placed, tokens, (None,) * batch)

    def _check_size(self, batch: int, channels: int, height: int, width: int) -> None:
        """Refuse pixels in which there is no patch, or too many to be explained."""
        expected = getattr(getattr(self.model, "config", None), "num_channels", 3)
        given = f"pixel_values [{batch}, {channels}, {height}, {width}]"
        if batch == 0 or channels != expected:
            raise InputError(f"{given}: expected [B, {expected}, H, W], of at least one picture")
        rows, columns = self.patch_size
        if height * width > MAX_PIXELS:
            raise InputError(f"{given}: at most {MAX_PIXELS:,} pixels are explained; make the picture smaller")
        try:
            fits = min(height, width) > 0 and min(self.grid(height, width)) > 0
        except AttCATError:
            raise
        except (RuntimeError, ValueError, AssertionError):  # from the model's own first layer
            fits = False
        if not fits:
            raise InputError(f"{given}: smaller than a patch of {rows} x {columns} pixels; make the picture larger")

    removals = ("zero", "mean", "blur", "drop")

    def remove(self, encoding: Encoding, removed: Tensor | None = None, how: str | None = None) -> Encoding:
        """Other pixels in place of removed patches: 0 (the mean colour of the training pictures, for normalised input),
        the picture's own mean colour, or a Gaussian blur of it (standard deviation: half a patch).

        `drop` takes tokens out before the first block, not out of the picture: `attcat.metrics` does it while the model
        runs. See `Adapter.remove`.
        """
        how = self.removal(how)
        if how == "drop":
            raise OptionError("patch tokens are dropped while the model runs: use attcat.metrics.Ablation")
        pixels = encoding.arguments["pixel_values"]
        area = self._area(encoding, content_of(encoding) if removed is None else removed)
        if how == "zero":
            instead = torch.zeros_like(pixels)
        elif how == "mean":
            instead = pixels.mean((-2, -1), keepdim=True).expand_as(pixels)
        else:
            instead = _blurred(pixels, (self.patch_size[0] / 2, self.patch_size[1] / 2))
        arguments = {**encoding.arguments, "pixel_values": torch.where(area[:, None], instead, pixels)}
        return replace(encoding, arguments=arguments)

    def _area(self, encoding: Encoding, removed: Tensor) -> Tensor:
        """The pixels of removed tokens, bool `[B, H, W]`; the same grid for every row, as they share a tensor."""
        tokens = encoding.tokens[0]
        height, width = encoding.arguments["pixel_values"].shape[-2:]
        assert tokens.grid is not None
        patches = removed[:, ~torch.tensor(tokens.special, device=removed.device)]
        cells = torch.from_numpy(self._lattice(height, width, tokens.grid).cells(tokens.grid)).to(removed.device)
        return patches[:, cells.clamp(min=0)] & (cells >= 0)

    def _lattice(self, height: int, width: int, grid: tuple[int, int]) -> View:
        """Where the patches lie on an input of `height` x `width` model pixels.

        Pixels that fill no whole patch are cut off (or padded): the grid covers less (or more) than the model's input.
        """
        return View(width, height, (0, 0, grid[1] * self.patch_size[1], grid[0] * self.patch_size[0]))

    def preprocess(self, picture: Any) -> Tensor:
        """Send one RGB picture through the processor: float `[3, H, W]`.

        Raises:
            ProcessorError: if there is no processor, or it makes something else.
        """
        processor = self.processor
        if processor is None:
            raise ProcessorError(
                "a picture needs an image processor or a transform: Explainer(model, processor); without one, give model "
                'arguments {"pixel_values": ...}'
            )
        if hasattr(processor, "convert_ids_to_tokens"):
            raise ProcessorError(
                f"{type(self.model).__name__} sees pictures, but the processor is a tokenizer ({type(processor).__name__})"
            )
        if max(picture.size) > PROPORTIONS * min(picture.size):
            check_proportions(picture, self._side)
        result = self._process(picture)
        if not isinstance(result, Tensor) or result.dim() != 3 or not result.is_floating_point():
            shape = tuple(result.shape) if isinstance(result, Tensor) else ""
            raise ProcessorError(
                f"the processor turns a picture into {type(result).__name__} {shape}: expected a float tensor [3, H, W] "
                "(does the transform end with ToTensor and Normalize?)"
            )
        return result

    def _process(self, picture: Any) -> Any:
        processor = self.processor
        if hasattr(processor, "model_input_names") or hasattr(processor, "preprocess"):
            return processor(images=picture, return_tensors="pt")["pixel_values"][0]
        return processor(picture)

    @cached_property
    def _side(self) -> int:
        """The shorter side of what the processor makes of a square picture, in pixels."""
        from PIL import Image

        return min(self.preprocess(Image.new("RGB", (64, 64))).shape[1:])

    @property
    def can_batch(self) -> bool:
        """Not if the processor keeps the aspect ratio, so that pictures come out in different sizes."""
        return self._one_size

    @cached_property
    def _one_size(self) -> bool:
        if self.processor is None:
            return True
        wide, tall = (self.preprocess(Image.new("RGB", size)) for size in ((96, 64), (64, 96)))
        return wide.shape == tall.shape

    @cached_property
    def _view(self) -> Callable[[int, int, tuple[int, int]], tuple[View, tuple[int, int]]]:
        return Observer(self.preprocess)

    def _tokens(self, height: int, width: int, view: View | None) -> Tokens:
        """Name the tokens of an input of `height` x `width` model pixels, which shows `view` of the picture."""
        rows, columns = self.grid(height, width)
        _, _, across, down = self._lattice(height, width, (rows, columns)).box
        view = view or View(width, height, (0, 0, width, height))
        left, top, right, bottom = view.box
        box = (left, top, left + (right - left) * across / width, top + (bottom - top) * down / height)
        patches = tuple(f"{row},{column}" for row in range(rows) for column in range(columns))
        special = (True,) * len(self.prefix) + (False,) * len(patches) + (True,) * len(self.suffix)
        return Tokens(
            self.prefix + patches + self.suffix, special, grid=(rows, columns), view=View(view.width, view.height, box)
        )

    def _encoding(self, arguments: dict[str, Tensor], tokens: tuple[Tokens, ...], sources: tuple[Any, ...]) -> Encoding:
        mask = torch.ones(len(tokens), len(tokens[0]), dtype=torch.bool, device=self.device)
        return Encoding(arguments, mask, tokens, sources)


def _blurred(pixels: Tensor, sigma: tuple[float, float]) -> Tensor:
    """Gaussian blur of `[B, 3, H, W]`."""
    import cv2

    rows = [
        cv2.GaussianBlur(row.permute(1, 2, 0).float().cpu().numpy(), (0, 0), sigmaX=sigma[1], sigmaY=sigma[0])
        for row in pixels
    ]
    return torch.stack([torch.from_numpy(row).permute(2, 0, 1) for row in rows]).to(pixels)

"""Pictures as input: read what users have, and observe what a processor does to it.

Processors differ in their resize, crop, rounding and padding, and each release brings new ones. Rather than read their
settings, `Observer` sends pictures that encode positions through the processor and reads the answer off its output: the
same idea as capturing attention where it is computed.
"""

from __future__ import annotations

import io
import math
import os
from collections.abc import Callable
from fractions import Fraction
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps
from torch import Tensor

from ..errors import InputError, ProcessorError
from ..files import PICTURES as PICTURES
from ..files import decoding, open_picture
from ..tokens import MAX_PIXELS, View

Preprocess = Callable[[Image.Image], Tensor]
"""From a picture to the model's input `[3, H, W]`."""

MAX_RESIZED = 1 << 24
"""Pictures of which a resize of the shorter side would make more pixels (17 million) are refused before they are resized."""

LEAST = 16
"""The fewest pixels along a side that show where a processor puts them: between fewer a resize is no straight line."""

ENOUGH = 500
"""Of a picture that has more pixels along its shorter side a smaller one is observed."""


def read_picture(source: Any) -> Image.Image:
    """Read a picture as 8-bit RGB, upright.

    Args:
        source: a path, a file opened in binary, a `PIL.Image`, or an array or tensor: `[H, W]`, `[H, W, 1 | 3 | 4]` or
            `[1 | 3 | 4, H, W]`, of integers 0 to 255 or floats 0 to 1.

    Returns:
        The picture with its EXIF rotation applied; grey, palette, RGBA, CMYK and 16-bit pictures are converted.

    Raises:
        InputError: if there is no such file, it is not a picture, is truncated, empty or too large, or the array is not as
            above.
    """
    if isinstance(source, (str, os.PathLike)):
        with open_picture(Path(source)) as picture:
            return _decoded(picture, str(source))
    if isinstance(source, io.IOBase):
        return _decoded(source, "the picture")
    if isinstance(source, Image.Image):
        return _decoded(source, "the picture")
    if isinstance(source, Tensor):
        if source.is_sparse or source.is_meta or source.is_quantized:
            raise InputError(f"a tensor of {source.dtype} ({source.layout}, on {source.device}) is not a picture")
        source = source.detach().cpu().float().numpy() if source.is_floating_point() else source.detach().cpu().numpy()
    if isinstance(source, np.ndarray):
        return Image.fromarray(_to_uint8(source))
    raise InputError(f"cannot read a picture from {type(source).__name__}: give a path, PIL image, array or tensor")


def _decoded(source: io.IOBase | Image.Image, name: str) -> Image.Image:
    """A picture from a file, or one whose pixels may not have been read yet.

    Raises:
        InputError: if it cannot be decoded.
    """
    with decoding(name):
        picture = Image.open(source) if isinstance(source, io.IOBase) else source  # type: ignore[arg-type]
        found = _to_rgb(picture, name)
    return found


def _to_rgb(picture: Image.Image, name: str) -> Image.Image:
    width, height = picture.size
    if width * height == 0:
        raise InputError(f"{name} has no pixels ({width} x {height})")
    if width * height > MAX_PIXELS:
        raise InputError(f"{name} has {width} x {height} pixels: at most {MAX_PIXELS:,} are decoded; make it smaller")
    upright = ImageOps.exif_transpose(picture)
    if upright.mode in ("I", "F") or upright.mode.startswith("I;16"):
        return Image.fromarray(_to_uint8(np.asarray(upright)))
    return upright.convert("RGB")


def _to_uint8(array: np.ndarray) -> np.ndarray:
    """uint8 `[H, W, 3]` from any array that can be a picture."""
    if array.ndim == 3 and array.shape[-1] not in (1, 3, 4) and array.shape[0] in (1, 3, 4):
        array = array.transpose(1, 2, 0)
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim != 3 or array.shape[-1] not in (1, 3, 4) or array.size == 0:
        raise InputError(f"an array of shape {array.shape} is not a picture: give [H, W], [H, W, 3] or [3, H, W]")
    array = np.broadcast_to(array[..., :3], (*array.shape[:2], 3)) if array.shape[-1] == 1 else array[..., :3]
    if array.dtype.kind not in "buif":
        raise InputError(f"an array of {array.dtype} is not a picture: give integers 0 to 255 or floats 0 to 1")
    if array.shape[0] * array.shape[1] > MAX_PIXELS:
        raise InputError(f"an array of shape {array.shape} is too large: at most {MAX_PIXELS:,} pixels are explained")
    low, high = float(array.min()), float(array.max())
    if not np.isfinite(low) or not np.isfinite(high) or low < 0:
        raise InputError(
            f"pixel values range from {low:.3g} to {high:.3g}: give integers 0 to 255 or floats 0 to 1; "
            'a picture that is already normalised is a model argument: {"pixel_values": ...}'
        )
    if np.issubdtype(array.dtype, np.floating):
        if high > 1.0:
            raise InputError(f"floating point pixels reach {high:.3g}: scale them to 0 to 1, or give uint8")
        array = array * 255
    elif high > 255:
        if high > 65535:
            raise InputError(f"pixel values reach {high:.0f}: give at most 16 bits")
        array = array / 257  # 16 bits to 8
    return np.ascontiguousarray(np.rint(array).astype(np.uint8))


def check_proportions(picture: Image.Image, side: int) -> None:
    """Refuse a picture so narrow that a resize of its shorter side makes too many pixels of it.

    Args:
        picture: what the processor is to be given.
        side: the shorter side of what it makes.

    Raises:
        InputError: if there would be more than `MAX_RESIZED`.
    """
    width, height = picture.size
    short, long = min(width, height), max(width, height)
    resized = side * long // short
    if side * resized > MAX_RESIZED:
        raise InputError(
            f"a picture of {width} x {height} pixels is too narrow: resized to {side} pixels on its shorter side it has "
            f"{side * resized:,}, at most {MAX_RESIZED:,} are made; crop it"
        )


WHOLE = 0.98
"""How much of a pixel has to be the picture's to say where it lies: where padding comes before a resize, both are mixed at the
edge."""


class Observer:
    """Finds out which part of a picture a processor shows to the model, and remembers it for each picture size.

    Args:
        preprocess: from a picture to the model's input `[3, H, W]`.
    """

    def __init__(self, preprocess: Preprocess) -> None:
        self.preprocess = preprocess
        self._known: dict[tuple[int, int], tuple[View, tuple[int, int]]] = {}

    def __call__(self, width: int, height: int, shown: tuple[int, int] | None = None) -> tuple[View, tuple[int, int]]:
        """The View of the whole model input for a picture of `width` x `height`, and the input's `(height, width)`.

        Args:
            width: of the picture.
            height: of the picture.
            shown: the size of the input that the processor made of one, if that is known. Then very large and very small
                pictures are observed by one of the same proportions, of which a processor that resizes makes the same.

        Raises:
            ProcessorError: if the processor does more than scale, crop and pad (flips, rotations, random augmentation).
        """
        if (width, height) not in self._known:
            alike = None if shown is None else self._alike(width, height, shown)
            self._known[width, height] = alike or self._observe(width, height)
        return self._known[width, height]

    def _alike(self, width: int, height: int, shown: tuple[int, int]) -> tuple[View, tuple[int, int]] | None:
        """What is seen of a picture of the same proportions.

        None if it does not come out in the size that is shown, or one of twice the size shows something else: then the
        processor counts pixels, as a crop without a resize.
        """
        times = _times(width, height)
        if times == 1:
            return None
        found = []
        for factor in (float(times), float(2 * times)):
            view, size = self._observe(round(width * factor), round(height * factor))
            if size != shown:
                return None
            found.append(np.array(view.box) / factor)
        once, twice = found
        if (np.abs(once - twice) > 0.01 * np.array([width, height, width, height])).any():
            return None
        left, top, right, bottom = map(float, twice)
        return View(width, height, (left, top, right, bottom)), shown

    @cached_property
    def _contrast(self) -> np.ndarray:
        """White minus black of each channel after normalisation, `[3, 1, 1]`."""
        white, black = (self.preprocess(Image.new("RGB", (64, 64), (v, v, v))).double().numpy() for v in (255, 0))
        contrast: np.ndarray = (white - black).max((1, 2), keepdims=True)
        if contrast.shape[0] != 3 or not (contrast > 0).all():
            raise ProcessorError("the processor turns black and white into the same values: expected [3, H, W]")
        return contrast

    def _observe(self, width: int, height: int) -> tuple[View, tuple[int, int]]:
        """Two pictures: red rises from left to right and green from top to bottom, blue is full; and their negative.

        Their difference is a straight line along the model's rows and columns, whose slope and offset are the resize
        and crop. Where blue does not differ, there is padding.
        """
        across, down = (np.rint(np.linspace(0, 255, pixels)).astype(np.uint8) for pixels in (width, height))
        ramps = np.empty((height, width, 3), np.uint8)  # in floating point, a large picture would take gigabytes
        ramps[..., 0], ramps[..., 1], ramps[..., 2] = across[None, :], down[:, None], 255
        positive, negative = (self.preprocess(Image.fromarray(v)) for v in (ramps, 255 - ramps))
        if positive.shape != negative.shape:
            raise ProcessorError(
                f"two pictures of {width} x {height} come out in different sizes: give a processor without random augmentation"
            )
        difference = (positive.double() - negative.double()).numpy() / self._contrast  # -1 black to 1 white
        seen = difference[2] > WHOLE
        if min(seen.any(0).sum(), seen.any(1).sum()) < 3:
            seen = difference[2] > 0.5
        if not seen.any():
            raise ProcessorError("the processor shows nothing of the picture to the model")
        columns, rows = seen.any(0), seen.any(1)
        position = (difference[:2] + 1) / 2  # 0 at the centre of the first pixel, 1 at the centre of the last
        inside = position[:, rows][:, :, columns]
        left, right = edges_of(inside[0], columns, width)
        top, bottom = edges_of(inside[1].T, rows, height)
        return View(width, height, (left, top, right, bottom)), (positive.shape[1], positive.shape[2])


def _times(width: int, height: int) -> Fraction:
    """How many times larger a picture is observed: by a whole number if it has few pixels, by a part that leaves no remainder
    if it has many."""
    short = min(width, height)
    if short < LEAST:
        times = -(-LEAST // short)
        return Fraction(times if width * height * (2 * times) ** 2 <= MAX_PIXELS else 1)
    common = math.gcd(width, height)
    parts = [part for part in range(1, max(1, short // ENOUGH) + 1) if common % part == 0]
    return Fraction(1, max(parts)) if max(parts) > 2 else Fraction(1)  # half of it would be observed twice


def edges_of(lines: np.ndarray, seen: np.ndarray, pixels: int) -> tuple[float, float]:
    """Where the model's pixels begin and end along one axis, in the picture's pixels.

    Args:
        lines: where the centres of the model's pixels lie along this axis, 0 to 1, for those that show the picture: the
            same line many times, one below the other.
        seen: which of the model's pixels show the picture at all.
        pixels: the picture's size.
    """
    index = np.flatnonzero(seen)
    position = np.median(lines, axis=0)
    same = np.quantile(np.abs(lines - position), 0.9) < 0.03
    # A resize repeats the outermost pixels beyond their centres, so the line is read off the inside.
    inside = (position > 0.02) & (position < 0.98)
    if pixels == 1 or inside.sum() < 2:
        size = pixels / len(index)  # no line to read: the picture is in effect one pixel wide
        return float(-index[0] * size), float((len(seen) - index[0]) * size)
    slope, offset = np.polyfit(index[inside], position[inside], 1)
    error = np.abs(position[inside] - (slope * index[inside] + offset)).max()
    if not same or slope <= 0 or error > 0.03:
        raise ProcessorError(
            "the processor does more than resize, crop and pad (positions do not follow a line): "
            "give the one for evaluation, without flips, rotations and random augmentation"
        )
    edges = 0.5 + (offset + slope * np.array([-0.5, len(seen) - 0.5])) * (pixels - 1)
    whole = np.array([0.0, pixels])
    first, last = np.where(np.abs(edges - whole) < 0.005 * pixels, whole, edges)  # a resize without a crop, measured
    return float(first), float(last)


def to_pixels(picture: Image.Image) -> np.ndarray:
    """uint8 `[H, W, 3]`."""
    return np.array(picture, dtype=np.uint8)

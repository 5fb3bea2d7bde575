"""Pictures in: read what users have, and observe what a processor does to it.

Processors differ in their resize, crop, rounding and padding, and each release brings new ones. Rather than read their
settings, `observe_view` sends pictures of known position through the processor and reads the answer off its output: the
same idea as capturing attention where it is computed.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

from .errors import InputError, ProcessorError
from .tokens import View

MAX_PIXELS = 1 << 27
"""Pictures beyond this many pixels (134 million) are refused before they are decoded."""

Preprocess = Callable[[Image.Image], Tensor]
"""From a picture to the model's input `[3, H, W]`."""


def read_picture(source: Any) -> Image.Image:
    """Read a picture as 8-bit RGB, upright.

    Args:
        source: a path, a `PIL.Image`, or an array or tensor: `[H, W]`, `[H, W, 1 | 3 | 4]` or `[1 | 3 | 4, H, W]`, of
            integers 0 to 255 or floats 0 to 1.

    Returns:
        The picture with its EXIF rotation applied; grey, palette, RGBA, CMYK and 16-bit pictures are converted.

    Raises:
        InputError: if there is no such file, it is no picture, is truncated, empty or too large, or the array is not as above.
    """
    if isinstance(source, (str, os.PathLike)):
        return _open(Path(source))
    if isinstance(source, Image.Image):
        return _to_rgb(source, "the picture")
    if isinstance(source, Tensor):
        source = source.detach().cpu().float().numpy() if source.is_floating_point() else source.detach().cpu().numpy()
    if isinstance(source, np.ndarray):
        return Image.fromarray(_to_uint8(source))
    raise InputError(f"cannot read a picture from {type(source).__name__}: give a path, PIL image, array or tensor")


def _open(path: Path) -> Image.Image:
    if not path.exists():
        raise InputError(f"no such file: {path}")
    if path.is_dir():
        raise InputError(f"{path} is a folder: give the pictures in it")
    if path.stat().st_size == 0:
        raise InputError(f"{path} is empty (0 bytes)")
    try:
        with Image.open(path) as picture:
            return _to_rgb(picture, str(path))
    except UnidentifiedImageError as error:
        raise InputError(f"{path} is not a picture that Pillow can read") from error
    except Image.DecompressionBombError as error:
        raise InputError(f"{path} is too large to be decoded safely: {error}") from error
    except (OSError, SyntaxError, ValueError) as error:  # what Pillow's decoders raise on broken files
        if isinstance(error, InputError):
            raise
        raise InputError(f"{path} is damaged or truncated: {error}") from error


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
    """uint8 `[H, W, 3]` from any array that can be meant as a picture."""
    if array.ndim == 3 and array.shape[-1] not in (1, 3, 4) and array.shape[0] in (1, 3, 4):
        array = array.transpose(1, 2, 0)
    if array.ndim == 2:
        array = array[:, :, None]
    if array.ndim != 3 or array.shape[-1] not in (1, 3, 4) or array.size == 0:
        raise InputError(f"an array of shape {array.shape} is no picture: give [H, W], [H, W, 3] or [3, H, W]")
    array = np.broadcast_to(array[..., :3], (*array.shape[:2], 3)) if array.shape[-1] == 1 else array[..., :3]
    low, high = float(array.min()), float(array.max())
    if not np.isfinite(low) or not np.isfinite(high) or low < 0:
        raise InputError(
            f"pixel values reach from {low:.3g} to {high:.3g}: give integers 0 to 255 or floats 0 to 1; "
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


def observe_view(preprocess: Preprocess, width: int, height: int) -> tuple[View, tuple[int, int]]:
    """Find out which part of a `width` x `height` picture a processor shows to the model.

    Two pictures go through the processor: red rises from left to right and green from top to bottom, and the same
    upside down. Their difference, row by row and column by column, is a straight line in the model's pixels; its
    slope and offset are the resize and crop. Padding shows as pixels where black and white come out alike (blue).

    Returns:
        The View of the whole model input, and the input's `(height, width)`.

    Raises:
        ProcessorError: if the processor does more than scale, crop and pad (flips, rotations, random augmentation).
    """
    across = np.linspace(0, 255, width)[None, :] if width > 1 else np.full((1, 1), 127.5)
    down = np.linspace(0, 255, height)[:, None] if height > 1 else np.full((1, 1), 127.5)
    ramps = np.stack(np.broadcast_arrays(across, down, np.full((1, 1), 255.0)), axis=-1)
    rising, falling = (
        preprocess(Image.fromarray(np.rint(values).astype(np.uint8))).double() for values in (ramps, 255 - ramps)
    )
    if rising.dim() != 3 or rising.shape[0] != 3 or rising.shape != falling.shape:
        raise ProcessorError(
            f"the processor turns a picture into {tuple(rising.shape)}: expected [3, H, W], the same each time"
        )
    difference = (rising - falling).numpy()  # = s_c * (2 v - 255), with s_c the channel's normalisation
    span = difference[2].max()
    seen = difference[2] > span / 2
    if not span > 0 or not seen.any():
        raise ProcessorError("the processor turns black and white into the same values")
    # Channels are normalised differently: black minus white of a channel is measured on a flat picture.
    flat = Image.new("RGB", (width, height), (255, 255, 255)), Image.new("RGB", (width, height))
    full = (preprocess(flat[0]).double() - preprocess(flat[1]).double()).numpy()
    with np.errstate(divide="ignore", invalid="ignore"):
        position = np.where(seen, (difference / full + 1) / 2, np.nan)  # 0 at the first pixel's centre, 1 at the last's
    columns, rows = np.nanmedian(position[0], axis=0), np.nanmedian(position[1], axis=1)
    left, right = _edges(columns, width, "columns")
    top, bottom = _edges(rows, height, "rows")
    return View(width, height, (left, top, right, bottom)), (rising.shape[1], rising.shape[2])


def _edges(position: np.ndarray, pixels: int, name: str) -> tuple[float, float]:
    """Where the first and the last model pixel end, in the picture's pixels, from where their centres lie (0 to 1)."""
    index = np.arange(len(position))
    seen = np.isfinite(position)
    if pixels == 1 or seen.sum() < 2:
        first, last = index[seen][0], index[seen][-1]
        size = pixels / (last - first + 1)
        return -first * size, (len(position) - first) * size
    # A resize repeats the outermost pixels beyond their centres: the line is read off the inside.
    inside = seen & (position > 0.02) & (position < 0.98)
    if inside.sum() < 2:
        inside = seen
    slope, offset = np.polyfit(index[inside], position[inside], 1)
    error = np.abs(position[inside] - (slope * index[inside] + offset)).max()
    if slope <= 0 or error > 0.03:
        raise ProcessorError(
            f"the processor does more than resize, crop and pad (its {name} do not follow a line): "
            "give one without flips, rotations and random augmentation, as used for evaluation"
        )
    first, last = offset - slope / 2, offset + slope * (len(position) - 0.5)
    return 0.5 + first * (pixels - 1), 0.5 + last * (pixels - 1)


def cached_view(preprocess: Preprocess) -> Callable[[int, int], tuple[View, tuple[int, int]]]:
    """`observe_view` that remembers the answer for each picture size."""
    known: dict[tuple[int, int], tuple[View, tuple[int, int]]] = {}

    def view(width: int, height: int) -> tuple[View, tuple[int, int]]:
        if (width, height) not in known:
            known[width, height] = observe_view(preprocess, width, height)
        return known[width, height]

    return view


def to_pixels(picture: Image.Image) -> np.ndarray:
    """uint8 `[H, W, 3]`."""
    return np.array(picture, dtype=np.uint8)


def is_random(preprocess: Preprocess) -> bool:
    """Whether a processor gives two results for one picture (training augmentation)."""
    picture = Image.effect_noise((64, 64), 64).convert("RGB")
    with torch.random.fork_rng(devices=[]):
        return not torch.equal(preprocess(picture), preprocess(picture))

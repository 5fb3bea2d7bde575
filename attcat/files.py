"""Files written whole or not at all, and pictures as files."""

from __future__ import annotations

import io
import os
import tempfile
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from .errors import InputError

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

PICTURES = (".avif", ".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
"""Suffixes by which a path is taken for a picture's."""


def write_atomically(path: Path, data: bytes) -> None:
    """Write `data` to `path` in one step: neither a reader nor an interruption leaves half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(name, 0o666 & ~umask)  # mkstemp is private; a result is not
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def write_by_suffix(path: Path, writers: Mapping[str, Callable[[], bytes]]) -> Path:
    """Write the content that belongs to the path's suffix.

    Args:
        path: where to.
        writers: from a suffix, e.g. `.json`, to the function that makes the content.

    Raises:
        InputError: for a suffix that is not among them.
    """
    writer = writers.get(path.suffix.lower())
    if writer is None:
        raise InputError(f"cannot save as {path.name!r}: use one of {', '.join(writers)}")
    write_atomically(path, writer())
    return path


def encode_png(picture: Image.Image | np.ndarray) -> bytes:
    """A picture, or uint8 `[H, W, 3]`, as the content of a PNG file."""
    from PIL import Image

    buffer = io.BytesIO()
    picture = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    picture.save(buffer, "PNG", compress_level=2)  # a third of the time of 6, for a twentieth more bytes
    return buffer.getvalue()


def encode_palette_png(picture: Image.Image, kept: np.ndarray, colours: int) -> bytes:
    """A picture as the content of a PNG file with a palette. White stays white.

    Args:
        picture: in RGB.
        kept: colours that must be in the palette whatever the picture looks like, uint8 `[N, 3]`, white the last of them.
        colours: how many more the palette has, from the picture itself; 256 with those that are kept.
    """
    import numpy as np
    from PIL import Image

    sample = picture.resize((max(1, picture.width // 4), max(1, picture.height // 4)), Image.Resampling.NEAREST)
    own = (sample.quantize(colours, Image.Quantize.FASTOCTREE).getpalette() or [])[: 3 * colours]
    palette = Image.new("P", (1, 1))
    palette.putpalette([*own, *kept.ravel().tolist()])
    index = np.array(picture.quantize(palette=palette, dither=Image.Dither.NONE))
    red, green, blue = np.moveaxis(np.asarray(picture), -1, 0)
    index[(red & green & blue) == 255] = len(own) // 3 + len(kept) - 1  # Pillow is content with a pale grey
    small = Image.fromarray(index)
    small.putpalette([*own, *kept.ravel().tolist()])
    buffer = io.BytesIO()
    small.save(buffer, "PNG", compress_level=3)  # half the time of 6, for a fifteenth more bytes
    return buffer.getvalue()


def encode_jpeg(picture: Image.Image | np.ndarray, quality: int = 88) -> bytes:
    """A picture, or uint8 `[H, W, 3]`, as the content of a JPEG file, in full colour resolution."""
    from PIL import Image

    buffer = io.BytesIO()
    picture = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    # Not optimized: Pillow does that in a buffer that is too small for pictures that are much like noise.
    picture.save(buffer, "JPEG", quality=quality, subsampling=0)
    return buffer.getvalue()


@contextmanager
def decoding(name: str) -> Iterator[None]:
    """Whatever Pillow raises on a broken or a huge picture is an `InputError` that names it."""
    from PIL import Image, UnidentifiedImageError

    try:
        yield
    except UnidentifiedImageError as error:
        raise InputError(f"{name} is not a picture that Pillow can read") from error
    except Image.DecompressionBombError as error:
        raise InputError(f"{name} is too large to be decoded safely: {error}") from error
    except MemoryError as error:
        raise InputError(f"{name} needs more memory than there is: make it smaller") from error
    except Exception as error:  # Pillow's decoders raise all kinds on broken files, and on those that were closed
        if isinstance(error, InputError):
            raise
        raise InputError(f"{name} is damaged or truncated: {error}") from error


def open_picture(path: Path) -> Image.Image:
    """A picture of which the head is read, and no pixel.

    Raises:
        InputError: if there is no such file, or it is no picture.
    """
    if not os.path.exists(path):
        raise InputError(f"no such file: {path}")
    if os.path.isdir(path):
        raise InputError(f"{path} is a folder: give the pictures in it")
    if os.path.getsize(path) == 0:
        raise InputError(f"{path} is empty (0 bytes)")
    from PIL import Image

    with decoding(str(path)):
        found = Image.open(path)
    return found


def decode_png(data: bytes, most: int) -> np.ndarray:
    """uint8 `[H, W, 3]` from the content of a PNG file.

    Raises:
        ValueError: if it has more than `most` pixels; they are not decoded.
    """
    import numpy as np
    from PIL import Image

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the limit is ours
        picture = Image.open(io.BytesIO(data), formats=["PNG"])
    if picture.width * picture.height > most:
        raise ValueError(f"the picture has {picture.width} x {picture.height} pixels, expected at most {most:,}")
    return np.array(picture.convert("RGB"))

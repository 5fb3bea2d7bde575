"""Files written whole or not at all, and pictures as files."""

from __future__ import annotations

import io
import os
import tempfile
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from .errors import InputError

if TYPE_CHECKING:
    from PIL import Image


def write_atomically(path: Path, data: bytes) -> None:
    """Write `data` to `path` so that a reader, or an interruption, never sees half a file."""
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
        writers: from a suffix, as `.json`, to what makes the content.

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
    (Image.fromarray(picture) if isinstance(picture, np.ndarray) else picture).save(buffer, "PNG")
    return buffer.getvalue()


def decode_png(data: bytes, most: int) -> np.ndarray:
    """uint8 `[H, W, 3]` from the content of a PNG file.

    Raises:
        ValueError: if it has more than `most` pixels; they are not decoded.
    """
    from PIL import Image

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # the limit is ours
        picture = Image.open(io.BytesIO(data), formats=["PNG"])
    if picture.width * picture.height > most:
        raise ValueError(f"the picture has {picture.width} x {picture.height} pixels, expected at most {most:,}")
    return np.array(picture.convert("RGB"))

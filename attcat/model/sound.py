"""Sounds as input: read what users have, and observe where a feature extractor puts a moment."""

from __future__ import annotations

import os
import wave
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from ..errors import InputError, ProcessorError
from ..targets import integer
from ..tokens import Waveform
from ..tokens.times import MAX_SAMPLES


def read_sound(source: Any) -> Waveform:
    """Read a sound as float32 samples of one channel.

    Args:
        source: `(samples, rate)` with samples `[N]` as a list, array or tensor, floats (-1 to 1) or 16-bit integers; a
            `Waveform`; or the path of a .wav file, whose channels are averaged.

    Raises:
        InputError: if there is no such file, it is not a sound that the standard library reads, or the samples are not as above.
    """
    if isinstance(source, Waveform):
        return source
    if isinstance(source, (str, os.PathLike)):
        return _open(Path(source))
    if not isinstance(source, tuple) or len(source) != 2 or integer(source[1]) is None:
        raise InputError(
            f"cannot read a sound from {type(source).__name__}: give (samples, sampling rate), the path of a .wav file, or "
            "model arguments"
        )
    samples, rate = source
    given = _array(samples)
    whole = np.issubdtype(given.dtype, np.integer)
    if given.ndim != 1 or not len(given) or not (whole or np.issubdtype(given.dtype, np.floating)):
        raise InputError(f"samples of shape {given.shape}, {given.dtype}: give one channel, [N]; average several")
    if whole and given.dtype != np.int16:
        raise InputError(f"samples of {given.dtype}: give floats from -1 to 1, or 16-bit integers")
    if len(given) > MAX_SAMPLES:
        raise InputError(f"{len(given):,} samples: at most {MAX_SAMPLES:,} are explained; give a part of the sound")
    with np.errstate(over="ignore"):  # what is too large for float32 is refused as infinite
        return _waveform(given.astype(np.float32) / (32768 if whole else 1), int(rate))


def _array(samples: Any) -> np.ndarray:
    try:
        if isinstance(samples, Tensor):
            given = samples.detach().cpu()
            return (given.float() if given.is_floating_point() else given).numpy()
        return np.asarray(samples)
    except (TypeError, ValueError, RuntimeError) as error:  # sparse or meta tensors, rows of different lengths
        raise InputError(f"samples that are not an array of numbers: {error}; give one channel, [N]") from error


def _waveform(samples: np.ndarray, rate: int) -> Waveform:
    try:
        return Waveform(np.ascontiguousarray(samples, dtype=np.float32), rate)
    except ValueError as error:
        raise InputError(f"this is not a sound: {error}") from error


def _open(path: Path) -> Waveform:
    try:
        with wave.open(str(path), "rb") as file:
            width, channels, rate = file.getsampwidth(), file.getnchannels(), file.getframerate()
            count = min(file.getnframes(), path.stat().st_size // max(1, width * channels))  # a header may promise more
            if width > 4:
                raise ValueError(f"samples of {8 * width} bits")
            data = file.readframes(count) if count <= MAX_SAMPLES else b""
    except FileNotFoundError as error:
        raise InputError(f"no such file: {path}") from error
    except Exception as error:  # a damaged header can fail in every way that the module and its chunks know
        raise InputError(
            f"{path} is not a .wav file of integer samples, the kind that the standard library reads: {error}; read it with "
            "another library and give (samples, rate)"
        ) from error
    if count > MAX_SAMPLES:
        raise InputError(
            f"{path} has {count:,} samples: at most {MAX_SAMPLES:,} are explained; give a part of the sound"
        )
    data = data[: len(data) // (width * channels) * width * channels]  # of a truncated file, what is whole
    raw = np.frombuffer(data, np.uint8).reshape(-1, width).astype(np.int64)
    values = sum(raw[:, byte] << (8 * byte) for byte in range(width))
    full = 1 << (8 * width - 1)
    signed = values - full if width == 1 else (values ^ full) - full  # 8 bits are unsigned, others in two's complement
    return _waveform(np.asarray(signed).reshape(-1, channels).mean(1) / full, rate)


@dataclass(frozen=True)
class Clock:
    """Where a moment of the sound is along an axis of the model's input.

    Args:
        axis: which axis of the input, without the batch, is time.
        rate: positions per second.
        start: the second of position 0, whose centre is half a position later.
    """

    axis: int
    rate: float
    start: float = 0.0

    def second(self, position: float) -> float:
        """The second of a place on the axis, where position p covers `[p, p + 1)`."""
        return self.start + position / self.rate


def observed_clock(extract: Callable[[np.ndarray], Tensor], rate: int) -> Clock:
    """Clicks at two moments are put through a feature extractor: the axis along which they move apart is time.

    Args:
        extract: from samples `[N]` to the features of the sound, without the batch, `[A]` or `[A, B]`.
        rate: samples per second.

    Raises:
        ProcessorError: if clicks do not move along one axis.
    """
    generator = np.random.default_rng(0)
    ground = 0.01 * generator.standard_normal(rate)
    click = generator.standard_normal(rate // 50)
    moments = (0.25, 0.5, 0.75)
    sounds = []
    for several in (
        moments[1:2],
        moments[:2],
        moments[1:],
    ):  # one click is always there: some extractors scale by the loudest
        sound = ground.copy()
        for moment in several:
            start = int(moment * rate) - len(click) // 2
            sound[start : start + len(click)] += click
        sounds.append(extract(sound.astype(np.float32)).double().numpy())
    if sounds[0].ndim == 1:
        return Clock(0, float(rate))  # samples, scaled
    found = []
    for axis in range(sounds[0].ndim):
        others = tuple(other for other in range(sounds[0].ndim) if other != axis)
        early, late = (_centre(np.abs(sound - sounds[0]).sum(others)) for sound in sounds[1:])
        found.append((late - early, early, axis))
    moved, early, axis = max(found)
    if moved < 2:
        raise ProcessorError(
            "it is not seen where the feature extractor puts a moment: a click half a second later changes the same features"
        )
    hop = max(1, round(rate * (moments[2] - moments[0]) / moved))  # a spectrogram advances by whole samples
    return Clock(axis, rate / hop, moments[0] - early * hop / rate)


def _centre(profile: np.ndarray) -> float:
    """The middle of what is more than half as large as the largest, weighted; position p covers `[p, p + 1)`."""
    high = np.where(profile > profile.max() / 2, profile, 0.0)
    total = high.sum()
    return float((high * (np.arange(len(high)) + 0.5)).sum() / total) if total else 0.0

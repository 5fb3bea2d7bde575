"""Moments: tokens that stand for a stretch of a sound, and perhaps for a band of its frequencies."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from .. import plain

MAX_SAMPLES = 1 << 26
"""Sounds beyond this many samples (67 million, more than an hour at 16 kHz) are refused."""


@dataclass(frozen=True, eq=False)
class Waveform:
    """A sound as it was given: one channel.

    Args:
        samples: float32 `[N]`, usually within -1 to 1; kept as a read-only copy.
        rate: samples per second.

    Raises:
        ValueError: if there are no samples or more than `MAX_SAMPLES`, or they are not finite numbers in one dimension.
    """

    samples: np.ndarray
    rate: int

    def __post_init__(self) -> None:
        plain.settle(self, {"samples": _samples, "rate": plain.whole(1)})

    def __len__(self) -> int:
        return len(self.samples)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Waveform):
            return NotImplemented
        return self.rate == other.rate and np.array_equal(self.samples, other.samples)

    __hash__ = object.__hash__

    def __reduce__(self) -> tuple[type[Waveform], tuple[np.ndarray, int]]:
        return Waveform, (self.samples, self.rate)

    @property
    def seconds(self) -> float:
        """How long it is."""
        return len(self.samples) / self.rate


@dataclass(frozen=True)
class Segment:
    """A stretch of a sound and its score, the sum over the tokens that stand for it.

    Args:
        start: in seconds.
        end: in seconds.
        score: summed score.
    """

    start: float
    end: float
    score: float

    def __iter__(self) -> Iterator[float]:
        return iter((self.start, self.end, self.score))


Time = tuple[float, float]
"""Half-open stretch of seconds `[start, end)`."""


def group_times(times: Sequence[Time | None]) -> list[tuple[Time, list[int]]]:
    """The tokens of each stretch: those of one moment in several bands belong together; in the order of time."""
    found: dict[Time, list[int]] = {}
    for position, time in enumerate(times):
        if time is not None:
            found.setdefault(time, []).append(position)
    return sorted(found.items())


def check_time(value: object) -> Time:
    """`(start, end)` in seconds, in order; a check of `plain`."""
    start, end = plain.tuple_of(plain.real, 2)(value)
    if not 0 <= start < end:
        raise ValueError(f"got {(start, end)}, expected (start, end) with 0 <= start < end")
    return start, end


def _samples(value: object) -> np.ndarray:
    given = np.asarray(value)
    if given.ndim != 1 or not 0 < len(given) <= MAX_SAMPLES or given.dtype != np.float32:
        raise ValueError(
            f"got {given.dtype} {list(given.shape)}, expected float32 [N], of at most {MAX_SAMPLES:,} samples"
        )
    kept = plain.read_only(given)
    if kept is not given and not np.isfinite(given).all():
        raise ValueError("got numbers that are not finite, expected samples")
    return kept

"""Bootstrap intervals and paired comparisons: examples are resampled, the same ones for every method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

RESAMPLES = 10_000


@dataclass(frozen=True)
class Estimate:
    """A mean over examples.

    Args:
        mean: NaN without examples.
        low: 2.5th percentile of the bootstrap distribution.
        high: 97.5th percentile.
        count: the examples that have a value.
    """

    mean: float
    low: float
    high: float
    count: int


@dataclass(frozen=True)
class Comparison:
    """Two methods on the same examples.

    Args:
        difference: mean of the first minus the second.
        low: 2.5th percentile of the bootstrap distribution of the difference.
        high: 97.5th percentile.
        p: two-sided: twice the smaller share of resamples on either side of 0, at least 1 / resamples.
    """

    difference: float
    low: float
    high: float
    p: float


def estimate(values: Sequence[float], seed: int, resamples: int = RESAMPLES) -> Estimate:
    """Mean and percentile interval (Efron & Tibshirani 1993, chapter 13); values that are not finite do not count."""
    array = np.asarray(values, dtype=np.float64)
    array = array[np.isfinite(array)]
    if not len(array):
        return Estimate(float("nan"), float("nan"), float("nan"), 0)
    means = _resampled(array[:, None], seed, resamples)[:, 0]
    low, high = np.percentile(means, [2.5, 97.5])
    return Estimate(float(array.mean()), float(low), float(high), len(array))


def compare(
    values: Mapping[str, Sequence[float]], seed: int, resamples: int = RESAMPLES
) -> dict[tuple[str, str], Comparison]:
    """Every pair of methods, on the examples for which all have a value."""
    names = list(values)
    table = np.array([values[name] for name in names], dtype=np.float64).T
    table = table[np.isfinite(table).all(1)]
    if not len(table):
        return {}
    means = _resampled(table, seed, resamples)
    found = {}
    for first in range(len(names)):
        for second in range(first + 1, len(names)):
            drawn = means[:, first] - means[:, second]
            low, high = np.percentile(drawn, [2.5, 97.5])
            tail = min((drawn <= 0).mean(), (drawn >= 0).mean())
            difference = float((table[:, first] - table[:, second]).mean())
            found[names[first], names[second]] = Comparison(
                difference, float(low), float(high), float(min(1.0, max(2 * tail, 1 / resamples)))
            )
    return found


def _resampled(table: np.ndarray, seed: int, resamples: int) -> np.ndarray:
    """Means of resampled rows: `[N, M]` to `[resamples, M]`; the same draws for every column."""
    means: np.ndarray = _draws(len(table), seed, resamples) @ table
    return means


@lru_cache(maxsize=2)
def _draws(count: int, seed: int, resamples: int) -> np.ndarray:
    """The share of each row in each resample, `[resamples, N]`: most of the work, and the same for every table so long."""
    found = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=resamples) / count
    found.flags.writeable = False
    return found

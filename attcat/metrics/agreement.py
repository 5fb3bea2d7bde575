"""Do two explanations agree? The rank correlation between those of two classes shows how class-specific a method is."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError
from .ablation import Scores, as_tensor


def kendall_tau(first: Sequence[Scores], second: Sequence[Scores]) -> Tensor:
    """Kendall's tau-b between the scores of two explanations of each input, e.g. of two classes.

    Returns:
        float64 `[N]`: 1 for the same order, -1 for the reverse, NaN where one of them is constant. For two classes and a
        class-specific method it is low. Source: Kendall 1945; used this way by Adebayo et al. 2018.

    Raises:
        InputError: if the numbers of inputs or of tokens differ, or there are fewer than two tokens.
    """
    return _correlate(first, second, lambda values: values)


def kendall_tau_of_argsort(first: Sequence[Scores], second: Sequence[Scores]) -> Tensor:
    """The statistic that AttCAT's authors print: Kendall's tau between the *argsort indices* of two explanations.

    An argsort lists positions by rank; it is not a rank by position, and correlating two such lists says little: the
    scores 0, 4, 1, 3, 2 and their reversal give +0.6. Use `kendall_tau`; this is here to reproduce published figures.

    Returns:
        float64 `[N]`, -1 to 1. Source: Qiang et al. 2022, section 4, `cal_kendaltau`.

    Raises:
        InputError: as for `kendall_tau`.
    """
    return _correlate(first, second, lambda values: np.argsort(-values, kind="stable"))


def _correlate(
    first: Sequence[Scores], second: Sequence[Scores], transform: Callable[[np.ndarray], np.ndarray]
) -> Tensor:
    from scipy.stats import kendalltau

    if len(first) != len(second):
        raise InputError(f"{len(first)} and {len(second)} explanations: expected two of each input")
    found = []
    for number, pair in enumerate(zip(first, second, strict=True)):
        one, other = (as_tensor(values).numpy() for values in pair)
        if one.shape != other.shape or one.ndim != 1 or len(one) < 2:
            raise InputError(
                f"input {number}: scores of shape {one.shape} and {other.shape}: expected the same number, at least two"
            )
        found.append(float(kendalltau(transform(one), transform(other)).statistic))
    return torch.tensor(found, dtype=torch.float64)

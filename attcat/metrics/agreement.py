"""Do two explanations agree, with each other or with what was measured?

The rank correlation between those of two classes shows how class-specific a method is; that between those of two pictures under
one question, whether the map looks at the picture; that between shares and falls, whether shares mean what they say.
"""

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


def rank_correlation(first: Sequence[Scores], second: Sequence[Scores]) -> Tensor:
    """Spearman's rank correlation between two explanations of the same tokens, e.g. of two pictures under one question.

    A map that stays where it was (1) looks at the question, or at nothing, but not at the picture.

    Returns:
        float64 `[N]`: 1 for the same order, -1 for the reverse, NaN where one of them is constant.

    Raises:
        InputError: as for `kendall_tau`.
    """
    from scipy.stats import pearsonr, rankdata

    def measure(one: np.ndarray, other: np.ndarray) -> float:
        constant = one.min() == one.max() or other.min() == other.max()
        return float("nan") if constant else float(pearsonr(rankdata(one), rankdata(other)).statistic)

    return _correlate(first, second, lambda values: values, measure)


def shares_and_falls(shares: Sequence[float], falls: Sequence[float]) -> float:
    """Spearman's rank correlation over examples between a kind of token's share and what its removal costs.

    Args:
        shares: of the relevance that lies on e.g. the picture, one per example.
        falls: how far the explained value falls when all tokens of this kind are removed, one per example.

    Returns:
        -1 to 1, higher is better; NaN if one of them is constant.

    Raises:
        InputError: if the numbers differ, or there are fewer than two examples.
    """
    return float(rank_correlation([np.asarray(shares)], [np.asarray(falls)])[0])


def other_picture(scores: Scores, others: Scores) -> float:
    """Spearman's rank correlation between the map of a picture and that of another one, under the same question and for the same
    class. A map that does not move has 1, and has not explained the answer.

    Args:
        scores: of the picture's patches.
        others: of as many patches of the other picture.

    Raises:
        InputError: if the numbers differ, or there are fewer than two patches.
    """
    return float(rank_correlation([scores], [others])[0])


def larger_share_falls_more(shares: tuple[float, float], falls: tuple[float, float]) -> float:
    """Whether of the picture and the question the one that has the larger share is also missed more.

    Args:
        shares: of the relevance that lies on the picture, and on the question.
        falls: how far the class's log-odds fall when all tokens of the picture, or of the question, are removed.

    Returns:
        1 if it is, 0 if the other one is missed more, 0.5 if the shares or the falls are equal.
    """
    order = (shares[0] - shares[1]) * (falls[0] - falls[1])
    return 0.5 if order == 0 else float(order > 0)


def _correlate(
    first: Sequence[Scores],
    second: Sequence[Scores],
    transform: Callable[[np.ndarray], np.ndarray],
    measure: Callable[[np.ndarray, np.ndarray], float] | None = None,
) -> Tensor:
    from scipy.stats import kendalltau

    def tau(one: np.ndarray, other: np.ndarray) -> float:
        return float(kendalltau(one, other).statistic)

    measure = measure or tau
    if len(first) != len(second):
        raise InputError(f"{len(first)} and {len(second)} explanations: expected two of each input")
    found = []
    for number, pair in enumerate(zip(first, second, strict=True)):
        one, other = (as_tensor(values).numpy() for values in pair)
        if one.shape != other.shape or one.ndim != 1 or len(one) < 2:
            raise InputError(
                f"input {number}: scores of shape {one.shape} and {other.shape}: expected the same number, at least two"
            )
        found.append(measure(transform(one), transform(other)))
    return torch.tensor(found, dtype=torch.float64)

"""Perturbation curves, and the metrics that are read off them.

Content tokens are removed in the order of their scores, most relevant first (MoRF) and least relevant first (LeRF), and
the probability of one class is watched; for a regression, the value itself. The curves are made once; each metric is a pure
function of them. A metric is a mean over the curve: a difference of probabilities (or of their logarithms, or of values) per
step, whatever the length. Below, p is that probability; for a regression read "the value", whose range is its own.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from ..errors import InputError, OptionError
from .ablation import Ablation, Job, Scores, content_scores

Watched = Literal["probability", "value"]
"""What a curve is of: a class's probability, or the value that a regression measures."""

TENTHS = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
"""Shares of the content tokens that AOPC and its relatives remove."""
STEPS = (0.0, *TENTHS, 1.0)
"""Shares of RISE's curves, which go all the way."""
BINS = (0.01, 0.05, 0.1, 0.2, 0.5)
"""Shares of ERASER's rationales."""
KEPT = tuple(round(1 - share, 2) for share in BINS)
"""What is removed when a rationale alone stays."""


@dataclass(frozen=True, eq=False)
class Curve:
    """One order of removal, for `N` examples and `K` shares.

    Args:
        raw: the class's log-probability, or the measured value, float64 `[N, K]`.
        kept: whether it is still the predicted one, bool `[N, K]`.
        of: what is watched: a class's `probability`, or the `value` that the model measures (regression).
    """

    raw: Tensor
    kept: Tensor
    of: Watched = "probability"

    @property
    def level(self) -> Tensor:
        """float64 `[N, K]`: the probability, 0 to 1; or the value, in the model's own unit."""
        return self.raw if self.of == "value" else self.raw.exp()

    @property
    def log_probability(self) -> Tensor:
        """float64 `[N, K]`.

        Raises:
            OptionError: if a measured value is watched, which has no probability.
        """
        if self.of == "value":
            raise OptionError(
                "the output is a measured value, which has no probability: read .level, and do not use log-odds"
            )
        return self.raw

    @property
    def still(self) -> Tensor:
        """float64 `[N, K]`: 1 where the class is still the predicted one, else 0.

        Raises:
            OptionError: if a measured value is watched, which has no accuracy.
        """
        if self.of == "value":
            raise OptionError("the output is a measured value, which has no accuracy: read .level")
        return self.kept.double()


@dataclass(frozen=True, eq=False)
class Curves:
    """What the model predicts for one class per example while tokens are removed.

    Args:
        fractions: the shares of content tokens removed, ascending, the first is 0.
        classes: the class that is watched, int64 `[N]`.
        morf: most relevant first.
        lerf: least relevant first.
        removal: how tokens were removed.
    """

    fractions: tuple[float, ...]
    classes: Tensor
    morf: Curve
    lerf: Curve
    removal: str

    def __post_init__(self) -> None:
        shape = (len(self.classes), len(self.fractions))
        if not self.fractions or self.fractions[0] != 0 or list(self.fractions) != sorted(set(self.fractions)):
            raise ValueError(f"fractions {self.fractions}: expected ascending shares, the first of them 0")
        for curve in (self.morf, self.lerf):
            if curve.raw.shape != shape or curve.kept.shape != shape:
                raise ValueError(f"curves of shape {tuple(curve.raw.shape)}, expected {shape}")

    def columns(self, shares: Sequence[float]) -> list[int]:
        """Where these shares are.

        Raises:
            InputError: if the curves were made without one of them.
        """
        missing = [share for share in shares if share not in self.fractions]
        if missing:
            raise InputError(f"the curves have no point at {missing}: make them with fractions={tuple(shares)}")
        return [self.fractions.index(share) for share in shares]


def removal_count(share: float, tokens: int) -> int:
    """How many of `tokens` a share stands for: the nearest number, but neither none nor all, unless it is 0 or 1.

    If there is a single token, every share but 0 stands for that one.
    """
    if share in (0, 1) or tokens == 1:
        return math.ceil(share) * tokens
    return min(max(math.floor(share * tokens + 0.5), 1), tokens - 1)


def perturbation_curves(
    ablation: Ablation,
    scores: Sequence[Scores],
    classes: Tensor | Sequence[int] | None = None,
    fractions: Iterable[float] = STEPS,
) -> Curves:
    """Remove content tokens in both orders.

    Equal scores keep the order of the input; least relevant first is the exact reverse of most relevant first.

    Args:
        ablation: the inputs, and how tokens are removed.
        scores: one entry per input, from here or elsewhere, see `content_scores`.
        classes: the class to watch per input, `[N]`; by default the predicted one.
        fractions: shares of the content tokens to remove, 0 to 1; 0 is added.

    Raises:
        InputError: if scores or classes do not fit the inputs, or a share is not between 0 and 1.
    """
    shares = tuple(sorted({0.0, *map(float, fractions)}))
    if not 0 <= shares[0] <= shares[-1] <= 1:
        raise InputError(f"fractions from {shares[0]} to {shares[-1]}: expected shares between 0 and 1")
    watched = checked_classes(ablation, classes)
    jobs: list[Job] = []
    for number, values in enumerate(content_scores(ablation, scores)):
        order = values.argsort(descending=True, stable=True)
        counts = [removal_count(share, len(order)) for share in shares]
        for ranked in (order, order.flip(0)):
            jobs += [(number, without(ablation, number, ranked[:count])) for count in counts]
    morf, lerf = curves_of(ablation, jobs, watched, 2)
    return Curves(shares, watched, morf, lerf, ablation.how)


def without(ablation: Ablation, number: int, positions: Tensor) -> Tensor:
    """bool `[T]`: an example's content tokens at these positions (counted among content tokens)."""
    content = ablation.content[number]
    removed = torch.zeros_like(content)
    removed[content.nonzero()[:, 0][positions]] = True
    return removed


def curves_of(ablation: Ablation, jobs: Sequence[Job], classes: Tensor, orders: int) -> tuple[Curve, ...]:
    """Run jobs that are sorted by example, then by order, then by share."""
    watched = classes.repeat_interleave(len(jobs) // len(classes))
    of: Watched = "value" if ablation.activation == "none" else "probability"
    raw = ablation.levels(jobs, watched) if of == "value" else ablation.log_probabilities(jobs, watched)
    kept = ablation.predicts(jobs, watched).reshape(len(classes), orders, -1)
    raw = raw.reshape(kept.shape)
    return tuple(Curve(raw[:, order], kept[:, order], of) for order in range(orders))


def checked_classes(ablation: Ablation, classes: Tensor | Sequence[int] | None) -> Tensor:
    """int64 `[N]`: the classes to watch, by default the predicted ones.

    Raises:
        InputError: if they are not one existing class per input.
    """
    if classes is None:
        return ablation.predicted
    found, count = torch.as_tensor(classes, dtype=torch.long).cpu(), ablation.intact.shape[1]
    if found.shape != (len(ablation),) or not ((found >= 0) & (found < count)).all():
        raise InputError(
            f"classes {found.tolist()[:10]}: expected one of 0 to {count - 1} for each of {len(ablation)} inputs"
        )
    return found


# -- read off the curves -----------------------------------------------------------------------------------------------


def aopc(curves: Curves) -> Tensor:
    """Area over the perturbation curve, signed.

        mean over k in {10..90 %} of p(x) - p(x without the k most relevant tokens)

    Returns:
        float64 `[N]`, -1 to 1; higher is better. Source: Samek et al. 2017, eq. 12; Nguyen, NAACL 2018.
    """
    p = curves.morf.level
    return (p[:, :1] - p[:, curves.columns(TENTHS)]).mean(1)


def lodds(curves: Curves) -> Tensor:
    """Log-odds, as the term is used in this field: the natural logarithm of the ratio of probabilities.

        mean over k in {10..90 %} of ln p(x without the k most relevant tokens) - ln p(x)

    Returns:
        float64 `[N]`, in nats; lower is better. Source: Shrikumar et al. 2017 (the idea); Qiang et al. 2022, section 4.

    Raises:
        OptionError: if a measured value is watched.
    """
    logs = curves.morf.log_probability
    return (logs[:, curves.columns(TENTHS)] - logs[:, :1]).mean(1)


def comprehensiveness(curves: Curves) -> Tensor:
    """How far the probability falls without the rationale, the most relevant 1, 5, 10, 20 and 50 % of the tokens.

        mean over k of p(x) - p(x without r_k)

    Returns:
        float64 `[N]`, -1 to 1; higher is better. Source: DeYoung et al., ERASER, ACL 2020, eq. 1 and its aggregate.
    """
    p = curves.morf.level
    return (p[:, :1] - p[:, curves.columns(BINS)]).mean(1)


def sufficiency(curves: Curves) -> Tensor:
    """How far the probability falls when only the rationale stays.

        mean over k of p(x) - p(r_k)

    Returns:
        float64 `[N]`, -1 to 1; lower is better. Source: DeYoung et al., ERASER, ACL 2020, eq. 2 and its aggregate.
    """
    p = curves.lerf.level
    return (p[:, :1] - p[:, curves.columns(KEPT)]).mean(1)


def deletion(curves: Curves) -> Tensor:
    """Area under the deletion curve: the probability while tokens are removed, most relevant first, by tenths.

    Returns:
        float64 `[N]`, 0 to 1 (trapezoids); lower is better. Source: Petsiuk et al., RISE, BMVC 2018, section 4.2.
    """
    return _area(curves.morf.level, curves, STEPS)


def insertion(curves: Curves) -> Tensor:
    """Area under the insertion curve: the probability while tokens are inserted, most relevant first, by tenths.

    The input without its k least relevant tokens is the empty input with the others inserted, so this is the area under
    the LeRF curve. RISE starts from a blurred picture: use the removal `blur`.

    Returns:
        float64 `[N]`, 0 to 1 (trapezoids); higher is better. Source: Petsiuk et al., RISE, BMVC 2018, section 4.2.
    """
    return _area(curves.lerf.level, curves, STEPS)


def positive_perturbation(curves: Curves) -> Tensor:
    """Area under the accuracy while the most relevant 10 to 90 % are removed: is the class still the predicted one?

    Returns:
        float64 `[N]`, 0 to 1 (trapezoids over the range, divided by its width); lower is better.
        Source: Chefer et al., CVPR 2021, section 4, "positive perturbation".
    """
    return _area(curves.morf.still, curves, TENTHS)


def negative_perturbation(curves: Curves) -> Tensor:
    """Area under the accuracy while the least relevant 10 to 90 % are removed: is the class still the predicted one?

    Returns:
        float64 `[N]`, 0 to 1 (trapezoids over the range, divided by its width); higher is better.
        Source: Chefer et al., CVPR 2021, section 4, "negative perturbation".
    """
    return _area(curves.lerf.still, curves, TENTHS)


def abpc(curves: Curves) -> Tensor:
    """Area between the perturbation curves: least minus most relevant first.

        mean over k in {10..90 %} of p(x without the k least relevant) - p(x without the k most relevant)

    The model's sensitivity to removal as such cancels out, so the mean over random orders is 0.

    Returns:
        float64 `[N]`, -1 to 1; higher is better. Source: Schulz et al., ICLR 2020, section 4.4 (LeRF - MoRF).
    """
    columns = curves.columns(TENTHS)
    return (curves.lerf.level[:, columns] - curves.morf.level[:, columns]).mean(1)


def _area(values: Tensor, curves: Curves, shares: Sequence[float]) -> Tensor:
    """Area under `values` between the first and the last share, by trapezoids, divided by the width."""
    at = torch.tensor(shares, dtype=torch.float64)
    return torch.trapezoid(values[:, curves.columns(shares)], at) / (at[-1] - at[0])

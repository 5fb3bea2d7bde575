"""AOPC and LOdds exactly as AttCAT's authors compute them, under separate names.

Their notebooks (github.com/qiangyao1988/AttCAT, SST-2_Test.ipynb) share only the idea with the form that later papers use: the
gold label is watched, not the predicted class; 1/9, 2/9, ... 9/9 of all tokens are removed, special ones counted but never
removed, so the last steps remove all content; the token that ranks last is never removed; AOPC takes the absolute difference;
texts of fewer than ten tokens are left out.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import InputError
from .ablation import Ablation, Job, Scores, as_tensor, content_scores
from .perturbation import Curve, checked_classes, curves_of

NINTHS = 9
SHORTEST = 10
"""Tokens, special ones included, below which a text is left out."""


def published_curve(ablation: Ablation, scores: Sequence[Scores], labels: Tensor | Sequence[int]) -> Curve:
    """Remove tokens as the authors do.

    Args:
        ablation: the inputs; the paper removes by `delete` and by `pad`.
        scores: one entry per input. Without scores for them, special tokens rank last.
        labels: the gold label of each input, `[N]`.

    Returns:
        The label's curve, `[N, 10]`, the first column with nothing removed; NaN for texts that are left out.

    Raises:
        InputError: if scores or labels do not fit.
    """
    watched = checked_classes(ablation, labels)
    jobs: list[Job] = []
    inner = content_scores(ablation, scores)
    for number, values in enumerate(scores):
        order = _order(ablation, number, values, inner[number])
        jobs.append((number, torch.zeros_like(ablation.content[number])))
        for step in range(1, NINTHS + 1):
            removed = torch.zeros_like(ablation.content[number])
            removed[order[: round(step * len(removed) / NINTHS)]] = True  # half to even, as numpy rounds
            jobs.append((number, removed))
    (curve,) = curves_of(ablation, jobs, watched, 1)
    short = torch.tensor([len(tokens) < SHORTEST for tokens in ablation.tokens])
    return Curve(curve.log_probability.masked_fill(short[:, None], torch.nan), curve.kept)


def _order(ablation: Ablation, number: int, values: Scores, inner: Tensor) -> Tensor:
    """Positions of content tokens, most relevant first, without the token that ranks last of all."""
    content = ablation.content[number]
    every = torch.full((len(content),), -torch.inf, dtype=torch.float64)
    every[content] = inner
    plain = as_tensor(values)
    if len(plain) == len(content):
        if not plain.isfinite().all():
            raise InputError(f"the scores of input {number} are not all finite")
        every = plain
    order = every.argsort(descending=True, stable=True)[:-1]
    return order[content[order]]


def aopc_published(curve: Curve) -> Tensor:
    """AOPC of the authors' code: the mean over ninths of |p(x) - p(x without k)|, the gold label's probability.

    Being absolute, it also rewards a probability that rises.

    Returns:
        float64 `[N]`, 0 to 1, NaN for texts that are left out; higher is better.
        Source: Qiang et al. 2022, section 4, `cal_aopc`.
    """
    p = curve.level
    return (p[:, :1] - p[:, 1:]).abs().mean(1)


def lodds_published(curve: Curve) -> Tensor:
    """LOdds of the authors' code: the mean over ninths of ln(p(x without k) / p(x)), the gold label's probability.

    Returns:
        float64 `[N]`, in nats, NaN for texts that are left out; lower is better.
        Source: Qiang et al. 2022, section 4, `cal_logodds`.
    """
    return (curve.log_probability[:, 1:] - curve.log_probability[:, :1]).mean(1)

"""Faithfulness relative to what the model allows, and relative to the scores' own sizes: NAOPC and SaCo."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import InputError
from .ablation import Ablation, Job, Scores, content_scores
from .perturbation import checked_classes, without

LONGEST = 64
"""Content tokens up to which bounds are searched: the search needs about n * n * width passes."""


def naopc(
    ablation: Ablation,
    scores: Sequence[Scores],
    classes: Tensor | Sequence[int] | None = None,
    *,
    width: int = 5,
) -> Tensor:
    """AOPC, token by token, normalised by the lowest and the highest that any order reaches on this model and input.

        AOPC = 1/n sum_{k=1..n} p(x) - p(x without the k most relevant);    NAOPC = (AOPC - lower) / (upper - lower)

    Models differ in how much AOPC they allow at all; this makes them comparable. The bounds are found by beam search: a
    better order may exist, and the result may lie slightly outside [0, 1].

    Args:
        ablation: the inputs.
        scores: one entry per input.
        classes: the class to watch, by default the predicted one.
        width: orders that the search keeps at each step.

    Returns:
        float64 `[N]`, NaN where both bounds are the same; higher is better.
        Source: Edin et al., "Normalized AOPC", arXiv 2408.08137, section 4.

    Raises:
        InputError: if an input has more than 64 content tokens, or the width is not positive.
    """
    watched = checked_classes(ablation, classes)
    jobs: list[Job] = []
    orders = [values.argsort(descending=True, stable=True) for values in content_scores(ablation, scores)]
    lower, upper = aopc_bounds(ablation, watched, width=width)
    for number, order in enumerate(orders):
        jobs += [(number, without(ablation, number, order[:count])) for count in range(1, len(order) + 1)]
    falls = _falls(ablation, jobs, watched)
    found = torch.stack([part.mean() for part in torch.split(falls, [len(order) for order in orders])])
    return torch.where(upper > lower, (found - lower) / (upper - lower), torch.nan)


def aopc_bounds(ablation: Ablation, classes: Tensor, *, width: int = 5) -> tuple[Tensor, Tensor]:
    """The lowest and highest AOPC that a beam search over orders of removal finds, float64 `[N]` each; see `naopc`."""
    if width < 1:
        raise InputError(f"width={width}, expected at least 1")
    sizes = [int(content.sum()) for content in ablation.content]
    if max(sizes) > LONGEST:
        raise InputError(
            f"an input has {max(sizes)} content tokens: bounds are searched up to {LONGEST}, as the search needs about "
            "n * n * width passes; leave out naopc, or give shorter inputs"
        )
    lowest, highest = (_search(ablation, classes, sizes, width, sign) for sign in (-1.0, 1.0))
    return lowest, highest


def _search(ablation: Ablation, classes: Tensor, sizes: list[int], width: int, sign: float) -> Tensor:
    """Beam search for the order whose falls add up to the most (sign 1) or the least (-1); all inputs step together."""
    beams: list[dict[frozenset[int], float]] = [{frozenset(): 0.0} for _ in sizes]
    for step in range(max(sizes)):
        grown: list[dict[frozenset[int], float]] = []
        for number, size in enumerate(sizes):
            found: dict[frozenset[int], float] = {}
            for gone, total in beams[number].items():
                for token in range(size) if step < size else ():
                    if token not in gone:
                        key = gone | {token}  # orders that lead to the same set are merged into the better one
                        found[key] = max(found.get(key, -torch.inf), total)
            grown.append(found)
        jobs = [
            (number, without(ablation, number, torch.tensor(sorted(gone))))
            for number, found in enumerate(grown)
            for gone in found
        ]
        falls = iter((sign * _falls(ablation, jobs, classes)).tolist())
        for number, found in enumerate(grown):
            if found:
                scored = sorted(
                    ((total + next(falls), gone) for gone, total in found.items()), key=lambda pair: -pair[0]
                )
                beams[number] = {gone: total for total, gone in scored[:width]}
    best = torch.tensor([max(beam.values()) for beam in beams], dtype=torch.float64)
    return sign * best / torch.tensor(sizes)


def _falls(ablation: Ablation, jobs: Sequence[Job], classes: Tensor) -> Tensor:
    """p(x) - p(x without some tokens) per job, float64 `[J]`; of a regression, the fall of the value."""
    numbers = torch.tensor([number for number, _ in jobs])
    nothing = [(number, torch.zeros_like(removed)) for number, removed in jobs]
    before, after = (ablation.levels(j, classes[numbers]) for j in (nothing, jobs))
    return before - after


def saco(
    ablation: Ablation, scores: Sequence[Scores], classes: Tensor | Sequence[int] | None = None, *, groups: int = 10
) -> Tensor:
    """Salience-guided faithfulness coefficient: do groups of tokens matter in the order, and as much, as they score?

    The tokens, sorted by score, are split into groups of similar size G_1, ..., G_K; each is removed alone. With s(G) the sum
    of its scores and d(G) = p(x) - p(x without G), over all pairs i < j

        F = sum w_ij / sum |w_ij|,    w_ij = s(G_i) - s(G_j) if d(G_i) >= d(G_j), else -(s(G_i) - s(G_j))

    The groups' sizes differ by one token at most, as a token cannot be split; their mean scores replace the sums.

    Args:
        ablation: the inputs.
        scores: one entry per input.
        classes: the class to watch, by default the predicted one.
        groups: how many; no more than there are tokens.

    Returns:
        float64 `[N]`, -1 to 1, NaN where all groups score the same; higher is better.
        Source: Wu et al., CVPR 2024, section 3 and algorithm 1 (K = 10).

    Raises:
        InputError: if there are fewer than two groups.
    """
    if groups < 2:
        raise InputError(f"groups={groups}, expected at least 2")
    watched = checked_classes(ablation, classes)
    jobs: list[Job] = []
    salience: list[Tensor] = []
    for number, values in enumerate(content_scores(ablation, scores)):
        parts = torch.tensor_split(values.argsort(descending=True, stable=True), min(groups, len(values)))
        jobs += [(number, without(ablation, number, part)) for part in parts]
        salience.append(torch.stack([values[part].mean() for part in parts]))
    falls = torch.split(_falls(ablation, jobs, watched), [len(s) for s in salience])
    return torch.stack([saco_coefficient(s, d) for s, d in zip(salience, falls, strict=True)])


def saco_coefficient(salience: Tensor, falls: Tensor) -> Tensor:
    """F of `saco` for one example, from the groups' salience `[K]`, descending, and falls `[K]`."""
    first, second = torch.triu_indices(len(salience), len(salience), offset=1)
    gap = salience[first] - salience[second]
    signed = torch.where(falls[first] >= falls[second], gap, -gap)
    total = gap.abs().sum()
    return signed.sum() / total if total > 0 else torch.tensor(torch.nan, dtype=torch.float64)

"""Contrast-CAT (Han et al., UAI 2025): class activation tokens against reference activations."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import OptionError
from ..trace import Trace
from ..trace.passes import Passes


def contrast_cat(
    trace: Trace, passes: Passes, *, references: Sequence[Any] = (), select: float | None = None
) -> Tensor:
    """AttCAT of what the input has and inputs of other classes do not.

        w_i^l * sum_d ( dy/dh^l * (h^l - r^l) )_{i,d},    mean over references r

    Positions beyond the end of a shorter reference are contrasted with nothing.

    Args:
        trace: of the batch.
        passes: further passes through the model.
        references: inputs (texts, pictures, model arguments), usually of classes other than the explained one.
        select: keep only this share of the references, those whose map makes the value fall furthest when the tokens that
            it points at are removed. This is the published method's last step. It is off by default because it optimises
            the score by which explanations are then judged: with it, a deletion test is no longer a test.

    Returns:
        float32 `[L, B, T]`, signed. Source: Han et al. 2025, eq. 3 to 5.

    Raises:
        InputError: if there are no references.
        OptionError: if `select` is not in (0, 1].
    """
    if select is not None and not 0 < select <= 1:
        raise OptionError(f"select={select}, expected a share between 0 and 1, or None")
    maps = torch.stack([_against(trace, states) for states, _ in passes.references(references)])
    if select is None:
        return maps.mean(0)
    falls = torch.stack([_fall(trace, passes, scores.sum(0)) for scores in maps])  # [R, B]
    kept = max(1, round(select * len(maps)))
    best = falls >= falls.topk(kept, dim=0).values[-1:]
    weight = best.float() / best.sum(0, keepdim=True)
    return torch.einsum("rb,rlbt->lbt", weight, maps)


def _against(trace: Trace, states: tuple[Tensor, ...]) -> Tensor:
    """AttCAT of h - r for one reference, `[L, B, T]`."""
    found = []
    for hidden, gradient, received, state in zip(trace.hidden, trace.gradient, trace.received, states, strict=True):
        reference = torch.zeros_like(hidden[:1])
        length = min(hidden.shape[1], state.shape[1])
        reference[:, :length] = state[:, :length]
        found.append(received.float() * (gradient.float() * (hidden - reference).float()).sum(-1))
    return torch.stack(found) * trace.mask


def _fall(trace: Trace, passes: Passes, scores: Tensor, share: float = 0.5) -> Tensor:
    """How far the value falls, `[B]`, when the highest-scored half of the content is removed."""
    ranked = scores.masked_fill(~passes.content, -torch.inf).argsort(-1, descending=True).argsort(-1)
    removed = passes.content & (ranked < share * passes.content.sum(-1, keepdim=True))
    before, after = (passes.values_without(some[None])[0] for some in (torch.zeros_like(removed), removed))
    return before - after

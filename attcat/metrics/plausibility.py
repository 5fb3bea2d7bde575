"""Does an explanation point at what people point at? Scores against gold spans and human rationales.

This measures agreement with people, not with the model: a faithful explanation of a model that is right for the wrong reasons
is not plausible. Scores and gold are per content token; the highest scores are the explanation's own rationale.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..errors import InputError
from ..tokens import Tokens


def gold_tokens(tokens: Tokens, spans: Sequence[Sequence[int]]) -> Tensor:
    """Which content tokens lie in a gold span.

    Args:
        tokens: those of one text, with character offsets.
        spans: `(start, end)`, half-open characters of the text, or `(start, end, segment)` for one of a pair.

    Returns:
        bool `[n]`: True for a content token that shares a character with a span.

    Raises:
        InputError: if the tokens have no offsets, a span is empty, or no token lies in any.
    """
    if tokens.spans is None:
        raise InputError("gold spans are characters, but these tokens have no offsets: use a fast tokenizer")
    for span in spans:
        if len(span) not in (2, 3) or not 0 <= span[0] < span[1]:
            raise InputError(f"span {tuple(span)}: expected (start, end) with start < end, or (start, end, segment)")
    segments = tokens.segments or (0,) * len(tokens)
    found = [
        place is not None
        and any(max(place[0], s[0]) < min(place[1], s[1]) and (segment or 0) == (*s, 0)[2] for s in spans)
        for place, segment, special in zip(tokens.spans, segments, tokens.special, strict=True)
        if not special
    ]
    if not any(found):
        raise InputError(
            f"no token lies in the spans {[tuple(span) for span in spans]}: are they characters of this text?"
        )
    return torch.tensor(found)


def precision_at_k(scores: Tensor, gold: Tensor, k: int | None = None) -> float:
    """Share of the k highest-scored tokens that are gold; by default as many as there are gold tokens.

    Args:
        scores: `[n]`, of the content tokens.
        gold: bool `[n]`.
        k: how many tokens; at most all.

    Returns:
        0 to 1; higher is better. Source: Qiang et al. 2022, section 4.3 (SQuAD, k = 20).

    Raises:
        InputError: if the lengths differ, or k is not positive.
    """
    chosen = _chosen(scores, gold, k)
    return float((chosen & gold).sum() / chosen.sum())


def recall_at_k(scores: Tensor, gold: Tensor, k: int | None = None) -> float:
    """Share of the gold tokens that are among the k highest-scored ones; arguments as for `precision_at_k`."""
    chosen = _chosen(scores, gold, k)
    return float((chosen & gold).sum() / gold.sum())


def token_f1(scores: Tensor, gold: Tensor, k: int | None = None) -> float:
    """Harmonic mean of `precision_at_k` and `recall_at_k`; arguments as for these.

    Source: DeYoung et al., ERASER, ACL 2020, section 4, "token-level" agreement.
    """
    chosen = _chosen(scores, gold, k)
    return float(2 * (chosen & gold).sum() / (chosen.sum() + gold.sum()))


def iou_f1(scores: Tensor, gold: Tensor, k: int | None = None, threshold: float = 0.5) -> float:
    """F1 over spans: runs of chosen and of gold tokens match if their intersection over union is high enough.

    Arguments as for `precision_at_k`. Source: DeYoung et al., ERASER, ACL 2020, section 4, "IOU F1" (threshold 0.5).
    """
    ours, theirs = _runs(_chosen(scores, gold, k)), _runs(gold)

    def matched(spans: list[range], others: list[range]) -> float:
        return sum(any(_iou(span, other) >= threshold for other in others) for span in spans) / len(spans)

    precision, recall = matched(ours, theirs), matched(theirs, ours)
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def auprc(scores: Tensor, gold: Tensor) -> float:
    """Area under the precision-recall curve over all thresholds, as average precision.

        sum over thresholds of (R_n - R_(n-1)) * P_n;    equal scores are one threshold

    Arguments as for `precision_at_k`. Chance level is the share of gold tokens. Source: DeYoung et al., ERASER, ACL 2020,
    section 4, for soft rationales.
    """
    _check(scores, gold)
    ordered, order = scores.sort(descending=True, stable=True)
    hits = gold[order].double().cumsum(0)
    last = torch.cat([ordered[1:] != ordered[:-1], torch.tensor([True])])  # of a run of equal scores
    recall = hits[last] / gold.sum()
    precision = hits[last] / torch.arange(1, len(scores) + 1)[last]
    return float((recall.diff(prepend=torch.zeros(1, dtype=torch.float64)) * precision).sum())


def _chosen(scores: Tensor, gold: Tensor, k: int | None) -> Tensor:
    """bool `[n]`: the k highest-scored tokens; of equal ones, the first."""
    _check(scores, gold)
    count = int(gold.sum()) if k is None else k
    if count < 1:
        raise InputError(f"k={k}, expected at least 1")
    chosen = torch.zeros_like(gold)
    chosen[scores.argsort(descending=True, stable=True)[:count]] = True
    return chosen


def _check(scores: Tensor, gold: Tensor) -> None:
    if scores.shape != gold.shape or scores.dim() != 1 or gold.dtype != torch.bool or not gold.any():
        raise InputError(
            f"scores {tuple(scores.shape)} and gold {gold.dtype} {tuple(gold.shape)}: expected one of each per content token, "
            "gold bool and True somewhere"
        )


def _runs(flags: Tensor) -> list[range]:
    """The runs of True."""
    edges = torch.cat([torch.zeros(1), flags.float(), torch.zeros(1)]).diff()
    starts, stops = (edges == 1).nonzero()[:, 0].tolist(), (edges == -1).nonzero()[:, 0].tolist()
    return [range(start, stop) for start, stop in zip(starts, stops, strict=True)]


def _iou(one: range, other: range) -> float:
    common = max(0, min(one.stop, other.stop) - max(one.start, other.start))
    return common / (len(one) + len(other) - common)

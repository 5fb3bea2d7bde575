"""OddsCAT: class activation tokens of the log-odds, with the softmax of attention differentiated in part (docs/method.md)."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import OptionError
from ..trace import Trace
from ..trace.passes import Passes
from .cat import cat


def oddscat(
    trace: Trace, passes: Passes, *, samples: int = 0, ranked: bool = False, removal: str | None = None, seed: int = 0
) -> Tensor:
    """CAT over all blocks, of the input alone or as the mean over the input and copies of it with tokens removed.

        CAT_i^l = sum_d ( dy/dh^l * h^l )_{i,d},    y the log-odds of the class, d by the rule `graded`
        score_i = mean of CAT_i over the input and those of its copies that have token i

    Of every copy half of the content is removed, drawn at random. Copies come in pairs: what one removes, the other keeps.
    Special tokens and padding are never removed. The draw depends on the input and the seed alone.

    Args:
        trace: of the batch, under the rule.
        passes: further passes through the model.
        samples: how many copies, an even number; 0 is one forward and one backward pass.
        ranked: instead of random copies two that are made by the scores of the input itself: one without the half that
            speaks least for the class, one without the half that speaks most for it.
        removal: how tokens are removed, one of the adapter's ways; by default its first.
        seed: of the draw.

    Returns:
        float32 `[L, B, T]`, signed; padding is 0.

    Raises:
        OptionError: if `samples` is negative or odd, is given together with `ranked`, or the model knows no such removal.
    """
    if samples < 0 or samples % 2:
        raise OptionError(f"samples={samples}: copies come in pairs, expected 0 or an even number")
    if samples and ranked:
        raise OptionError(f"ranked=True makes two copies of its own: leave out samples={samples}")
    found = cat(trace)
    if not samples and not ranked:
        return found
    halves = [_upper_half(found.sum(0), passes.content)] if ranked else _halves(passes, samples // 2, seed)
    removed = [part for half in halves for part in (half, passes.content & ~half)]
    count = trace.mask.float()
    for copies, contributions in passes.without(removed, cat, removal):
        found = found + contributions.sum(1)
        count = count + (trace.mask & ~copies).float().sum(0)
    return found / count.clamp(min=1)


def _halves(passes: Passes, pairs: int, seed: int) -> list[Tensor]:
    """Random halves of the content, bool `[B, T]` each, drawn for each input by itself."""
    noise = torch.stack([_noise(passes, row, pairs, seed) for row in range(len(passes.tokens))], 1)
    return [_upper_half(scores, passes.content) for scores in noise.to(passes.content.device)]


def _noise(passes: Passes, row: int, pairs: int, seed: int) -> Tensor:
    """`[pairs, T]`, zeros at padding: the same for an input alone and in a batch."""
    mask = passes.encoding.mask[row].cpu()
    noise = torch.zeros(pairs, len(mask))
    noise[:, mask] = torch.rand(pairs, int(mask.sum()), generator=passes.generator(row, seed))
    return noise


def _upper_half(scores: Tensor, content: Tensor) -> Tensor:
    """bool `[B, T]`: the half of the content with the higher scores; of an odd number the smaller half."""
    order = scores.masked_fill(~content, -torch.inf).argsort(dim=-1, descending=True, stable=True)
    return content & (order.argsort(-1) < content.sum(-1, keepdim=True) // 2)

"""OddsCAT: class activation tokens of the log-odds, with the softmax of attention differentiated in part (docs/method.md)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from ..errors import Option, OptionError
from ..trace import Trace
from ..trace.passes import Passes
from .cat import added, cat


def oddscat(
    trace: Trace,
    passes: Passes,
    *,
    samples: int = 0,
    copies: str = "guided",
    removal: str | None = None,
    seed: int = 0,
    blocks: str | None = None,
) -> Tensor:
    """CAT over the blocks, of the input alone or as the mean over the input and copies of it with tokens removed.

        CAT_i^l = sum_d ( dy/dh^l * h^l )_{i,d},    y the log-odds of the class, d by the rule `graded`
        score_i = mean of sum_l w_l CAT_i^l over the input and those of its copies that have token i
        w_l     = 1 - (l / L)^2 of the l-th of L blocks, from 0

    The deeper a block, the less the state of a token is its own, and the less it counts. Of blocks whose tokens see only what
    precedes them the first third counts, each once: further inside the state of a token is that of what stands before it, and
    would be credited to its place. In such models beta is smaller.

    Copies come in pairs: what one removes, the other keeps. Of random copies half of the content is removed, drawn for each
    input by the seed alone. Ranked copies follow the scores of the input itself, best first: with n pairs the k-th pair removes
    and keeps the first k / (n + 1) of the content. Guided copies, the default, are of both kinds: of n pairs one in four, at
    least one, is ranked by the input, one in four, made last, by the mean so far, and those between are random. So two guided
    copies are two ranked ones. Special tokens and padding are never removed, nor is the token whose prediction is explained.

    Args:
        trace: of the batch, under the rule.
        passes: further passes through the model.
        samples: how many copies, an even number; 0 is one forward and one backward pass, any other takes 1 + samples.
        copies: which: `guided`, `ranked` (nothing is random then) or `random`.
        removal: how tokens are removed, one of the adapter's ways; by default its first, but where tokens see only those before
            them the copies are shorter texts, if the model takes them: of such models few have ever seen a mask token.
        seed: of the draw.
        blocks: `all`, each once; or of those that see only backwards the `first` alone; by default as above, of a third at least
            one.

    Returns:
        float32 `[L, B, T]`, signed; padding is 0.

    Raises:
        OptionError: if `samples` is negative or odd, or 0 where copies are named, or the model knows no such removal, or
            `copies` or `blocks` is something else.
    """
    if samples < 0 or samples % 2:
        raise OptionError(Option("samples", samples), ": copies come in pairs, expected 0 or an even number")
    if copies not in _COPIES:
        raise OptionError(Option("copies", copies), f": expected {', '.join(_COPIES)}")
    if copies != "guided" and not samples:
        raise OptionError(
            Option("copies", copies), " says which copies are made: say how many, as in ", Option("samples", 8)
        )
    if blocks not in (None, "all", "first"):
        raise OptionError(Option("blocks", blocks), ": expected all or first")
    explained = partial(_early, alone=blocks == "first") if blocks != "all" else cat
    found = explained(trace)
    if not samples:
        return found
    if removal is None and trace.causal and all(trace.causal):
        removal = passes.shortening
    pairs = samples // 2
    last = pairs // 4 if copies == "guided" else 0
    first = {"guided": max(1, last), "ranked": pairs, "random": 0}[copies]
    halves = _ranked(passes, found.sum(0), first) + _random(passes, pairs - first - last, seed)
    add = partial(_add_copies, passes, explained, removal)
    total, count = add(halves, found, trace.mask.float())
    if last:
        # Of every pair one copy has a token: all were counted alike, so that totals rank as means do.
        total, count = add(_ranked(passes, total.sum(0), last), total, count)
    return total / count.clamp(min=1)


_COPIES = ("guided", "ranked", "random")


def _add_copies(
    passes: Passes,
    explained: Callable[[Trace], Tensor],
    removal: str | None,
    halves: Sequence[Tensor],
    total: Tensor,
    count: Tensor,
) -> tuple[Tensor, Tensor]:
    """To a total `[L, B, T]` and to how often each token was there `[B, T]` add those of two copies for each half."""
    removed = [part for half in halves for part in (half, passes.removable & ~half)]
    for gone, contributions in passes.without(removed, explained, removal):
        total = total + contributions.sum(1)
        count = count + (passes.encoding.mask & ~gone).float().sum(0)
    return total, count


def _early(trace: Trace, alone: bool) -> Tensor:
    """CAT `[L, B, T]` with the blocks' weights. Of blocks that see only backwards the first third counts, or the first alone.

    What is added between blocks counts where it is added, as the first block's input does.
    """
    backwards = [index for index, causal in enumerate(trace.causal) if causal]
    others = [index for index in range(len(trace.hidden)) if index not in backwards]
    weights = {index: 1 - (depth / len(others)) ** 2 for depth, index in enumerate(others)}
    weights |= dict.fromkeys(backwards[: 1 if alone else max(1, round(len(backwards) / 3))], 1.0)
    found, later = cat(trace), added(trace)
    for index in range(len(found)):
        weight = weights.get(index, 0.0)
        found[index] = weight * found[index] + (1 - weight) * later[index]
    return found


def _ranked(passes: Passes, scores: Tensor, pairs: int) -> list[Tensor]:
    """The best of the content, bool `[B, T]` each: for one pair half of it, for two the first and the first two thirds, ..."""
    return [_best(scores, passes.removable, pair / (pairs + 1)) for pair in range(1, pairs + 1)]


def _random(passes: Passes, pairs: int, seed: int) -> list[Tensor]:
    """Random halves of the content, bool `[B, T]` each, drawn for each input by itself."""
    return [_best(scores, passes.removable, 0.5) for scores in passes.noise(pairs, seed)]


def _best(scores: Tensor, content: Tensor, share: float) -> Tensor:
    """bool `[B, T]`: this share of the content, rounded down, with the highest scores."""
    order = scores.masked_fill(~content, -torch.inf).argsort(dim=-1, descending=True, stable=True)
    return content & (order.argsort(-1) < (content.sum(-1, keepdim=True) * share + 1e-6).floor())

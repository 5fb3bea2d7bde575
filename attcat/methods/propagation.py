"""Gradients and relevance at the input, by one backward pass or by many."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..errors import OptionError
from ..trace import Trace
from ..trace.passes import Passes
from .cat import added, cat


def input_x_gradient(trace: Trace) -> Tensor:
    """Gradient times input at the first block: `sum_d h^1_{i,d} dy/dh^1_{i,d}`, and times what is added before later ones.
    Complete under the rule `libra`.

    Returns:
        float32 `[1, B, T]`, signed. Source: Shrikumar et al. 2016.
    """
    return cat(trace)[:1] + added(trace).sum(0, keepdim=True)


def lrp(trace: Trace) -> Tensor:
    """Relevance propagated to the embeddings, summed over features; the rules are those of `attcat.capture.relevance`.

    Returns:
        float32 `[1, B, T]`, signed. Source: Chefer et al., CVPR 2021, baseline "LRP".
    """
    if trace.relevance is None:
        raise OptionError(
            "lrp reads the trace's relevance, which was not requested: add relevance to the method's needs"
        )
    return (trace.relevance.float().sum(-1) * trace.mask)[None]


def integrated_gradients(trace: Trace, passes: Passes, *, steps: int = 50) -> Tensor:
    """Integrated gradients at the first block's input; the baseline is the input without its content (mask, mean picture).

        sum_d (h - h0)_{i,d} * integral over t in [0, 1] of dy/dh_{i,d} at h0 + t (h - h0)

    Gauss-Legendre quadrature in batched steps, by captum.

    Returns:
        float32 `[1, B, T]`, signed; its sum approaches y(h) - y(h0), and `Explanation.measured` has the difference.
        Source: Sundararajan et al., ICML 2017, eq. 1.

    Raises:
        OptionError: if `steps` is not positive, or captum is not installed.
    """
    if steps < 1:
        raise OptionError(f"steps={steps}, expected at least 1")
    method = _captum().IntegratedGradients(passes.values_at, multiply_by_inputs=True)
    start = passes.blank_state()
    rows = max(len(passes.tokens), 16) if passes.adapter.can_batch else len(passes.tokens)
    found = method.attribute(trace.hidden[0], baselines=start, n_steps=steps, internal_batch_size=rows)
    with torch.no_grad():
        change = passes.values_at(trace.hidden[0]) - passes.values_at(start)
    passes.measured["convergence_delta"] = found.flatten(1).sum(1) - change
    return (found.float().sum(-1) * trace.mask)[None]


def occlusion(trace: Trace, passes: Passes, *, batch: int = 8) -> Tensor:
    """How much the value falls when one token is removed: mask token, or grey patch; special tokens stay and get 0.

        y(x) - y(x without token i)

    Args:
        trace: of the batch.
        passes: further passes through the model.
        batch: how many copies of the batch share a forward pass, if the model takes several examples at once.

    Returns:
        float32 `[1, B, T]`, signed. Source: Zeiler & Fergus, ECCV 2014. One forward pass per token.

    Raises:
        OptionError: if `batch` is not positive.
        UnsupportedModelError: if the adapter does not say how tokens are removed.
    """
    if batch < 1:
        raise OptionError(f"batch={batch}, expected at least 1")
    content = passes.content
    place = content.cumsum(-1) - 1  # which content token of its row
    count = int(content.sum(-1).max())
    one_each = [content & (place == number) for number in range(count)]
    copies = batch if passes.adapter.can_batch else 1
    groups = [torch.stack(one_each[start : start + copies]) for start in range(0, count, copies)]
    before = passes.values_without(torch.zeros_like(content)[None])[0].float()
    falls = torch.cat([before - passes.values_without(group).float() for group in groups])  # [n, B]
    return (falls.T.gather(1, place.clamp(min=0)) * content)[None]


def random(trace: Trace, passes: Passes, *, seed: int = 0) -> Tensor:
    """Uniform noise in [0, 1), the same for the same input and seed: what any method has to beat.

    Returns:
        float32 `[1, B, T]`.
    """
    scores = torch.zeros_like(trace.mask, dtype=torch.float32)
    for row, tokens in enumerate(passes.tokens):
        noise = torch.rand(len(tokens), generator=passes.generator(row, seed))
        scores[row, trace.mask[row]] = noise.to(scores.device)
    return scores[None]


def _captum() -> Any:
    try:
        import captum.attr
    except ImportError as error:
        raise OptionError("this method needs captum: pip install 'attcat[captum]'") from error
    return captum.attr

"""Gradients and relevance at the input, by one backward pass or by many."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..errors import OptionError
from ..trace import Trace
from ..trace.passes import Passes
from .cat import cat


def input_x_gradient(trace: Trace) -> Tensor:
    """Gradient times input at the first block: `sum_d h^1_{i,d} dy/dh^1_{i,d}`. Complete under the rule `libra`.

    Returns:
        float32 `[1, B, T]`, signed. Source: Shrikumar et al. 2016.
    """
    return cat(trace)[:1]


def lrp(trace: Trace) -> Tensor:
    """Relevance propagated to the embeddings, summed over features; the rules are those of `attcat.capture.relevance`.

    Returns:
        float32 `[1, B, T]`, signed. Source: Chefer et al., CVPR 2021, baseline "LRP".
    """
    if trace.relevance is None:
        raise OptionError("lrp reads the trace's relevance, which was not asked for")
    return (trace.relevance.float().sum(-1) * trace.mask)[None]


def integrated_gradients(trace: Trace, passes: Passes, *, steps: int = 50) -> Tensor:
    """Integrated gradients at the first block's input, from the input without its content (mask tokens, mean picture).

        sum_d (h - h0)_{i,d} * integral over t in [0, 1] of dy/dh_{i,d} at h0 + t (h - h0)

    Gauss-Legendre quadrature in batched steps, by captum.

    Returns:
        float32 `[1, B, T]`, signed; its sum approaches y(h) - y(h0), how nearly is `Explanation.measured`.
        Source: Sundararajan et al., ICML 2017, eq. 1.

    Raises:
        OptionError: if `steps` is not positive, or captum is not installed.
    """
    if steps < 1:
        raise OptionError(f"steps={steps}, expected at least 1")
    method = _captum().IntegratedGradients(passes.values_at, multiply_by_inputs=True)
    (start, *_) = passes.states_of({passes.input_name: passes.blank})
    rows = max(len(passes.tokens), 16)
    found = method.attribute(trace.hidden[0], baselines=start, n_steps=steps, internal_batch_size=rows)
    with torch.no_grad():
        change = passes.values_at(trace.hidden[0]) - passes.values_at(start)
    passes.measured["convergence_delta"] = found.flatten(1).sum(1) - change
    return (found.float().sum(-1) * trace.mask)[None]


def occlusion(trace: Trace, passes: Passes, *, batch: int = 8) -> Tensor:
    """How much the value falls when one token is taken out: mask token, or mean patch; special tokens stay and get 0.

        y(x) - y(x without token i)

    Returns:
        float32 `[1, B, T]`, signed. Source: Zeiler & Fergus, ECCV 2014. One forward pass per token, by captum.

    Raises:
        OptionError: if captum is not installed.
    """
    name = passes.input_name
    values = passes.encoding.arguments[name]
    regions = _regions(passes, values)
    method = _captum().FeatureAblation(lambda changed: passes.values_of({name: changed}))
    found = method.attribute(values, baselines=passes.blank, feature_mask=regions, perturbations_per_eval=batch)
    scores = torch.zeros_like(trace.mask, dtype=torch.float32)
    for row, tokens in enumerate(passes.tokens):
        content = passes.content[row]
        if tokens.grid is None:
            scores[row, content] = found[row].float()[content]
        else:  # every pixel of a patch has the patch's score
            flat, region = found[row].float()[0].flatten(), regions[0, 0].flatten()
            first = [int((region == patch).nonzero()[0]) for patch in range(int(content.sum()))]
            scores[row, content] = flat[first]
    return scores[None]


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


def _regions(passes: Passes, values: Tensor) -> Tensor:
    """Which token each entry of the model's input belongs to: `[1, T]`, or `[1, 1, H, W]` for patches."""
    grid = passes.tokens[0].grid
    if grid is None:
        return torch.arange(values.shape[1], device=values.device)[None]
    height, width = values.shape[-2:]
    rows = (torch.arange(height, device=values.device) // -(-height // grid[0])).clamp(max=grid[0] - 1)
    columns = (torch.arange(width, device=values.device) // -(-width // grid[1])).clamp(max=grid[1] - 1)
    return (rows[:, None] * grid[1] + columns)[None, None]


def _captum() -> Any:
    try:
        import captum.attr
    except ImportError as error:
        raise OptionError("this method needs captum: pip install 'attcat[captum]'") from error
    return captum.attr

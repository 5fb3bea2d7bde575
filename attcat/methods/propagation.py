"""Gradients and relevance at the input, by one backward pass or by many."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import OptionError
from ..trace import Trace
from ..trace.passes import Passes
from .cat import added, cat
from .extras import captum_attr


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
    method = captum_attr().IntegratedGradients(passes.values_at, multiply_by_inputs=True)
    start = passes.blank_state()
    rows = max(len(passes.tokens), 16) if passes.adapter.can_batch else len(passes.tokens)
    found = method.attribute(trace.hidden[0], baselines=start, n_steps=steps, internal_batch_size=rows)
    with torch.no_grad():
        change = passes.values_at(trace.hidden[0]) - passes.values_at(start)
    passes.measured["convergence_delta"] = found.flatten(1).sum(1) - change
    return (found.float().sum(-1) * trace.mask)[None]


def smoothgrad(trace: Trace, passes: Passes, *, samples: int = 8, noise: float = 0.15, seed: int = 0) -> Tensor:
    """Gradient times input at the first block, the gradient as the mean over inputs with normal noise.

        sum_d h_{i,d} * mean over k of dy/dh_{i,d} at h + noise * std(h) * e_k,    e_k ~ N(0, 1)

    The noise comes in pairs, e and -e. The paper adds it to pixels, in shares of their range; here it is in shares of the
    standard deviation of the hidden state, whose range a few features decide.

    Args:
        trace: of the batch.
        passes: further passes through the model.
        samples: how many noisy inputs, an even number.
        noise: how strong, as a share of the standard deviation.
        seed: of the draw.

    Returns:
        float32 `[1, B, T]`, signed. Source: Smilkov et al., SmoothGrad, 2017.

    Raises:
        OptionError: if `samples` is odd or not positive, or `noise` is negative.
    """
    if samples < 2 or samples % 2:
        raise OptionError(f"samples={samples}, expected an even number, at least 2: noise comes in pairs")
    if not noise >= 0:
        raise OptionError(f"noise={noise}, expected at least 0")
    state = trace.hidden[0]
    drawn = torch.zeros(samples // 2, *state.shape)
    for row in range(len(state)):
        real, generator = trace.mask[row].cpu(), passes.generator(row, seed)
        drawn[:, row, real] = torch.randn(samples // 2, int(real.sum()), state.shape[-1], generator=generator)
    scale = torch.stack([each[real].float().std() for each, real in zip(state, trace.mask, strict=True)])
    moves = noise * scale.view(-1, 1, 1) * drawn.to(state.device)
    total = torch.zeros_like(state, dtype=torch.float32)
    for move in (sign * each for each in moves for sign in (1, -1)):
        moved = (state + move.to(state)).requires_grad_()
        with torch.enable_grad():
            value = passes.values_at(moved).sum()
        total += torch.autograd.grad(value, moved)[0].float()
    return ((state.float() * total / samples).sum(-1) * trace.mask)[None]


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

"""Attention as explanation, alone and weighted by its gradient.

Notation: E_h is the mean over heads, + is ReLU, and "its row" is the row of the token that the head reads (the mean of the
rows, where it reads several). Only that row of a matrix product is computed, from the last block to the first, which holds
one block's matrices at a time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from ..trace import Trace
from ..trace.passes import Passes


def attention(trace: Trace) -> Tensor:
    """The attention that the read token pays in the last block: `E_h a^L`, its row.

    Returns:
        float32 `[1, B, T]`, not negative.
    """
    return _row(_heads(trace.attention[-1]), trace)[None]


def rollout(trace: Trace) -> Tensor:
    """Attention rollout: attention and residual connections multiplied through the blocks.

        A^l = I + E_h a^l, rows normalised to 1;    rollout = A^L ... A^1, its row

    Returns:
        float32 `[1, B, T]`, not negative. Source: Abnar & Zuidema, ACL 2020, section 3.
    """
    row = _read(trace)
    for a in reversed(trace.attention):
        step = _residual(_heads(a) * trace.mask[:, None, :])
        row = _times(row, step / step.sum(-1, keepdim=True))
    return (row * trace.mask)[None]


def gradients(trace: Trace) -> Tensor:
    """The gradient with respect to the last block's attention: `E_h grad a^L`, its row.

    Returns:
        float32 `[1, B, T]`, signed.
    """
    return _row(_heads(trace.attention_gradient[-1]), trace)[None]


def attention_gradients(trace: Trace) -> Tensor:
    """Attention times its gradient, summed over blocks: `sum_l E_h (grad a^l * a^l)`, its row (AttGrads).

    Returns:
        float32 `[L, B, T]`, signed. Source: Qiang et al. 2022, baselines (figure 1).
    """
    pairs = zip(trace.attention, trace.attention_gradient, strict=True)
    return torch.stack([_row(_heads(gradient.float() * a), trace) for a, gradient in pairs])


def attention_gradcam(trace: Trace) -> Tensor:
    """Grad-CAM on the last block's attention: heads weighted by their mean gradient.

        ( E_h ( mean_{q,k} grad a^L_h ) a^L_h )+, its row

    Returns:
        float32 `[1, B, T]`, not negative. Source: Chefer et al., CVPR 2021, baseline "GradCAM".
    """
    real = (trace.mask[:, None, :, None] & trace.mask[:, None, None, :]).float()
    gradient = trace.attention_gradient[-1].float() * real
    weight = gradient.sum((-1, -2), keepdim=True) / real.sum((-1, -2), keepdim=True)
    return _row(_heads(trace.attention[-1].float() * weight).clamp(min=0), trace)[None]


def genatt(trace: Trace) -> Tensor:
    """Generic attention explainability.

        A^l = E_h (grad a^l * a^l)+;    R = R + A^l R, from R = I;    the row of R - I

    The start I, a token's relevance to itself, is subtracted again (eq. 8): for a head that reads many patches it would
    drown out everything else.

    Returns:
        float32 `[1, B, T]`, not negative. Source: Chefer et al., ICCV 2021, eq. 5 and 6.
    """
    pairs = zip(reversed(trace.attention), reversed(trace.attention_gradient), strict=True)
    return _accumulated(trace, (_heads((gradient.float() * a).clamp(min=0)) for a, gradient in pairs))[None]


def legrad(trace: Trace, passes: Passes) -> Tensor:
    """Feature formation sensitivity: each block explains the head's prediction from that block's output.

        y^l = head(output of block l);    1/L sum_l E_{h, queries} ( dy^l / da^l )+

    Returns:
        float32 `[L, B, T]`, not negative. Source: Bousselham et al., LeGrad, ICCV 2025, section 3. One forward pass per block.
    """
    queries = trace.mask.float() / trace.mask.sum(-1, keepdim=True)
    found = []
    for block in range(len(trace.hidden)):
        recording = passes.record(early=block)
        gradient = recording.attention_gradient(passes.value(recording), block)
        found.append(torch.einsum("bq,bqk->bk", queries, _heads(gradient.clamp(min=0))) * trace.mask)
    return torch.stack(found) / len(found)


def tokentm(trace: Trace) -> Tensor:
    """Token transformation matters: genatt, with each token weighted by what the block does to its vector.

        w_i = |e'_i| / |e_i| * exp cos(e_i, e'_i) / mean_k exp cos(e_k, e'_k)
        R = (I + A^l diag(w^l)) R, from R = diag |e^1_i|;    the row of R without its start, as in `genatt`

    The paper measures e' after the value projection of the attention. Here e and e' are a block's input and output, which
    needs no knowledge of the architecture.

    Returns:
        float32 `[1, B, T]`, not negative. Source: Wu et al., CVPR 2024, eq. 5 to 9.
    """
    start = trace.hidden[0].float().norm(dim=-1)
    return (_accumulated(trace, _transformed(trace)) * start)[None]


def _transformed(trace: Trace) -> Iterator[Tensor]:
    """`A^l diag(w^l)` of `tokentm`, from the last block to the first."""
    states = [*trace.hidden, trace.last] if trace.last is not None else list(trace.hidden)
    for block in reversed(range(len(trace.attention))):
        before, after = states[block].float(), states[min(block + 1, len(states) - 1)].float()
        correlation = torch.cosine_similarity(before, after, dim=-1).exp() * trace.mask
        weight = after.norm(dim=-1) / before.norm(dim=-1).clamp(min=1e-12) * correlation
        weight = weight / correlation.sum(-1, keepdim=True) * trace.mask.sum(-1, keepdim=True)
        relevance = trace.attention_gradient[block].float() * trace.attention[block]
        yield _heads(relevance.clamp(min=0)) * weight[:, None, :]


def rolled_relevance(trace: Trace) -> Tensor:
    """`transatt`: attention gradient times attention relevance, rolled out.

        A^l = I + E_h (grad a^l * R^l)+;    A^L ... A^1 - I, its row; I is subtracted as in `genatt`

    Returns:
        float32 `[1, B, T]`, not negative. Source: Chefer et al., CVPR 2021, eq. 13 and 14.
    """
    pairs = zip(reversed(trace.attention_gradient), reversed(trace.attention_relevance), strict=True)
    return _accumulated(trace, (_heads((gradient.float() * r).clamp(min=0)) for gradient, r in pairs))[None]


def partial_lrp(trace: Trace) -> Tensor:
    """The relevance of the last block's attention: `E_h (R^L)+`, its row.

    Returns:
        float32 `[1, B, T]`, not negative. Source: Voita et al., ACL 2019, as implemented by Chefer et al. 2021.
    """
    return _row(_heads(trace.attention_relevance[-1].clamp(min=0)), trace)[None]


def _heads(matrix: Tensor) -> Tensor:
    """E_h: `[B, H, T, T]` to float32 `[B, T, T]`."""
    return matrix.float().mean(1)


def _residual(matrix: Tensor) -> Tensor:
    return matrix + torch.eye(matrix.shape[-1], device=matrix.device)


def _accumulated(trace: Trace, steps: Iterable[Tensor]) -> Tensor:
    """The row of `(I + A^L) ... (I + A^1) - I`, `[B, T]`, without padding.

    I is never added to a matrix: next to it, small relevances would lose their digits.

    Args:
        trace: of the batch.
        steps: A^l `[B, T, T]`, from the last block to the first.
    """
    row = _read(trace)
    found = torch.zeros_like(row)
    for step in steps:
        found = found + _times(row + found, step) * trace.mask
    return found


def _times(row: Tensor, matrix: Tensor) -> Tensor:
    return (row[:, None] @ matrix).squeeze(1)


def _read(trace: Trace) -> Tensor:
    """The tokens that the head reads, as weights that sum to 1, `[B, T]`."""
    read = (trace.read & trace.mask).float()
    return read / read.sum(-1, keepdim=True)


def _row(matrix: Tensor, trace: Trace) -> Tensor:
    """The row of the token that the head reads, `[B, T]`, without padding."""
    return _times(_read(trace), matrix.float()) * trace.mask

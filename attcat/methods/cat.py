"""Class activation tokens, and attentive ones (Qiang et al., AttCAT, NeurIPS 2022)."""

import torch
from torch import Tensor

from ..trace import Trace


def cat(trace: Trace) -> Tensor:
    """Class activation tokens: gradient times hidden state, summed over features.

        CAT_i^l = sum_d ( dy_c/dh^l * h^l )_{i,d}

    Returns:
        float32 `[L, B, T]`, signed; padding is 0. Source: Qiang et al. 2022, section 3.
    """
    products = (
        hidden.float() * gradient.float() for hidden, gradient in zip(trace.hidden, trace.gradient, strict=True)
    )
    return torch.stack([product.sum(-1) for product in products]) * trace.mask


def fullgrad_plus(trace: Trace) -> Tensor:
    """CAT of all blocks, and what the bias terms contribute at the token; a bias that is no single token's is shared by all.

        score_i = sum_l CAT_i^l + sum_b sum_d ( dy_c/db * b )_{i,d}

    Returns:
        float32 `[1, B, T]`, signed. Source: Srinivas & Fleuret, FullGrad, NeurIPS 2019, over the hidden states of all blocks as
        in Mehri et al., LibraGrad, CVPR 2025.
    """
    assert trace.biases is not None
    return (cat(trace).sum(0) + added(trace).sum(0) + trace.biases.float() * trace.mask)[None]


def added(trace: Trace) -> Tensor:
    """The same of what was added to the states between the blocks, as later blocks are given a picture's features.

        ( dy_c/dh^l * (h^l - output of block l-1) )_i

    Returns:
        float32 `[L, B, T]`, signed; 0 where nothing was added.
    """
    found = torch.zeros(len(trace.gradient), *trace.mask.shape, device=trace.mask.device)
    for block, state in enumerate(trace.added):
        if state is not None:
            found[block] = (state.float() * trace.gradient[block].float()).sum(-1)
    return found * trace.mask


def attcat(trace: Trace) -> Tensor:
    """Attentive class activation tokens: CAT weighted by the attention that each token receives.

        AttCAT_i = sum_l w_i^l * CAT_i^l,    w_i^l = mean over heads and queries q of a^l_{q,i}

    Returns:
        float32 `[L, B, T]`, signed; padding is 0. Source: Qiang et al. 2022, section 3.
    """
    return torch.stack(trace.received).float() * cat(trace)

"""What becomes of the value when tokens are removed: one at a time, or many together."""

from __future__ import annotations

import torch
from torch import Tensor

from ..errors import OptionError
from ..trace import Trace
from ..trace.passes import Passes
from .extras import captum_attr


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
    one_each = [content & (place == number) for number in range(int(content.sum(-1).max()))]
    before = passes.values_without(torch.zeros_like(content)[None])[0].float()
    falls = before - _values(passes, one_each, batch)  # [n, B]
    return (falls.T.gather(1, place.clamp(min=0)) * content)[None]


def rise(
    trace: Trace, passes: Passes, *, samples: int = 50, keep: float = 0.5, seed: int = 0, batch: int = 8
) -> Tensor:
    """The mean value of inputs in which tokens are kept at random, over those that keep the token.

        score_i = 1 / (K keep) * sum over k of y(x * m_k) m_{k,i},    m_{k,i} = 1 with probability keep

    The published masks are drawn on a coarse grid and enlarged smoothly, for networks that see pixels; here a mask has a value
    for each token, in texts as well. The published value is the probability, `quantity="probability"`. Special tokens
    stay and get 0.

    Args:
        trace: of the batch.
        passes: further passes through the model.
        samples: how many masks, K.
        keep: how likely a token is kept.
        seed: of the draw.
        batch: as in `occlusion`.

    Returns:
        float32 `[1, B, T]`. Source: Petsiuk et al., RISE, BMVC 2018, eq. 6.

    Raises:
        OptionError: if `samples` or `batch` is not positive, or `keep` is not between 0 and 1.
    """
    if samples < 1 or batch < 1:
        raise OptionError(f"samples={samples}, batch={batch}, expected at least 1")
    if not 0 < keep < 1:
        raise OptionError(f"keep={keep}, expected more than 0 and less than 1")
    content = passes.content
    kept = content & (passes.noise(samples, seed) < keep)
    values = _values(passes, [content & ~mask for mask in kept], batch)  # [K, B]
    return ((values[..., None] * kept).sum(0) / (samples * keep))[None]


def kernel_shap(trace: Trace, passes: Passes, *, samples: int = 50, seed: int = 0, batch: int = 8) -> Tensor:
    """Shapley values of the tokens, by a weighted regression over as many inputs with tokens removed, by captum.

    A coalition is what is kept of the content; its worth is the value of the input without the rest. Special tokens stay and
    get 0. With fewer samples than tokens the regression is not determined, and the least-squares solution of smallest norm is
    taken.

    Args:
        trace: of the batch.
        passes: further passes through the model.
        samples: how many coalitions, of which the first two are everything and nothing.
        seed: of the draw.
        batch: how many share a forward pass, if the model takes several examples at once.

    Returns:
        float32 `[1, B, T]`, signed; its sum is the value less that of an input without content. Source: Lundberg & Lee,
        NeurIPS 2017.

    Raises:
        OptionError: if `samples` is less than 3, `batch` is not positive, or captum or scikit-learn is not installed.
    """
    if samples < 3 or batch < 1:
        raise OptionError(f"samples={samples}, batch={batch}, expected at least 3 samples and a batch of at least 1")
    scores = torch.zeros_like(trace.mask, dtype=torch.float32)
    for row in range(len(scores)):
        own = passes.of_row(row)
        content = own.content[0]

        def worth(kept: Tensor, own: Passes = own, content: Tensor = content) -> Tensor:
            removed = torch.zeros(len(kept), 1, len(content), dtype=torch.bool, device=content.device)
            removed[:, 0, content] = kept == 0
            return own.values_without(removed)[:, 0].float()

        count = int(content.sum())
        whole = torch.ones(1, count, device=content.device)
        if count < 2:  # one token has all of it
            found = worth(whole) - worth(torch.zeros_like(whole)) if count else whole
        else:
            method = captum_attr().KernelShap(worth)
            together = min(batch, samples) if passes.adapter.can_batch else 1
            with passes.drawing(row, seed):
                found = method.attribute(whole, n_samples=samples, perturbations_per_eval=together)
        real = trace.mask[row].nonzero().flatten()
        scores[row, real[content]] = found.flatten().float()
    return scores[None]


def _values(passes: Passes, removed: list[Tensor], batch: int) -> Tensor:
    """The values `[n, B]` without each of these tokens, bool `[B, T]`; so many at a time."""
    copies = batch if passes.adapter.can_batch else 1
    groups = [torch.stack(removed[start : start + copies]) for start in range(0, len(removed), copies)]
    return torch.cat([passes.values_without(group).float() for group in groups])

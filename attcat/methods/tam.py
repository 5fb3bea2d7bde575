"""Token activation map (Li et al., ICCV 2025): what each token would say, less what the words before it explain."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..errors import OptionError
from ..trace import Trace
from ..trace.passes import Passes


def tam(trace: Trace, passes: Passes, *, kernel: int = 3) -> Tensor:
    """How strongly the model's last layer reads the explained word off each token, cleared of interference, denoised.

        a_i(c) = ( logit of word c at token i )+                            the activation map of a word
        s      = argmin_s sum over patches p of ( a_p(c) - s n_p )^2
        n_p    = sum over words t of w_t a_p(word t),  w_t = a_t(c) / sum_t a_t(c)    estimated interference of the words read
        map_p  = ( a_p(c) - s n_p )+,  then jointly with the words' a_t(c) to 0 ... 1,  then the rank Gaussian filter

    Words equal to the explained one do not interfere. Special tokens get 0, and so does the token that the word is predicted
    from, which would explain the word by itself. The first word's map is that of the word itself, where the authors take the
    word that the model would have said instead.

    Args:
        trace: of the batch.
        passes: further passes through the model.
        kernel: side of the filter's window, in patches; odd. 1 for no filter.

    Returns:
        float32 `[1, B, T]`, not negative. Source: Li et al., Token Activation Map, ICCV 2025, section 3.

    Raises:
        OptionError: if the model does not give logits over a vocabulary for each token, the target is not a word of it, or
            `kernel` is not odd and positive.
    """
    if kernel < 1 or kernel % 2 == 0:
        raise OptionError(f"kernel={kernel}, expected an odd number of patches, e.g. 3")
    words = passes.encoding.arguments.get("input_ids")
    logits = passes.logits_of_all()
    if logits is None or words is None or words.shape != trace.mask.shape or trace.target is None:
        raise OptionError(
            "tam reads the explained word off every token: it needs a language model with logits [B, T, V] for input_ids "
            "[B, T], and a word of its vocabulary as the target; use another method, e.g. oddscat"
        )
    scores = torch.zeros_like(trace.mask, dtype=torch.float32)
    for row, tokens in enumerate(passes.tokens):
        real = trace.mask[row]
        earlier = ~trace.read[row, real].cpu()
        found = _mapped(logits[row, real].float(), words[row, real], int(trace.target[row]), tokens, earlier, kernel)
        scores[row, real] = found.to(scores)
    return scores[None]


def _mapped(logits: Tensor, words: Tensor, target: int, tokens: Any, earlier: Tensor, kernel: int) -> Tensor:
    """The map of one example, `[T]`.

    Args:
        logits: `[T, V]`.
        words: the number of each token's word, `[T]`.
        target: that of the explained word.
        tokens: the `Tokens`.
        earlier: the tokens that count, bool `[T]`.
        kernel: side of the filter's window.
    """
    places = tokens.places or (None,) * len(tokens)
    seen = torch.tensor([place is not None for place in places])
    said = earlier & ~seen & ~torch.tensor(tokens.special)
    activation = logits[:, target].clamp(min=0)
    others = (said & (words.cpu() != target)).nonzero()[:, 0]
    scores = torch.zeros(len(logits))
    scores[seen] = cleared(activation[seen], logits[seen][:, words[others]].T.clamp(min=0), activation[others]).cpu()
    scores[said] = activation[said].cpu()
    content = seen | said
    low, high = scores[content].min(), scores[content].max()
    scores = torch.where(content, (scores - low) / (high - low).clamp(min=1e-12), 0.0)
    for number, patches in enumerate(tokens.patches or ()):
        where = [(at, place[1]) for at, place in enumerate(places) if place is not None and place[0] == number]
        if patches.grid is None or not where:
            continue
        positions, cells = (torch.tensor(each) for each in zip(*where, strict=True))
        picture = torch.zeros(patches.grid[0] * patches.grid[1])
        picture[cells] = scores[positions]
        scores[positions] = rank_gaussian(picture.view(patches.grid), kernel).flatten()[cells]
    return scores


def cleared(activation: Tensor, others: Tensor, weights: Tensor) -> Tensor:
    """An activation map without what the maps of other words explain of it: estimated causal inference.

    Args:
        activation: of the explained word on the patches, `[P]`.
        others: of the words that were read, `[W, P]`.
        weights: how strongly the explained word is read off each of them, `[W]`, not negative.

    Returns:
        `[P]`, not negative.
    """
    noise = (weights / (weights.sum() + 1e-8)) @ others if len(others) else torch.zeros_like(activation)
    scale = (activation @ noise) / (noise @ noise).clamp(min=1e-12)
    return (activation - scale * noise).clamp(min=0)


def rank_gaussian(picture: Tensor, kernel: int = 3) -> Tensor:
    """Each value replaced by a mean over its window's *sorted* values, Gaussian around the median.

        sum_r g_r v_(r) / sum_r g_r,   g_r = exp( - (r - middle)^2 / 2 sigma^2 ),   sigma = std(v) / mean(v)

    Args:
        picture: `[rows, columns]`, not negative; mirrored at its edges.
        kernel: side of the window.

    Returns:
        `[rows, columns]`; 0 where a window has only zeros.
    """
    pad = kernel // 2
    if not pad or min(picture.shape) <= pad:  # nothing to mirror
        return picture
    padded = torch.nn.functional.pad(picture[None, None], (pad,) * 4, mode="reflect")[0, 0]
    windows = padded.unfold(0, kernel, 1).unfold(1, kernel, 1).flatten(2).sort(-1).values
    mean, deviation = windows.mean(-1, keepdim=True), windows.std(-1, correction=0, keepdim=True)
    sigma = deviation / mean.clamp(min=1e-12)
    ranks = torch.arange(kernel * kernel) - kernel * kernel // 2
    gauss = torch.exp(-(ranks**2) / (2 * sigma**2 + 1e-12))
    return (windows * gauss).sum(-1) / gauss.sum(-1) * (mean[..., 0] > 0)

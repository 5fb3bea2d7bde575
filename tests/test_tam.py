"""Token activation maps against the paper's formula, written a second time, slowly."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from scipy.optimize import minimize_scalar
from tasks_zoo import make
from tokenizers_small import byte_bpe

import attcat
from attcat.errors import OptionError
from attcat.methods.tam import _mapped, cleared, rank_gaussian
from attcat.tokens import Patches, Tokens


def explainer(**options: Any) -> attcat.Explainer:
    return attcat.Explainer(make("GPT2", "LMHeadModel", eos_token_id=338), byte_bpe(False), method="tam", **options)


def slow_filter(picture: np.ndarray, side: int) -> np.ndarray:
    """Window by window."""
    pad, found = side // 2, np.zeros_like(picture)
    padded = np.pad(picture, pad, mode="reflect")
    for row in range(picture.shape[0]):
        for column in range(picture.shape[1]):
            values = sorted(padded[row : row + side, column : column + side].ravel())
            mean = sum(values) / len(values)
            if mean > 0:
                sigma = np.sqrt(sum((value - mean) ** 2 for value in values) / len(values)) / mean
                weights = [
                    np.exp(-((rank - side * side // 2) ** 2) / (2 * sigma**2 + 1e-12)) for rank in range(side * side)
                ]
                found[row, column] = np.dot(values, weights) / sum(weights)
    return found


@pytest.mark.parametrize("side", [3, 5])
def test_the_rank_gaussian_filter(side: int) -> None:
    picture = torch.rand(6, 7, generator=torch.Generator().manual_seed(side)).double()
    picture[:3, :3] = 0
    np.testing.assert_allclose(
        rank_gaussian(picture, side).numpy(), slow_filter(picture.numpy(), side), rtol=1e-6, atol=1e-9
    )


def test_the_filter_lowers_a_single_outlier_and_leaves_a_plane_as_it_is() -> None:
    lone = torch.zeros(5, 5)
    lone[2, 2] = 9.0
    assert float(rank_gaussian(lone).max()) < 0.6  # a mean over the window would leave 1
    torch.testing.assert_close(rank_gaussian(torch.full((4, 4), 0.7)), torch.full((4, 4), 0.7))
    assert rank_gaussian(lone, 1) is lone


def test_interference_is_the_least_squares_part() -> None:
    random = torch.Generator().manual_seed(0)
    own, others, weights = (torch.rand(*shape, generator=random).double() for shape in ((12,), (4, 12), (4,)))
    noise = ((weights / weights.sum())[:, None] * others).sum(0)
    scale = minimize_scalar(lambda x: float(((own - noise * x) ** 2).sum())).x
    torch.testing.assert_close(cleared(own, others, weights), (own - scale * noise).clamp(min=0), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(cleared(noise, others, weights), torch.zeros(12).double(), atol=1e-6, rtol=0)
    torch.testing.assert_close(cleared(own, others[:0], weights[:0]), own)


def test_a_map_of_words_and_patches() -> None:
    """Five words behind two rows of three patches; word 3 is the explained one, and the last token predicts it."""
    words, target = torch.tensor([9, 9, 9, 9, 9, 9, 1, 2, 3, 4, 5]), 3
    spans = (*[None] * 6, (0, 1), (2, 3), (4, 5), (6, 7), (8, 9))
    places = (*[(0, cell) for cell in range(6)], *[None] * 5)
    tokens = Tokens(tuple("ppppppabcde"), (False,) * 11, spans=spans, patches=(Patches(0, (2, 3)),), places=places)
    logits = torch.randn(11, 10, generator=torch.Generator().manual_seed(1))
    logits[6:10, target] = torch.tensor([0.5, 1.0, -1.0, 2.0])
    earlier = torch.arange(11) < 10
    found = _mapped(logits, words, target, tokens, earlier, 3).double().numpy()

    active = logits.double().clamp(min=0).numpy()
    weights = {at: active[at, target] for at in (6, 7, 9)}
    noise = sum(weight * active[:6, words[at]] for at, weight in weights.items()) / sum(weights.values())
    scale = minimize_scalar(lambda x: np.sum((active[:6, target] - noise * x) ** 2)).x
    joint = np.concatenate([np.maximum(active[:6, target] - scale * noise, 0), active[6:10, target]])
    joint = (joint - joint.min()) / (joint.max() - joint.min())
    picture = joint[:6].reshape(2, 3)
    np.testing.assert_allclose(found[:6], slow_filter(picture, 3).ravel(), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found[6:10], joint[6:], rtol=1e-5)
    assert found[10] == 0


def test_a_language_model_reads_its_next_word_off_the_words_before() -> None:
    explain = explainer()
    found = explain("one two three")
    ids = explain.adapter.processor("one two three", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        logits = explain.adapter.model(input_ids=ids).logits[0]
    expected = logits[:, found.again].clamp(min=0) * ~found.special
    expected[-1] = 0
    expected = (expected - expected[:-1].min()).clamp(min=0)
    torch.testing.assert_close(found.scores, expected / expected.max().clamp(min=1e-12), rtol=1e-4, atol=1e-5)
    both = explain(["one two three", "two one"])
    torch.testing.assert_close(both[0].scores, found.scores, rtol=1e-4, atol=1e-5)


def test_what_is_said_of_it_is_true() -> None:
    """No score is negative, and another word has other scores."""
    explain, method = explainer(), attcat.METHODS["tam"]
    found = [explain("one two three", target) for target in (5, 6)]
    assert all(float(one.scores.min()) >= 0 for one in found)
    assert method.signed is False
    assert method.class_specific is not torch.equal(found[0].scores, found[1].scores)


@pytest.mark.parametrize("kernel", [-1, 0, 2])
def test_an_even_window_is_refused(kernel: int) -> None:
    with pytest.raises(OptionError, match="odd number of patches"):
        explainer(kernel=kernel)("one two")
    assert explainer(kernel=1)("one two").options["kernel"] == 1  # each patch by itself

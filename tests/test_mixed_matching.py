"""Words that read a picture by cross-attention, and classes of both: whether a text matches a picture."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
import zoo_mixed as zoo
from tasks_zoo import redraw
from test_mixed_meeting import flava
from test_mixed_models import PICTURE, QUESTION, paint_corners
from torch import Tensor, nn

import attcat
from attcat.testing import check_adapter

FIRST = ("vision_model.encoder.layers.0", "text_encoder.encoder.layer.0")


@cache
def made() -> tuple[nn.Module, Any]:
    torch.manual_seed(0)
    model, processor = zoo.blip("ImageTextRetrieval")
    return redraw(model.eval()), processor


def first_states(picture: np.ndarray) -> tuple[list[Tensor], Tensor]:
    """What the first blocks take of what the processor itself makes, by hooks of our own; and the classes."""
    model, processor = made()
    seen: list[Tensor] = []

    def enter(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen.append(args[0] if args else kwargs["hidden_states"])

    hooks = [model.get_submodule(path).register_forward_pre_hook(enter, with_kwargs=True) for path in FIRST]
    scores = model(**processor(text=[QUESTION], images=[picture], return_tensors="pt")).itm_score[0]
    for hook in hooks:
        hook.remove()
    return seen, scores


def test_a_match_keeps_what_adapters_promise() -> None:
    checks = check_adapter(*made())
    assert [str(check) for check in checks if check.passed is False] == []


def test_the_scores_of_a_match_are_those_of_a_plain_pass() -> None:
    """Gradient times input of patches and words, by autograd without the library."""
    found = attcat.Explainer(*made(), method="input_x_gradient", rule="plain")((PICTURE, QUESTION), target=1)
    states, scores = first_states(PICTURE)
    slopes = torch.autograd.grad(scores[1], states)
    expected = [float(x) for s, g in zip(states, slopes, strict=True) for x in (s * g).sum(-1)[0].detach()]
    assert found.value == pytest.approx(float(scores[1].detach()), rel=1e-4)
    np.testing.assert_allclose(found.scores, expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(("judge", "reads"), [(made, "the first token of the text"), (flava, "the first token;")])
def test_words_and_patches_share_one_complete_explanation(judge: Any, reads: str, tmp_path: Any) -> None:
    explain = attcat.Explainer(*judge(), method="input_x_gradient", rule="libra", completeness=True)
    found = explain((PICTURE, QUESTION))
    assert found.completeness == pytest.approx(0, abs=1e-4)
    assert [word.text for word in found.words()] == ["a", "gripping", "film", "?"]
    assert found.heatmap(image=0).shape == PICTURE.shape[:2]
    assert found.shares().picture > 0
    assert found.shares().text > 0
    assert f"its head reads {reads}" in explain.describe()
    found.save(tmp_path / "match.html")


def test_every_painted_corner_moves_the_token_that_lies_there() -> None:
    tokens = attcat.Explainer(*made(), method="cat").adapter.encode([(PICTURE, QUESTION)]).tokens[0]
    paint_corners(tokens, lambda picture: first_states(picture)[0][0][0].detach())


def test_no_word_is_taken_for_one_that_sees_only_those_before_it() -> None:
    streams = attcat.Explainer(*made(), method="cat").adapter.streams
    assert streams is not None
    assert not streams.causal


@pytest.mark.parametrize("judge", [made, flava])
def test_a_match_is_of_a_picture_and_a_text(judge: Any) -> None:
    explainer = attcat.Explainer(*judge(), method="cat")
    for wrong in (PICTURE, "a film"):
        with pytest.raises(attcat.InputError, match="one input at a time is a picture and a text"):
            explainer(wrong)
    with pytest.raises(attcat.InputError, match="the text beside the picture is empty"):
        explainer((PICTURE, " "))
    with pytest.raises(attcat.OptionError, match="its tokens are patches already"):
        explainer((PICTURE, QUESTION), through_tower=True)

"""What cannot be explained is refused with the true reason; small random models."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import timm
import torch
import transformers
from tasks_zoo import redraw
from torch import nn

import attcat
from attcat.model import Encoding, Head
from attcat.tokens import Tokens

VIDEO = {
    "hidden_size": 32,
    "num_spatial_layers": 2,
    "num_temporal_layers": 2,
    "num_attention_heads": 4,
    "num_labels": 3,
}


def _wrapped() -> nn.Module:
    """Convolutions of timm, loaded through transformers."""
    config = transformers.TimmWrapperConfig(architecture="test_convnext", num_labels=3)
    return transformers.TimmWrapperForImageClassification(config)


CONVOLUTIONS = {
    "logits under another name": lambda: transformers.PPLCNetForImageClassification(transformers.PPLCNetConfig()),
    "of timm": lambda: timm.create_model("test_convnext", num_classes=3),
    "wrapped": _wrapped,
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_of_convolutions_it_is_said_that_they_do_not_attend(name: str) -> None:
    with pytest.raises(attcat.UnsupportedModelError, match="its forward pass computes no attention") as caught:
        attcat.Explainer(redraw(CONVOLUTIONS[name]()))
    assert "load the model with its head" not in str(caught.value)


@pytest.mark.parametrize(("frames", "side"), [(4, 36), (8, 36)])
def test_a_video_that_is_attended_over_by_frames_is_not_one_sequence(frames: int, side: int) -> None:
    """Four frames of four patches are no batch of sequences, though both have the same shape."""
    config = transformers.VideoPrismVisionConfig(image_size=side, num_frames=frames, intermediate_size=48, **VIDEO)
    with pytest.raises(attcat.UnsupportedModelError, match=r"is not one sequence|several lines of blocks"):
        attcat.Explainer(redraw(transformers.VideoPrismForVideoClassification(config)))


def test_logits_of_one_query_are_those_of_the_input() -> None:
    tokens = (Tokens(("a", "b"), (False, False)),) * 2
    encoding = Encoding({}, torch.ones(2, 2, dtype=torch.bool), tokens, (None, None))
    head: Any = Head(nn.Identity())
    logits = torch.randn(2, 1, 5)
    assert head.rows(head.logits(SimpleNamespace(logits=logits)), encoding).equal(logits[:, 0])
    with pytest.raises(attcat.UnsupportedModelError, match="no class logits"):
        head.rows(torch.randn(2, 2, 5), encoding)

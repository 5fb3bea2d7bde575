"""Detectors that are asked in words: of a box both sides explain how well it fits them."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from tasks_zoo import redraw
from test_dual import TEXT, VISION, WIDE, paint_corners
from test_image_text import LENGTH, TEXTS, pictures, processor
from tokenizers import processors
from transformers.models.owlv2.image_processing_pil_owlv2 import Owlv2ImageProcessorPil

import attcat
from attcat.testing import check_adapter

KINDS = ("owlvit", "owlv2")


@cache
def made(kind: str) -> tuple[Any, Any, attcat.Explainer]:
    torch.manual_seed(0)
    name = {"owlvit": "OwlViT", "owlv2": "Owlv2"}[kind]
    config = getattr(transformers, f"{name}Config")(
        text_config={**TEXT, "max_position_embeddings": LENGTH}, vision_config=VISION, projection_dim=32
    )
    brought = processor("clip")
    # A text that begins with number 0 counts as none.
    brought.tokenizer._tokenizer.post_processor = processors.TemplateProcessing(
        single="<0> $A </s>", special_tokens=[("<0>", 2), ("</s>", 3)]
    )
    if kind == "owlv2":
        brought.image_processor = Owlv2ImageProcessorPil(size={"height": 32, "width": 32})
    found = redraw(getattr(transformers, f"{name}ForObjectDetection")(config).eval())
    return found, brought, attcat.Explainer(found, brought)


@pytest.mark.parametrize("kind", KINDS)
def test_every_side_keeps_what_adapters_promise(kind: str) -> None:
    found, brought, _ = made(kind)
    assert [str(check) for check in check_adapter(found, brought) if check.passed is False] == []


@pytest.mark.parametrize("kind", KINDS)
def test_a_box_is_explained_on_both_sides_alone_and_in_a_batch(kind: str) -> None:
    found, _, explainer = made(kind)
    pairs = list(zip(pictures(), TEXTS, strict=True))
    together = explainer(pairs, target=("box", 5))
    for row, pair in enumerate(pairs):
        with torch.no_grad():
            output = found(**explainer.adapter.encode([pair]).arguments)
        alone = explainer(pair, target=("box", 5))
        for one, other in zip(alone, together[row], strict=True):
            assert one.value == pytest.approx(float(output.logits[0, 5, 0]), abs=1e-4)
            np.testing.assert_allclose(one.scores, other.scores, rtol=1e-3, atol=1e-5)
        assert alone.image.label.startswith(f'match with "{pair[1]}", box 5 from (')
        assert alone.text.label.startswith("match with the picture, box 5 from (")
        assert [word.text for word in alone.text.words()] == pair[1].split()


@pytest.mark.parametrize("kind", KINDS)
def test_without_a_box_the_best_one_is_explained(kind: str) -> None:
    found, _, explainer = made(kind)
    pair = (pictures()[0], TEXTS[0])
    with torch.no_grad():
        logits = found(**explainer.adapter.encode([pair]).arguments).logits[0, :, 0]
    for side in explainer(pair):
        assert side.value == pytest.approx(float(logits.max()), abs=1e-4)
        assert list(side.options["place"]) == ["box", int(logits.argmax())]


@pytest.mark.parametrize("kind", KINDS)
def test_scores_add_up_by_plain_autograd_to_those_of_the_library(kind: str) -> None:
    found, brought, _ = made(kind)
    explainer = attcat.Explainer(found, brought, method="cat", rule="plain")
    pair = (pictures()[0], TEXTS[0])
    one, (_, tower) = explainer(pair, target=("box", 3)), explainer.adapter.towers
    states: list[torch.Tensor] = []

    def enter(module: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        states.append(args[0] if args else kwargs["hidden_states"])
        states[-1].retain_grad()

    hooks = [block.register_forward_pre_hook(enter, with_kwargs=True) for block in tower.blocks]
    found(**tower.encode([pair]).arguments).logits[0, 3, 0].backward()
    for hook in hooks:
        hook.remove()
    expected = sum((s * s.grad)[0].sum(-1) for s in states).detach()
    found.zero_grad()
    torch.testing.assert_close(torch.as_tensor(one.text.scores), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_every_painted_corner_of_a_wide_picture_moves_the_token_that_lies_there(kind: str) -> None:
    paint_corners(made(kind)[2], WIDE)


def test_a_box_that_does_not_exist_is_refused() -> None:
    with pytest.raises(attcat.TargetError, match="no box 16: the model predicts 16 boxes"):
        made("owlvit")[2]((pictures()[0], TEXTS[0]), target=("box", 16))

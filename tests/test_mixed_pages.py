"""A page with its words and their boxes, in one sequence with its patches."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
import zoo_mixed as zoo
from tasks_zoo import redraw
from test_mixed_models import PICTURE, PLACED, paint_corners
from torch import Tensor, nn

import attcat
from attcat.testing import check_adapter

WORDS = ["a", "gripping", "film", "was"]
BOXES = [(40, 10, 120, 60), (130, 10, 160, 60), (40, 300, 400, 360), (500, 800, 900, 860)]
PAGE = (PICTURE, WORDS, BOXES)


@cache
def made(kind: str) -> tuple[nn.Module, Any, attcat.Explainer]:
    torch.manual_seed(0)
    model, processor = (
        redraw(zoo.layoutlmv3(kind, 2 if kind == "QuestionAnswering" else 3).eval()),
        zoo.layout_processor(),
    )
    return model, processor, attcat.Explainer(model, processor, method="cat")


def first_state(picture: np.ndarray) -> Tensor:
    """What the first block takes of what the processor itself makes, by a hook of our own."""
    model, processor, _ = made("SequenceClassification")
    seen: list[Tensor] = []

    def enter(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen.append((args[0] if args else kwargs["hidden_states"]).detach())

    hook = model.get_submodule("layoutlmv3.encoder.layer.0").register_forward_pre_hook(enter, with_kwargs=True)
    with torch.no_grad():
        model(**processor(picture, WORDS, boxes=[list(box) for box in BOXES], return_tensors="pt"))
    hook.remove()
    return seen[0][0]


def test_every_painted_corner_moves_the_token_that_lies_there() -> None:
    tokens = made("SequenceClassification")[2].adapter.encode([PAGE]).tokens[0]
    assert tokens.patches is not None
    assert [patches.grid for patches in tokens.patches if patches.grid] == [(4, 4)]
    paint_corners(tokens, first_state)


@pytest.mark.parametrize("kind", ["SequenceClassification", "TokenClassification"])
def test_a_page_has_words_and_a_map_on_one_scale(kind: str) -> None:
    model, processor, explainer = made(kind)
    token = 2 if kind == "TokenClassification" else None
    found = explainer(PAGE, token=token)
    with torch.no_grad():
        made_of_it = processor(PICTURE, WORDS, boxes=[list(box) for box in BOXES], return_tensors="pt")
        logits = model(**made_of_it).logits[0]
    assert found.value == pytest.approx(
        float((logits if token is None else logits[made_of_it.word_ids(0).index(token)]).max()), rel=1e-4
    )
    assert [word.text for word in found.words()] == WORDS
    assert found.heatmap(image=0).shape == PICTURE.shape[:2]
    assert found.texts == ("a gripping film was",)
    assert found.shares().picture > 0
    assert found.shares().text > 0


def test_a_page_keeps_what_adapters_promise() -> None:
    model, processor, _ = made("SequenceClassification")
    assert [str(check) for check in check_adapter(model, processor) if check.passed is False] == []


def test_the_words_boxes_are_read_and_stay_where_words_and_patches_are_removed() -> None:
    explainer = made("SequenceClassification")[2]
    moved = explainer((PICTURE, WORDS, [(900, 900, 950, 950), *BOXES[1:]]))
    assert moved.value != pytest.approx(explainer(PAGE).value, rel=1e-4)
    adapter = explainer.adapter
    encoding = adapter.encode([PAGE])
    other = adapter.remove(encoding)
    assert torch.equal(other.arguments["bbox"], encoding.arguments["bbox"])
    assert (other.arguments["input_ids"] != encoding.arguments["input_ids"]).sum() >= len(WORDS)
    assert (other.arguments["pixel_values"] - other.arguments["pixel_values"].mean((-1, -2), True)).abs().max() < 1e-4


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ((PICTURE, "a film"), r"give \(page, words, boxes\)"),
        ((PICTURE, WORDS, BOXES[:2]), "4 words and 2 boxes"),
        ((PICTURE, WORDS[:1], [(0, 0, 40)]), "a box is"),
        ((PICTURE, WORDS[:1], [(0, 0, 4000, 10)]), "in thousandths of the page"),
        ((PICTURE, [" "], BOXES[:1]), "not empty"),
        ((PICTURE, [], []), "at least one"),
    ],
)
def test_something_else_than_a_page_is_refused(value: Any, reason: str) -> None:
    with pytest.raises(attcat.InputError, match=reason):
        made("SequenceClassification")[2](value)


ASKED = "a boring film?"
QUESTIONED = (PICTURE, ASKED, WORDS, BOXES)


def test_a_question_about_a_page_is_answered_by_its_words() -> None:
    model, processor, explainer = made("QuestionAnswering")
    made_of_it = processor(PICTURE, ASKED, WORDS, boxes=[list(box) for box in BOXES], return_tensors="pt")
    with torch.no_grad():
        output = model(**made_of_it)
    found = explainer(QUESTIONED, target="gripping film")
    pairs = list(zip(made_of_it.sequence_ids(0), made_of_it.word_ids(0), strict=True))
    first, last = pairs.index((1, 1)), len(pairs) - 1 - pairs[::-1].index((1, 2))
    assert found.value == pytest.approx(float(output.start_logits[0, first] + output.end_logits[0, last]), rel=1e-4)
    assert found.label == "gripping film"
    assert [word.text for word in found.words()] == ["a", "boring", "film?", *WORDS]
    assert found.texts == ("a boring film?\na gripping film was",)
    assert found.heatmap(image=0).shape == PICTURE.shape[:2]
    best = explainer(QUESTIONED)
    assert " ".join(WORDS).count(best.label) or best.label == "(no answer)"
    with pytest.raises(attcat.TargetError, match="is not in the context"):
        explainer(QUESTIONED, target="boring")


def test_a_question_about_a_page_is_explained_completely_and_keeps_what_adapters_promise() -> None:
    model, processor, _ = made("QuestionAnswering")
    explain = attcat.Explainer(model, processor, method="input_x_gradient", rule="libra", completeness=True)
    assert explain(QUESTIONED).completeness == pytest.approx(0, abs=1e-4)
    checks = check_adapter(model, processor)
    assert [str(check) for check in checks if check.passed is False] == []
    assert [check.passed for check in checks if check.name == PLACED] == [True]


def test_a_page_without_its_question_is_told_what_it_lacks() -> None:
    explainer = made("QuestionAnswering")[2]
    with pytest.raises(attcat.InputError, match=r"give \(page, question, words, boxes\)"):
        explainer(PAGE)
    with pytest.raises(attcat.InputError, match="the question is empty"):
        explainer((PICTURE, " ", WORDS, BOXES))

"""Plausibility, localisation and sanity: by hand, and in the right direction."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers_small import wordpiece
from torch import Tensor
from zoo import FAMILIES, VISION

import attcat
from attcat.errors import InputError
from attcat.metrics.localisation import (
    Mosaic,
    against_mask,
    covered,
    grid_pointing,
    mosaics,
    points_at,
    relevance_in_box,
    relevance_in_boxes,
)
from attcat.metrics.plausibility import auprc, gold_tokens, iou_f1, precision_at_k, recall_at_k, token_f1
from attcat.metrics.sanity import (
    batch_invariance,
    completeness_gap,
    label_flip,
    max_sensitivity,
    parameter_randomisation,
)

# -- plausibility --------------------------------------------------------------------------------------------------------

SCORES = torch.tensor([0.9, 0.1, 0.8, 0.7, 0.2])
GOLD = torch.tensor([False, False, True, True, True])


def test_plausibility_by_hand() -> None:
    """The three highest are tokens 0, 2, 3, of which two are gold."""
    assert precision_at_k(SCORES, GOLD) == pytest.approx(2 / 3)
    assert recall_at_k(SCORES, GOLD) == pytest.approx(2 / 3)
    assert token_f1(SCORES, GOLD) == pytest.approx(2 / 3)
    assert precision_at_k(SCORES, GOLD, 1) == 0
    assert recall_at_k(SCORES, GOLD, 4) == 1
    assert precision_at_k(SCORES, GOLD, 20) == pytest.approx(3 / 5)
    # Runs {0} and {2, 3} against {2, 3, 4}: the second overlaps by 2/3, so one of two and one of one match.
    assert iou_f1(SCORES, GOLD) == pytest.approx(2 * 0.5 / 1.5)
    assert iou_f1(SCORES, GOLD, threshold=0.7) == 0
    # In the order 0, 2, 3, 4, 1 the gold ones come at 2, 3 and 4.
    assert auprc(SCORES, GOLD) == pytest.approx((1 / 2 + 2 / 3 + 3 / 4) / 3)
    assert auprc(torch.zeros(5), GOLD) == pytest.approx(3 / 5)  # one threshold: the share of gold


@pytest.mark.parametrize("metric", [precision_at_k, recall_at_k, token_f1, iou_f1, auprc])
def test_plausibility_direction(metric: object) -> None:
    gold = torch.zeros(20, dtype=torch.bool)
    gold[4:9] = True
    draws = [torch.rand(20, generator=torch.Generator().manual_seed(seed)) for seed in range(30)]
    best, worst = (metric(sign * gold.double(), gold) for sign in (1, -1))  # type: ignore[operator]
    middle = np.mean([metric(draw, gold) for draw in draws])  # type: ignore[operator]
    assert best == 1
    assert best > middle > worst or (worst == 0 and best > middle >= worst)


def test_gold_tokens_from_characters() -> None:
    explainer = attcat.Explainer(FAMILIES["bert"].model(), wordpiece())
    tokens = explainer("A gripping film").tokens  # a grip ##ping film
    assert gold_tokens(tokens, [(3, 5)]).tolist() == [False, True, False, False]
    assert gold_tokens(tokens, [(2, 10)]).tolist() == [False, True, True, False]
    assert gold_tokens(tokens, [(0, 1), (11, 15)]).tolist() == [True, False, False, True]
    pair = explainer(("a film", "the film")).tokens
    assert gold_tokens(pair, [(2, 6, 1)]).tolist() == [False, False, True, True]
    for spans, message in (([(5, 5)], "start < end"), ([(90, 95)], "no token lies in"), ([(1,)], "expected")):
        with pytest.raises(InputError, match=message):
            gold_tokens(tokens, spans)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="expected one of each per content token"):
        auprc(SCORES, GOLD[:3])


# -- localisation --------------------------------------------------------------------------------------------------------


def picture(scores: Tensor, target: int = 0, size: tuple[int, int] = (40, 40)) -> attcat.Explanation:
    """An explanation of a picture whose patches have these scores."""
    rows, columns = scores.shape
    labels = ("[CLS]", *(f"{r},{c}" for r in range(rows) for c in range(columns)))
    tokens = attcat.Tokens(labels, (True, *[False] * scores.numel()), grid=(rows, columns))
    layers = torch.cat([torch.tensor([9.0]), scores.float().flatten()])[None]
    pixels = np.zeros((*size, 3), dtype=np.uint8)
    return attcat.Explanation(layers, tokens, torch.zeros(4), target, tuple("abcd"), "by hand", source=pixels)


def test_relevance_in_a_box_by_hand() -> None:
    """Patches of 10 pixels; the box takes half of the first column of the upper two rows."""
    scores = torch.tensor([[2.0, 1.0], [4.0, -5.0]])
    explanation = picture(scores, size=(20, 20))
    assert relevance_in_box(explanation, (0, 0, 10, 10)) == pytest.approx(2 / 7)
    assert relevance_in_box(explanation, (0, 0, 5, 20)) == pytest.approx(3 / 7)
    assert relevance_in_box(explanation, (0, 0, 20, 20)) == pytest.approx(1)
    assert np.isnan(relevance_in_box(picture(-torch.ones(2, 2)), (0, 0, 9, 9)))


def test_mosaics() -> None:
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (0, 255, 255)]
    pictures = [Image.new("RGB", (30, 20), colour) for colour in colours]
    found = mosaics(pictures, [0, 1, 2, 3, 3], count=6, pixels=16, seed=1)
    again = mosaics(pictures, [0, 1, 2, 3, 3], count=6, pixels=16, seed=1)
    assert [board.members for board in found] == [board.members for board in again]
    assert len({board.members for board in found}) > 1
    for board in found:
        assert board.picture.size == (32, 32)
        assert sorted(board.classes) == [0, 1, 2, 3]
        for cell, member in enumerate(board.members):
            left, top, right, bottom = board.box(cell)
            assert board.picture.getpixel((int(left + right) // 2, int(top + bottom) // 2)) == colours[member]
    with pytest.raises(InputError, match="needs pictures of 9 classes that the model gets right, there are 4"):
        mosaics(pictures, [0, 1, 2, 3, 3], side=3)


def test_grid_pointing_direction() -> None:
    """Relevance in the right cell is 1, spread evenly 1/4, in a wrong cell 0."""
    board = Mosaic(Image.new("RGB", (40, 40)), 2, (0, 1, 2, 3), (0, 1, 2, 3))

    def cells(offset: int | None) -> list[attcat.Explanation]:
        found = []
        for cell in range(4):
            scores = torch.full((4, 4), 1.0 if offset is None else 0.0)
            if offset is not None:
                row, column = divmod((cell + offset) % 4, 2)
                scores[2 * row : 2 * row + 2, 2 * column : 2 * column + 2] = 1
            found.append(picture(scores, cell))
        return found

    assert grid_pointing(board, cells(0)) == [1, 1, 1, 1]
    assert grid_pointing(board, cells(None)) == pytest.approx([0.25] * 4)
    assert grid_pointing(board, cells(1)) == [0, 0, 0, 0]
    with pytest.raises(InputError, match="one per cell, of its class"):
        grid_pointing(board, cells(0)[::-1])


def test_masks_by_hand_and_direction() -> None:
    mask = np.zeros((4, 4), dtype=bool)
    mask[:, 2:] = True
    scores = torch.zeros(4, 4)
    scores[:, 2:] = 1
    good, bad = picture(scores, size=(4, 4)), picture(-scores, size=(4, 4))
    assert against_mask(good, mask) == {"pixel_accuracy": 1, "miou": 1, "map": 1, "pointing": 1}
    worst = against_mask(bad, mask)
    assert (worst["pixel_accuracy"], worst["miou"], worst["pointing"]) == (0, 0, 0)
    one = torch.zeros(4, 4)
    one[0, 2:] = 1  # 2 of 8 pixels of the object: union 8, background 8 of 14
    found = against_mask(picture(one, size=(4, 4)), mask)
    assert found["pixel_accuracy"] == pytest.approx(10 / 16)
    assert found["miou"] == pytest.approx((2 / 8 + 8 / 14) / 2)
    assert worst["map"] < found["map"] < 1
    with pytest.raises(InputError, match="all object or all background"):
        against_mask(good, np.ones((4, 4), dtype=bool))
    with pytest.raises(InputError, match="expected bool"):
        against_mask(good, mask[:2])


# -- sanity --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["bert", "gpt2", "timm-vit", "dinov2"])
@pytest.mark.parametrize("cascading", [True, False])
def test_randomised_parameters(name: str, cascading: bool) -> None:
    """The stages hold each parameter once, explanations change, and the user's model does not."""
    family = FAMILIES[name]
    model = family.model()
    before = copy.deepcopy(model.state_dict())
    inputs = [family.row(family.arguments(2, seed), 0) for seed in range(3)]
    explainer = attcat.Explainer(model, None)
    found = parameter_randomisation(explainer, inputs, cascading=cascading)
    assert found.stages == ("head", "block 3", "block 2", "block 1", "embeddings")
    assert found.similarity.shape == (5, 3)
    assert (found.similarity[-1].abs() < 0.9).any()
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in before.items())
    assert not any(module._forward_hooks for module in model.modules())
    again = parameter_randomisation(explainer, inputs, cascading=cascading)
    torch.testing.assert_close(again.similarity, found.similarity)


def test_a_method_that_does_not_see_the_model_fails_the_check() -> None:
    family = FAMILIES["bert"]
    inputs = [family.row(family.arguments(1, seed), 0) for seed in range(3)]
    blind = parameter_randomisation(attcat.Explainer(family.model(), None, method="random"), inputs)
    torch.testing.assert_close(blind.similarity, torch.ones_like(blind.similarity))
    assert label_flip(attcat.Explainer(family.model(), None, method="attention"), inputs).tolist() == pytest.approx(
        [1.0] * 3
    )


def test_labels_that_mirror_each_other_flip_the_explanation() -> None:
    family = FAMILIES["bert"]
    model = family.model()
    model.classifier.weight.data[1] = -model.classifier.weight.data[0]
    model.classifier.weight.data[2] = 0
    model.classifier.bias.data[:] = torch.tensor([0.0, 0.0, -1e3])
    inputs = [family.row(family.arguments(1, seed), 0) for seed in range(2)]
    assert label_flip(attcat.Explainer(model, None), inputs).tolist() == pytest.approx([-1.0, -1.0])


def test_completeness_gap() -> None:
    family = FAMILIES["bert"]
    inputs = [family.row(family.arguments(1), 0)]
    complete = attcat.Explainer(family.model(), None, method="input_x_gradient", rule="libra")
    with pytest.raises(InputError, match="completeness=True"):
        completeness_gap(complete, inputs)
    assert float(completeness_gap(complete.like(completeness=True), inputs)) < 1e-4
    plain = attcat.Explainer(family.model(), None, method="input_x_gradient", rule="plain", completeness=True)
    assert float(completeness_gap(plain, inputs)) > 0.01


def test_sensitivity_to_noise() -> None:
    """It grows with the noise, is 0 without, and for what does not see the input."""
    family = FAMILIES["bert"]
    inputs = [family.row(family.arguments(1), 0)]
    explainer = attcat.Explainer(family.model(), None)
    none, small, large = (float(max_sensitivity(explainer, inputs, radius=r, samples=3)) for r in (0.0, 0.01, 0.3))
    assert none == 0 < small < large
    assert float(max_sensitivity(like_random(explainer), inputs, radius=0.3, samples=2)) == 0
    assert not explainer.adapter.blocks[0]._forward_pre_hooks


def like_random(explainer: attcat.Explainer) -> attcat.Explainer:
    return attcat.Explainer(explainer.adapter.model, None, method="random")


@pytest.mark.parametrize("name", ["bert", VISION[0]])
def test_batches_change_nothing(name: str) -> None:
    family = FAMILIES[name]
    explainer = attcat.Explainer(family.model(), None)
    inputs = [family.row(family.arguments(2), row) for row in range(2)]
    assert float(batch_invariance(explainer, inputs).max()) < 1e-4


def test_relevance_in_several_boxes_by_hand() -> None:
    """Patches of 10 pixels. The boxes overlap in the first patch, where what lies in both counts once."""
    explanation = picture(torch.tensor([[2.0, 1.0], [4.0, -5.0]]), size=(20, 20))
    halves = [(0.0, 0.0, 10.0, 5.0), (0.0, 0.0, 5.0, 20.0)]  # of the first patch 3/4, of the one below it half
    np.testing.assert_allclose(covered(explanation, halves), [[0.75, 0], [0.5, 0]])
    assert relevance_in_boxes(explanation, halves) == pytest.approx((0.75 * 2 + 0.5 * 4) / 7)
    one = (0, 0, 10, 10)
    assert relevance_in_boxes(explanation, [one]) == pytest.approx(relevance_in_box(explanation, one))
    assert relevance_in_boxes(explanation, [one, one]) == pytest.approx(2 / 7)
    assert np.isnan(relevance_in_boxes(picture(-torch.ones(2, 2)), [one]))
    with pytest.raises(InputError, match="no boxes"):
        relevance_in_boxes(explanation, [])
    with pytest.raises(InputError, match="expected left < right"):
        relevance_in_boxes(explanation, [(5, 0, 5, 10)])


def test_pointing_on_patches_by_hand() -> None:
    explanation = picture(torch.tensor([[2.0, 1.0], [4.0, -5.0]]), size=(20, 20))
    assert points_at(explanation, [(0, 10, 10, 20)]) == 1
    assert points_at(explanation, [(0, 0, 10, 10), (12, 12, 20, 20)]) == 0
    assert (
        points_at(picture(torch.tensor([[1.0, 1.0], [0.0, 0.0]])), [(0, 0, 1, 1)]) == 0.5
    )  # of two that are equal one


def test_coverage_is_what_pixels_say() -> None:
    """Against a slow count of pixels, for boxes on whole pixels and patches that do not divide the picture."""
    explanation = picture(torch.zeros(3, 4), size=(31, 50))
    boxes = [(3, 2, 20, 14), (10, 8, 41, 25), (40, 0, 50, 9)]
    fine = np.zeros((31 * 12, 50 * 12))  # 12 points per pixel and side: edges of patches lie between points
    for left, top, right, bottom in boxes:
        fine[top * 12 : bottom * 12, left * 12 : right * 12] = 1
    slow = fine.reshape(3, 31 * 4, 4, 150).mean((1, 3))
    np.testing.assert_allclose(covered(explanation, boxes), slow, atol=1e-9)

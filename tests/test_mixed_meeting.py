"""A picture and a text that meet behind an encoder of each (FLAVA, and models that are written like it)."""

from __future__ import annotations

from functools import cache
from itertools import product
from typing import Any

import numpy as np
import pytest
import torch
import zoo_mixed as zoo
from tasks_zoo import redraw
from test_mixed_models import PICTURE, QUESTION, paint_corners
from torch import Tensor, nn

import attcat
from attcat.model.discovered.meeting import DiscoveredMeeting
from attcat.testing import check_adapter

ORDERS = tuple(product((False, True), repeat=2))
GIVEN = {"input_ids": torch.arange(5, 12)[None], "pixel_values": torch.linspace(-2, 2, 3 * 48 * 48).view(1, 3, 48, 48)}


@cache
def flava() -> tuple[nn.Module, Any]:
    torch.manual_seed(0)
    model, processor = zoo.flava()
    return redraw(model.eval()), processor


@cache
def judge(*order: bool) -> zoo.MeetingJudge:
    torch.manual_seed(0)
    return zoo.MeetingJudge(*order).eval()


def watched(model: nn.Module, given: dict[str, Tensor], blocks: list[nn.Module]) -> tuple[list[Tensor], Tensor]:
    """What these blocks take in a plain pass, by hooks of our own, and the logits."""
    seen: list[Tensor] = []
    hooks = [block.register_forward_pre_hook(lambda _, args: seen.append(args[0])) for block in blocks]
    logits = model(**given)[0]
    for hook in hooks:
        hook.remove()
    return seen, logits


def of_processor(picture: Any = PICTURE) -> dict[str, Tensor]:
    made = flava()[1](images=picture, text=QUESTION, return_tensors="pt")
    return {"input_ids": made["input_ids"], "pixel_values": made["pixel_values"]}


def test_flava_keeps_what_adapters_promise() -> None:
    for arguments in (flava(), flava()[:1]):
        checks = check_adapter(*arguments)
        assert [str(check) for check in checks if check.passed is False] == []
    assert "1 of its own, then the patches before the words" in attcat.Explainer(*flava()).describe()


@pytest.mark.parametrize("order", ORDERS)
def test_models_written_by_hand_keep_it_in_every_order(order: tuple[bool, bool]) -> None:
    checks = check_adapter(judge(*order))
    assert [str(check) for check in checks if check.passed is False] == []


def test_the_scores_of_cat_are_those_of_a_plain_pass() -> None:
    """Gradient times state at each block, beside that of the other encoder's block that is as deep."""
    model: Any = flava()[0]
    parts = [model.flava.image_model, model.flava.text_model, model.flava.multimodal_model]
    states, logits = watched(model, of_processor(), [block for part in parts for block in part.encoder.layer])
    slopes = torch.autograd.grad(logits[1], states)
    image0, image1, text0, text1, *both = [(s * g).sum(-1)[0].detach() for s, g in zip(states, slopes, strict=True)]
    lead = torch.zeros(1)
    cuts = [torch.cat([lead, image0, text0]), torch.cat([lead, image1, text1])]
    found = attcat.Explainer(*flava(), method="cat", rule="plain")((PICTURE, QUESTION), target=1)
    assert found.value == pytest.approx(float(logits[1].detach()), rel=1e-4)
    expected = torch.stack([cuts[0], cuts[0], cuts[1], cuts[1], *both])  # a cut for each block, the deeper ones last
    np.testing.assert_allclose(found.layers, expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("order", ORDERS)
def test_encoders_of_different_depth_are_read_side_by_side(order: tuple[bool, bool]) -> None:
    """Two blocks of the pictures' and three of the words': the deepest of the words' stands beside the last of the pictures'."""
    model = judge(*order)
    lines: list[Any] = [model.reading, model.seeing] if order[0] else [model.seeing, model.reading]
    states, logits = watched(model, GIVEN, [*lines[0], *lines[1], *model.joining])
    slopes = torch.autograd.grad(logits[1], states)
    values = [(s * g).sum(-1)[0].detach() for s, g in zip(states, slopes, strict=True)]
    words, patches = (values[:3], values[3:5]) if order[0] else (values[2:5], values[:2])
    deeper = (
        (0, 0),
        (0, 0),
        (1, 0),
        (1, 1),
        (2, 1),
    )  # beside the words' blocks 0, 1 and 2 those of the patches, and reversed
    pairs = [(words[one], patches[other]) for one, other in deeper]
    within = [torch.cat(pair if order[1] else pair[::-1]) for pair in pairs]
    found = attcat.Explainer(model, method="cat", rule="plain")(GIVEN, target=1)
    np.testing.assert_allclose(found.layers, torch.stack([*within, *values[5:]]), rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("method", ["cat", "attcat", "oddscat", "integrated_gradients"])
def test_the_order_of_the_encoders_changes_no_score(method: str) -> None:
    """The blocks of both know no places, so that patches and words have the same scores in any order."""
    found = {order: attcat.Explainer(judge(*order), method=method)(GIVEN, target=1) for order in ORDERS}
    plain = found[False, False]
    for (_, in_front), other in found.items():
        scores = np.roll(other.scores, len(other.tokens) - 7) if in_front else np.asarray(other.scores)
        np.testing.assert_allclose(scores, plain.scores, rtol=1e-3, atol=1e-5)
        assert other.tokens.labels[-7 if not in_front else 0].startswith("#")


def test_tokens_receive_attention_of_their_own_encoder_and_of_both() -> None:
    """AttCAT by hand, from the attention weights that the model itself computes."""
    model: Any = flava()[0]
    found, cat = (
        attcat.Explainer(*flava(), method=method, rule="plain")((PICTURE, QUESTION), target=1)
        for method in ("attcat", "cat")
    )
    seen: list[Tensor] = []

    def weights(module: Any, args: Any) -> None:
        seen.append(args[0].mean((1, 2))[0].detach())  # what goes through the dropout of the weights

    drops = [m for n, m in model.named_modules() if n.endswith("attention.attention.dropout")]
    hooks = [drop.register_forward_pre_hook(weights) for drop in drops]
    model(**of_processor())
    for hook in hooks:
        hook.remove()
    image, text, both = seen[:2], seen[2:4], seen[4:]
    cuts = [torch.cat([torch.zeros(1), *pair]) for pair in zip(image, text, strict=True)]
    expected = cat.layers.clone() * torch.stack([cuts[0], cuts[0], cuts[1], cuts[1], *both])
    np.testing.assert_allclose(found.layers, expected, rtol=1e-3, atol=1e-8)


def test_every_painted_corner_moves_the_token_that_lies_there() -> None:
    model: Any = flava()[0]
    tokens = attcat.Explainer(*flava(), method="cat").adapter.encode([(PICTURE, QUESTION)]).tokens[0]
    first = model.flava.image_model.encoder.layer[0]

    def states(picture: Any) -> Tensor:
        own = watched(model, of_processor(picture), [first])[0][0][0].detach()
        return torch.cat([torch.zeros(1, own.shape[1]), own])  # the token that the blocks of both begin with

    paint_corners(tokens, states)


def test_removed_words_and_patches_are_those_of_either_encoder() -> None:
    for order in ORDERS:
        adapter = attcat.Explainer(judge(*order)).adapter
        encoding = adapter.encode_arguments(GIVEN)
        removed = torch.zeros_like(encoding.mask)
        word, patch = (2, 7 + 5) if order[1] else (16 + 2, 5)
        removed[0, [word, patch]] = True
        changed = adapter.remove(encoding, removed).arguments
        assert (changed["decoder_input_ids"] != GIVEN["input_ids"]).nonzero().tolist() == [[0, 2]]
        moved = (changed["pixel_values"] != GIVEN["pixel_values"]).any(1)[0].nonzero()
        assert moved.min(0).values.tolist() == [12, 12]
        assert moved.max(0).values.tolist() == [23, 23]


def test_an_encoder_whose_states_are_left_out_is_refused() -> None:
    torch.manual_seed(0)
    with pytest.raises(attcat.UnsupportedModelError):
        attcat.Explainer(zoo.MeetingJudge(keeps=1).eval())
    with pytest.raises(
        attcat.UnsupportedModelError, match=r"what seeing\.1 passes on for one token is not what joining\.0"
    ):
        DiscoveredMeeting(zoo.MeetingJudge(keeps=1).eval())


def test_methods_that_need_one_matrix_are_refused() -> None:
    with pytest.raises(attcat.AttCATError, match="two encoders attend each on its own"):
        attcat.Explainer(judge(), method="rollout")(GIVEN)

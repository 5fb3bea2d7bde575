"""Models whose encoder reads words and pictures in one sequence, and whose decoder writes the answer."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
import zoo_mixed as zoo
from tasks_zoo import redraw
from test_mixed_models import PICTURE, PLACED, QUESTION
from torch import Tensor, nn

import attcat
from attcat.files import encode_jpeg
from attcat.testing import check_adapter

FAMILIES: dict[str, tuple[Callable[[], tuple[nn.Module, Any]], tuple[str, str]]] = {
    "florence-2": (
        zoo.florence2,
        ("model.language_model.encoder.layers.0", "model.language_model.decoder.layers.0"),
    ),
    "blip-2-t5": (lambda: zoo.blip2("T5"), ("language_model.encoder.block.0", "language_model.decoder.block.0")),
}


@cache
def made(name: str) -> tuple[nn.Module, Any, attcat.Explainer]:
    torch.manual_seed(0)
    model, processor = FAMILIES[name][0]()
    return redraw(model.eval()), processor, attcat.Explainer(model, processor, method="cat")


def real_arguments(name: str, picture: np.ndarray = PICTURE, question: str = QUESTION) -> dict[str, Tensor]:
    """What the processor itself makes, without the library."""
    batch = made(name)[1](text=[question], images=[picture], return_tensors="pt")
    return {n: batch[n] for n in ("input_ids", "attention_mask", "pixel_values")}


def first_states(name: str, arguments: dict[str, Tensor], written: list[int]) -> tuple[list[Tensor], Tensor]:
    """What the first blocks of encoder and decoder take, by hooks of our own on a plain pass; and its logits."""
    model, seen = made(name)[0], []

    def enter(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen.append(args[0] if args else kwargs["hidden_states"])

    hooks = [model.get_submodule(path).register_forward_pre_hook(enter, with_kwargs=True) for path in FAMILIES[name][1]]
    logits = model(**arguments, decoder_input_ids=torch.tensor([written]), use_cache=False).logits[0]
    for hook in hooks:
        hook.remove()
    return seen, logits


def start(name: str) -> int:
    return int(made(name)[0].config.text_config.decoder_start_token_id)


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_keeps_what_adapters_promise(name: str) -> None:
    model, processor, _ = made(name)
    checks = check_adapter(model, processor)
    assert [str(check) for check in checks if check.passed is False] == []
    (placed,) = [check for check in checks if check.name == PLACED]
    assert placed.passed is (None if name == "blip-2-t5" else True)


def test_every_painted_corner_moves_the_token_that_lies_there() -> None:
    """Florence-2's tokens are one for the whole picture, then those of its grid; its convolutions overlap, and mix neighbours."""
    tokens = made("florence-2")[2].adapter.encode([(PICTURE, QUESTION)]).tokens[0]
    assert tokens.patches is not None
    assert tokens.places is not None
    assert [patches.grid for patches in tokens.patches] == [(8, 8), None]
    assert tokens.places[:3] == ((1, 0), (0, 0), (0, 1))

    def state(picture: np.ndarray) -> Tensor:
        states, _ = first_states("florence-2", real_arguments("florence-2", picture), [start("florence-2")])
        return states[0][0, 1:65].detach()

    plain, moves = state(PICTURE), []
    for row, column in ((0, 0), (0, 7), (7, 0), (7, 7)):  # a cell is 6 x 10 pixels
        painted = PICTURE.copy()
        part = painted[6 * row : 6 * row + 6, 10 * column : 10 * column + 10]
        part[...] = np.where(part > 127, 0, 255)
        moves.append((row, column, (state(painted) - plain).norm(dim=-1)))
    usual = torch.stack([change for _, _, change in moves]).mean(0)
    for row, column, change in moves:
        found = int((change / usual).argmax())
        assert abs(found // 8 - row) <= 1
        assert abs(found % 8 - column) <= 1


@pytest.mark.parametrize("name", FAMILIES)
def test_the_scores_of_an_answer_are_those_of_a_plain_pass(name: str) -> None:
    """Gradient times input of either sequence, by autograd without the library."""
    model, processor, _ = made(name)
    answer = [40, 41, 42]
    found = attcat.Explainer(model, processor, method="input_x_gradient", rule="plain")(
        (PICTURE, QUESTION), answer=answer
    )
    for place, explanation in enumerate(found.explanations):
        written = [start(name), *answer[:place]]
        states, logits = first_states(name, real_arguments(name), written)
        value = logits[-1, answer[place]]
        slopes = torch.autograd.grad(value, states)
        expected = [float(x) for s, g in zip(states, slopes, strict=True) for x in (s * g).sum(-1)[0].detach()]
        assert explanation.value == pytest.approx(float(value.detach()), rel=1e-4, abs=1e-6)
        np.testing.assert_allclose(explanation.scores, expected, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("name", FAMILIES)
def test_words_and_patches_share_one_complete_explanation(name: str) -> None:
    model, processor, _ = made(name)
    explain = attcat.Explainer(model, processor, method="input_x_gradient", rule="libra", completeness=True)
    found = explain((PICTURE, QUESTION))
    assert found.completeness == pytest.approx(0, abs=1e-4)
    assert [word.text for word in found.words()] == ["a", "gripping", "film", "?"]
    assert found.shares().picture > 0
    assert found.shares().text > 0


@pytest.mark.parametrize("name", FAMILIES)
def test_what_it_writes_itself_is_what_it_writes_alone(name: str) -> None:
    model, _, explainer = made(name)
    options = {"max_new_tokens": 3, "min_new_tokens": 3, "do_sample": False}
    found = explainer.generate((PICTURE, QUESTION), **options)
    alone = model.generate(**real_arguments(name), **options)
    assert [one.classes[one.target] for one in found.explanations] == alone[0, -3:].tolist()


@pytest.mark.parametrize("name", FAMILIES)
def test_an_answer_is_drawn_with_its_picture(name: str, tmp_path: Any) -> None:
    found = made(name)[2]((PICTURE, QUESTION), answer="film")
    found.save(tmp_path / "answer.html")
    page = (tmp_path / "answer.html").read_text()
    assert "film" in page
    assert "gripping" in page
    assert found.explanations[1].shares().written > 0


def test_a_map_on_the_patches_of_the_tower() -> None:
    """The queries of BLIP-2 lie nowhere, but the patches that they read do."""
    explain = attcat.Explainer(*made("blip-2-t5")[:2], method="input_x_gradient", rule="libra")
    fine, plain = explain((PICTURE, QUESTION), through_tower=True), explain((PICTURE, QUESTION))
    assert fine.heatmap(image=0).shape == PICTURE.shape[:2]
    total = float(fine.scores.sum()) + fine.measured["tower_rest"]
    assert total == pytest.approx(float(plain.scores.sum()), rel=1e-3, abs=1e-6)
    with pytest.raises(attcat.InputError, match="lie nowhere"):
        plain.heatmap(image=0)


def test_words_alone_where_the_model_reads_these() -> None:
    assert [word.text for word in made("florence-2")[2]("a gripping film?").words()] == ["a", "gripping", "film", "?"]
    with pytest.raises(attcat.InputError, match="reads no words without a picture"):
        made("blip-2-t5")[2]("a gripping film?")


@pytest.mark.parametrize("name", FAMILIES)
def test_model_arguments_do_without_a_processor(name: str) -> None:
    model, _, explainer = made(name)
    found = attcat.Explainer(model, method="cat")(real_arguments(name))
    np.testing.assert_allclose(found.scores, explainer((PICTURE, QUESTION)).scores, rtol=1e-4, atol=1e-6)


def test_removed_words_and_patches_are_those_of_the_source() -> None:
    explainer = made("florence-2")[2]
    encoding = explainer.adapter.encode([(PICTURE, QUESTION)])
    removed = torch.zeros_like(encoding.mask)
    removed[0, 1] = True  # the patch in the first corner
    changed = explainer.adapter.remove(encoding, removed)
    assert torch.equal(changed.arguments["input_ids"], encoding.arguments["input_ids"])
    moved = (changed.arguments["pixel_values"] - encoding.arguments["pixel_values"]).abs().amax((0, 1)) > 0
    assert moved[:8, :8].all()
    assert not moved[10:, :].any()
    assert not moved[:, 10:].any()


def test_a_picture_of_noise_is_saved() -> None:
    """Pillow optimizes a JPEG in a buffer that was too small for it."""
    noise = np.random.default_rng(0).integers(0, 256, (400, 640, 3), dtype=np.uint8)
    assert encode_jpeg(noise).startswith(b"\xff\xd8")

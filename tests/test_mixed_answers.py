"""A question that reads a picture by cross-attention, and an answer that reads the question: three sequences."""

from __future__ import annotations

from copy import deepcopy
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
import zoo_mixed as zoo
from tasks_zoo import redraw
from test_mixed_models import PICTURE, QUESTION, paint_corners
from torch import Tensor, nn

import attcat
from attcat.testing import check_adapter

FIRST = ("vision_model.encoder.layers.0", "text_encoder.encoder.layer.0", "text_decoder.bert.encoder.layer.0")
START = 0
ANSWER = [40, 41, 42]


@cache
def made() -> tuple[nn.Module, Any, attcat.Explainer]:
    torch.manual_seed(0)
    model, processor = zoo.blip("QuestionAnswering")
    return redraw(model.eval()), processor, attcat.Explainer(model, processor, method="cat")


def real_arguments(picture: np.ndarray = PICTURE, question: str = QUESTION) -> dict[str, Tensor]:
    """What the processor itself makes, without the library."""
    batch = made()[1](text=[question], images=[picture], return_tensors="pt")
    return {n: batch[n] for n in ("input_ids", "attention_mask", "pixel_values")}


def first_states(written: list[int], picture: np.ndarray = PICTURE) -> tuple[list[Tensor], Tensor]:
    """What the first blocks of the three sequences take, by hooks of our own; and the last logits. The three parts are run one
    after another, as the model's own `generate` runs them."""
    model, seen = made()[0], []

    def enter(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen.append(args[0] if args else kwargs["hidden_states"])

    hooks = [model.get_submodule(path).register_forward_pre_hook(enter, with_kwargs=True) for path in FIRST]
    given = real_arguments(picture)
    image = model.vision_model(pixel_values=given["pixel_values"])[0]
    asked = model.text_encoder(input_ids=given["input_ids"], encoder_hidden_states=image)[0]
    ids = torch.tensor([written])
    logits = model.text_decoder(input_ids=ids, encoder_hidden_states=asked, use_cache=False).logits
    for hook in hooks:
        hook.remove()
    return seen, logits[0, -1]


def expected_scores(value: Tensor, states: list[Tensor]) -> list[float]:
    """Gradient times input of patches, of what was asked, and of what was written."""
    slopes = torch.autograd.grad(value, states)
    return [float(x) for s, g in zip(states, slopes, strict=True) for x in (s * g).sum(-1)[0].detach()]


def test_an_answer_keeps_what_adapters_promise() -> None:
    assert [str(check) for check in check_adapter(*made()[:2]) if check.passed is False] == []
    assert "the next 2 the question's, which reads the picture by cross-attention" in made()[2].describe()


def test_the_scores_of_an_answer_are_those_of_a_plain_pass() -> None:
    """Gradient times input of three sequences, by autograd without the library."""
    found = attcat.Explainer(*made()[:2], method="input_x_gradient", rule="plain")((PICTURE, QUESTION), answer=ANSWER)
    assert len(found.explanations) == len(ANSWER)
    for place, explanation in enumerate(found.explanations):
        states, logits = first_states([START, *ANSWER[:place]])
        value = logits[ANSWER[place]]
        assert explanation.value == pytest.approx(float(value.detach()), rel=1e-4, abs=1e-6)
        np.testing.assert_allclose(explanation.scores, expected_scores(value, states), rtol=1e-3, atol=1e-6)


def test_without_an_answer_the_first_word_that_it_writes_is_explained() -> None:
    found = attcat.Explainer(*made()[:2], method="input_x_gradient", rule="plain")((PICTURE, QUESTION))
    states, logits = first_states([START])
    assert found.classes[found.target] == int(logits.argmax())
    np.testing.assert_allclose(found.scores, expected_scores(logits.max(), states), rtol=1e-3, atol=1e-6)


def test_what_it_writes_itself_is_what_it_writes_alone() -> None:
    model, _, explainer = made()
    options = {"max_new_tokens": 3, "min_new_tokens": 3, "do_sample": False}
    found = explainer.generate((PICTURE, QUESTION), **options)
    alone = model.generate(**real_arguments(), **options)
    assert [one.classes[one.target] for one in found.explanations] == alone[0, -3:].tolist()


@pytest.mark.parametrize("answer", [None, ANSWER])
def test_words_and_patches_share_one_complete_explanation(answer: Any, tmp_path: Any) -> None:
    explain = attcat.Explainer(*made()[:2], method="input_x_gradient", rule="libra", completeness=True)
    found = explain((PICTURE, QUESTION), answer=answer)
    one = found if answer is None else found.explanations[-1]
    assert one.completeness == pytest.approx(0, abs=1e-4)
    assert [word.text for word in one.words()][:4] == ["a", "gripping", "film", "?"]
    assert one.heatmap(image=0).shape == PICTURE.shape[:2]
    assert min(one.shares().picture, one.shares().text) > 0
    assert (one.shares().written > 0) == (answer is not None)
    found.save(tmp_path / "answer.html")


def test_each_block_adds_up_to_the_answer() -> None:
    """At every cut: of the picture, of the question with what it has yet to read, and of the answer, which reads no patch.
    Without biases, which belong to no token of a cut, each is all of the logit."""
    model, processor, _ = made()
    bare = deepcopy(model)
    for name, parameter in bare.named_parameters():
        if name.endswith("bias"):
            nn.init.zeros_(parameter)
    found = attcat.Explainer(bare, processor, method="cat", rule="libra")((PICTURE, QUESTION))
    layers = np.asarray(found.layers)
    patches = len(found.tokens.labels) - 1 - real_arguments()["input_ids"].shape[1]
    assert layers.sum(1).tolist() == pytest.approx([found.value] * 6, rel=1e-3)
    assert np.abs(layers[:4, :patches]).sum(1).min() > 0
    assert not layers[4:, :patches].any()


def test_every_painted_corner_moves_the_token_that_lies_there() -> None:
    tokens = made()[2].adapter.encode([(PICTURE, QUESTION)]).tokens[0]
    paint_corners(tokens, lambda picture: first_states([START], picture)[0][0][0].detach())


def test_methods_that_weigh_by_attention_see_all_three() -> None:
    found = attcat.Explainer(*made()[:2], method="attcat")((PICTURE, QUESTION), answer=ANSWER)
    for one in found.explanations:
        assert np.isfinite(one.scores).all()
        assert one.shares().picture > 0
    with pytest.raises(attcat.CaptureError, match="attend each on its own"):
        attcat.Explainer(*made()[:2], method="rollout")((PICTURE, QUESTION))


def test_removed_words_and_patches_are_those_of_either_sequence() -> None:
    adapter = made()[2].adapter
    encoding = adapter.encode([(PICTURE, QUESTION)])
    asked = encoding.arguments["input_ids"]
    patches = encoding.offset - asked.shape[1]
    removed = torch.zeros_like(encoding.mask)
    removed[0, [1, patches + 1]] = True  # the patch in the first corner, and a word
    changed = adapter.remove(encoding, removed).arguments
    assert (changed["input_ids"] != asked)[0].nonzero().flatten().tolist() == [1]
    assert torch.equal(changed["decoder_input_ids"], encoding.arguments["decoder_input_ids"])
    moved = (changed["pixel_values"] - encoding.arguments["pixel_values"]).abs().amax((0, 1)) > 0
    assert moved[:8, :8].all()
    assert not moved[8:, :].any()
    assert not moved[:, 8:].any()


def test_methods_of_further_passes_change_all_three() -> None:
    """Integrated gradients replace the states of each sequence where it begins; occlusion removes one token after another."""
    plain = attcat.Explainer(*made()[:2], method="integrated_gradients")((PICTURE, QUESTION))
    assert plain.shares().picture > 0
    assert plain.shares().text > 0
    occluded = attcat.Explainer(*made()[:2], method="occlusion")((PICTURE, QUESTION))
    assert occluded.shares().picture > 0


def test_an_answer_in_words_stands_behind_the_start_token_alone() -> None:
    """The tokenizer's own first token has the start token in its place, as where the model writes."""
    found = made()[2]((PICTURE, QUESTION), answer="film")
    assert found.text == "film"
    assert found.tokens.labels[found.start - 1] == made()[1].tokenizer.convert_ids_to_tokens(START)
    assert len(found.explanations) == len(made()[1].tokenizer("film", add_special_tokens=False)["input_ids"])


def test_model_arguments_do_without_a_processor() -> None:
    model, _, explainer = made()
    found = attcat.Explainer(model, method="cat")(real_arguments())
    np.testing.assert_allclose(found.scores, explainer((PICTURE, QUESTION)).scores, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("wrong", [PICTURE, "a film", (PICTURE, " ")])
def test_something_else_than_a_picture_and_a_question_is_refused(wrong: Any) -> None:
    with pytest.raises(attcat.InputError, match=r"input at a time is a picture and a|beside the picture is empty"):
        made()[2](wrong)


def test_a_question_that_is_too_long_is_refused() -> None:
    with pytest.raises(attcat.InputError, match=r"the question has .* tokens, the model takes at most 100"):
        made()[2]((PICTURE, "a film " * 60))

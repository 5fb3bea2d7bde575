"""Further families that read words and pictures: those whose pictures stand elsewhere, or that do something else with them."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
import zoo_mixed as zoo
from tasks_zoo import redraw
from test_mixed_models import PICTURE, QUESTION, paint_corners
from tokenizers_small import byte_bpe
from torch import Tensor, nn

import attcat
from attcat.model.discovered.mixed import DiscoveredMixed
from attcat.testing import check_adapter
from attcat.tokens import Tokens

WRITERS: dict[str, tuple[Callable[[], tuple[nn.Module, Any]], str]] = {
    "aya-vision": (zoo.aya_vision, "model.language_model.layers.0"),
    "got-ocr2": (zoo.got_ocr2, "model.language_model.layers.0"),
    "blip-2": (zoo.blip2, "language_model.model.decoder.layers.0"),
    "git": (zoo.git, "git.encoder.layer.0"),
}
CLASSIFIERS: dict[str, tuple[Callable[[], tuple[nn.Module, Any]], str]] = {
    "gemma3-classifier": (zoo.gemma3_classifier, "model.language_model.layers.0"),
}
FAMILIES = {**WRITERS, **CLASSIFIERS}
WHOLE = ("blip-2",)  # whose tokens lie nowhere in the picture: the queries of a Q-Former


@cache
def made(name: str) -> tuple[nn.Module, Any, attcat.Explainer]:
    torch.manual_seed(0)
    model, processor = FAMILIES[name][0]()
    return redraw(model.eval()), processor, attcat.Explainer(model, processor, method="cat")


def tokens_of(name: str) -> Tokens:
    return made(name)[2].adapter.encode([(PICTURE, QUESTION)]).tokens[0]


def real_arguments(name: str, value: Any) -> dict[str, Tensor]:
    """What the processor itself makes, without the library."""
    _, processor, explainer = made(name)
    picture, text = value
    mark = explainer.adapter.placeholder or ""
    batch = processor(text=[f"{mark}{text}"], images=[picture], return_tensors="pt")
    taken = explainer.adapter.takes
    return {n: v for n, v in batch.items() if isinstance(v, Tensor) and taken(n)}


def first_state(name: str, picture: np.ndarray) -> Tensor:
    """What the first block takes, by a hook of our own on a plain pass."""
    model, block, seen = made(name)[0], FAMILIES[name][1], []

    def enter(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        seen.append((args[0] if args else kwargs["hidden_states"]).detach())

    hook = model.get_submodule(block).register_forward_pre_hook(enter, with_kwargs=True)
    with torch.no_grad():
        model(**real_arguments(name, (picture, QUESTION)))
    hook.remove()
    return seen[0][0]


@pytest.mark.parametrize("name", [name for name in FAMILIES if name not in WHOLE])
def test_every_painted_corner_moves_the_token_that_lies_there(name: str) -> None:
    paint_corners(tokens_of(name), lambda picture: first_state(name, picture), relative=name == "got-ocr2")


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_keeps_what_adapters_promise(name: str) -> None:
    model, processor, _ = made(name)
    assert [str(check) for check in check_adapter(model, processor) if check.passed is False] == []


@pytest.mark.parametrize("name", FAMILIES)
def test_what_is_explained_is_what_the_model_says_of_its_own_input(name: str) -> None:
    model, _, explainer = made(name)
    with torch.no_grad():
        logits = model(**real_arguments(name, (PICTURE, QUESTION))).logits[0]
    expected = (logits[-1] if logits.dim() == 2 else logits).max()
    found = explainer((PICTURE, QUESTION))
    assert found.value == pytest.approx(float(expected), rel=1e-4, abs=1e-5)
    assert [word.text for word in found.words()] == ["a", "gripping", "film", "?"]


@pytest.mark.parametrize("name", WRITERS)
def test_a_written_answer_has_the_logits_of_a_plain_pass(name: str) -> None:
    model, _, explainer = made(name)
    answer = [40, 41, 42]
    found = explainer((PICTURE, QUESTION), answer=answer)
    prompt = explainer.adapter.prompt((PICTURE, QUESTION))
    row = torch.tensor([[*prompt.ids[prompt.own :], *answer]])
    with torch.no_grad():
        logits = model(input_ids=row, attention_mask=torch.ones_like(row), **prompt.further).logits[0, -4:-1]
    for place, explanation in enumerate(found.explanations):
        assert explanation.value == pytest.approx(float(logits[place, answer[place]]), rel=1e-4, abs=1e-5)


@pytest.mark.parametrize("name", ["blip-2", "git"])
def test_what_it_writes_itself_is_what_it_writes_alone(name: str) -> None:
    model, _, explainer = made(name)
    options = {"max_new_tokens": 3, "min_new_tokens": 3, "do_sample": False}
    found = explainer.generate((PICTURE, QUESTION), **options)
    prompt = explainer.adapter.prompt((PICTURE, QUESTION))
    row = torch.tensor([prompt.ids[prompt.own :]])
    alone = model.generate(input_ids=row, attention_mask=torch.ones_like(row), **prompt.further, **options)
    assert [one.classes[one.target] for one in found.explanations] == alone[0, -3:].tolist()


def test_a_token_for_the_whole_picture_lies_nowhere_on_it() -> None:
    """GIT's tower has a class token, which its language model reads before the patches."""
    tokens = tokens_of("git")
    assert tokens.patches is not None
    assert tokens.places is not None
    assert [patches.grid for patches in tokens.patches] == [(4, 4), None]
    assert tokens.places[:3] == ((1, 0), (0, 0), (0, 1))
    found = made("git")[2]((PICTURE, QUESTION))
    assert found.of_image(0).scores.sum() == pytest.approx(float(found.scores[1:17].sum()), rel=1e-4)


def test_a_model_that_reads_no_words_alone_says_so() -> None:
    with pytest.raises(attcat.InputError, match="reads no words without a picture"):
        made("blip-2")[2]("a gripping film?")
    assert "reads no words without a picture" in made("blip-2")[2].adapter.describe()


def test_model_arguments_with_a_picture_before_the_words() -> None:
    model, _, explainer = made("git")
    arguments = real_arguments("git", (PICTURE, QUESTION))
    found = attcat.Explainer(model, method="cat")(arguments)
    np.testing.assert_allclose(found.scores, explainer((PICTURE, QUESTION)).scores, rtol=1e-4, atol=1e-5)
    assert found.tokens.patches is not None
    assert [patches.grid for patches in found.tokens.patches] == [(4, 4), None]


def regions() -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    ids = torch.arange(5, 14)[None]
    seen = torch.randn(1, 5, 24, generator=generator)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "visual_embeds": seen}


def page(move: int = 0) -> dict[str, Tensor]:
    """Words with their boxes, and a page that is wider than high in what it shows."""
    boxes = torch.tensor([[100 * place + move, 40, 100 * place + 60 + move, 60] for place in range(9)])[None]
    pixels = torch.randn(1, 3, zoo.SIDE, zoo.SIDE, generator=torch.Generator().manual_seed(0))
    return {"input_ids": torch.arange(5, 14)[None], "bbox": boxes, "pixel_values": pixels}


def arguments_of(name: str) -> tuple[nn.Module, dict[str, Tensor]]:
    torch.manual_seed(0)
    if name == "visualbert":
        return redraw(zoo.visual_bert().eval()), regions()
    model = zoo.layoutlmv3(name, 2 if name == "QuestionAnswering" else 3)
    return redraw(model.eval()), page()


@pytest.mark.parametrize("name", ["visualbert", "SequenceClassification", "TokenClassification"])
def test_what_stands_behind_the_words_keeps_what_adapters_promise(name: str) -> None:
    """VisualBERT's regions; LayoutLMv3's page, whose words have boxes."""
    model, arguments = arguments_of(name)
    token = 3 if name == "TokenClassification" else None
    checks = check_adapter(model, inputs=arguments, token=token)
    assert [str(check) for check in checks if check.passed is False] == []
    found = attcat.Explainer(model, method="cat")(arguments, token=token)
    with torch.no_grad():
        logits = model(**arguments).logits[0]
    expected = logits[3] if name == "TokenClassification" else logits
    assert found.value == pytest.approx(float(expected.max()), rel=1e-4, abs=1e-5)
    assert found.tokens.patches is not None
    assert [one.grid for one in found.tokens.patches] == ([None] if name == "visualbert" else [(4, 4)])


def test_the_boxes_of_a_page_are_read() -> None:
    model, arguments = arguments_of("SequenceClassification")
    explainer = attcat.Explainer(model, method="cat")
    moved = explainer({**arguments, "bbox": page(30)["bbox"]})
    assert moved.value != pytest.approx(explainer(arguments).value, rel=1e-4)


def test_a_detector_whose_words_and_pixels_mix_in_many_sizes_is_refused_shortly() -> None:
    """Without the adapter of its family."""
    with pytest.raises(attcat.UnsupportedModelError, match="it reads words with a picture alone") as told:
        DiscoveredMixed(zoo.grounding_dino().eval())
    assert len(str(told.value)) < 350


def test_a_written_placeholder_is_refused_readably() -> None:
    explainer = made("aya-vision")[2]
    explainer((PICTURE, QUESTION))
    mark = explainer.adapter.processor.convert_tokens_to_ids("<|IMG_PATCH|>")
    with pytest.raises(
        attcat.InputError, match=rf"token 2 of 3 is a picture's placeholder.*suppress_tokens=\[{mark}\]"
    ):
        explainer((PICTURE, QUESTION), answer=[40, mark, 41])


def test_a_model_of_regions_still_chooses_among_texts() -> None:
    model = redraw(zoo.visual_bert("MultipleChoice").eval())
    explainer = attcat.Explainer(model, byte_bpe(), method="cat")
    found = explainer(("a gripping film", ["a boring end", "a gripping end"]))
    assert len(found.logits) == 2


def test_blip2_with_model_arguments_alone() -> None:
    """Without a processor the trial has a picture and its placeholders; a text without them is told what it lacks."""
    model = made("blip-2")[0]
    given = {n: v for n, v in real_arguments("blip-2", (PICTURE, QUESTION)).items() if n != "qformer_input_ids"}
    explain = attcat.Explainer(model, None, method="input_x_gradient", rule="libra", completeness=True)
    generation = explain(given, answer=[20, 21])
    assert generation.explanations[1].completeness == pytest.approx(0, abs=1e-4)
    assert generation.explanations[1].shares().picture > 0
    words = {**given, "input_ids": given["input_ids"][:, 6:], "attention_mask": given["attention_mask"][:, 6:]}
    with pytest.raises(attcat.InputError, match="hold no placeholder for the picture"):
        explain(words, answer=[20, 21])

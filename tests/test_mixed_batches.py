"""Several pictures with questions of different lengths in one forward pass: as each by itself."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import zoo_mixed as zoo
from tasks_zoo import redraw
from test_mixed_models import PICTURE, QUESTION, gemma3, llava, llava_next, paligemma, qwen, vilt

import attcat
from attcat.metrics import Ablation, evaluate

OTHER = np.ascontiguousarray(PICTURE[::-1])
INPUTS = [(PICTURE, QUESTION), (OTHER, "a film?"), (PICTURE, "what is a gripping film, and what is a boring one?")]
MADE = {
    "llava": llava,
    "gemma3": gemma3,
    "paligemma": paligemma,
    "llava-next": llava_next,
    "qwen2-vl": lambda: qwen("Qwen2VL"),
    "git": zoo.git,
    "classifier": zoo.gemma3_classifier,
    "vilt": vilt,
}


def explainer_of(name: str, **options: Any) -> attcat.Explainer:
    torch.manual_seed(0)
    model, processor = MADE[name]()
    return attcat.Explainer(redraw(model.eval()), processor, **options)


def passes(explainer: attcat.Explainer, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of the batches that the model reads from now on."""
    seen: list[int] = []
    model: Any = explainer.adapter.model
    forward = model.forward
    monkeypatch.setattr(model, "forward", lambda **given: (seen.append(len(given["input_ids"])), forward(**given))[1])
    return seen


@pytest.mark.parametrize("name", ["llava", "gemma3", "paligemma", "qwen2-vl", "git", "classifier"])
def test_a_batch_is_what_each_is_alone(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    explainer = explainer_of(name)
    assert "in padded batches with pictures of equal sizes" in explainer.describe()
    alone = [explainer(value) for value in INPUTS]
    seen = passes(explainer, monkeypatch)
    found = explainer(INPUTS)
    assert set(seen) == {3}
    for one, other in zip(found, alone, strict=True):
        assert one.tokens == other.tokens
        assert one.value == pytest.approx(other.value, rel=1e-4, abs=1e-5)
        scale = float(other.scores.abs().max())
        torch.testing.assert_close(one.scores, other.scores, rtol=1e-3, atol=2e-5 * scale)
        np.testing.assert_array_equal(one.source.pictures[0], other.source.pictures[0])


def test_what_cannot_share_a_pass_is_explained_one_by_one_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    explainer = explainer_of("vilt", method="cat")
    assert "one at a time with pictures (a text's padding would stand before its picture)" in explainer.describe()
    seen = passes(explainer, monkeypatch)
    assert len(explainer(INPUTS)) == 3
    assert set(seen) == {1}


def test_texts_and_pictures_of_other_sizes_have_batches_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    explainer = explainer_of("llava-next", method="cat")
    inputs = [INPUTS[0], "a film", (PICTURE[:, :40], QUESTION), INPUTS[2], "a gripping film"]
    alone = [explainer(value) for value in inputs]
    seen = passes(explainer, monkeypatch)
    for one, other in zip(explainer(inputs), alone, strict=True):
        assert one.tokens == other.tokens
        torch.testing.assert_close(one.scores, other.scores, rtol=1e-3, atol=1e-5)
    assert sorted(seen) == [1, 2, 2]


@pytest.mark.parametrize("name", ["llava", "llava-next"])
def test_words_and_patches_are_removed_from_each_of_a_batch(name: str) -> None:
    adapter = explainer_of(name, method="cat").adapter
    batch, alone = adapter.encode(INPUTS), [adapter.encode([value]) for value in INPUTS]
    removed, rows = torch.zeros_like(batch.mask), []
    for row, one in enumerate(alone):
        places, spans = one.tokens[0].places or (), one.tokens[0].spans or ()
        words = [at for at, span in enumerate(spans) if span]
        positions = [words[row]] if row == 1 else [places.index((0, row)), words[row]]  # of the second no patch
        removed[row, positions] = True
        rows.append(torch.zeros_like(one.mask))
        rows[-1][0, positions] = True
    found = adapter.remove(batch, removed)
    for row, one in enumerate(alone):
        expected = adapter.remove(one, rows[row])
        assert torch.equal(found.alone(row).arguments["input_ids"], expected.arguments["input_ids"])
        assert torch.equal(found.rows([row]).arguments["pixel_values"], expected.arguments["pixel_values"])
        changed = bool((expected.arguments["pixel_values"] != one.arguments["pixel_values"]).any())
        assert changed == (row != 1)
    again = found.rows([2, 0])
    assert torch.equal(again.arguments["pixel_values"][:1], found.rows([2]).arguments["pixel_values"][:1])


def test_metrics_and_samples_of_a_batch_are_those_of_each() -> None:
    explainer = explainer_of("llava", samples=4)
    alone = [explainer(value) for value in INPUTS]
    for one, other in zip(explainer(INPUTS), alone, strict=True):
        torch.testing.assert_close(one.scores, other.scores, rtol=1e-3, atol=1e-5)
    scores = [one.scores for one in alone]
    found = evaluate(Ablation(explainer, INPUTS), scores, ["aopc"])["aopc"]
    for value, one, together in zip(INPUTS, scores, found, strict=True):
        apart = evaluate(Ablation(explainer, [value]), [one], ["aopc"])["aopc"]
        assert float(together) == pytest.approx(float(apart[0]), rel=1e-3, abs=1e-6)

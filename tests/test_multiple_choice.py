"""Multiple choice: each choice is read with the prompt; the explanation is that of the pair."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tasks_zoo import make, tokenizer

import attcat
from attcat.metrics import Ablation
from attcat.testing import check_adapter

PROMPT, CHOICES = "the film", ["not boring, a film!", "gripping", "a boring film"]
FAMILIES = ("Bert", "Roberta", "DistilBert")


@pytest.fixture(params=FAMILIES)
def explain(request: pytest.FixtureRequest) -> attcat.Explainer:
    family = request.param
    return attcat.Explainer(make(family, "ForMultipleChoice"), tokenizer(family), method="cat", rule="plain")


def plain(explain: attcat.Explainer, choice: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The model's scores of all choices, and CAT by autograd on a pass over the one pair that is explained."""
    texts = [[PROMPT] * len(CHOICES), CHOICES]
    batch = explain.adapter.processor(*texts, padding=True, padding_side="right", return_tensors="pt")
    arguments = {n: v[None] for n, v in batch.items() if n not in explain.adapter.ignored_arguments}  # type: ignore[attr-defined]
    alone = explain.adapter.processor(PROMPT, CHOICES[choice], return_tensors="pt")
    with torch.no_grad():
        scores = explain.adapter.model(**arguments).logits[0]
    states: list[torch.Tensor] = []

    def note(module: Any, args: Any, kwargs: Any) -> None:
        states.append(args[0] if args else kwargs["hidden_states"])

    hooks = [block.register_forward_pre_hook(note, with_kwargs=True) for block in explain.adapter.blocks]
    try:
        pair = {n: alone[n][None] for n in arguments}
        score = explain.adapter.model(**pair).logits[0, 0]
    finally:
        for hook in hooks:
            hook.remove()
    gradients = torch.autograd.grad(score, states)
    layers = torch.stack([(h * g).sum(-1)[0] for h, g in zip(states, gradients, strict=True)])
    return scores, layers.detach()


def test_each_choice_equals_the_plain_reference(explain: attcat.Explainer) -> None:
    every = explain((PROMPT, CHOICES), target="all")
    for number, explanation in enumerate(every):
        scores, layers = plain(explain, number)
        torch.testing.assert_close(explanation.logits, scores, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(explanation.layers, layers, rtol=1e-3, atol=1e-5)
        assert explanation.label == CHOICES[number]
        assert explanation.source == (PROMPT, CHOICES[number])
    assert sum(explanation.probability or 0.0 for explanation in every) == pytest.approx(1, abs=1e-5)


def test_targets(explain: attcat.Explainer) -> None:
    best = explain((PROMPT, CHOICES))
    assert best.target == int(best.logits.argmax())
    assert explain((PROMPT, CHOICES), "gripping").label == "gripping"
    first, second = explain((PROMPT, CHOICES), top_k=2)
    assert (first.label, second.label) == tuple(CHOICES[i] for i in best.logits.topk(2).indices.tolist())
    contrast = explain((PROMPT, CHOICES), ("gripping", 0))
    torch.testing.assert_close(
        contrast.layers, explain((PROMPT, CHOICES), "gripping").layers
    )  # the pairs are read apart
    assert contrast.value == pytest.approx(float(contrast.logits[1] - contrast.logits[0]), abs=1e-5)


def test_a_list_and_model_arguments(explain: attcat.Explainer) -> None:
    listed = explain([(PROMPT, CHOICES), (PROMPT, CHOICES[:2])])
    assert [len(explanation.labels) for explanation in listed] == [3, 2]
    torch.testing.assert_close(listed[0].scores, explain((PROMPT, CHOICES)).scores)
    arguments = dict(explain.adapter.encode([(PROMPT, CHOICES)]).arguments)
    ready = explain(arguments, 1)
    assert ready.label == "choice 1"
    torch.testing.assert_close(ready.scores, explain((PROMPT, CHOICES), 1).scores)


def test_libra_is_complete_and_every_promise_holds(explain: attcat.Explainer) -> None:
    complete = attcat.Explainer(explain.adapter, method="input_x_gradient", rule="libra", completeness=True)
    assert complete((PROMPT, CHOICES)).completeness == pytest.approx(0, abs=1e-3)
    checks = check_adapter(explain.adapter.model, explain.adapter.processor)
    assert [check for check in checks if check.passed is False] == []


def test_readable_errors(explain: attcat.Explainer) -> None:
    for value in ("a text", (PROMPT, "a choice"), (PROMPT, ["one"])):
        with pytest.raises(attcat.InputError, match=r"at least two choices: \(prompt"):
            explain(value)
    with pytest.raises(attcat.TargetError, match="not by a function"):
        explain((PROMPT, CHOICES), lambda output: output.logits[:, 0])


@pytest.mark.parametrize("method", ["occlusion", "integrated_gradients"])
def test_methods_of_several_passes_explain_the_choice(method: str) -> None:
    """Against the model itself: without a token, and without any."""
    model = make("Bert", "ForMultipleChoice")
    explainer = attcat.Explainer(model, tokenizer("Bert"), method=method)
    value = ("the film was not boring", ["a gripping film", "a film, a film!"])
    encoding = explainer.adapter.encode([value])
    for choice in (0, 1):
        explanation = explainer(value, choice)
        with torch.no_grad():
            before = float(explainer.adapter.predict(encoding)[1][choice, choice])
            if method == "integrated_gradients":
                after = float(explainer.adapter.predict(explainer.adapter.remove(encoding))[1][choice, choice])
                assert float(explanation.scores.sum()) == pytest.approx(before - after, rel=0.02, abs=1e-3)
                continue
            for place in (~explanation.special).nonzero()[:, 0].tolist():
                removed = torch.zeros_like(encoding.mask)
                removed[choice, encoding.mask[choice].nonzero()[place]] = True
                after = float(explainer.adapter.predict(explainer.adapter.remove(encoding, removed))[1][choice, choice])
                assert float(explanation.scores[place]) == pytest.approx(before - after, abs=1e-4)


def test_an_input_of_several_rows_is_not_evaluated_by_removal() -> None:
    explainer = attcat.Explainer(make("Bert", "ForMultipleChoice"), tokenizer("Bert"))
    with pytest.raises(attcat.OptionError, match=r"reads every input as several rows \(multiple choice\)"):
        Ablation(explainer, [("the film", ["a film", "boring"])])

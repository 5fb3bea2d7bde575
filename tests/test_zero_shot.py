"""Classes that are named in the call: the entailment of each is explained."""

from __future__ import annotations

import pytest
import torch
import transformers
from tasks_zoo import make, tokenizer

import attcat

NLI = {0: "contradiction", 1: "neutral", 2: "ENTAILMENT"}
TEXT, LABELS = "the gripping film", ["film", "boring"]


def explainer(**options: object) -> attcat.Explainer:
    return attcat.Explainer(
        make(
            "Bert", "ForSequenceClassification", id2label=NLI, label2id={name: number for number, name in NLI.items()}
        ),
        tokenizer("Bert"),
        **options,
    )


def test_each_label_is_the_entailment_of_its_hypothesis() -> None:
    explain = explainer()
    found = explain(TEXT, labels=LABELS)
    for one, label in zip(found, LABELS, strict=True):
        alone = explain((TEXT, f"This example is {label}."), "ENTAILMENT")
        assert one.texts == (TEXT, f"This example is {label}.")
        torch.testing.assert_close(one.scores, alone.scores, atol=1e-5, rtol=1e-4)


def test_logits_are_those_that_the_pipeline_compares() -> None:
    model, words = (
        make(
            "Bert", "ForSequenceClassification", id2label=NLI, label2id={name: number for number, name in NLI.items()}
        ),
        tokenizer("Bert"),
    )
    pipeline = transformers.pipeline("zero-shot-classification", model=model, tokenizer=words)
    told = pipeline(TEXT, LABELS, hypothesis_template="It is {}.")
    found = attcat.Explainer(pipeline)(TEXT, labels=LABELS, template="It is {}.")
    shares = torch.stack([one.logits[2] for one in found]).softmax(0)
    expected = [told["scores"][told["labels"].index(label)] for label in LABELS]
    torch.testing.assert_close(shares, torch.tensor(expected), atol=1e-5, rtol=1e-4)


def test_a_list_of_texts_gives_a_list_of_lists() -> None:
    found = explainer()([TEXT, "a film"], labels=LABELS)
    assert [[one.texts[0] for one in row] for row in found] == [[TEXT] * 2, ["a film"] * 2]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"labels": []}, "give a list of names"),
        ({"labels": "film"}, "give a list of names"),
        ({"labels": LABELS, "template": "no place"}, "needs one {}"),
        ({"labels": LABELS, "target": 0}, "leave out target"),
    ],
)
def test_what_does_not_fit_is_refused(options: dict, message: str) -> None:
    with pytest.raises(attcat.InputError, match=message):
        explainer()(TEXT, **options)


def test_a_model_without_entailment_is_refused() -> None:
    explain = attcat.Explainer(make("Bert", "ForSequenceClassification"), tokenizer("Bert"))
    with pytest.raises(attcat.UnsupportedModelError, match="no class called entailment"):
        explain(TEXT, labels=LABELS)

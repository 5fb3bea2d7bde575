"""Integers and slices, as users have them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import saved
import torch
import transformers

import attcat
from attcat.methods import read_name
from attcat.model.labels import Answers, Vocabulary
from attcat.model.locate import find_token
from attcat.targets import find_class, integer
from attcat.tokens import Tokens

ONE = [1, np.int64(1), np.uint8(1), np.array(1), torch.tensor(1), torch.tensor(1, dtype=torch.uint8)]
NONE = [True, np.True_, torch.tensor(True), np.array(True), 1.0, np.float32(1), torch.tensor(1.0), None, b"1"]
NONE += [torch.tensor([1]), np.array([1]), [1]]
TEXT = "a gripping film"
TOKENS = Tokens(
    ("a", "grip", "##ping", "film"), (False,) * 4, spans=((0, 1), (2, 6), (6, 10), (11, 15)), segments=(0,) * 4,
    words=(0, 1, 1, 2),
)  # fmt: skip


@pytest.mark.parametrize("value", ONE, ids=repr)
def test_an_integer_of_any_library_is_one(value: Any) -> None:
    assert type(integer(value)) is int
    assert find_class(value, ("a", "b")) == 1
    assert Vocabulary(None, 5).find(value) == 1
    assert find_token(TOKENS, TEXT, value) == 1
    assert find_token(TOKENS, None, value) == 1


@pytest.mark.parametrize("value", NONE, ids=repr)
def test_nothing_else_is_an_integer(value: Any) -> None:
    assert integer(value) is None
    with pytest.raises(attcat.TargetError, match="a target is a class index, a label or a function"):
        find_class(value, ("a", "b"))
    with pytest.raises(attcat.TargetError, match="a token's text or number"):
        Vocabulary(None, 5).find(value)
    for source in (TEXT, None):
        with pytest.raises(attcat.InputError, match="a token is a word, its number or a slice of characters, not"):
            find_token(TOKENS, source, value)


@pytest.mark.parametrize(
    ("place", "position"),
    [
        (slice(-4, None), 3),
        (slice(-15, 1), 0),
        (slice(None), 0),
        (slice(-9, -5), 2),
        (slice(6, 99), 2),
        (slice(np.int64(2), 3), 1),
    ],
)
def test_a_slice_is_read_as_python_reads_it(place: slice, position: int) -> None:
    """The token with the first character of `TEXT[place]`."""
    assert find_token(TOKENS, TEXT, place) == position


WRONG = [
    (slice(0, 9, 2), "has a step"),
    (slice(None, None, -1), "has a step"),
    (slice(5, 5), "is empty"),
    (slice(9, 2), "is empty"),
    (slice(90, 99), "is empty in a text of 15 characters"),
    (slice("a", None), "not a slice of characters: give two integers"),
    (slice(0.5, None), "not a slice of characters"),
]


@pytest.mark.parametrize(("place", "told"), WRONG)
def test_other_slices_are_errors(place: slice, told: str) -> None:
    with pytest.raises(attcat.InputError, match=told):
        find_token(TOKENS, TEXT, place)
    tokens = Tokens(TOKENS.labels, TOKENS.special, spans=TOKENS.spans, segments=(1,) * 4)
    with pytest.raises(attcat.TargetError, match=told):
        Answers(tokens, TEXT, 100, 8).find(place)


def test_an_answer_by_a_slice_from_the_end() -> None:
    answers = Answers(Tokens(TOKENS.labels, TOKENS.special, spans=TOKENS.spans, segments=(1,) * 4), TEXT, 100, 8)
    assert answers[answers.find(slice(-4, None))] == "film"
    assert answers[answers.find(slice(-13, -5))] == "gripping"


@pytest.fixture(scope="module")
def explain(tmp_path_factory: pytest.TempPathFactory) -> attcat.Explainer:
    folder = saved.save_text(tmp_path_factory.mktemp("text"))
    return attcat.Explainer(transformers.AutoModelForSequenceClassification.from_pretrained(folder), saved.tokenizer())


@pytest.mark.parametrize("targets", [torch.tensor([1, 0]), np.array([1, 0]), [np.int64(1), torch.tensor(0)]], ids=repr)
def test_a_row_of_indices_is_a_list_of_targets(explain: attcat.Explainer, targets: Any) -> None:
    assert [one.target for one in explain(["a film", "dull"], target=targets)] == [1, 0]
    assert [one.target for one in explain("a film", target=targets)] == [1, 0]


@pytest.mark.parametrize("wrong", [2.0, 0, -1, True, "2", np.float32(2)], ids=repr)
def test_counts_are_integers(explain: attcat.Explainer, wrong: Any) -> None:
    with pytest.raises(attcat.OptionError, match=r"top_k=.*: expected an integer of at least 1"):
        explain("a film", top_k=wrong)
    with pytest.raises(attcat.OptionError, match=r"batch_size=.*: expected an integer of at least 1"):
        attcat.Explainer(explain.adapter, batch_size=wrong)
    if wrong is not True:
        with pytest.raises(attcat.OptionError, match=r"window=.*: expected an integer of at least 1"):
            explain("a film", window=wrong)
    if wrong != 0 and wrong != -1:
        with pytest.raises(
            attcat.OptionError, match=r"steps=.*: integrated_gradients expects an integer, e.g. steps=50"
        ):
            attcat.Explainer(explain.adapter, method="integrated_gradients", steps=wrong)


def test_counts_of_other_libraries(explain: attcat.Explainer) -> None:
    assert len(explain("a film", top_k=np.int64(2))) == 2
    assert attcat.Explainer(explain.adapter, batch_size=torch.tensor(3)).settings.batch_size == 3
    assert (
        attcat.Explainer(explain.adapter, method="integrated_gradients", steps=np.int64(4)).settings.own["steps"] == 4
    )
    assert explain("a film", window=np.int64(8)).label == explain("a film").label


def test_a_plus_needs_a_rule() -> None:
    assert read_name("attcat+plain")[1] == "plain"
    with pytest.raises(
        attcat.OptionError, match=r"'attcat\+' names no rule after the \+: give 'attcat', or e.g. 'attcat\+pl"
    ):
        read_name("attcat+")


@pytest.mark.parametrize("name", ["BertModel", "ViTModel"])
def test_a_model_without_head_is_named_so(name: str) -> None:
    small = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    config: Any = (
        transformers.BertConfig(vocab_size=20, **small)
        if name == "BertModel"
        else transformers.ViTConfig(image_size=16, patch_size=8, **small)
    )
    model, wanted = getattr(transformers, name)(config), "Sequence" if name == "BertModel" else "Image"
    inputs = (
        {"input_ids": torch.tensor([[1, 2]])} if name == "BertModel" else {"pixel_values": torch.zeros(1, 3, 16, 16)}
    )
    with pytest.raises(attcat.UnsupportedModelError, match=f"{name} has no head.*AutoModelFor{wanted}Classification"):
        attcat.Explainer(model)(inputs)

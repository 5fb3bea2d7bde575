"""Why are two texts similar: sentence-transformers' own objects, with small random weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from tasks_zoo import make, tokenizer

import attcat

PAIR = ("the gripping film", "a film was not boring")
POOLINGS = ("mean", "cls", "max", "lasttoken", ("mean", "cls"))

pytestmark = pytest.mark.filterwarnings("ignore")


def encoder(
    folder: Path, pooling: Any = "mean", *, dense: bool = False, normalize: bool = False, **options: Any
) -> Any:
    library = pytest.importorskip("sentence_transformers")
    from sentence_transformers import models

    make("Bert", "Model").save_pretrained(folder)
    tokenizer("Bert").save_pretrained(folder)
    words = models.Transformer(str(folder))
    modules = [words, models.Pooling(words.get_embedding_dimension(), pooling)]
    if dense:
        torch.manual_seed(0)
        modules.append(models.Dense(modules[-1].get_embedding_dimension(), 12))
    if normalize:
        modules.append(models.Normalize())
    return library.SentenceTransformer(modules=modules, device="cpu", **options)


def similarity(model: Any, first: str, second: str) -> float:
    return float(model.similarity(model.encode(first), model.encode(second)))


@pytest.mark.parametrize("pooling", POOLINGS, ids=str)
def test_the_value_is_the_library_s_own(tmp_path: Path, pooling: Any) -> None:
    model = encoder(tmp_path, pooling)
    result = attcat.Explainer(model)(PAIR)
    for side, text, other in zip(result, PAIR, reversed(PAIR), strict=True):
        assert float(side.logits[0]) == pytest.approx(similarity(model, *PAIR), rel=1e-4, abs=1e-5)
        assert side.source == text
        assert other in side.label
        assert side.task == "text similarity"
        assert side.activation == "none"


@pytest.mark.parametrize("options", [{"dense": True}, {"normalize": True}, {"dense": True, "normalize": True}])
def test_further_modules_are_run(tmp_path: Path, options: Any) -> None:
    model = encoder(tmp_path, **options)
    result = attcat.Explainer(model)(PAIR)
    assert float(result.first.logits[0]) == pytest.approx(similarity(model, *PAIR), rel=1e-4, abs=1e-5)


def test_contributions_and_biases_make_the_similarity(tmp_path: Path) -> None:
    explain = attcat.Explainer(
        encoder(tmp_path, normalize=True), method="input_x_gradient", rule="libra", completeness=True
    )
    for side in explain(PAIR):
        assert float(side.scores.sum()) + side.bias == pytest.approx(side.value, rel=1e-3, abs=1e-4)


def test_the_gradient_is_that_of_the_cosine_with_the_other_side_held(tmp_path: Path) -> None:
    model = encoder(tmp_path)
    second = attcat.Explainer(model, method="input_x_gradient", rule="plain")(PAIR).second
    inner = model[0].auto_model
    arguments = tokenizer("Bert")(PAIR[1], return_tensors="pt")
    state = inner.embeddings(arguments["input_ids"]).detach().requires_grad_()
    mean = inner.encoder(state).last_hidden_state.mean(1)
    held = model.encode(PAIR[0], convert_to_tensor=True)
    (gradient,) = torch.autograd.grad(torch.cosine_similarity(mean, held[None])[0], state)
    expected = (gradient * state).sum(-1)[0].detach()
    torch.testing.assert_close(second.scores, expected, rtol=1e-3, atol=1e-5)


def test_a_batch_is_as_each_alone(tmp_path: Path) -> None:
    explain = attcat.Explainer(encoder(tmp_path))
    pairs = [PAIR, ("a film", "the gripping film not boring, a film!")]
    for pair, together in zip(pairs, explain(pairs), strict=True):
        for one, other in zip(explain(pair), together, strict=True):
            torch.testing.assert_close(one.scores, other.scores, rtol=1e-3, atol=1e-5)


def test_the_default_prompt_is_read_like_the_text(tmp_path: Path) -> None:
    model = encoder(tmp_path, prompts={"query": "a film: "}, default_prompt_name="query")
    result = attcat.Explainer(model)(PAIR)
    assert float(result.first.logits[0]) == pytest.approx(similarity(model, *PAIR), rel=1e-4)
    assert result.first.source == "a film: the gripping film"


def test_one_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(attcat.InputError, match="give a tuple of two texts, not str"):
        attcat.Explainer(encoder(tmp_path))("a film")

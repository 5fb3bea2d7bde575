"""Why a language model wrote what it wrote: one pass over prompt and answer, and the same numbers as token by token."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tasks_zoo import make, tokenizer

import attcat

PROMPT, ANSWER = "the gripping film", " was boring and far"


def explainer(**options: Any) -> attcat.Explainer:
    return attcat.Explainer(make("GPT2", "LMHeadModel"), tokenizer("GPT2"), **options)


def relative(actual: torch.Tensor, expected: torch.Tensor) -> float:
    return float((actual - expected).abs().max() / expected.abs().max())


def one_by_one(explain: attcat.Explainer, generation: attcat.Generation, row: int) -> attcat.Explanation:
    """The written token as what follows everything before it, in a call of its own."""
    ids = torch.tensor([explain.adapter.processor.convert_tokens_to_ids(list(generation.tokens.labels))])
    end = generation.start + row
    return explain({"input_ids": ids[:, :end]}, target=int(ids[0, end]))


@pytest.mark.parametrize(
    "method",
    [
        "attcat",
        "attcat+plain",
        "cat",
        "input_x_gradient",
        "rollout",
        "genatt",
        "attention",
        "attcat+attnlrp",
        "attention_gradients",
        "occlusion",
        "lrp",
        "legrad",
        "tokentm",
    ],
)
@pytest.mark.parametrize("queries", ["mean", "pooled"])
def test_every_row_is_the_explanation_of_that_token_alone(method: str, queries: Any) -> None:
    if queries == "pooled" and not method.startswith("attcat"):
        pytest.skip("not read")
    explain = explainer(method=method, queries=queries)
    generation = explain(PROMPT, answer=ANSWER)
    assert generation.matrix.shape == (len(generation), len(generation.tokens))
    for row, explanation in enumerate(generation.explanations):
        alone = one_by_one(explain, generation, row)
        assert explanation.tokens.labels == alone.tokens.labels
        assert relative(explanation.layers, alone.layers) < 1e-4
        assert explanation.label == alone.label
        assert explanation.value == pytest.approx(alone.value, rel=1e-4)
        assert explanation.probability == pytest.approx(alone.probability, rel=1e-4)
        length = generation.start + row
        torch.testing.assert_close(generation.matrix[row, :length], explanation.scores)
        assert not generation.matrix[row, length:].any()


def test_a_file_keeps_the_numbers(tmp_path: Any) -> None:
    generation = explainer()(PROMPT, answer=ANSWER)
    for name in ("a.json", "a.safetensors"):
        again = attcat.Generation.load(generation.save(tmp_path / name))
        torch.testing.assert_close(again.matrix, generation.matrix)
        assert (again.text, again.tokens, again.start) == (generation.text, generation.tokens, generation.start)
        assert again.to_html() == generation.to_html()
        with pytest.raises(attcat.InputError, match="holds no model"):
            again.of("boring")
        with pytest.raises(attcat.InputError, match="is not an explanation"):
            attcat.load(tmp_path / name)
    generation.save(tmp_path / "a.png")
    generation.show()
    with pytest.raises(attcat.InputError, match="holds no model"):
        _ = again.total

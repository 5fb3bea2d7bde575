"""Longformer: a sliding window has no attention over all tokens, but states and gradients, and padding inside the model."""

from __future__ import annotations

import copy
from functools import cache
from typing import Any

import pytest
import torch
import transformers
from tasks_zoo import redraw, tokenizer
from tokenizers import processors
from torch import Tensor, nn

import attcat
from attcat.testing import check_adapter

LONG, SHORT = "the film was boring, not gripping", "a gripping film"
WINDOWS = (4, 8)


@cache
def words() -> transformers.PreTrainedTokenizerFast:
    """RoBERTa's kind with its two separators between the texts of a pair, of which some heads make use."""
    made = copy.deepcopy(tokenizer("Roberta"))
    made.add_special_tokens({"sep_token": "</s>", "cls_token": "<s>", "unk_token": "<pad>", "mask_token": "<mask>"})
    ends = [("<s>", 0), ("</s>", made.sep_token_id)]
    made.backend_tokenizer.post_processor = processors.TemplateProcessing(
        "<s> $A </s>", "<s> $A </s> </s> $B </s>", ends
    )
    return made


@cache
def longformer(head: str) -> nn.Module:
    config = transformers.LongformerConfig(
        vocab_size=340,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=48,
        attention_window=list(WINDOWS),
        max_position_embeddings=66,
        num_labels=2 if head == "QuestionAnswering" else 3,
        pad_token_id=words().pad_token_id,
        sep_token_id=words().sep_token_id,
    )
    return redraw(getattr(transformers, f"LongformerFor{head}")(config))


ASKED: dict[str, tuple[Any, dict[str, Any]]] = {
    "SequenceClassification": (LONG, {}),
    "TokenClassification": (LONG, {"token": "film"}),
    "MaskedLM": ("the <mask> was boring", {}),
    "QuestionAnswering": (("what film", LONG), {}),
    "MultipleChoice": (("the film was", ["boring", "gripping"]), {}),
}


@pytest.mark.parametrize("head", ASKED)
def test_every_head_is_explained_and_every_check_holds(head: str) -> None:
    model = longformer(head)
    assert [str(check) for check in check_adapter(model, words()) if check.passed is False] == []
    given, further = ASKED[head]
    explain = attcat.Explainer(model, words(), rule="libra", method="input_x_gradient", completeness=True)
    found = explain(given, **further)
    assert len(found.scores) == len(found.tokens)
    assert found.completeness is not None
    assert abs(found.completeness) < 1e-3
    assert explain.adapter.positions == 64


def by_autograd(model: nn.Module, arguments: dict[str, Tensor], target: int) -> Tensor:
    """Gradient x input of the first block, `[T]`, of a plain pass."""
    taken: list[Tensor] = []

    def enter(module: nn.Module, args: tuple[Any, ...]) -> None:
        args[0].retain_grad()
        taken.append(args[0])

    hook = model.longformer.encoder.layer[0].register_forward_pre_hook(enter)
    model(**arguments).logits[0, target].backward()
    hook.remove()
    return (taken[0] * taken[0].grad).sum(-1)[0].detach()


def test_scores_are_those_of_autograd_alone_and_in_a_batch() -> None:
    model = longformer("SequenceClassification")
    explain = attcat.Explainer(model, words(), rule="plain", method="input_x_gradient")
    for found, text in zip(explain([LONG, SHORT], 1), (LONG, SHORT), strict=True):
        given = words()(text, return_tensors="pt")
        expected = by_autograd(model, dict(given), 1)[: given.input_ids.shape[1]]
        assert found.scores.abs().max() > 1e-3
        torch.testing.assert_close(found.scores, expected, atol=1e-6, rtol=1e-3)


def test_it_says_that_it_has_an_adapter() -> None:
    told = attcat.Explainer(longformer("SequenceClassification"), words()).describe()
    assert "Longformer (LongformerAdapter), found by a forward pass" in told
    assert "no adapter" not in told


def test_what_lies_outside_of_the_windows_has_no_score() -> None:
    model = longformer("TokenClassification")
    ids = torch.arange(20, 41)[None]
    found = attcat.Explainer(model, None, method="cat")({"input_ids": ids}, 0, token=10)
    seen = found.scores.abs() > 0
    reach = sum(WINDOWS) // 2
    assert seen.nonzero().flatten().tolist() == list(range(10 - reach, 10 + reach + 1))


@pytest.mark.parametrize("method", ["attcat", "rollout", "genatt"])
def test_a_method_that_reads_attention_refuses(method: str) -> None:
    with pytest.raises(attcat.UnsupportedModelError, match=r"does not attend over all tokens.*use method='cat'"):
        attcat.Explainer(longformer("SequenceClassification"), words(), method=method)(SHORT)


def test_tokens_are_removed_and_a_shorter_text_is_padded_anew() -> None:
    explain = attcat.Explainer(longformer("SequenceClassification"), words(), method="occlusion")
    found = explain(LONG)
    assert found.scores[1:-1].abs().min() > 0
    adapter = explain.adapter
    encoding = adapter.encode([LONG])
    shorter = adapter.remove(encoding, None, "delete")
    assert len(shorter.tokens[0]) == 2
    assert shorter.mask.shape == (1, max(WINDOWS))


def test_a_pass_without_tokens_that_the_model_needs_is_an_error_of_ours() -> None:
    """The separators say which tokens are the question; by their numbers alone they cannot be told from words."""
    model = longformer("MultipleChoice")
    tokens = copy.deepcopy(words())
    tokens.mask_token = "</s>"  # in place of what is removed: one separator too many
    message = r"does not take this input with tokens removed.*use a method that removes none"
    with pytest.raises(attcat.CaptureError, match=message):
        attcat.Explainer(model, tokens, method="occlusion")(("the film was", ["boring", "gripping"]))


def test_padding_that_the_user_gives_does_not_count() -> None:
    explain = attcat.Explainer(longformer("SequenceClassification"), words(), method="cat")
    given = dict(words()(SHORT, return_tensors="pt"))
    padded = words()(SHORT, return_tensors="pt", padding="max_length", max_length=80)  # more than there are positions
    torch.testing.assert_close(explain(dict(padded), 0).scores, explain(given, 0).scores)

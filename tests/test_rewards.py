"""Reward models and rerankers over a decoder: one output, read at the last token, of texts, pairs and chats."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from tasks_zoo import VOCABULARY, redraw, tokenizer

import attcat

TEMPLATE = (
    "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)
CHAT = [{"role": "user", "content": "a film?"}, {"role": "assistant", "content": "the gripping film"}]
SIZES = {
    "vocab_size": VOCABULARY, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
    "intermediate_size": 48, "max_position_embeddings": 64, "bos_token_id": 0,
}  # fmt: skip


def words() -> Any:
    found = tokenizer("GPT2")
    found.chat_template = TEMPLATE
    return found


def reward(**options: Any) -> attcat.Explainer:
    config = transformers.Qwen2Config(**SIZES, num_labels=1, **options)
    return attcat.Explainer(redraw(transformers.Qwen2ForSequenceClassification(config)), words())


@pytest.mark.parametrize("end", [2, [2, 3]], ids=["one end", "two ends"])
@pytest.mark.parametrize("pad", [2, 0, None], ids=["pad is eos", "pad", "no pad"])
def test_texts_and_pairs_are_scored_at_the_last_token(end: Any, pad: int | None) -> None:
    explain = reward(eos_token_id=end, pad_token_id=pad)
    for value in ("a gripping film", ("a film", "a gripping film")):
        explanation = explain(value)
        ids = words()(*(value if isinstance(value, tuple) else (value,)), return_tensors="pt")["input_ids"]
        expected = explain.adapter.model(input_ids=ids).logits[0]
        torch.testing.assert_close(explanation.logits, expected.detach(), rtol=1e-4, atol=1e-5)


def test_a_chat_is_judged_as_the_template_renders_it() -> None:
    explain = reward(eos_token_id=2, pad_token_id=2)
    explanation = explain(CHAT)
    text = words().apply_chat_template(CHAT, tokenize=False)
    assert explanation.source == text == "user: a film?\nassistant: the gripping film\n"
    ids = words()(text, add_special_tokens=False, return_tensors="pt")["input_ids"]
    expected = explain.adapter.model(input_ids=ids).logits[0]
    torch.testing.assert_close(explanation.logits, expected.detach(), rtol=1e-4, atol=1e-5)
    said = {word.text for word in explanation.words()}
    assert {"gripping", "film"} <= {text.strip() for text in said}
    assert not any("user" in text or "assistant" in text for text in said)  # of the template, and so special


def test_chats_in_a_list_are_explained_one_by_one() -> None:
    explain = reward(eos_token_id=2, pad_token_id=2)
    one, other = explain([CHAT, CHAT[:1]])
    torch.testing.assert_close(one.scores, explain(CHAT).scores)
    torch.testing.assert_close(other.scores, explain(CHAT[:1]).scores)


def test_a_model_that_writes_reads_a_chat_up_to_its_answer() -> None:
    config = transformers.Qwen2Config(**SIZES, eos_token_id=2, pad_token_id=2)
    explain = attcat.Explainer(redraw(transformers.Qwen2ForCausalLM(config)), words())
    explanation = explain(CHAT[:1], target=(" film", " was"))
    assert explanation.source == "user: a film?\nassistant:"
    assert explanation.label == " film rather than  was"


def test_a_chat_has_no_windows() -> None:
    with pytest.raises(attcat.InputError, match="without window"):
        reward(eos_token_id=2, pad_token_id=2)(CHAT, window=True)

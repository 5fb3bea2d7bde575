"""Heads of models without an adapter: discovery asks the head what it predicts, and at which tokens."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers
from tasks_zoo import TASKS, Task, redraw, tokenizer
from torch import Tensor, nn

import attcat
from attcat.model.discovered import DiscoveredText
from attcat.model.heads import ChoiceHead, MaskedTokenHead, NextTokenHead, SpanHead, TokenHead
from attcat.testing import check_adapter

SMALL = {
    "vocab_size": 340,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GROUPED = {**SMALL, "num_key_value_heads": 2}
UNKNOWN: dict[str, tuple[str, dict[str, Any]]] = {
    "Llama": ("LlamaConfig", GROUPED),
    "Qwen2": ("Qwen2Config", GROUPED),
    "Mistral": ("MistralConfig", {**GROUPED, "sliding_window": None}),
    "Gemma": ("GemmaConfig", {**GROUPED, "head_dim": 8}),
    "Electra": ("ElectraConfig", {**SMALL, "embedding_size": 32}),
    "XLMRoberta": ("XLMRobertaConfig", {**SMALL, "pad_token_id": 1, "bos_token_id": 0}),
    "DebertaV2": ("DebertaV2Config", SMALL),
    "ModernBert": ("ModernBertConfig", {**SMALL, "local_attention": 64, "cls_token_id": 1, "sep_token_id": 2}),
}
HEADS = {
    "ForTokenClassification": TokenHead,
    "ForQuestionAnswering": SpanHead,
    "ForMaskedLM": MaskedTokenHead,
    "ForCausalLM": NextTokenHead,
    "ForMultipleChoice": ChoiceHead,
}
CASES = [
    (family, head)
    for family in UNKNOWN
    for head in HEADS
    if hasattr(transformers, f"{family}{head}") and not (family == "Electra" and head == "ForCausalLM")
]


@pytest.mark.parametrize(("family", "head"), CASES, ids=lambda value: value)
def test_every_head_of_an_unknown_model_keeps_its_promises(family: str, head: str) -> None:
    config, options = UNKNOWN[family]
    model = redraw(getattr(transformers, f"{family}{head}")(getattr(transformers, config)(**options)))
    explain = attcat.Explainer(model)
    assert isinstance(explain.adapter, DiscoveredText)
    assert isinstance(explain.adapter.head, HEADS[head])
    assert [str(check) for check in check_adapter(explain.adapter) if check.passed is False] == []


@pytest.mark.parametrize("family", ["XLNet", "XLM"])
def test_a_simple_head_for_answers_is_one_for_spans(family: str) -> None:
    options = {"n_layer": 2, "n_layers": 2, "n_head": 4, "n_heads": 4, "d_model": 32, "emb_dim": 32, "d_inner": 48}
    config = getattr(transformers, f"{family}Config")(vocab_size=340, **options)
    adapter = attcat.Explainer(redraw(getattr(transformers, f"{family}ForQuestionAnsweringSimple")(config))).adapter
    assert isinstance(adapter.head, SpanHead)
    beams = redraw(getattr(transformers, f"{family}ForQuestionAnswering")(config))
    with pytest.raises(
        attcat.UnsupportedModelError, match=r"searches for the best few starts.*ForQuestionAnsweringSimple"
    ):
        attcat.Explainer(beams, tokenizer("Bert"))(("the film", "a gripping film"))


@pytest.mark.parametrize("task", TASKS.values(), ids=lambda task: task.name)
def test_what_is_discovered_equals_the_adapter(task: Task) -> None:
    """The same model with an adapter and without."""
    found = DiscoveredText(task.model(), tokenizer(task.family))
    known, discovered = task.explainer(), attcat.Explainer(found)
    expected = known(list(task.inputs), token=list(task.tokens))
    # A tokenizer's token types are arguments that GPT-2's adapter knows to leave out.
    if "token_type_ids" in known.adapter.encode([task.inputs[0]]).arguments or not found.takes("token_type_ids"):
        for one, other in zip(expected, discovered(list(task.inputs), token=list(task.tokens)), strict=True):
            torch.testing.assert_close(other.layers, one.layers, rtol=1e-4, atol=1e-6)
            assert (one.label, one.position, one.answers) == (other.label, other.position, other.answers)


@pytest.mark.parametrize("eos", [0, [2, 3], [0, 2]], ids=str)
def test_end_tokens_that_are_padding_or_several(eos: Any) -> None:
    """As reward models and classifiers of language models have them."""
    config = transformers.LlamaConfig(**{**GROUPED, "eos_token_id": eos, "num_labels": 3})
    model = redraw(transformers.LlamaForSequenceClassification(config))
    explain = attcat.Explainer(model)
    assert "reads the last token" in explain.describe()
    assert [str(check) for check in check_adapter(explain.adapter) if check.passed is False] == []


def test_a_model_that_says_nothing_about_its_embeddings() -> None:
    model = redraw(transformers.ElectraForSequenceClassification(transformers.ElectraConfig(**UNKNOWN["Electra"][1])))

    def refuse() -> nn.Module:
        raise NotImplementedError

    model.get_input_embeddings = refuse  # type: ignore[method-assign]
    assert "reads the first token" in attcat.Explainer(model).describe()


class Written(nn.Module):
    """A hand-written language model: no configuration, a plain tensor as its output."""

    def __init__(self, causal: bool, outputs: int = 40, last_only: bool = False) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(40, 16), nn.Embedding(32, 16)
        layer = {"d_model": 16, "nhead": 2, "dim_feedforward": 24, "batch_first": True, "norm_first": True}
        self.blocks = nn.ModuleList(nn.TransformerEncoderLayer(**layer) for _ in range(2))  # type: ignore[arg-type]
        self.out = nn.Linear(16, outputs)
        self.causal, self.last_only = causal, last_only

    def forward(self, idx: Tensor) -> Tensor:
        length = idx.shape[1]
        x = self.words(idx) + self.places(torch.arange(length))
        mask = nn.Transformer.generate_square_subsequent_mask(length) if self.causal else None
        for block in self.blocks:
            x = block(x, src_mask=mask)
        return self.out(x[:, [-1]] if self.last_only else x)


@pytest.mark.parametrize(
    ("causal", "outputs", "head"), [(True, 40, NextTokenHead), (False, 40, MaskedTokenHead), (False, 5, TokenHead)]
)
def test_a_hand_written_model_is_known_by_the_shape_of_its_output(causal: bool, outputs: int, head: type) -> None:
    model = redraw(Written(causal, outputs))
    explain = attcat.Explainer(model, quantity="logit")
    assert type(explain.adapter.head) is head
    ids = torch.arange(3, 12)[None]
    explanation = explain({"input_ids": ids}, token=4)
    with torch.no_grad():
        row = model(ids)[0, 3 if head is NextTokenHead else 4]
    assert explanation.value == pytest.approx(float(row.max()), abs=1e-4)


def test_a_model_that_gives_the_last_position_alone() -> None:
    model = redraw(Written(causal=True, last_only=True))
    explain = attcat.Explainer(model, quantity="logit")
    ids = torch.arange(3, 12)[None]
    with torch.no_grad():
        assert explain({"input_ids": ids}).value == pytest.approx(float(model(ids).max()), abs=1e-4)
    with pytest.raises(attcat.UnsupportedModelError, match="the last position only"):
        explain({"input_ids": ids}, token=4)


def test_arguments_that_are_not_one_for_each_token_keep_their_shape() -> None:
    adapter = attcat.Explainer(redraw(transformers.LlamaForCausalLM(transformers.LlamaConfig(**GROUPED)))).adapter
    given = {
        "input_ids": torch.tensor([5, 6, 7]),
        "attention_mask": torch.ones(3),
        "image_merge_sizes": torch.tensor([2]),
    }
    found = adapter.encode_arguments(given).arguments
    assert (found["input_ids"].shape, found["attention_mask"].shape, found["image_merge_sizes"].shape) == (
        (1, 3),
        (1, 3),
        (1,),
    )

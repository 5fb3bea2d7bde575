"""Small random models with other heads than a classifier's, their tokenizers, and texts for them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import transformers
from tokenizers_small import byte_bpe, wordpiece
from torch import Tensor, nn

import attcat

BLOCKS, WIDTH, VOCABULARY = 3, 32, 340
_ENCODER = {"hidden_size": WIDTH, "num_hidden_layers": BLOCKS, "num_attention_heads": 4, "intermediate_size": 48}
_CONFIGS: dict[str, tuple[str, dict[str, Any]]] = {
    "Bert": ("BertConfig", {**_ENCODER, "pad_token_id": 0}),
    "Roberta": ("RobertaConfig", {**_ENCODER, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2}),
    "DistilBert": (
        "DistilBertConfig",
        {"dim": WIDTH, "n_layers": BLOCKS, "n_heads": 4, "hidden_dim": 48, "pad_token_id": 0},
    ),
    "GPT2": (
        "GPT2Config",
        {"n_embd": WIDTH, "n_layer": BLOCKS, "n_head": 4, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2},
    ),
}
TAGS = {0: "O", 1: "B-LOC", 2: "I-LOC"}
LONG, SHORT = "the gripping film not boring, a film!", "a gripping film"


def redraw(model: nn.Module, seed: int = 0) -> nn.Module:
    """Parameters that say something, with a fixed seed."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=0.2, generator=generator)
    return model.eval()


def make(family: str, head: str, **options: Any) -> nn.Module:
    """`BertForMaskedLM` and the like."""
    config, settings = _CONFIGS[family]
    built = getattr(transformers, config)(vocab_size=VOCABULARY, **{**settings, **options})
    return redraw(getattr(transformers, f"{family}{head}")(built))


def tokenizer(family: str) -> transformers.PreTrainedTokenizerFast:
    """BERT's or RoBERTa's kind."""
    return wordpiece() if family in ("Bert", "DistilBert") else byte_bpe(family == "Roberta")


@dataclass(frozen=True, eq=False)
class Task:
    """A model with its head, and how it is asked.

    Args:
        family: of the model.
        head: how the class's name ends.
        inputs: two inputs of different length.
        tokens: which tokens are explained.
        value: from the plain model's output, the position and the class to the number that is explained.
    """

    family: str
    head: str
    inputs: tuple[Any, Any]
    tokens: tuple[Any, Any]
    value: Callable[[Any, int | None, int], Tensor]
    options: tuple[tuple[str, Any], ...] = ()

    @property
    def name(self) -> str:
        """For pytest."""
        return f"{self.family}{self.head}"

    @cache  # noqa: B019 - a handful of tiny models
    def model(self) -> nn.Module:
        """The model."""
        return make(self.family, self.head, **dict(self.options))

    def explainer(self, **options: Any) -> attcat.Explainer:
        """An explainer of the model."""
        return attcat.Explainer(self.model(), tokenizer(self.family), **options)


def _row(output: Any, position: int | None, target: int) -> Tensor:
    return output.logits[0, position, target] if position is not None else output.logits[0, target]


def _span(output: Any, position: int | None, target: int) -> Tensor:
    """Candidate 1 + 30 s + l: start logit at s, end logit at s + l; candidate 0: both at the first token."""
    first, more = divmod(target - 1, 30)
    bounds = (0, 0) if target == 0 else (first, first + more)
    return output.start_logits[0, bounds[0]] + output.end_logits[0, bounds[1]]


_NONE = (None, None)
TASKS = {
    task.name: task
    for task in (
        *(
            Task(family, "ForTokenClassification", (LONG, SHORT), ("film not", 2), _row, (("id2label", TAGS),))
            for family in ("Bert", "Roberta", "DistilBert", "GPT2")
        ),
        *(
            Task(family, "ForQuestionAnswering", (("a film", LONG), ("the film was boring", SHORT)), _NONE, _span)
            for family in ("Bert", "Roberta", "DistilBert", "GPT2")
        ),
        Task("Bert", "ForMaskedLM", ("the [MASK] was not boring, a film!", "a [MASK]"), _NONE, _row),
        Task("DistilBert", "ForMaskedLM", ("the [MASK] was not boring, a film!", "a [MASK]"), _NONE, _row),
        Task("Roberta", "ForMaskedLM", (LONG, SHORT), ("gripping", 0), _row),
        Task("GPT2", "LMHeadModel", (LONG, SHORT), ("boring", None), _row),
    )
}

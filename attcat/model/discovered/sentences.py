"""Models that embed texts, as sentence-transformers holds them: why are these two similar?

Both texts go through one model. Each side has an adapter of its own, which explains the similarity of the pair; the embedding of
the other text is then a constant. Pooling, projections and normalisation are the model's own modules, run as they are.
"""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from ...capture.randomness import OwnRandomness
from ...errors import InputError, UnsupportedModelError
from ...probabilities import Activation
from ..adapter import Adapter
from ..bound import borrowed
from ..encoding import Encoding
from ..heads import Head
from .experiments import accepted
from .text import DiscoveredText


@dataclass(frozen=True)
class ComparedEncoding(Encoding):
    """Texts, and what each is compared with.

    Args:
        other: the embeddings of the other texts, `[B, E]`.
        names: the other texts; part of the label.
    """

    other: Tensor | None = None
    names: tuple[str, ...] = ()


class EmbeddingHead(Head):
    """The similarity of a text and its other one, a measured value `[B, 1]`; of a text alone its embedding `[B, E]`."""

    task = "text similarity"
    activation: Activation = "none"

    def samples(self) -> list[Any]:
        """Pairs."""
        return [("A gripping, very long film!", "It rained."), ("It rained.", "There was rain.")]

    def logits(self, output: Any) -> Any:
        """The embedding."""
        return output["sentence_embedding"]

    def rows(self, logits: Any, encoding: Encoding) -> Tensor:
        """As the model itself compares them, e.g. by the cosine."""
        if not isinstance(encoding, ComparedEncoding) or encoding.other is None:
            return super().rows(logits, encoding)
        model: Any = self.model
        found: Tensor = model.similarity_pairwise(logits, encoding.other.to(logits))
        return found[:, None]

    def labels(self, encoding: Encoding, row: int, count: int) -> Sequence[str]:
        """What the text is compared with."""
        if not isinstance(encoding, ComparedEncoding):
            return super().labels(encoding, row, count)
        return (f'similarity to "{encoding.names[row]}"',)


class SentenceAdapter(DiscoveredText):
    """One side of a pair of texts: the first, or with `second` the second."""

    family = "sentence embeddings"
    second = False

    def __init__(self, model: nn.Module, processor: Any = None) -> None:
        own: Any = model
        super().__init__(model, own.tokenizer if processor is None else processor)

    def _head_type(self) -> type[Head]:
        return EmbeddingHead

    def _reads(self, trial: Encoding) -> str:
        """The first token, the last, or all: of a maximum over tokens each number has another one."""
        read = self._read_in(trial, slice(None))
        known: dict[tuple[int, ...], str] = {(0,): "first", (trial.mask.shape[1] - 1,): "last"}
        return known.get(tuple(read), "all")

    @property
    def towers(self) -> tuple[Adapter, ...]:
        """Both sides."""
        if self.second or "no_batch" not in vars(self):  # while the model is inspected there is one
            return (self,)
        if "_other_side" not in vars(self):
            other = copy(self)
            other.second = True
            for name in ("_twins", "_lone", "proven", "head"):
                vars(other).pop(name, None)
            self._other_side = other
        return (self, self._other_side)

    def like(self, model: nn.Module) -> Adapter:
        """The same for another model of the class."""
        other = super().like(model)
        vars(other).pop("_other_side", None)
        return other

    @property
    def _inner(self) -> Any:
        """The transformer within."""
        own: Any = self.model
        return next((m for m in own.modules() if m is not own and getattr(m, "config", None) is not None), own)

    @cached_property
    def accepted(self) -> frozenset[str] | None:
        """The names of the arguments of the transformer within."""
        return accepted(self._inner.forward)

    @property
    def pad_id(self) -> int | None:
        """The transformer's padding token."""
        pad = getattr(getattr(self._inner, "config", None), "pad_token_id", None)
        return pad if isinstance(pad, int) else None

    @property
    def max_length(self) -> int | None:  # type: ignore[override]
        """The most tokens that are embedded: a longer text would be cut."""
        own: Any = self.model
        limits = (super().max_length, own.max_seq_length)
        return min((limit for limit in limits if isinstance(limit, int)), default=None)

    @property
    def lead(self) -> str:
        """What the model puts before every text by default.

        Raises:
            UnsupportedModelError: if that is read, but left out when tokens are pooled.
        """
        own: Any = self.model
        prompt = str(own.prompts.get(own.default_prompt_name) or "") if own.default_prompt_name else ""
        if prompt and not all(getattr(module, "include_prompt", True) for module in own.modules()):
            raise UnsupportedModelError(
                f"{type(own).__name__} leaves its default prompt {prompt!r} out of its pooling: set default_prompt_name = None "
                "on the model, to explain texts without it"
            )
        return prompt

    def call(self, encoding: Encoding) -> Any:
        """Run all modules of the model."""
        features: dict[str, Any] = dict(encoding.arguments)
        features.setdefault("attention_mask", encoding.mask.long())
        return self.model(features)

    def cost(self, value: Any) -> int:
        """As of a pair."""
        return super().cost(value) if isinstance(value, str) else super().cost(_pair(value))

    def encode(self, inputs: Sequence[Any], *, truncation: bool = False) -> Encoding:
        """The texts of this side, and the embeddings of the others."""
        pairs, side, prompt = [_pair(value) for value in inputs], int(self.second), self.lead
        mine = super().encode([prompt + pair[side] for pair in pairs], truncation=truncation)
        others = super().encode([prompt + pair[1 - side] for pair in pairs], truncation=truncation)
        with borrowed(self) as own, torch.no_grad(), OwnRandomness():
            embedded = own.call(others)["sentence_embedding"]
        fields = {name: getattr(mine, name) for name in ("arguments", "mask", "tokens", "sources", "dropped")}
        return ComparedEncoding(**fields, other=embedded, names=tuple(pair[1 - side] for pair in pairs))


def _pair(value: Any) -> tuple[str, str]:
    if not (isinstance(value, tuple) and len(value) == 2 and all(isinstance(text, str) for text in value)):
        raise InputError(
            f"the similarity of two texts is explained: give a tuple of two texts, not {type(value).__name__}"
        )
    return value


def embeds(model: Any) -> bool:
    """Whether a model makes embeddings of texts and compares them."""
    return callable(getattr(model, "similarity_pairwise", None)) and hasattr(model, "tokenizer")

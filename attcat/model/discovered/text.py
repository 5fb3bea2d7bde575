"""A text model that no adapter knows: blocks, positions, what the head reads and whether it takes batches, by experiment."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ...capture.randomness import OwnRandomness
from ...capture.survey import Survey
from ..bound import borrowed
from ..encoding import Encoding, last_of
from ..heads import Head, MaskedTokenHead, NextTokenHead, TokenHead, head_of
from ..text import TextAdapter
from .base import Discovered, log
from .experiments import (
    FAILURES,
    differ,
    encoding_of,
    logits_of,
    logits_without,
    mixed,
    ordinary_tokens,
    vocabulary_size,
)

LENGTH = 11
"""Tokens of the text that a text model is tried with."""


class DiscoveredText(Discovered, TextAdapter):
    """A text model that no adapter knows."""

    family = "discovered text model"
    watched: int | None = 2
    """The token whose prediction is watched; None for what follows the text, where a model predicts nothing else."""

    def __init__(self, model: nn.Module, processor: Any = None) -> None:
        super().__init__(model, processor)
        self.head_type = self._head_type()
        self.trial = trial = self._trial()
        watched = self._watch(trial)
        self.found = self._blocks_in(watched)
        if self.found.length != LENGTH:
            raise self._unclear(f"its blocks have {self.found.length} positions for a text of {LENGTH} tokens")
        self.table = _position_table(watched)
        self._check_mixing(trial)
        self._check_classes(trial)
        self.reads = self._reads(trial)
        self.no_batch = self._why_no_batch()
        log.info("%s", self.describe())

    @property
    def ignored_arguments(self) -> tuple[str, ...]:  # type: ignore[override]
        """What tokenizers make and this model has no argument for."""
        return () if self.takes("token_type_ids") else ("token_type_ids",)

    @property
    def positions(self) -> int | None:
        """Rows of the table of positions that the forward pass looked up, less those before its first; else as configured."""
        return super().positions if self.table is None else self.table

    @property
    def can_batch(self) -> bool:
        """Whether a padded batch gave the logits of its rows, and the tokenizer can pad."""
        return self.no_batch is None and getattr(self.processor, "pad_token_id", 0) is not None

    def call(self, encoding: Encoding) -> Any:
        """Run the model with the arguments that it knows by name, or else with the token numbers alone."""
        if not self.takes("input_ids"):
            return self.model(self.head.arguments(encoding)["input_ids"])
        given = self.head.arguments(encoding)
        return self.model(**{name: v for name, v in given.items() if name != "attention_mask" or self.takes(name)})

    def read(self, encoding: Encoding) -> Tensor:
        """The first token, the last, or all."""
        if self.reads == "all":
            return encoding.mask.clone()
        if self.reads == "last":
            return last_of(encoding.mask if self.pad_id is None else encoding.arguments["input_ids"] != self.pad_id)
        return super().read(encoding)

    @property
    def _tokens_found(self) -> str:
        limit = f"at most {self.max_length} tokens" if self.max_length else "texts of any length"
        batches = "padded batches" if self.no_batch is None else f"one text at a time ({self.no_batch})"
        reads = {"all": "all tokens", "first": "the first token", "last": "the last token"}.get(self.reads, self.reads)
        return f"no prefix tokens; its head reads {reads}; it takes {limit}, {batches}"

    def _head_type(self) -> type[Head]:
        """By the name of the model's class; if that says nothing, by the shape of its output and by what a token can see."""
        named = head_of(self.model)
        if named is not Head and named is not NextTokenHead:
            return named
        try:
            shape, causal = self._experience()
        except FAILURES:
            return named  # the watched pass says what fails
        if len(shape) == 3 and shape[1] == 1:
            self.watched = None
            return NextTokenHead
        if named is NextTokenHead or (len(shape) == 3 and shape[-1] == vocabulary_size(self.model)):
            return NextTokenHead if causal else MaskedTokenHead
        return TokenHead if len(shape) == 3 and shape[1] == LENGTH else Head

    def _experience(self) -> tuple[tuple[int, ...], bool]:
        """The shape of what a plain pass gives; and whether its row for an early token stays when the last token changes."""
        ids = ordinary_tokens(self, LENGTH).repeat(2, 1)
        ids[1, -1] = ids[1, 0]
        encoding = encoding_of(self, ids, torch.ones_like(ids))
        with borrowed(self) as own, torch.no_grad(), OwnRandomness():
            given = own.logits(own.call(encoding))
        del self.head  # was the classifier's, for this experiment
        if not isinstance(given, Tensor):
            return (), False
        return tuple(given.shape), given.dim() == 3 and not differ(given[0, 0], given[1, 0])

    def _trial(self) -> Encoding:
        """A text of `LENGTH` ordinary tokens, counting down, so that it cannot be taken for a row of positions."""
        ids = ordinary_tokens(self, LENGTH)[None]
        return self._pointed(encoding_of(self, ids, torch.ones_like(ids)))

    def _pointed(self, encoding: Encoding) -> Encoding:
        """With the token whose prediction is watched, if the head has one for each."""
        wanted = self.watched if isinstance(self.head, TokenHead) else None
        return self.head.point(encoding, [wanted] * len(encoding.tokens))

    def _check_mixing(self, trial: Encoding) -> None:
        """What the first block takes at a position has to be that position's token alone."""
        for place, others in mixed(self, trial).items():
            raise self._unclear(
                f"before its first block ({self.found.names[0]}) tokens are mixed: another token at position {place} "
                f"also changes what the block takes at {', '.join(map(str, others[:4]))}, so that scores would lie on other "
                "tokens (a convolution, a recurrent layer or n-grams in front)",
                hopeless=True,
            )

    def _check_classes(self, trial: Encoding) -> None:
        """A number for each token is not a class: of a shorter text there would be fewer."""
        if type(self.head) is not Head:
            return
        # Without its beginning: some models need the end of the text.
        short = self.encode_arguments({name: v[:, 4:] for name, v in trial.arguments.items()})
        try:
            whole, part = (logits_of(self, encoding).shape[1] for encoding in (trial, short))
        except FAILURES:
            return
        if whole != part:
            raise self._unclear(
                f"it gives {whole} numbers for a text of {LENGTH} tokens and {part} for one of {LENGTH - 4}: one for each "
                "token, not one for each class; load a head for classes, or one that tags tokens [B, T, C]",
                hopeless=True,
            )

    def _reads(self, trial: Encoding) -> str:
        logits = logits_of(self, trial)
        best = logits.argmax(-1)
        explained = slice(None) if type(self.head) is Head else best  # of many candidates each reads other tokens
        before = logits[:, explained]
        read = [p for p in range(LENGTH) if differ(before, logits_without(self, trial, [p])[:, explained])]
        which = ", ".join(map(str, read)) or "none"
        if self.head.reads_tokens:
            expected = self.head.read(trial, best)[0].nonzero().flatten().tolist()
            if read != expected:
                raise self._unclear(
                    f"its class is called as if its prediction read the tokens {expected}, but of {LENGTH} it reads {which}"
                )
            return "the tokens whose prediction is explained"
        known = {(0,): "first", (LENGTH - 1,): "last", tuple(range(LENGTH)): "all"}
        if tuple(read) not in known:
            raise self._unclear(
                f"of {LENGTH} tokens its head reads {which} (counted from 0): neither the first, the last, nor all"
            )
        return known[tuple(read)]

    def _why_no_batch(self) -> str | None:
        """Why several texts cannot share a forward pass; None if they can."""
        if self.head.one_input:
            return "its rows are the choices of one input"
        ids = ordinary_tokens(self, LENGTH).repeat(2, 1)
        mask = torch.ones_like(ids)
        mask[1, LENGTH - 4 :] = 0
        ids[1, LENGTH - 5] = ids[0, -1]  # the end of the text
        batch = self._pointed(encoding_of(self, ids.masked_fill(mask == 0, self.pad_id or 0), mask))
        try:
            together, alone = logits_of(self, batch), [logits_of(self, batch.alone(row)) for row in range(2)]
        except FAILURES as error:
            return str(error)
        # The candidates of a shorter text are the first of those of a longer one.
        changed = [differ(one[0], row[: one.shape[1]]) for one, row in zip(alone, together, strict=True)]
        return "padding changes its logits" if any(changed) else None


def _position_table(watched: Survey) -> int | None:
    """How many positions the model has embeddings for: rows of the table that was looked up with i, i + 1, ..., less i."""
    for indices, rows in watched.lookups:
        row = indices.reshape(-1, indices.shape[-1])[0] if indices.dim() else indices
        if row.numel() == LENGTH and bool((row.diff() == 1).all()):
            return rows - int(row[0])
    return None

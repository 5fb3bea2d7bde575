"""A text model that no adapter knows: blocks, positions, what the head reads and whether it takes batches, by experiment."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from ...capture.survey import Survey
from ...tokens import Tokens
from ..encoding import Encoding, last_of
from ..text import TextAdapter
from .base import Discovered, log
from .experiments import FAILURES, differ, logits_of, logits_without, ordinary_tokens

LENGTH = 11
"""Tokens of the text that a text model is tried with."""


class DiscoveredText(Discovered, TextAdapter):
    """A text model that no adapter knows."""

    family = "discovered text model"

    def __init__(self, model: nn.Module, processor: Any = None) -> None:
        super().__init__(model, processor)
        trial = self._trial()
        watched = self._watch(trial)
        self.found = self._blocks_in(watched)
        if self.found.length != LENGTH:
            raise self._unclear(f"its blocks have {self.found.length} positions for a text of {LENGTH} tokens")
        self.table = _position_table(watched)
        self.reads = self._reads(trial)
        self.no_batch = self._why_no_batch(trial)
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
            return self.model(encoding.arguments["input_ids"])
        known = {name: v for name, v in encoding.arguments.items() if name != "attention_mask" or self.takes(name)}
        return self.model(**known)

    def read(self, encoding: Encoding) -> Tensor:
        """The first token, the last, or all."""
        if self.reads == "all":
            return encoding.mask.clone()
        if self.reads == "first":
            return super().read(encoding)
        return last_of(encoding.mask if self.pad_id is None else encoding.arguments["input_ids"] != self.pad_id)

    @property
    def _tokens_found(self) -> str:
        limit = f"at most {self.max_length} tokens" if self.max_length else "texts of any length"
        batches = "padded batches" if self.no_batch is None else f"one text at a time ({self.no_batch})"
        reads = {"all": "all tokens", "first": "the first token", "last": "the last token"}[self.reads]
        return f"no prefix tokens; its head reads {reads}; it takes {limit}, {batches}"

    def _trial(self) -> Encoding:
        """A text of `LENGTH` ordinary tokens, counting down, so that it cannot be taken for a row of positions."""
        ids = ordinary_tokens(self, LENGTH)[None]
        arguments = self.place({"input_ids": ids, "attention_mask": torch.ones_like(ids)})
        names = tuple(f"#{token}" for token in ids[0].tolist())
        return Encoding(arguments, arguments["attention_mask"].bool(), (Tokens(names, (False,) * LENGTH),), (None,))

    def _reads(self, trial: Encoding) -> str:
        before = logits_of(self, trial)
        read = [p for p in range(LENGTH) if differ(before, logits_without(self, trial, [p]))]
        known = {(0,): "first", (LENGTH - 1,): "last", tuple(range(LENGTH)): "all"}
        if tuple(read) not in known:
            which = ", ".join(map(str, read)) or "none"
            raise self._unclear(
                f"of {LENGTH} tokens its head reads {which} (counted from 0): neither the first, the last, nor all"
            )
        return known[tuple(read)]

    def _why_no_batch(self, trial: Encoding) -> str | None:
        """Why several texts cannot share a forward pass; None if they can."""
        ids = trial.arguments["input_ids"].repeat(2, 1)
        mask = torch.ones_like(ids)
        mask[1, LENGTH - 4 :] = 0
        ids = ids.masked_fill(mask == 0, self.pad_id or 0)
        batch = self.encode_arguments({"input_ids": ids, "attention_mask": mask})
        short = self.encode_arguments({name: v[1:, : LENGTH - 4] for name, v in batch.arguments.items()})
        try:
            together, alone = logits_of(self, batch), torch.cat([logits_of(self, trial), logits_of(self, short)])
        except FAILURES as error:
            return str(error)
        return "padding changes its logits" if differ(alone, together) else None


def _position_table(watched: Survey) -> int | None:
    """How many positions the model has embeddings for: rows of the table that was looked up with i, i + 1, ..., less i."""
    for indices, rows in watched.lookups:
        row = indices.reshape(-1, indices.shape[-1])[0] if indices.dim() else indices
        if row.numel() == LENGTH and bool((row.diff() == 1).all()):
            return rows - int(row[0])
    return None

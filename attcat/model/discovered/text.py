"""A text model that no adapter knows: blocks, positions, what the head reads and whether it takes batches, by experiment."""

from __future__ import annotations

from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...capture.randomness import OwnRandomness
from ...capture.survey import Survey, Unclear
from ...errors import InputError, OptionError, UnsupportedModelError
from ...tokens import Tokens
from ..bound import borrowed
from ..encoding import Encoding, last_of
from ..heads import Head, MaskedTokenHead, NextTokenHead, SpanHead, TokenHead, head_of
from ..text import TextAdapter
from ..tokenizer import token_names
from .base import Discovered, Found, log
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
"""Tokens of the text that a text model is tried with, if it takes texts of any length."""
LONGEST = 1024
"""The most tokens of a length that is tried where a model takes no other."""
OWN = 64
"""The most tokens that a model may put beside those of a text."""


class DiscoveredText(Discovered, TextAdapter):
    """A text model that no adapter knows."""

    family = "discovered text model"
    places: tuple[int, ...] = ()
    """Which tokens the head reads, counted from the start, or from the end if negative; empty for the first, the last or all."""
    watched: int | None = 2
    """The token whose prediction is watched; None for what follows the text, where a model predicts nothing else."""

    def __init__(self, model: nn.Module, processor: Any = None) -> None:
        super().__init__(model, processor)
        self.head_type = self._head_type()
        watched = self._watch(self._trial())
        self.found = self._blocks_in(watched)
        if self.found.length != self.length:
            self.own_tokens = self._own_tokens()
        self.trial = trial = self._trial()
        self.table = _position_table(watched, self.length)
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
        return self.fixed_length or (super().positions if self.table is None else self.table)

    @property
    def can_batch(self) -> bool:
        """Whether a padded batch gave the logits of its rows, and the tokenizer can pad."""
        return self.no_batch is None and getattr(self.processor, "pad_token_id", 0) is not None

    def call(self, encoding: Encoding) -> Any:
        """Run the model with the arguments that it knows by name, or else with the token numbers alone."""
        if not self.takes("input_ids"):
            return self.model(self.head.arguments(encoding)["input_ids"])
        given = dict(self.head.arguments(encoding))
        if not self.takes("attention_mask"):
            given.pop("attention_mask", None)
        elif self.accepted and "attention_mask" not in given:
            given["attention_mask"] = torch.ones_like(given["input_ids"])  # some models need it
        return self.model(**given)

    def read(self, encoding: Encoding) -> Tensor:
        """The first token, the last, all, or those at the places that were found."""
        if self.reads == "all":
            return encoding.mask.clone()
        if self.reads == "last":
            if self.pad_id is None or any(self.own_tokens):
                return last_of(encoding.mask)
            return last_of(encoding.arguments["input_ids"] != self.pad_id)
        if not self.places:
            return super().read(encoding)
        read = torch.zeros_like(encoding.mask)
        for row, mask in enumerate(encoding.mask):
            real = mask.nonzero().flatten()
            read[row, real[[place for place in self.places if -len(real) <= place < len(real)]]] = True
        return read

    def completed(self, encoding: Encoding) -> Encoding:
        """With the tokens that the model itself adds; and padded, if it takes texts of one length only."""
        if self.fixed_length:
            encoding = self._padded(encoding, self.fixed_length)
        before, behind = self.own_tokens
        if not before + behind:
            return encoding
        names = [f"[own {number}]" for number in range(1, before + behind + 1)]
        mask = F.pad(encoding.mask, (before, behind), value=True)
        tokens = tuple(surrounded(tokens, names[:before], names[before:]) for tokens in encoding.tokens)
        return replace(encoding, mask=mask, tokens=tokens)

    @property
    def removals(self) -> tuple[str, ...]:  # type: ignore[override]
        """No deletion from texts of which the model takes one length only."""
        return ("mask", "pad") if self.fixed_length else ("mask", "pad", "delete")

    def remove(self, encoding: Encoding, removed: Tensor | None = None, how: str | None = None) -> Encoding:
        """Remove tokens of the text; those that the model adds stay. See `Adapter.remove`.

        Raises:
            OptionError: also if tokens are deleted from texts of which the model takes one length only.
        """
        if self.fixed_length and how == "delete":
            raise OptionError(
                f"{type(self.model).__name__} takes {self.fixed_length} tokens and no other number: use the removal mask or pad"
            )
        before, behind = self.own_tokens
        if not before + behind:
            return super().remove(encoding, removed, how)
        text = slice(before, encoding.mask.shape[1] - behind)
        tokens = tuple(_within(tokens, text) for tokens in encoding.tokens)
        bare = replace(encoding, mask=encoding.mask[:, text], tokens=tokens)
        return self.completed(super().remove(bare, None if removed is None else removed[:, text], how))

    def encode_windows(self, text: Any, size: int | None = None) -> tuple[Encoding, Tokens]:
        """See `TextAdapter.encode_windows`.

        Raises:
            InputError: also if the model adds tokens of its own, or takes texts of one length only.
        """
        if any(self.own_tokens) or self.fixed_length:
            raise InputError(
                f"{type(self.model).__name__} adds tokens of its own, or takes texts of one length only: there are no windows"
            )
        return super().encode_windows(text, size)

    def _padded(self, encoding: Encoding, length: int) -> Encoding:
        """With padding up to a length, which the model reads as it reads the text, so that it counts as special tokens."""
        missing = length - encoding.mask.shape[1]
        if missing <= 0:
            return encoding
        token = getattr(self.processor, "pad_token_id", None) if self.pad_id is None else self.pad_id
        if token is None:
            raise InputError(
                f"{type(self.model).__name__} takes {length} tokens and no other number, got {length - missing}, and there is no "
                "padding token: give a tokenizer that has one, or so many tokens"
            )
        (label,) = token_names(self.processor, [token])
        tokens = tuple(surrounded(tokens, [], [label] * missing) for tokens in encoding.tokens)
        return replace(
            encoding,
            arguments=encoding.padded_arguments(missing, token),
            mask=F.pad(encoding.mask, (0, missing), value=True),
            tokens=tokens,
        )

    @property
    def _tokens_found(self) -> str:
        limit = f"at most {self.max_length} tokens" if self.max_length else "texts of any length"
        limit = f"{self.fixed_length} tokens, no other number" if self.fixed_length else limit
        batches = "padded batches" if self.no_batch is None else f"one text at a time ({self.no_batch})"
        reads = {"all": "all tokens", "first": "the first token", "last": "the last token"}.get(self.reads, self.reads)
        sides = zip(self.own_tokens, ("before", "behind"), strict=True)
        parts = [f"{many} token{'s' * (many > 1)} of its own {where} the text" for many, where in sides if many]
        own = ", ".join(parts) or "no prefix tokens"
        return f"{own}; its head reads {reads}; it takes {limit}, {batches}"

    @cached_property
    def length(self) -> int:
        """Tokens of the text that the model is tried with: another number only if it takes no other."""
        for length in (LENGTH, *self._lengths()):
            try:
                self._called(ordinary_tokens(self, length)[None])
            except FAILURES:
                continue
            if length != LENGTH:
                self.fixed_length = length
            return length
        return LENGTH

    def _called(self, ids: Tensor) -> Any:
        """What the model gives for rows of tokens, by a plain pass."""
        with borrowed(self) as own, torch.no_grad(), OwnRandomness():
            return own.call(encoding_of(self, ids, torch.ones_like(ids)))

    def _lengths(self) -> list[int]:
        """Numbers of tokens that the shapes of its weights suggest."""
        tensors = [*self.model.parameters(), *self.model.buffers()]
        sizes = {size for tensor in tensors for size in tensor.shape}
        width = next((m.embedding_dim for m in self.model.modules() if isinstance(m, nn.Embedding)), 1)
        shared = {size // width for size in sizes if size % width == 0}
        return sorted(size for size in sizes | shared if 1 < size <= LONGEST and size != LENGTH)

    def _own_tokens(self) -> tuple[int, int]:
        """How many positions of the blocks are before those of the text, and how many behind."""
        more = self.found.length - self.length
        if not 0 < more <= OWN or type(self.head) is not Head:
            raise self._unclear(
                f"its blocks have {self.found.length} positions for a text of {self.length} tokens"
                + (
                    ", and it predicts one thing for each token, so that it is not known which is whose"
                    * (0 < more <= OWN)
                )
            )
        moved = mixed(self, self._trial())  # from the place of a word to where else it is seen: where its state is
        before = {others[0] - place if len(others) == 1 else -1 for place, others in moved.items()} or {0}
        if len(before) > 1 or -1 in before:
            raise self._unclear(
                f"its blocks have {self.found.length} positions for a text of {self.length} tokens, and it is not known which of "
                "them stand for its words"
            )
        (first,) = before
        return first, more - first

    def _blocks_in(self, watched: Survey) -> Found:
        """The blocks; of a model that does not attend over all tokens those that pass on a state, for gradients alone."""
        try:
            return super()._blocks_in(watched)
        except UnsupportedModelError:
            try:
                return Found.of_gradients(watched)
            except Unclear:
                pass
            raise

    def _head_type(self) -> type[Head]:
        """By the name of the model's class; if that says nothing, by the shape of its output and by what a token can see."""
        named = head_of(self.model)
        if issubclass(named, SpanHead) and self._has_classes():
            return Head
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
        return TokenHead if len(shape) == 3 and shape[1] == self.length else Head

    def _has_classes(self) -> bool:
        """Whether a model that answers questions, by its name, has one row of logits and no spans: it chooses an answer."""
        try:
            output = self._called(ordinary_tokens(self, self.length)[None])
        except FAILURES:
            return False  # the watched pass says what fails
        del self.head  # was the classifier's, for this experiment
        logits = getattr(output, "logits", None)
        return isinstance(logits, Tensor) and logits.dim() == 2 and not hasattr(output, "start_logits")

    def _experience(self) -> tuple[tuple[int, ...], bool]:
        """The shape of what a plain pass gives; and whether its row for an early token stays when the last token changes."""
        ids = ordinary_tokens(self, self.length).repeat(2, 1)
        ids[1, -1] = ids[1, 0]
        given = self.logits(self._called(ids))
        del self.head  # was the classifier's, for this experiment
        if not isinstance(given, Tensor):
            return (), False
        return tuple(given.shape), given.dim() == 3 and not differ(given[0, 0], given[1, 0])

    def _trial(self) -> Encoding:
        """A text of ordinary tokens, counting down, so that it cannot be taken for a row of positions."""
        ids = self._ids()[None]
        return self._pointed(encoding_of(self, ids, torch.ones_like(ids)))

    def _ids(self) -> Tensor:
        """The trial's token numbers, `[T]`."""
        return ordinary_tokens(self, self.length)

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
        if type(self.head) is not Head or self.fixed_length:
            return
        try:
            whole, part = (logits_of(self, encoding).shape[1] for encoding in (trial, self._shorter(trial)))
        except FAILURES:
            return
        if whole != part:
            raise self._unclear(
                f"it gives {whole} numbers for a text of {self.length} tokens and {part} for one of {self.length - 4}: one for "
                "each token, not one for each class; load a head for classes, or one that tags tokens [B, T, C]",
                hopeless=True,
            )

    def _shorter(self, trial: Encoding) -> Encoding:
        """The trial without its first four tokens: some models need the end of a text."""
        return self.encode_arguments({name: v[:, 4:] for name, v in trial.arguments.items()})

    def _reads(self, trial: Encoding) -> str:
        best = logits_of(self, trial).argmax(-1)
        explained = slice(None) if type(self.head) is Head else best  # of many candidates each reads other tokens
        read = self._read_in(trial, explained)
        length = int(trial.mask.sum())
        which = ", ".join(map(str, read)) or "none"
        if self.head.reads_tokens:
            expected = self.head.read(trial, best)[0].nonzero().flatten().tolist()
            if read != expected:
                raise self._unclear(
                    f"its class is called as if its prediction read the tokens {expected}, but of {length} it reads {which}"
                )
            return "the tokens whose prediction is explained"
        known = {(0,): "first", (length - 1,): "last", tuple(range(length)): "all"}
        if tuple(read) in known:
            return known[tuple(read)]
        self.places = self._places(trial, read)
        if not self.places:
            raise self._unclear(
                f"of {length} tokens its head reads {which} (counted from 0): neither the first, the last, nor all, and not "
                "those at fixed places"
            )
        return f"the tokens {', '.join(map(str, self.places))} (counted from 0, or from the end)"

    def _read_in(self, encoding: Encoding, explained: Any) -> list[int]:
        """The positions whose last state matters to some logits."""
        before = logits_of(self, encoding)[:, explained]
        positions = encoding.mask[0].nonzero().flatten().tolist()
        return [p for p in positions if differ(before, logits_without(self, encoding, [p])[:, explained])]

    def _places(self, trial: Encoding, read: list[int]) -> tuple[int, ...]:
        """The same tokens in texts of any length, counted from the start or from the end (negative); empty if they are not."""
        if type(self.head) is not Head or not read:
            return ()
        if self.fixed_length:
            return tuple(read)
        shorter, length = self._shorter(trial), int(trial.mask.sum())
        try:
            again = self._read_in(shorter, slice(None))
        except FAILURES:
            return ()
        places = [place if place in again else place - length for place in read]
        found = sorted({place % int(shorter.mask.sum()) for place in places})
        return tuple(places) if found == again and len(found) == len(read) else ()

    def _why_no_batch(self) -> str | None:
        """Why several texts cannot share a forward pass; None if they can."""
        if self.head.one_input:
            return "its rows are the choices of one input"
        if self.position_axis == 0:
            return "its states have the batch behind the positions"
        if any(self.own_tokens):
            return "it adds tokens of its own"
        if self.fixed_length:
            return "it takes texts of one length"
        ids = self._ids().repeat(2, 1)
        mask = torch.ones_like(ids)
        mask[1, self.length - 4 :] = 0
        ids[1, self.length - 5] = ids[0, -1]  # the end of the text
        batch = self._pointed(encoding_of(self, ids.masked_fill(mask == 0, self.pad_id or 0), mask))
        try:
            together, alone = logits_of(self, batch), [logits_of(self, batch.alone(row)) for row in range(2)]
        except FAILURES as error:
            return str(error)
        # The candidates of a shorter text are the first of those of a longer one.
        changed = [differ(one[0], row[: one.shape[1]]) for one, row in zip(alone, together, strict=True)]
        return "padding changes its logits" if any(changed) else None


def surrounded(tokens: Tokens, before: list[str], behind: list[str]) -> Tokens:
    """Tokens with others around them that stand for no part of the text."""

    def around(values: tuple[Any, ...] | None) -> tuple[Any, ...] | None:
        return None if values is None else (*[None] * len(before), *values, *[None] * len(behind))

    special = (*[True] * len(before), *tokens.special, *[True] * len(behind))
    spans, segments, words = around(tokens.spans), around(tokens.segments), around(tokens.words)
    return replace(
        tokens, labels=(*before, *tokens.labels, *behind), special=special, spans=spans, segments=segments, words=words
    )


def _within(tokens: Tokens, part: slice) -> Tokens:
    """A stretch of tokens."""
    return tokens.kept([part.start <= index < part.stop for index in range(len(tokens))])


def _position_table(watched: Survey, length: int) -> int | None:
    """How many positions the model has embeddings for: rows of the table that was looked up with i, i + 1, ..., less i."""
    for indices, rows in watched.lookups:
        row = indices.reshape(-1, indices.shape[-1])[0] if indices.dim() else indices
        if row.numel() == length and bool((row.diff() == 1).all()):
            return rows - int(row[0])
    return None

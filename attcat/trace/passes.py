"""Further passes through the model, for the methods that need more than one."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ..capture.rules import Rule
from ..errors import InputError, OptionError
from ..model import Adapter, Encoding, content_of
from ..targets import Goal
from ..tokens import Tokens
from .recording import Recording, record
from .values import Hidden, Needs, Trace

BUDGET = 4096
"""About how many tokens share a further pass."""


@dataclass(frozen=True)
class Passes:
    """The same batch and the same target again, with something changed.

    Args:
        adapter: of the model.
        encoding: the batch.
        goal: what is explained.
        rule: makes the gradient rule of the explanation anew, for a pass under it.
        hidden: the blocks' inputs or outputs, as in the explanation.
        measured: what a method says of its own accuracy: a number per example, `[B]`, under a name.
    """

    adapter: Adapter
    encoding: Encoding
    goal: Goal
    rule: Callable[[], Rule] = Rule
    hidden: Hidden = "input"
    measured: dict[str, Tensor] = field(default_factory=dict)

    @property
    def tokens(self) -> tuple[Tokens, ...]:
        """What the positions of each example stand for."""
        return self.encoding.tokens

    def record(self, early: int | None = None) -> Recording:
        """Once more with plain gradients and attention matrices; `early` is the block whose output the head reads."""
        return record(self.adapter, self.encoding, Rule(), attention=True, early=early)

    def value(self, recording: Recording) -> Tensor:
        """What is explained, `[B]`, in another forward pass."""
        with torch.enable_grad():
            return self.goal.value(recording.output, recording.logits)

    def without(
        self, removed: Sequence[Tensor], method: Callable[[Trace], Tensor], how: str | None = None
    ) -> Iterator[tuple[Tensor, Tensor]]:
        """Explain copies of the batch, each without some tokens, under the rule of the explanation.

        Args:
            removed: for each copy the tokens to remove, bool `[B, T]`.
            method: from a trace with gradients to contributions `[L, N, T]`.
            how: one of the adapter's removals; by default its first.

        Yields:
            So many copies as share a pass, K: what was removed `[K, B, T]`, and the contributions `[L, K, B, T]`, 0 where a
            token was removed.

        Raises:
            OptionError: if the model knows no such removal, or it would move the token whose prediction is explained.
        """
        batch, length = self.encoding.mask.shape
        together = max(1, BUDGET // (batch * length)) if self.adapter.can_batch else 1
        for start in range(0, len(removed), together):
            copies = torch.stack(tuple(removed[start : start + together]))
            found = self._explained(copies.flatten(0, 1), method, how)
            yield copies, found.view(len(found), *copies.shape)

    def _explained(self, removed: Tensor, method: Callable[[Trace], Tensor], how: str | None) -> Tensor:
        """Contributions `[L, N, T]` of N rows, the batch several times."""
        whole = self._repeated(len(removed) // len(self.tokens))
        encoding = self.adapter.remove(whole, removed, how)
        moved = encoding.mask.shape != whole.mask.shape or not torch.equal(encoding.mask, whole.mask)
        if moved and (self.encoding.focus is not None or self.adapter.head.kept is not None):
            raise OptionError(f"the removal {how!r} moves the token that is explained: use one that replaces tokens")
        recording = record(self.adapter, encoding, self.rule())
        contributions = method(recording.trace(self.value(recording), needs=Needs(), hidden=self.hidden))
        if not moved:
            return contributions * ~removed
        aligned = contributions.new_zeros(len(contributions), *whole.mask.shape)
        aligned[:, whole.mask & ~removed] = contributions[:, encoding.mask]
        return aligned

    def generator(self, row: int, seed: int) -> torch.Generator:
        """Random numbers that depend on one input and a seed: the same alone and in a batch."""
        source = self.encoding.sources[row]
        text = source.tobytes() if hasattr(source, "tobytes") else repr(source).encode()
        key = zlib.crc32(repr(self.tokens[row].labels).encode(), zlib.crc32(text, seed))
        return torch.Generator().manual_seed(key)

    def values_at(self, states: Tensor) -> Tensor:
        """What is explained, `[N]`, when the first block's input is `states` `[N, T, D]` (N: the batch, k times)."""
        encoding = self._repeated(len(states) // len(self.tokens))
        recording = record(self.adapter, encoding, Rule(), before=lambda _: states)
        return self.value(recording)

    def values_of(self, arguments: Mapping[str, Tensor]) -> Tensor:
        """What is explained, `[N]`, for changed model arguments of N rows (the batch, k times); no gradient."""
        name = self.input_name
        times = len(arguments[name]) // len(self.tokens)
        repeated = self._repeated(times)
        encoding = replace(repeated, arguments={**repeated.arguments, **arguments})
        with torch.no_grad():
            recording = record(self.adapter, encoding, Rule())
            return self.goal.value(recording.output, recording.logits).detach()

    @property
    def input_name(self) -> str:
        """`input_ids` or `pixel_values`: what the tokens stand for."""
        return "input_ids" if self.tokens[0].grid is None else "pixel_values"

    @cached_property
    def blank(self) -> Tensor:
        """The model's input with everything taken out that can be: mask tokens, or the mean picture.

        Returns:
            Like the argument `input_name`; special tokens and padding stay.
        """
        return self.adapter.remove(self.encoding).arguments[self.input_name]

    @cached_property
    def content(self) -> Tensor:
        """bool `[B, T]`: tokens that stand for a part of the input."""
        return content_of(self.encoding)

    def states_of(self, arguments: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        """The blocks' inputs `[B, T, D]` for changed model arguments."""
        encoding = replace(self.encoding, arguments={**self.encoding.arguments, **arguments})
        with torch.no_grad():
            return tuple(block.input.detach() for block in record(self.adapter, encoding, Rule()).blocks)

    def references(self, inputs: Sequence[Any]) -> list[tuple[tuple[Tensor, ...], Tensor]]:
        """The blocks' inputs `[1, T', D]` for each reference input, and its logits `[1, C]`.

        Raises:
            InputError: if there are none.
        """
        if not inputs:
            raise InputError("no references: give references=[...], inputs of another class")
        found = []
        for value in inputs:
            encode = self.adapter.encode_arguments if isinstance(value, Mapping) else self._encode_one
            recording = record(self.adapter, encode(value), Rule())
            found.append((tuple(block.input.detach() for block in recording.blocks), recording.logits.detach()))
        return found

    def _encode_one(self, value: Any) -> Encoding:
        return self.adapter.encode([value], truncation=True)

    def _repeated(self, times: int) -> Encoding:
        return self.encoding if times == 1 else self.encoding.rows([*range(len(self.tokens))] * times)

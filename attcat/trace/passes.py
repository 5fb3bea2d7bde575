"""Further passes through the model, for the methods that need more than one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from ..capture.rules import Rule
from ..errors import InputError, Option
from ..model import Adapter, Encoding, content_of
from ..targets import Goal
from ..tokens import Tokens
from .recording import Recording, record


@dataclass(frozen=True)
class Passes:
    """The same batch and the same target again, with something changed.

    Args:
        adapter: of the model.
        encoding: the batch.
        goal: what is explained.
        measured: what a method says of its own accuracy: a number per example, `[B]`, under a name.
    """

    adapter: Adapter
    encoding: Encoding
    goal: Goal
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
            raise InputError("no references: give inputs of another class by ", Option("references"))
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

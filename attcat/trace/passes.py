"""Further passes through the model, for the methods that need more than one."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..capture.randomness import OwnRandomness
from ..capture.rules import Rule
from ..errors import AttCATError, CaptureError, InputError, Option, OptionError
from ..model import Adapter, Encoding, borrowed, content_of, first_of
from ..model.discovered.experiments import FAILURES
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
        """What each example's positions stand for."""
        return self.encoding.tokens

    def of_row(self, row: int) -> Passes:
        """The same for one example without its padding."""
        return replace(self, encoding=self.encoding.alone(row), goal=self.goal.of_row(row))

    def record(self, early: int | None = None) -> Recording:
        """Another trace with plain gradients and attention matrices; `early` is the block whose output the head reads."""
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
            OptionError: if the model knows no such removal, or it would move the answers that are classes.
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
        if moved and self.encoding.focus is None and self.adapter.head.kept is not None:
            raise OptionError(Option("removal", how), " moves the answers: use a removal that replaces tokens")
        recording = self._removed(encoding, self.rule())
        contributions = method(recording.trace(self.value(recording), needs=Needs(), hidden=self.hidden))
        if not moved:
            return contributions * ~removed
        stays = whole.mask & ~removed
        blank = first_of(whole.mask) & ~stays.any(-1, keepdim=True)  # of a text of which nothing stays, one mask token
        aligned = contributions.new_zeros(len(contributions), *whole.mask.shape)
        aligned[:, stays | blank] = contributions[:, encoding.mask]
        return aligned * ~removed

    @property
    def shortening(self) -> str | None:
        """The removal that leaves tokens out, if the model has it and what is explained would stay where it is."""
        moves = self.encoding.focus is None and self.adapter.head.kept is not None
        return None if moves or "delete" not in self.adapter.removals else "delete"

    def generator(self, row: int, seed: int) -> torch.Generator:
        """Random numbers that depend on one input and a seed: the same alone and in a batch."""
        source = self.encoding.sources[row]
        text = source.tobytes() if hasattr(source, "tobytes") else repr(source).encode()
        key = zlib.crc32(repr(self.tokens[row].labels).encode(), zlib.crc32(text, seed))
        return torch.Generator().manual_seed(key)

    def noise(self, count: int, seed: int) -> Tensor:
        """Uniform in [0, 1), `[count, B, T]`, 0 at padding: for each input the same alone and in a batch."""
        mask = self.encoding.mask.cpu()
        drawn = torch.zeros(count, *mask.shape)
        for row, real in enumerate(mask):
            drawn[:, row, real] = torch.rand(count, int(real.sum()), generator=self.generator(row, seed))
        return drawn.to(self.encoding.mask.device)

    def drawing(self, row: int, seed: int) -> OwnRandomness:
        """While it is on, other people's code in this thread draws such numbers, and not the process's."""
        return OwnRandomness(self.generator(row, seed).initial_seed())

    def values_at(self, states: Tensor) -> Tensor:
        """What is explained, `[N]`, when the first block's input is `states` `[N, T, D]` (N: the batch, k times)."""
        encoding = self._repeated(len(states) // len(self.tokens))
        recording = record(self.adapter, encoding, Rule(), before=lambda _: states)
        return self.value(recording)

    def values_without(self, removed: Tensor) -> Tensor:
        """What is explained, `[K, B]`, without some tokens, bool `[K, B, T]`: K copies of the batch in one pass; no gradient.

        Tokens are removed in the adapter's default way, see `Adapter.remove`.
        """
        encoding = self._repeated(len(removed))
        if removed.any():
            encoding = self.adapter.remove(encoding, removed.flatten(0, 1))
        with torch.no_grad():
            recording = self._removed(encoding, Rule())
            value = self.goal.value(recording.output, recording.logits).detach()
        return value.reshape(removed.shape[:2])

    def logits_of_all(self) -> Tensor | None:
        """What the model gives for every token, `[B, T, V]`, not only where it is explained; None if it gives no such thing."""
        with borrowed(self.adapter) as own, torch.no_grad(), OwnRandomness():
            logits = own.logits(own.call(self.encoding))
        fits = isinstance(logits, Tensor) and logits.dim() == 3 and logits.shape[:2] == self.encoding.mask.shape
        return logits if fits else None

    def blank_state(self) -> Tensor:
        """The first block's input, `[B, T, D]`, when every content token is removed: mask tokens, or an empty picture.

        Raises:
            OptionError: if the adapter removes tokens by leaving them out, so that there is no state for each.
        """
        encoding = self.adapter.remove(self.encoding)
        if encoding.mask.shape != self.encoding.mask.shape:
            raise OptionError(
                f"the removal {self.adapter.removals[:1]} of {type(self.adapter).__name__} makes inputs shorter, but the method "
                "needs a blank in place of each token: list one that replaces tokens first among its removals"
            )
        with torch.no_grad():
            return self._removed(encoding, Rule()).inputs[0]

    def _removed(self, encoding: Encoding, rule: Rule) -> Recording:
        """A forward pass over a batch in which tokens are removed, which some models do not take.

        Raises:
            CaptureError: if the model fails on it.
        """
        try:
            return record(self.adapter, encoding, rule)
        except (AttCATError, torch.OutOfMemoryError):
            raise
        except FAILURES as error:
            raise CaptureError(
                f"{type(self.adapter.model).__name__} does not take this input with tokens removed, as the method needs "
                f"({type(error).__name__}: {error}): use a method that removes none, e.g. ",
                Option("method", "cat"),
                "; or, if the input is token numbers, some of which are special (an end of the text, e.g.), give the tokenizer, "
                "Explainer(model, tokenizer), so that these stay",
            ) from error

    @cached_property
    def content(self) -> Tensor:
        """bool `[B, T]`: tokens that stand for a part of the input."""
        return content_of(self.encoding)

    @cached_property
    def removable(self) -> Tensor:
        """bool `[B, T]`: the content, without the token whose prediction is explained, where there is one for each."""
        if self.encoding.focus is None:
            return self.content
        return self.content & ~F.one_hot(self.encoding.focus, self.content.shape[1]).bool()

    def references(self, inputs: Sequence[Any]) -> list[tuple[tuple[Tensor, ...], Tensor]]:
        """The blocks' inputs `[1, T', D]` for each reference input, and its logits `[1, C]`.

        Raises:
            InputError: if there are none.
        """
        if not inputs:
            raise InputError("no references: give inputs of another class with ", Option("references"))
        found = []
        for value in inputs:
            encode = self.adapter.encode_arguments if isinstance(value, Mapping) else self._encode_one
            recording = record(self.adapter, encode(value), Rule())
            found.append((recording.inputs, recording.logits.detach()))
        return found

    def _encode_one(self, value: Any) -> Encoding:
        return self.adapter.encode([value], truncation=True)

    def _repeated(self, times: int) -> Encoding:
        return self.encoding if times == 1 else self.encoding.rows([*range(len(self.tokens))] * times)

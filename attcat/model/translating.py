"""A source and what a decoder wrote after reading it: two sequences of the model, one after the other in an explanation.

    tokens of the source | the decoder's start, and special tokens that a target begins with | what was written

The text of an explanation is the source, a line break, and what was written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..errors import InputError, TooLongError
from ..tokens import Interleaved, Tokens
from .adapter import Adapter
from .encoding import Encoding
from .writing import Prompt, Writer, joined, numbered, numbers_of, read_prompt, spelled


class Translator(Writer):
    """How an encoder with a decoder writes: what it wrote stands in a sequence of its own, which reads the source's.

    Args:
        adapter: of the model, with any head.

    Raises:
        UnsupportedModelError: if the model does not write.
    """

    drops_start: ClassVar[bool] = False
    """Whether the start token is left out of a text's tokens where the tokenizer begins with it as well."""

    def __init__(self, adapter: Adapter) -> None:
        super().__init__(adapter)
        self.decoder: Any = self.adapter  # which also reads what is written

    def prompt(self, value: Any) -> Prompt:
        """What the adapter alone can read; a text with the special tokens of a source, a chat, or model arguments; see
        `read_prompt`."""
        found: Prompt | None = self.adapter.prompt(value)
        if found is not None:
            return found
        if isinstance(value, Mapping):
            source = self.decoder.encode_source(value)
            return Prompt(source.arguments["input_ids"][0].tolist(), source.tokens[0])
        if not isinstance(value, str) or not value.strip():
            return read_prompt(self.adapter, value)
        return Prompt(*self.adapter.tokens_of(value), value)

    def lead(self, prompt: Prompt) -> str | None:
        """The source and a line break."""
        return None if prompt.text is None else prompt.text + "\n"

    def new(self, prompt: Prompt, sequence: Tensor) -> Tensor:
        """All of the decoder's sequence, its start token first."""
        return sequence

    def written(self, prompt: Prompt, answer: str | Sequence[int] | Tensor) -> Encoding:
        """The source and what was written after it.

        Args:
            prompt: the source.
            answer: the text, as the tokenizer reads a target; or token numbers, with or without the decoder's start token.

        Raises:
            InputError: if either is empty, or the model cannot take so many tokens.
            ProcessorError: if a text is given without a tokenizer.
        """
        lead = self.lead(prompt)
        begin, ids, tokens, text = self._target(answer)
        if not ids or not prompt.tokens.labels:
            raise InputError("the source or the answer has no tokens: there is nothing to explain")
        limit = self.adapter.positions
        if limit is not None and len(begin) + len(ids) > limit:
            raise TooLongError(
                f"the answer has {len(begin) + len(ids)} tokens with the decoder's start, the model takes at most {limit}"
            )
        source = self._source(prompt)
        known = lead is not None and text is not None
        named = joined(prompt.tokens, self.decoder.named(begin))
        every = joined(named, tokens if known else Tokens(tokens.labels, tokens.special), len(lead or ""))
        encoding = self.decoder.followed(source, [*begin, *ids], every)
        start = encoding.offset + len(begin)
        return replace(encoding, sources=self._sources(source, f"{lead}{text}" if known else None), start=start)

    def _source(self, prompt: Prompt) -> Encoding:
        """The source alone."""
        row = torch.tensor([prompt.ids])
        if prompt.further:
            arguments = {"input_ids": row, "attention_mask": torch.ones_like(row), **prompt.further}
            placed = self.adapter.place(arguments)
            seen = None if prompt.text is None else Interleaved(prompt.text, prompt.pictures)
            # Of every token, also of patches that have no number among the words'.
            mask = placed["attention_mask"].new_ones(1, len(prompt.tokens)).bool()
            return Encoding(placed, mask, (prompt.tokens,), (seen,))
        source: Encoding = self.decoder.encode_source({"input_ids": row, "attention_mask": torch.ones_like(row)})
        return source

    def _sources(self, source: Encoding, text: str | None) -> tuple[Any, ...]:
        """What is drawn on: the text of both, with the pictures in it."""
        seen = source.sources[0]
        return (Interleaved(text, seen.pictures) if isinstance(seen, Interleaved) and text is not None else text,)

    def _target(self, answer: str | Sequence[int] | Tensor) -> tuple[list[int], list[int], Tokens, str | None]:
        """The decoder's start and the special tokens after it; the other numbers, what they stand for, and their text."""
        if isinstance(answer, str):
            if not answer.strip():
                raise InputError("the answer is empty: there is nothing to explain")
            every, tokens = self.adapter.tokens_of(answer, target=True)
            begin = [self.decoder.start_of(every)]
            if self.drops_start and every[:1] == begin:
                every, tokens = every[1:], tokens.kept([place > 0 for place in range(len(every))])
            first, last = _content(tokens.special)
            kept = [first <= place < last for place in range(len(every))]
            return begin + every[:first], every[first:last], tokens.kept(kept), answer
        numbers = numbers_of(answer)
        start = self.decoder.start_of(numbers)
        if numbers[:1] == [start]:
            numbers = numbers[1:]
        first, last = _content(numbered(self.adapter, numbers).special)
        begin, ids = [start, *numbers[:first]], numbers[first:]
        if not getattr(self.adapter.processor, "is_fast", False):
            return begin, ids, numbered(self.adapter, ids), None
        body, closing = ids[: last - first], numbered(self.adapter, ids[last - first :])
        tokens, text = self._as_read(*spelled(self.adapter, begin, body), body)
        return begin, ids, joined(tokens, closing), text

    def _as_read(self, tokens: Tokens, text: str, ids: list[int]) -> tuple[Tokens, str]:
        """The tokenizer's own tokens of the text, where they are the same."""
        every, own = self.adapter.tokens_of(text, target=True) if text.strip() else ([], tokens)
        first, last = _content(own.special)
        return (
            own.kept([first <= place < last for place in range(len(own))]) if every[first:last] == ids else tokens
        ), text

    def ids(self, encoding: Encoding) -> Tensor:
        """The numbers of the written tokens, `[A]`."""
        ids: Tensor = encoding.arguments["decoder_input_ids"][0, encoding.start - encoding.offset :]
        return ids

    def beginning(self, encoding: Encoding, length: int) -> Mapping[str, Tensor]:
        """The source's arguments, and of the decoder's those up to a position."""
        ids = encoding.arguments["decoder_input_ids"]
        return {**encoding.arguments, "decoder_input_ids": ids[:, : length - encoding.offset]}


def _content(special: Sequence[bool]) -> tuple[int, int]:
    """From the first to behind the last that is not special; of special ones alone all of them."""
    places = [place for place, flag in enumerate(special) if not flag]
    return (places[0], places[-1] + 1) if places else (0, len(special))

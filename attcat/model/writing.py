"""A prompt and what was written after it: one sequence, whose tokens know their characters and where the prompt ends."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError, OptionError, ProcessorError, UnsupportedModelError
from ..targets import integer
from ..tokens import Interleaved, Span, Tokens
from .adapter import Adapter
from .encoding import Encoding
from .heads import MaskedTokenHead, NextTokenHead, WrittenHead
from .text import TextAdapter
from .tokenizer import token_names

CONTEXT = 8
"""Tokens before a piece of text with which it is decoded: some tokenizers drop the space at the beginning."""


@dataclass(frozen=True)
class Prompt:
    """What a model is given to go on with.

    Args:
        ids: the token numbers.
        tokens: what they stand for; those of a chat's template are special.
        text: as the model reads it; None for model arguments.
        chat: whether the text was made by a chat template, which brings its own special tokens.
        further: what else the model is called with: the pictures as its processor makes them, and what it says of each token.
        pictures: those that stand in the text, uint8 `[H, W, 3]`.
        own: how many of the numbers, at the beginning, stand for tokens that the model itself puts there, and is not given.
    """

    ids: list[int]
    tokens: Tokens
    text: str | None = None
    chat: bool = False
    further: Mapping[str, Tensor] = field(default_factory=dict)
    pictures: tuple[np.ndarray, ...] = ()
    own: int = 0


def is_chat(value: Any) -> bool:
    """Whether an input is a list of messages, `[{"role": "user", "content": "..."}]`."""
    return (
        isinstance(value, (list, tuple)) and bool(value) and all(isinstance(m, Mapping) and "role" in m for m in value)
    )


class Writer:
    """How a causal model writes: what it wrote stands behind the prompt, in the same sequence.

    Args:
        adapter: of the model, with any head.

    Raises:
        UnsupportedModelError: if the model does not predict a next token.
    """

    def __init__(self, adapter: Adapter) -> None:
        self.adapter = _written_by(adapter)

    def prompt(self, value: Any) -> Prompt:
        """What a model is given to go on with; see `read_prompt`."""
        found: Prompt | None = self.adapter.prompt(value)
        return read_prompt(self.adapter, value) if found is None else found

    def lead(self, prompt: Prompt) -> str | None:
        """The text before the first character that was written."""
        return prompt.text

    def said(self, prompt: Prompt, encoding: Encoding, answer: str | Sequence[int] | Tensor) -> str | None:
        """The written text, to which the characters of the written tokens belong; None if they are not known."""
        source, lead = encoding.sources[0], self.lead(prompt)
        text = source.text if isinstance(source, Interleaved) else source
        return None if text is None else str(text[len(lead or "") :])

    def arguments(self, prompt: Prompt) -> Mapping[str, Tensor]:
        """What a model's own `generate` is called with."""
        ids = torch.tensor([prompt.ids[prompt.own :]], device=self.adapter.device)
        whole = (1, len(prompt.ids))  # what is said of each token is said of the model's own, too
        further = {n: v[:, prompt.own :] if v.shape[:2] == whole else v for n, v in prompt.further.items()}
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids), **further}

    def write(self, model: Any, prompt: Prompt, options: Mapping[str, Any]) -> Tensor:
        """Let a model write, by its own `generate`: the numbers of the tokens that it wrote.

        Raises:
            OptionError: if the options ask for several sequences, or none.
        """
        found = model.generate(**self.arguments(prompt), **options)
        rows = found if isinstance(found, Tensor) else getattr(found, "sequences", None)
        if not isinstance(rows, Tensor) or len(rows) != 1:
            given = "no sequences" if rows is None else f"{len(rows)} sequences"
            raise OptionError(f"generate() gave {given}, expected one: leave out options that ask for several")
        return self.new(prompt, rows[0])

    def new(self, prompt: Prompt, sequence: Tensor) -> Tensor:
        """Of the token numbers that a model's own `generate` gives those that it wrote."""
        return sequence[len(prompt.ids) - prompt.own :]

    def written(self, prompt: Prompt, answer: str | Sequence[int] | Tensor) -> Encoding:
        """Prompt and answer; see `written`."""
        return written(self.adapter, prompt, answer)

    def ids(self, encoding: Encoding) -> Tensor:
        """The numbers of the written tokens, `[A]`."""
        ids: Tensor = encoding.arguments["input_ids"][0, encoding.start :]
        return ids

    def beginning(self, encoding: Encoding, length: int) -> Mapping[str, Tensor]:
        """The model's arguments for the first `length` positions."""
        whole = encoding.mask.shape[1]
        return {
            name: value[:, :length] if value.shape[:2] == (1, whole) else value
            for name, value in encoding.arguments.items()
        }


def _written_by(adapter: Adapter) -> TextAdapter:
    """The adapter of a model that writes, which reads the predictions of all written tokens."""
    head = adapter.head
    if not isinstance(adapter, TextAdapter) or not isinstance(head, NextTokenHead) or isinstance(head, MaskedTokenHead):
        raise UnsupportedModelError(
            f"{type(adapter.model).__name__} does not write text (its task is {head.task}): load a causal language model, as "
            "AutoModelForCausalLM does, or an encoder with a decoder, as AutoModelForSeq2SeqLM does"
        )
    found = adapter.with_head(WrittenHead)
    assert isinstance(found, TextAdapter)
    return found


def read_prompt(adapter: TextAdapter, value: Any) -> Prompt:
    """A text, a chat, or model arguments (a dict with `input_ids` of one row) as a prompt.

    Raises:
        InputError: if it is none of these, or empty.
        ProcessorError: if there is no tokenizer, or it has no chat template.
    """
    if is_chat(value):
        return _chat(adapter, value)
    if isinstance(value, Mapping):
        encoding = adapter.encode_arguments(value)
        if len(encoding.tokens) != 1:
            raise InputError(f"a prompt is one row of input_ids, got {len(encoding.tokens)}")
        return Prompt(encoding.arguments["input_ids"][encoding.mask].tolist(), encoding.tokens[0])
    if not isinstance(value, str) or not value.strip():
        what = "an empty text" if isinstance(value, str) else type(value).__name__
        raise InputError(f"a prompt is a text, a chat (a list of messages) or model arguments, not {what}")
    return Prompt(*_without_end(*adapter.tokens_of(value)), value)


def _without_end(ids: list[int], tokens: Tokens) -> tuple[list[int], Tokens]:
    """Without the special tokens that the tokenizer puts at the end: something follows here."""
    end = len(ids)
    while end and tokens.special[end - 1]:
        end -= 1
    return ids[:end], tokens.kept([position < end for position in range(len(ids))])


def written(adapter: TextAdapter, prompt: Prompt, answer: str | Sequence[int] | Tensor) -> Encoding:
    """The prompt and the answer as one sequence.

    Args:
        adapter: of the model.
        prompt: the prompt.
        answer: the text that follows, character for character; or its token numbers.

    Raises:
        InputError: if the answer is empty, or the model cannot take so many tokens.
        ProcessorError: if a text is given without a tokenizer.
    """
    ids, tokens, text = _answered(adapter, prompt, answer)
    if len(ids) == len(prompt.ids) or not prompt.ids:
        raise InputError("the prompt or the answer has no tokens: there is nothing to explain")
    adapter.check_answer(prompt, ids[len(prompt.ids) :])
    row = torch.tensor([ids])
    encoding = adapter.encode_arguments({"input_ids": row, "attention_mask": torch.ones_like(row)})
    arguments = {**encoding.arguments, **adapter.lengthened(prompt.further, len(prompt.ids), len(ids))}
    source = Interleaved(text, prompt.pictures) if text is not None and prompt.pictures else text
    offset = 0 if adapter.streams is None else prompt.own  # tokens of a sequence of their own
    return replace(
        encoding, arguments=arguments, tokens=(tokens,), sources=(source,), start=len(prompt.ids), offset=offset
    )


def _answered(
    adapter: TextAdapter, prompt: Prompt, answer: str | Sequence[int] | Tensor
) -> tuple[list[int], Tokens, str | None]:
    """Numbers and tokens of prompt and answer, and the text of both."""
    if isinstance(answer, str):
        if prompt.text is None:
            ids, tokens = adapter.tokens_of(answer, specials=False)
            return prompt.ids + ids, joined(prompt.tokens, _bare(tokens)), None
        if not answer:
            raise InputError("the answer is empty: there is nothing to explain")
        together = _together(adapter, prompt, answer)
        if together is not None:
            return (*together, prompt.text + answer)
        ids, tokens = adapter.tokens_of(answer, specials=False)
        return prompt.ids + ids, joined(prompt.tokens, tokens, len(prompt.text)), prompt.text + answer
    numbers = numbers_of(answer)
    if prompt.text is None or not getattr(adapter.processor, "is_fast", False):
        return prompt.ids + numbers, joined(prompt.tokens, numbered(adapter, numbers)), None
    return _decoded(adapter, prompt, numbers)


def numbers_of(answer: Sequence[int] | Tensor) -> list[int]:
    """The token numbers of an answer that is given by them.

    Raises:
        InputError: if one is no whole number from 0.
    """
    found = []
    for given in answer.flatten().tolist() if isinstance(answer, Tensor) else answer:
        number = integer(given)
        if number is None or number < 0:
            raise InputError(f"an answer is a text, or token numbers (whole, from 0): {given!r} is none")
        found.append(number)
    return found


def _together(adapter: TextAdapter, prompt: Prompt, answer: str) -> tuple[list[int], Tokens] | None:
    """Tokenized in one piece, which is how the model would have read it; None if the seam runs through a token."""
    assert prompt.text is not None
    own = prompt.ids
    if prompt.pictures:  # of which there is one token each in the text, and many in the prompt
        own = _without_end(*adapter.tokens_of(prompt.text, specials=not prompt.chat))[0]
    length = len(own)
    ids, tokens = _without_end(*adapter.tokens_of(prompt.text + answer, specials=not prompt.chat))
    if ids[:length] != own or len(ids) == length:
        return None
    later = joined(prompt.tokens, tokens.kept([position >= length for position in range(len(ids))]))
    return prompt.ids + ids[length:], later


def _decoded(adapter: TextAdapter, prompt: Prompt, numbers: list[int]) -> tuple[list[int], Tokens, str]:
    """Tokens that a model wrote: their text, and which characters of it are whose."""
    assert prompt.text is not None
    specials = set(adapter.processor.all_special_ids)
    end = len(numbers)
    while end and numbers[end - 1] in specials:
        end -= 1
    body, closing = numbers[:end], numbered(adapter, numbers[end:])
    own, text = spelled(adapter, prompt.ids, body)
    together = _together(adapter, prompt, text) if text else None
    if together is not None and together[0] == prompt.ids + body:
        tokens = together[1]
    else:
        tokens = joined(prompt.tokens, own, len(prompt.text))
    return prompt.ids + numbers, joined(tokens, closing), prompt.text + text


def _reaches(tokenizer: Any, context: list[int], body: list[int]) -> list[tuple[int, str]]:
    """How many characters are written after 0, 1, ... tokens (those that are complete), and which."""

    def text(ids: list[int]) -> str:
        return str(tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))

    before = text(context)
    texts = [text(context + body[:count])[len(before) :] for count in range(len(body) + 1)]
    ends = accumulate((len(each.rstrip("\ufffd")) for each in texts), max)
    return list(zip(ends, texts, strict=True))


def spelled(adapter: TextAdapter, context: list[int], ids: list[int]) -> tuple[Tokens, str]:
    """What a model wrote after some tokens: its tokens with their characters, and the text."""
    reach = _reaches(adapter.processor, context[-CONTEXT:], ids)
    text = reach[-1][1]
    return _spelled(adapter, ids, text, [end for end, _ in reach]), text


def _spelled(adapter: TextAdapter, ids: list[int], text: str, ends: list[int]) -> Tokens:
    """Tokens with the characters that each completes; the parts of one character (bytes of an emoji) all have it."""
    spans: list[Span] = []
    for place in range(len(ids)):
        later = next((end for end in ends[place + 1 :] if end > ends[place]), len(text))
        spans.append((ends[place], later))
    words, number = [], 0
    for start, _ in spans:
        inside = 0 < start < len(text) and text[start - 1].isalnum() and text[start].isalnum()
        number += not inside
        words.append(number)
    return replace(numbered(adapter, ids), spans=tuple(spans), segments=(0,) * len(ids), words=tuple(words))


def numbered(adapter: TextAdapter, ids: list[int]) -> Tokens:
    """Tokens of which only the numbers are known."""
    tokenizer = adapter.processor
    specials = set(getattr(tokenizer, "all_special_ids", None) or ())
    return Tokens(token_names(tokenizer, ids), tuple(number in specials for number in ids))


def _bare(tokens: Tokens) -> Tokens:
    return Tokens(tokens.labels, tokens.special)


def joined(first: Tokens, second: Tokens, shift: int = 0) -> Tokens:
    """One after the other in one text; the characters of the second begin at `shift`.

    If only one of them knows its characters, those of the other stand for none.
    """
    labels, special = first.labels + second.labels, first.special + second.special
    kinds: dict[str, Any] = {
        name: (*_each(first, name), *_each(second, name)) for name in _KINDS if getattr(first, name) is not None
    }
    if first.spans is None and second.spans is None:
        return Tokens(labels, special, patches=first.patches, **kinds)
    known = max((word for word in first.words or () if word is not None), default=-1) + 1 if shift else 0
    spans = [None if span is None else (span[0] + shift, span[1] + shift) for span in _each(second, "spans")]
    words = [None if word is None else word + known for word in _each(second, "words")]
    return Tokens(
        labels,
        special,
        spans=(*_each(first, "spans"), *spans),
        segments=(*_each(first, "segments"), *_each(second, "segments")),
        words=(*_each(first, "words"), *words),
        patches=first.patches,
        **kinds,
    )


_KINDS = ("times", "bands", "places")
"""What tokens of a prompt may stand for beside characters."""


def _each(tokens: Tokens, name: str) -> tuple[Any, ...]:
    values: tuple[Any, ...] | None = getattr(tokens, name)
    return (None,) * len(tokens) if values is None else values


# -- chats -----------------------------------------------------------------------------------------------------------


def read_chat(adapter: TextAdapter, messages: Sequence[Mapping[str, Any]]) -> Encoding:
    """A chat as one input, through the tokenizer's own template: as it is for a model that judges it, up to where the next
    message begins for one that writes.

    Raises:
        InputError, ProcessorError: as `read_prompt`.
    """
    chat = _chat(adapter, messages, isinstance(adapter.head, NextTokenHead))
    row = torch.tensor([chat.ids])
    encoding = adapter.encode_arguments({"input_ids": row, "attention_mask": torch.ones_like(row)})
    return replace(encoding, tokens=(chat.tokens,), sources=(chat.text,))


def _chat(adapter: TextAdapter, messages: Sequence[Mapping[str, Any]], goes_on: bool = True) -> Prompt:
    """A chat through the tokenizer's own template; what is not of a message is special."""
    tokenizer = adapter.processor
    if tokenizer is None or not getattr(tokenizer, "chat_template", None):
        what = "there is no tokenizer" if tokenizer is None else "the tokenizer has no chat_template"
        raise ProcessorError(f"a chat is turned into a text by the tokenizer's template, but {what}: give a text")
    if not all(isinstance(message.get("content"), str) for message in messages):
        raise InputError("a message needs a text as its content: {'role': 'user', 'content': '...'}")
    texts = [message["content"] for message in messages]

    def render(words: Sequence[str]) -> str:
        told = [{**m, "content": word} for m, word in zip(messages, words, strict=True)]
        return _rendered(tokenizer, told, goes_on)

    text, said = render(texts), contents(render, texts)
    ids, tokens = adapter.tokens_of(text, specials=False)
    if tokens.spans is None:
        raise ProcessorError(
            "the template's tokens are located by their characters, which takes a fast tokenizer: load that one"
        )
    special = tuple(
        span is None or not any(span[0] < end and span[1] > start for start, end in said) for span in tokens.spans
    )
    spans = tuple(None if flag else span for flag, span in zip(special, tokens.spans, strict=True))
    return Prompt(ids, replace(tokens, special=special, spans=spans), text, chat=True)


def _rendered(tokenizer: Any, messages: Sequence[Mapping[str, Any]], goes_on: bool) -> str:
    return str(tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=goes_on))


def contents(render: Callable[[Sequence[str]], str], texts: Sequence[str]) -> list[Span]:
    """Where the texts of messages stand in a chat: between the parts that stay when other texts are rendered.

    Args:
        render: from the texts to the whole chat.
        texts: of the messages, in order.

    Raises:
        InputError: if the template does more than put the messages in their places.
    """
    marks = [f"qxz{number}zxq" for number in range(len(texts))]
    text, marked = render(texts), render(marks)
    found: list[Span] = []
    place = 0
    for own, mark in zip(texts, marks, strict=True):
        before, _, marked = marked.partition(mark)
        start = place + len(before)
        content = next((c for c in (own, own.strip()) if text.startswith(c, start)), None)
        if not text.startswith(before, place) or content is None:
            break
        place = start + len(content)
        found.append((start, place))
    if len(found) < len(texts) or text[place:] != marked:
        raise InputError(
            "the chat template changes the messages, so that it is not known which tokens are whose: render the chat with "
            "tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True), and give that text"
        )
    return found

"""What a processor makes of words and pictures: which inputs there are, and what its tokens are called.

`(picture, text)`, several pictures with a text, a chat whose messages hold pictures, or a page with its words and their boxes.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import SequenceMatcher
from functools import cached_property
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from ...errors import InputError, ProcessorError, UnsupportedModelError
from ...tokens import Span, Tokens
from ..encoding import Encoding
from ..heads import SpanHead
from ..picture import read_picture
from ..writing import contents, is_chat
from .experiments import FAILURES
from .guesses import mosaic
from .text import DiscoveredText

PIXELS = "pixel_values"
"""The argument that holds pictures; others that do begin in the same way."""
SEEN = (PIXELS, "visual_embeds")
"""How the arguments begin that hold pictures, or what something else saw in them."""
CROSSING = re.compile("cross_?att")
"""How modules are called in which words read a picture by attention of its own."""


@dataclass(frozen=True)
class Read:
    """An input of words and pictures.

    Args:
        text: as the processor is given it, with a placeholder for each picture if the model has one.
        pictures: upright, RGB.
        said: of a chat the characters of its messages; None if all of the text is the user's.
        boxes: of a page the words of the text, each with its box on the page, `(left, top, right, bottom)` in thousandths.
        question: what is asked about a page, word by word; it stands first in the text.
    """

    text: str
    pictures: tuple[Image.Image, ...]
    said: tuple[Span, ...] | None = None
    boxes: tuple[tuple[str, tuple[int, ...]], ...] | None = None
    question: tuple[str, ...] = ()


class ReadingBoth(DiscoveredText):
    """A model that takes words and pictures, with a processor for both."""

    whole: Any
    """The processor for both; None without."""
    crosses: bool = False
    """Whether the words read a picture by cross-attention, so that the words alone are explained, without one."""

    def read_mixed(self, value: Any) -> Read:
        """The text and the pictures of an input; see `encode`."""
        if self.crosses:
            raise CrossAttentionError(crossing(self.model))
        if self.whole is None:
            raise ProcessorError(
                "pictures and texts need the processor for both (AutoProcessor); without one, give model arguments "
                '{"input_ids": ..., "pixel_values": ...}'
            )
        if self.reads_pages:
            return _page(value, self.asks)
        if is_chat(value):
            return self._chat(value)
        pictures, text = _split(value)
        mark = self.placeholder
        if mark is not None and mark not in text:
            if getattr(self.whole, "chat_template", None):
                content = [{"type": "image", "image": picture} for picture in pictures]
                return self._chat([{"role": "user", "content": [*content, {"type": "text", "text": text}]}])
            text = mark * len(pictures) + text
        return Read(text, tuple(read_picture(picture) for picture in pictures))

    @cached_property
    def reads_pages(self) -> bool:
        """Whether the processor takes the words of a page with their boxes."""
        return self.whole is not None and "boxes" in inspect.signature(type(self.whole).__call__).parameters

    @property
    def asks(self) -> bool:
        """Whether what is explained is an answer to a question, which is found among the words."""
        return isinstance(self.head, SpanHead)

    @cached_property
    def placeholder(self) -> str | None:
        """What stands for a picture in a text; None if the processor needs nothing there, or puts it there itself."""
        for owner in (self.whole, self.processor):
            for name in ("boi_token", "image_token", "fake_image_token"):
                token = getattr(owner, name, None)
                token = getattr(token, "content", token)
                if isinstance(token, str):
                    return None if self._placed_twice(token) else token
        return None

    def _placed_twice(self, token: str) -> bool:
        """Whether the processor puts placeholders into a text also when there is one already."""
        picture, counts = Image.fromarray(mosaic(72, 48)), list[int]()
        for text in ("What?", f"{token}What?"):
            try:
                ids = self._arguments(text, [picture])["input_ids"]
            except ProcessorError:
                return sum(counts) > 0
            counts.append(int((ids == self.processor.convert_tokens_to_ids(token)).sum()))
        return 0 < counts[0] < counts[1]

    def _chat(self, messages: Sequence[Mapping[str, Any]]) -> Read:
        """Through the processor's own template; what is not of a message is special."""
        if not getattr(self.whole, "chat_template", None):
            raise ProcessorError(
                "a chat is turned into a text by the processor's template, but it has no chat_template: give (picture, text)"
            )
        found: list[Image.Image] = []
        plain = [{**message, "content": _parts(message.get("content"), found)} for message in messages]
        texts = [part["text"] for message in plain for part in message["content"] if part["type"] == "text"]

        def rendered(words: Sequence[str]) -> str:
            given = iter(words)
            return self._rendered(
                [
                    {
                        **message,
                        "content": [
                            {**part, "text": next(given)} if part["type"] == "text" else part
                            for part in message["content"]
                        ],
                    }
                    for message in plain
                ]
            )

        return Read(rendered(texts), tuple(found), tuple(contents(rendered, texts)))

    def _rendered(self, messages: list[dict[str, Any]]) -> str:
        whole: Any = self.whole
        return str(whole.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))

    def _arguments(
        self,
        text: str,
        pictures: Sequence[Image.Image],
        boxes: Sequence[tuple[str, Sequence[int]]] | None = None,
        question: Sequence[str] = (),
    ) -> dict[str, Tensor]:
        """What the processor makes of a text and its pictures, on the model's device; of a page without its words' boxes the
        pixels alone are right."""
        whole: Any = self.whole
        if self.reads_pages:
            texts, places = _of_page(boxes or [("a", (0, 0, 0, 0))], question)
            try:
                made = whole(list(pictures), *texts, boxes=places, return_tensors="pt")
            except FAILURES as error:
                raise ProcessorError(
                    f"{type(whole).__name__} does not take this page with its words and boxes: {error}"
                ) from error
            return self.place({n: v for n, v in made.items() if isinstance(v, Tensor) and self.takes(n)})
        bos = getattr(self.processor, "bos_token", None)
        options: dict[str, Any] = {"return_tensors": "pt"}
        if bos and text.startswith(bos):
            options["add_special_tokens"] = False
        try:
            made = whole(text=[text], images=list(pictures), **options)
        except FAILURES as first:
            try:
                made = whole(text=[text], images=[list(pictures)], **options)
            except FAILURES:
                raise ProcessorError(
                    f"{type(whole).__name__} does not take this text with {len(pictures)} pictures: {first}"
                ) from first
        found = {n: v for n, v in made.items() if isinstance(v, Tensor) and self.takes(n) and v.numel()}
        found.pop("labels", None)  # of training, for which the model would compute a loss
        return self.place(found)

    def _bare(self, arguments: Mapping[str, Tensor]) -> Encoding:
        """Model arguments whose tokens have their names alone."""
        ids = arguments["input_ids"]
        mask = arguments.get("attention_mask", torch.ones_like(ids)).bool()
        self._check_vocabulary(ids)
        specials = set(getattr(self.processor, "all_special_ids", None) or ())
        row = ids[0].tolist()
        return Encoding(arguments, mask, (self._tokens(row, [int(i in specials) for i in row], None, 0),), (None,))

    def _spelled(self, read: Read, encoding: Encoding) -> Tokens:
        """The tokens with the characters of those that the text itself has; others are the processor's, and special."""
        bos = getattr(self.processor, "bos_token", None)
        if read.boxes is not None:
            return self._spelled_page(read.boxes, read.question)
        own, tokens = self.tokens_of(read.text, specials=not (bos and read.text.startswith(bos)))
        ids = encoding.arguments["input_ids"][0].tolist()
        named = encoding.tokens[0].kept([at < len(ids) for at in range(len(encoding.tokens[0]))])
        if tokens.spans is None:
            return named
        from_own: list[int | None] = [None] * len(ids)
        for block in SequenceMatcher(None, own, ids, autojunk=False).get_matching_blocks():
            for step in range(block.size):
                from_own[block.b + step] = block.a + step
        spans: list[Span | None] = []
        words: list[int | None] = []
        specials = set(getattr(self.processor, "all_special_ids", None) or ())  # marks around a picture, e.g.
        for number, at in zip(ids, from_own, strict=True):
            span = None if at is None or tokens.special[at] or number in specials else tokens.spans[at]
            if span is not None and read.said is not None and not _within(span, read.said):
                span = None
            spans.append(span)
            words.append(None if span is None or at is None or tokens.words is None else tokens.words[at])
        special = tuple(span is None for span in spans)
        segments = tuple(None if span is None else 0 for span in spans)
        return replace(named, special=special, spans=tuple(spans), segments=segments, words=tuple(words))

    def _spelled_page(self, boxes: Sequence[tuple[str, Sequence[int]]], question: Sequence[str]) -> Tokens:
        """The tokens of a page's words, which are those of the text one after another, with a space between them; before them
        those of a question."""
        texts, places = _of_page(boxes, question)
        options = {"return_offsets_mapping": True, "return_special_tokens_mask": True}
        made = self.processor(*texts, boxes=places, **options)
        tokens = self._tokens(made["input_ids"][0], made["special_tokens_mask"][0], made, 0)
        starts = [0, *np.cumsum([len(word) + 1 for word in [*question, *(word for word, _ in boxes)]]).tolist()]
        words = tuple(
            None if word is None else word + len(question) * (segment == 1)
            for word, segment in zip(tokens.words or (), tokens.segments or (), strict=True)
        )
        spans = tuple(
            None if span is None or word is None else (starts[word] + span[0], starts[word] + span[1])
            for span, word in zip(tokens.spans or (), words, strict=True)
        )
        segments = tuple(None if span is None else 0 for span in spans)
        return replace(tokens, spans=spans, words=words, segments=segments)


class CrossAttentionError(UnsupportedModelError):
    """The words read the picture by cross-attention."""


def crosses(model: nn.Module) -> bool:
    """Whether words read a picture by attention of its own, by the names of its modules."""
    return any(CROSSING.search(name) for name, _ in model.named_modules())


def crossing(model: nn.Module, alone: bool = True) -> str:
    """Why such a model is not explained with a picture, and whether the words alone can be, or what to do else."""
    instead = (
        "Explain the words alone" if alone else "Use a model that reads both in one sequence, or gives classes of both"
    )
    return (
        f"{type(model).__name__} cannot be explained with a picture: its words read it by cross-attention, so that no one "
        f"sequence of tokens holds both. {instead}"
    )


# -- inputs ----------------------------------------------------------------------------------------------------------------


def is_text(value: Any) -> bool:
    """Whether an input has no picture: one text, or several."""
    return isinstance(value, str) or (isinstance(value, tuple) and all(isinstance(part, str) for part in value))


def _split(value: Any) -> tuple[list[Any], str]:
    """The pictures and the text of `(picture, text)`.

    Raises:
        InputError: if it is something else.
    """
    if isinstance(value, tuple) and len(value) == 2 and isinstance(value[1], str):
        pictures = list(value[0]) if isinstance(value[0], (list, tuple)) else [value[0]]
        if pictures and not value[1].strip():
            raise InputError("the text beside the picture is empty: say what is asked about it, e.g. 'What is this?'")
        if pictures:
            return pictures, value[1]
    shown = (
        f"a tuple of {', '.join(type(part).__name__ for part in value)}"
        if isinstance(value, tuple)
        else type(value).__name__
    )
    raise InputError(
        f"an input is a picture and a text, e.g. (picture, 'What animal is this?'), several pictures and a text, "
        f"((one, two), 'What differs?'), or a chat; got {shown}"
    )


def _page(value: Any, asks: bool) -> Read:
    """A page with its words and their boxes; for a model that answers questions with one, too.

    Raises:
        InputError: if it is something else, or the words and boxes do not fit each other.
    """
    count = 3 + asks
    if not isinstance(value, tuple) or len(value) != count or isinstance(value[-2], str):
        before, example = ("question, ", "'How much?', ") if asks else ("", "")
        raise InputError(
            f"this model reads a page with its words and their boxes: give (page, {before}words, boxes), e.g. "
            f"(picture, {example}['Total', '12'], [(40, 10, 120, 30), (130, 10, 160, 30)]), boxes in thousandths of the page"
        )
    page, *asked, words, boxes = value
    question = tuple(str(asked[0]).split()) if asks else ()
    if asks and not question:
        raise InputError("the question is empty: say what is asked about the page, e.g. 'How much?'")
    places = [tuple(int(number) for number in box) for box in boxes]
    if len(words) != len(places) or not len(words):
        raise InputError(
            f"a page has a box for each word, at least one; got {len(words)} words and {len(places)} boxes"
        )
    for word, place in zip(words, places, strict=True):
        if not isinstance(word, str) or not word.strip():
            raise InputError(f"the words of a page are texts, and not empty; got {word!r}")
        if len(place) != 4 or not all(0 <= number <= 1000 for number in place):
            raise InputError(
                f"a box is (left, top, right, bottom) in thousandths of the page, from 0 to 1000; {word!r} has {place}"
            )
    text = "\n".join(" ".join(part) for part in (question, words) if part)
    return Read(text, (read_picture(page),), boxes=tuple(zip(words, places, strict=True)), question=question)


def _of_page(boxes: Sequence[tuple[str, Sequence[int]]], question: Sequence[str]) -> tuple[list[Any], list[Any]]:
    """The texts of a page in rows, a question first if there is one, and the boxes, as processors take them."""
    words, places = zip(*boxes, strict=True)
    asked = [[" ".join(question)]] if question else []
    return [*asked, [list(words)]], [[list(place) for place in places]]


def _parts(content: Any, pictures: list[Image.Image]) -> list[dict[str, Any]]:
    """The parts of a message, as templates read them; its pictures are read and put into the list."""
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    found: list[dict[str, Any]] = []
    for part in content if isinstance(content, (list, tuple)) else [None]:
        kind = part.get("type") if isinstance(part, Mapping) else None
        part = part if isinstance(part, Mapping) else {}
        if kind == "text" and isinstance(part.get("text"), str):
            found.append({"type": "text", "text": part["text"]})
        elif (
            kind == "image"
            and (given := next((part[n] for n in ("image", "path", "url") if n in part), None)) is not None
        ):
            pictures.append(read_picture(given))
            found.append({"type": "image"})
        else:
            raise InputError(
                "a message's content is a text, or a list of {'type': 'text', 'text': ...} and {'type': 'image', 'image': ...}"
            )
    return found


def _within(span: Span, stretches: Sequence[Span]) -> bool:
    return any(span[0] < end and span[1] > start for start, end in stretches)

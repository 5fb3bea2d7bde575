"""A model that reads words and pictures in one sequence: where each patch lies on its picture, by experiment.

Its blocks are those of the language model (or of the one encoder that reads both), and its tokens those that its processor makes.
Which of them are a picture's is seen when the picture is exchanged: they change, and nothing else does. Where they lie is
guessed from what the processor shows to the model (ramps of grey say which part of the picture each of its frames or patches
has), and believed if single cells of the picture, painted over, move just the tokens that are said to lie there.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Hashable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, replace
from difflib import SequenceMatcher
from functools import cached_property, partial
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from ...capture.randomness import OwnRandomness
from ...capture.survey import Survey, Visit
from ...errors import InputError, OptionError, ProcessorError, UnsupportedModelError
from ...tokens import Asked, Interleaved, Patches, Place, Span, Tokens, View
from ..adapter import GUIDE
from ..bound import borrowed
from ..encoding import Encoding, content_of, together
from ..heads import Head, MaskedTokenHead, NextTokenHead, SpanHead, TokenHead
from ..picture import read_picture, to_pixels
from ..tower import Tower
from ..writing import Prompt, contents, is_chat
from .base import FAILED, Found, log
from .experiments import FAILURES, differ, first_states, logits_of, mixed, ordinary_tokens, replaced_before, rounding
from .guesses import Frame, Guess, Run, inverse, mosaic, numbers_of, painted_over, possible, row_of, run_of, seen_frames
from .text import LENGTH, DiscoveredText, surrounded
from .tower import find_tower

PIXELS = "pixel_values"
"""The argument that holds pictures; others that do begin in the same way."""
SEEN = (PIXELS, "visual_embeds")
"""How the arguments begin that hold pictures, or what something else saw in them."""
CROSSING = re.compile("cross_?att")
"""How modules are called in which words read a picture by attention of its own."""
TRIALS = 48
"""So many pictures are painted, and no more, to find where the tokens of one lie; each is a pass through the tower."""
KEPT = 256
"""Of so many sizes of pictures it is remembered where their tokens lie, so that strangers' pictures fill no memory."""
COARSE = 3
"""In grids of so few rows or columns a token has to be just where it is said to be; in finer ones a neighbour may answer, as
towers mix what they see."""


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


class DiscoveredMixed(DiscoveredText):
    """A model that reads words and pictures in one sequence."""

    family = "discovered vision-language model"
    beside: str | None = None
    """Where a picture's tokens stand if the text has no placeholders for them: `before` or `behind` its own; empty if it has
    placeholders, None if that is not known yet."""
    trial_picture: Mapping[str, Tensor] | None = None
    """While the model is inspected: the picture that it needs beside the words."""
    crosses: bool = False
    """Whether the words read a picture by cross-attention, so that the words alone are explained, without one."""
    alone: bool = True
    """Whether the model reads words without a picture."""
    lead: tuple[int, ...] = ()
    """While the model is inspected: the placeholders that it needs with this picture, in front of the words."""
    adds_between = True
    no_pictures: str | None = "it has no processor for both"
    """Why inputs with pictures share no forward pass; None if they do."""
    injected: str = ""
    """What of the pictures reaches the prediction past the first block."""

    def __init__(self, model: nn.Module, processor: Any = None) -> None:
        self._begin(processor)
        self.trial_picture = picture_for(model)
        try:
            super().__init__(model, getattr(processor, "tokenizer", processor))
        except UnsupportedModelError as error:
            self._check_crossing(error)
            raise
        self.beside = "behind" if self.own_tokens[1] else "" if self.lead else None
        self.alone = self.trial_picture is None
        if not self.alone:
            self.no_batch = "it reads no words without a picture"
        lead, picture = self.lead, self.trial_picture
        self.own_tokens, self.trial_picture, self.lead = (0, 0), None, ()
        if lead and self.whole is None:
            self.trial = self._given(picture or {}, lead)
        if self.whole is not None:
            try:
                self.trial = self._aimed(self.encode(self.samples()[:1]))
            except _CrossAttentionError:
                self.crosses = True
            except ProcessorError:  # of pages that are read with words and boxes, e.g.
                self.injected = "; its processor takes no (picture, text): give what it makes, as model arguments"
            else:
                self.injected = self._past(self.trial)
                self.no_pictures = self._why_no_pictures()
        log.info("%s", self.describe())

    def _begin(self, processor: Any) -> None:
        """Nothing is known yet."""
        self.whole = processor if hasattr(processor, "tokenizer") else None
        self.marks: set[int] = set()  # the token numbers that stand where a picture's tokens are
        self._runs: dict[Any, tuple[Run, ...]] = {}
        self._patches_of: dict[tuple[tuple[int, int], ...], Tower] = {}
        self._behinds: dict[tuple[str, ...], int] = {}  # what is said of a written token, by the names of the arguments
        self._before: dict[tuple[int, ...], int] = {}  # how many of a picture's tokens stand before the text

    def _given(self, picture: Mapping[str, Tensor], lead: tuple[int, ...]) -> Encoding:
        """The trial as a user without a processor gives it: a picture, and its placeholders in front of the words."""
        ids = torch.cat([torch.tensor(lead), ordinary_tokens(self, LENGTH)])[None]
        encoding = self.encode_arguments({"input_ids": ids, "attention_mask": torch.ones_like(ids), **picture})
        return self.head.point(encoding, [None])

    def _aimed(self, encoding: Encoding) -> Encoding:
        """At what follows, or the whole; of a tagger at one of the words."""
        tagged = (encoding.tokens[0].spans or ()) if type(self.head) is TokenHead else ()
        word = next((at for at, span in enumerate(tagged) if span is not None), None)
        return self.head.point(encoding, [word] * len(encoding.tokens))

    def _check_crossing(self, error: UnsupportedModelError) -> None:
        """A better reason, where the words read the picture by cross-attention, or no picture could be tried.

        Raises:
            UnsupportedModelError: if that is so.
        """
        if crosses(self.model):
            raise _CrossAttentionError(_crossing(self.model, alone=False)) from error
        pixels = inspect.signature(self.model.forward).parameters.get(PIXELS)
        if FAILED in str(error) and pixels and pixels.default is pixels.empty and picture_for(self.model) is None:
            raise UnsupportedModelError(
                f"{type(self.model).__name__} cannot be explained: it reads words with a picture alone, and its configuration "
                f"names no size of patches to try one. If it is made of blocks that attend once over all tokens, see {GUIDE}"
            ) from error

    @cached_property
    def length(self) -> int:
        """As of a text model; with a picture beside the text if the model takes none without, and with placeholders for it if
        it has to have these."""
        picture = self.trial_picture
        for self.trial_picture, needed in ((None, False), (picture, True), (picture, False)):
            try:
                self.lead = self._placeholders(self.place(self.trial_picture or {})) if needed else ()
                self._called(ordinary_tokens(self, LENGTH)[None])
                break
            except FAILURES:
                continue
        else:
            self.trial_picture, self.lead = None, ()
        vars(self).pop("head", None)  # was the classifier's, for this experiment
        return super().length

    @property
    def _mark(self) -> int | None:
        """The token number that stands for a part of a picture, if the model says it."""
        config: Any = getattr(self.model, "config", None)
        names = ("image_token_id", "image_token_index")
        return next((number for name in names if isinstance(number := getattr(config, name, None), int)), None)

    def _placeholders(self, picture: Mapping[str, Tensor]) -> tuple[int, ...]:
        """The token numbers that have to stand in a text for a picture; empty if the model does not say."""
        mark = self._mark
        if mark is None or not hasattr(self.model, "get_image_features"):
            return ()
        with borrowed(self) as own, torch.no_grad(), OwnRandomness():
            features: Any = own.model.get_image_features
            made = features(**picture)
        made = getattr(made, "pooler_output", made)
        count = sum(part[..., 0].numel() for part in (made if isinstance(made, (list, tuple)) else [made]))
        return (mark,) * count

    def completed(self, encoding: Encoding) -> Encoding:
        """With the picture that is tried, while the model is inspected."""
        if self.trial_picture is None:
            return super().completed(encoding)
        pictures = {n: v.expand(len(encoding.tokens), *v.shape[1:]) for n, v in self.trial_picture.items()}
        return super().completed(replace(encoding, arguments={**encoding.arguments, **self.place(pictures)}))

    def call(self, encoding: Encoding) -> Any:
        """With the placeholders that are tried; without those that only we have, as the model itself puts a picture's tokens
        before the text's."""
        arguments = encoding.arguments
        ids, lead = arguments["input_ids"], torch.tensor(self.lead, device=self.device)
        if self.trial_picture is not None and len(lead):
            ids = torch.cat([lead.expand(len(ids), -1), ids], 1)
            found = {**arguments, "input_ids": ids, "attention_mask": torch.ones_like(ids)}
            if "attention_mask" in arguments:
                found["attention_mask"][:, len(lead) :] = arguments["attention_mask"]
            return super().call(replace(encoding, arguments=found))
        if count := self._count_before(arguments):
            found = {n: v[:, count:] if v.shape == ids.shape else v for n, v in arguments.items()}
            return super().call(replace(encoding, arguments=found))
        return super().call(encoding)

    def _count_before(self, arguments: Mapping[str, Tensor]) -> int:
        """How many tokens of pictures the model itself puts before those of the text."""
        if self.beside != "before":
            return 0
        return next((self._before.get(_key(v), 0) for n, v in arguments.items() if n.startswith(SEEN)), 0)

    def _blocks_in(self, watched: Survey) -> Found:
        """Of a pass with a picture and placeholders for it the last line of blocks: those before see the picture alone."""
        if not self.lead:
            self._check_joint(watched)
            return super()._blocks_in(watched)
        line = [visit for visit in watched.visits if visit.is_block and visit.module in watched.listed]
        start = next((visit for visit in line if visit.parent is line[-1].parent), None)
        if start is None:
            return super()._blocks_in(watched)
        visits = [watched.visits[0], *watched.visits[watched.visits.index(start) :]]
        return super()._blocks_in(replace(watched, visits=visits, attention=watched.attention[start.before :]))

    def _check_joint(self, watched: Survey) -> None:
        """Blocks may read both only behind an encoder of the picture and one of the words (FLAVA).

        Raises:
            MeetingError: if that is so: the last of three lines of blocks is as long as the two before it together.
        """
        firsts = [line[0] for line in lines_of(watched)]
        if len(firsts) != 3 or self.trial_picture is None or firsts[2].length < firsts[0].length + firsts[1].length:
            return
        raise MeetingError(f"the words and the picture of {type(self.model).__name__} meet at {firsts[2].name}")

    def _own_tokens(self) -> tuple[int, int]:
        """Those of a picture, behind the text's; or in front of it, where it has placeholders."""
        if self.lead and self.found.length - self.length == len(self.lead):
            return len(self.lead), 0
        before, behind = super()._own_tokens()
        if before:
            raise self._unclear("a picture's tokens come before those of the text, which has no placeholders for them")
        return before, behind

    def _head_type(self) -> type[Head]:
        """As of a text model; one that writes may read a prompt in both directions, or have more embeddings than it can write."""
        found, model = super()._head_type(), self.model
        can: Any = getattr(model, "can_generate", None)
        writes = found is TokenHead or issubclass(found, MaskedTokenHead)
        return NextTokenHead if writes and callable(can) and can() else found

    def samples(self) -> Any:
        """Pictures that are not square, and questions of different lengths."""
        if self.whole is None:
            return super().samples()
        if self.reads_pages:
            asked = ("What is it?",) * self.asks
            boxes = [(200 * at, 40, 200 * at + 150, 90) for at in range(4)]
            return [(mosaic(72, 48), *asked, ["What", "is", "this", "?"], boxes)]
        return [(mosaic(72, 48), "What is this?"), (mosaic(72, 48, 1), "What is this, and what is behind it?")]

    def predict(self, encoding: Encoding) -> tuple[Any, Tensor]:
        """As for others; a tagger may tag the words alone, and not what stands behind them."""
        if self.beside != "behind" or type(self.head) is not TokenHead:
            return super().predict(encoding)
        output = self.call(encoding)
        logits, count = self.logits(output), encoding.arguments["input_ids"].shape[1]
        if isinstance(logits, Tensor) and logits.dim() == 3 and logits.shape[1] == count:
            logits = F.pad(logits, (0, 0, 0, encoding.mask.shape[1] - count))
        rows = self.head.rows(logits, encoding)
        if isinstance(output, MutableMapping):
            output["logits"] = rows  # what a target function finds there
        return output, rows

    def read(self, encoding: Encoding) -> Tensor:
        """As found; of a model that was tried with words alone, and counts from their end, among the words."""
        tokens, count = encoding.tokens[0], encoding.arguments["input_ids"].shape[1]
        more = encoding.mask.shape[1] - count
        if self.beside != "behind" or not self.alone or self.reads in ("all", "first") or more <= 0:
            return super().read(encoding)
        words = replace(
            encoding, mask=encoding.mask[:, :count], tokens=(tokens.kept([i < count for i in range(len(tokens))]),)
        )
        return F.pad(super().read(words), (0, more))

    @property
    def can_batch(self) -> bool:
        """Whether a padded batch of pictures and texts gave the logits of its rows; of texts alone see `alike`."""
        return self.no_pictures is None and not self.head.one_input

    def _why_no_pictures(self) -> str | None:
        """Why two pictures with questions of different lengths cannot share a forward pass; None if they can."""
        if getattr(self.processor, "pad_token_id", None) is None or self.pad_token in self.marks:
            return "its tokenizer has no padding token"
        if self.beside == "behind":
            return "a text's padding would stand before its picture"
        if self.position_axis == 0:
            return "its states have the batch behind the positions"
        rows = [self.encode([sample]) for sample in self.samples()]
        batch = self._aimed(together(rows, self.pad_token))
        try:
            logits, states = logits_of(self, batch), first_states(self, batch)[0].transpose(1, self.position_axis)
            for row, alone in enumerate(rows):
                if differ(logits_of(self, self._aimed(alone))[0], logits[row]):
                    return "padding or neighbours change its logits"
                if differ(self._states(alone), states[row, batch.mask[row]].float()):
                    return "padding or neighbours change what its first block takes"
        except FAILURES as error:
            return str(error).partition("\n")[0]
        return None

    def alike(self, value: Any) -> Hashable:
        """Texts alone, if these share batches, or pictures of the same sizes: processors make as many pixels and tiles of
        these."""
        if _is_text(value):
            return None if super().can_batch else object()
        return tuple(picture.size for picture in self.read_mixed(value).pictures)

    def is_one(self, value: Any) -> bool:
        """A chat is one input, though it is a list."""
        return is_chat(value)

    def cost(self, value: Any) -> int:
        """A picture has a few hundred tokens."""
        return super().cost(value) if _is_text(value) else 1024

    @property
    def _tokens_found(self) -> str:
        beside = f"; a picture's tokens stand {self.beside} those of the text" if self.beside else ""
        one = f"one at a time with pictures ({self.no_pictures})"
        batches = "in padded batches with pictures of equal sizes" if self.no_pictures is None else one
        if self.crosses:
            return f"{super()._tokens_found}; its words read a picture by cross-attention: words alone are explained"
        return f"{super()._tokens_found}; words and pictures in one sequence, {batches}{beside}{self.injected}"

    # -- what is read --------------------------------------------------------------------------------------------------

    def encode(self, inputs: Sequence[Any], *, truncation: bool = False) -> Encoding:
        """`(picture, text)`, `((picture, picture), text)`, a chat whose messages hold pictures, a text alone, or for a
        processor of pages `(page, words, boxes)`.

        Raises:
            InputError: if it is none of these, or there are several that cannot share a batch.
            ProcessorError: if there is no processor for both.
        """
        if not self.reads_pages and (self.head.one_input or all(map(_is_text, inputs))):  # a text with its choices
            if not self.alone:
                raise InputError(f"{type(self.model).__name__} reads no words without a picture: give (picture, text)")
            return super().encode(inputs, truncation=truncation)
        rows = [self.read_mixed(value) for value in inputs]
        if len(rows) > 1 and self.no_pictures is not None:
            raise InputError(
                f"inputs with pictures are explained one at a time ({self.no_pictures}), got {len(rows)} in one batch"
            )
        if len(rows) == 1:
            return self.encoded(rows[0])
        return together([self.encoded(read) for read in rows], self.pad_token)

    def encode_arguments(self, arguments: Mapping[str, Tensor]) -> Encoding:
        """As `TextAdapter`; those that hold pictures stay beside the tokens, which are named by experiment."""
        pixels = {n: torch.as_tensor(v) for n, v in arguments.items() if n.startswith(SEEN)}
        encoding = super().encode_arguments({n: v for n, v in arguments.items() if n not in pixels})
        if not pixels:
            return encoding
        if len(encoding.tokens) != 1:
            raise InputError(f"model arguments with pictures are one row of input_ids, got {len(encoding.tokens)}")
        encoding = self._beside_words(replace(encoding, arguments={**encoding.arguments, **self.place(pixels)}))
        key = tuple((n, *v.shape) for n, v in encoding.arguments.items() if v.shape[:2] != encoding.mask.shape)
        runs = self._known(key, encoding, lambda: self._runs_of_arguments(encoding))
        return replace(encoding, tokens=(self._placed_tokens(encoding, encoding.tokens[0], runs, None),))

    def read_mixed(self, value: Any) -> Read:
        """The text and the pictures of an input; see `encode`."""
        if self.crosses:
            raise _CrossAttentionError(_crossing(self.model))
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

    def encoded(self, read: Read) -> Encoding:
        """One input, ready for the model."""
        if not read.pictures:
            raise InputError("there is no picture in this input: give (picture, text), or the text alone")
        arguments = self._arguments(read.text, read.pictures, read.boxes, read.question)
        count = arguments["input_ids"].shape[1]
        # Beside a text, a picture takes none of its positions.
        if self.max_length is not None and count > self.max_length:
            what = "the text has" if self.beside else "the pictures and the text have"
            raise InputError(f"{what} {count} tokens, the model takes at most {self.max_length}")
        encoding = self._beside_words(self._bare(arguments))
        key = tuple(picture.size for picture in read.pictures)
        runs = self._known(key, encoding, lambda: self._runs_of(read, encoding))
        base = _extended(self._spelled(read, encoding), encoding.mask.shape[1])
        views = [picture.size for picture in read.pictures]
        tokens = self._placed_tokens(encoding, base, runs, views)
        pictures = tuple(to_pixels(picture) for picture in read.pictures)
        source = Interleaved(read.text, pictures)
        if read.question:
            source = Asked(read.text, pictures, len(" ".join(read.question)) + 1)
        return replace(encoding, tokens=(tokens,), sources=(source,))

    def _bare(self, arguments: Mapping[str, Tensor]) -> Encoding:
        """Model arguments whose tokens have their names alone."""
        ids = arguments["input_ids"]
        mask = arguments.get("attention_mask", torch.ones_like(ids)).bool()
        self._check_vocabulary(ids)
        specials = set(getattr(self.processor, "all_special_ids", None) or ())
        row = ids[0].tolist()
        return Encoding(arguments, mask, (self._tokens(row, [int(i in specials) for i in row], None, 0),), (None,))

    def _beside_words(self, encoding: Encoding) -> Encoding:
        """With the tokens of a picture that the model itself puts before or behind the text's, if it does."""
        if self.beside == "":
            return encoding
        if known := self._count_before(encoding.arguments):
            return _with_own(encoding, known)
        count = len(self._states(encoding)) - encoding.mask.shape[1]
        if self.beside is None:
            self.beside = self._side(encoding, count)
        if self.beside == "before":
            self._before.update((_key(v), count) for n, v in encoding.arguments.items() if n.startswith(SEEN))
            return _with_own(encoding, count)
        mask = F.pad(encoding.mask, (0, count), value=True)
        return replace(encoding, mask=mask, tokens=(_extended(encoding.tokens[0], encoding.mask.shape[1] + count),))

    def _side(self, encoding: Encoding, count: int) -> str:
        """On which side of the text's tokens a picture's stand, if there are more positions than placeholders: where a word is
        seen."""
        if not count:
            return ""
        moved = {others[0] - place if len(others) == 1 else None for place, others in mixed(self, encoding).items()}
        if count < 0 or moved - {count}:
            raise self._unclear(
                f"its first block has {count:+} positions beside the {encoding.mask.shape[1]} tokens of the text, and it is not "
                "known which of them stand for its words"
            )
        return "before" if moved else "behind"

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

    # -- the tokens ----------------------------------------------------------------------------------------------------

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

    def _placed_tokens(
        self, encoding: Encoding, tokens: Tokens, runs: Sequence[Run], sizes: Sequence[tuple[int, int]] | None
    ) -> Tokens:
        """The tokens with the pictures' in their places."""
        patches: list[Patches] = []
        places: list[Place | None] = [None] * len(tokens)
        labels, special = list(tokens.labels), list(tokens.special)
        spans = None if tokens.spans is None else list(tokens.spans)
        positions = iter(self._marked(encoding))
        for picture, run in enumerate(runs):
            first = len(patches)
            for grid, box in run.grids:
                view = None if sizes is None or box is None or grid is None else View(*sizes[picture], box)
                patches.append(Patches(picture, grid, view))
            for cell in run.cells:
                at = next(positions)
                special[at] = cell is None
                if spans is not None:
                    spans[at] = None
                if cell is None:
                    continue
                places[at] = (first + cell[0], cell[1])
                grid = run.grids[cell[0]][0]
                labels[at] = f"{cell[1] // grid[1]},{cell[1] % grid[1]}" if grid else f"query {cell[1]}"
        return replace(
            tokens,
            labels=tuple(labels),
            special=tuple(special),
            spans=None if spans is None else tuple(spans),
            patches=tuple(patches),
            places=tuple(places),
        )

    def _marked(self, encoding: Encoding) -> list[int]:
        """The positions whose token number says that a picture's token is there."""
        ids = encoding.arguments["input_ids"][0].tolist()
        if self.beside == "behind":
            return list(range(len(ids), encoding.mask.shape[1]))
        if count := self._count_before(encoding.arguments):
            return list(range(count))
        return [at for at, number in enumerate(ids) if number in self.marks]

    # -- where they lie ------------------------------------------------------------------------------------------------

    def _known(self, key: Any, encoding: Encoding, find: Any) -> tuple[Run, ...]:
        """The runs of pictures of these sizes, found when such pictures come for the first time."""
        known = self._runs.get(key)
        if known is None or sum(len(run.cells) for run in known) != len(self._marked(encoding)):
            known = find()
            for oldest in list(self._runs)[: max(0, len(self._runs) - KEPT + 1)]:
                self._runs.pop(oldest, None)
            self._runs[key] = known
        return known

    def _states(self, encoding: Encoding) -> Tensor:
        """What the first block takes, `[T, D]`."""
        seen = first_states(self, encoding)
        if not seen:
            raise self._unclear(f"its first block ({self.found.names[0]}) is not called with a picture")
        return seen[0].transpose(1, self.position_axis)[0].detach().float()

    def _changed(self, one: Tensor, other: Tensor) -> list[int]:
        """The positions at which two states differ by more than rounding."""
        if one.shape != other.shape:
            raise self._unclear(f"another picture of the same size gives {len(other)} tokens instead of {len(one)}")
        away = (one - other).abs().amax(-1) > rounding(one) * one.abs().max()
        return [int(place) for place in away.nonzero().flatten()]

    def _runs_of(self, read: Read, encoding: Encoding) -> tuple[Run, ...]:
        """Where the tokens of an input's pictures lie: each is exchanged, and painted cell by cell."""
        sizes = [picture.size for picture in read.pictures]
        base = [Image.fromarray(mosaic(*size, seed)) for seed, size in enumerate(sizes)]

        def states(pictures: Sequence[Image.Image]) -> Tensor:
            return self._states(self.repainted(encoding, read.text, pictures))

        plain = states(base)
        self._check_length(plain, encoding)
        changed = []
        for number, picture in enumerate(base):
            pictures = [*base[:number], inverse(picture), *base[number + 1 :]]
            changed.append(self._changed(plain, states(pictures)))
        stretches = self._stretches(encoding, changed)
        found = []
        for number, (mine, stretch) in enumerate(zip(changed, stretches, strict=True)):

            def painted(*boxes: tuple[float, float, float, float], number: int = number) -> Tensor:
                return states([*base[:number], painted_over(base[number], *boxes), *base[number + 1 :]])

            shown = self._shown(read, base, number)
            order, guess = mine, None
            for order, guesses in self._arranged(encoding, mine, shown, sizes[number]):
                if (guess := self._best(guesses, order, plain, painted)) is not None:
                    break
            found.append(run_of(order, stretch, guess))
        return tuple(found)

    def _arranged(
        self, encoding: Encoding, mine: list[int], shown: Sequence[Frame], size: tuple[int, int]
    ) -> Iterator[tuple[list[int], list[Guess]]]:
        """The tokens of a picture in an order in which grids may follow each other, with guesses at these."""
        yield mine, list(possible(mine, shown, size))

    def repainted(self, encoding: Encoding, text: str, pictures: Sequence[Image.Image]) -> Encoding:
        """One input with other pictures of the same sizes."""
        made = self._arguments(text, pictures)
        pixels = {name: value for name, value in made.items() if name.startswith(SEEN)}
        return replace(encoding, arguments={**encoding.arguments, **pixels})

    def _check_length(self, states: Tensor, encoding: Encoding) -> None:
        if len(states) != encoding.mask.shape[1]:
            raise self._unclear(
                f"its first block has {len(states)} positions for {encoding.mask.shape[1]} tokens: a picture's stand beside "
                "those of the text, which has no placeholders for them"
            )

    def _stretches(self, encoding: Encoding, changed: Sequence[Sequence[int]]) -> list[list[int]]:
        """For each picture the positions of its token numbers, also those that stay as they are."""
        ids = encoding.arguments["input_ids"][0].tolist()
        if not all(changed) and self._mark is not None and self._mark not in ids:
            raise InputError(
                f"input_ids hold no placeholder for the picture (token {self._mark}), so that the model does not read it: give "
                "what its processor makes of the picture and the text together"
            )
        if not all(changed):
            raise _CrossAttentionError(_crossing(self.model))
        if self.beside:
            if len(changed) > 1:
                raise InputError(f"{type(self.model).__name__} reads one picture beside a text, got {len(changed)}")
            return [self._marked(encoding)]
        self.marks.update(ids[at] for mine in changed for at in mine)  # also of copies with another head
        marked = self._marked(encoding)
        ends = [mine[0] for mine in changed[1:]] + [len(ids)]
        starts = [-1, *ends[:-1]]
        return [[at for at in marked if start <= at < end] for start, end in zip(starts, ends, strict=True)]

    def _best(self, guesses: Sequence[Guess], mine: Sequence[int], plain: Tensor, painted: Any) -> Guess | None:
        """The first guess in which every painted cell moves just the token that is said to lie there."""
        best, least, seen = None, 1 << 30, dict[Any, Tensor]()

        def painted_once(box: Any) -> Tensor:
            if box not in seen:
                seen[box] = painted(box)
            return seen[box]

        for guess in guesses:
            if len(seen) >= TRIALS:
                break
            off = guess.off(mine, plain, painted_once)
            if off < least:
                best, least = guess, off
            if not off:
                break
        if best is None:
            return None
        fine = all(min(grid) > COARSE for grid, _ in best.grids)
        if least <= int(fine):
            return best
        return self._in_any_order(guesses[0], mine, plain, painted) if self.beside else None

    def _in_any_order(self, guess: Guess, mine: Sequence[int], plain: Tensor, painted: Any) -> Guess | None:
        """Tokens that lie in no order (some models draw theirs), after the digits of the rows and columns that they answer to; no
        cell may have two."""
        (grid, box), *_ = guess.grids

        def change(axis: int, numbers: Sequence[int]) -> Tensor:
            boxes = [row_of(box, grid, axis, number) for number in numbers]
            return (painted(*boxes) - plain)[list(mine)].norm(dim=-1)

        rows, columns = (numbers_of(grid[axis], partial(change, axis)) for axis in (0, 1))
        order = tuple((rows * grid[1] + columns).tolist())
        return replace(guess, order=order) if sorted(order) == list(range(grid[0] * grid[1])) else None

    def _shown(self, read: Read, base: Sequence[Image.Image], number: int) -> list[Frame]:
        """Which part of a picture each frame (or patch) has that the processor gives to the model."""
        width, height = base[number].size
        across, down = (np.rint(np.linspace(0, 255, pixels)).astype(np.uint8) for pixels in (width, height))
        ramps = [
            np.zeros((height, width), np.uint8),
            np.full((height, width), 255, np.uint8),
            np.broadcast_to(across[None, :], (height, width)),
            np.broadcast_to(down[:, None], (height, width)),
        ]
        made = []
        for ramp in ramps:
            picture = Image.fromarray(np.ascontiguousarray(ramp)).convert("RGB")
            arguments = self._arguments(read.text, [*base[:number], picture, *base[number + 1 :]])
            name = next((n for n in arguments if n.startswith(SEEN)), None)
            if name is None:
                return []
            made.append(arguments[name].detach().double().cpu().numpy())
        if len({each.shape for each in made}) > 1:
            return []
        return seen_frames(made, width, height)

    def _runs_of_arguments(self, encoding: Encoding) -> tuple[Run, ...]:
        """Of model arguments: which tokens a picture's are, as one picture, and their grid if it is told by their number."""
        name = next(n for n in encoding.arguments if n.startswith(SEEN))
        pixels = encoding.arguments[name]
        plain = self._states(encoding)
        self._check_length(plain, encoding)

        def other(part: Tensor) -> Tensor:
            return self._states(replace(encoding, arguments={**encoding.arguments, name: part}))

        changed = self._changed_by_each(plain, pixels, other)
        stretches = self._stretches(encoding, changed)
        frames = pixels.flatten(0, 1) if pixels.dim() == 5 else pixels
        placed = frames.dim() == 4 and (len(frames) == 1 or pixels.dim() == 4)
        found = []
        for number, (mine, stretch) in enumerate(zip(changed, stretches, strict=True)):
            guess = (
                self._guess_of_pixels(plain, pixels, number, mine, other)
                if placed
                else _guess_of_counts(encoding, len(mine))
            )
            found.append(run_of(mine, stretch, guess))
        return tuple(found)

    def _changed_by_each(self, plain: Tensor, pixels: Tensor, other: Callable[[Tensor], Tensor]) -> list[list[int]]:
        """Which tokens change with the pixels: of several pictures for each, if each changes tokens of its own."""
        every = self._changed(plain, other(pixels.flip(-1) + 1))
        if pixels.dim() != 4 or len(pixels) == 1:
            return [every]
        each = []
        for number in range(len(pixels)):
            moved = pixels.clone()
            moved[number] += 1
            each.append(self._changed(plain, other(moved)))
        return each if all(each) and sum(map(len, each)) == len(every) else [every]

    def _guess_of_pixels(
        self, plain: Tensor, pixels: Tensor, number: int, mine: list[int], other: Callable[[Tensor], Tensor]
    ) -> Guess | None:
        """Where a picture's tokens lie on its pixels, as painting parts of them shows."""
        height, width = pixels.shape[-2:]

        def painted(*boxes: tuple[float, float, float, float]) -> Tensor:
            moved = pixels.clone()
            part = moved if pixels.dim() == 4 else moved.flatten(0, 1)
            for left, top, right, bottom in (map(round, box) for box in boxes):
                part[number, :, top:bottom, left:right] += 1
            return other(moved)

        guesses = list(possible(mine, [Frame((0.0, 0.0, width, height), (height, width))], (width, height)))
        return self._best(guesses, mine, plain, painted)

    def _past(self, encoding: Encoding) -> str:
        """What of a picture reaches the prediction when the first block's input is held."""
        pixels = {n: v for n, v in encoding.arguments.items() if n.startswith(SEEN)}
        other = replace(
            encoding, arguments={**encoding.arguments, **{n: v.flip(0) * 0.5 + 0.3 for n, v in pixels.items()}}
        )
        seen = first_states(self, encoding)
        before = logits_of(self, encoding)
        with borrowed(self) as own, replaced_before(own.blocks[0], seen[0]):
            after = logits_of(own, other)
        if not differ(before, after):
            return ""
        return (
            "; its tower also hands states to later blocks: what is added to those of a picture's tokens is counted there by "
            "gradient times input, and by no other method"
        )

    def tower(self, encoding: Encoding) -> Tower:
        """Where the tower's own patches lie, found when pictures of such sizes come for the first time.

        Raises:
            OptionError: if there is no tower, its patches form no grid, or there is no picture to try it with.
        """
        source = encoding.sources[0]
        if encoding.tokens[0].places is None:
            return super().tower(encoding)
        if not isinstance(source, Interleaved):
            raise OptionError("through_tower=True tries pictures, but these are model arguments: give (picture, text)")
        text, sizes = source.text, tuple((picture.shape[1], picture.shape[0]) for picture in source.pictures)

        def encoding_of(pictures: Sequence[Image.Image]) -> Encoding:
            return replace(encoding, arguments=self._arguments(text, pictures))

        def shown(pictures: Sequence[Image.Image], number: int) -> list[Frame]:
            return self._shown(Read(text, tuple(pictures)), pictures, number)

        if sizes not in self._patches_of:
            found = find_tower(self, sizes, encoding_of, shown)
            for oldest in list(self._patches_of)[: max(0, len(self._patches_of) - KEPT + 1)]:
                self._patches_of.pop(oldest, None)
            self._patches_of[sizes] = found
        return self._patches_of[sizes]

    # -- writing -------------------------------------------------------------------------------------------------------

    def prompt(self, value: Any) -> Prompt | None:
        """A prompt with pictures; None for what has none."""
        if isinstance(value, Mapping):
            if not any(str(name).startswith(SEEN) for name in value):
                return None
            encoding, text, pictures, chat = self.encode_arguments(value), None, (), False
        elif _is_text(value) or (is_chat(value) and all(isinstance(m.get("content"), str) for m in value)):
            return None
        else:
            read = self.read_mixed(value)
            encoding, text, chat = self.encoded(read), read.text, read.said is not None
            pictures = encoding.sources[0].pictures
            encoding = encoding if chat else self._open(encoding)
        ids = encoding.arguments["input_ids"][0].tolist()
        own = ("input_ids", "attention_mask")
        further = {n: v for n, v in encoding.arguments.items() if n not in own}
        found = Prompt(ids, encoding.tokens[0], text, chat, further, pictures, self._count_before(further))
        if tuple(sorted(further)) not in self._behinds:
            self._behind(found)
        return found

    def _open(self, encoding: Encoding) -> Encoding:
        """Without the special tokens that the tokenizer puts at the end: something follows here."""
        ids = encoding.arguments["input_ids"][0].tolist()
        specials, end = set(getattr(self.processor, "all_special_ids", None) or ()) - self.marks, len(ids)
        while end and ids[end - 1] in specials:
            end -= 1
        whole, tokens = encoding.mask.shape, encoding.tokens[0]
        arguments = {n: v[:, :end] if v.shape[:2] == whole else v for n, v in encoding.arguments.items()}
        kept = tokens.kept([at < end for at in range(len(ids))])
        return replace(encoding, arguments=arguments, mask=encoding.mask[:, :end], tokens=(kept,))

    def check_answer(self, prompt: Prompt, ids: Sequence[int]) -> None:
        """Refuse a placeholder of a picture in what was written.

        Raises:
            InputError: if there is one.
        """
        wrong = [at for at, number in enumerate(ids) if number in self.marks]
        if wrong and prompt.further:
            (number,) = {ids[at] for at in wrong[:1]}
            raise InputError(
                f"written token {wrong[0] + 1} of {len(ids)} is a picture's placeholder (number {number}), for which there is no "
                f"picture: leave it out of the answer, or let the model not write it, generate(..., suppress_tokens=[{number}])"
            )

    def lengthened(self, further: Mapping[str, Tensor], start: int, length: int) -> Mapping[str, Tensor]:
        """With what the processor says of each token said of the later ones too: that they are text."""
        behind = self._behinds.get(tuple(sorted(further)), 0)
        return {
            name: F.pad(value, (0, length - start), value=behind) if value.shape == (1, start) else value
            for name, value in further.items()
        }

    def _behind(self, prompt: Prompt) -> None:
        """Find what is said of a token behind a prompt, so that the prediction of the prompt itself stays.

        Some models read a prompt in both directions, and are told by such a number where it ends.

        Raises:
            UnsupportedModelError: if the prediction changes with what follows it, whatever is said.
        """
        length = len(prompt.ids)
        if not any(value.shape == (1, length) for value in prompt.further.values()):
            return
        ids = torch.tensor([[*prompt.ids, prompt.ids[-1]]], device=self.device)
        plain, logits = self.with_head(NextTokenHead), []
        for behind in (None, 0, 1):
            end = length + (behind is not None)
            self._behinds[tuple(sorted(prompt.further))] = behind or 0
            arguments = {"input_ids": ids[:, :end], "attention_mask": torch.ones_like(ids[:, :end])}
            arguments |= self.lengthened(prompt.further, length, end)
            mask, names = arguments["attention_mask"].bool(), Tokens(("",) * end, (False,) * end)
            encoding = Encoding(
                arguments, mask, (names,), (None,), focus=torch.tensor([length - 1], device=self.device)
            )
            logits.append(logits_of(plain, encoding))
            if behind is not None and not differ(logits[0], logits[-1]):
                return
        del self._behinds[tuple(sorted(prompt.further))]
        raise UnsupportedModelError(
            f"{type(self.model).__name__} reads its prompt and what follows it in both directions: what it writes cannot be "
            "explained in one pass"
        )

    # -- removing ------------------------------------------------------------------------------------------------------

    removals: ClassVar[tuple[str, ...]] = ("mask", "pad")

    def remove(self, encoding: Encoding, removed: Tensor | None = None, how: str | None = None) -> Encoding:
        """Words become mask or padding tokens, and of the pictures the removed patches take their mean colour.

        Raises:
            OptionError: if there is no such way, or a picture's tokens lie nowhere in it, and only some are removed.
        """
        if all(tokens.places is None for tokens in encoding.tokens):
            return super().remove(encoding, removed, how)
        removed = content_of(encoding) if removed is None else removed & encoding.mask
        words, pixels = removed.clone(), list[dict[str, Tensor]]()
        for row, tokens in enumerate(encoding.tokens):
            real, given = encoding.mask[row], tokens.places or (None,) * len(tokens)
            flags = removed[row, real].tolist()
            places = [place if flag else None for place, flag in zip(given, flags, strict=True)]
            words[row, real] &= torch.tensor([place is None for place in given], device=removed.device)
            pixels.append(self._pixels_without(encoding.rows([row]), places))
        ids = encoding.arguments["input_ids"]
        token = self.blank_token if self.removal(how) == "mask" else self.pad_token
        ids = ids.masked_fill(words[:, : ids.shape[1]], token)
        seen = {name: torch.cat([row[name] for row in pixels]) for name in pixels[0]}
        return replace(encoding, arguments={**encoding.arguments, "input_ids": ids, **seen})

    def _pixels_without(self, encoding: Encoding, places: Sequence[Place | None]) -> dict[str, Tensor]:
        """The pixels of one example, without cells if there are such."""
        if any(place is not None for place in places):
            return self._without(encoding, places)
        return {name: value for name, value in encoding.arguments.items() if name.startswith(SEEN)}

    def _without(self, encoding: Encoding, places: Sequence[Place | None]) -> dict[str, Tensor]:
        """The pixels with the mean colour in place of cells."""
        tokens, source = encoding.tokens[0], encoding.sources[0]
        assert tokens.patches is not None
        if not isinstance(source, Interleaved):
            raise OptionError("patches are removed from pictures, but these are model arguments: give (picture, text)")
        pictures = [picture.copy() for picture in source.pictures]
        placed = {
            patches.picture for patches in tokens.patches if patches.grid is not None and patches.view is not None
        }
        for number, patches in enumerate(tokens.patches):
            cells = {place[1] for place in places if place is not None and place[0] == number}
            every = sum(place is not None and place[0] == number for place in tokens.places or ())
            whole = patches.grid is None
            if not cells or (whole and patches.picture in placed):
                continue  # what stands for all of a picture whose other tokens lie on it says what these say
            picture = pictures[patches.picture]
            colour = source.pictures[patches.picture].reshape(-1, 3).mean(0).round().astype(np.uint8)
            if len(cells) == every:
                area = np.ones(picture.shape[:2], bool)
            elif whole or patches.view is None:
                raise OptionError("the tokens of this picture lie nowhere in it: remove all of them, or none")
            else:
                assert patches.grid is not None
                area = np.isin(patches.view.cells(patches.grid), list(cells))
            picture[area] = colour
        made = self._arguments(source.text, [Image.fromarray(picture) for picture in pictures])
        return {name: value for name, value in made.items() if name.startswith(SEEN)}


class _CrossAttentionError(UnsupportedModelError):
    """The words read the picture by cross-attention."""


def lines_of(watched: Survey) -> list[list[Visit]]:
    """The calls of the blocks of each list of modules, in order."""
    found: dict[str, list[Visit]] = {}
    for visit in watched.visits:
        if visit.is_block and visit.module in watched.listed:
            found.setdefault(visit.name.rpartition(".")[0], []).append(visit)
    return list(found.values())


class MeetingError(UnsupportedModelError):
    """The words and the picture are each read by an encoder of their own before blocks read both."""


def crosses(model: nn.Module) -> bool:
    """Whether words read a picture by attention of its own, by the names of its modules."""
    return any(CROSSING.search(name) for name, _ in model.named_modules())


def _crossing(model: nn.Module, alone: bool = True) -> str:
    instead = (
        "Explain the words alone" if alone else "Use a model that reads both in one sequence, or gives classes of both"
    )
    return (
        f"{type(model).__name__} cannot be explained with a picture: its words read it by cross-attention, so that no one "
        f"sequence of tokens holds both. {instead}"
    )


# -- inputs ----------------------------------------------------------------------------------------------------------------


def _is_text(value: Any) -> bool:
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


def _guess_of_counts(encoding: Encoding, count: int) -> Guess | None:
    """The grid of a picture whose `count` tokens each hold a square of the patches that the arguments count, as Qwen-VL's do."""
    grids = encoding.arguments.get("image_grid_thw")
    if grids is None or len(grids) != 1:
        return None
    frames, rows, columns = grids[0].tolist()
    merged = frames * rows * columns / max(1, count)
    side = round(merged**0.5)
    if side * side != merged or rows % side or columns % side or frames != 1:
        return None
    return Guess((((rows // side, columns // side), (0.0, 0.0, 1.0, 1.0)),))


def _extended(tokens: Tokens, count: int) -> Tokens:
    """With special tokens behind them, up to so many."""
    more = [f"[own {number}]" for number in range(1, count - len(tokens) + 1)]
    return surrounded(tokens, [], more) if more else tokens


def picture_for(model: nn.Module) -> dict[str, Tensor] | None:
    """A small picture of noise, of whole patches, or one of the model's own size where an encoder of pictures beside one of texts
    may take no other; None if the configuration names no size of patches."""
    config = getattr(model, "config", None)
    apart = getattr(config, "image_config", None)
    owners = (getattr(config, "vision_config", None), apart, config)
    found = [(owner, side) for owner in owners if isinstance(side := getattr(owner, "patch_size", None), int)]
    if not found:
        return None
    owner, patch = found[0]
    own = getattr(owner, "image_size", None)
    side = own if owner is apart and isinstance(own, int) else 4 * patch
    return {PIXELS: torch.randn(1, 3, side, side, generator=torch.Generator().manual_seed(0))}


def _key(pixels: Tensor) -> tuple[int, ...]:
    """What says how many tokens a picture has."""
    return tuple(pixels.shape[1:])


def _with_own(encoding: Encoding, count: int) -> Encoding:
    """With so many tokens before those of the text, for which the model itself has no token numbers."""
    arguments, shape = encoding.arguments, encoding.mask.shape
    found = {
        n: F.pad(v, (count, 0), value=int(n == "attention_mask")) if v.shape == shape else v
        for n, v in arguments.items()
    }
    tokens = surrounded(encoding.tokens[0], [f"[own {number}]" for number in range(1, count + 1)], [])
    return replace(encoding, arguments=found, mask=F.pad(encoding.mask, (count, 0), value=True), tokens=(tokens,))


def _within(span: Span, stretches: Sequence[Span]) -> bool:
    return any(span[0] < end and span[1] > start for start, end in stretches)

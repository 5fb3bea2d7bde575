"""A model that reads words and pictures in one sequence, which no adapter knows.

Its blocks are those of the language model (or of the one encoder that reads both), and its tokens those that its processor makes:
see `reading`. Where each patch lies on its picture is found by experiment: see `placing`.
"""

from __future__ import annotations

import inspect
from collections.abc import Hashable, Mapping, MutableMapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from ...capture.randomness import OwnRandomness
from ...capture.survey import Survey, Visit
from ...errors import InputError, OptionError, ProcessorError, UnsupportedModelError
from ...tokens import Asked, Interleaved, Place, Tokens
from ..adapter import GUIDE
from ..bound import borrowed
from ..encoding import Encoding, content_of, together
from ..heads import Head, MaskedTokenHead, NextTokenHead, TokenHead
from ..picture import to_pixels
from ..tower import Tower
from ..writing import Prompt, is_chat
from .base import FAILED, Found, log
from .experiments import FAILURES, differ, first_states, logits_of, mixed, ordinary_tokens, replaced_before
from .guesses import Run, mosaic
from .placing import PlacingBoth, picture_key
from .reading import PIXELS, SEEN, CrossAttentionError, Read, crosses, crossing, is_text
from .text import LENGTH, surrounded


class DiscoveredMixed(PlacingBoth):
    """A model that reads words and pictures in one sequence."""

    family = "discovered vision-language model"
    trial_picture: Mapping[str, Tensor] | None = None
    """While the model is inspected: the picture that it needs beside the words."""
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
            except CrossAttentionError:
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
            raise CrossAttentionError(crossing(self.model, alone=False)) from error
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
        if is_text(value):
            return None if super().can_batch else object()
        return tuple(picture.size for picture in self.read_mixed(value).pictures)

    def is_one(self, value: Any) -> bool:
        """A chat is one input, though it is a list."""
        return is_chat(value)

    def cost(self, value: Any) -> int:
        """A picture has a few hundred tokens."""
        return super().cost(value) if is_text(value) else 1024

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
        if not self.reads_pages and (self.head.one_input or all(map(is_text, inputs))):  # a text with its choices
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
            self._before.update((picture_key(v), count) for n, v in encoding.arguments.items() if n.startswith(SEEN))
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

    # -- writing -------------------------------------------------------------------------------------------------------

    def prompt(self, value: Any) -> Prompt | None:
        """A prompt with pictures; None for what has none."""
        if isinstance(value, Mapping):
            if not any(str(name).startswith(SEEN) for name in value):
                return None
            encoding, text, pictures, chat = self.encode_arguments(value), None, (), False
        elif is_text(value) or (is_chat(value) and all(isinstance(m.get("content"), str) for m in value)):
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


def lines_of(watched: Survey) -> list[list[Visit]]:
    """The calls of the blocks of each list of modules, in order."""
    found: dict[str, list[Visit]] = {}
    for visit in watched.visits:
        if visit.is_block and visit.module in watched.listed:
            found.setdefault(visit.name.rpartition(".")[0], []).append(visit)
    return list(found.values())


class MeetingError(UnsupportedModelError):
    """The words and the picture are each read by an encoder of their own before blocks read both."""


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


def _with_own(encoding: Encoding, count: int) -> Encoding:
    """With so many tokens before those of the text, for which the model itself has no token numbers."""
    arguments, shape = encoding.arguments, encoding.mask.shape
    found = {
        n: F.pad(v, (count, 0), value=int(n == "attention_mask")) if v.shape == shape else v
        for n, v in arguments.items()
    }
    tokens = surrounded(encoding.tokens[0], [f"[own {number}]" for number in range(1, count + 1)], [])
    return replace(encoding, arguments=found, mask=F.pad(encoding.mask, (count, 0), value=True), tokens=(tokens,))

"""Models that read `input_ids`, with a transformers tokenizer."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..errors import InputError, Option, OptionError, ProcessorError, TooLongError
from ..tokens import Span, Tokens
from .adapter import Adapter
from .encoding import Encoding, checked_arguments, content_of, first_of
from .tokenizer import token_names, undisturbed
from .wrappers import input_embeddings


class TextAdapter(Adapter):
    """A model that reads `input_ids`, with a transformers tokenizer."""

    classes_with_head = (
        "AutoModelForSequenceClassification, or the AutoModelFor... of its task (TokenClassification, QuestionAnswering, "
        "MaskedLM, CausalLM)"
    )
    ignored_arguments: ClassVar[tuple[str, ...]] = ()
    """What the tokenizer makes but the model does not accept."""
    positions_lost: ClassVar[int] = 0
    """How many of the position embeddings cannot be used."""
    own_tokens: tuple[int, int] = (0, 0)
    """How many tokens the model itself puts before and behind those of the text."""
    fixed_length: int | None = None
    """The number of tokens that every text has to have, if the model takes no others; shorter ones are padded."""

    @property
    def reader(self) -> nn.Module:
        """The part of the model that has the word embeddings."""
        return self.model

    @cached_property
    def max_length(self) -> int | None:
        """The most tokens that the model takes, specials included; None if there is no limit."""
        limits = (self.positions, getattr(self.processor, "model_max_length", None))
        return min((limit for limit in limits if isinstance(limit, int) and limit < 10**9), default=None)

    @property
    def positions(self) -> int | None:
        """The most tokens that the model has positions for; None if its configuration names no limit."""
        positions = getattr(getattr(self.model, "config", None), "max_position_embeddings", None)
        return positions - self.positions_lost if isinstance(positions, int) and positions > 0 else None

    @property
    def pad_id(self) -> int | None:
        """The model's padding token."""
        pad = getattr(getattr(self.model, "config", None), "pad_token_id", None)
        return pad if isinstance(pad, int) else None

    def samples(self) -> Any:
        """Texts that suit the head, if there is a tokenizer."""
        return None if self.processor is None else self.head.samples()

    def cost(self, value: Any) -> int:
        """Four characters to a token, as in English."""
        return sum(2 + sum(map(len, _parts(_checked_text(text)))) // 4 for text in self.head.texts(value))

    def read(self, encoding: Encoding) -> Tensor:
        """The first real token."""
        return first_of(encoding.mask)

    def encode(self, inputs: Sequence[Any], *, truncation: bool = False) -> Encoding:
        """Tokenize strings or pairs of strings; see `Adapter.encode`. A text that is too long is a `TooLongError`."""
        self._check_tokenizer()
        if truncation not in (True, False, None):
            raise OptionError(Option("truncation", truncation), ": expected True or False")
        texts = [_checked_text(text) for value in inputs for text in self.head.texts(value)]
        first = [text if isinstance(text, str) else text[0] for text in texts]
        second = [text[1] for text in texts if isinstance(text, tuple)]
        if second and len(second) != len(texts):
            raise InputError("single texts and pairs cannot share a batch: explain them in separate calls")
        options = {"truncation": truncation, "max_length": self.max_length} if truncation else {"truncation": False}
        batch = self._tokenize(first, second, **options)
        lengths = [len(ids) for ids in batch["input_ids"]]
        dropped = self._check_lengths(lengths, first, second, truncation)
        return self._encoding(batch, tuple(texts), dropped)

    def encode_windows(self, text: Any, size: int | None = None) -> tuple[Encoding, Tokens]:
        """Split a text that is too long into windows that overlap by about a quarter.

        Args:
            text: a string; or a pair, whose second text is split, while the first is repeated in every window.
            size: tokens in a window, specials included; by default as many as the model takes.

        Returns:
            The windows as one batch, and the tokens of the whole text. One window, if the text fits.

        Raises:
            InputError: if the first text of a pair leaves no room, or the model has no limit and no size is given.
            ProcessorError: if the tokenizer gives no character offsets.
        """
        self._check_tokenizer()
        checked = _checked_text(text)
        first, second = ([checked], []) if isinstance(checked, str) else ([checked[0]], [checked[1]])
        if not getattr(self.processor, "is_fast", False):
            raise ProcessorError("windows are joined by characters, which needs a fast tokenizer: load that one")
        limit = self.max_length
        size = limit if size is None else size if limit is None else min(size, limit)
        whole = self._tokenize(first, second, truncation=False)
        tokens = self._tokens(whole["input_ids"][0], whole["special_tokens_mask"][0], whole, 0)
        if size is None or len(tokens) <= size:
            return self._encoding(whole, (checked,), ()), tokens
        cut = sum(segment == len(first + second) - 1 for segment in tokens.segments or ())
        room = size - (len(tokens) - cut)
        if room < 2:
            raise InputError(
                f"a window of {size} tokens leaves {max(0, room)} for the text that is split: expected at least 2"
                + (", shorten the first text" if second else ", make the window larger")
            )
        batch = self._tokenize(
            first,
            second,
            truncation="only_second" if second else "only_first",
            max_length=size,
            stride=min(size // 4, room // 2),
            return_overflowing_tokens=True,
        )
        return self._encoding(batch, (checked,) * len(batch["input_ids"]), ()), tokens

    def tokens_of(self, text: str, *, specials: bool = True, target: bool = False) -> tuple[list[int], Tokens]:
        """The token numbers of one text of any length, and what they stand for.

        Args:
            text: the text.
            specials: whether the tokenizer adds its special tokens.
            target: whether it is what a translation should be, which some tokenizers mark by other tokens.

        Raises:
            ProcessorError: if there is no tokenizer.
        """
        self._check_tokenizer()
        options = {"truncation": False, "add_special_tokens": specials}
        batch = (
            self._tokenize([], [], text_target=[text], **options) if target else self._tokenize([text], [], **options)
        )
        ids = list(batch["input_ids"][0])
        known = batch if "offset_mapping" in batch else None
        return ids, self._tokens(ids, batch["special_tokens_mask"][0], known, 0)

    def _tokenize(self, first: list[str], second: list[str], **options: Any) -> Any:
        with undisturbed(self.processor) as tokenizer:
            return tokenizer(
                first or None,
                second or None,
                return_special_tokens_mask=True,
                return_offsets_mapping=bool(getattr(tokenizer, "is_fast", False)),
                return_attention_mask=True,
                verbose=False,
                **options,
            )

    def _encoding(self, batch: Any, texts: tuple[Any, ...], dropped: tuple[int, ...]) -> Encoding:
        """What the tokenizer made, as tensors."""
        lengths = [len(ids) for ids in batch["input_ids"]]
        known = batch if "offset_mapping" in batch else None
        tokens = tuple(
            self._tokens(batch["input_ids"][row], batch["special_tokens_mask"][row], known, row)
            for row in range(len(texts))
        )
        names = [n for n in self.processor.model_input_names if n in batch and n not in self.ignored_arguments]
        if len(set(lengths)) > 1 or len(texts) > 1:
            columns = {name: batch[name] for name in names}
            # On the right, whatever the tokenizer says: GPT-2 counts positions from the first column.
            padded = self.processor.pad(columns, padding=True, padding_side="right", return_tensors="pt")
            arguments = {name: padded[name] for name in names}
        else:
            arguments = {name: torch.tensor(batch[name]) for name in names}
        self._check_vocabulary(arguments["input_ids"])
        arguments = self.place(arguments)
        return self.completed(Encoding(arguments, arguments["attention_mask"].bool(), tokens, texts, dropped))

    def completed(self, encoding: Encoding) -> Encoding:
        """A batch as the tokenizer made it, with what the model itself puts beside the text's tokens."""
        return encoding

    def encode_arguments(self, arguments: Mapping[str, Tensor]) -> Encoding:
        """Name the tokens of `input_ids` `[B, T]` (or `[T]`) and their `attention_mask`; see `Adapter.encode_arguments`."""
        if "input_ids" not in arguments:
            raise InputError(f"model arguments for a text model need 'input_ids', got {', '.join(arguments) or 'none'}")
        placed = self.place(checked_arguments({n: v for n, v in arguments.items() if n not in self.ignored_arguments}))
        length = placed["input_ids"].shape[-1:]  # other vectors say something of each picture, and stay
        placed = {n: v[None] if v.dim() == 1 and v.shape == length else v for n, v in placed.items()}
        ids = placed["input_ids"]
        if ids.dim() != 2 or ids.is_floating_point() or ids.dtype == torch.bool or ids.numel() == 0:
            raise InputError(f"input_ids must be integers [B, T], got {ids.dtype} of shape {tuple(ids.shape)}")
        # Models look up numbers of 32 or 64 bits alone.
        placed |= {n: v.long() for n, v in placed.items() if v.dtype in (torch.uint8, torch.int8, torch.int16)}
        ids = placed["input_ids"]
        if int(ids.min()) < 0:
            raise InputError(
                f"input_ids hold {int(ids.min())}: token numbers begin at 0; mark padding in attention_mask"
            )
        self._check_vocabulary(ids)
        self._check_segments(placed.get("token_type_ids"), ids)
        given = placed.get("attention_mask", torch.ones_like(ids))
        mask = given.bool()
        if not (given == mask).all():
            raise InputError("attention_mask must hold 1 for real tokens and 0 for padding, and nothing else")
        if mask.shape != ids.shape or not mask.any(-1).all():
            raise InputError(
                f"attention_mask {tuple(mask.shape)} must mark real tokens in each row of input_ids {tuple(ids.shape)}"
            )
        if self.max_length is not None and ids.shape[1] > self.max_length:
            raise TooLongError(f"input_ids have {ids.shape[1]} tokens, the model takes at most {self.max_length}")
        specials = set(getattr(self.processor, "all_special_ids", None) or ())
        rows = [row[real].tolist() for row, real in zip(ids, mask, strict=True)]
        tokens = tuple(self._tokens(row, [int(i in specials) for i in row], None, 0) for row in rows)
        return self.completed(Encoding(placed, mask, tokens, (None,) * len(rows)))

    def prompt(self, value: Any) -> Any:
        """An input of a kind of its own as a `Prompt`; None for texts, chats of texts and model arguments."""
        return None

    def check_answer(self, prompt: Any, ids: Sequence[int]) -> None:
        """Refuse an answer, as token numbers, that cannot stand behind a `Prompt`; by default none.

        Raises:
            InputError: for an adapter that knows such answers.
        """
        return

    def lengthened(self, further: Mapping[str, Tensor], start: int, length: int) -> Mapping[str, Tensor]:
        """What belongs to a prompt of `start` tokens beside these, for a sequence of `length`."""
        return further

    removals: ClassVar[tuple[str, ...]] = ("mask", "pad", "delete")

    def remove(self, encoding: Encoding, removed: Tensor | None = None, how: str | None = None) -> Encoding:
        """Mask tokens (or unknown ones) or padding tokens in place of what is removed, or a shorter text.

        `[PAD]` in the middle of a text is seen by the model: the attention mask stays. If deletion leaves nothing of a text,
        one mask token stays. See `Adapter.remove`.

        Raises:
            OptionError: if the head would read another token, because it reads the last that is not padding; or if the
                token whose prediction is explained would be deleted.
        """
        how = self.removal(how)
        removed = content_of(encoding) if removed is None else removed & encoding.mask
        if not removed.any():
            return encoding
        if how == "delete":
            return self._delete(encoding, removed)
        token = self.blank_token if how == "mask" else self.pad_token
        ids = encoding.arguments["input_ids"].masked_fill(removed, token)
        found = replace(encoding, arguments={**encoding.arguments, "input_ids": ids})
        if how == "pad" and not self.head.reads_alike(encoding, found):
            raise OptionError(
                f"{type(self.model).__name__} reads the last token that is not padding: use the removal mask or delete"
            )
        return found

    def _delete(self, encoding: Encoding, removed: Tensor) -> Encoding:
        """A shorter batch: what stays moves to the left, in order, and with it the position that is explained."""
        empty = (encoding.mask & ~removed).sum(-1, keepdim=True) == 0
        first = first_of(encoding.mask)
        ids = encoding.arguments["input_ids"].masked_fill(empty & first, self.blank_token)
        removed = removed & ~(empty & first)
        kept = encoding.mask & ~removed
        order = (~kept).long().argsort(dim=-1, stable=True)[:, : int(kept.sum(-1).max())]
        mask = kept.gather(1, order)
        focus = encoding.focus
        if focus is not None:
            if not kept.gather(1, focus[:, None]).all():
                raise OptionError(
                    "the token whose prediction is explained cannot be deleted: keep it, or use the removal mask"
                )
            focus = kept.cumsum(1).gather(1, focus[:, None]).squeeze(1) - 1
        arguments = {
            name: value.gather(1, order).masked_fill(~mask, 0) if value.shape == kept.shape else value
            for name, value in {**encoding.arguments, "input_ids": ids}.items()
        }
        if not mask.all():
            arguments["input_ids"] = arguments["input_ids"].masked_fill(~mask, self.pad_token)
            arguments["attention_mask"] = mask.to(encoding.arguments["input_ids"].dtype)
        flags = [kept[row, encoding.mask[row]].tolist() for row in range(len(kept))]
        tokens = tuple(t.kept(flag) for t, flag in zip(encoding.tokens, flags, strict=True))
        return replace(encoding, arguments=arguments, mask=mask, tokens=tokens, focus=focus)

    @cached_property
    def pad_token(self) -> int:
        """The padding token.

        Raises:
            OptionError: if neither tokenizer nor model knows one.
        """
        for owner in (self.processor, getattr(self.model, "config", None)):
            if isinstance(token := getattr(owner, "pad_token_id", None), int):
                return token
        raise OptionError(f"{type(self.model).__name__} has no padding token: use the removal mask")

    @cached_property
    def blank_token(self) -> int:
        """The least informative token: `[MASK]`, else the unknown token; never padding, which may move the head."""
        names = ("mask_token_id", "unk_token_id", "eos_token_id", "bos_token_id")
        known = (getattr(self.processor, name, None) for name in names)
        return next(token for token in (*known, 0, 1) if isinstance(token, int) and token != self.pad_id)

    def _tokens(self, ids: list[int], special: list[int], batch: Any, row: int) -> Tokens:
        labels = token_names(self.processor, ids)
        flags = tuple(bool(flag) for flag in special)
        if batch is None:
            return Tokens(labels, flags)
        spans: list[Span] = batch["offset_mapping"][row]
        return Tokens(
            labels,
            flags,
            spans=tuple(None if flag else (start, end) for flag, (start, end) in zip(flags, spans, strict=True)),
            segments=tuple(None if flag else s for flag, s in zip(flags, batch.sequence_ids(row), strict=True)),
            words=tuple(None if flag else w for flag, w in zip(flags, batch.word_ids(row), strict=True)),
        )

    def _check_tokenizer(self) -> None:
        if self.processor is None:
            raise ProcessorError(
                "a text needs a tokenizer: Explainer(model, tokenizer); without one, give model arguments "
                '{"input_ids": ..., "attention_mask": ...}'
            )
        if not callable(self.processor) or not hasattr(self.processor, "convert_ids_to_tokens"):
            raise ProcessorError(
                f"{type(self.model).__name__} reads text, but the processor is a {type(self.processor).__name__}: "
                "give its tokenizer"
            )

    def _check_vocabulary(self, ids: Tensor) -> None:
        size = getattr(input_embeddings(self.reader), "num_embeddings", None)
        if size is not None and ids.numel() and int(ids.max()) >= size:
            raise ProcessorError(
                f"token number {int(ids.max())} is outside the model's vocabulary of {size}: "
                "this tokenizer belongs to another model"
            )

    def _check_segments(self, segments: Tensor | None, ids: Tensor) -> None:
        """Token types, which models look up like tokens."""
        if segments is None:
            return
        kinds = getattr(getattr(self.model, "config", None), "type_vocab_size", None)
        most = kinds if isinstance(kinds, int) and kinds > 0 else None
        whole = not segments.is_floating_point() and segments.dtype != torch.bool
        if (
            segments.shape != ids.shape
            or not whole
            or int(segments.min()) < 0
            or (most and int(segments.max()) >= most)
        ):
            raise InputError(
                f"token_type_ids must be integers from 0{f' to {most - 1}' if most else ''} for each of input_ids "
                f"{tuple(ids.shape)}, got {segments.dtype} of shape {tuple(segments.shape)}"
            )

    def _check_lengths(
        self, lengths: list[int], first: list[str], second: list[str], truncation: bool
    ) -> tuple[int, ...]:
        if truncation:
            with undisturbed(self.processor) as tokenizer:
                whole = tokenizer(first, second or None, truncation=False, verbose=False)["input_ids"]
            return tuple(len(ids) - length for ids, length in zip(whole, lengths, strict=True))
        for text, length in zip(first, lengths, strict=True):
            if self.max_length is not None and length > self.max_length:
                raise TooLongError(
                    f"the text beginning {text[:30]!r} has {length} tokens, the model takes at most {self.max_length}: "
                    "read it in windows with ",
                    Option("window", True),
                    ", shorten it, or truncate it with ",
                    Option("truncation", True),
                )
        return (0,) * len(lengths)


_HALF = re.compile("[\ud800-\udfff]")


def half_at(text: str) -> int | None:
    """Where half of a surrogate pair stands, which is there only if a text was decoded wrongly, and which tokenizers refuse."""
    found = None if text.isascii() else _HALF.search(text)
    return None if found is None else found.start()


def _parts(text: str | tuple[str, str]) -> tuple[str, ...]:
    return (text,) if isinstance(text, str) else text


def _checked_text(value: Any) -> str | tuple[str, str]:
    parts = (value,) if isinstance(value, str) else value
    if not isinstance(parts, tuple) or not 1 <= len(parts) <= 2 or not all(isinstance(part, str) for part in parts):
        raise InputError(f"cannot read a text from {type(value).__name__}: give a string, or a tuple of two strings")
    for part in parts:
        if not part.strip():
            raise InputError("the text is empty: there is nothing to explain")
        if (place := half_at(part)) is not None:
            raise InputError(
                f"the text has half of a surrogate pair at character {place}: it is not valid Unicode; decode it from its "
                "bytes again, or remove that character"
            )
    return value if isinstance(value, str) else (parts[0], parts[1]) if len(parts) == 2 else parts[0]

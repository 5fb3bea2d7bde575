"""What the core has to know about a model, and nothing else: the interface that every family's adapter fills in.

An adapter says which modules are the blocks, how an input becomes model arguments and named tokens, where the logits are
and which tokens the head reads. `TextAdapter` and `VisionAdapter` do this for anything with a tokenizer or an image
processor, so that a family is mostly data:

    @attcat.register("my_package.MyEncoder")
    class MyEncoderAdapter(attcat.TextAdapter):
        family = "MyEncoder"
        block_paths = ("encoder.layers",)
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from importlib.metadata import entry_points
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from .errors import InputError, OptionError, ProcessorError, TooLongError, UnsupportedModelError
from .heads import Head, head_of
from .tokens import Span, Tokens, View

ENTRY_POINTS = "attcat.adapters"
GUIDE = "https://github.com/attcat/attcat/blob/main/README.md#write-an-adapter"


@dataclass(frozen=True)
class Encoding:
    """A batch, ready for the model.

    Args:
        arguments: what the model is called with, on its device.
        mask: bool `[B, T]`, True for real tokens.
        tokens: what the real tokens stand for, one `Tokens` per example.
        sources: the input to draw on, one per example: a string, a pair, uint8 pixels `[H, W, 3]`, or None.
        dropped: how many tokens were cut from each example.
        focus: `[B]`, the position whose prediction is explained, where there is one for each token; see `attcat.heads`.
    """

    arguments: Mapping[str, Tensor]
    mask: Tensor
    tokens: tuple[Tokens, ...]
    sources: tuple[Any, ...]
    dropped: tuple[int, ...] = field(default=())
    focus: Tensor | None = None

    def __post_init__(self) -> None:
        batch = self.mask.shape[0]
        if not self.dropped:
            object.__setattr__(self, "dropped", (0,) * batch)
        if not len(self.tokens) == len(self.sources) == len(self.dropped) == batch:
            raise ValueError(f"{batch} rows, but {len(self.tokens)} tokens and {len(self.sources)} sources")
        for row, (real, tokens) in enumerate(zip(self.mask.sum(-1).tolist(), self.tokens, strict=True)):
            if real != len(tokens):
                raise ValueError(f"example {row}: {real} positions are real, but {len(tokens)} tokens are named")

    def rows(self, rows: Sequence[int]) -> Encoding:
        """Some examples, in any order and as often as wanted, without the columns that only others need."""
        index = torch.tensor(rows, device=self.mask.device)
        mask = self.mask[index]
        length = int(mask.any(0).nonzero().max()) + 1
        return Encoding(
            {name: _cut(value[index], self.mask, length) for name, value in self.arguments.items()},
            mask[:, :length],
            tuple(self.tokens[row] for row in rows),
            tuple(self.sources[row] for row in rows),
            tuple(self.dropped[row] for row in rows),
            None if self.focus is None else self.focus[index],
        )


class Adapter(ABC):
    """What the core asks about a model.

    Args:
        model: the model, left exactly as it is.
        processor: tokenizer, image processor or transform; None if inputs come as model arguments.
    """

    family: ClassVar[str]
    """Name for people, as `BERT`."""
    block_paths: ClassVar[tuple[str, ...]] = ()
    """Where the list of blocks is, as `bert.encoder.layer`; the first that exists is taken (names change between releases)."""

    def __init__(self, model: nn.Module, processor: Any = None) -> None:
        self.model = model
        self.processor = processor

    # -- asked by the core ---------------------------------------------------------------------------------------------

    @cached_property
    def blocks(self) -> tuple[nn.Module, ...]:
        """The blocks in order.

        Raises:
            UnsupportedModelError: if the model has none of `block_paths`.
        """
        for path in self.block_paths:
            found = _follow(self.model, path)
            if isinstance(found, (nn.ModuleList, nn.Sequential)) and len(found):
                return tuple(found)
        raise UnsupportedModelError(
            f"{type(self.model).__name__} has no blocks at {' or '.join(self.block_paths)}: "
            f"the {type(self).__name__} does not fit this version of the model; see {GUIDE}"
        )

    @abstractmethod
    def encode(self, inputs: Sequence[Any], *, truncation: bool = False) -> Encoding:
        """Turn inputs into one batch for the model.

        Raises:
            InputError: if an input cannot be used.
            ProcessorError: if the processor does not fit.
        """

    @abstractmethod
    def encode_arguments(self, arguments: Mapping[str, Tensor]) -> Encoding:
        """Name the tokens of ready-made model arguments.

        Raises:
            InputError: if the arguments are not those of the model.
        """

    @abstractmethod
    def read(self, encoding: Encoding) -> Tensor:
        """Which tokens a classifier's head reads, bool `[B, T]`; other heads know it themselves, see `attcat.heads`."""

    def cost(self, value: Any) -> int:
        """About how many tokens an input has, without encoding it; inputs of like cost share a batch."""
        return 256

    def describe(self) -> str:
        """What is known about the model, in one line."""
        return f"{type(self.model).__name__}: {self.family} ({type(self).__name__}), {len(self.blocks)} blocks"

    removals: ClassVar[tuple[str, ...]] = ()
    """The ways in which `remove` takes tokens out; the first is used when none is named."""

    def remove(self, encoding: Encoding, removed: Tensor | None = None, how: str | None = None) -> Encoding:
        """The batch with tokens taken out.

        Args:
            encoding: the batch.
            removed: bool `[B, T]`; by default every token that is neither special nor padding.
            how: one of `removals`.

        Raises:
            OptionError: if there is no such way.
            UnsupportedModelError: if this adapter cannot.
        """
        raise UnsupportedModelError(f"{type(self).__name__} does not say how to take tokens out: override remove()")

    def removal(self, how: str | None) -> str:
        """The name of a way to take tokens out, checked.

        Raises:
            OptionError: if there is no such way.
        """
        if how is None and self.removals:
            return self.removals[0]
        if how not in self.removals:
            known = ", ".join(self.removals) or "none"
            raise OptionError(f"no removal {how!r} for {type(self.model).__name__}: use one of {known}")
        return how

    def call(self, encoding: Encoding) -> Any:
        """Run the model."""
        return self.model(**encoding.arguments)

    def logits(self, output: Any) -> Tensor:
        """The class logits `[B, C]` in the model's output.

        Raises:
            UnsupportedModelError: if there are none.
        """
        logits = output if isinstance(output, Tensor) else getattr(output, "logits", None)
        if not isinstance(logits, Tensor) or logits.dim() != 2:
            raise UnsupportedModelError(
                f"{type(self.model).__name__} has no class logits [B, C]: load the model with its head "
                "(AutoModelForSequenceClassification, AutoModelForImageClassification, ...ForTokenClassification, "
                "...ForQuestionAnswering, ...ForMaskedLM, ...ForCausalLM)"
            )
        return logits

    @cached_property
    def head(self) -> Head:
        """What the numbers in the model's output stand for, and where they are read."""
        return Head(self)

    @cached_property
    def labels(self) -> tuple[str, ...] | None:
        """The names of the classes, as far as the model knows them."""
        return config_labels(self.model)

    @property
    def can_batch(self) -> bool:
        """Whether the model takes several examples at once."""
        return True

    @property
    def towers(self) -> tuple[Adapter, ...]:
        """The adapters that explain an input: this one; for a model of pictures and texts, one for each, pictures first."""
        return (self,)

    # -- for adapters ----------------------------------------------------------------------------------------------------

    @property
    def device(self) -> torch.device:
        """Where the model's inputs go."""
        from .wrappers import main_device

        return main_device(self.model)

    @property
    def dtype(self) -> torch.dtype:
        """The model's floating point type."""
        return next((p.dtype for p in self.model.parameters() if p.is_floating_point()), torch.float32)

    def place(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """Move tensors to the model's device, floating point ones to its type."""
        return {
            name: value.to(self.device, self.dtype if value.is_floating_point() else value.dtype)
            if isinstance(value, Tensor)
            else value
            for name, value in arguments.items()
        }


class TextAdapter(Adapter):
    """A model that reads `input_ids`, with a transformers tokenizer."""

    ignored_arguments: ClassVar[tuple[str, ...]] = ()
    """What the tokenizer makes but the model must not be given."""
    positions_lost: ClassVar[int] = 0
    """How many of the position embeddings cannot be used."""

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

    def cost(self, value: Any) -> int:
        """Four characters to a token, as in English."""
        return 2 + sum(map(len, _parts(_checked_text(value)))) // 4

    @cached_property
    def head(self) -> Head:
        """By the name of the model's class: a classifier's, a tagger's, a language model's, ..."""
        return head_of(self)

    def call(self, encoding: Encoding) -> Any:
        """Run the model; its head picks the logits `[B, C]` that are explained."""
        return self.head.call(encoding)

    def read(self, encoding: Encoding) -> Tensor:
        """The first real token."""
        return first_of(encoding.mask)

    def encode(self, inputs: Sequence[Any], *, truncation: bool = False) -> Encoding:
        """Tokenize strings or pairs of strings; see `Adapter.encode`. A text that is too long is a `TooLongError`."""
        self._check_tokenizer()
        texts = [_checked_text(value) for value in inputs]
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
        """Cut a text that is too long into windows that overlap by about a quarter.

        Args:
            text: a string; or a pair, of which the second text is cut, and the first stands in front of every window.
            size: tokens in a window, specials included; by default as many as the model takes.

        Returns:
            The windows as one batch, and the tokens of the whole text. One window, if the text fits.

        Raises:
            InputError: if the first text of a pair leaves no room, or the model has no limit and no size is given.
            ProcessorError: if the tokenizer does not tell characters.
        """
        self._check_tokenizer()
        checked = _checked_text(text)
        first, second = ([checked], []) if isinstance(checked, str) else ([checked[0]], [checked[1]])
        if not getattr(self.processor, "is_fast", False):
            raise ProcessorError("windows are joined by characters, which only a fast tokenizer tells: load that one")
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
                f"of a window of {size} tokens {max(0, room)} are left for the text that is cut: expected at least 2"
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

    def _tokenize(self, first: list[str], second: list[str], **options: Any) -> Any:
        return self.processor(
            first,
            second or None,
            return_special_tokens_mask=True,
            return_offsets_mapping=bool(getattr(self.processor, "is_fast", False)),
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
        return Encoding(arguments, arguments["attention_mask"].bool(), tokens, texts, dropped)

    def encode_arguments(self, arguments: Mapping[str, Tensor]) -> Encoding:
        """Name the tokens of `input_ids` `[B, T]` (or `[T]`) and their `attention_mask`; see `Adapter.encode_arguments`."""
        if "input_ids" not in arguments:
            raise InputError(f"model arguments for a text model need 'input_ids', got {', '.join(arguments) or 'none'}")
        placed = self.place({n: torch.as_tensor(v) for n, v in arguments.items() if n not in self.ignored_arguments})
        placed = {n: v[None] if v.dim() == 1 else v for n, v in placed.items()}
        ids = placed["input_ids"]
        if ids.dim() != 2 or ids.is_floating_point() or ids.numel() == 0:
            raise InputError(f"input_ids must be integers [B, T], got {ids.dtype} of shape {tuple(ids.shape)}")
        self._check_vocabulary(ids)
        mask = placed.get("attention_mask", torch.ones_like(ids)).bool()
        if mask.shape != ids.shape or not mask.any(-1).all():
            raise InputError(
                f"attention_mask {tuple(mask.shape)} must mark real tokens in each row of input_ids {tuple(ids.shape)}"
            )
        if self.max_length is not None and ids.shape[1] > self.max_length:
            raise TooLongError(f"input_ids have {ids.shape[1]} tokens, the model takes at most {self.max_length}")
        specials = set(getattr(self.processor, "all_special_ids", None) or ())
        rows = [row[real].tolist() for row, real in zip(ids, mask, strict=True)]
        tokens = tuple(self._tokens(row, [int(i in specials) for i in row], None, 0) for row in rows)
        return Encoding(placed, mask, tokens, (None,) * len(rows))

    removals = ("mask", "pad", "delete")

    def remove(self, encoding: Encoding, removed: Tensor | None = None, how: str | None = None) -> Encoding:
        """Mask tokens (or unknown ones) or padding tokens in place of what is removed, or a shorter text.

        `[PAD]` in the middle of a text is seen by the model: the attention mask stays. Of a text of which nothing is left
        after deletion one mask token stays. See `Adapter.remove`.

        Raises:
            OptionError: if the head would read another token, because it looks for the last that is not padding.
        """
        how = self.removal(how)
        removed = content_of(encoding) if removed is None else removed & encoding.mask
        if how == "delete":
            return self._delete(encoding, removed)
        token = self.blank_token if how == "mask" else self.pad_token
        ids = encoding.arguments["input_ids"].masked_fill(removed, token)
        found = replace(encoding, arguments={**encoding.arguments, "input_ids": ids})
        if how == "pad" and not torch.equal(self.read(found), self.read(encoding)):
            raise OptionError(
                f"{type(self.model).__name__} reads the last token that is not padding: use the removal mask or delete"
            )
        return found

    def _delete(self, encoding: Encoding, removed: Tensor) -> Encoding:
        """A shorter batch: what stays moves to the left, in its order."""
        empty = (encoding.mask & ~removed).sum(-1, keepdim=True) == 0
        first = first_of(encoding.mask)
        ids = encoding.arguments["input_ids"].masked_fill(empty & first, self.blank_token)
        removed = removed & ~(empty & first)
        kept = encoding.mask & ~removed
        order = (~kept).long().argsort(dim=-1, stable=True)[:, : int(kept.sum(-1).max())]
        mask = kept.gather(1, order)
        arguments = {
            name: value.gather(1, order).masked_fill(~mask, 0) if value.shape == kept.shape else value
            for name, value in {**encoding.arguments, "input_ids": ids}.items()
        }
        if not mask.all():
            arguments["input_ids"] = arguments["input_ids"].masked_fill(~mask, self.pad_token)
            arguments["attention_mask"] = mask.to(encoding.arguments["input_ids"].dtype)
        flags = [kept[row, encoding.mask[row]].tolist() for row in range(len(kept))]
        tokens = tuple(t.kept(flag) for t, flag in zip(encoding.tokens, flags, strict=True))
        return replace(encoding, arguments=arguments, mask=mask, tokens=tokens)

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
        """The token that says least: `[MASK]`, else the unknown token; never the padding token, which may move the head."""
        names = ("mask_token_id", "unk_token_id", "eos_token_id", "bos_token_id")
        known = (getattr(self.processor, name, None) for name in names)
        return next(token for token in (*known, 0, 1) if isinstance(token, int) and token != self.pad_id)

    def _tokens(self, ids: list[int], special: list[int], batch: Any, row: int) -> Tokens:
        names = self.processor.convert_ids_to_tokens(ids) if self.processor is not None else [f"#{i}" for i in ids]
        labels = tuple(str(name) for name in names)
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
        get = getattr(self.reader, "get_input_embeddings", None)
        size = getattr(get() if get else None, "num_embeddings", None)
        if size is not None and ids.numel() and int(ids.max()) >= size:
            raise ProcessorError(
                f"token number {int(ids.max())} is outside of the model's vocabulary of {size}: "
                "this tokenizer belongs to another model"
            )

    def _check_lengths(
        self, lengths: list[int], first: list[str], second: list[str], truncation: bool
    ) -> tuple[int, ...]:
        if truncation:
            whole = self.processor(first, second or None, truncation=False, verbose=False)["input_ids"]
            return tuple(len(ids) - length for ids, length in zip(whole, lengths, strict=True))
        for text, length in zip(first, lengths, strict=True):
            if self.max_length is not None and length > self.max_length:
                raise TooLongError(
                    f"the text beginning {text[:30]!r} has {length} tokens, the model takes at most {self.max_length}: "
                    "read it in windows with window=True, shorten it, or accept a cut with truncation=True"
                )
        return (0,) * len(lengths)


class VisionAdapter(Adapter):
    """A model that reads `pixel_values`, with an image processor or a transform."""

    @property
    @abstractmethod
    def patch_size(self) -> tuple[int, int]:
        """Height and width of a patch, in the model's pixels."""

    @property
    @abstractmethod
    def prefix(self) -> tuple[str, ...]:
        """Names of the tokens before the patches, as `[CLS]`; they are special."""

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of patches for an input of this size."""
        rows, columns = self.patch_size
        return height // rows, width // columns

    def read(self, encoding: Encoding) -> Tensor:
        """The first token."""
        return first_of(encoding.mask)

    def encode(self, inputs: Sequence[Any], *, truncation: bool = False) -> Encoding:
        """Preprocess pictures (`read_picture` says in which forms); see `Adapter.encode`."""
        from .picture import read_picture, to_pixels

        pictures = [read_picture(value) for value in inputs]
        pixels = [self.preprocess(picture) for picture in pictures]
        if len({tuple(p.shape) for p in pixels}) > 1:
            raise InputError("the processor gives pictures of different sizes: explain them one by one")
        batch = self.place({"pixel_values": torch.stack(pixels)})
        views = [self._view(*picture.size) for picture in pictures]
        tokens = tuple(self._tokens(height, width, view) for view, (height, width) in views)
        return self._encoding(batch, tokens, tuple(to_pixels(picture) for picture in pictures))

    def encode_arguments(self, arguments: Mapping[str, Tensor]) -> Encoding:
        """Name the patches of `pixel_values` `[B, 3, H, W]` (or `[3, H, W]`); see `Adapter.encode_arguments`."""
        pixels = arguments.get("pixel_values")
        if not isinstance(pixels, Tensor) or pixels.dim() not in (3, 4) or not pixels.is_floating_point():
            given = ", ".join(f"{n}: {tuple(getattr(v, 'shape', ()))}" for n, v in arguments.items())
            raise InputError(
                f"model arguments for a vision model need float 'pixel_values' [B, 3, H, W], got {given or 'none'}"
            )
        placed = self.place({**arguments, "pixel_values": pixels[None] if pixels.dim() == 3 else pixels})
        batch, _, height, width = placed["pixel_values"].shape
        tokens = (self._tokens(height, width, None),) * batch
        return self._encoding(placed, tokens, (None,) * batch)

    removals = ("zero", "mean", "blur", "drop")

    def remove(self, encoding: Encoding, removed: Tensor | None = None, how: str | None = None) -> Encoding:
        """Other pixels in place of removed patches: 0 (the mean colour of the training pictures, for normalised input),
        the picture's own mean colour, or a Gaussian blur of it (standard deviation: half a patch).

        `drop` takes tokens out before the first block, not out of the picture: `attcat.metrics` does it while the model
        runs. See `Adapter.remove`.
        """
        how = self.removal(how)
        if how == "drop":
            raise OptionError("patch tokens are dropped while the model runs: use attcat.metrics.Ablation")
        pixels = encoding.arguments["pixel_values"]
        area = self._area(encoding, content_of(encoding) if removed is None else removed)
        if how == "zero":
            instead = torch.zeros_like(pixels)
        elif how == "mean":
            instead = pixels.mean((-2, -1), keepdim=True).expand_as(pixels)
        else:
            instead = _blurred(pixels, (self.patch_size[0] / 2, self.patch_size[1] / 2))
        arguments = {**encoding.arguments, "pixel_values": torch.where(area[:, None], instead, pixels)}
        return replace(encoding, arguments=arguments)

    def _area(self, encoding: Encoding, removed: Tensor) -> Tensor:
        """The pixels of removed tokens, bool `[B, H, W]`; the same grid for every row, as they share a tensor."""
        tokens = encoding.tokens[0]
        height, width = encoding.arguments["pixel_values"].shape[-2:]
        patches = removed[:, ~torch.tensor(tokens.special, device=removed.device)]
        patches = patches.reshape(len(removed), *(tokens.grid or ()))
        rows, columns = self.patch_size
        covered = patches.repeat_interleave(rows, 1).repeat_interleave(columns, 2)[:, :height, :width]
        area = covered.new_zeros(len(removed), height, width)
        area[:, : covered.shape[1], : covered.shape[2]] = covered
        return area

    def preprocess(self, picture: Any) -> Tensor:
        """Send one RGB picture through the processor: float `[3, H, W]`.

        Raises:
            ProcessorError: if there is no processor, or it makes something else.
        """
        processor = self.processor
        if processor is None:
            raise ProcessorError(
                "a picture needs an image processor or a transform: Explainer(model, processor); without one, give model "
                'arguments {"pixel_values": ...}'
            )
        if hasattr(processor, "convert_ids_to_tokens"):
            raise ProcessorError(
                f"{type(self.model).__name__} sees pictures, but the processor is a tokenizer ({type(processor).__name__})"
            )
        is_transformers = hasattr(processor, "model_input_names") or hasattr(processor, "preprocess")
        result = (
            processor(images=picture, return_tensors="pt")["pixel_values"][0] if is_transformers else processor(picture)
        )
        if not isinstance(result, Tensor) or result.dim() != 3 or not result.is_floating_point():
            shape = tuple(result.shape) if isinstance(result, Tensor) else ""
            raise ProcessorError(
                f"the processor turns a picture into {type(result).__name__} {shape}: expected a float tensor [3, H, W] "
                "(does the transform end with ToTensor and Normalize?)"
            )
        return result

    @property
    def can_batch(self) -> bool:
        """Not if the processor keeps the aspect ratio, so that pictures come out in different sizes."""
        return self._one_size

    @cached_property
    def _one_size(self) -> bool:
        from PIL import Image

        if self.processor is None:
            return True
        wide, tall = (self.preprocess(Image.new("RGB", size)) for size in ((96, 64), (64, 96)))
        return wide.shape == tall.shape

    @cached_property
    def _view(self) -> Callable[[int, int], tuple[View, tuple[int, int]]]:
        from .picture import Observer

        return Observer(self.preprocess)

    def _tokens(self, height: int, width: int, view: View | None) -> Tokens:
        """Name the tokens of an input of `height` x `width` model pixels, which shows `view` of the picture."""
        rows, columns = self.grid(height, width)
        # Pixels that fill no whole patch are cut off (or padded): the grid covers less (or more) than the model's input.
        down, across = rows * self.patch_size[0] / height, columns * self.patch_size[1] / width
        view = view or View(width, height, (0, 0, width, height))
        left, top, right, bottom = view.box
        box = (left, top, left + (right - left) * across, top + (bottom - top) * down)
        patches = tuple(f"{row},{column}" for row in range(rows) for column in range(columns))
        special = (True,) * len(self.prefix) + (False,) * len(patches)
        return Tokens(self.prefix + patches, special, grid=(rows, columns), view=View(view.width, view.height, box))

    def _encoding(self, arguments: dict[str, Tensor], tokens: tuple[Tokens, ...], sources: tuple[Any, ...]) -> Encoding:
        mask = torch.ones(len(tokens), len(tokens[0]), dtype=torch.bool, device=self.device)
        return Encoding(arguments, mask, tokens, sources)


# -- finding the adapter of a model ----------------------------------------------------------------------------------

AdapterType = TypeVar("AdapterType", bound=type[Adapter])
_registered: dict[str, type[Adapter]] = {}


def register(*names: str) -> Callable[[AdapterType], AdapterType]:
    """Class decorator: this adapter serves the models whose class, or a base class, has one of these names.

    Args:
        names: `package.ClassName`, the top-level package and the class, as `transformers.BertPreTrainedModel`.
    """
    if not names or not all(isinstance(name, str) and "." in name for name in names):
        raise TypeError('register takes names like "my_package.MyModel": the top-level package and the class')

    def add(adapter: AdapterType) -> AdapterType:
        if not (inspect.isclass(adapter) and issubclass(adapter, Adapter)):
            raise TypeError(f"{adapter!r} is not a subclass of attcat.Adapter")
        _registered.update(dict.fromkeys(names, adapter))
        return adapter

    return add


def names_of(model: nn.Module) -> list[str]:
    """`package.ClassName` of the model's class and its base classes, the nearest first."""
    return [f"{cls.__module__.partition('.')[0]}.{cls.__name__}" for cls in type(model).__mro__]


def supported_models() -> dict[str, str]:
    """The model classes that are served, and where the adapter is: `{"transformers.BertPreTrainedModel": "..."}`."""
    found = {point.name: point.value for point in entry_points(group=ENTRY_POINTS)}
    found.update({name: f"{cls.__module__}:{cls.__qualname__}" for name, cls in _registered.items()})
    return found


def known_adapter(model: nn.Module) -> type[Adapter] | None:
    """The adapter for a model, by the names in its class's ancestry; what the user registered comes first.

    `package.*` is served after all of the names: it stands for every class of a package.
    """
    installed = {point.name: point for point in entry_points(group=ENTRY_POINTS)}
    names = names_of(model)
    for name in (*names, *dict.fromkeys(f"{name.partition('.')[0]}.*" for name in names)):
        if name in _registered:
            return _registered[name]
        if name in installed:
            adapter: type[Adapter] = installed[name].load()
            return adapter
    return None


def find_adapter(model: nn.Module) -> type[Adapter]:
    """As `known_adapter`.

    Raises:
        UnsupportedModelError: if there is none.
    """
    adapter = known_adapter(model)
    if adapter is None:
        raise no_adapter(model, "")
    return adapter


def no_adapter(model: nn.Module, reason: str) -> UnsupportedModelError:
    """The error for a model that no adapter serves, and why it cannot be explained without."""
    supported = ", ".join(sorted(supported_models()))
    return UnsupportedModelError(
        f"no adapter for {names_of(model)[0]}{reason and ', and '}{reason}. Supported without a look at the model: "
        f"{supported or 'none (is AttCAT installed?)'}. An adapter is a few lines: {GUIDE}"
    )


def content_of(encoding: Encoding) -> Tensor:
    """bool `[B, T]`: the tokens of a batch that stand for a part of the input."""
    content = encoding.mask.clone()
    for row, tokens in enumerate(encoding.tokens):
        content[row, encoding.mask[row]] = ~torch.tensor(tokens.special, device=content.device)
    return content


def config_labels(model: nn.Module) -> tuple[str, ...] | None:
    """The class names in a transformers configuration."""
    names = getattr(getattr(model, "config", None), "id2label", None)
    return tuple(str(names[index]) for index in sorted(names)) if names else None


def _cut(value: Any, mask: Tensor, length: int) -> Any:
    """An argument with a column per token, cut to `length` tokens; others as they are."""
    return value[:, :length] if value.dim() == 2 and value.shape[1] == mask.shape[1] else value


def _blurred(pixels: Tensor, sigma: tuple[float, float]) -> Tensor:
    """Gaussian blur of `[B, 3, H, W]`."""
    import cv2

    rows = [
        cv2.GaussianBlur(row.permute(1, 2, 0).float().cpu().numpy(), (0, 0), sigmaX=sigma[1], sigmaY=sigma[0])
        for row in pixels
    ]
    return torch.stack([torch.from_numpy(row).permute(2, 0, 1) for row in rows]).to(pixels)


def _follow(module: nn.Module, path: str) -> Any:
    found: Any = module
    for name in path.split("."):
        found = getattr(found, name, None)
    return found


def first_of(mask: Tensor) -> Tensor:
    """The first True of each row, as a mask."""
    return mask & (mask.long().cumsum(-1) == 1)


def last_of(mask: Tensor) -> Tensor:
    """The last True of each row, as a mask."""
    rank = mask.long().cumsum(-1)
    return mask & (rank == rank[:, -1:])


def _parts(text: str | tuple[str, str]) -> tuple[str, ...]:
    return (text,) if isinstance(text, str) else text


def _checked_text(value: Any) -> str | tuple[str, str]:
    parts = (value,) if isinstance(value, str) else value
    if not isinstance(parts, tuple) or not 1 <= len(parts) <= 2 or not all(isinstance(part, str) for part in parts):
        raise InputError(f"cannot read a text from {type(value).__name__}: give a string, or a tuple of two strings")
    for part in parts:
        if not part.strip():
            raise InputError("the text is empty: there is nothing to explain")
    return value if isinstance(value, str) else (parts[0], parts[1]) if len(parts) == 2 else parts[0]

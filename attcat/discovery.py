"""Models without an adapter: what an adapter would say is found by experiment.

One forward pass shows the blocks (`survey`). Which tokens the head reads is seen by changing the last state of one token
at a time and watching the logits; whether the model can be given padded batches, by comparing one with its rows; where the
patches of a picture end up, by changing one patch. What stays ambiguous is an error that shows the adapter to write.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from .adapter import GUIDE, Adapter, Encoding, TextAdapter, VisionAdapter, known_adapter, last_of, names_of, no_adapter
from .errors import AttCATError, ProcessorError, UnsupportedModelError
from .probe import accepted, differ, logits_of, logits_without, ordinary_tokens, picture_size
from .survey import Survey, Unclear, Visit, blocks_of, survey
from .tokens import Tokens
from .versions import warn_if_untested
from .watching import hidden_state
from .wrappers import unwrap

log = logging.getLogger("attcat")

LENGTH = 11
"""Tokens of the text that a text model is tried with."""

FAILURES = (ValueError, RuntimeError, TypeError, IndexError, KeyError, AttributeError, AssertionError)
"""What other people's forward passes raise on arguments that they do not take."""


def adapter_of(model: Any, processor: Any = None) -> Adapter:
    """The registered adapter for a model, or one that is made by looking at it; wrappers are taken off first.

    An adapter is returned as it is, with its own processor.

    Raises:
        UnsupportedModelError: if there is none and the model does not tell what is needed.
    """
    if isinstance(model, Adapter):
        return model
    model, processor = unwrap(model, processor)
    warn_if_untested(model)
    known = known_adapter(model)
    if known is not None:
        return known(model, processor)
    if isinstance(model, torch.jit.ScriptModule):
        raise UnsupportedModelError(
            f"{type(model).__name__} is a TorchScript program, which cannot be watched: {GUIDE}"
        )
    return (DiscoveredVision if _sees_pictures(model, processor) else DiscoveredText)(model, processor)


def _sees_pictures(model: nn.Module, processor: Any) -> bool:
    """Whether a model takes pictures, by the name of its argument, its processor, or its first layer."""
    names = accepted(model.forward) or frozenset()
    main = getattr(model, "main_input_name", None)
    for text, picture in (
        (main == "input_ids", main == "pixel_values"),
        ("input_ids" in names, "pixel_values" in names),
        (hasattr(processor, "convert_ids_to_tokens"), False),
    ):
        if text != picture:
            return picture
    for module in model.modules():
        if isinstance(module, (nn.Embedding, nn.Conv2d)):
            return isinstance(module, nn.Conv2d)
    raise no_adapter(model, "it has neither an embedding of tokens nor a convolution over pixels")


@dataclass(frozen=True)
class Found:
    """What was found about a model.

    Args:
        blocks: the blocks in the order of their calls.
        first: name of the first block within the model.
        last: name of the last.
        width: D of the hidden state.
        length: T of the hidden state in the forward pass that was watched.
    """

    blocks: tuple[nn.Module, ...]
    first: str
    last: str
    width: int
    length: int

    @classmethod
    def of(cls, visits: list[Visit]) -> Found:
        """From the calls of the blocks."""
        state = visits[0].state
        assert state is not None
        modules = tuple(visit.module for visit in visits)
        return cls(modules, visits[0].name, visits[-1].name, state.shape[2], state.shape[1])

    def __str__(self) -> str:
        shared = "" if len(set(self.blocks)) == len(self.blocks) else f", {len(set(self.blocks))} of them different"
        kinds = ", ".join(dict.fromkeys(type(block).__name__ for block in self.blocks))
        return f"{len(self.blocks)} blocks ({self.first} to {self.last}, {kinds}{shared}), width {self.width}"


class _Discovered(Adapter):
    """What both kinds share: blocks, the call, the logits of models that give no output object."""

    found: Found

    @cached_property
    def blocks(self) -> tuple[nn.Module, ...]:
        """The blocks that were seen."""
        return self.found.blocks

    @cached_property
    def accepted(self) -> frozenset[str] | None:
        """The names of the model's arguments; None if it takes any."""
        return accepted(self.model.forward)

    def takes(self, name: str) -> bool:
        """Whether the model has an argument of that name."""
        return self.accepted is None or name in self.accepted

    def logits(self, output: Any) -> Tensor:
        """The class logits `[B, C]`: the output itself, its `logits`, or the first of several."""
        if isinstance(output, Mapping) and not hasattr(output, "logits"):
            output = output.get("logits", output)
        elif isinstance(output, (tuple, list)) and output and not hasattr(output, "logits"):
            output = output[0]
        return super().logits(output)

    def _blocks_in(self, watched: Survey) -> Found:
        try:
            return Found.of(blocks_of(watched))
        except Unclear as error:
            raise self._unclear(str(error), error.hopeless) from error

    def _watch(self, encoding: Encoding) -> Survey:
        try:
            watched = survey(self.model, lambda: self.call(encoding))
        except AttCATError:
            raise
        except FAILURES as error:
            given = ", ".join(f"{name} {tuple(value.shape)}" for name, value in encoding.arguments.items())
            raise self._unclear(f"its forward pass failed on {given}: {type(error).__name__}: {error}") from error
        self.logits(watched.output)
        return watched

    def _unclear(self, reason: str, hopeless: bool = False) -> UnsupportedModelError:
        """The error, with the adapter to write, unless none would help."""
        if hopeless:
            return UnsupportedModelError(
                f"{type(self.model).__name__} cannot be explained: {reason}. AttCAT needs blocks that attend once over all "
                f"tokens and are called one after another; see {GUIDE}"
            )
        return UnsupportedModelError(
            f"no adapter for {names_of(self.model)[0]}, and it could not be found out: {reason}. "
            f"Write what is missing and register it before the Explainer is made ({GUIDE}):\n\n{_to_write(self)}\n"
        )

    def describe(self) -> str:
        """What was found, in words."""
        return f"{type(self.model).__name__}: no adapter, found by a forward pass: {self.found}; {self._tokens_found}"

    @property
    def _tokens_found(self) -> str:
        raise NotImplementedError


class DiscoveredText(_Discovered, TextAdapter):
    """A text model that no adapter knows."""

    family = "discovered text model"

    def __init__(self, model: nn.Module, processor: Any = None) -> None:
        super().__init__(model, processor)
        trial = self._trial()
        watched = self._watch(trial)
        self.found = self._blocks_in(watched)
        if self.found.length != LENGTH:
            raise self._unclear(f"its blocks have {self.found.length} positions for a text of {LENGTH} tokens")
        self.table = _position_table(watched)
        self.reads = self._reads(trial)
        self.no_batch = self._why_no_batch(trial)
        log.info("%s", self.describe())

    @property
    def ignored_arguments(self) -> tuple[str, ...]:  # type: ignore[override]
        """What tokenizers make and this model has no argument for."""
        return () if self.takes("token_type_ids") else ("token_type_ids",)

    @property
    def positions(self) -> int | None:
        """Rows of the table of positions that the forward pass looked up, less those before its first; else as configured."""
        return super().positions if self.table is None else self.table

    @property
    def can_batch(self) -> bool:
        """Whether a padded batch gave the logits of its rows, and the tokenizer can pad."""
        return self.no_batch is None and getattr(self.processor, "pad_token_id", 0) is not None

    def call(self, encoding: Encoding) -> Any:
        """Run the model with the arguments that it knows by name, or else with the token numbers alone."""
        if not self.takes("input_ids"):
            return self.model(encoding.arguments["input_ids"])
        known = {name: v for name, v in encoding.arguments.items() if name != "attention_mask" or self.takes(name)}
        return self.model(**known)

    def read(self, encoding: Encoding) -> Tensor:
        """The first token, the last, or all."""
        if self.reads == "all":
            return encoding.mask.clone()
        if self.reads == "first":
            return super().read(encoding)
        return last_of(encoding.mask if self.pad_id is None else encoding.arguments["input_ids"] != self.pad_id)

    @property
    def _tokens_found(self) -> str:
        limit = f"at most {self.max_length} tokens" if self.max_length else "texts of any length"
        batches = "padded batches" if self.no_batch is None else f"one text at a time ({self.no_batch})"
        reads = {"all": "all tokens", "first": "the first token", "last": "the last token"}[self.reads]
        return f"no prefix tokens; its head reads {reads}; it takes {limit}, {batches}"

    def _trial(self) -> Encoding:
        """A text of `LENGTH` ordinary tokens, counting down, so that it cannot be taken for a row of positions."""
        ids = ordinary_tokens(self, LENGTH)[None]
        arguments = self.place({"input_ids": ids, "attention_mask": torch.ones_like(ids)})
        names = tuple(f"#{token}" for token in ids[0].tolist())
        return Encoding(arguments, arguments["attention_mask"].bool(), (Tokens(names, (False,) * LENGTH),), (None,))

    def _reads(self, trial: Encoding) -> str:
        before = logits_of(self, trial)
        read = [p for p in range(LENGTH) if differ(before, logits_without(self, trial, [p]))]
        known = {(0,): "first", (LENGTH - 1,): "last", tuple(range(LENGTH)): "all"}
        if tuple(read) not in known:
            which = ", ".join(map(str, read)) or "none"
            raise self._unclear(
                f"of {LENGTH} tokens its head reads {which} (counted from 0): neither the first, the last, nor all"
            )
        return known[tuple(read)]

    def _why_no_batch(self, trial: Encoding) -> str | None:
        """Why several texts cannot share a forward pass; None if they can."""
        ids = trial.arguments["input_ids"].repeat(2, 1)
        mask = torch.ones_like(ids)
        mask[1, LENGTH - 4 :] = 0
        ids = ids.masked_fill(mask == 0, self.pad_id or 0)
        batch = self.encode_arguments({"input_ids": ids, "attention_mask": mask})
        short = self.encode_arguments({name: v[1:, : LENGTH - 4] for name, v in batch.arguments.items()})
        try:
            together, alone = logits_of(self, batch), torch.cat([logits_of(self, trial), logits_of(self, short)])
        except FAILURES as error:
            return str(error)
        return "padding changes its logits" if differ(alone, together) else None


class DiscoveredVision(_Discovered, VisionAdapter):
    """A vision model that no adapter knows."""

    family = "discovered vision model"

    def __init__(self, model: nn.Module, processor: Any = None) -> None:
        super().__init__(model, processor)
        self._grids: dict[tuple[int, int], tuple[int, int]] = {}
        height, width = picture_size(self)
        pixels = torch.zeros(1, 3, height, width)
        watched = self._watch(self._unnamed(pixels))
        self.found = self._blocks_in(watched)
        self.patch_size, self._grids[height, width] = self._patches(watched)
        self.prefix = self._prefix(height, width)
        trial = self.encode_arguments({"pixel_values": pixels})
        self.reads = self._reads(trial)
        log.info("%s", self.describe())

    patch_size: tuple[int, int] = (0, 0)
    prefix: tuple[str, ...] = ()

    def call(self, encoding: Encoding) -> Any:
        """Run the model, with the pixels by name if it has a name for them."""
        if self.accepted is None or "pixel_values" in self.accepted:
            return self.model(**encoding.arguments)
        return self.model(encoding.arguments["pixel_values"])

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of patches: what the model's convolution makes of a picture of this size."""
        if (height, width) not in self._grids:
            self._grids[height, width] = self._embed(torch.zeros(1, 3, height, width))[1]
        return self._grids[height, width]

    def read(self, encoding: Encoding) -> Tensor:
        """Prefix tokens, patches, or both, as the experiment showed."""
        special, patches = self.reads
        read = torch.full_like(encoding.mask, patches)
        read[:, : len(self.prefix)] = False
        read[:, list(special)] = True
        return read

    @property
    def _tokens_found(self) -> str:
        special, patches = self.reads
        read = [self.prefix[index] for index in special] + (["all patches"] if patches else [])
        (height, width), (rows, columns) = next(iter(self._grids.items()))
        return (
            f"{len(self.prefix)} prefix tokens ({', '.join(self.prefix) or 'none'}), then {rows} x {columns} patches of "
            f"{self.patch_size[0]} x {self.patch_size[1]} pixels for a picture of {height} x {width}; "
            f"its head reads {', '.join(read)}"
        )

    def _patches(self, watched: Survey) -> tuple[tuple[int, int], tuple[int, int]]:
        """Patch size and grid: the convolution whose kernel is its stride, and whose output are the block's tokens."""
        for convolution in watched.convolutions[:1]:
            rows, columns = convolution.grid
            if convolution.kernel == convolution.stride and rows * columns <= self.found.length:
                return convolution.stride, convolution.grid
        seen = ", ".join(f"kernel {c.kernel} stride {c.stride} to {c.grid}" for c in watched.convolutions[:3]) or "none"
        raise self._unclear(
            f"its {self.found.length} tokens are not the output of one convolution whose kernel is its stride "
            f"(convolutions seen: {seen}), so that it is not known where on the picture they are"
        )

    def _unnamed(self, pixels: Tensor) -> Encoding:
        """A batch of pixels `[B, 3, H, W]` whose tokens are not known yet."""
        mask = torch.ones(len(pixels), 0, dtype=torch.bool)
        return Encoding(
            self.place({"pixel_values": pixels}), mask, (Tokens((), ()),) * len(pixels), (None,) * len(pixels)
        )

    def _embed(self, pixels: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """The first block's input `[B, T, D]` for pixels `[B, 3, H, W]`, and the grid; the blocks are not run."""
        encoding = self._unnamed(pixels)
        with _stopped_before(self.blocks[0]) as states:
            try:
                watched = survey(self.model, lambda: _until_stopped(lambda: self.call(encoding)))
            except FAILURES as error:
                height, width = pixels.shape[-2:]
                raise ProcessorError(
                    f"the model does not take pictures of {height} x {width} pixels: {error}"
                ) from error
        return states[0], watched.convolutions[0].grid

    def _prefix(self, height: int, width: int) -> tuple[str, ...]:
        """Names of the tokens before the patches; another picture in one patch has to change that patch's token alone."""
        rows, columns = self._grids[height, width]
        down, across = self.patch_size
        count = self.found.length - rows * columns
        tried = sorted({0, columns - 1, (rows - 1) * columns, rows * columns - 1})
        pixels = torch.zeros(1 + len(tried), 3, height, width)
        for row, patch in enumerate(tried, 1):
            top, left = patch // columns * down, patch % columns * across
            pixels[row, :, top : top + down, left : left + across] = torch.linspace(-1, 1, across)
        states, _ = self._embed(pixels)
        changed = (states[1:] - states[0]).abs().amax(-1) > 0
        for row, patch in enumerate(tried):
            where = changed[row].nonzero().flatten().tolist()
            if where != [count + patch]:
                raise self._unclear(
                    f"patch {patch} of {rows} x {columns} is seen in tokens {where[:5]} of {self.found.length}, "
                    f"expected in token {count + patch} alone"
                )
        return ("[CLS]",) if count == 1 else tuple(f"[PREFIX{index + 1}]" for index in range(count))

    def _reads(self, trial: Encoding) -> tuple[tuple[int, ...], bool]:
        """Which prefix tokens the head reads, and whether it reads the patches."""
        before, count, length = logits_of(self, trial), len(self.prefix), len(trial.tokens[0])

        def matters(*positions: int) -> bool:
            return differ(before, logits_without(self, trial, positions))

        special = tuple(index for index in range(count) if matters(index))
        if not matters(*range(count, length)):
            if special:
                return special, False
            raise self._unclear("no token's last state changes its logits (are the weights of its head zero?)")
        tried = sorted({count, (count + length) // 2, length - 1})
        if not all(matters(position) for position in tried):
            raise self._unclear(f"its head reads some patches, but not all of {tried}")
        return special, True


# -- in the forward pass ---------------------------------------------------------------------------------------------


class _Stop(Exception):  # noqa: N818 - no error: what was wanted is known
    pass


@contextmanager
def _stopped_before(block: nn.Module) -> Iterator[list[Tensor]]:
    """A forward pass ends where this block would be called; its input is put into the list."""
    states: list[Tensor] = []

    def stop(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        states.append(hidden_state(module, args, kwargs)[1])
        raise _Stop

    hook = block.register_forward_pre_hook(stop, with_kwargs=True)
    try:
        yield states
    finally:
        hook.remove()


def _until_stopped(run: Any) -> None:
    try:
        run()
    except _Stop:
        return


def _position_table(watched: Survey) -> int | None:
    """How many positions the model has embeddings for: rows of the table that was looked up with i, i + 1, ..., less i."""
    for indices, rows in watched.lookups:
        row = indices.reshape(-1, indices.shape[-1])[0] if indices.dim() else indices
        if row.numel() == LENGTH and bool((row.diff() == 1).all()):
            return rows - int(row[0])
    return None


def _to_write(adapter: Adapter) -> str:
    """The adapter that a user would write, ready to be pasted, with the longest list of modules as a guess."""
    model = adapter.model
    lists = [
        (len(module), name)
        for name, module in model.named_modules()
        if isinstance(module, (nn.ModuleList, nn.Sequential)) and len({type(child) for child in module}) == 1
    ]
    path = max(lists, default=(0, "encoder.layers"))[1]
    kind, package = type(model).__name__, type(model).__module__.partition(".")[0]
    lines = [
        f'    @attcat.register("{package}.{kind}")',
        f"    class {kind}Adapter(attcat.{'VisionAdapter' if isinstance(adapter, VisionAdapter) else 'TextAdapter'}):",
        f'        family = "{kind}"',
        f'        block_paths = ("{path}",)  # where the list of blocks is',
    ]
    if isinstance(adapter, VisionAdapter):
        lines += ["        patch_size = (16, 16)", '        prefix = ("[CLS]",)  # the tokens before the patches']
    return "\n".join(
        [
            *lines,
            "",
            "        def read(self, encoding):  # which tokens the head reads, bool [B, T]",
            "            return super().read(encoding)  # the first",
        ]
    )

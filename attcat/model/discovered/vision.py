"""A vision model that no adapter knows: blocks, patches, prefix tokens and what the head reads, by experiment."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ...capture.blocks import hidden_state
from ...capture.survey import Survey, survey
from ...errors import ProcessorError
from ...tokens import Tokens
from ..encoding import Encoding
from ..heads import Head
from ..vision import VisionAdapter
from .base import Discovered, log
from .experiments import FAILURES, differ, logits_of, logits_without, picture_size


class DiscoveredVision(Discovered, VisionAdapter):
    """A vision model that no adapter knows."""

    family = "discovered vision model"
    head_type = Head

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

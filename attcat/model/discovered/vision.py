"""A vision model that no adapter knows: blocks, patches, prefix tokens and what the head reads, by experiment."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ...capture.randomness import OwnRandomness
from ...capture.survey import Convolution, Unclear, stages_of, survey
from ...errors import ProcessorError, UnsupportedModelError
from ...tokens import Tokens
from ..bound import borrowed
from ..encoding import Encoding
from ..heads import Head
from ..vision import VisionAdapter
from .base import Discovered, Found, log
from .experiments import (
    FAILURES,
    differ,
    logits_of,
    logits_without,
    picture_size,
    placed,
    stopped_before,
    until_stopped,
)


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
        try:
            self.found = self._blocks_in(watched)
        except UnsupportedModelError as error:
            try:
                self.found = Found.of_stages(watched, (height, width))
            except Unclear:
                raise error from None
        self._place(height, width)
        trial = self.encode_arguments({"pixel_values": pixels})
        if self.has_stages:
            self._check_stages(height, width)
        self.reads = ((), True) if self.has_stages else self._reads(trial)
        noise = torch.randn(pixels.shape, generator=torch.Generator().manual_seed(0))
        self.trial = self.encode_arguments({"pixel_values": noise})
        log.info("%s", self.describe())

    patch_size: tuple[int, int] = (0, 0)
    overlap: bool = False
    """Whether neighbouring tokens see the same pixels, as behind a stem of convolutions."""
    _convolution: int | None = None
    prefix: tuple[str, ...] = ()

    @property
    def has_stages(self) -> bool:  # type: ignore[override]
        """Whether its blocks have grids of their own."""
        return bool(self.found.stages)

    def aligned(self, block: int, state: Tensor, share: bool = False) -> Tensor:
        """On the first block's grid: coarser positions are repeated for the patches whose centre lies in them."""
        if not self.found.stages:
            return state
        stage = self.found.stages[block]
        places = stage.places(self.found.stages[0].grid).to(state.device)
        spread = stage.flat(state)[:, places]
        return spread / places.bincount()[places][:, None] if share else spread

    def call(self, encoding: Encoding) -> Any:
        """Run the model, with the pixels by name if it has a name for them."""
        if self.accepted is None or "pixel_values" in self.accepted:
            return self.model(**encoding.arguments)
        return self.model(encoding.arguments["pixel_values"])

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of patches: what the model's convolution makes of a picture of this size."""
        if (height, width) not in self._grids:
            states, convolutions = self._embed(torch.zeros(1, 3, height, width))
            if self._convolution is not None:
                self._grids[height, width] = convolutions[self._convolution].grid
            else:
                self._grids[height, width] = super().grid(height, width)
            rows, columns = self._grids[height, width]
            if rows * columns + len(self.prefix) != states.shape[1]:
                raise ProcessorError(
                    f"the model makes {states.shape[1]} tokens of a picture of {height} x {width} pixels, which do not form "
                    f"a grid of {rows} x {columns}"
                )
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
            f"{self.patch_size[0]} x {self.patch_size[1]} pixels for a picture of {height} x {width}"
            f"{', each of which sees pixels of its neighbours too' if self.overlap else ''}; "
            + ("" if self.has_stages else f"its head reads {', '.join(read)}")
        )

    def _place(self, height: int, width: int) -> None:
        """Where the patches lie: the grid of one of the convolutions in front, or one in the picture's proportions, as far as a
        patch of other pixels is seen in the token that then would be its own.

        The patch is what is left when the picture is divided by the grid.
        """
        convolutions = self._embed(torch.zeros(1, 3, height, width))[1]
        seen = []
        for index, grid, patch in self._candidates(convolutions, height, width):
            found = placed(lambda pixels: self._embed(pixels)[0], (height, width), grid, patch)
            if found is not None and not found.before and found.off <= (0 if found.alone else 1):
                self.patch_size, self._grids[height, width], self._convolution = patch, grid, index
                self.overlap = not found.alone
                count = self.found.length - grid[0] * grid[1]
                self.prefix = ("[CLS]",) if count == 1 else tuple(f"[PREFIX{index + 1}]" for index in range(count))
                return
            seen.append(f"{grid[0]} x {grid[1]}")
        raise self._unclear(
            f"it is not known where on the picture its {self.found.length} tokens are: when other pixels are put into one patch, "
            f"another token changes than in a grid of {' or '.join(seen) or 'any size'}"
        )

    def _check_stages(self, height: int, width: int) -> None:
        """In every block the positions have to lie row by row: those of a quarter that changes have to change most."""
        generator = torch.Generator().manual_seed(0)
        pixels = torch.randn(1, 3, height, width, generator=generator).repeat(3, 1, 1, 1)
        other = torch.randn(3, height // 2, width // 2, generator=generator)
        pixels[1, :, : height // 2, -(width // 2) :] = other
        pixels[2, :, -(height // 2) :, : width // 2] = other
        encoding = self._unnamed(pixels)
        with borrowed(self) as own, OwnRandomness():
            watched = survey(own.model, lambda: own.call(encoding))
        watched.batch = len(pixels)
        for block, visit in enumerate(stages_of(watched)):
            assert visit.taken is not None
            states = self.aligned(block, visit.taken)
            change = (states[1:] - states[0]).abs().mean(-1).view(2, *self.found.stages[0].grid)
            down, across = change.shape[1] // 2, change.shape[2] // 2
            above, below = change[:, :down, -across:].mean((1, 2)), change[:, -down:, :across].mean((1, 2))
            if not (above[0] > below[0] and below[1] > above[1]):
                raise self._unclear(
                    f"the positions of block {block} ({visit.name}) do not lie row by row on the picture"
                )

    def _candidates(
        self, convolutions: Sequence[Convolution], height: int, width: int
    ) -> Iterator[tuple[int | None, tuple[int, int], tuple[int, int]]]:
        """Grids and patches that may be: of the convolutions, from the last one back, and such as have the picture's shape."""
        length = self.found.length
        for index in reversed(range(len(convolutions))):
            rows, columns = convolutions[index].grid
            if rows * columns > length or rows * columns < length // 2:
                continue
            exact = len(convolutions) == 1 and convolutions[index].kernel == convolutions[index].stride
            patch = convolutions[index].stride if exact else (-(-height // rows), -(-width // columns))
            yield index, (rows, columns), patch
        for count in range(8):  # no convolution: pixels were unfolded, and a few tokens may stand in front
            for rows in range(1, length - count + 1):
                columns = (length - count) // rows
                whole = rows * columns == length - count and height % rows == 0 and width % columns == 0
                if whole and height // rows == width // columns:
                    yield None, (rows, columns), (height // rows, width // columns)

    def _unnamed(self, pixels: Tensor) -> Encoding:
        """A batch of pixels `[B, 3, H, W]` whose tokens are not known yet."""
        mask = torch.ones(len(pixels), 0, dtype=torch.bool)
        return Encoding(
            self.place({"pixel_values": pixels}), mask, (Tokens((), ()),) * len(pixels), (None,) * len(pixels)
        )

    def _embed(self, pixels: Tensor) -> tuple[Tensor, list[Convolution]]:
        """The first block's input `[B, T, D]` for pixels `[B, 3, H, W]`, and the convolutions; the blocks are not run."""
        encoding = self._unnamed(pixels)
        with borrowed(self) as own, OwnRandomness(), stopped_before(own.blocks[0]) as states:
            try:
                watched = survey(own.model, lambda: until_stopped(lambda: own.call(encoding)))
            except FAILURES as error:
                height, width = pixels.shape[-2:]
                raise ProcessorError(
                    f"the model does not take pictures of {height} x {width} pixels: {error}"
                ) from error
        return self.aligned(0, states[0]), watched.convolutions

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

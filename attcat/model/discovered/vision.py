"""A vision model that no adapter knows: blocks, patches, prefix tokens and what the head reads, by experiment."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ...capture.blocks import Block
from ...capture.cuts import Piece, cuts, pieces_of
from ...capture.randomness import OwnRandomness
from ...capture.survey import NO_ATTENTION, Convolution, Survey, Unclear, survey
from ...capture.windowed import received_within
from ...errors import ProcessorError, UnsupportedModelError
from ...tokens import Tokens
from ..bound import borrowed
from ..encoding import Encoding
from ..heads import Head, head_of
from ..regions import DetectionHead, RegionHead
from ..vision import VisionAdapter
from .base import Discovered, Found, log
from .experiments import (
    FAILURES,
    differ,
    idle,
    logits_of,
    logits_without,
    picture_size,
    placed,
    replaced_before,
    stopped_after,
    stopped_before,
    until_stopped,
)
from .stages import Layout, Stage, is_heard, order_of, quarters, readable, say_nothing, strips_of
from .windows import keys_of

TOGETHER = 8 * 224 * 224
"""How many pixels share a pass of an experiment: so many pictures of the usual size, and one of a large size by itself."""

STRIPS = 128
"""So many rows and columns are replaced one by one, but no more."""


class DiscoveredVision(Discovered, VisionAdapter):
    """A vision model that no adapter knows."""

    family = "discovered vision model"

    @property
    def head_type(self) -> type[Head]:  # type: ignore[override]
        """A classifier's, but for heads that predict something for each place on the picture."""
        found = head_of(self.model)
        return found if issubclass(found, RegionHead) else Head

    def __init__(self, model: nn.Module, processor: Any = None) -> None:
        super().__init__(model, processor)
        self._grids: dict[tuple[int, int], tuple[int, int]] = {}
        self._layouts: dict[tuple[int, ...], Layout] = {}
        height, width = picture_size(self)
        pixels = torch.zeros(1, 3, height, width)
        refused: UnsupportedModelError | None = None
        try:
            self.found = self._blocks_in(self._watch(self._unnamed(pixels)))
            self._check_states(height, width)
            self._place(height, width)
        except UnsupportedModelError as error:
            if NO_ATTENTION in str(error):  # nor in any piece
                raise
            refused = _forgetful(error)
        if refused is not None:
            try:
                self._find_pieces(height, width)
            except UnsupportedModelError:
                raise
            except (Unclear, *FAILURES):
                raise refused from None
        else:
            trial = self._tried(pixels)
            self._leave_out_idle(trial)
            self.reads = self._reads(trial)
        noise = torch.randn(pixels.shape, generator=torch.Generator().manual_seed(0))
        self.trial = self._tried(noise)
        log.info("%s", self.describe())

    patch_size: tuple[float, float] = (0, 0)
    overlap: bool = False
    """Whether neighbouring tokens see the same pixels, as behind a stem of convolutions."""
    _convolution: int | None = None
    _layout: Layout
    """How its blocks lie on the picture that it was inspected with."""
    _only: frozenset[str] | None = None
    """The calls at which blocks may begin, if not at any: the positions of some lie in no order that is seen."""
    prefix: tuple[str, ...] = ()

    @property
    def has_stages(self) -> bool:  # type: ignore[override]
        """Whether its blocks have grids of their own."""
        return bool(self.found.stages)

    @property
    def until_next(self) -> bool:  # type: ignore[override]
        """Blocks with grids of their own are pieces of the forward pass."""
        return self.has_stages

    @property
    def attends(self) -> tuple[bool, ...]:
        """Which blocks were seen to attend; of windows, those whose keys are known."""
        return tuple(map(bool, self._layout.keys)) if self.has_stages else super().attends

    def aligned(self, block: int, state: Tensor, share: bool = False) -> Tensor:
        """On the finest grid: coarser positions are repeated for the patches whose centre lies in them."""
        if not self.has_stages:
            return state
        layout = self._layouts[block, *state.shape[1:]]
        return layout.spread(block, layout.stages[block].flat(state), share)

    def received(self, index: int, block: Block) -> Tensor | None:
        """Within windows, or over coarser keys; none where it is not known what the keys stand for."""
        if not self.has_stages:
            return None
        state = block.input
        layout = self._layouts[index, *state.shape[1:]]
        weights = received_within(block.attention, layout.keys[index], len(state))
        return layout.spread(index, weights[..., None], False)[..., 0]

    def call(self, encoding: Encoding) -> Any:
        """Run the model, with the pixels by name if it has a name for them."""
        if self.accepted is None or "pixel_values" in self.accepted:
            return self.model(**encoding.arguments)
        return self.model(encoding.arguments["pixel_values"])

    def grid(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of patches: what the model's convolution makes of a picture of this size."""
        if (height, width) not in self._grids and self.has_stages:
            self._grids[height, width] = self._laid_out_anew(height, width).grid
        if (height, width) not in self._grids:
            states, convolutions = self._embed(torch.zeros(1, 3, height, width))
            if self._convolution is not None:
                self._grids[height, width] = convolutions[self._convolution].grid
            else:
                self._grids[height, width] = super().grid(height, width)
            rows, columns = self._grids[height, width]
            if len(self.prefix) + rows * columns + len(self.suffix) != states.shape[1]:
                raise ProcessorError(
                    f"the model makes {states.shape[1]} tokens of a picture of {height} x {width} pixels, which do not form "
                    f"a grid of {rows} x {columns}"
                )
        return self._grids[height, width]

    def read(self, encoding: Encoding) -> Tensor:
        """Prefix tokens, patches, or both, as the experiment showed."""
        special, patches = self.reads
        read = torch.full_like(encoding.mask, patches)
        before, behind = len(self.prefix), read.shape[1] - len(self.suffix)
        read[:, :before] = read[:, behind:] = False
        for index in special:
            if index >= before:  # of the tokens behind the patches each has a prediction of its own
                place = torch.zeros(len(read), dtype=torch.long) if encoding.place is None else encoding.place
                read[torch.arange(len(read)), behind + index - before + place.to(read.device)] = True
            else:
                read[:, index] = True
        return read

    @property
    def _tokens_found(self) -> str:
        special, patches = self.reads
        names = (*self.prefix, "the token of the box that is explained")
        every = "all patches, of several blocks" if self.reads_several else "all patches"
        read = [names[index] for index in special] + ([every] if patches else [])
        (height, width), (rows, columns) = next(iter(self._grids.items()))
        return (
            f"{len(self.prefix)} prefix tokens ({', '.join(self.prefix) or 'none'}), then {rows} x {columns} patches of "
            f"{self.patch_size[0]:.4g} x {self.patch_size[1]:.4g} pixels for a picture of {height} x {width}"
            f"{', each of which sees pixels of its neighbours too' if self.overlap else ''}"
            f"{f', then {len(self.suffix)} tokens for boxes' if self.suffix else ''}; "
            + ("" if self.has_stages else f"its head reads {', '.join(read)}")
        )

    def _place(self, height: int, width: int) -> None:
        """Where the patches lie: the grid of one of the convolutions in front, or one in the picture's proportions, as far as a
        patch of other pixels is seen in the token that then would be its own.

        The patch is what is left when the picture is divided by the grid.
        """
        convolutions = self._embed(torch.zeros(1, 3, height, width))[1]
        seen, behind = [], self._behind(height, width)
        for index, grid, patch in self._candidates(convolutions, height, width, behind):
            states_of = partial(self._patches, behind=behind)
            found = placed(states_of, (height, width), grid, patch)
            if found is not None and not found.before and found.off <= (0 if found.alone else 1):
                self.patch_size, self._grids[height, width], self._convolution = patch, grid, index
                self.overlap = not found.alone
                count = self.found.length - behind - grid[0] * grid[1]
                self.suffix = tuple(f"[BOX{index}]" for index in range(behind))
                self.prefix = ("[CLS]",) if count == 1 else tuple(f"[PREFIX{index + 1}]" for index in range(count))
                return
            seen.append(f"{grid[0]} x {grid[1]}")
        raise self._unclear(
            f"it is not known where on the picture its {self.found.length} tokens are: when other pixels are put into one patch, "
            f"another token changes than in a grid of {' or '.join(seen) or 'any size'}"
        )

    def _tried(self, pixels: Tensor) -> Encoding:
        """One picture, and the place on it that the head is tried with."""
        encoding = self.encode_arguments({"pixel_values": pixels})
        return self.head.point(encoding, [self.head.trial(encoding, 0)])

    def _find_pieces(self, height: int, width: int) -> None:
        """The blocks between states that everything passes through, each with a grid of its own.

        Raises:
            Unclear: if there are none.
            UnsupportedModelError: if it is not known where they lie on the picture.
        """
        unplaced, refused = set[tuple[int, ...]](), None
        while True:
            try:
                pieces, stages = self._pieces(height, width, unplaced)
            except Unclear:
                if refused is None:
                    raise
                raise refused from None
            self._name(Found.of_pieces(pieces, stages))
            stages = self._ordered(height, width, stages)
            if len(stages) == len(pieces):
                break
            # A block may begin before, at a state whose order is seen: in front of what unfolds it.
            unplaced.add(pieces[len(stages)].visit.shape)
            refused = refused or self._astray(len(stages))
        self._only = frozenset(self.found.names) if unplaced else None
        self._layout = self._laid_out(height, width, pieces, stages)
        self._place(height, width)
        self.reads = ((), True)

    def _astray(self, block: int) -> UnsupportedModelError:
        return self._unclear(
            f"the positions of block {block} ({self.found.names[block]}) do not lie row by row on the picture, nor in "
            "another order that is seen when rows or columns of it are replaced"
        )

    def _blocks_in(self, watched: Survey) -> Found:
        try:
            return super()._blocks_in(watched)
        except UnsupportedModelError:
            if not isinstance(self.head, RegionHead):
                raise
            try:
                return Found.of_encoder(watched)
            except Unclear:
                pass
            raise

    def _check_states(self, height: int, width: int) -> None:
        """What blocks take that are not called one after another has to be all that the prediction depends on.

        So has what an encoder's first block takes, before which nothing else may read it: a decoder may be given more.
        """
        if not self.found.between and not isinstance(self.head, RegionHead):
            return
        watched, value, leaf = self._graph(height, width)
        through = cuts(value.grad_fn, leaf)
        blocks = [visit for visit in watched.visits if visit.name in self.found.names]
        if not self.found.between:
            blocks = blocks[:1]
            before = watched.visits[: watched.visits.index(blocks[0])]
            reads = [v for v in before if v.origin == blocks[0].origin and v.given is not v.taken]
            if early := [v.name for v in reads if v not in blocks[0].around]:
                raise self._unclear(f"{early[0]} reads what its block {blocks[0].name} takes, before it does")
        aside = [visit.name for visit in blocks if visit.origin not in through]
        if aside:
            raise self._unclear(
                f"what its block {aside[0]} takes is not the hidden state: a sum outside, around a norm?"
                if self.found.between
                else f"what its block {aside[0]} takes is not all that the prediction depends on: its decoder, or its head, "
                "reads something of the picture that does not pass through it"
            )

    def _pieces(
        self, height: int, width: int, unplaced: Collection[tuple[int, ...]] = ()
    ) -> tuple[list[Piece], list[Stage]]:
        """The pieces of a pass over a picture of that size, and their grids; none begins at a state of these shapes."""
        watched, value, leaf = self._graph(height, width)
        grids = readable(watched.visits, (height, width))
        if isinstance(self.head, RegionHead):
            # The tokens of several grids in one sequence, as a decoder reads them, are no grid behind a few others.
            grids = {visit: stage for visit, stage in grids.items() if not stage.prefix}
        grids = {
            visit: stage
            for visit, stage in grids.items()
            if visit.shape not in unplaced and (self._only is None or visit.name in self._only)
        }
        pieces = pieces_of(watched, value, leaf, grids)
        for visit in watched.visits:  # a graph of large pictures fills the memory while others are tried
            visit.forget()
        return pieces, [grids[piece.visit] for piece in pieces]

    def _graph(self, height: int, width: int) -> tuple[Survey, Tensor, Tensor]:
        """A pass that was watched with gradient, the sum of its logits, and the picture."""
        leaf = torch.zeros(1, 3, height, width, device=self.device, dtype=self.dtype, requires_grad=True)
        values: list[Tensor] = []
        with borrowed(self) as own, OwnRandomness():
            encoding = self._unnamed(leaf.clone())
            watched = survey(own.model, lambda: values.append(own.predict(encoding)[1].sum()), gradient=True)
        return watched, values[0], leaf

    def _laid_out(self, height: int, width: int, pieces: Sequence[Piece], stages: Sequence[Stage]) -> Layout:
        """Where the positions of each block lie on a picture of that size, in known orders, and what its keys stand for."""
        noise = _noise(height, width)
        encoding = self._unnamed(noise)
        with borrowed(self) as own, OwnRandomness():
            keys = keys_of(own.blocks, stages, lambda: own.call(encoding))
        layout = Layout(tuple(stages), tuple(keys))
        for block, piece in enumerate(pieces):
            assert piece.visit.taken is not None
            self._layouts[block, *piece.visit.taken.shape[1:]] = layout
        return layout

    def _laid_out_anew(self, height: int, width: int) -> Layout:
        """The layout of a picture of another size.

        Raises:
            ProcessorError: if the model does not take it, or has other blocks then.
        """
        try:
            pieces, stages = self._pieces(height, width)
        except (*FAILURES, Unclear) as error:
            raise ProcessorError(f"the model does not take pictures of {height} x {width} pixels: {error}") from error
        if tuple(piece.visit.name for piece in pieces) != self.found.names:
            raise ProcessorError(
                f"on pictures of {height} x {width} pixels the model has other blocks than it was found with"
            )
        ordered = self._ordered(height, width, stages)
        if len(ordered) < len(stages):
            raise self._astray(len(ordered))
        return self._laid_out(height, width, pieces, ordered)

    def _ordered(self, height: int, width: int, stages: Sequence[Stage]) -> list[Stage]:
        """The stages with the order of their positions, where these do not lie row by row; up to the first that lie in none.

        The quarters of a grid have to follow those of the picture that are replaced, better than if they lay in any other order.
        """
        noise = _noise(height, width)
        pixels = noise.repeat(5, 1, 1, 1)
        other = torch.randn(noise.shape[1:], generator=torch.Generator().manual_seed(1))
        for index, (rows, columns) in enumerate(quarters(*noise.shape[-2:]), 1):
            pixels[index, :, rows, columns] = other[:, rows, columns]
        found: list[Stage] = []
        for block, state in enumerate(self._states(pixels, len(stages) - 1)):
            likely = [one for one in found[-1:] if replace(one, order=()) == stages[block]]
            if state.dim() == 3 or stages[block].told_by(state.shape):  # windows lie row by row in no reading
                likely += [stages[block], stages[block].turned]
            fits = next((one for one in likely if one.follows(state)), None)
            if fits is not None and not found and not self._lies(fits, noise):
                fits = None
            if fits is None and found:  # far from the picture, what the block before has is the better measure
                state = self._answers(noise, found[-1], block, found[-1].quarters())
                fits = next((one for one in likely if one.follows(state)), None)
            fits = fits or self._found_order(noise, found, stages[block])
            if fits is None:
                break
            found.append(fits)
        return found

    def _lies(self, stage: Stage, noise: Tensor) -> bool:
        """Whether single patches of the picture are seen where the first block has them, by this reading of its state."""
        height, width = noise.shape[-2:]
        patch = (height / stage.grid[0], width / stage.grid[1])
        seen = placed(lambda pixels: stage.flat(self._states(pixels, 0)[0]), (height, width), stage.grid, patch)
        return seen is not None and seen.off <= 1

    def _found_order(self, noise: Tensor, before: Sequence[Stage], stage: Stage) -> Stage | None:
        """A stage with the order of its positions, as they follow the rows and columns of the picture, or of the block before;
        None if they lie in none.
        """
        block = len(before)
        if sum(stage.grid) > STRIPS:
            return None
        if before:
            states = self._answers(noise, before[-1], block, before[-1].strips(stage.grid))
        else:
            states = self._states(torch.cat([noise, *strips_of(noise, stage.grid)]), block)[block]
        patches = stage.flat(states)[:, stage.prefix :]
        change = (patches[1:] - patches[0]).abs().mean(-1)
        order = order_of(change, stage.grid, stage.told_by(states.shape))
        lost = is_heard(change, states) and say_nothing(change, stage.grid)
        if order is None and before and not before[-1].order and lost:
            order = ()  # a block whose positions follow nothing before it (no residual connection) goes on as they lay
        return None if order is None else replace(stage, order=order)

    def _answers(self, noise: Tensor, before: Stage, block: int, parts: Sequence[Tensor]) -> Tensor:
        """What a block takes, as it is, and when each of some parts of the grid of the block before it is moved."""
        (state,) = self._states(noise, block - 1)[block - 1 :]
        direction = before.direction(state) * state.std() * 1e-2
        moved = [state + before.like(part, state).to(state) * direction for part in parts]
        return self._states(noise, block, instead=[state, *moved])[block]

    def _states(self, pixels: Tensor, last: int, instead: Sequence[Tensor] = ()) -> list[Tensor]:
        """What the blocks take up to the last one that is asked for, each `[B, ...]`; so many pictures at a time as are cheap.

        Args:
            pixels: `[B, 3, H, W]`, or one picture.
            last: the number of the last block.
            instead: states of the block before the last one that take the place of its own, of the one picture.
        """
        parts, together = [], _together(pixels)
        for start in range(0, len(instead) or len(pixels), together):
            given = instead[start : start + together]
            encoding = self._unnamed(pixels.repeat(len(given), 1, 1, 1) if given else pixels[start : start + together])
            with borrowed(self) as own, OwnRandomness(), torch.no_grad(), ExitStack() as undo:
                if given:
                    undo.enter_context(replaced_before(own.blocks[last - 1], torch.cat(list(given))))
                seen = undo.enter_context(stopped_after(own.blocks[: last + 1]))
                until_stopped(partial(own.call, encoding))
            parts.append(seen)
        return [torch.cat(part) for part in zip(*parts, strict=True)]

    def _behind(self, height: int, width: int) -> int:
        """How many tokens stand behind the patches: those of a detector that no pixel changes, one for each box."""
        if not isinstance(self.head, DetectionHead) or self.has_stages:
            return 0
        noise = torch.randn(1, 3, height, width, generator=torch.Generator().manual_seed(0))
        changed = (self._embed(noise)[0] - self._embed(torch.zeros_like(noise))[0]).abs().amax((0, 2)) > 0
        return int(changed.flip(0).long().argmax()) if bool(changed.any()) else 0

    def _patches(self, pixels: Tensor, behind: int) -> Tensor:
        """What the first block takes, without the tokens behind the patches."""
        state = torch.cat([self._embed(part)[0] for part in torch.split(pixels, _together(pixels))])
        return state[:, : state.shape[1] - behind]

    def _candidates(
        self, convolutions: Sequence[Convolution], height: int, width: int, behind: int = 0
    ) -> Iterator[tuple[int | None, tuple[int, int], tuple[float, float]]]:
        """Grids and patches that may be: of the convolutions, from the last one back, and such as have the picture's shape."""
        length = self.found.length - behind
        if self.has_stages:
            grid = self._layout.grid
            exact = len(convolutions) == 1 and convolutions[0].kernel == convolutions[0].stride
            yield None, grid, convolutions[0].stride if exact else _divided(height, width, grid)
            return
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
        state = states[0] if self.position_axis == 1 else states[0].transpose(1, self.position_axis)
        return self.aligned(0, state), watched.convolutions

    def _leave_out_idle(self, trial: Encoding) -> None:
        """Without the blocks at the end that change no logit, behind the last state that a head for places reads."""
        if not isinstance(self.head, RegionHead):
            return
        count, before = len(self.blocks), logits_of(self, trial)
        while count > 1 and idle(self, trial, count - 1, before):
            count -= 1
        self._name(self.found.until(count))

    def _name(self, found: Found) -> None:
        """Take other blocks than before."""
        self.found = found
        for name in ("blocks", "_twins"):
            vars(self).pop(name, None)

    def _reads(self, trial: Encoding) -> tuple[tuple[int, ...], bool]:
        """Which prefix tokens the head reads, and whether it reads the patches."""
        before, count, length = logits_of(self, trial), len(self.prefix), len(trial.tokens[0]) - len(self.suffix)

        def matters(*positions: int) -> bool:
            return differ(before, logits_without(self, trial, positions))

        special = tuple(index for index in range(count) if matters(index))
        if self.suffix and (read := [index for index in range(len(self.suffix)) if matters(length + index)]):
            if read != [int(trial.place or 0)]:
                raise self._unclear(
                    f"a box is read at {len(read)} of the tokens behind the patches, not at its own alone"
                )
            special = (*special, count)
        if not matters(*range(count, length)):
            if special:
                return special, False
            if isinstance(self.head, RegionHead):
                self.reads_several = True  # from elsewhere than the last one's output
                return (), True
            raise self._unclear("no token's last state changes its logits (are the weights of its head zero?)")
        tried = sorted({count, (count + length) // 2, length - 1})
        if not all(matters(position) for position in tried):
            raise self._unclear(f"its head reads some patches, but not all of {tried}")
        return special, True


def _forgetful(error: UnsupportedModelError) -> UnsupportedModelError:
    """The error without its tracebacks, whose frames hold every state of the forward pass that was watched."""
    link: BaseException | None = error
    while link is not None:
        link.__traceback__ = None
        link = link.__cause__ or link.__context__
    return error


def _together(pixels: Tensor) -> int:
    """How many of these pictures `[B, 3, H, W]` share a pass."""
    return max(1, TOGETHER // (pixels.shape[-2] * pixels.shape[-1]))


def _noise(height: int, width: int) -> Tensor:
    return torch.randn(1, 3, height, width, generator=torch.Generator().manual_seed(0))


def _divided(height: int, width: int, grid: tuple[int, int]) -> tuple[float, float]:
    """The patches of a picture that is divided by a grid."""
    down, across = height / grid[0], width / grid[1]
    return int(down) if down.is_integer() else down, int(across) if across.is_integer() else across

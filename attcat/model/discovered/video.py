"""A model of videos that no adapter knows: blocks, groups of frames, patches, and what the head reads, by experiment."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...capture.survey import Survey, Unclear, divided
from ...errors import UnsupportedModelError
from ..signal import Places
from ..video import VideoAdapter
from .base import Found
from .signal import DiscoveredSignal

USUAL = 224
"""Height and width of a frame, where neither a processor nor the configuration says it."""


class DiscoveredVideo(DiscoveredSignal, VideoAdapter):
    """A model of videos that no adapter knows."""

    family = "discovered video model"
    fixed = (1,)

    def __init__(self, model: nn.Module, processor: Any = None) -> None:
        super().__init__(model, processor)
        self._orders: dict[int, Tensor] = {}
        shape = (1, self.frames or 1, 3, *self._side(USUAL))
        noise = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        self._inspect(self.place({self.continuous: noise}), None)

    def places(self, shape: tuple[int, ...]) -> Places:
        """The lattice of an input of this shape, group by group, row by row, whatever the order of the model's tokens."""
        boxes = super().places(shape).boxes
        content = (~np.isnan(boxes).any((1, 2))).nonzero()[0]
        starts = boxes[content][:, :, 0]
        order = np.arange(len(boxes))
        order[content] = content[np.lexsort((starts[:, 3], starts[:, 2], starts[:, 0]))]
        if (order != np.arange(len(order))).any():
            self._orders[len(order)] = torch.from_numpy(order)
        return Places(boxes[order])

    def aligned(self, block: int, state: Tensor, share: bool = False) -> Tensor:
        """In the order in which tokens are named."""
        order = self._orders.get(state.shape[1])
        return state if order is None else state[:, order.to(state.device)]

    @property
    def has_stages(self) -> bool:  # type: ignore[override]
        """Whether attention is divided between space and time, so that there is none over all tokens."""
        return not any(self.found.attends)

    @property
    def _tokens_found(self) -> str:
        lattice = next(iter(self._lattices.values()))
        frames, _, height, width = (f"{step:.4g}" for step in lattice.steps)
        return f"a token stands for {frames} frames of {height} x {width} pixels; its head reads {self._which_read}"

    def _blocks(self, watched: Survey) -> Found:
        """Blocks that attend over all tokens; or such as divide attention between space and time."""
        try:
            found = self._blocks_in(watched)
        except UnsupportedModelError as error:
            try:
                visits = divided(watched)
            except Unclear:
                raise error from None
            states = [visit.state for visit in visits]
            state = states[0]
            if state is None or any(other is None or other.shape != state.shape for other in states):
                raise error
            names, kinds = (tuple(v.name for v in visits), tuple(type(v.module).__name__ for v in visits))
            free = (False,) * len(visits)
            found = Found(names, kinds, state.shape[2], state.shape[1], ("other layers",), free)
        first = next(visit for visit in watched.visits if visit.name == found.names[0])
        if min(first.shape[:2]) > 1:  # of one video: what attends within each frame, then across frames
            raise self._unclear(
                f"its first block ({first.name}) takes a state of shape {first.shape} of one video, which is not one sequence"
            )
        return found

    def _grids(self, shape: tuple[int, ...], length: int) -> Iterator[tuple[int, ...]]:
        """Groups of equally many frames, and patches in the proportions of a frame, with a few tokens in front."""
        frames, _, height, width = shape
        for spare in range(4):
            for group in range(1, frames + 1):
                groups, rest = divmod(frames, group)
                if rest or (length - spare) % groups:
                    continue
                patches = (length - spare) // groups
                rows = round((patches * height / width) ** 0.5)
                if rows and patches % rows == 0 and abs(patches // rows * height - rows * width) < max(height, width):
                    yield groups, rows, patches // rows

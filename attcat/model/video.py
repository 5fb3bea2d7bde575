"""Models that read videos: a grid of patches for every group of frames."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..errors import InputError, ProcessorError
from ..tokens import Tokens, View
from .encoding import Encoding
from .picture import Observer, check_proportions, read_picture, to_pixels
from .signal import SignalAdapter
from .vision import PROPORTIONS

FRAMES = ("num_frames", "frames_per_clip")
"""How configurations say of how many frames a video is."""


def read_video(source: Any) -> np.ndarray:
    """Read the frames of a video, uint8 `[F, H, W, 3]`.

    Args:
        source: an array or tensor `[F, H, W, 3]`, or a list or tuple of pictures of one size, in every form that
            `attcat.model.picture.read_picture` takes.

    Raises:
        InputError: if it is neither, or the frames have several sizes.
    """
    if isinstance(source, (np.ndarray, Tensor)) and source.ndim == 4:
        source = list(source)
    if not isinstance(source, (list, tuple)) or not source:
        raise InputError(
            f"cannot read a video from {type(source).__name__}: give its frames, as an array [F, H, W, 3] or a list of pictures"
        )
    frames = [to_pixels(read_picture(frame)) for frame in source]
    sizes = {frame.shape for frame in frames}
    if len(sizes) > 1:
        raise InputError(f"the frames of a video have one size, got {len(sizes)}")
    return np.stack(frames)


class VideoAdapter(SignalAdapter):
    """A model that reads `pixel_values` `[B, F, 3, H, W]`, with a processor of videos."""

    classes_with_head = "AutoModelForVideoClassification"
    arguments = ("pixel_values", "pixel_values_videos")
    axes = "[1, F, 3, H, W]"

    def is_one(self, value: Any) -> bool:
        """A list of pictures is one video; a list of videos, each a list or an array of four axes, is several."""
        return isinstance(value, list) and not any(
            isinstance(frame, (list, tuple, dict)) or getattr(frame, "ndim", 0) == 4 for frame in value
        )

    @property
    def frames(self) -> int | None:
        """How many frames a video has, if the model says it."""
        config = getattr(self.model, "config", None)
        return next((int(found) for name in FRAMES if (found := getattr(config, name, None)) is not None), None)

    def preprocess(self, video: np.ndarray) -> Tensor:
        """Send frames `[F, H, W, 3]` through the processor: float `[F, 3, H, W]`.

        Raises:
            ProcessorError: if there is none, or it makes something else.
        """
        if self.processor is None:
            raise ProcessorError(
                "a video needs the model's processor: Explainer(model, processor); without one, give model arguments "
                f'{{"{self.continuous}": ...}}'
            )
        size = (video.shape[2], video.shape[1])
        if max(size) > PROPORTIONS * min(size):
            check_proportions(Image.fromarray(video[0]), min(self._side(224)))
        frames = [
            Image.fromarray(frame) for frame in video
        ]  # of an array of few pixels it is not seen which axis has colours
        made = self.processor(frames, return_tensors="pt")
        found = next((made[name] for name in self.arguments if name in made), None)
        if not isinstance(found, Tensor) or found.dim() != 5 or found.shape[1] != len(video):
            shape = tuple(found.shape) if isinstance(found, Tensor) else type(found).__name__
            raise ProcessorError(
                f"the processor turns {len(video)} frames into {shape}, expected [1, {len(video)}, 3, H, W]: is it a processor "
                "of videos that leaves all frames in?"
            )
        return found[0]

    @cached_property
    def _view(self) -> Observer:
        """Where a frame is on the model's input; frames are all treated alike."""
        many = self.frames or 1
        return Observer(lambda picture: self.preprocess(np.repeat(to_pixels(picture)[None], many, axis=0))[0])

    def encode(self, inputs: Sequence[Any], *, truncation: bool = False) -> Encoding:
        """Preprocess a video (`read_video` says in which forms); see `Adapter.encode`."""
        if len(inputs) != 1:
            raise InputError(f"{type(self.model).__name__} takes one video at a time, got {len(inputs)}")
        if isinstance(inputs[0], (list, tuple)):
            self._check_count(len(inputs[0]))  # before the first is decoded
        video = read_video(inputs[0])
        self._check_count(len(video))
        return self.named(self.place({self.continuous: self.preprocess(video)[None]}), video)

    def _check_count(self, count: int) -> None:
        if self.frames not in (None, count):
            raise InputError(f"the video has {count} frames, the model takes {self.frames}: choose that many of them")

    def named(self, arguments: dict[str, Any], source: np.ndarray | None) -> Encoding:
        """The patches of each group of frames, by where they lie."""
        shape = tuple(arguments[self.continuous].shape[1:])
        frames, _, height, width = shape
        places = self.places(shape)
        boxes = places.boxes[~places.special]
        groups, rows, columns = (_stretches(boxes[:, axis]) for axis in (0, 2, 3))
        size = (height, width) if source is None else (source.shape[1], source.shape[2])
        whole = (0.0, 0.0, float(width), float(height)) if source is None else self._box(size, (height, width))
        across, down = (whole[2] - whole[0]) / width, (whole[3] - whole[1]) / height
        box = (
            whole[0] + columns[0][0] * across,
            whole[1] + rows[0][0] * down,
            whole[0] + columns[-1][1] * across,
            whole[1] + rows[-1][1] * down,
        )
        edges = [min(frames, max(0, round(first))) for first, _ in groups] + [frames]
        edges[0] = 0
        spans = tuple(pairwise(edges))
        labels = tuple(
            f"{first}:{row},{column}"
            for first, _ in spans
            for row in range(len(rows))
            for column in range(len(columns))
        )
        prefix = tuple("[PREFIX]" for _ in range(int(places.special.sum())))
        tokens = Tokens(
            prefix + labels,
            (True,) * len(prefix) + (False,) * len(labels),
            grid=(len(rows), len(columns)),
            view=View(size[1], size[0], box),
            frames=spans,
        )
        mask = torch.ones(1, len(tokens), dtype=torch.bool, device=self.device)
        return Encoding(arguments, mask, (tokens,), (source,))

    def _box(self, size: tuple[int, int], shown: tuple[int, int]) -> tuple[float, float, float, float]:
        return self._view(size[1], size[0], shown)[0].box

    def _side(self, default: int) -> tuple[int, int]:
        """Height and width of what the model takes: by its processor, its configuration, or the usual."""
        if self.processor is not None:
            frame = to_pixels(Image.new("RGB", (64, 64)))
            made = self.preprocess(np.repeat(frame[None], self.frames or 1, axis=0))
            return int(made.shape[-2]), int(made.shape[-1])
        config: Any = getattr(self.model, "config", None)
        said = getattr(config, "image_size", None) or getattr(config, "crop_size", None) or default
        return (said, said) if isinstance(said, int) else (int(said[0]), int(said[1]))


def _stretches(boxes: np.ndarray) -> list[tuple[float, float]]:
    """The different stretches along an axis, in order."""
    return [(float(low), float(high)) for low, high in np.unique(boxes.round(6), axis=0)]

"""A model of sounds that no adapter knows: blocks, moments, and what the head reads, by experiment."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import nn

from ...errors import ProcessorError
from ...tokens import Waveform
from ..audio import AudioAdapter
from .signal import DiscoveredSignal

SAMPLES = 16_000
"""Of the noise that a model is tried with where no feature extractor says how many samples make a second."""


class DiscoveredAudio(DiscoveredSignal, AudioAdapter):
    """A model of sounds that no adapter knows."""

    family = "discovered audio model"

    def __init__(self, model: nn.Module, processor: Any = None) -> None:
        super().__init__(model, processor)
        noise = np.random.default_rng(0).standard_normal(self.rate or SAMPLES).astype(np.float32) / 10
        self._inspect(self._trial(noise), None if self.rate is None else Waveform(noise, self.rate))

    @property
    def _tokens_found(self) -> str:
        return f"{self._moments}; its head reads {self._which_read}"

    @property
    def _moments(self) -> str:
        """What a token stands for."""
        lattice = next(iter(self._lattices.values()))
        axes = " x ".join(f"{lattice.steps[axis]:.4g}" for axis in lattice.axes)
        seconds = "" if self.clock is None else f", {self.clock.rate:.0f} positions per second"
        return f"a token stands for {axes} positions of its {self.continuous} {list(lattice.size)}{seconds}"

    def _trial(self, noise: np.ndarray) -> dict[str, Any]:
        """Arguments to try the model with: of a second of noise."""
        if self.rate is not None:
            return self.place(self.extract(Waveform(noise, self.rate)))
        if self.continuous != "input_values" or getattr(self.model.config, "num_mel_bins", None) is not None:
            raise ProcessorError(
                f"{type(self.model).__name__} reads features of a sound: it is inspected with its feature extractor, "
                "Explainer(model, feature_extractor)"
            )
        return self.place({"input_values": torch.from_numpy(noise)[None]})

    def _grids(self, shape: tuple[int, ...], length: int) -> Iterator[tuple[int, ...]]:
        """One line, or rows and columns, with a few tokens in front."""
        for spare in range(4):
            yield (length - spare,)
        if len(shape) == 2:
            for spare in range(4):
                for rows in range(2, int((length - spare) ** 0.5) + 1):
                    if (length - spare) % rows == 0:
                        yield rows, (length - spare) // rows

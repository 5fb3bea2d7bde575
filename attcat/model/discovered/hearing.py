"""A model that hears and writes, which no adapter knows: an encoder of sounds, and a decoder that writes what it heard.

Where the moments of the sound lie is found as of other models of sounds; the rest is in `sensing`.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from torch import Tensor, nn

from ...tokens import Waveform
from ..adapter import Adapter
from ..encoding import Encoding
from .audio import SAMPLES, DiscoveredAudio
from .sensing import DiscoveredSensing


class Ear(DiscoveredAudio):
    """Where the moments of a sound lie; its blocks were found by others.

    Args:
        model: the whole model.
        processor: its processor or feature extractor.
        written: what the decoder is given meanwhile, int64 `[1, A]`.
    """

    def __init__(self, model: nn.Module, processor: Any, written: Tensor) -> None:
        Adapter.__init__(self, model, processor)
        self.written = written
        self._lattices, self._lengths = {}, {}

    reads_what, lost = "one sound", "mean"

    def tried(self) -> tuple[dict[str, Any], Waveform | None]:
        """Arguments to try the model with, a second of noise, and the noise."""
        noise = np.random.default_rng(0).standard_normal(self.rate or SAMPLES).astype(np.float32) / 10
        return self._trial(noise), None if self.rate is None else Waveform(noise, self.rate)

    def call(self, encoding: Encoding) -> Any:
        """As `DiscoveredAudio`, with something for the decoder."""
        arguments = {**encoding.arguments, "decoder_input_ids": self.written.to(self.device)}
        return super().call(replace(encoding, arguments=arguments))

    def unnamed(self, arguments: dict[str, Any]) -> Encoding:
        """A batch whose tokens are not known yet."""
        return self._unnamed(arguments)

    def settle(self) -> None:
        """Nothing: a lattice is found when an input is named."""

    @property
    def where(self) -> str:
        """What a token stands for."""
        return self._moments


class DiscoveredHearing(DiscoveredSensing):
    """An encoder of sounds with a decoder that writes."""

    family = "discovered model that hears and writes"

    def _sense(self, model: nn.Module, processor: Any, written: Tensor) -> Ear:
        return Ear(model, processor, written)

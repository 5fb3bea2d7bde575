"""Models that read sounds: waveforms, or the spectrogram that a feature extractor makes of them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError, ProcessorError
from ..tokens import Span, Time, Tokens, Waveform
from .encoding import Encoding
from .signal import Places, SignalAdapter
from .sound import Clock, observed_clock, read_sound

ARGUMENTS = ("input_values", "input_features")
"""What models call the sound that they read: samples `[B, N]`, or features of it `[B, A, B]`."""


class AudioAdapter(SignalAdapter):
    """A model that reads `input_values` or `input_features`, with a feature extractor."""

    classes_with_head = "AutoModelForAudioClassification"
    arguments = ARGUMENTS
    axes = "[1, N] or [1, A, B]"

    @property
    def rate(self) -> int | None:
        """Samples per second that the model was made for, by its feature extractor; None without one."""
        found = getattr(self._extractor, "sampling_rate", None)
        return None if found is None else int(found)

    @property
    def _extractor(self) -> Any:
        return getattr(self.processor, "feature_extractor", self.processor)

    @cached_property
    def clock(self) -> Clock | None:
        """Where seconds are on the model's input; None without a feature extractor."""
        if self.rate is None:
            return None
        return observed_clock(
            lambda samples: self.extract(Waveform(samples, self.rate or 1))[self.continuous][0], self.rate
        )

    def extract(self, sound: Waveform) -> dict[str, Tensor]:
        """What the feature extractor makes of a sound: one row.

        Raises:
            ProcessorError: if there is none, or it fails.
            InputError: if the sound has another sampling rate.
        """
        if self.rate is None:
            raise ProcessorError(
                "a sound needs the model's feature extractor: Explainer(model, feature_extractor); without one, give model "
                f'arguments {{"{self.continuous}": ...}}'
            )
        if sound.rate != self.rate:
            raise InputError(f"the sound has {sound.rate} samples per second, the model takes {self.rate}: resample it")
        made = self._extractor(sound.samples, sampling_rate=sound.rate, return_tensors="pt")
        found = {name: made[name] for name in (self.continuous, "attention_mask") if name in made}
        if self.continuous not in found or len(found[self.continuous]) != 1:
            raise ProcessorError(f"the feature extractor makes no {self.continuous}: is it this model's?")
        if "attention_mask" in found and bool(found["attention_mask"].bool().all()):
            del found["attention_mask"]
        return found

    def encode(self, inputs: Sequence[Any], *, truncation: bool = False) -> Encoding:
        """Extract the features of a sound (`read_sound` says in which forms); see `Adapter.encode`."""
        if len(inputs) != 1:
            raise InputError(f"{type(self.model).__name__} takes one sound at a time, got {len(inputs)}")
        sound = read_sound(inputs[0])
        arguments = self.place(self.extract(sound))
        return self.named(arguments, sound)

    def named(self, arguments: dict[str, Any], source: Waveform | None) -> Encoding:
        """The tokens of one input, by where they lie; those behind the end of the sound are special."""
        shape = tuple(arguments[self.continuous].shape[1:])
        places = self.places(shape)
        tokens = self._tokens(places, None if source is None else source.seconds)
        mask = torch.ones(1, len(tokens), dtype=torch.bool, device=self.device)
        return Encoding(arguments, mask, (tokens,), (source,))

    def _tokens(self, places: Places, seconds: float | None) -> Tokens:
        """With times where it is known how many positions make a second, and bands where there is an axis of frequencies."""
        clock, special = self.clock, places.special
        axis = clock.axis if clock is not None else 0
        bands = places.boxes.shape[1] == 2 and bool(_varies(places.boxes[~special][:, 1 - axis]))
        labels: list[str] = []
        times: list[Time | None] = []
        heights: list[Span | None] = []
        for box, apart in zip(places.boxes, special, strict=True):
            start, end = (0.0, 0.0) if apart else (_second(clock, float(place)) for place in box[axis])
            start, end = max(0.0, start), end if seconds is None else min(end, seconds)
            if apart or end - start <= _THIN:
                labels.append("[PREFIX]" if apart else "[PAD]")
                times.append(None)
                heights.append(None)
                continue
            times.append((start, end))
            heights.append((max(0, round(box[1 - axis][0])), max(0, round(box[1 - axis][1]))) if bands else None)
            labels.append(f"{start:.3f} s" if clock is not None else f"{start:.0f}")
            labels[-1] += f", {heights[-1][0]} to {heights[-1][1]}" if heights[-1] is not None else ""
        return Tokens(
            tuple(labels),
            tuple(time is None for time in times),
            times=None if clock is None else tuple(times),
            bands=tuple(heights) if bands and clock is not None else None,
        )


_THIN = 1e-9
"""Seconds; no moment is shorter."""


def _second(clock: Clock | None, place: float) -> float:
    """The second of a place on the input; the place itself where that is not known."""
    return place if clock is None else clock.second(place)


def _varies(stretches: np.ndarray) -> bool:
    return len(stretches) > 0 and bool(np.ptp(stretches[:, 0]) > 1e-6)

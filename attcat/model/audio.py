"""Models that read sounds: waveforms, or the spectrogram that a feature extractor makes of them."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError, ProcessorError
from ..tokens import Span, Time, Tokens, Waveform
from .adapter import Adapter
from .encoding import Encoding, content_of
from .sound import Clock, observed_clock, read_sound

ARGUMENTS = ("input_values", "input_features")
"""What models call the sound that they read: samples `[B, N]`, or features of it `[B, A, B]`."""


@dataclass(frozen=True)
class Places:
    """Where the tokens of an input lie on it.

    Args:
        boxes: for each token and each axis of the input the stretch that it stands for, float `[T, axes, 2]`; NaN for tokens
            that stand for no part of the input.
    """

    boxes: np.ndarray

    def __len__(self) -> int:
        return len(self.boxes)

    @property
    def special(self) -> np.ndarray:
        """bool `[T]`: the tokens that stand for no part of the input."""
        return np.isnan(self.boxes).any((1, 2))

    def area(self, token: int) -> tuple[slice, ...]:
        """What a token stands for, as slices of the input."""
        return tuple(slice(max(0, round(low)), max(1, round(high))) for low, high in self.boxes[token])


class AudioAdapter(Adapter):
    """A model that reads `input_values` or `input_features`, with a feature extractor."""

    classes_with_head = "AutoModelForAudioClassification"

    @abstractmethod
    def places(self, shape: tuple[int, ...]) -> Places:
        """Where the tokens lie on an input of this shape, without the batch."""

    @cached_property
    def continuous(self) -> str:  # type: ignore[override]
        """The name of the argument that holds the sound."""
        main = getattr(self.model, "main_input_name", None)
        return main if main in ARGUMENTS else ARGUMENTS[0]

    @property
    def can_batch(self) -> bool:
        """One sound at a time: in a batch the padding of a shorter one changes its first layers' statistics."""
        return False

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

    def cost(self, value: Any) -> int:
        """About how many tokens a sound has."""
        return 1024

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

    def encode_arguments(self, arguments: Mapping[str, Tensor]) -> Encoding:
        """Name the moments of `input_values` `[1, N]` or `input_features` `[1, A, B]`; see `Adapter.encode_arguments`."""
        given = arguments.get(self.continuous)
        if not isinstance(given, Tensor) or not given.is_floating_point() or len(given) != 1:
            shown = ", ".join(f"{n}: {tuple(getattr(v, 'shape', ()))}" for n, v in arguments.items())
            raise InputError(
                f"model arguments need float {self.continuous!r} of one sound, [1, ...], got {shown or 'none'}"
            )
        return self.named(self.place(arguments), None)

    def named(self, arguments: dict[str, Any], sound: Waveform | None) -> Encoding:
        """The tokens of one input, by where they lie; those behind the end of the sound are special."""
        shape = tuple(arguments[self.continuous].shape[1:])
        places = self.places(shape)
        tokens = self._tokens(places, None if sound is None else sound.seconds)
        mask = torch.ones(1, len(tokens), dtype=torch.bool, device=self.device)
        return Encoding(arguments, mask, (tokens,), (sound,))

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

    removals = ("mean", "zero")

    def remove(self, encoding: Encoding, removed: Tensor | None = None, how: str | None = None) -> Encoding:
        """The mean of the input, or 0, in place of what removed tokens stand for; see `Adapter.remove`."""
        how = self.removal(how)
        given = encoding.arguments[self.continuous]
        places = self.places(tuple(given.shape[1:]))
        removed = content_of(encoding) if removed is None else removed
        area = torch.zeros(given.shape, dtype=torch.bool, device=given.device)
        for token in (removed[0].cpu().numpy() & ~places.special).nonzero()[0]:
            area[0][places.area(token)] = True
        instead = torch.zeros_like(given) if how == "zero" else given.mean().expand_as(given)
        return replace(encoding, arguments={**encoding.arguments, self.continuous: torch.where(area, instead, given)})


_THIN = 1e-9
"""Seconds; no moment is shorter."""


def _second(clock: Clock | None, place: float) -> float:
    """The second of a place on the input; the place itself where that is not known."""
    return place if clock is None else clock.second(place)


def _varies(stretches: np.ndarray) -> bool:
    return len(stretches) > 0 and bool(np.ptp(stretches[:, 0]) > 1e-6)

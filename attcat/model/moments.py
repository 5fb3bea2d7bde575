"""Heads that predict something for every moment of a sound: frame classifiers, and CTC."""

from __future__ import annotations

from ..errors import InputError
from .encoding import Encoding
from .heads import TokenHead, register_head


@register_head("ForAudioFrameClassification", "ForCTC")
class MomentHead(TokenHead):
    """One prediction per moment; `token=` is its number, or a float: the second of the sound that it stands for."""

    task = "frame classification"

    def find(self, encoding: Encoding, row: int, token: str | int | slice | float) -> int:
        """The position of a moment."""
        if not isinstance(token, float):
            return super().find(encoding, row, token)
        times = encoding.tokens[row].times
        if times is None:
            raise InputError("the tokens have no times: give the number of a moment, or a feature extractor")
        found = [at for at, time in enumerate(times) if time is not None and time[0] <= token < time[1]]
        if not found:
            last = max(time[1] for time in times if time is not None)
            raise InputError(f"no moment at {token} s: the tokens stand for 0 to {last:.2f} s")
        return found[0]

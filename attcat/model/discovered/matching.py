"""A model of words that read a picture by cross-attention, and of what it says of both: whether they match, e.g.

The blocks of the pictures' encoder come first, those of the words after them. The tokens are the patches, then the words.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ...capture.survey import Survey
from ...errors import InputError, OptionError
from ...tokens import Interleaved
from ..encoding import Encoding
from ..heads import Head
from ..tower import Tower
from ..writing import joined
from .base import Found
from .describing import DiscoveredCaptioning
from .guesses import mosaic


class DiscoveredMatching(DiscoveredCaptioning):
    """Words that read a picture by cross-attention, and classes of both."""

    family = "discovered model of a text beside a picture"
    sensing_head = Head

    def logits(self, output: Any) -> Any:
        """The one row of classes among what the model gives, or what it calls its logits."""
        if not isinstance(output, Mapping) or "logits" in output:
            return super().logits(output)
        fields = output.values()
        rows = [given for given in fields if isinstance(given, Tensor) and given.dim() == 2]
        return rows[0] if len(rows) == 1 else None

    def _check_rows(self, unnamed: Encoding) -> None:
        """Nothing: the head refuses what is no row of classes."""

    def _blocks_in(self, watched: Survey) -> Found:
        found = super()._blocks_in(watched)
        assert self.streams is not None
        self.streams = replace(self.streams, causal=False)  # nothing is written
        return found

    def _reads(self, trial: Encoding) -> str:
        """Which words the head reads: the first, or all."""
        read, words = self._read_in(trial, slice(None)), range(trial.offset, trial.mask.shape[1])
        found = {(trial.offset,): "first", tuple(words): "all"}.get(tuple(read))
        if found is None:
            raise self._unclear(
                f"of the tokens {words} its head reads {read}: neither the first nor all", hopeless=True
            )
        return found

    @property
    def _tokens_found(self) -> str:
        assert self.streams is not None
        read = "the first token of the text" if self.reads == "first" else "all tokens of the text"
        return (
            f"the first {self.streams.encoder} are the pictures', the others those of the words, which read a picture by "
            f"cross-attention; {self.sense.where}; its head reads {read}; it takes one picture with a text at a time"
        )

    def read(self, encoding: Encoding) -> Tensor:
        """Of the text the first token, or all."""
        read = torch.zeros_like(encoding.mask)
        read[:, encoding.offset : encoding.offset + 1 if self.reads == "first" else None] = True
        return read

    def tower(self, encoding: Encoding) -> Tower:
        """There is none in front of the blocks.

        Raises:
            OptionError: always.
        """
        raise OptionError(
            f"through_tower=True: the blocks of {type(self.model).__name__} begin with those of its pictures' encoder, so that "
            "its tokens are patches already"
        )

    def samples(self) -> Any:
        """A picture that is not square, with a text."""
        return [(mosaic(72, 48), "A film, very long!")] if self.processor is not None else None

    def encode(self, inputs: Sequence[Any], *, truncation: bool = False) -> Encoding:
        """`(picture, text)`, one at a time.

        Raises:
            InputError: if it is something else.
        """
        picture, text = pair_of(inputs)
        source = self.sense.encode([picture])
        ids, tokens = self.tokens_of(text)
        if self.positions is not None and len(ids) > self.positions:
            raise InputError(f"the text has {len(ids)} tokens, the model takes at most {self.positions}")
        pictures: tuple[np.ndarray, ...] = source.sources[0].pictures
        found = self.followed(source, ids, joined(source.tokens[0], tokens))
        return replace(found, sources=(Interleaved(text, pictures),))


def pair_of(inputs: Sequence[Any]) -> tuple[Any, str]:
    """The picture and the text of the only input.

    Raises:
        InputError: if it is something else, or there are several.
    """
    (value, *more) = inputs
    pair = isinstance(value, tuple) and len(value) == 2 and isinstance(value[1], str)
    if pair and not more and not value[1].strip():
        raise InputError("the text beside the picture is empty: give (picture, text), e.g. (picture, 'a cat')")
    if more or not pair:
        shown = f"{1 + len(more)} inputs" if more else type(value).__name__
        raise InputError(f"one input at a time is a picture and a text, (picture, 'a cat'); got {shown}")
    picture, text = value
    return picture, text

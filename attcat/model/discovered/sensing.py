"""A model that writes about what it senses, which no adapter knows: an encoder of sounds or pictures, and a decoder.

Its blocks and how the decoder reads are found as of other encoders with a decoder; what the encoder's tokens stand for as of
other models of sounds, or of pictures: that is the work of a sense. The tokens are the sense's, then what was written.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ...capture.randomness import OwnRandomness
from ...capture.survey import Survey
from ...errors import InputError
from ..adapter import Adapter
from ..bound import borrowed
from ..encoding import Encoding
from ..heads import Head, NextTokenHead
from .base import Found, log
from .experiments import FAILURES, mixers, rounding
from .streams import WRITTEN, DiscoveredStreams
from .text import _position_table

PLACES = (1, WRITTEN - 1)
"""Of the tokens that the decoder is tried with, those that are exchanged to see whether others change before its first block."""


class DiscoveredSensing(DiscoveredStreams):
    """An encoder of something else than words, with a decoder that writes.

    Args:
        model: the model.
        processor: its processor, which has a feature extractor or an image processor, and a tokenizer; or one of these alone.
    """

    writes = True
    sensing_head: ClassVar[type[Head]] = NextTokenHead

    @abstractmethod
    def _sense(self, model: nn.Module, processor: Any, written: Tensor) -> Any:
        """An adapter of the encoder, for what its tokens stand for; its blocks are found here.

        Beside what every adapter has, it has `reads_what` (e.g. one sound), `where` (what a token stands for), `lost` (which of
        its removals stands for what is removed), `tried()` (arguments and what they were made of), `unnamed(arguments)`,
        `named(arguments, source)` and `settle()` (find where the tokens lie, once the blocks are known).

        Args:
            model: the whole model.
            processor: its processor.
            written: what the decoder is given meanwhile, int64 `[1, A]`.
        """

    def __init__(self, model: nn.Module, processor: Any = None) -> None:
        tokenizer = getattr(processor, "tokenizer", processor)
        Adapter.__init__(self, model, tokenizer if hasattr(tokenizer, "convert_ids_to_tokens") else None)
        self.head_type = self.sensing_head
        written = self._tried(WRITTEN)
        self.sense = self._sense(model, processor, written)
        self.continuous = self.sense.continuous
        arguments, source = self.sense.tried()
        unnamed = self.sense.unnamed({**arguments, "decoder_input_ids": written.to(self.device)})
        self._check_rows(unnamed)
        watched = self._watch(unnamed)
        self.found = self._blocks_in(watched)
        self.sense.found = self._sensed()
        if front := mixers(self, watched, self.found.names[0], unnamed):
            assert self.streams is not None
            self.streams = self.streams.behind(len(front))
            self.found = self.found.behind(front)
            self.sense.found = self._sensed()
            for name in ("blocks", "_twins"):
                for one in (self, self.sense):
                    vars(one).pop(name, None)
        self.sense.settle()
        self.table = _position_table(watched, written.shape[1])
        self.trial = self.head.point(self.followed(self.sense.named(arguments, source), written[0].tolist()), [None])
        self._check_written(self.trial)
        self.reads = self._reads(self.trial)
        self.no_batch = self._why_no_batch()
        log.info("%s", self.describe())

    def like(self, model: nn.Module) -> Adapter:
        """As `Discovered`; the sense is that of the other model."""
        other = super().like(model)
        assert isinstance(other, DiscoveredSensing)
        other.sense = self.sense.like(model)
        return other

    @property
    def positions(self) -> int | None:
        """As `DiscoveredText`, of the decoder."""
        limit = getattr(getattr(self.model, "config", None), "max_target_positions", None)
        return limit if self.table is None and isinstance(limit, int) else super().positions

    # -- found by experiment -----------------------------------------------------------------------------------------

    def _run(self, own: Adapter, encoding: Encoding) -> Any:
        """Without the logits, which are read at tokens that are not named yet."""
        return own.call(encoding)

    def _blocks_in(self, watched: Survey) -> Found:
        found = super()._blocks_in(watched)
        self.found = found
        return found

    def _sensed(self) -> Found:
        """The blocks of which the first one takes what is sensed."""
        return self.found

    def _check_rows(self, unnamed: Encoding) -> None:
        """What it gives is a row of the vocabulary for each token that its decoder reads."""
        try:
            with borrowed(self) as own, torch.no_grad(), OwnRandomness():
                given = self.logits(own.call(unnamed))
        except FAILURES:
            return  # the watched pass says what fails
        count = unnamed.arguments["decoder_input_ids"].shape[1]
        if not isinstance(given, Tensor) or given.dim() != 3 or given.shape[1] != count:
            shape = list(given.shape) if isinstance(given, Tensor) else type(given).__name__
            raise self._unclear(f"of {count} tokens that its decoder reads it gives {shape}, no row of logits for each")

    def _check_written(self, trial: Encoding) -> None:
        """What the decoder's first block takes at a position has to be that position's token alone."""
        self._check_alone(trial, "decoder_input_ids", "decoder")

    def _check_alone(self, trial: Encoding, name: str, whose: str, block: int | None = None) -> None:
        """The same of the tokens in an argument, and of a block by its number."""
        ids = trial.arguments[name]
        plain = self._decoder_input(trial, block)
        for place in PLACES:
            changed = ids.clone()
            changed[0, place] = ids[0, place + 1]
            arguments = {**trial.arguments, name: changed}
            away = (self._decoder_input(replace(trial, arguments=arguments), block) - plain)[0].abs().amax(-1)
            found = (away > rounding(plain) * plain.abs().max()).nonzero().flatten().tolist()
            if found != [place]:
                raise self._unclear(
                    f"another token at position {place} of its {whose} changes what the {whose}'s first block takes at {found}: "
                    "tokens are mixed before it",
                    hopeless=True,
                )

    @property
    def _tokens_found(self) -> str:
        assert self.streams is not None
        return (
            f"the first {self.streams.encoder} are the encoder's, the others the decoder's, which reads what was written so far; "
            f"{self.sense.where}; its head reads the last token written; it takes {self.sense.reads_what} at a time"
        )

    # -- as other adapters -------------------------------------------------------------------------------------------

    def samples(self) -> Any:
        """None: what was tried before is checked again."""
        return None

    def cost(self, value: Any) -> int:
        """As of a model of what it senses."""
        return self.sense.cost(value)

    def words(self, encoding: Encoding) -> tuple[Tensor, ...]:
        """What the decoder looks up."""
        return (encoding.arguments["decoder_input_ids"],)

    def encode(self, inputs: Sequence[Any], *, truncation: bool = False) -> Encoding:
        """What it senses, with the decoder's start token after it."""
        return self.followed(self.sense.encode(inputs, truncation=truncation), [self.start_token])

    def encode_source(self, arguments: Any) -> Encoding:
        """What it senses alone: model arguments, or a sound or a picture as models of these take it."""
        if not isinstance(arguments, Mapping):
            return self.sense.encode([arguments])
        return self.sense.encode_arguments({n: v for n, v in arguments.items() if n != "decoder_input_ids"})

    def encode_windows(self, text: Any, size: int | None = None) -> Any:
        """There are none.

        Raises:
            InputError: always.
        """
        raise InputError(f"{type(self.model).__name__} reads {self.sense.reads_what} at a time: windows are of a text")

    removals = ("mask", "pad")

    def remove(self, encoding: Encoding, removed: Tensor | None = None, how: str | None = None) -> Encoding:
        """What the sense puts in place of removed tokens, another token in place of what was written."""
        how = self.removal(how)
        if removed is None:
            removed = ~torch.tensor([tokens.special for tokens in encoding.tokens], device=encoding.mask.device)
        source, token = encoding.offset, self.blank_token if how == "mask" else self.pad_token
        changed = self.sense.remove(encoding, removed[:, :source], self.sense.lost)
        ids = encoding.arguments["decoder_input_ids"].masked_fill(removed[:, source:], token)
        return replace(changed, arguments={**changed.arguments, "decoder_input_ids": ids})

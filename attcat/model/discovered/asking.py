"""A model whose encoder reads words and pictures in one sequence, and whose decoder writes: what it was asked, then its answer.

What the encoder's tokens stand for is found as of other models of words and pictures (`mixed`); the rest is in `sensing`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from ...capture.survey import Survey
from ...tokens import Interleaved
from ..adapter import Adapter
from ..encoding import Encoding
from ..heads import Head
from ..tower import Tower
from ..writing import Prompt
from .base import Found
from .describing import WRITTEN_AS
from .experiments import ordinary_tokens
from .mixed import DiscoveredMixed, picture_for
from .sensing import DiscoveredSensing
from .streams import DiscoveredStreams
from .text import LENGTH, _position_table


class Reader(DiscoveredMixed):
    """What the tokens of such an encoder stand for; its blocks are found by others.

    Args:
        model: the whole model.
        processor: its processor for both; or a tokenizer, or None.
        written: what the decoder is given meanwhile, int64 `[1, A]`.
    """

    head_type: type[Head] = Head
    beside = ""
    reads_what = "one input"
    no_batch = no_pictures = "its tokens are those of a source and of what follows it"

    def __init__(self, model: nn.Module, processor: Any, written: Tensor) -> None:
        self._begin(processor)
        Adapter.__init__(self, model, getattr(processor, "tokenizer", processor))
        self.written, self.table = written, None
        self.trial_picture = picture_for(model)
        self.length  # noqa: B018 - finds whether the model reads words alone, or with what else
        self.alone = self.trial_picture is None
        self.first = self._ready(self.trial_picture or {}, self.lead)
        self.trial_picture, self.lead = None, ()

    def _ready(self, picture: Mapping[str, Tensor], lead: tuple[int, ...]) -> dict[str, Tensor]:
        """Model arguments without a processor: words, behind the placeholders of a picture where it has to be one."""
        ids = torch.cat([torch.tensor(lead, dtype=torch.long), ordinary_tokens(self, LENGTH)])[None]
        return self.place({"input_ids": ids, "attention_mask": torch.ones_like(ids), **picture})

    def tried(self) -> tuple[dict[str, Tensor], Any]:
        """Arguments to try the model with, and what the processor made them of; None without one."""
        if self.whole is None:
            return self.first, None
        value = self.samples()[0]
        read = self.read_mixed(value)
        return self._arguments(read.text, read.pictures, read.boxes, read.question), value

    def unnamed(self, arguments: dict[str, Any]) -> Encoding:
        """One row whose tokens are not known yet."""
        return self._bare(arguments)

    def named(self, arguments: dict[str, Any], source: Any) -> Encoding:
        """The same, once the blocks are known."""
        return self.encode_arguments(arguments) if source is None else self.encode([source])

    def settle(self) -> None:
        """Nothing: where a picture's tokens lie is found when an input is named."""

    @property
    def where(self) -> str:
        """What a token stands for."""
        return "its encoder reads words and pictures in one sequence" + ("" if self.alone else ", and no words alone")

    def call(self, encoding: Encoding) -> Any:
        """As `DiscoveredMixed`, with something for the decoder."""
        written = self.written.to(self.device).expand(len(encoding.arguments["input_ids"]), -1)
        return super().call(replace(encoding, arguments={WRITTEN_AS: written, **encoding.arguments}))


class DiscoveredAsking(DiscoveredSensing):
    """An encoder of words and pictures with a decoder that writes."""

    family = "discovered model that is asked about pictures"
    sees_first = True
    words = DiscoveredStreams.words

    def _sense(self, model: nn.Module, processor: Any, written: Tensor) -> Reader:
        return Reader(model, processor, written)

    def _blocks_in(self, watched: Survey) -> Found:
        found = super()._blocks_in(watched)
        self.sense.table = _position_table(watched, found.length)
        return found

    def samples(self) -> Any:
        """Pictures with questions, if there is a processor for both."""
        return self.sense.samples() if self.sense.whole is not None else None

    def prompt(self, value: Any) -> Prompt | None:
        """What is asked about a picture; None for words alone."""
        source = self.encode_source(value)
        seen, arguments = source.sources[0], source.arguments
        further = {name: given for name, given in arguments.items() if name not in ("input_ids", "attention_mask")}
        if not further:
            return None
        text, pictures = (seen.text, seen.pictures) if isinstance(seen, Interleaved) else (seen, ())
        ids = arguments["input_ids"][0].tolist()
        return Prompt(ids, source.tokens[0], text, further=further, pictures=pictures)

    def remove(self, encoding: Encoding, removed: Tensor | None = None, how: str | None = None) -> Encoding:
        """As `DiscoveredMixed` in the source; another token in place of what was written."""
        how, count = self.removal(how), encoding.offset
        if removed is None:
            removed = ~torch.tensor([tokens.special for tokens in encoding.tokens], device=encoding.mask.device)
        tokens = tuple(each.kept([at < count for at in range(len(each))]) for each in encoding.tokens)
        source = replace(encoding, mask=encoding.mask[:, :count], tokens=tokens)
        changed = self.sense.remove(source, removed[:, :count], how).arguments
        token = self.blank_token if how == "mask" else self.pad_token
        ids = encoding.arguments[WRITTEN_AS].masked_fill(removed[:, count:], token)
        return replace(encoding, arguments={**changed, WRITTEN_AS: ids})

    def tower(self, encoding: Encoding) -> Tower:
        """As `DiscoveredMixed`."""
        found: Tower = self.sense.tower(encoding)
        return found

"""A model whose question reads a picture by cross-attention, and whose answer reads the question: three sequences.

The blocks of the pictures' encoder come first, then those of the question, then those of the answer. The tokens are in the same
order: the patches, the words that were asked, and what was written. The last blocks read nothing of the picture but what the
question has gathered of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...capture.survey import Survey
from ...errors import InputError
from ...tokens import Interleaved, Tokens
from ..encoding import Encoding
from ..wrappers import output_embeddings
from ..writing import Prompt, joined
from .base import Found
from .describing import WRITTEN_AS, Eye
from .experiments import ordinary_tokens
from .guesses import mosaic
from .matching import pair_of
from .sensing import DiscoveredSensing
from .streams import DiscoveredStreams
from .text import LENGTH, _position_table

ASKED_AS = "input_ids"
"""The argument that holds the question."""


class AskedEye(Eye):
    """Where the patches of a picture lie, in a model that needs a question beside it.

    Args:
        model: the whole model.
        processor: its processor or image processor.
        written: what the decoder is given meanwhile, int64 `[1, A]`.
        asked: what is asked meanwhile, int64 `[1, Q]`.
    """

    continuous = None  # type: ignore[assignment] # words are looked up, too

    def __init__(self, model: nn.Module, processor: Any, written: Tensor, asked: Tensor) -> None:
        super().__init__(model, processor, written)
        self.asked = asked

    def tried(self) -> tuple[dict[str, Any], None]:
        """As `Eye`, with a question."""
        arguments, source = super().tried()
        return {**arguments, **self.place({ASKED_AS: self.asked})}, source

    def call(self, encoding: Encoding) -> Any:
        """As `Eye`, with something for the question."""
        asked = self.asked.to(self.device).expand(len(encoding.arguments["pixel_values"]), -1)
        return super().call(replace(encoding, arguments={ASKED_AS: asked, **encoding.arguments}))

    def named(self, arguments: dict[str, Any], source: Any) -> Encoding:
        """One picture, and the question by its numbers."""
        ids = arguments[ASKED_AS]
        names = tuple(f"#{number}" for number in ids[0].tolist())
        seen = self.encode_arguments({n: v for n, v in arguments.items() if n != ASKED_AS})
        return asked_about(seen, ids, Tokens(names, (False,) * len(names)))


class DiscoveredAnswering(DiscoveredSensing):
    """A question that reads a picture, and an answer that reads the question."""

    family = "discovered model that answers questions about a picture"
    asked_table: int | None = None
    """How many tokens a question may have; None if that is not known."""

    # -- found by experiment -----------------------------------------------------------------------------------------

    def _sense(self, model: nn.Module, processor: Any, written: Tensor) -> AskedEye:
        return AskedEye(model, processor, written, ordinary_tokens(self, LENGTH)[None])

    def _blocks_in(self, watched: Survey) -> Found:
        """The blocks of the picture and of the question that reads it; then those of the answer, which reads the question."""
        found = super()._blocks_in(watched)
        before, last = self.streams, self._lines(watched, True)
        assert before is not None
        asked, written = ([visit.name for visit in each] for each in (last.encoder, last.decoder))
        if asked != list(found.names[before.encoder :]):
            raise self._unclear(
                f"its answer does not read what has read the picture: {written[0]} reads {asked[0]} to {asked[-1]}, and "
                f"{found.names[before.encoder]} the picture",
                hopeless=True,
            )
        self.asked_table = _position_table(watched, LENGTH)
        self.streams = replace(last.streams, encoder=len(found.names), before=replace(before, causal=False))
        kinds = (type(visit.module).__name__ for visit in last.decoder)
        attends = (*found.attends, *(False for _ in written))
        self.found = replace(found, names=(*found.names, *written), kinds=(*found.kinds, *kinds), attends=attends)
        return self.found

    def _check_written(self, trial: Encoding) -> None:
        """As others; also what the question's first block takes."""
        super()._check_written(trial)
        assert self.streams is not None
        assert self.streams.before is not None
        self._check_alone(trial, ASKED_AS, "question", self.streams.before.encoder)

    @property
    def _tokens_found(self) -> str:
        assert self.streams is not None
        assert self.streams.before is not None
        first, second = self.streams.before.encoder, self.streams.encoder
        return (
            f"the first {first} are the picture's, the next {second - first} the question's, which reads the picture by "
            f"cross-attention, the others the answer's, which reads the question; {self.sense.where}; its head reads the last "
            "token written; it takes one picture with a question at a time"
        )

    # -- as other adapters -------------------------------------------------------------------------------------------

    def call(self, encoding: Encoding) -> Any:
        """Run the model, for what its part that writes gives: the whole gives nothing of the answer but a loss."""
        given: list[Any] = []
        parts = [part for part in self.model.children() if output_embeddings(part) is not None]
        hooks = [part.register_forward_hook(lambda _module, _args, output: given.append(output)) for part in parts]
        try:
            whole = super().call(encoding)
        finally:
            for hook in hooks:
                hook.remove()
        return given[-1] if given else whole

    @property
    def start_token(self) -> int:
        """The token that an answer begins with."""
        own = getattr(self.model, "decoder_start_token_id", None)
        return own if isinstance(own, int) else super().start_token

    def tokens_of(self, text: str, *, specials: bool = True, target: bool = False) -> tuple[list[int], Tokens]:
        """As of other texts; an answer begins with the start token in place of the tokenizer's own."""
        ids, tokens = super().tokens_of(text, specials=specials, target=target)
        first = next((at for at, special in enumerate(tokens.special) if not special), 0) if target else 0
        return ids[first:], tokens.kept([at >= first for at in range(len(ids))])

    def words(self, encoding: Encoding) -> tuple[Tensor, ...]:
        """What is asked, and what was written."""
        return encoding.arguments[ASKED_AS], encoding.arguments[WRITTEN_AS]

    def samples(self) -> Any:
        """A picture that is not square, with a question."""
        return [(mosaic(72, 48), "What is this?")] if self.processor is not None else None

    def encode(self, inputs: Sequence[Any], *, truncation: bool = False) -> Encoding:
        """`(picture, question)`, one at a time, with the start token of an answer.

        Raises:
            InputError: if it is something else, or the question is too long.
        """
        return self.followed(self.encode_source(pair_of(inputs)), [self.start_token])

    def encode_source(self, arguments: Any) -> Encoding:
        """A picture and a question alone: `(picture, question)`, or model arguments of one row.

        Raises:
            InputError: if it is something else, or the question is too long.
        """
        if isinstance(arguments, Mapping):
            own = (ASKED_AS, "attention_mask")
            words = DiscoveredStreams.encode_source(self, {n: v for n, v in arguments.items() if n in own})
            seen = self.sense.encode_arguments({n: v for n, v in arguments.items() if n not in (*own, WRITTEN_AS)})
            ids, tokens = words.arguments[ASKED_AS], words.tokens[0]
        else:
            picture, text = pair_of([arguments])
            numbers, tokens = self.tokens_of(text)
            ids, seen = torch.tensor([numbers], device=self.device), self.sense.encode([picture])
            seen = replace(seen, sources=(Interleaved(text, seen.sources[0].pictures),))
        if self.asked_table is not None and ids.shape[1] > self.asked_table:
            raise InputError(f"the question has {ids.shape[1]} tokens, the model takes at most {self.asked_table}")
        return asked_about(seen, ids, tokens)

    def prompt(self, value: Any) -> Prompt:
        """What is asked about a picture."""
        source = self.encode_source(value)
        (tokens,), (seen,) = source.tokens, source.sources
        text, pictures = (seen.text, seen.pictures) if isinstance(seen, Interleaved) else (None, ())
        further = {"pixel_values": source.arguments["pixel_values"]}
        return Prompt(source.arguments[ASKED_AS][0].tolist(), tokens, text, further=further, pictures=pictures)

    def remove(self, encoding: Encoding, removed: Tensor | None = None, how: str | None = None) -> Encoding:
        """As of a picture; another token in place of words that were asked or written."""
        how = self.removal(how)
        if removed is None:
            removed = ~torch.tensor([tokens.special for tokens in encoding.tokens], device=encoding.mask.device)
        token, ids = self.blank_token if how == "mask" else self.pad_token, encoding.arguments[ASKED_AS]
        patches = encoding.offset - ids.shape[1]
        changed = self.sense.remove(encoding, removed[:, :patches], self.sense.lost).arguments
        asked = ids.masked_fill(removed[:, patches : encoding.offset], token)
        written = encoding.arguments[WRITTEN_AS].masked_fill(removed[:, encoding.offset :], token)
        return replace(encoding, arguments={**changed, ASKED_AS: asked, WRITTEN_AS: written})


def asked_about(picture: Encoding, ids: Tensor, tokens: Tokens) -> Encoding:
    """A picture, and what is asked about it.

    Args:
        picture: one row.
        ids: of the question, int64 `[1, Q]`.
        tokens: what they stand for.
    """
    mask = F.pad(picture.mask, (0, ids.shape[1]), value=True)
    arguments = {**picture.arguments, ASKED_AS: ids, "attention_mask": torch.ones_like(ids)}
    return replace(picture, arguments=arguments, mask=mask, tokens=(joined(picture.tokens[0], tokens),))

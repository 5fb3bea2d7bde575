"""An encoder with a decoder that no adapter knows: whose blocks are whose, and what the decoder reads, by experiment.

There are two kinds. A model that writes is given a source and what it has written so far: its tokens are those of the source
and, after them, those of the decoder. A model that classifies lets its decoder read the source again, usually moved by one
position: there a token has a state in either sequence, and one score.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ...capture.randomness import OwnRandomness
from ...capture.streams import Place, Streams
from ...capture.survey import Survey, Unclear, Visit, between, outermost, survey
from ...errors import InputError, ProcessorError
from ...tokens import Tokens
from ..bound import borrowed
from ..encoding import Encoding
from ..heads import Head, NextTokenHead, SpanHead, head_of
from ..wrappers import output_embeddings
from ..writing import joined, numbered
from .base import Found
from .experiments import FAILURES, encoding_of, ordinary_tokens, rounding, special_tokens, stopped_before, until_stopped
from .text import LENGTH, DiscoveredText

WRITTEN = 4
"""Tokens that the decoder of a model that writes is tried with, beside its start token."""


class DiscoveredStreams(DiscoveredText):
    """An encoder with a decoder that no adapter knows."""

    family = "discovered encoder-decoder"
    writes = False
    """Whether the decoder writes a text of its own."""
    sees_first = False
    """Whether the encoder reads what a tower has seen, so that only the last list of blocks before the decoder is its own."""

    # -- found by experiment -----------------------------------------------------------------------------------------

    def _head_type(self) -> type[Head]:
        """By the name of the model's class, or by the shape of what it says to a decoder's input of another length."""
        named = head_of(self.model)
        if named is SpanHead:
            return named
        ids = ordinary_tokens(self, LENGTH)[None]
        written = self._tried(WRITTEN)
        arguments = self.place({"input_ids": ids, "attention_mask": torch.ones_like(ids), "decoder_input_ids": written})
        try:
            with borrowed(self) as own, torch.no_grad(), OwnRandomness():
                given = own.logits(self.run(own.model, arguments))
        except FAILURES:
            return named
        finally:
            vars(self).pop("head", None)  # was the classifier's, for this experiment
        if isinstance(given, Tensor) and given.dim() == 3 and given.shape[1] == written.shape[1]:
            self.writes = True
            return NextTokenHead
        return named

    def _tried(self, count: int) -> Tensor:
        """The start token and `count` ordinary ones, `[1, 1 + count]`."""
        made = getattr(output_embeddings(self.model), "weight", None)
        rows = len(made) if isinstance(made, Tensor) else None  # the decoder may have a vocabulary of its own
        words = ordinary_tokens(self, LENGTH + count, rows)[LENGTH - 1 : -1]
        return torch.cat([torch.tensor([self.start_token]), words[:count]])[None]

    def _trial(self) -> Encoding:
        encoding = self._source_trial()
        if not self.writes:
            return self._pointed(encoding)
        return self.head.point(self.followed(encoding, self._tried(WRITTEN)[0].tolist()), [None])

    def _source_trial(self) -> Encoding:
        ids = ordinary_tokens(self, LENGTH)[None]
        return encoding_of(self, ids, torch.ones_like(ids))

    def _blocks_in(self, watched: Survey) -> Found:
        lines = self._lines(watched, self.sees_first)
        visits = [*lines.encoder, *lines.decoder]
        names = tuple(visit.name for visit in visits)
        kinds = tuple(type(visit.module).__name__ for visit in visits)
        state = lines.encoder[0].state
        assert state is not None
        attends = (*(visit.is_block for visit in lines.encoder), *(False for _ in lines.decoder))
        axis = lines.decoder[0].position_axis
        self.found = Found(names, kinds, state.shape[2], lines.memory.shape[axis], (), attends, position_axis=axis)
        self.streams = lines.streams
        if not self.writes:
            self.streams = replace(self.streams, shift=self._shift())
        return self.found

    def _lines(self, watched: Survey, last: bool) -> Lines:
        """The blocks of either sequence, with nothing between them; see `Lines.of`.

        Raises:
            UnsupportedModelError: if they are not found.
        """
        try:
            lines = Lines.of(watched, last)
            stands = [*between(watched, lines.encoder), *between(watched, lines.decoder)]
            if stands:
                raise Unclear(f"between its blocks stand {', '.join(stands)}", hopeless=True)
        except Unclear as error:
            raise self._unclear(str(error), error.hopeless) from error
        return lines

    def _shift(self) -> int:
        """How far the decoder's position that reads a token is from the token's own.

        Raises:
            UnsupportedModelError: if the decoder does not read the same text, each token at one position.
        """
        trial = self._source_trial()
        ids, tried = trial.arguments["input_ids"], (0, LENGTH // 2, LENGTH - 2)
        states = [self._decoder_input(trial)]
        for place in tried:
            changed = ids.clone()
            changed[0, place] = ids[0, (place + 2) % (LENGTH - 1)]
            states.append(self._decoder_input(replace(trial, arguments={**trial.arguments, "input_ids": changed})))
        found = []
        for place, state in zip(tried, states[1:], strict=True):
            away = (state - states[0])[0].abs().amax(-1) > rounding(state) * states[0].abs().max()
            found.append([position - place for position in away.nonzero().flatten().tolist()])
        if states[0].shape[1] != LENGTH or found not in ([[0]] * len(tried), [[1]] * len(tried)):
            raise self._unclear(
                f"its decoder does not read the text again, each token at its own position or the next: of the tokens "
                f"{', '.join(map(str, tried))} the changes are seen {found} positions away",
                hopeless=True,
            )
        return int(found[0][0])

    def _decoder_input(self, encoding: Encoding, block: int | None = None) -> Tensor:
        """What the decoder's first block takes, or another one, `[1, A, D]`."""
        assert self.streams is not None
        first = self.streams.encoder if block is None else block
        with borrowed(self) as own, torch.no_grad(), OwnRandomness(), stopped_before(own.blocks[first]) as seen:
            until_stopped(partial(own.call, encoding))
        return seen[0].transpose(1, self.position_axis)

    def _reads(self, trial: Encoding) -> str:
        return "the decoder's last token" if self.writes else super()._reads(trial)

    def _why_no_batch(self) -> str | None:
        return "its tokens are those of a source and of what follows it" if self.writes else super()._why_no_batch()

    def words(self, encoding: Encoding) -> tuple[Tensor, ...]:
        """The numbers of the source, and those that the decoder looks up."""
        ids, written = (encoding.arguments.get(name) for name in ("input_ids", "decoder_input_ids"))
        assert ids is not None
        if written is not None:
            return ids, written
        with borrowed(self) as own, OwnRandomness():
            watched = survey(own.model, lambda: own.call(encoding))
        looked_up = [indices for indices, _ in watched.lookups if indices.shape == ids.shape]
        others = [indices for indices in looked_up if not torch.equal(indices, ids) and self._is_text(indices, ids)]
        return (ids, *others[:1]) if others else (ids, ids)

    def _is_text(self, indices: Tensor, ids: Tensor) -> bool:
        """Whether the numbers are those of the text, moved."""
        return torch.equal(indices[:, 1:], ids[:, :-1])

    # -- as other adapters -------------------------------------------------------------------------------------------

    def call(self, encoding: Encoding) -> Any:
        """Run the model, without keeping keys and values for later passes."""
        return self.run(self.model, self.head.arguments(encoding))

    def run(self, model: nn.Module, arguments: Mapping[str, Tensor]) -> Any:
        """Run a model with the arguments that it knows by name."""
        given: dict[str, Any] = {name: value for name, value in arguments.items() if self.takes(name)}
        return model(**given, **({"use_cache": False} if self.takes("use_cache") else {}))

    @property
    def _tokens_found(self) -> str:
        assert self.streams is not None
        first = self.streams.encoder
        limit = f"at most {self.max_length} tokens" if self.max_length else "texts of any length"
        reads = "what was written so far" if self.writes else f"the same text, moved by {self.streams.shift}"
        head = "the last token written" if self.writes else {"last": "the last token"}.get(self.reads, self.reads)
        return (
            f"the first {first} are the encoder's, the others the decoder's, which reads {reads}; its head reads {head}; it "
            f"takes {limit}" + ("" if self.no_batch is None else ", one text at a time")
        )

    # -- a source and what follows it --------------------------------------------------------------------------------

    @property
    def start_token(self) -> int:
        """The token that the decoder starts with.

        Raises:
            ProcessorError: if neither the model nor the tokenizer says which.
        """
        for owner in (getattr(self.model, "generation_config", None), getattr(self.model, "config", None)):
            decoder = getattr(owner, "decoder", None)
            for part, name in ((owner, "decoder_start_token_id"), (decoder, "decoder_start_token_id")):
                token = getattr(part, name, None)
                if isinstance(token, (list, tuple)) and token:
                    token = token[0]
                if isinstance(token, int):
                    return token
        for name in ("bos", "cls", "pad", "eos"):
            if found := special_tokens(self.model, name):
                return found[0]
        raise ProcessorError(
            f"{type(self.model).__name__} does not say which token its decoder starts with: set decoder_start_token_id in its "
            "configuration"
        )

    def followed(self, encoding: Encoding, ids: Sequence[int], tokens: Tokens | None = None) -> Encoding:
        """One source, and what the decoder reads after it.

        Args:
            encoding: of the source, one row.
            ids: what the decoder reads, its start token first.
            tokens: of the source and of these; by default these have their names alone.
        """
        written = torch.tensor([list(ids)], device=encoding.mask.device)
        if tokens is None:
            tokens = joined(encoding.tokens[0], self.named(ids))
        mask = torch.cat([encoding.mask, torch.ones_like(written, dtype=torch.bool)], 1)
        arguments = {**encoding.arguments, "decoder_input_ids": written}
        return replace(encoding, arguments=arguments, mask=mask, tokens=(tokens,), offset=encoding.mask.shape[1])

    def start_of(self, ids: Sequence[int]) -> int:
        """The start token before a target, which for some models depends on it."""
        try:
            return self.start_token
        except ProcessorError:
            prepare = getattr(self.model, "prepare_decoder_input_ids_from_labels", None)
            if prepare is None or not ids:
                raise
            return int(prepare(torch.tensor([list(ids)], device=self.device))[0, 0])

    def named(self, ids: Sequence[int]) -> Tokens:
        """What the decoder reads, without characters; its start token is special."""
        tokens = numbered(self, list(ids))
        return replace(tokens, special=(True, *tokens.special[1:]))

    def encode(self, inputs: Sequence[Any], *, truncation: bool = False) -> Encoding:
        """Texts; for a model that writes one, with the decoder's start token after it."""
        encoding = super().encode(inputs, truncation=truncation)
        return self.followed(encoding, [self.start_token]) if self.writes else encoding

    def encode_arguments(self, arguments: Mapping[str, Tensor]) -> Encoding:
        """As `TextAdapter`; for a model that writes also `decoder_input_ids`, else its start token."""
        if not self.writes:
            return super().encode_arguments(arguments)
        encoding, given = self.encode_source(arguments), arguments.get("decoder_input_ids")
        ids = [self.start_token] if given is None else torch.as_tensor(given).flatten().tolist()
        if not ids:
            raise InputError("decoder_input_ids are empty: they begin with the decoder's start token")
        return self.followed(encoding, [int(number) for number in ids])

    def encode_source(self, arguments: Mapping[str, Tensor]) -> Encoding:
        """The source alone, one row without padding.

        Raises:
            InputError: if the arguments are not those of a source, or are several rows.
        """
        encoding = super().encode_arguments({n: v for n, v in arguments.items() if n != "decoder_input_ids"})
        if len(encoding.tokens) != 1 or not bool(encoding.mask.all()):
            raise InputError("a source is one row of input_ids without padding: explain the rows in separate calls")
        return encoding

    def remove(self, encoding: Encoding, removed: Tensor | None = None, how: str | None = None) -> Encoding:
        """As `TextAdapter`, in both sequences; what follows a source is never deleted."""
        if not encoding.offset:
            return super().remove(encoding, removed, how)
        how = self.removal(how)
        if removed is None:
            removed = ~torch.tensor([tokens.special for tokens in encoding.tokens], device=encoding.mask.device)
        token = self.blank_token if how == "mask" else self.pad_token
        parts = {"input_ids": removed[:, : encoding.offset], "decoder_input_ids": removed[:, encoding.offset :]}
        ids = {name: encoding.arguments[name].masked_fill(part, token) for name, part in parts.items()}
        return replace(encoding, arguments={**encoding.arguments, **ids})

    @property
    def removals(self) -> tuple[str, ...]:  # type: ignore[override]
        """In place of what is removed stands another token; a model that writes cannot do with a shorter text."""
        return ("mask", "pad") if self.writes else super().removals


@dataclass(frozen=True)
class Lines:
    """The calls of the blocks, and where the decoder's find the encoder's output.

    Args:
        watched: the forward pass.
        encoder: its blocks in order.
        decoder: the same.
        places: for each block of the decoder the argument that holds the memory.
        memory: the encoder's output, as the decoder reads it.
    """

    watched: Survey
    encoder: list[Visit]
    decoder: list[Visit]
    places: list[Place]
    memory: Tensor

    @classmethod
    def of(cls, watched: Survey, last: bool = False) -> Lines:
        """From a forward pass that was watched.

        Args:
            watched: the forward pass.
            last: whether of several lists of blocks before the decoder the last one is the encoder.

        Raises:
            Unclear: if no modules of a list read the same second hidden state, or nothing before them makes it.
        """
        line, memory, readers, places = _read(watched, last)
        first = watched.visits.index(readers[0])
        before = [visit for visit in line if watched.visits.index(visit) < first and visit not in readers]
        axis = readers[0].position_axis
        encoder = [v for v in before if v.state is not None and v.state.shape[axis] >= memory.shape[axis]]
        if last:
            encoder = [visit for visit in encoder if visit.parent is encoder[-1].parent]
        parents = {visit.parent for visit in encoder if visit.seen} or {visit.parent for visit in encoder}
        encoder = [visit for visit in encoder if visit.parent in parents]
        if len(parents) > 1:
            raise Unclear(
                "its encoder's blocks stand in several lists, as those of a pyramid, where the first ones have other positions "
                "than the decoder reads",
                hopeless=True,
            )
        if not encoder:
            raise Unclear(
                "its encoder's blocks were not found: no one list of modules before the decoder attends", hopeless=True
            )
        return cls(watched, encoder, readers, places, memory)

    @property
    def streams(self) -> Streams:
        """How the two sequences go through the blocks."""
        calls = [pair for visit in self.decoder if (pair := self.calls(visit)) is not None]
        own, cross = zip(*calls, strict=True) if len(calls) == len(self.decoder) else ((), ())
        return Streams(len(self.encoder), tuple(self.places), own, cross)

    @classmethod
    def of_words(cls, watched: Survey) -> Lines:
        """From a forward pass of words that read what a tower has seen: the last line of blocks, all of which are given the same
        memory. The tower's own blocks are none of them, as it may put states of several together.

        Raises:
            Unclear: if no modules of a list read the same second hidden state.
        """
        _, memory, readers, places = _read(watched, True)
        return cls(watched, [], readers, places, memory)

    def calls(self, block: Visit) -> tuple[int | None, int | None] | None:
        """Which of the attention calls in a block of the decoder is over its own tokens, and which over the memory; None if there
        are not just these two, or of words that read a picture just one of them."""
        inside = [visit for visit in self.watched.visits if visit is not block and block in visit.around]
        reading = [visit for visit in inside if any(value is self.memory for value in visit.handed.values())]
        crossing = [attention for visit in reading for attention in visit.seen]
        cross = [index for index, attention in enumerate(block.attention) if any(attention is one for one in crossing)]
        if not self.encoder and len(block.attention) == 1:
            return (None, 0) if cross else (0, None)
        if len(block.attention) != 2 or len(cross) != 1:
            return None
        return 1 - cross[0], cross[0]


def _passes(visit: Visit) -> bool:
    """Whether a call passes on a hidden state `[B, T, D]` of the shape that it takes."""
    return visit.state is not None and visit.output is not None and visit.state.shape == visit.output.shape


def _read(watched: Survey, last: bool) -> tuple[list[Visit], Tensor, list[Visit], list[Place]]:
    """All blocks that pass a state on; the memory, those of them that are given it, and where each has it.

    Raises:
        Unclear: if there are none.
    """
    line = outermost([v for v in watched.visits if v.module in watched.listed and _passes(v)])
    memory, readers, places = _readers(line, last)
    if memory is None:
        raise Unclear(
            "its decoder's blocks were not found: no modules of a list take a hidden state and, all of them, the same "
            "second one",
            hopeless=True,
        )
    return line, memory, readers, places


def _readers(line: Sequence[Visit], last: bool) -> tuple[Tensor | None, list[Visit], list[Place]]:
    """The blocks that are handed the same second hidden state, which it is, and the place where each has it; of several such
    lists the first or the last."""
    for visit in reversed(line) if last else line:
        for memory in visit.handed.values():
            if memory is visit.state or not isinstance(memory, Tensor):  # a pair of cosines and sines, e.g.
                continue
            reading = [v for v in line if v.parent is visit.parent]
            if not any(v.seen for v in line[: line.index(reading[0])]):
                continue  # no encoder has made it: positions that an encoder's own blocks are given, e.g.
            places = [[place for place, value in v.handed.items() if value is memory] for v in reading]
            if all(places):
                return memory, reading, [found[0] for found in places]
    return None, [], []

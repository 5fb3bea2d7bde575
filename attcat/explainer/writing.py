"""What a model wrote: one forward pass over prompt and answer, and backward passes towards any part of it.

A causal model (and a decoder) reads no later token, so that one pass over the whole text is the pass over every beginning of it.
Each written token is a row of a Trace that is cut to what stood before it; the methods see a batch, and need not know that its
rows share one sequence.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property, partial
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError, OptionError, TargetError, UnsupportedModelError
from ..explanation import Explanation, Generation, Source
from ..model import Adapter, Encoding
from ..model.bound import borrowed
from ..model.describing import Describer
from ..model.listening import Listener
from ..model.translating import Translator
from ..model.vision import VisionAdapter
from ..model.writing import Prompt, Writer, is_chat
from ..targets import Goal, Target
from ..tokens import Interleaved, Waveform
from ..trace import Trace
from .batch import BatchExplainer, Chosen
from .rows import batches


def generation(side: BatchExplainer, prompt: Any, answer: Any, target: Any, contrast: bool) -> Generation:
    """One forward pass over prompt and answer; see `Explainer.__call__`."""
    writer = _writer(side.adapter)
    return _generation(side, writer, writer.prompt(prompt), answer, target, contrast)


def _writer(adapter: Adapter) -> Writer:
    # Words that read states which no block makes go on from words.
    if adapter.streams is None or not adapter.streams.encoder:
        return Writer(adapter)
    if adapter.continuous is None:
        return Translator(adapter)
    return (Describer if adapter.continuous == VisionAdapter.continuous else Listener)(adapter)


def generate(
    side: BatchExplainer, prompt: Any, new: int, target: Any, contrast: bool, options: Mapping[str, Any]
) -> Generation:
    """Let the model write, and explain what it wrote; see `Explainer.generate`."""
    writer = _writer(side.adapter)
    adapter = writer.adapter
    model: Any = adapter.model
    if not callable(getattr(model, "generate", None)):
        raise UnsupportedModelError(
            f"{type(model).__name__} has no generate(): let it write in its own way, then explainer(prompt, answer=text)"
        )
    read = writer.prompt(prompt)
    with borrowed(adapter) as own, torch.no_grad():
        ids = writer.write(own.model, read, {"max_new_tokens": new, **options})
    return _generation(side, writer, read, ids, target, contrast)


def many(prompts: Any, answers: Any) -> list[tuple[Any, Any]] | None:
    """Prompts with their answers, if several are given; None for one prompt, which may be a chat.

    Raises:
        InputError: if their numbers differ.
    """
    if not isinstance(prompts, list) or is_chat(prompts):
        return None
    if not isinstance(answers, list) or len(answers) != len(prompts):
        raise InputError(f"{len(prompts)} prompts need a list of as many answers")
    return list(zip(prompts, answers, strict=True))


def _generation(
    plain: BatchExplainer, writer: Writer, prompt: Prompt, answer: Any, target: Any, contrast: bool
) -> Generation:
    adapter, encoding, lead = writer.adapter, writer.written(prompt, answer), writer.lead(prompt)
    (tokens,), said = encoding.tokens, writer.said(prompt, encoding, answer)
    known = said is not None
    source = Reading(BatchExplainer(adapter, plain.settings), plain, writer, encoding, target, contrast)
    if said is None and adapter.processor is not None:
        said = adapter.processor.decode(writer.ids(encoding), skip_special_tokens=True)
    elif said is None:
        said = " ".join(tokens.labels[encoding.start :])
    return Generation(said, tokens, encoding.start, lead if known else None, source)


class Reading(Source):
    """A prompt and an answer, read by the model once.

    Args:
        side: explains the model, which reads all written positions.
        plain: the same for one position at a time.
        writer: how the model writes.
        encoding: one row, prompt and answer.
        target: what is explained of every written token in its place, or a list of these; None for the token itself.
        contrast: whether each is held against the runner-up.
    """

    def __init__(
        self,
        side: BatchExplainer,
        plain: BatchExplainer,
        writer: Writer,
        encoding: Encoding,
        target: Any,
        contrast: bool,
    ) -> None:
        self.side, self.plain, self.writer, self.encoding = side, plain, writer, encoding
        self.count = encoding.mask.shape[1] - encoding.start
        self.recording = side.record(encoding)
        targets = target if isinstance(target, list) else [target] * self.count
        if len(targets) != self.count:
            raise TargetError(f"{len(targets)} targets for {self.count} written tokens: give one, or one per token")
        self.goal = self._goal(range(self.count), targets, contrast)

    # -- what is explained -------------------------------------------------------------------------------------------

    @property
    def ids(self) -> Tensor:
        """The written tokens, `[A]`."""
        return self.writer.ids(self.encoding)

    @cached_property
    def runners(self) -> Tensor:
        """At each position the most probable token other than the written one, `[A]`."""
        return self.recording.logits.detach().scatter(1, self.ids[:, None], -torch.inf).argmax(-1)

    @cached_property
    def names(self) -> Any:
        """The vocabulary."""
        return self.side.adapter.head.labels(self.encoding, 0, self.recording.logits.shape[1])

    def _goal(self, places: Sequence[int], targets: Sequence[Target], contrast: bool) -> Goal:
        """What is explained at each of these written tokens."""
        if contrast and any(target is not None for target in targets):
            raise TargetError("contrast holds the written token against the runner-up: leave out target=")
        rows = list(places)
        ids, runners = self.ids[rows].tolist(), self.runners[rows].tolist()
        usual = [(first, second) if contrast else first for first, second in zip(ids, runners, strict=True)]
        chosen = [own if target is None else target for own, target in zip(usual, targets, strict=True)]
        measure = partial(self.side.adapter.head.measure, self.side.settings.quantity)
        return Goal.of(self.recording.logits[rows], chosen, [self.names] * len(rows), measure)

    # -- every token -------------------------------------------------------------------------------------------------

    def each(self) -> tuple[Explanation, ...]:
        """Backward passes for as many positions at once as make a few thousand tokens."""
        length, settings = self.encoding.mask.shape[1], self.side.settings
        with torch.enable_grad():
            values = self.goal.value(self.recording.output, self.recording.logits)
        if self._alone:
            return tuple(self._beginning(place, self.goal, place) for place in range(self.count))
        groups = batches([length] * self.count, settings.batch_size)
        return tuple(
            explanation
            for group in groups
            for explanation in self._explained(self._rows(values, self.goal.classes, group), self.goal, group)
        )

    @property
    def _alone(self) -> bool:
        """Whether the method runs the model again for every target."""
        return self.side.settings.several or self.side.settings.method.needs.relevance

    def _rows(self, values: Tensor, classes: Tensor, places: Sequence[int]) -> Trace:
        return self.recording.traces(
            values,
            places,
            target=classes[list(places)],
            mask=self._before[list(places)],
            read=self.recording.read[list(places)],
            received=tuple(each[list(places)] for each in self._received),
            logits=self.recording.logits[list(places)],
            needs=self.side.settings.needs,
            hidden=self.side.settings.hidden if self.side.settings.method.states else "input",
        )

    @cached_property
    def _before(self) -> Tensor:
        """For each written token the tokens before it, bool `[A, T]`."""
        places = torch.arange(self.encoding.mask.shape[1], device=self.encoding.mask.device)
        return places < places[self.encoding.start :, None]

    @cached_property
    def _received(self) -> tuple[Tensor, ...]:
        """Per block, the attention that tokens receive from the queries before each written token, `[A, T]`."""
        return self._received_from(self._before, self.recording.read) if self.side.settings.needs.received else ()

    def _received_from(self, before: Tensor, read: Tensor) -> tuple[Tensor, ...]:
        counted = (before if self.side.settings.queries == "mean" else read).float()
        return self.recording.received_by(counted / counted.sum(-1, keepdim=True))

    def _explained(self, trace: Trace, goal: Goal, places: Sequence[int]) -> list[Explanation]:
        contributions = self.side.contributions(trace, None)
        logits = trace.logits.float().cpu()
        return [
            self._explanation(
                contributions[:, row], trace, row, place, goal.classes[place], goal.against[place], logits
            )
            for row, place in enumerate(places)
        ]

    def _explanation(
        self, layers: Tensor, trace: Trace, row: int, place: int, own: Tensor, against: Tensor, logits: Tensor
    ) -> Explanation:
        first, second = int(own), int(against)
        chosen = Chosen.of(logits[row], [first, second], self.side.adapter.head.kept)
        return Explanation(
            layers=layers[:, : self.encoding.start + place].clone(),
            logits=chosen.logits,
            target=chosen.place(first),
            against=chosen.place(second),
            labels=tuple(self.names[index] for index in chosen.classes),
            rest=chosen.rest,
            classes=tuple(chosen.classes),
            position=self.encoding.start + place - 1,
            value=float(trace.value[row]),
            bias=self.side.bias_of(trace, row),
            **self._common(place, first, second),
        )

    def _common(self, place: int, target: int, against: int) -> dict[str, Any]:
        """What explanations of a token, a contrast (or something else: -1) have in common: the tokens before, and their text."""
        length, adapter = self.encoding.start + place, self.side.adapter
        return {
            "tokens": self._tokens(length),
            "source": self._text(length),
            "start": self._given,
            "task": adapter.head.task,
            "activation": adapter.head.activation,
            "method": self.side.settings.method.name,
            "options": self.side.options_of(target, against),
            "model": type(adapter.model).__name__,
        }

    @property
    def _given(self) -> int | None:
        """How many tokens were given, where an explanation holds what was written against something else than words."""
        return self.encoding.start if isinstance(self.encoding.sources[0], (Interleaved, Waveform)) else None

    def _tokens(self, length: int) -> Any:
        tokens = self.encoding.tokens[0]
        return tokens.kept([at < length for at in range(len(tokens))])

    def _text(self, length: int) -> Any:
        """The text up to so many tokens, with its pictures: the prompt, and of the answer what they complete; or the sound."""
        source = self.encoding.sources[0]
        text = source.text if isinstance(source, Interleaved) else source
        if not isinstance(text, str):
            return source
        spans, start = self.encoding.tokens[0].spans or (), self.encoding.start
        later = [span[0] for span in spans[start:] if span is not None]
        ends = [span[1] for span in spans[start:length] if span is not None]
        part = text[: max(ends, default=min(later, default=len(text)))]
        return Interleaved(part, source.pictures) if isinstance(source, Interleaved) else part

    def _beginning(self, place: int, goal: Goal, row: int) -> Explanation:
        """By itself, for a method that runs the model again: the text before the token, and what follows it."""
        length = self.encoding.start + place
        encoding = replace(
            self.encoding,
            arguments=self.writer.beginning(self.encoding, length),
            mask=self.encoding.mask[:, :length],
            tokens=(self._tokens(length),),
            sources=(self._text(length),),
            start=0,
        )
        function = goal.functions[row]
        own, against = int(goal.classes[row]), int(goal.against[row])
        target: Target = function if function is not None else own if against < 0 else (own, against)
        found = self.plain.explain(self.plain.adapter.head.point(encoding, [None]), [[target]])[0][0]
        return replace(found, start=self._given)

    # -- a part ------------------------------------------------------------------------------------------------------

    def span(self, first: int, last: int, target: Any, contrast: bool) -> Explanation:
        """One backward pass; see `Generation.of`."""
        places = range(first, last + 1)
        if target is not None:
            if len(places) > 1:
                raise TargetError(
                    f"a target is one token, but this part has {len(places)}: name one of them, or leave it out"
                )
            return self._single(first, target)
        if self._alone:
            raise OptionError(
                f"{self.side.settings.method.name} runs the model again for every target and explains single tokens: read "
                ".explanations, or use a method of one pass, as attcat"
            )
        return self._part(places, contrast)

    def _single(self, place: int, target: Target) -> Explanation:
        """A target of the user's at one position."""
        targets: list[Target] = [None] * self.count
        targets[place] = target
        goal = self._goal(range(self.count), targets, contrast=False)
        if self._alone:
            return self._beginning(place, goal, place)
        with torch.enable_grad():
            values = goal.value(self.recording.output, self.recording.logits)
        return self._explained(self._rows(values, goal.classes, [place]), goal, [place])[0]

    def _part(self, places: range, contrast: bool) -> Explanation:
        """The sum of log-probabilities, or what was asked for in its place; of two continuations, if it is held against the
        runners-up, their difference."""
        rows = list(places)
        continuations = torch.stack([self.ids[rows], *([self.runners[rows]] if contrast else [])])
        with torch.enable_grad():
            each = self.recording.logits[rows].float().log_softmax(-1)
            sums = each.gather(1, continuations.T).sum(0)
            value = sums[:1] - sums[1:] if contrast else self._of_part(each, continuations[0], sums)
        before = self._before[rows[-1:]]
        read = self.recording.read[rows].any(0, keepdim=True)
        needs = self.side.settings.needs
        trace = self.recording.traces(
            value,
            [0],
            target=None,
            mask=before,
            read=read,
            received=self._received_from(before, read) if needs.received else (),
            logits=sums.detach()[None],
            needs=needs,
            hidden=self.side.settings.hidden if self.side.settings.method.states else "input",
        )
        contributions = self.side.contributions(trace, None)
        logits = trace.logits[0].float().cpu()
        others = 1 - float(logits.double().exp().sum())
        return Explanation(
            layers=contributions[:, 0, : self.encoding.start + rows[-1]].clone(),
            logits=logits,
            target=0,
            against=1 if contrast else None,
            labels=tuple(self._label(rows, ids) for ids in continuations.tolist()),
            rest=math.log(others) if others > 0 else None,
            position=self.encoding.start + rows[0] - 1,
            value=float(trace.value[0]),
            bias=self.side.bias_of(trace, 0),
            **self._common(rows[-1], -1, -1) | {"options": self._options_of_part(contrast)},
        )

    def _of_part(self, each: Tensor, ids: Tensor, sums: Tensor) -> Tensor:
        """What is explained of a part, `[1]`. Its logit is its log-probability: a part has no other.

        Args:
            each: the log-probabilities at its tokens, `[N, V]`.
            ids: the tokens, `[N]`.
            sums: their own log-probabilities together, `[1]`.
        """
        which = self.side.settings.quantity
        if which == "probability":
            return sums.exp()
        if which != "log-odds":
            return sums
        # 1 - p: up to some token it was written, and there another one. Exact also where p is almost 1.
        own = each.gather(1, ids[:, None]).squeeze(1)
        another = each.scatter(1, ids[:, None], -torch.inf).logsumexp(-1)
        return sums - (own.cumsum(0) - own + another).logsumexp(0, keepdim=True)

    def _options_of_part(self, contrast: bool) -> dict[str, Any]:
        """With the quantity that is explained; a contrast is explained as it is."""
        options = self.side.settings.options
        options.pop("quantity", None)
        chosen = self.side.settings.quantity
        return options if contrast else {**options, "quantity": "log-probability" if chosen == "logit" else chosen}

    def _label(self, rows: Sequence[int], ids: Sequence[int]) -> str:
        """The text of a part; what stands in its place, token for token."""
        return "".join(self.names[number] for number in ids)

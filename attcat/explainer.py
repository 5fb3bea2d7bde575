"""Ties adapter, trace and method together: the two-line call."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, replace
from typing import Any, get_args

import torch
from torch import Tensor

from .adapter import Adapter, Encoding
from .discovery import adapter_of
from .errors import AttCATError, InputError, OptionError, ProcessorError, TargetError
from .explanation import Explanation, ImageText
from .methods import Method, method_and_rule
from .passes import Passes
from .relevance import Relevance
from .rules import make_rule
from .targets import Goal, Rank, Target
from .trace import Hidden, Needs, Queries, Recording, Trace, record


class Explainer:
    """Explains the predictions of one model.

        explainer = attcat.Explainer(model, tokenizer)
        explainer("A gripping, beautifully acted film.").show()

    Args:
        model: a classifier of a supported family, or another transformer, which is then looked at in a few forward passes;
            it is left exactly as it is. Also a transformers pipeline or a cross-encoder, which bring their processor; or
            the `adapter` of another Explainer, which then is not looked for again.
        processor: its tokenizer, image processor or transform. None for a timm model (its data configuration is used), or
            if inputs are ready-made model arguments.
        method: name of the attribution method, see `attcat.METHODS`; `name+rule` names the rule as well.
        rule: gradient rule, `libra` or `plain`. By default that of the method: libra for AttCAT and CAT (`plain` gives the
            published scores), plain for the methods of others.
        hidden: read the blocks' `input` (the authors' code) or `output` (the paper's figure).
        queries: a token's weight is the attention that it receives from all queries (`mean`) or from the tokens that the
            head reads (`pooled`).
        batch_size: how many inputs of a list share a forward pass; by default as many as make a few thousand tokens.
        completeness: also measure what the bias terms contribute, so that `Explanation.completeness` is known.
        **options: the method's own options, as `steps=20` of `integrated_gradients`.

    Raises:
        UnsupportedModelError: if no adapter serves the model, and its forward pass does not tell what one would say.
        OptionError: if a method, rule or option does not exist.
    """

    def __init__(
        self,
        model: Any,
        processor: Any = None,
        *,
        method: str = "attcat",
        rule: str | None = None,
        hidden: Hidden = "input",
        queries: Queries = "mean",
        batch_size: int | None = None,
        completeness: bool = False,
        **options: Any,
    ) -> None:
        self.adapter: Adapter = adapter_of(model, processor)
        self.method, named_rule = method_and_rule(method)
        self.rule = _rule(self.method, rule or named_rule)
        self.completeness = completeness
        self.own_options = self.method.with_options(options)
        self.hidden: Hidden = _option("hidden", hidden, Hidden)
        self.queries: Queries = _option("queries", queries, Queries)
        if batch_size is not None and batch_size < 1:
            raise OptionError(f"batch_size is {batch_size}, expected at least 1")
        self.batch_size = batch_size

    def describe(self) -> str:
        """What is known about the model, and what was found by looking at it: blocks, width, tokens, what the head reads."""
        return self.adapter.describe()

    @property
    def options(self) -> dict[str, Any]:
        """What the method runs with, as far as it matters to it."""
        options: dict[str, Any] = {} if self.rule is None else {"rule": self.rule}
        if self.method.states:
            options["hidden"] = self.hidden
        if self.method.needs.received:
            options["queries"] = self.queries
        own = {name: f"{len(v)} given" if isinstance(v, (list, tuple)) else v for name, v in self.own_options.items()}
        return {**options, **own}

    def __call__(
        self,
        inputs: Any,
        target: Any = None,
        *,
        token: Any = None,
        top_k: int | None = None,
        truncation: bool = False,
        window: bool | int = False,
    ) -> Any:
        """Explain one input, or a list of them.

        Args:
            inputs: a text, a pair of texts (tuple), a picture (path, PIL image, array, tensor), model arguments (a dict with
                `input_ids` or `pixel_values`), or a list of these. A dict that holds several rows gives a list.
            target: None for the predicted class; a class index; a label; two of them in a tuple for a contrast (why the
                first rather than the second); a function from the model's output to one number per row. For a list of
                inputs also a list with one of these each. For one input a list of these, or `"all"`, gives a list of
                explanations, which share the forward pass. For a language model a token of its vocabulary, as `" Paris"`;
                in question answering an answer, by its text or as a slice of the context's characters.
            token: whose prediction is explained, for taggers and language models: a word of the text, its number among
                the words, or a slice of characters. By default a masked model's `[MASK]`, and what follows a causal
                model's text. For a list of inputs also one each; for one input a list gives a list.
            top_k: explain the most probable classes, in order; gives a list for each input.
            truncation: accept that a text is cut to what the model takes; the Explanation records how much.
            window: read a text that is longer than the model takes in overlapping windows (of so many tokens, if a number is
                given), see `attcat.windows`. Of a pair the second text is cut.

        Returns:
            An Explanation; or a list of them, for a list of inputs or of targets (for both, a list of lists). A model that
            compares a picture and a text, as `(picture, text)`, gives an `ImageText` of two in place of each.

        Raises:
            InputError: if an input cannot be explained (empty, too long, not a picture, ...).
            ProcessorError: if the processor does not fit the model.
            TargetError: if the target does not exist.
            CaptureError: if the forward pass did not show what the method needs.
        """
        options = {"token": token, "top_k": top_k, "truncation": truncation, "window": window}
        found = [self._of_tower(tower)._one_side(inputs, target, **options) for tower in self.adapter.towers]
        return found[0] if len(found) == 1 else _side_by_side(*found)

    def _of_tower(self, adapter: Adapter) -> Explainer:
        """The same explainer, for one side of the model."""
        if adapter is self.adapter:
            return self
        other = copy(self)
        other.adapter = adapter
        return other

    def _one_side(
        self, inputs: Any, target: Any, token: Any, top_k: int | None, truncation: bool, window: bool | int
    ) -> Any:
        if isinstance(token, list) and not isinstance(inputs, list):
            inputs = [inputs] * len(token)
        many = isinstance(inputs, list)
        listed: list[Any] = inputs if many else [inputs]
        if window is not False:
            return self._windowed(listed, target, many, top_k, token, truncation, None if window is True else window)
        encodings: Iterable[tuple[list[int], Encoding]]
        if any(isinstance(value, Mapping) for value in listed):
            encodings = list(self._ready_made(listed, truncation))  # a dict may hold several rows
            rows = sum(len(positions) for positions, _ in encodings)
        else:
            encodings, rows = self._batches(listed, truncation), len(listed)
        many = many or rows > 1
        targets, several = _one_per_row(target, rows, many, top_k)
        tokens = token if isinstance(token, list) else [token] * rows
        if len(tokens) != rows:
            raise InputError(f"{len(tokens)} tokens for {rows} inputs: give one, or one per input")
        found: list[list[Explanation]] = [[] for _ in range(rows)]
        for positions, encoding in encodings:
            pointed = self.adapter.head.point(encoding, [tokens[i] for i in positions])
            explained = self.explain_batch(pointed, [targets[i] for i in positions])
            for row, explanations in zip(positions, explained, strict=True):
                found[row] = explanations
        return _shaped(found, several, many)

    def _windowed(
        self,
        inputs: list[Any],
        target: Any,
        many: bool,
        top_k: int | None,
        token: Any,
        truncation: bool,
        size: int | None,
    ) -> Any:
        """Each text by itself, in windows."""
        from .windows import check, explain

        check(self.adapter, inputs, token, truncation, size)
        targets, several = _one_per_row(target, len(inputs), many, top_k)
        found = [explain(self, value, wanted, size) for value, wanted in zip(inputs, targets, strict=True)]
        return _shaped(found, several, many)

    def _batches(self, inputs: list[Any], truncation: bool) -> Iterator[tuple[list[int], Encoding]]:
        """Batches, and which rows of the result they hold: inputs of like length together."""
        size = 1 if not self.adapter.can_batch else self.batch_size
        for batch in batches([self.adapter.cost(value) for value in inputs], size):
            yield batch, self.adapter.encode([inputs[i] for i in batch], truncation=truncation)

    def _ready_made(self, inputs: list[Any], truncation: bool) -> Iterator[tuple[list[int], Encoding]]:
        """Model arguments go through as they are, a dict at a time."""
        row = 0
        for value in inputs:
            encoding = (
                self.adapter.encode_arguments(value)
                if isinstance(value, Mapping)
                else self.adapter.encode([value], truncation=truncation)
            )
            yield list(range(row, row + len(encoding.tokens))), encoding
            row += len(encoding.tokens)

    def explain_batch(self, encoding: Encoding, targets: Sequence[Sequence[Target]]) -> list[list[Explanation]]:
        """One forward pass; for each target of a row one backward pass and one Explanation."""
        recording, head = self.record(encoding), self.adapter.head
        count = recording.logits.shape[1]
        labels = [head.labels(encoding, row, count) for row in range(len(encoding.tokens))]
        every = [self.listed(row, count) for row in targets]
        rounds = max(map(len, every))
        by_row: list[list[Explanation]] = [[] for _ in encoding.tokens]
        for index in range(rounds):
            goal = Goal.of(recording.logits, [row[index] for row in every], labels)
            read = replace(recording, read=head.read(encoding, goal.classes))
            for row, explanation in enumerate(self._once(encoding, read, goal, labels, index < rounds - 1)):
                by_row[row].append(explanation)
        return by_row

    def listed(self, targets: Any, count: int) -> list[Any]:
        """The targets of a row one by one, when there are `count` classes."""
        head = self.adapter.head
        if targets is ALL:
            if head.kept is not None:
                raise TargetError(f"{count} are too many to explain all of them: use top_k, or a list of targets")
            return list(range(count))
        if head.activation == "none" and count > 1 and any(one is None or isinstance(one, Rank) for one in targets):
            raise TargetError(
                f"the {count} outputs are measured values, of which none is the predicted one: name the one to explain, "
                f"as target=0, or use target='all'"
            )
        return [one for one in targets if not isinstance(one, Rank) or one.place < count]

    def _once(
        self, encoding: Encoding, recording: Recording, goal: Goal, labels: list[Sequence[str]], keep: bool
    ) -> list[Explanation]:
        trace = self._trace(recording, goal, encoding, keep)
        passes = Passes(self.adapter, encoding, goal)
        contributions = self._contributions(trace, passes)
        mask, head = trace.mask.cpu(), self.adapter.head
        classes, against = goal.classes.tolist(), goal.against.tolist()
        chosen = [
            Chosen.of(logits, [classes[row], against[row]], head.kept)
            for row, logits in enumerate(trace.logits.float().cpu())
        ]
        return [
            Explanation(
                layers=contributions[:, row, mask[row]],
                tokens=tokens,
                logits=chosen[row].logits,
                target=chosen[row].place(classes[row]),
                against=chosen[row].place(against[row]),
                labels=tuple(labels[row][index] for index in chosen[row].classes),
                task=head.task,
                activation=head.activation,
                rest=chosen[row].rest,
                position=head.position(encoding, row),
                answers=head.answers(encoding, row, chosen[row].classes),
                method=self.method.name,
                options=self.options,
                source=encoding.sources[row],
                model=type(self.adapter.model).__name__,
                dropped=encoding.dropped[row],
                value=float(trace.value[row]),
                bias=None if trace.bias is None else float(trace.bias[row]),
                measured={name: float(values[row]) for name, values in passes.measured.items()},
            )
            for row, tokens in enumerate(encoding.tokens)
        ]

    def _trace(self, recording: Recording, goal: Goal, encoding: Encoding, keep: bool) -> Trace:
        with torch.enable_grad():
            value = goal.value(recording.output, recording.logits)
        hidden: Hidden = self.hidden if self.method.states else "input"
        trace = recording.trace(value, goal.classes, needs=self._needs, hidden=hidden, queries=self.queries, keep=keep)
        if not self.method.needs.relevance:
            return trace
        again = record(self.adapter, encoding, Relevance())
        with torch.enable_grad():
            relevance, of_attention = again.relevance(goal.value(again.output, again.logits))
        return replace(trace, relevance=relevance, attention_relevance=of_attention)

    @property
    def _needs(self) -> Needs:
        return replace(self.method.needs, gradient=True) if self.completeness else self.method.needs

    def _contributions(self, trace: Trace, passes: Passes) -> Tensor:
        further = (passes,) if self.method.several else ()
        contributions = self.method.function(trace, *further, **self.own_options).float().cpu()
        if not contributions.isfinite().all():
            raise InputError(
                f"the {self.method.name} scores are not finite: the gradient overflowed in {self.adapter.dtype}"
            )
        return contributions

    def record(self, encoding: Encoding) -> Recording:
        """One forward pass under the rule, with what the method reads."""
        rule = make_rule(self.rule or "plain")
        try:
            needs = self._needs
            return record(
                self.adapter,
                encoding,
                rule,
                attention=needs.attention,
                biases=self.completeness,
                gradient=needs.gradient,
            )
        except (ValueError, AssertionError) as error:  # what transformers and timm raise on another picture size
            pixels = encoding.arguments.get("pixel_values")
            if pixels is None or isinstance(error, AttCATError) or "match" not in str(error):
                raise
            height, width = pixels.shape[-2:]
            raise ProcessorError(f"the model does not take pictures of {height} x {width} pixels: {error}") from error


def _shaped(found: list[list[Explanation]], several: bool, many: bool) -> Any:
    """By row and target, without the lists that were not asked for."""
    result = found if several else [explanations[0] for explanations in found]
    return result if many else result[0]


def _side_by_side(image: Any, text: Any) -> Any:
    """Two results of like shape as one, of pairs."""
    if isinstance(image, list):
        return [_side_by_side(*pair) for pair in zip(image, text, strict=True)]
    return ImageText(image, text)


@dataclass(frozen=True)
class Chosen:
    """The classes that an Explanation keeps, when there are too many to keep all.

    Args:
        classes: their numbers.
        logits: their logits, float32 `[K]`.
        rest: log of the sum of exp(logit) over the others; None if there are none.
    """

    classes: list[int]
    logits: Tensor
    rest: float | None = None

    @classmethod
    def of(cls, logits: Tensor, named: Sequence[int], kept: int | None) -> Chosen:
        """All classes in order; or the best `kept` and those that are named (not negative), the best first."""
        if kept is None or kept >= len(logits):
            return cls(list(range(len(logits))), logits)
        best = {*logits.topk(kept).indices.tolist(), *(index for index in named if index >= 0)}
        classes = sorted((i for i in best if logits[i] > -torch.inf), key=lambda i: float(-logits[i]))
        others = logits.clone()
        others[classes] = -torch.inf
        rest = float(others.logsumexp(0))
        return cls(classes, logits[classes], rest if rest > -float("inf") else None)

    def place(self, index: int) -> int | None:
        """Where a class is among those that are kept; None for -1."""
        return None if index < 0 else self.classes.index(index)


ALL = object()
"""Every class in turn."""


def _one_per_row(target: Any, rows: int, many: bool, top_k: int | None) -> tuple[list[Any], bool]:
    """For each row the targets that it is explained for, and whether the caller wants a list for each row."""
    if top_k is not None:
        if target is not None or top_k < 1:
            raise TargetError(f"top_k={top_k} with target={target!r}: give a positive top_k, or a target")
        return [[Rank(place) for place in range(top_k)]] * rows, True
    if isinstance(target, str) and target == "all":
        return [ALL] * rows, True
    if not isinstance(target, list):
        return [[target]] * rows, False
    if not many:
        if not target:
            raise TargetError("an empty list of targets: there is nothing to explain")
        return [target], True
    if len(target) != rows:
        raise TargetError(f"{len(target)} targets for {rows} inputs: give one, or one per input")
    return [[one] for one in target], False


def batches(costs: Sequence[int], size: int | None, budget: int = 4096) -> list[list[int]]:
    """Group inputs of like length, so that little is padded.

    Args:
        costs: about how many tokens each input has.
        size: how many inputs a batch holds; None for as many as `budget` tokens allow, padding included.
        budget: tokens in a batch.

    Returns:
        The inputs' positions, batch by batch.
    """
    found: list[list[int]] = []
    for position in sorted(range(len(costs)), key=lambda index: costs[index]):
        room = size if size is not None else max(1, budget // max(1, costs[position]))
        if found and len(found[-1]) < room:
            found[-1].append(position)
        else:
            found.append([position])
    return found


def _rule(method: Method, asked: str | None) -> str | None:
    """The gradient rule to use: what was asked for, or the method's own.

    Raises:
        OptionError: if there is no such rule, or the method's cannot be chosen.
    """
    if asked is None or asked == method.rule:
        return method.rule
    make_rule(asked)
    if method.rule is None:
        raise OptionError(f"{method.name} uses no gradient rule: leave out rule={asked!r}")
    if method.fixed:
        raise OptionError(f"{method.name} is defined by its rule {method.rule!r}: it cannot run under {asked!r}")
    return asked


def _option(name: str, value: str, allowed: Any) -> Any:
    if value not in get_args(allowed):
        raise OptionError(f"{name}={value!r} is not one of {', '.join(get_args(allowed))}")
    return value

"""Ties adapter, trace and method together: the two-line call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, get_args, overload

import torch
from torch import Tensor, nn

from .adapter import Adapter, Encoding, find_adapter
from .errors import AttCATError, InputError, OptionError, ProcessorError, TargetError
from .explanation import Explanation
from .methods import Method, find_method
from .passes import Passes
from .relevance import Relevance
from .rules import make_rule
from .targets import Goal, Target
from .trace import Hidden, Needs, Queries, Recording, Trace, record


class Explainer:
    """Explains the predictions of one model.

        explainer = attcat.Explainer(model, tokenizer)
        explainer("A gripping, beautifully acted film.").show()

    Args:
        model: a classifier of a supported family; it is left exactly as it is.
        processor: its tokenizer, image processor or transform. None for a timm model (its data configuration is used), or
            if inputs are ready-made model arguments.
        method: name of the attribution method, see `attcat.METHODS`; `name+rule` names the rule as well.
        rule: gradient rule, `libra` or `plain`. By default that of the method: libra for AttCAT and CAT (`plain` gives the
            published scores), plain for the methods of others.
        hidden: read the blocks' `input` (the authors' code) or `output` (the paper's figure).
        queries: a token's weight is the attention that it receives from all queries (`mean`) or from the tokens that the
            head reads (`pooled`).
        batch_size: how many inputs share a forward pass.
        completeness: also measure what the bias terms contribute, so that `Explanation.completeness` is known.
        **options: the method's own options, as `steps=20` of `integrated_gradients`.

    Raises:
        UnsupportedModelError: if no adapter serves the model.
        OptionError: if a method, rule or option does not exist.
    """

    def __init__(
        self,
        model: nn.Module,
        processor: Any = None,
        *,
        method: str = "attcat",
        rule: str | None = None,
        hidden: Hidden = "input",
        queries: Queries = "mean",
        batch_size: int = 8,
        completeness: bool = False,
        **options: Any,
    ) -> None:
        self.adapter: Adapter = find_adapter(model)(model, processor)
        name, _, named_rule = method.partition("+")
        self.method = find_method(name)
        self.rule = _rule(self.method, rule or named_rule or None)
        self.completeness = completeness
        self.own_options = self.method.with_options(options)
        self.hidden: Hidden = _option("hidden", hidden, Hidden)
        self.queries: Queries = _option("queries", queries, Queries)
        if batch_size < 1:
            raise OptionError(f"batch_size is {batch_size}, expected at least 1")
        self.batch_size = batch_size

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

    @overload
    def __call__(self, inputs: list[Any], target: Any = None, *, truncation: bool = False) -> list[Explanation]: ...
    @overload
    def __call__(self, inputs: Any, target: Target = None, *, truncation: bool = False) -> Explanation: ...
    def __call__(self, inputs: Any, target: Any = None, *, truncation: bool = False) -> Explanation | list[Explanation]:
        """Explain one input, or a list of them.

        Args:
            inputs: a text, a pair of texts (tuple), a picture (path, PIL image, array, tensor), model arguments (a dict with
                `input_ids` or `pixel_values`), or a list of these. A dict that holds several rows gives a list.
            target: None for the predicted class; a class index; a label; a function from the model's output to one number
                per row; for a list of inputs also a list with one of these each.
            truncation: accept that a text is cut to what the model takes; the Explanation records how much.

        Raises:
            InputError: if an input cannot be explained (empty, too long, not a picture, ...).
            ProcessorError: if the processor does not fit the model.
            TargetError: if the target does not exist.
            CaptureError: if the forward pass did not show what the method needs.
        """
        if isinstance(inputs, list):
            targets = target if isinstance(target, list) else [target] * len(inputs)
            if len(targets) != len(inputs):
                raise TargetError(f"{len(targets)} targets for {len(inputs)} inputs: give one, or one per input")
            return self._explain_list(inputs, targets, truncation)
        if isinstance(inputs, Mapping):
            encoding = self.adapter.encode_arguments(inputs)
            rows = len(encoding.tokens)
            targets = target if isinstance(target, list) else [target] * rows
            if len(targets) != rows:
                raise TargetError(f"{len(targets)} targets for {rows} rows of model arguments")
            found = self._explain(encoding, targets)
            return found[0] if rows == 1 else found
        if isinstance(target, list):
            raise TargetError("a list of targets needs a list of inputs")
        return self._explain_list([inputs], [target], truncation)[0]

    def _explain_list(self, inputs: list[Any], targets: list[Target], truncation: bool) -> list[Explanation]:
        size = self.batch_size if self.adapter.can_batch else 1
        found: list[Explanation] = []
        for start in range(0, len(inputs), size):
            batch, wanted = inputs[start : start + size], targets[start : start + size]
            if any(isinstance(value, Mapping) for value in batch):
                for value, one in zip(batch, wanted, strict=True):
                    found.append(self(value, one, truncation=truncation))
                continue
            found += self._explain(self.adapter.encode(batch, truncation=truncation), wanted)
        return found

    def _explain(self, encoding: Encoding, targets: Sequence[Target]) -> list[Explanation]:
        """Forward, backward, method: one Explanation per row."""
        recording = self._record(encoding)
        labels = self._labels(recording.logits.shape[1])
        goal = Goal.of(recording.logits, targets, labels)
        trace = self._trace(recording, goal, encoding)
        passes = Passes(self.adapter, encoding, goal)
        contributions = self._contributions(trace, passes)
        mask, logits, classes = trace.mask.cpu(), trace.logits.float().cpu(), goal.classes.tolist()
        return [
            Explanation(
                layers=contributions[:, row, mask[row]],
                tokens=tokens,
                logits=logits[row],
                target=None if classes[row] < 0 else classes[row],
                labels=labels,
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

    def _trace(self, recording: Recording, goal: Goal, encoding: Encoding) -> Trace:
        with torch.enable_grad():
            value = goal.value(recording.output, recording.logits)
        hidden: Hidden = self.hidden if self.method.states else "input"
        trace = recording.trace(value, goal.classes, needs=self._needs, hidden=hidden, queries=self.queries)
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

    def _record(self, encoding: Encoding) -> Recording:
        rule = make_rule(self.rule or "plain")
        try:
            needs = self.method.needs
            return record(self.adapter, encoding, rule, attention=needs.attention, biases=self.completeness)
        except (ValueError, AssertionError) as error:  # what transformers and timm raise on another picture size
            pixels = encoding.arguments.get("pixel_values")
            if pixels is None or isinstance(error, AttCATError) or "match" not in str(error):
                raise
            height, width = pixels.shape[-2:]
            raise ProcessorError(f"the model does not take pictures of {height} x {width} pixels: {error}") from error

    def _labels(self, count: int) -> tuple[str, ...]:
        names = self.adapter.labels
        return names if names is not None and len(names) == count else tuple(f"class {index}" for index in range(count))


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

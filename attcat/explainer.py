"""Ties adapter, trace and method together: the two-line call."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, get_args, overload

import torch
from torch import Tensor, nn

from .adapter import Adapter, Encoding, find_adapter
from .errors import AttCATError, InputError, OptionError, ProcessorError, TargetError
from .explanation import Explanation
from .methods import find_method
from .rules import make_rule
from .trace import Hidden, Queries, Recording, class_values, record

Target = int | str | Callable[[Any], Tensor] | None
"""What is explained: nothing (the predicted class), an index, a label, or a function from the model's output to `[B]`."""


class Explainer:
    """Explains the predictions of one model.

        explainer = attcat.Explainer(model, tokenizer)
        explainer("A gripping, beautifully acted film.").show()

    Args:
        model: a classifier of a supported family; it is left exactly as it is.
        processor: its tokenizer, image processor or transform. None for a timm model (its data configuration is used), or
            if inputs are ready-made model arguments.
        method: name of the attribution method, see `attcat.METHODS`.
        rule: gradient rule: `libra` (default), or `plain` for the published AttCAT.
        hidden: read the blocks' `input` (the authors' code) or `output` (the paper's figure).
        queries: a token's weight is the attention that it receives from all queries (`mean`) or from the tokens that the
            head reads (`pooled`).
        batch_size: how many inputs share a forward pass.

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
        rule: str = "libra",
        hidden: Hidden = "input",
        queries: Queries = "mean",
        batch_size: int = 8,
    ) -> None:
        self.adapter: Adapter = find_adapter(model)(model, processor)
        self.method = find_method(method)
        make_rule(rule)
        self.rule = rule
        self.hidden: Hidden = _option("hidden", hidden, Hidden)
        self.queries: Queries = _option("queries", queries, Queries)
        if batch_size < 1:
            raise OptionError(f"batch_size is {batch_size}, expected at least 1")
        self.batch_size = batch_size

    @property
    def options(self) -> dict[str, str]:
        """What the method runs with."""
        options = {"rule": self.rule, "hidden": self.hidden}
        return {**options, "queries": self.queries} if self.method.received else options

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
        """One forward pass, one backward pass, one Explanation per row."""
        recording = self._record(encoding)
        labels = self._labels(recording.logits.shape[1])
        with torch.enable_grad():
            value, target = _resolve(recording, targets, labels)
            trace = recording.trace(
                value, target, hidden=self.hidden, queries=self.queries if self.method.received else None
            )
        contributions = self.method.function(trace).cpu()
        if not contributions.isfinite().all():
            raise InputError(
                f"the {self.method.name} scores are not finite: the gradient overflowed in {self.adapter.dtype}"
            )
        mask, logits = trace.mask.cpu(), trace.logits.float().cpu()
        return [
            Explanation(
                layers=contributions[:, row, mask[row]],
                tokens=tokens,
                logits=logits[row],
                target=None if callable(targets[row]) or target is None else int(target[row]),
                labels=labels,
                method=self.method.name,
                options=self.options,
                source=encoding.sources[row],
                model=type(self.adapter.model).__name__,
                dropped=encoding.dropped[row],
            )
            for row, tokens in enumerate(encoding.tokens)
        ]

    def _record(self, encoding: Encoding) -> Recording:
        try:
            return record(self.adapter, encoding, make_rule(self.rule))
        except (ValueError, AssertionError) as error:  # what transformers and timm raise on another picture size
            pixels = encoding.arguments.get("pixel_values")
            if pixels is None or isinstance(error, AttCATError) or "match" not in str(error):
                raise
            height, width = pixels.shape[-2:]
            raise ProcessorError(f"the model does not take pictures of {height} x {width} pixels: {error}") from error

    def _labels(self, count: int) -> tuple[str, ...]:
        names = self.adapter.labels
        return names if names is not None and len(names) == count else tuple(f"class {index}" for index in range(count))


def _option(name: str, value: str, allowed: Any) -> Any:
    if value not in get_args(allowed):
        raise OptionError(f"{name}={value!r} is not one of {', '.join(get_args(allowed))}")
    return value


def _resolve(recording: Recording, targets: Sequence[Target], labels: tuple[str, ...]) -> tuple[Tensor, Tensor | None]:
    """The number that is explained for each row, `[B]`, and the classes, `[B]` (-1 for a function).

    Raises:
        TargetError: if a class does not exist, or a function gives something else than one number per row.
    """
    logits = recording.logits
    predicted = logits.argmax(-1).tolist()
    classes = [
        -1 if callable(target) else predicted[row] if target is None else find_class(target, labels)
        for row, target in enumerate(targets)
    ]
    chosen = torch.tensor(classes, device=logits.device)
    value = class_values(logits, chosen.clamp(min=0))
    for function in {target for target in targets if callable(target)}:
        result = function(recording.output)
        if not isinstance(result, Tensor) or result.shape != value.shape:
            shape = tuple(result.shape) if isinstance(result, Tensor) else type(result).__name__
            raise TargetError(
                f"the target function gave {shape}, expected a tensor [{len(targets)}]: one number per row"
            )
        if not result.requires_grad:
            raise TargetError(
                "the target function's result does not depend on the hidden states: no .detach(), argmax or numpy inside"
            )
        rows = torch.tensor([target is function for target in targets], device=logits.device)
        value = torch.where(rows, result.to(value.dtype), value)
    return value, chosen


def find_class(target: int | str, labels: Sequence[str]) -> int:
    """The index of a class, given by index or by label (case does not matter, nor does leaving out synonyms).

    Raises:
        TargetError: if there is no such class, or several.
    """
    if isinstance(target, bool) or not isinstance(target, (int, str)):
        raise TargetError(f"a target is a class index, a label or a function, not {type(target).__name__}")
    shown = ", ".join(labels[:20]) + (f", ... ({len(labels)} in all)" if len(labels) > 20 else "")
    if isinstance(target, int):
        if not 0 <= target < len(labels):
            raise TargetError(f"no class {target}: the model has 0 to {len(labels) - 1} ({shown})")
        return target
    wanted = target.strip().casefold()
    for matches in (
        [i for i, label in enumerate(labels) if label == target],
        [i for i, label in enumerate(labels) if label.casefold() == wanted],
        [i for i, label in enumerate(labels) if wanted in (part.strip().casefold() for part in label.split(","))],
    ):
        if len(matches) == 1:
            return matches[0]
        if matches:
            raise TargetError(f"{len(matches)} classes are called {target!r}: give one of the indices {matches[:10]}")
    raise TargetError(f"no class {target!r}: the model has {shown}")

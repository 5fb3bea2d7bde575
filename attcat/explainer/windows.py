"""Long documents: overlapping windows are explained one by one and joined by their characters.

The document's logits are the means of its windows' logits, and so is the value that is explained. The contribution of a token
is its mean over the windows that contain it: a token in an overlap counts like any other; special tokens are in every window.
Every window is explained towards the same target, the class predicted for the document as a whole.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from ..attribution import Window
from ..errors import InputError, Option, OptionError
from ..explanation import Explanation
from ..model import Adapter, TextAdapter
from ..model.heads import Head
from ..targets import Goal, Target
from ..tokens import Tokens
from .batch import BatchExplainer
from .rows import batches

_WINDOW = Option("window", True)


def check(adapter: Adapter, inputs: Sequence[Any], token: Any, truncation: bool) -> None:
    """Refuse what cannot be read in windows.

    Raises:
        InputError: if inputs are not texts, or the model predicts something other than classes of the whole text.
        OptionError: if the options contradict each other.
    """
    if truncation:
        raise OptionError(Option("truncation", True), " cuts the text, ", _WINDOW, " reads all of it: give one of them")
    if not isinstance(adapter, TextAdapter) or any(isinstance(value, Mapping) for value in inputs):
        raise InputError(_WINDOW, " is for texts that are given as strings")
    if token is not None or type(adapter.head) is not Head:
        raise InputError(
            _WINDOW,
            f" averages the class logits of windows, but {type(adapter.model).__name__} predicts parts of the text "
            f"({adapter.head.task}): give the passage that matters, at most {adapter.max_length} tokens",
        )


def explain(explainer: BatchExplainer, text: Any, targets: Any, size: int | None) -> list[Explanation]:
    """Explain a text in windows, once for each target.

    Args:
        explainer: that of a classifier.
        text: a string or a pair.
        targets: as for `BatchExplainer.explain`, of one row.
        size: tokens in a window, or None for as many as the model takes.
    """
    adapter = explainer.adapter
    assert isinstance(adapter, TextAdapter)
    encoding, whole = adapter.encode_windows(text, size)
    if len(encoding.tokens) == 1:
        return explainer.explain(encoding, [targets])[0]
    rows = batches(
        [encoding.mask.shape[1]] * len(encoding.tokens), explainer.settings.batch_size if adapter.can_batch else 1
    )
    parts = [encoding.rows(part) for part in rows]
    logits = torch.cat([explainer.record(part).logits.detach() for part in parts])
    mean = logits.mean(0, keepdim=True)
    labels = adapter.head.labels(encoding, 0, mean.shape[1])
    fixed = [_fixed(Goal.of(mean, [target], [labels])) for target in explainer.listed(targets, mean.shape[1])]
    by_window = [row for part in parts for row in explainer.explain(part, [fixed] * len(part.tokens))]
    places = [list(_places(tokens, whole)) for tokens in encoding.tokens]
    return [_join([row[index] for row in by_window], places, whole) for index in range(len(fixed))]


def _fixed(goal: Goal) -> Target:
    """The target of the document, by number, for each of its windows."""
    target, against, function = int(goal.classes[0]), int(goal.against[0]), goal.functions[0]
    return function or (target if against < 0 else (target, against))


def _join(windows: Sequence[Explanation], places: Sequence[list[int]], whole: Tokens) -> Explanation:
    """The mean over the windows that contain a token."""
    first = windows[0]
    total, count = torch.zeros(len(first.layers), len(whole)), torch.zeros(len(whole))
    for explanation, place in zip(windows, places, strict=True):
        total[:, place] += explanation.layers
        count[place] += 1
    if not count.all():
        raise InputError(
            f"{int((count == 0).sum())} tokens are in no window: the tokenizer splits the text differently; give parts of it"
        )
    biases = [explanation.bias for explanation in windows]
    return replace(
        first,
        layers=total / count,
        tokens=whole,
        logits=torch.stack([explanation.logits for explanation in windows]).mean(0),
        value=_mean([explanation.value for explanation in windows]),
        bias=None if first.bias is None else _mean(biases),
        measured={name: _mean([explanation.measured[name] for explanation in windows]) for name in first.measured},
        windows=tuple(
            Window(*_extent(explanation.tokens), tuple(explanation.logits.tolist())) for explanation in windows
        ),
    )


def _mean(values: Sequence[float | None]) -> float:
    return float(torch.tensor([0.0 if value is None else value for value in values], dtype=torch.float64).mean())


def _extent(tokens: Tokens) -> tuple[int, int]:
    """The characters of the windowed text, from the first to the last of the window."""
    segments = tokens.segments or ()
    last = max(segment for segment in segments if segment is not None)
    spans = [span for span, segment in zip(tokens.spans or (), segments, strict=True) if segment == last and span]
    return spans[0][0], max(end for _, end in spans)


def _places(window: Tokens, whole: Tokens) -> Iterator[int]:
    """Where the tokens of a window are in the whole text: special tokens by order, the others by their characters."""
    ours, theirs = _by_segment(window), _by_segment(whole)
    found: dict[int, int] = {}
    for segment, positions in ours.items():
        every = theirs[segment]
        wanted = [_key(window, position) for position in positions]
        keys = [_key(whole, position) for position in every]
        begins = (start for start, key in enumerate(keys) if key == wanted[0])
        starts = (start for start in begins if keys[start : start + len(wanted)] == wanted)
        start = next(starts, None) if segment is not None else 0
        if start is None:
            raise InputError(
                "a window's tokens are not those of the whole text: this tokenizer cannot be used with ",
                Option("window"),
            )
        found.update(zip(positions, every[start:], strict=False))
    return (found[position] for position in range(len(window)))


def _by_segment(tokens: Tokens) -> dict[int | None, list[int]]:
    """Positions of special tokens (None) and of each text."""
    groups: dict[int | None, list[int]] = {}
    for position, segment in enumerate(tokens.segments or ()):
        groups.setdefault(segment, []).append(position)
    return groups


def _key(tokens: Tokens, position: int) -> tuple[str, Any]:
    return tokens.labels[position], (tokens.spans or ())[position]

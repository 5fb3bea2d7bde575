"""What speaks for a class over a whole data set: words with counts, means and intervals; places and pieces of pictures."""

from __future__ import annotations

import csv
import heapq
import io
import json
import os
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy.special import stdtrit

from .. import render, saving
from ..errors import InputError
from ..files import write_by_suffix
from ..render.summary import Crop, Group, Quote, Term
from .explanation import Explanation

if TYPE_CHECKING:
    import pandas

PLACES = 12
"""Cells on each side of the map of positions."""

QUOTES, CROPS = 2, 12
"""Quotations that are kept of a word, and pieces of pictures of a class."""

AROUND = 40
"""Characters of a quotation on each side of the word."""

PIECE = 96
"""Longest side of a piece of a picture, in pixels."""


@dataclass(frozen=True)
class Summary:
    """Many explanations taken together, as `aggregate` gives them.

    Args:
        groups: one for each class that was explained; where the true classes are known, what was right and what was wrong
            apart. In the order of their size, the mistakes last.
        inputs: how many explanations there were.
        recipe: method and options.
        model: class name of the model.
    """

    groups: tuple[Group, ...]
    inputs: int
    recipe: str
    model: str

    @property
    def _head(self) -> str:
        return " · ".join(part for part in (f"{self.inputs} inputs", self.recipe, self.model) if part)

    def group(self, label: str, *, mistaken: bool | None = None) -> Group:
        """The group of a class.

        Args:
            label: of the class.
            mistaken: True for the inputs for which it was predicted wrongly, False for the others; None for the first one.

        Raises:
            InputError: if there is none.
        """
        for group in self.groups:
            if group.label == label and mistaken in (None, group.mistaken):
                return group
        known = ", ".join(dict.fromkeys(repr(group.label) for group in self.groups))
        raise InputError(f"no explanations of {label!r} (mistaken: {mistaken}): there are {known}")

    def records(self) -> list[dict[str, Any]]:
        """A row for each word of each class (for pictures, each place): counts, mean and interval."""
        return [row for group in self.groups for row in _records(group)]

    def to_frame(self) -> pandas.DataFrame:
        """The rows of `records` as a pandas table.

        Raises:
            InputError: if pandas is not installed.
        """
        return saving.frame(self.records())

    def show(self) -> None:
        """Print a table for each class; in a notebook show it as HTML."""
        render.show(self, lambda: render.summary.show(self.groups, self._head))

    def to_html(self) -> str:
        """A self-contained HTML page (no network, no script, everything escaped)."""
        return render.summary.page(self.groups, self._head, f"AttCAT: what decided {self.inputs} predictions")

    def _repr_html_(self) -> str:
        return self.to_html()

    def __repr__(self) -> str:
        return f"<Summary of {self._head}: {', '.join(group.title for group in self.groups)}>"

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write .html, .csv or .json; the file is complete or absent.

        Raises:
            InputError: for another suffix.
        """
        writers = {".html": lambda: self.to_html().encode(), ".csv": self._csv, ".json": self._json}
        return write_by_suffix(Path(path), writers)

    def _csv(self) -> bytes:
        rows = self.records()
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, list(rows[0]) if rows else ["label"])
        writer.writeheader()
        writer.writerows(rows)
        return text.getvalue().encode()

    def _json(self) -> bytes:
        whole = {"inputs": self.inputs, "method": self.recipe, "model": self.model, "rows": self.records()}
        return json.dumps(whole, ensure_ascii=False, indent=1, allow_nan=False).encode()


def aggregate(
    explanations: Iterable[Explanation],
    truth: Iterable[str | int | None] | None = None,
    *,
    names: Iterable[str] | None = None,
    minimum: int = 3,
) -> Summary:
    """Take many explanations together: which words, or which places on pictures, speak for each class?

        summary = attcat.aggregate(explainer(reviews), labels)
        summary.show()

    Explanations are read one by one and not kept, so that a generator over a large data set needs little memory.

    Args:
        explanations: all of texts or all of pictures, all by one method, as scores of different methods cannot be averaged.
        truth: the true classes, as labels or the model's indices; None where it is not known. Then what was predicted
            wrongly is a group of its own.
        names: what the inputs are called; by default they are numbered.
        minimum: a word is listed from so many inputs on, at least 2.

    Raises:
        InputError: if there is no explanation, they are not of one kind and method, or there are fewer truths or names.
    """
    if minimum < 2:
        raise InputError(f"minimum={minimum}: an interval needs a word in at least 2 inputs")
    parts: dict[tuple[str, bool | None], _Texts | _Pictures] = {}
    first: Explanation | None = None
    total = 0
    for total, (one, true, name) in enumerate(_together(explanations, truth, names), 1):
        first = first or one
        if one.is_mixed:
            raise InputError(
                f"explanation {total} is of words and pictures in one sequence: aggregate the parts, e.g. each .of_text(), or "
                "each .of_image(0)"
            )
        if (one.is_image, one.recipe) != (first.is_image, first.recipe):
            raise InputError(
                f"explanation {total} is {_kind(one)}, the first is {_kind(first)}: aggregate one kind and one method at a time"
            )
        key = (_class(one), _mistaken(one, true))
        if key not in parts:
            parts[key] = _Pictures() if one.is_image else _Texts()
        parts[key].add(one, str(total) if name is None else name)
    if first is None:
        raise InputError("there are no explanations to aggregate")
    groups = [part.group(*key, minimum) for key, part in parts.items()]
    groups.sort(key=lambda group: (bool(group.mistaken), -group.inputs, group.label))
    return Summary(tuple(groups), total, first.recipe, first.model)


def _together(
    explanations: Iterable[Explanation], truth: Iterable[Any] | None, names: Iterable[str] | None
) -> Iterator[tuple[Explanation, Any, str | None]]:
    truths = repeat(None) if truth is None else iter(truth)
    called = repeat(None) if names is None else iter(names)
    for count, one in enumerate(explanations, 1):
        try:
            true, name = next(truths), next(called)
        except StopIteration:
            raise InputError(f"truth or names end before explanation {count}: give one for each") from None
        yield one, true, name


def _kind(one: Explanation) -> str:
    return f"of a {'picture' if one.is_image else 'text'} by {one.recipe}"


def _class(one: Explanation) -> str:
    """The class without its measured value, so that ratings share a group."""
    if one.target is None:
        return one.label
    label = one.labels[one.target]
    return label if one.against is None else f"{label} rather than {one.labels[one.against]}"


def _mistaken(one: Explanation, true: str | int | None) -> bool | None:
    """Whether the class that is explained was predicted wrongly; None if it is not known, or another class is explained.

    Raises:
        InputError: if the model has no such class.
    """
    if true is None or one.target is None or one.target not in one.predictions:
        return None
    folded = [label.casefold() for label in one.labels]
    numbers = list(one.classes or range(len(one.labels)))
    name = str(true).strip().casefold()
    if name in folded and not isinstance(true, int):
        return folded.index(name) != one.target
    if name.isdecimal() and int(name) in numbers:
        return numbers.index(int(name)) != one.target
    raise InputError(f"the true class {true!r} is none of the model's: {', '.join(map(repr, one.labels[:20]))}")


@dataclass
class _Sums:
    """Running sums of one word over inputs."""

    inputs: int = 0
    count: int = 0
    mean: float = 0.0
    squares: float = 0.0
    """Sum of squared differences from the mean (Welford 1962)."""
    quotes: list[tuple[float, int, Quote]] = field(default_factory=list)

    def add(self, value: float, count: int) -> None:
        self.inputs += 1
        self.count += count
        step = value - self.mean
        self.mean += step / self.inputs
        self.squares += step * (value - self.mean)

    def quote(self, quote: Quote) -> None:
        entry = (abs(quote.score), self.count, quote)
        if len(self.quotes) < QUOTES:
            self.quotes.append(entry)
            return
        weakest = min(self.quotes, key=lambda one: one[:2])
        if entry[0] > weakest[0]:
            self.quotes.remove(weakest)
            self.quotes.append(entry)

    def term(self, text: str, segment: int) -> Term:
        """With the interval of Student's t."""
        error = (self.squares / (self.inputs - 1) / self.inputs) ** 0.5
        reach = float(stdtrit(self.inputs - 1, 0.975)) * error
        quotes = tuple(quote for *_, quote in sorted(self.quotes, key=lambda entry: -entry[0]))
        return Term(text, segment, self.inputs, self.count, self.mean, self.mean - reach, self.mean + reach, quotes)


class _Counted:
    """What every group counts."""

    def __init__(self) -> None:
        self.inputs = 0
        self.chances: list[float] = []

    def count(self, one: Explanation) -> None:
        self.inputs += 1
        if one.probability is not None:
            self.chances.append(one.probability)

    @property
    def probability(self) -> float | None:
        return sum(self.chances) / len(self.chances) if self.chances else None


class _Texts(_Counted):
    """The words of one class."""

    def __init__(self) -> None:
        super().__init__()
        self.words: dict[tuple[int, str], _Sums] = defaultdict(_Sums)

    def add(self, one: Explanation, name: str) -> None:
        self.count(one)
        found: dict[tuple[int, str], list[float]] = defaultdict(list)
        for word in one.words():
            key = word.segment, _folded(word.text)
            found[key].append(word.score)
            text = one.texts[word.segment]
            start, end = max(0, word.start - AROUND), min(len(text), word.end + AROUND)
            before, after = text[start : word.start], text[word.end : end]
            quote = Quote(name, "…" * (start > 0) + before, word.text, after + "…" * (end < len(text)), word.score)
            self.words[key].quote(quote)
        for key, scores in found.items():
            self.words[key].add(sum(scores) / len(scores), len(scores))

    def group(self, label: str, mistaken: bool | None, minimum: int) -> Group:
        terms = [sums.term(text, at) for (at, text), sums in self.words.items() if sums.inputs >= minimum]
        terms.sort(key=lambda term: (-term.mean, term.text))
        return Group(
            label, mistaken, self.inputs, self.probability, terms=tuple(terms), rare=len(self.words) - len(terms)
        )


class _Pictures(_Counted):
    """The places and pieces of one class."""

    def __init__(self) -> None:
        super().__init__()
        self.positions = np.zeros((PLACES, PLACES))
        self.pieces: list[tuple[float, int, Crop]] = []

    def add(self, one: Explanation, name: str) -> None:
        self.count(one)
        grid = one.grid.double()
        share = grid / (float(grid.abs().sum()) or 1.0)
        # Cells of one grid are spread over those of the other by area, so that a map sums to what the grid sums to.
        spread = torch.nn.functional.adaptive_avg_pool2d(share[None], PLACES)[0] * share.numel() / PLACES**2
        self.positions += spread.numpy()
        best = int(share.argmax())
        row, column = divmod(best, share.shape[1])
        if isinstance(one.source, np.ndarray) and share[row, column] > 0:
            crop = Crop(name, _piece(one, row, column), float(share[row, column]))
            (heapq.heappush if len(self.pieces) < CROPS else heapq.heappushpop)(
                self.pieces, (crop.share, self.inputs, crop)
            )

    def group(self, label: str, mistaken: bool | None, minimum: int) -> Group:
        crops = tuple(crop for *_, crop in sorted(self.pieces, key=lambda piece: -piece[0]))
        return Group(
            label, mistaken, self.inputs, self.probability, positions=self.positions / self.inputs, crops=crops
        )


def _folded(text: str) -> str:
    """In lower case, without punctuation around it; punctuation alone stays."""
    start, end = 0, len(text)
    while start < end and not text[start].isalnum():
        start += 1
    while end > start and not text[end - 1].isalnum():
        end -= 1
    return (text[start:end] or text).casefold()


def _piece(one: Explanation, row: int, column: int) -> np.ndarray:
    """The pixels of a patch and of its neighbours, its longest side `PIECE`."""
    from PIL import Image

    assert isinstance(one.source, np.ndarray)
    left, top, right, bottom = one.view.box
    wide, high = (right - left) / one.grid.shape[1], (bottom - top) / one.grid.shape[0]
    height, width = one.source.shape[:2]
    across = [round(left + (column + step) * wide) for step in (-1, 2)]
    down = [round(top + (row + step) * high) for step in (-1, 2)]
    x, y = min(max(across[0], 0), width - 1), min(max(down[0], 0), height - 1)
    picture = Image.fromarray(one.source[y : max(down[1], y + 1), x : max(across[1], x + 1)])
    factor = PIECE / max(picture.size)
    return np.asarray(picture.resize((max(1, round(picture.width * factor)), max(1, round(picture.height * factor)))))


def _records(group: Group) -> Iterator[dict[str, Any]]:
    head: Mapping[str, Any] = {"label": group.label, "mistaken": group.mistaken}
    if group.positions is None:
        for term in group.terms:
            yield {
                **head,
                "word": term.text,
                "segment": term.segment,
                "inputs": term.inputs,
                "count": term.count,
                "mean": term.mean,
                "low": term.low,
                "high": term.high,
            }
        return
    for row, column in np.ndindex(group.positions.shape):
        yield {
            **head,
            "row": row,
            "column": column,
            "inputs": group.inputs,
            "mean": float(group.positions[row, column]),
        }

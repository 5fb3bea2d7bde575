"""What a language model wrote, and for every token of it what it came from."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .. import render, saving
from ..errors import InputError
from ..files import encode_png, write_by_suffix
from ..tokens import Tokens, overlapping
from .explanation import Explanation

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from PIL import Image

Part = str | int | slice
"""A part of what was written: a piece of the text that occurs once, the number of a token, or a slice of characters."""


class Source(ABC):
    """Where the explanations of a written text come from."""

    @abstractmethod
    def each(self) -> tuple[Explanation, ...]:
        """Of every written token."""

    @abstractmethod
    def span(self, first: int, last: int, target: Any, contrast: bool) -> Explanation:
        """Of the written tokens `first` to `last`, both included."""


@dataclass(frozen=True, eq=False, repr=False)
class Generation:
    """A text that a language model wrote (or was given to read as if it had), and why.

        generation = explainer.generate("The capital of France is", max_new_tokens=8)
        generation.show()
        generation.of("Paris").words()

    The forward pass is kept, so that any part can be explained by one backward pass; with this object it is freed.

    Args:
        text: what was written, without special tokens.
        tokens: what the `T` positions stand for: the prompt, then the answer.
        start: the position of the first written token; `A = T - start` tokens were written.
        prompt: the prompt as the model read it; None for model arguments.
        source: where the explanations come from.
    """

    text: str
    tokens: Tokens
    start: int
    prompt: str | None
    source: Source

    def __len__(self) -> int:
        """A, the number of written tokens."""
        return len(self.tokens) - self.start

    @property
    def written(self) -> tuple[str, ...]:
        """The labels of the written tokens."""
        return self.tokens.labels[self.start :]

    @cached_property
    def explanations(self) -> tuple[Explanation, ...]:
        """One for each written token, of the tokens before it; computed when it is first asked for.

        The logit of the token is explained (or of the target that was asked for), so that each equals what
        `explainer(everything before it, target=the token)` gives.
        """
        return self.source.each()

    @cached_property
    def matrix(self) -> Tensor:
        """float32 `[A, T]`: the score of every token for every written one; 0 for what was not yet there."""
        matrix = torch.zeros(len(self), len(self.tokens))
        for row, explanation in zip(matrix, self.explanations, strict=True):
            row[: len(explanation.tokens)] = explanation.scores
        return matrix

    def of(self, part: Part, target: Any = None, *, contrast: bool = False) -> Explanation:
        """Why a part of the text was written: the sum of its tokens' log-probabilities, explained in one backward pass.

        With the Explainer's `quantity="log-odds"` or `"probability"` it is that of the part as a whole; what was explained stands
        in `.options["quantity"]`, but for a contrast: that is the difference of two log-probabilities.

        Args:
            part: a piece of the written text that occurs once, the number of a written token, or a slice of the written
                text's characters.
            target: for a part of one token, what is explained in its place, as for `Explainer.__call__`: another token, or
                two of them (why the first rather than the second).
            contrast: each token is held against the runner-up, the most probable other one.

        Returns:
            An Explanation of the tokens before the last one of the part. Tokens of the part itself are among them: they
            were there when the next one was written. Its only class is the part; its logit is the log-probability.

        Raises:
            InputError: if there is no such part, or this was read from a file, which holds no model.
            TargetError: if the target does not exist, or the part has several tokens.
        """
        first, last = self._places(part)
        return self.source.span(first, last, target, contrast)

    @cached_property
    def total(self) -> Explanation:
        """Why the whole answer was written: `of` everything."""
        return self.source.span(0, len(self) - 1, None, False)

    def _places(self, part: Part) -> tuple[int, int]:
        """First and last of the written tokens that are meant."""
        count = len(self)
        if isinstance(part, int):
            if not -count <= part < count:
                raise InputError(f"no written token {part}: there are {count}, counted from 0")
            return part % count, part % count
        if isinstance(part, str):
            found = [at for at in range(len(self.text)) if part and self.text.startswith(part, at)]
            if len(found) != 1:
                places = ", ".join(f"slice({at}, {at + len(part)})" for at in found[:5])
                more = f": say which, as {places}" if found else f": what was written is {self.text!r}"
                raise InputError(f"{part!r} occurs {len(found)} times in what was written{more}")
            part = slice(found[0], found[0] + len(part))
        if self.tokens.spans is None or self.prompt is None:
            raise InputError(f"which characters a token has is not known here: give its number, 0 to {count - 1}")
        start, stop, _ = part.indices(len(self.text))
        shift = len(self.prompt)
        inside = overlapping(self.tokens, (start + shift, stop + shift), self.start)
        if not inside:
            raise InputError(f"nothing was written at the characters {start} to {stop}")
        return inside[0] - self.start, inside[-1] - self.start

    # -- show, save, load --------------------------------------------------------------------------------------------

    def show(self) -> None:
        """Show it where the user is: in a notebook as a page whose words can be hovered over, in a terminal as a list."""
        render.show(self, lambda: render.generation.show(*self._drawn))

    def to_html(self) -> str:
        """A self-contained HTML page: hover over a written word to see what it came from; below, the heat table."""
        return render.generation.page(*self._drawn)

    def to_image(self) -> Image.Image:
        """The heat table as a picture: a row for each written word, a column for each word before it.

        Raises:
            InputError: if there are more words than fit.
        """
        return render.generation.figure(*self._drawn)

    def plot(self, ax: Axes | None = None) -> Axes:
        """Draw the heat table with matplotlib, for a paper: a row for each written word, a column for each word before it.

        Args:
            ax: where to; by default a new figure of pyplot.

        Raises:
            InputError: if matplotlib is not installed.
        """
        return render.generation.plot(*self._drawn, ax)

    @property
    def _drawn(self) -> tuple[tuple[Explanation, ...], Tokens, int, str | None]:
        return self.explanations, self.tokens, self.start, None if self.prompt is None else self.prompt + self.text

    def _repr_html_(self) -> str:
        return render.generation.fragment(*self._drawn)

    def __repr__(self) -> str:
        return f"<Generation of {self.text!r}: {len(self)} tokens after {self.start}>"

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write it; the suffix says how: .json or .safetensors (read back by `Generation.load`), .html, .pdf, .png.

        Raises:
            InputError: for another suffix, or .png of a long text.
        """
        record = saving.Written(self.text, self.tokens, self.start, self.prompt, self.explanations)
        writers: dict[str, Callable[[], bytes]] = {
            suffix: partial(write, record) for suffix, write in saving.WRITERS_OF_WRITTEN.items()
        }
        writers[".html"] = lambda: self.to_html().encode()
        writers[".pdf"] = lambda: render.generation.pdf(*self._drawn)
        writers[".png"] = lambda: encode_png(self.to_image())
        return write_by_suffix(Path(path), writers)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Generation:
        """Read it back from a .json or .safetensors file. Single tokens are explained as before, parts no longer.

        Raises:
            InputError: if the file is not one of these.
            FileNotFoundError: if there is no such file.
        """
        record = saving.load_written(Path(path), Explanation)
        return cls(record.text, record.tokens, record.start, record.prompt, Stored(record.explanations))


class Stored(Source):
    """Explanations that were read from a file."""

    def __init__(self, explanations: tuple[Explanation, ...]) -> None:
        self.explanations = explanations

    def each(self) -> tuple[Explanation, ...]:
        """As they were saved."""
        return self.explanations

    def span(self, first: int, last: int, target: Any, contrast: bool) -> Explanation:
        """Not without the model."""
        raise InputError(
            "this Generation was read from a file, which holds no model: explain the text again with "
            "explainer(prompt, answer=generation.text), or read .explanations and .matrix"
        )

"""The result: an attribution with a face. It shows, draws and saves itself."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from .. import render, saving
from ..attribution import Attribution
from ..files import encode_jpeg, write_by_suffix

if TYPE_CHECKING:
    import pandas
    from matplotlib.axes import Axes
    from PIL import Image


@dataclass(frozen=True, eq=False, repr=False)
class Explanation(Attribution):
    """Which tokens decided a prediction, as `attcat.Explainer` gives it: see `Attribution` for what it holds."""

    # -- show, save, load --------------------------------------------------------------------------------------------

    def show(self) -> None:
        """Show the explanation where the user is: in a notebook as HTML, in a terminal as coloured text."""
        render.show(self, lambda: render.terminal.show(self))

    def to_html(self) -> str:
        """A self-contained HTML page (no network, everything escaped)."""
        return render.page([self])

    def to_image(self, *, positive: bool = False, contour: bool = False, cells: bool = False) -> Image.Image:
        """A figure with the picture, the heatmap laid over it, and a legend.

        Args:
            positive: only what speaks for the class.
            contour: a line around the fifth of the picture that speaks most for the class.
            cells: each patch in one colour, instead of a smooth map.

        Raises:
            InputError: if the input was not a picture, or the pixels are not known (bare model arguments).
        """
        return render.figure(self, render.Look(positive, contour, cells))

    def plot(
        self,
        ax: Axes | None = None,
        *,
        layers: bool = False,
        positive: bool = False,
        contour: bool = False,
        cells: bool = False,
    ) -> Axes:
        """Draw the explanation with matplotlib, for a paper: the words in place, or the picture under its heatmap.

        Args:
            ax: axes to draw on; by default a new figure.
            layers: the contributions of each block instead.
            positive: as in `to_image`; likewise the next two.
            contour: a line around the fifth of the picture that speaks most for the class.
            cells: each patch in one colour.

        Raises:
            InputError: if matplotlib is not installed, or a picture's pixels are not known.
        """
        return render.plot(self, ax, layers=layers, look=render.Look(positive, contour, cells))

    def records(self) -> list[dict[str, Any]]:
        """A row for each word or patch: what it is and where, its score, its share of the magnitude, and its rank."""
        return saving.records(self)

    def to_frame(self) -> pandas.DataFrame:
        """The rows of `records` as a pandas table.

        Raises:
            InputError: if pandas is not installed.
        """
        return saving.frame(self.records())

    def to_json(self) -> str:
        """The content of a .json file on one line, e.g. for the answer of a web service."""
        return saving.to_text(self)

    @classmethod
    def from_json(cls, text: str) -> Explanation:
        """An Explanation from what `to_json` made, or from the content of a .json file.

        Raises:
            InputError: if it is something else.
        """
        return saving.from_text(text, cls)

    def _repr_html_(self) -> str:
        return render.fragment(self)

    def __repr__(self) -> str:
        chance = "" if self.probability is None else f" ({self.probability:.1%})"
        return f"<Explanation of {self.label!r}{chance} by {self.recipe}: {len(self.tokens)} tokens>"

    def save(
        self,
        path: str | os.PathLike[str],
        *,
        positive: bool = False,
        contour: bool = False,
        cells: bool = False,
    ) -> Path:
        """Write the explanation; the suffix says how: .json or .safetensors (read back by `attcat.load`), .html, .pdf
        (with matplotlib), or for a picture .png, .jpg or .svg.

        The file is complete or absent: it is written aside and moved into place.

        Args:
            path: where to.
            positive: as in `to_image`, for .png, .jpg and .svg; likewise the next two.
            contour: a line around the fifth of the picture that speaks most for the class.
            cells: each patch in one colour.

        Raises:
            InputError: for another suffix, or a figure of a text.
        """
        look = render.Look(positive, contour, cells)
        writers: dict[str, Callable[[], bytes]] = {
            suffix: partial(write, self) for suffix, write in saving.WRITERS.items()
        }
        writers[".html"] = lambda: self.to_html().encode()
        writers[".png"] = lambda: render.png(self, look)
        writers[".jpg"] = writers[".jpeg"] = lambda: encode_jpeg(render.figure(self, look))
        writers[".pdf"] = lambda: render.pdf(self, look)
        writers[".svg"] = lambda: render.svg(self, look).encode()
        return write_by_suffix(Path(path), writers)


class ImageText(NamedTuple):
    """The two explanations of a picture and a text that were compared.

    Args:
        image: which patches of the picture speak for the similarity.
        text: which words of the text do.
    """

    image: Explanation
    text: Explanation

    def show(self) -> None:
        """Show both, see `Explanation.show`."""
        self.image.show()
        self.text.show()


class TextText(NamedTuple):
    """The two explanations of two texts that were compared.

    Args:
        first: which words of the first text speak for the similarity.
        second: which words of the second do.
    """

    first: Explanation
    second: Explanation

    def show(self) -> None:
        """Show both, see `Explanation.show`."""
        self.first.show()
        self.second.show()


def load(path: str | os.PathLike[str]) -> Explanation:
    """Read an Explanation back from a .json or .safetensors file written by `Explanation.save`.

    Raises:
        InputError: if the file is not one of these.
        FileNotFoundError: if there is no such file.
    """
    return saving.load(Path(path), Explanation)

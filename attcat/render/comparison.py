"""Several explanations of one input: a line each in the terminal, a table on a page, one figure for a picture.

Every method has units of its own (a logit's share, a probability, a product of attentions), so each has a colour
scale of its own, and numbers of different methods are not to be compared.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np

from ..attribution import Attribution
from ..errors import InputError, visible
from . import html, image, mixed, terminal, wording

if TYPE_CHECKING:
    from PIL import Image
    from rich.console import Console
    from rich.text import Text

Timed = Sequence[tuple[Attribution, float]]
"""Explanations of one input, each with the seconds that it took."""

OWN_SCALE = "Each method has a colour scale of its own: colours compare tokens, not methods."
PANEL, ACROSS = 240, 4
"""Pixels of a panel's longest side, and panels in a row."""


def name(explanation: Attribution) -> str:
    """Method and gradient rule, as they are typed: `attcat+libra`."""
    rule = explanation.options.get("rule")
    return f"{explanation.method}+{rule}" if rule and rule != explanation.method else explanation.method


def duration(seconds: float) -> str:
    """A time in two or three digits, as `12 ms`."""
    return f"{seconds * 1000:.0f} ms" if seconds < 1 else f"{seconds:.2f} s"


# -- terminal --------------------------------------------------------------------------------------------------------


def lines(timed: Timed, colour: bool) -> Iterator[tuple[Text, Text, Text]]:
    """For each method its name, its time, and the words (or the strongest patch)."""
    from rich.text import Text

    for explanation, seconds in timed:
        if explanation.is_image:
            told = Text(visible(wording.strongest(explanation)))
        else:
            told = terminal.highlight(explanation, terminal.LINE, colour=colour)
        yield Text(name(explanation)), Text(duration(seconds)), told


def show(timed: Timed, console: Console | None = None, note: str = OWN_SCALE) -> None:
    """Print what is explained, then a row for each method, and what the colours cannot say."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = console or Console()
    colour = console.color_system is not None and not console.no_color
    first, _ = timed[0]
    console.print(Text(visible(wording.headline(first)), "bold"))
    table = Table(box=None, pad_edge=False, show_header=False)
    for column in ("left", "right", "left"):
        table.add_column(justify="right" if column == "right" else "left", overflow="fold")
    for row in lines(timed, colour):
        table.add_row(*row)
    console.print(table)
    console.print(Text(note, "dim"))


# -- pages -----------------------------------------------------------------------------------------------------------


def page(timed: Timed, note: str = OWN_SCALE, title: str = "AttCAT: methods compared") -> str:
    """A self-contained page: no network, no script."""
    return html.framed(_body(timed, note), title)


def fragment(timed: Timed, note: str = OWN_SCALE) -> str:
    """What a notebook shows."""
    return f"<style>{html.STYLE}</style>{_body(timed, note)}"


def _body(timed: Timed, note: str) -> str:
    first, _ = timed[0]
    cells = _pictures(timed) if first.is_image or first.is_mixed else ""
    cells += "" if first.is_image else _rows(timed)
    cells += html.key(first, scale=False)
    last = f'<p class="origin">{html.escape(note)}</p>'
    return f'<div class="attcat">{html.header(first, first.model)}{cells}{last}</div>'


def _rows(timed: Timed) -> str:
    rows = []
    for explanation, seconds in timed:
        told = f"<b>{html.escape(name(explanation))}</b><br>{duration(seconds)}"
        apart = f"special tokens {explanation.special_share:.0%}" if explanation.special.any() else ""
        rows.append(f"<tr><td>{told}<br>{apart}</td><td>{html.texts(explanation)}</td></tr>")
    return f'<table class="methods">{"".join(rows)}</table>'


def _pictures(timed: Timed) -> str:
    panels = [html.picture(pixels, caption, caption) for pixels, caption in _panels(timed)]
    return f'<div class="pictures">{"".join(panels)}</div>'


# -- figure ----------------------------------------------------------------------------------------------------------


def figure(timed: Timed, note: str = OWN_SCALE) -> Image.Image:
    """The picture, then a heatmap for each method under which its name and its time stand; the words, if there are any, below.

    Raises:
        InputError: if the input was not a picture, or its pixels are not known.
    """
    first, _ = timed[0]
    if not any(isinstance(part.source, np.ndarray) for part in _seen(first)):
        raise InputError("one figure needs a picture: save the comparison as .html")
    panels = [image.panel(pixels, caption) for pixels, caption in _panels(timed)]
    rows = [image.beside(panels[start : start + ACROSS], gap=16) for start in range(0, len(panels), ACROSS)]
    pictures = image.stack(rows, gap=10)
    width = max(pictures.width, 480)
    last = [image.line(text, width, size=14, ink=image.PALE) for text in image.wrap(note, width)]
    head = image.heading(first, width, first.model)
    words = [part for explanation, _ in timed for part in _words(explanation, width)]
    unseen = [line for part in _seen(first)[:1] for line in image.unseen(part, width)]
    return image.framed(image.stack([head, pictures, *words, image.bar(first, width), *unseen, *last], gap=10))


def _words(explanation: Attribution, width: int) -> list[Image.Image]:
    """The words of a mixed sequence in one method's colours, below its name."""
    if not explanation.is_mixed:
        return []
    sheet = mixed.words(explanation, wording.scale(explanation), width)
    return [image.line(name(explanation), width, size=14, ink=image.PALE), *sheet] if sheet else []


def _seen(explanation: Attribution) -> list[Attribution]:
    """What lies on each picture."""
    return [part for _, part in wording.maps(explanation)] if explanation.is_mixed else [explanation]


def _panels(timed: Timed) -> Iterator[tuple[np.ndarray, str]]:
    """Each picture, if it is known, and its overlays, with captions; a method's maps share the scale of all its scores."""
    for parts in zip(*(_seen(explanation) for explanation, _ in timed), strict=True):
        small = [image.sized(part, PANEL, PANEL) for part in parts]
        if isinstance(small[0].source, np.ndarray):
            yield small[0].source, "input"
        for part, (explanation, seconds) in zip(small, timed, strict=True):
            yield image.overlay(part, wording.scale(explanation)), f"{name(explanation)}, {duration(seconds)}"

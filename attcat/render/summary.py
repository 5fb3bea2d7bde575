"""Many explanations taken together: for each class the words, or the places and pieces of pictures, that spoke for it.

A table in the terminal, and a page that needs no script.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from ..errors import visible
from . import html, image, wording
from .colour import largest

if TYPE_CHECKING:
    from rich.console import Console

SHOWN, AGAINST_SHOWN = 20, 10
"""Words of a class that are drawn: the strongest for it, and the strongest against it."""

LINES = 12
"""The same in the terminal, for each side."""

CELL = 22
"""Pixels of a cell of the map of positions."""

READ = (
    "Each word stands once for every input that contains it, with its mean score there; the interval is that of the mean over "
    "inputs (95 %, Student), not corrected for the number of words, and words whose interval holds zero are left out. A word "
    "that often speaks for a class is what this model goes by, not what is true of the class."
)


@dataclass(frozen=True)
class Quote:
    """A word where it stood.

    Args:
        name: what the input is called.
        before: the characters before it.
        text: the word.
        after: the characters after it.
        score: its score there.
    """

    name: str
    before: str
    text: str
    after: str
    score: float


@dataclass(frozen=True)
class Term:
    """A word over many inputs of one class.

    Args:
        text: in lower case, without punctuation around it.
        segment: 1 for a word of the second text of pairs.
        inputs: how many inputs contain it.
        count: how many times it occurs in them.
        mean: its mean score over these inputs.
        low: lower end of the 95 % interval of the mean.
        high: upper end.
        quotes: where it was strongest.
    """

    text: str
    segment: int
    inputs: int
    count: int
    mean: float
    low: float
    high: float
    quotes: tuple[Quote, ...]

    @property
    def sure(self) -> bool:
        """Whether the interval leaves out zero."""
        return self.low > 0 or self.high < 0


@dataclass(frozen=True)
class Crop:
    """A piece of a picture.

    Args:
        name: what the picture is called.
        pixels: the patch and its surroundings, uint8 `[h, w, 3]`.
        share: of the patch, of the magnitude of its explanation.
    """

    name: str
    pixels: np.ndarray
    share: float


@dataclass(frozen=True)
class Group:
    """The inputs for which one class was explained.

    Args:
        label: the class.
        mistaken: whether the class is not the true one; None if that is not known.
        inputs: how many.
        probability: mean of the class's probability; None for measured values.
        terms: every word that is in enough inputs, by its mean, what speaks most for the class first.
        rare: how many different words are in fewer inputs.
        positions: for pictures, the mean share of the magnitude at each place, signed, float `[12, 12]`.
        crops: for pictures, the strongest patches for the class, one of a picture.
    """

    label: str
    mistaken: bool | None
    inputs: int
    probability: float | None
    terms: tuple[Term, ...] = ()
    rare: int = 0
    positions: np.ndarray | None = None
    crops: tuple[Crop, ...] = ()

    @property
    def title(self) -> str:
        """The class, and whether it was right."""
        right = {None: "explained", False: "predicted, and right", True: "predicted, and wrong: what misled it"}
        chance = "" if self.probability is None else f", {self.probability:.1%} on average"
        return f"{self.label} ({right[self.mistaken]}: {self.inputs} input{'s' * (self.inputs != 1)}{chance})"

    def sides(self, most_for: int = SHOWN, most_against: int = AGAINST_SHOWN) -> tuple[list[Term], list[Term]]:
        """The words whose interval leaves out zero: for the class, and against it, the strongest first."""
        supports = [term for term in self.terms if term.sure and term.mean > 0]
        against = [term for term in reversed(self.terms) if term.sure and term.mean < 0]
        return supports[:most_for], against[:most_against]


# -- terminal --------------------------------------------------------------------------------------------------------


def show(groups: Sequence[Group], head: str, console: Console | None = None) -> None:
    """Print the words of each class with their counts, means and intervals; of pictures, where the evidence lay."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = console or Console()
    console.print(Text(visible(head), "dim"), soft_wrap=True)
    for group in groups:
        console.print(Text(visible(f"\n{group.title}"), "bold"), soft_wrap=True)
        if group.positions is not None:
            console.print(Text(f"strongest place: {strongest(group.positions)}"))
            continue
        table = Table(box=None, pad_edge=False)
        for name, side in (("word", "left"), ("inputs", "right"), ("mean", "right"), ("95 %", "left")):
            table.add_column(name, justify="right" if side == "right" else "left")
        for term in (one for side in group.sides(LINES, LINES // 2) for one in side):
            cells = (visible(_named(term)), str(term.inputs), wording.number(term.mean), _interval(term))
            table.add_row(*(Text(cell) for cell in cells))
        console.print(table if table.row_count else Text("no word stands out from zero"))


def strongest(positions: np.ndarray) -> str:
    """Where on the picture the mean is highest, as `top left`."""
    row, column = np.unravel_index(int(positions.argmax()), positions.shape)
    down = ("top", "middle", "bottom")[int(3 * row // positions.shape[0])]
    across = ("left", "centre", "right")[int(3 * column // positions.shape[1])]
    return f"{down} {across}"


def _named(term: Term) -> str:
    return f"{term.text} (second text)" if term.segment else term.text


def _interval(term: Term) -> str:
    return f"[{wording.number(term.low)}, {wording.number(term.high)}]"


# -- page ------------------------------------------------------------------------------------------------------------

STYLE = (
    html.STYLE
    + """
.attcat .words td{vertical-align:top;border-top:1px solid rgba(128,128,128,.3);text-align:right;white-space:normal}
.attcat .words td:first-child,.attcat .words td:last-child{text-align:left}
.attcat .words th,.attcat .words td:nth-child(n+2):not(.where){overflow-wrap:normal;white-space:nowrap}
.attcat .words td:first-child{overflow-wrap:break-word;max-width:9em}
.attcat .words .where{opacity:.8;max-width:34rem}
.attcat .words .span{display:block;position:relative;width:9rem;height:1.1em;background:rgba(128,128,128,.15)}
.attcat .words .span i{position:absolute;top:.45em;height:.2em;background:currentColor;opacity:.7}
.attcat .words .span b{position:absolute;top:.1em;width:3px;height:.9em;margin-left:-1px;background:currentColor}
.attcat .words .span u{position:absolute;top:0;bottom:0;width:1px;background:rgba(128,128,128,.8);left:50%}
.attcat .crops{display:flex;flex-wrap:wrap;gap:.6em}
.attcat .crops figure{margin:0;max-width:7rem;font-size:.85em}
@media (max-width:640px){.attcat .words td:nth-child(4),.attcat .words th:nth-child(4){display:none}}
"""
)


def page(groups: Sequence[Group], head: str, title: str) -> str:
    """A self-contained page: no network, no script, everything escaped."""
    contents = "".join(f'<li><a href="#g{at}">{html.escape(group.title)}</a></li>' for at, group in enumerate(groups))
    parts = [f'<p class="origin">{html.escape(head)}</p><ul>{contents}</ul>']
    parts += [f'<section id="g{at}">{"".join(_section(group))}</section>' for at, group in enumerate(groups)]
    if any(group.terms for group in groups):
        parts.append(f'<p class="origin">{html.escape(READ)}</p>')
    return html.framed(f'<div class="attcat">{"".join(parts)}</div>', title, style=STYLE)


def _section(group: Group) -> Iterator[str]:
    yield f"<h2>{html.escape(group.title)}</h2>"
    if group.positions is not None:
        yield _places(group)
        return
    supports, against = group.sides()
    scale = largest([abs(value) for term in (*supports, *against) for value in (term.low, term.high)])
    for name, terms in ((f"speaks for {group.label}", supports), (f"speaks against {group.label}", against)):
        if terms:
            yield f"<h3>{html.escape(name)}</h3>{_table(terms, scale)}"
    if not supports and not against:
        yield "<p>No word stands out from zero.</p>"
    if group.rare:
        yield f'<p class="origin">{group.rare} different words are in too few inputs to be listed.</p>'


def _table(terms: Sequence[Term], scale: float) -> str:
    head = "<tr><th>word</th><th>inputs</th><th>mean</th><th>0 and the interval</th><th>strongest in</th></tr>"
    rows = []
    for term in terms:
        quotes = "<br>".join(_quote(quote) for quote in term.quotes)
        word = html.mark(_named(term), float(np.clip(term.mean / (scale or 1.0), -1, 1)))
        told = f'title="{_interval(term)}, {term.count} times"'
        rows.append(
            f"<tr><td>{word}</td><td>{term.inputs}</td><td {told}>{wording.number(term.mean)}</td>"
            f'<td>{_whisker(term, scale)}</td><td class="where">{quotes}</td></tr>'
        )
    return f'<table class="words">{head}{"".join(rows)}</table>'


def _whisker(term: Term, scale: float) -> str:
    """The interval as a line on a scale around zero, with the mean as a stroke."""
    low, mean, high = (50 + 48 * value / (scale or 1.0) for value in (term.low, term.mean, term.high))
    return (
        f'<span class="span" title="{_interval(term)}"><u></u><i style="left:{low:.1f}%;width:{high - low:.1f}%"></i>'
        f'<b style="left:{mean:.1f}%"></b></span>'
    )


def _quote(quote: Quote) -> str:
    told = f'title="{html.escape(quote.name)}: {wording.number(quote.score)}"'
    return f"{html.escape(quote.before)}<b {told}>{html.escape(quote.text)}</b>{html.escape(quote.after)}"


def _places(group: Group) -> str:
    """The map of positions, and the strongest pieces."""
    assert group.positions is not None
    full = float(np.abs(group.positions).max()) or 1.0
    signed = np.repeat(np.repeat(group.positions / full, CELL, axis=0), CELL, axis=1)
    drawn = image.tinted(np.full((*signed.shape, 3), image.BLANK, dtype=np.uint8), signed)
    caption = f"where on the picture: mean share of the magnitude, full colour {full:.1%} in a cell"
    positions = html.picture(drawn, f"strongest {strongest(group.positions)}", caption)
    crops = "".join(
        html.picture(crop.pixels, f"a piece of {crop.name}", f"{crop.name}: {crop.share:.1%}") for crop in group.crops
    )
    strong = f'<h3>The strongest patch of each picture</h3><div class="crops">{crops}</div>' if crops else ""
    return f"{positions}{strong}"

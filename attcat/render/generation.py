"""What a model wrote, and what each word of it came from: a list in the terminal, a page with words to hover over, a figure.

Each written word is coloured from its own strongest score, for a word that was certain has small scores everywhere: colours
compare what came before one word, not the words with each other. Special tokens set no scale: the first token, where attention
rests, often has more than all words together. Nor does a picture as a whole: its patches do, each for itself, so that they and
the words have one scale; among the words stands what the patches have together.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ..attribution import Attribution
from ..errors import InputError, visible
from ..files import encode_jpeg, encode_png
from ..tokens import Tokens, group_times, group_words
from . import html, image, mixed, terminal, wording
from .colour import AGAINST, DARK, FOR, LIGHT, css, largest, tint
from .plot import printed, table_size
from .plot import table as heat_table

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from PIL import Image
    from rich.console import Console

OWN_SCALE = (
    "Each written word is coloured from its own strongest score: colours compare sources, not the words written."
)
STRETCHES = 24
"""Into how many a sound is cut at most."""

STRONGEST = 5
"""Sources of a word that are named in the terminal."""


@dataclass(frozen=True)
class Unit:
    """A word, or a token that stands apart.

    Args:
        text: as it is shown.
        positions: its tokens.
        start: its first character; None for a token that has none.
        end: one past the last.
        special: whether it is no part of the text.
        picture: the number of the picture whose tokens these are, from 0; None for words.
    """

    text: str
    positions: list[int]
    start: int | None = None
    end: int | None = None
    special: bool = False
    picture: int | None = None

    @property
    def scales(self) -> bool:
        """Whether its score can be the strongest: not that of a special token, nor that of all patches together."""
        return not self.special and self.picture is None


@dataclass(frozen=True)
class Sheet:
    """What is drawn.

    Args:
        explanations: of the A written tokens.
        tokens: prompt and answer, `T`.
        start: position of the first written token.
        source: prompt and answer as text; None if it is not known.
    """

    explanations: Sequence[Attribution]
    tokens: Tokens
    start: int
    source: str | None

    def units(self) -> list[Unit]:
        """The words and the tokens apart, in the order of their first tokens; none is of the prompt and the answer both."""
        found, used = [], set()
        for _, start, end, positions in group_words(self.tokens, (self.source,)) if self.source is not None else []:
            parts = [part for part in self._split(positions) if part]
            edges = [start, *(self._begin(part[0]) for part in parts[1:]), end]
            for part, first, last in zip(parts, edges[:-1], edges[1:], strict=True):
                found.append(Unit((self.source or "")[first:last], part, first, last))
                used.update(part)
        found += self._pictures()
        for unit in self._moments():
            found.append(unit)
            used.update(unit.positions)
        used.update(at for at, place in enumerate(self.tokens.places or ()) if place is not None)
        labels = self.tokens.labels
        rest = [Unit(labels[at], [at], special=self.tokens.special[at]) for at in range(len(labels)) if at not in used]
        return sorted(found + rest, key=lambda unit: unit.positions[0])

    def _pictures(self) -> list[Unit]:
        """Each picture as one: all its tokens."""
        held: dict[int, list[int]] = {}
        for at, place in enumerate(self.tokens.places or ()):
            if place is not None:
                held.setdefault((self.tokens.patches or ())[place[0]].picture, []).append(at)
        name = wording.picture_name
        return [Unit(name(self.explanations[0], number), at, picture=number) for number, at in sorted(held.items())]

    def _moments(self) -> list[Unit]:
        """Stretches of a sound, of the same number of moments each, few enough to be read beside each other."""
        moments = [(time, at) for time, positions in group_times(self.tokens.times or ()) for at in positions]
        count = -(-len(moments) // STRETCHES)
        found = []
        for first in range(0, len(moments), max(1, count)):
            part = moments[first : first + count]
            start, end = part[0][0][0], max(time[1] for time, _ in part)
            found.append(Unit(f"{start:.2f} to {end:.2f} s", sorted(at for _, at in part)))
        return found

    def maps(self, rows: Sequence[Unit]) -> dict[int, Tensor]:
        """Of each picture that has a map the scores of its cells for every written unit, `[rows, down, across]`."""
        each = [dict(wording.maps(explanation)) for explanation in self.explanations]
        return {
            number: torch.stack(
                [torch.stack([each[at - self.start][number].grid for at in unit.positions]).sum(0) for unit in rows]
            )
            for number in each[0]
        }

    def _split(self, positions: list[int]) -> tuple[list[int], list[int]]:
        return [at for at in positions if at < self.start], [at for at in positions if at >= self.start]

    def _begin(self, position: int) -> int:
        span = (self.tokens.spans or ())[position]
        assert span is not None
        return span[0]

    def scores(self, units: Sequence[Unit], rows: Sequence[Unit]) -> Tensor:
        """Of every unit for every written one, summed over their tokens, `[rows, units]`."""
        matrix = torch.zeros(len(self.explanations), len(self.tokens))
        for row, explanation in zip(matrix, self.explanations, strict=True):
            row[: len(explanation.tokens)] = explanation.scores
        down = torch.stack([matrix[[at - self.start for at in unit.positions]].sum(0) for unit in rows])
        return torch.stack([down[:, unit.positions].sum(1) for unit in units], dim=1)

    def shares(self, units: Sequence[Unit], scores: Tensor) -> Tensor:
        """The strengths of units, -1 to 1, where no picture has a map."""
        return self.strengths(units, scores, {})[0]

    def strengths(
        self, units: Sequence[Unit], scores: Tensor, maps: dict[int, Tensor]
    ) -> tuple[Tensor, dict[int, Tensor]]:
        """The strengths of units and cells, -1 to 1, relative to the strongest of each row that sets the scale."""
        silent = torch.tensor([not unit.scales for unit in units])
        scale = scores.masked_fill(silent, 0.0).abs().amax(1, keepdim=True)
        for cells in maps.values():
            scale = torch.maximum(scale, cells.abs().flatten(1).amax(1, keepdim=True))

        def strength(values: Tensor) -> Tensor:
            full = scale.reshape(-1, *[1] * (values.dim() - 1))
            return torch.where(full > 0, values / full.clamp(min=1e-30), 0.0).clamp(-1, 1)

        return strength(scores), {number: strength(cells) for number, cells in maps.items()}

    def chance(self, unit: Unit) -> float | None:
        """The probability with which a written word was written: that of its tokens, one after another."""
        each = [self.explanations[at - self.start].probability for at in unit.positions]
        known = [chance for chance in each if chance is not None]
        return float(torch.tensor(known).prod()) if len(known) == len(each) else None


def shown(unit: Unit) -> str:
    """A unit's text where white space would not be seen."""
    return unit.text if unit.text.strip() else repr(unit.text)[1:-1]


def told(sheet: Sheet, unit: Unit) -> str:
    """A written word and how probable it was."""
    chance = sheet.chance(unit)
    return shown(unit) if chance is None else f"{shown(unit)} {chance:.1%}"


def notes(sheet: Sheet) -> list[str]:
    """Sentences that keep the reader from a wrong conclusion."""
    magnitude = torch.stack([explanation.scores.abs().sum() for explanation in sheet.explanations]).sum()
    special = sum(float(explanation.scores.abs()[explanation.special].sum()) for explanation in sheet.explanations)
    if not special or not magnitude:
        return [OWN_SCALE]
    return [
        OWN_SCALE,
        f"{special / float(magnitude):.1%} of the total magnitude fell on special tokens, which set no scale.",
    ]


# -- terminal --------------------------------------------------------------------------------------------------------


def show(
    explanations: Sequence[Attribution], tokens: Tokens, start: int, source: str | None, console: Console | None = None
) -> None:
    """Print what was written, and for each word of it the strongest sources, the strongest first."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = console or Console()
    colour = console.color_system is not None and not console.no_color
    sheet = Sheet(explanations, tokens, start, source)
    units = sheet.units()
    rows = [unit for unit in units if unit.positions[0] >= start]
    if source is not None:
        first = next((unit.start for unit in rows if unit.start is not None), len(source))
        console.print(Text.assemble(visible(source[:first]), (visible(source[first:]), "bold")))
    console.print(Text(visible(wording.origin(explanations[0])), "dim"))
    table = Table(box=None, pad_edge=False, show_header=False)
    for _ in range(2):
        table.add_column(overflow="fold")
    maps = sheet.maps(rows).values()
    for row, (unit, scores) in enumerate(zip(rows, sheet.scores(units, rows).tolist(), strict=True)):
        cells = [float(each[row].abs().max()) for each in maps]
        said = [index for index, column in enumerate(units) if scores[index] and not column.special]
        best = sorted(said, key=lambda index: -abs(scores[index]))[:STRONGEST]
        full = largest([0.0, *(scores[index] for index in said if units[index].scales), *cells])
        pieces = [terminal.piece(shown(units[index]), scores[index], full, colour) for index in best]
        table.add_row(Text(visible(told(sheet, unit)), "bold"), Text("  ").join(pieces))
    console.print(table)
    for note in notes(sheet):
        console.print(Text(note, "dim"))


# -- pages -----------------------------------------------------------------------------------------------------------

STYLE = """
.attcat .written{border-bottom:2px solid;cursor:pointer}
.attcat .written:hover,.attcat .written:focus,.attcat .written.now{outline:2px solid;outline-offset:1px}
.attcat .unit{border-radius:.2em;print-color-adjust:exact;-webkit-print-color-adjust:exact}
.attcat .apart{border:1px solid rgba(128,128,128,.5);border-radius:.4em;padding:0 .3em;margin-right:.2em;
font-size:.8em;opacity:.8}
.attcat .under{position:relative;overflow:hidden}
.attcat .under .ground{filter:grayscale(1) contrast(.8)}
.attcat .under .veil{position:absolute;max-width:none}
.attcat .heat{overflow:auto;max-height:80vh}
.attcat .heat td,.attcat .heat th{padding:.1em .3em;font-weight:400;white-space:nowrap;text-align:left}
.attcat .heat thead th{writing-mode:vertical-rl;transform:rotate(180deg)}
.attcat .heat td{min-width:1.2em;height:1.5em;border:1px solid rgba(128,128,128,.15);
print-color-adjust:exact;-webkit-print-color-adjust:exact}
"""

SCRIPT = """
(function(script){
var root=script.parentNode,units=root.querySelectorAll(".unit"),veils=root.querySelectorAll(".veil"),
written=root.querySelectorAll(".written"),
what=root.querySelector(".what"),start=what.textContent,pinned=null;
function tint(u,s){u.style.setProperty("--s",Math.abs(s)/100);u.style.background=s>0?"@for":"@against";}
function alpha(s){return @opacity*Math.pow(Math.max(0,(Math.abs(s)/100-@threshold)/(1-@threshold)),@power);}
function veil(image,cells){
var c=document.createElement("canvas"),x,d;c.width=image.dataset.columns;c.height=image.dataset.rows;
x=c.getContext("2d");d=x.createImageData(c.width,c.height);
cells.split(" ").forEach(function(s,i){d.data.set((s>0?[@light]:[@dark]).concat(Math.round(255*alpha(s))),4*i);});
x.putImageData(d,0,0);image.src=c.toDataURL();}
function show(word){
written.forEach(function(w){w.classList.toggle("now",w===word);});
var s=(word?word.dataset.s:what.dataset.s).split(" ");
units.forEach(function(u,i){tint(u,+s[i]);});
veils.forEach(function(image,i){
if(word)veil(image,word.dataset["map"+i]);else image.src=image.dataset.whole;});
what.textContent=word?word.title:start;}
veils.forEach(function(image){image.dataset.whole=image.src;});
written.forEach(function(word){
word.addEventListener("mouseenter",function(){show(word);});
word.addEventListener("focus",function(){show(word);});
word.addEventListener("mouseleave",function(){show(pinned);});
word.addEventListener("blur",function(){show(pinned);});
word.addEventListener("click",function(){pinned=pinned===word?null:word;show(pinned||word);});});
})(document.currentScript);
""".replace("@for", css(FOR)).replace("@against", css(AGAINST))
for _name, _value in {
    "opacity": image.OPACITY,
    "threshold": image.THRESHOLD,
    "power": image.POWER,
    "light": ",".join(map(str, LIGHT)),
    "dark": ",".join(map(str, DARK)),
}.items():
    SCRIPT = SCRIPT.replace(f"@{_name}", str(_value))

WHOLE = "the whole answer"
HOVER = "Each source's mean over the written words. Hover over a written word, or reach it with Tab, to see its own."


def page(explanations: Sequence[Attribution], tokens: Tokens, start: int, source: str | None) -> str:
    """A self-contained page: no network; a few lines of script colour what a word came from when it is hovered over."""
    body = _body(Sheet(explanations, tokens, start, source))
    return html.framed(body, "AttCAT: why this was written", html.STYLE + STYLE, SCRIPT)


def fragment(explanations: Sequence[Attribution], tokens: Tokens, start: int, source: str | None) -> str:
    """What a notebook shows."""
    return f"<style>{html.STYLE}{STYLE}</style>{_body(Sheet(explanations, tokens, start, source))}"


def _body(sheet: Sheet) -> str:
    units = sheet.units()
    rows = [unit for unit in units if unit.positions[0] >= sheet.start]
    scores = sheet.scores(units, rows)
    signed, maps = sheet.strengths(units, scores, sheet.maps(rows))
    origin = html.escape(wording.origin(sheet.explanations[0]))
    words = [not row.special for row in rows]  # the end of the text is written, too, and not what the answer says
    counted = words if any(words) else [True] * len(rows)
    means = {number: cells[counted].mean(0, keepdim=True) for number, cells in maps.items()}
    mean, together = sheet.strengths(units, signed[counted].mean(0, keepdim=True), means)
    whole = mean[0].tolist()
    parts = [
        f'<p class="origin">{origin}</p>',
        f'<p><span class="label what" data-s="{_hundredths(whole)}">{WHOLE}</span></p>',
        f'<p class="origin">{HOVER}</p>',
        *(_picture(sheet, number, cells[0]) for number, cells in together.items()),
        f'<div class="text" dir="auto">{_text(sheet, units, rows, signed, whole, maps)}</div>',
        f'<p class="key">{html.mark("speaks against it", -1.0)}{html.mark("speaks for it", 1.0)}</p>',
        *(f"<p>{html.escape(note)}</p>" for note in notes(sheet)),
        _heat(sheet, units, rows, scores, signed),
        f"<script>{SCRIPT}</script>",
    ]
    return f'<div class="attcat">{"".join(parts)}</div>'


def _hundredths(signed: Sequence[float]) -> str:
    return " ".join(str(round(100 * value)) for value in signed)


def _picture(sheet: Sheet, number: int, cells: Tensor) -> str:
    """A picture in grey, and on it a map as a small picture of its own, which the script exchanges."""
    part = image.sized(dict(wording.maps(sheet.explanations[0]))[number], html.WIDEST)
    view, (left, top, right, bottom) = part.view, part.view.box
    ground = part.source if isinstance(part.source, np.ndarray) else np.full((view.height, view.width, 3), image.BLANK)
    rows, columns = cells.shape
    place = (
        f"left:{left / view.width:.4%};top:{top / view.height:.4%};"
        f"width:{(right - left) / view.width:.4%};height:{(bottom - top) / view.height:.4%}"
    )
    address = f"data:image/png;base64,{base64.b64encode(encode_png(mixed.veil(cells.numpy()))).decode()}"
    photo = f"data:image/jpeg;base64,{base64.b64encode(encode_jpeg(ground.astype(np.uint8))).decode()}"
    name = html.escape(f"{wording.picture_name(sheet.explanations[0], number)}, and where on it the answer came from")
    size = f'width="{view.width}" height="{view.height}"'
    return (
        f'<div class="pictures"><figure><div class="under"><img class="ground" src="{photo}" {size} alt="{name}">'
        f'<img class="veil" src="{address}" data-rows="{rows}" data-columns="{columns}" style="{place}" alt=""></div>'
        "</figure></div>"
    )


def _text(
    sheet: Sheet,
    units: list[Unit],
    rows: list[Unit],
    signed: Tensor,
    whole: Sequence[float],
    maps: dict[int, Tensor],
) -> str:
    """The text, each word a unit; what has no characters stands in its place as a frame."""
    parts, reached, row = [], 0, 0
    for unit, share in zip(units, whole, strict=True):
        begin, end = (reached, reached) if unit.start is None or unit.end is None else (unit.start, unit.end)
        begin = max(begin, reached)
        if sheet.source is not None:
            parts.append(html.escape(sheet.source[reached:begin]))
        written = unit.positions[0] >= sheet.start
        inside = unit.text if unit.start is None else (sheet.source or "")[begin:end]
        names = ["unit", *(["written"] if written else []), *(["apart"] if unit.start is None else [])]
        more = ""
        if written:
            name = html.escape(told(sheet, unit))
            more = f' tabindex="0" title="{name}" data-s="{_hundredths(signed[row].tolist())}"'
            for place, cells in enumerate(maps.values()):
                more += f' data-map{place}="{_hundredths(cells[row].flatten().tolist())}"'
            row += 1
        parts.append(f'<span class="{" ".join(names)}" style="{tint(share)}"{more}>{html.escape(inside)}</span>')
        reached = max(reached, end)
    if sheet.source is not None:
        parts.append(html.escape(sheet.source[reached:]))
    return "".join(parts)


def _heat(sheet: Sheet, units: list[Unit], rows: list[Unit], scores: Tensor, signed: Tensor) -> str:
    """A row for each written word, a column for each word before it; special tokens have none."""
    head = "".join(f'<th scope="col">{html.escape(shown(unit))}</th>' for unit in units if not unit.special)
    lines = []
    for unit, values, shares in zip(rows, scores.tolist(), signed.tolist(), strict=True):
        cells = "".join(
            f'<td style="{tint(share)}" title="{html.escape(shown(column))} {wording.number(value)}"></td>'
            if column.positions[0] < unit.positions[-1]
            else "<td></td>"
            for column, value, share in zip(units, values, shares, strict=True)
            if not column.special
        )
        lines.append(f'<tr><th scope="row">{html.escape(told(sheet, unit))}</th>{cells}</tr>')
    table = f"<table><thead><tr><th></th>{head}</tr></thead><tbody>{''.join(lines)}</tbody></table>"
    return f'<details open><summary>heat table</summary><div class="heat">{table}</div></details>'


# -- figure ----------------------------------------------------------------------------------------------------------

CELL, COLUMNS, ROWS = 26, 60, 60
"""Pixels of a cell, and the most words that are drawn."""


def figure(explanations: Sequence[Attribution], tokens: Tokens, start: int, source: str | None) -> Image.Image:
    """The heat table as a picture.

    Raises:
        InputError: if there are more words than a picture holds.
    """
    import numpy as np
    from PIL import Image

    sheet = Sheet(explanations, tokens, start, source)
    every = sheet.units()
    rows = [unit for unit in every if unit.positions[0] >= start]
    units = [unit for unit in every if not unit.special]
    if len(units) > COLUMNS or len(rows) > ROWS:
        raise InputError(
            f"{len(rows)} x {len(units)} words do not fit in a picture ({ROWS} x {COLUMNS}): save it as .html"
        )
    scores = sheet.scores(units, rows)
    signed = sheet.strengths(units, scores, sheet.maps(rows))[0].numpy()
    side, head = 150, 110
    columns = image.beside([_upright(shown(unit), head) for unit in units], gap=0)
    lines = [image.line(told(sheet, unit), side, size=14, right=True) for unit in rows]
    names = image.stack([image.framed(one, 4).crop((0, 0, side + 8, CELL)) for one in lines], gap=0)
    ground = np.full((len(rows) * CELL, len(units) * CELL, 3), image.PAPER, dtype=np.uint8)
    ground[::CELL] = ground[:, ::CELL] = image.BLANK
    cells = Image.fromarray(image.tinted(ground, np.kron(signed, np.ones((CELL, CELL)))))
    corner = Image.new("RGB", (names.width, head), image.PAPER)
    table = image.stack([image.beside([corner, columns], gap=0), image.beside([names, cells], gap=0)], gap=0)
    width = max(table.width, 480)
    told_below = [
        image.line(text, width, size=14, ink=image.PALE) for note in notes(sheet) for text in image.wrap(note, width)
    ]
    origin = image.line(wording.origin(explanations[0]), width, size=14, ink=image.PALE)
    return image.framed(image.stack([origin, table, *told_below], gap=8))


def plot(
    explanations: Sequence[Attribution], tokens: Tokens, start: int, source: str | None, ax: Axes | None = None
) -> Axes:
    """The heat table with matplotlib: a row for each written word, a column for each word before it.

    Raises:
        InputError: if matplotlib is not installed.
    """
    sheet = Sheet(explanations, tokens, start, source)
    every = sheet.units()
    rows = [unit for unit in every if unit.positions[0] >= start]
    units = [unit for unit in every if not unit.special]
    strengths = sheet.strengths(units, sheet.scores(units, rows), sheet.maps(rows))[0].numpy()
    return heat_table(strengths, [told(sheet, unit) for unit in rows], [shown(unit) for unit in units], ax)


def pdf(explanations: Sequence[Attribution], tokens: Tokens, start: int, source: str | None) -> bytes:
    """The heat table as the content of a PDF file.

    Raises:
        InputError: if matplotlib is not installed.
    """
    sheet = Sheet(explanations, tokens, start, source)
    units = sheet.units()
    size = table_size(sum(one.positions[0] >= start for one in units), sum(not one.special for one in units))
    return printed(lambda ax: plot(explanations, tokens, start, source, ax), size, "constrained")


def _upright(text: str, height: int) -> Image.Image:
    """A word that is read from below, in the width of a cell."""
    from PIL import Image

    strip = image.line(text, height - 6, size=14).rotate(90, expand=True)
    cell = Image.new("RGB", (CELL, height), image.PAPER)
    cell.paste(strip, ((CELL - strip.width) // 2, 0))
    return cell

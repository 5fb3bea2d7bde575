"""The terminal: highlighted words, or a small picture made of half blocks; and the same in plain characters.

Strings that come from outside (texts, labels, names) are drawn as they are: rich's markup is not interpreted in them,
and control characters, which could steer the terminal, are shown as the symbols that stand for them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..attribution import Attribution
from ..errors import InputError, visible
from ..tokens import Waveform
from . import wording
from .colour import FAINT, GREY, hue, mix, readable_on, strength
from .image import overlay, sized
from .media import strongest_group
from .wording import Piece

if TYPE_CHECKING:
    from rich.console import Console
    from rich.style import Style
    from rich.text import Text

TOLD = 0.25
"""From this strength on a word has a coloured ground; without colour, it carries its score in brackets."""

LINE = 1_000_000
"""Columns of a line that is not cut."""

WIDEST = 56
"""Columns, and twice the lines, of a picture in the terminal."""


def show(explanation: Attribution, console: Console | None = None) -> None:
    """Print an explanation; without a terminal, or under NO_COLOR, in plain characters."""
    from rich.console import Console
    from rich.text import Text

    console = console or Console()
    colour = console.color_system is not None and not console.no_color
    parts = [_header(explanation), Text()]
    if explanation.is_video:
        frame = (explanation.tokens.frames or ())[strongest_group(explanation)][0]
        one = explanation.of_frame(frame)
        coloured = colour and _pixels(console)
        drawn = picture(one, min(console.width, WIDEST)) if coloured else letters(one)
        parts += [Text(f"frame {frame}, the strongest; {wording.gist(explanation)}"), drawn]
        parts += [Text(), _key(explanation, colour)] if coloured else []
    elif explanation.is_sound:
        parts += [*strip(explanation, min(console.width, STRIP), colour), Text(), _key(explanation, colour)]
    elif explanation.is_mixed:
        parts += [*_both(explanation, console, colour), Text(), _key(explanation, colour, pixels=colour)]
    elif not explanation.is_image:
        parts += [*_passages(explanation, colour), Text(), _key(explanation, colour)]
    elif _pixels(console) and colour:
        parts += [picture(explanation, min(console.width, WIDEST)), Text(), _key(explanation, colour, pixels=True)]
    else:
        parts += [letters(explanation)]
    for part in [*parts, *_below(explanation, colour)]:
        # What is piped to a file keeps its own line ends; only a terminal has a width to wrap at.
        console.print(part, soft_wrap=not console.is_terminal)


def _pixels(console: Console) -> bool:
    """Whether a terminal has enough colours for pixels."""
    return console.color_system in ("256", "truecolor")


def highlight(explanation: Attribution, width: int | None = None, *, colour: bool = True) -> Text:
    """The original text, its words coloured by their scores.

    Args:
        explanation: of a text.
        width: put everything on one line (line ends and tabs become spaces) and cut it with an ellipsis to so many
            terminal columns. None leaves the text as it is, character for character, over as many lines as it has.
        colour: False writes the scores of the strongest words after them, as `gripping(+0.42)`.

    Returns:
        the text; the two of a pair on lines of their own (with `width`, a bar between them). Where the words are not
        known the tokens stand in a row.

    Raises:
        InputError: if the input was a picture.
    """
    from rich.text import Text

    if explanation.is_image:
        raise InputError("this Explanation is of a picture: there are no words to highlight, use show() or to_image()")
    joint = "\n" if width is None else " | "
    text = Text(joint).join(_texts(explanation, colour))
    if width is not None:
        text.plain = "".join(" " if character.isspace() else character for character in text.plain)
        text.truncate(max(1, width), overflow="ellipsis")
    return text


def _both(explanation: Attribution, console: Console, colour: bool) -> list[Text]:
    """How the magnitude is divided, then each picture, then the words, on one scale."""
    from rich.text import Text

    full, parts = wording.scale(explanation), [Text(wording.shares(explanation)), Text()]
    for number, part in wording.maps(explanation):
        coloured = colour and _pixels(console)
        name = [Text(wording.picture_name(explanation, number), "bold")] if explanation.pictures > 1 else []
        drawn = picture(part, min(console.width, WIDEST), full) if coloured else letters(part, full)
        parts += [*name, drawn, Text()]
    return parts + _passages(explanation, colour)


def picture(explanation: Attribution, columns: int, full: float | None = None) -> Text:
    """The overlay in half blocks, two pixels to a character."""
    from rich.color import Color
    from rich.style import Style
    from rich.text import Text

    pixels = overlay(sized(explanation, columns, columns, thinnest=1), full)
    text = Text(no_wrap=True)
    for row in range(0, len(pixels), 2):
        for column in range(pixels.shape[1]):
            upper = Color.from_rgb(*pixels[row, column].tolist())
            last = row + 1 == len(pixels)
            lower = None if last else Color.from_rgb(*pixels[row + 1, column].tolist())
            text.append("▀", Style(color=upper, bgcolor=lower))
        text.append("\n")
    text.rstrip()
    return text


def letters(explanation: Attribution, full: float | None = None) -> Text:
    """The grid of patches in signs: what is left of a heatmap without colours."""
    from rich.text import Text

    full = wording.scale(explanation) if full is None else full
    signed = explanation.grid.numpy() / full if full else np.zeros(explanation.grid.shape)
    marks = {0: " ·", 1: " +", 2: "++", 3: "##", -1: " -", -2: "--", -3: "=="}
    # Quarters of the scale: below the first nothing is said.
    steps = (np.sign(signed) * np.minimum(3, np.floor(np.abs(signed) * 4))).astype(int)
    lines = ["".join(f"{marks[int(step)]} " for step in row).rstrip() for row in steps]
    against, supports = (visible(side) for side in wording.sides(explanation))
    key = f"+ ++ ## {supports}   - -- == {against}   full strength = {wording.number(full)[1:]}"
    return Text("\n".join([*lines, "", key, visible(wording.strongest(explanation))]), no_wrap=True)


def strip(explanation: Attribution, columns: int, colour: bool) -> list[Text]:
    """A sound from left to right: how loud it is, coloured by the scores; below, signs for them where there are no colours."""
    from rich.text import Text

    segments = explanation.segments()
    sound = explanation.source if isinstance(explanation.source, Waveform) else None
    seconds = sound.seconds if sound is not None else segments[-1].end
    edges = np.linspace(0, seconds, columns + 1)
    middles = np.array([(segment.start + segment.end) / 2 for segment in segments])
    place = np.clip(np.digitize(middles, edges) - 1, 0, columns - 1)
    sums = np.bincount(place, [segment.score for segment in segments], columns)
    full = float(np.abs(sums).max())
    levels = np.full(columns, 4)
    if sound is not None:
        parts = np.array_split(np.abs(sound.samples), columns)
        loud = np.array([part.max() if len(part) else 0.0 for part in parts])
        levels = np.ceil(loud / (loud.max() or 1.0) * 7).astype(int)
    text = Text(no_wrap=True)
    for level, score in zip(levels, sums, strict=True):
        text.append("▁▂▃▄▅▆▇█"[level], _style(strength(score, full)) if colour else None)
    steps = np.sign(sums) * np.floor(np.abs(sums) / (full or 1.0) * 3.999)
    marks = Text("".join(_MARKS[int(step)] for step in steps).rstrip(), no_wrap=True)
    scale = Text(f"0 s{f'{seconds:.2f} s':>{max(1, columns - 3)}}", no_wrap=True)
    return [text, *([] if colour else [marks]), scale, Text(wording.gist(explanation))]


STRIP = 100
"""Columns of a sound at most."""
_MARKS = {0: " ", 1: "+", 2: "+", 3: "#", -1: "-", -2: "-", -3: "="}


def _style(signed: float, marked: bool = False) -> Style | None:
    """Weak: coloured letters. Strong: a ground from greyish to the pure hue. Both show on light and on dark.

    What the prediction is about is underlined.
    """
    from rich.color import Color
    from rich.style import Style

    underline = Style(underline=True, bold=True) if marked else None
    if abs(signed) < FAINT:
        return underline
    if abs(signed) < TOLD:
        return Style(color=Color.from_rgb(*hue(signed))) + underline
    ground = mix(GREY, hue(signed), abs(signed))
    return Style(color=Color.from_rgb(*readable_on(ground)), bgcolor=Color.from_rgb(*ground)) + underline


def _pieces(pieces: list[Piece], colour: bool) -> Text:
    from rich.text import Text

    text = Text()
    for piece in pieces:
        text.append(visible(piece.text), _style(piece.strength, piece.marked) if colour else None)
        if not colour and piece.score is not None and abs(piece.strength) >= TOLD:
            text.append(f"({wording.number(piece.score)})")
    return text


def piece(text: str, score: float, full: float, colour: bool) -> Text:
    """A word with its score, coloured by its share of `full`."""
    from rich.text import Text

    style = _style(strength(score, full)) if colour else None
    return Text.assemble((visible(text), style or ""), f" {wording.number(score)}")


def _row(pieces: list[Piece], colour: bool) -> Text:
    """Tokens that stand apart, each with its score."""
    from rich.text import Text

    chips = []
    for piece in pieces:
        score = wording.number(piece.score or 0.0)
        style = _style(piece.strength) if colour else None
        chips.append(Text.assemble((visible(piece.text), style or ""), f" {score}"))
    return Text("  ").join(chips)


def _texts(explanation: Attribution, colour: bool) -> list[Text]:
    """One Text per input string."""
    from rich.text import Text

    if wording.has_words(explanation):
        return [_pieces(pieces, colour) for pieces in wording.passages(explanation)]
    return [Text(" ").join(_pieces([piece], colour) for piece in wording.chips(explanation))]


def _passages(explanation: Attribution, colour: bool) -> list[Text]:
    from rich.text import Text

    texts = _texts(explanation, colour)
    if len(texts) == 1:
        return texts
    return [
        part
        for name, text in zip(wording.names(explanation), texts, strict=True)
        for part in (Text(name, "bold"), text)
    ]


def _header(explanation: Attribution) -> Text:
    from rich.text import Text

    text = Text(visible(wording.headline(explanation)), "bold")
    correction = wording.correction(explanation)
    if correction:
        text.append(f"   {visible(correction)}", "not bold")
    text.append(f"\n{visible(wording.origin(explanation))}", "not bold dim")
    return text


def _key(explanation: Attribution, colour: bool, *, pixels: bool = False) -> Text:
    """What the colours mean, and what full strength is."""
    from rich.text import Text

    against, supports = (visible(side) for side in wording.sides(explanation))
    full = wording.scale(explanation)
    if colour:
        text = Text.assemble((f" {against} ", _style(-1.0) or ""), " ", (f" {supports} ", _style(1.0) or ""))
    else:
        text = Text(
            f"(+) {supports}   (-) {against}   {wording.unit(explanation)[1]} from {TOLD:.0%} of the strongest are marked"
        )
    if full:
        text.append(f"   full {'colour' if colour else 'strength'} = {wording.number(full)[1:]}")
    if pixels and wording.has_blind_area(explanation):
        text.append("   dark stripes = not seen by the model")
    return text


def _below(explanation: Attribution, colour: bool) -> list[Text]:
    """The tokens that stand apart, and the notes."""
    from rich.text import Text

    apart = wording.apart(explanation)
    return ([_row(apart, colour)] if apart else []) + [Text(visible(note)) for note in wording.notes(explanation)]

"""Words and pictures of one sequence: each picture with its map, below them the words with theirs, on one scale."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from ..attribution import Attribution
from ..errors import InputError
from . import image, wording
from .colour import FAINT, FULL, WHITE, hue, mix
from .image import INK, LONGEST, PLAIN, Look

if TYPE_CHECKING:
    from PIL import Image

SIZE, GAP = 18, 4
"""Of the words in a figure, and between their lines, in pixels."""

LINES = 40
"""Lines of words that a figure holds."""


def figure(explanation: Attribution, look: Look = PLAIN, longest: int = LONGEST) -> Image.Image:
    """Each picture and beside it its map, the words below, and one legend.

    Args:
        explanation: of words and pictures in one sequence.
        look: how the maps are drawn; also of the words only those that speak for the class, if `positive`.
        longest: a panel's width and height are at most so many pixels.

    Raises:
        InputError: if the pictures' pixels are not known, or there are more words than fit.
    """
    full = wording.scale(explanation)
    rows = []
    for number, part in wording.maps(explanation):
        small, shown = image.panels_of(part, longest)
        name = wording.picture_name(explanation, number)
        panels = [
            image.panel(shown, name),
            image.panel(image.overlay(small, full, look), wording.coloured(part, look.positive)),
        ]
        wide = shown.shape[1] > 1.6 * shown.shape[0]
        rows.append(image.stack(panels, gap=10) if wide else image.beside(panels, gap=16))
    width = max([480, *(row.width for row in rows)])
    text = words(explanation, full, width, look)
    parts = [image.heading(explanation, width), *rows, *text, image.legend(explanation, width, look)]
    return image.framed(image.stack(parts, gap=14))


class Placed(NamedTuple):
    """A word in its line.

    Args:
        text: as it is drawn.
        x: its left edge, in pixels.
        y: its top.
        width: of the text.
        strong: its strength, -1 to 1; 0 if it has no score, or none that is shown.
    """

    text: str
    x: float
    y: int
    width: float
    strong: float


HEIGHT = round(SIZE * 1.3)
"""Of a line of words."""


def laid_out(explanation: Attribution, full: float, width: int, look: Look) -> list[Placed]:
    """The words in lines of this width; none if they are not known.

    Raises:
        InputError: if there are more lines than a figure holds.
    """
    if not wording.has_words(explanation):
        return []
    font, found = image.font_of(SIZE), []
    x, y = 0.0, 0
    for piece in wording.passages(explanation, full)[0]:
        for part in re.findall(r"\s+|\S+", piece.text) if piece.score is None else [piece.text]:
            if part.isspace():
                x += font.getlength(" ")
                continue
            text = image.fitted(part, width, SIZE)
            wide = font.getlength(text)
            if x and x + wide > width:
                x, y = 0.0, y + HEIGHT + GAP
            if y + HEIGHT > LINES * (HEIGHT + GAP):
                raise InputError(f"a figure holds {LINES} lines of words, and there are more: save it as .html")
            strong = max(0.0, piece.strength) if look.positive else piece.strength
            found.append(Placed(text, x, y, wide, strong if abs(strong) >= FAINT else 0.0))
            x += wide
    return found


def words(explanation: Attribution, full: float, width: int, look: Look = PLAIN) -> list[Image.Image]:
    """The text in lines, each word on a ground of its colour, underlined if it speaks against the class; none if it is not known.

    Raises:
        InputError: if there are more lines than a figure holds.
    """
    from PIL import Image, ImageDraw

    placed = laid_out(explanation, full, width, look)
    if not placed:
        return []
    sheet = Image.new("RGB", (width, placed[-1].y + HEIGHT + GAP), image.PAPER)
    draw = ImageDraw.Draw(sheet)
    for word in placed:
        if word.strong:
            box = (round(word.x), word.y, round(word.x + word.width), word.y + HEIGHT)
            draw.rectangle(box, fill=mix(WHITE, hue(word.strong), FULL * abs(word.strong)))
            if word.strong < 0:
                draw.line((box[0], box[3], box[2], box[3]), fill=hue(word.strong), width=2)
        draw.text((word.x, word.y), word.text, font=image.font_of(SIZE), fill=INK)
    return [sheet]


def veil(signed: np.ndarray) -> np.ndarray:
    """Strengths `[rows, columns]`, -1 to 1, as colours that are laid over a grey picture, uint8 `[rows, columns, 4]`."""
    colours = np.where(signed[..., None] > 0, np.array(image.LIGHT), np.array(image.DARK))
    alpha = np.round(255 * image.opacity(signed))[..., None]
    return np.concatenate([colours, alpha], axis=2).astype(np.uint8)

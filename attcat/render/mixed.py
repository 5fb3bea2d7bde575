"""Words and pictures of one sequence: each picture with its map, below them the words with theirs, on one scale."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

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
        panels = [image.panel(shown, name), image.panel(image.overlay(small, full, look), image.caption(look))]
        wide = shown.shape[1] > 1.6 * shown.shape[0]
        rows.append(image.stack(panels, gap=10) if wide else image.beside(panels, gap=16))
    width = max([480, *(row.width for row in rows)])
    words = _words(explanation, full, width, look)
    parts = [image.heading(explanation, width), *rows, *words, image.legend(explanation, width, look)]
    return image.framed(image.stack(parts, gap=14))


def _words(explanation: Attribution, full: float, width: int, look: Look) -> list[Image.Image]:
    """The text in lines, each word on a ground of its colour, underlined if it speaks against the class."""
    from PIL import Image, ImageDraw

    if not wording.has_words(explanation):
        return []
    font, height = image.font_of(SIZE), round(SIZE * 1.3)
    sheet = Image.new("RGB", (width, LINES * (height + GAP)), image.PAPER)
    draw, x, y = ImageDraw.Draw(sheet), 0.0, 0
    for piece in wording.passages(explanation, full)[0]:
        for part in re.findall(r"\s+|\S+", piece.text) if piece.score is None else [piece.text]:
            if part.isspace():
                x += font.getlength(" ")
                continue
            text = image.fitted(part, width, SIZE)
            wide = font.getlength(text)
            if x and x + wide > width:
                x, y = 0.0, y + height + GAP
            if y + height > sheet.height:
                raise InputError(f"a figure holds {LINES} lines of words, and there are more: save it as .html")
            strong = max(0.0, piece.strength) if look.positive else piece.strength
            if abs(strong) >= FAINT:
                box = (round(x), y, round(x + wide), y + height)
                draw.rectangle(box, fill=mix(WHITE, hue(strong), FULL * abs(strong)))
                if strong < 0:
                    draw.line((box[0], box[3], box[2], box[3]), fill=hue(strong), width=2)
            draw.text((x, y), text, font=font, fill=INK)
            x += wide
    return [sheet.crop((0, 0, width, y + height + GAP))]


def veil(signed: np.ndarray) -> np.ndarray:
    """Strengths `[rows, columns]`, -1 to 1, as colours that are laid over a grey picture, uint8 `[rows, columns, 4]`."""
    colours = np.where(signed[..., None] > 0, np.array(image.LIGHT), np.array(image.DARK))
    alpha = np.round(255 * image.opacity(signed))[..., None]
    return np.concatenate([colours, alpha], axis=2).astype(np.uint8)

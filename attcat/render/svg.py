"""A figure as SVG: text stays text, the panels are pixels inside the file."""

from __future__ import annotations

import base64

import numpy as np

from ..attribution import Attribution
from ..files import encode_jpeg, encode_png
from . import wording
from .colour import FULL, RGB, WHITE, hue, mix
from .html import escape
from .image import INK, PALE, PLAIN, Look, looks, overlay, panels_of, ramp, wrap
from .media import caption as media_caption
from .media import is_media, panel
from .mixed import HEIGHT, SIZE, laid_out

MARGIN, GAP, BAR = 16, 16, 18


def svg(explanation: Attribution, look: Look = PLAIN) -> str:
    """The figure as the text of an SVG file, which needs nothing from outside.

    Args:
        explanation: of a picture, a sound, a video, or words and pictures.
        look: how the heatmap is drawn.

    Raises:
        InputError: as `image.figure`.
    """
    rows = _rows(explanation, look)
    whole = max([480, *(_extent(row)[0] for row in rows)])
    told = [(wording.headline(explanation), 24, INK), (wording.correction(explanation) or "", 16, INK)]
    told += [(line, 14, PALE) for line in wrap(wording.origin(explanation), whole)]
    parts, y = _lines(told, MARGIN)
    for row in rows:
        for (left, top), (pixels, kind, name) in zip(_places(row), row, strict=True):
            height, width = pixels.shape[:2]
            data = encode_jpeg(pixels) if kind == "jpeg" else encode_png(pixels)
            address = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
            place = f'x="{MARGIN + left}" y="{y + top}" width="{width}" height="{height}"'
            parts += [f'<image {place} href="{address}"/>', _text(name, MARGIN + left, y + top + height + 17, 14, PALE)]
        y += _extent(row)[1] + 30
    if explanation.is_mixed:
        words, y = _words(explanation, whole, y, look)
        parts += words
    legend, y = _legend(explanation, whole, y + 14)
    shares = [wording.shares(explanation)] if explanation.is_mixed else []
    notes = [line for note in (*shares, *looks(look), *wording.notes(explanation)) for line in wrap(note, whole)]
    below, y = _lines([(line, 14, PALE) for line in notes], y)
    size = f'width="{whole + 2 * MARGIN}" height="{y + MARGIN}" viewBox="0 0 {whole + 2 * MARGIN} {y + MARGIN}"'
    body = "\n".join([*parts, *legend, *below])
    title = f"<title>{escape(_plain(wording.headline(explanation)))}</title>"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="system-ui,sans-serif">\n{title}\n'
        f'<rect width="100%" height="100%" fill="#fff"/>\n{body}\n</svg>\n'
    )


Panel = tuple[np.ndarray, str, str]
"""Pixels, their format, and what stands under them."""


def _rows(explanation: Attribution, look: Look) -> list[list[Panel]]:
    """Of a picture two panels, of a sound or a video one; of words and pictures two for each picture."""
    if is_media(explanation):
        return [[(panel(explanation, look=look), "png", media_caption(explanation, look))]]
    if not explanation.is_mixed:
        small, source = panels_of(explanation)
        return [
            [
                (source, "jpeg", "input"),
                (overlay(small, look=look), "png", wording.coloured(explanation, look.positive)),
            ]
        ]
    full, found = wording.scale(explanation), []
    for number, part in wording.maps(explanation):
        small, source = panels_of(part)
        name = wording.picture_name(explanation, number)
        found.append(
            [(source, "jpeg", name), (overlay(small, full, look), "png", wording.coloured(part, look.positive))]
        )
    return found


def _places(row: list[Panel]) -> list[tuple[int, int]]:
    """Left and top of each panel: beside each other, or below, where they are wide (as in `image.figure`)."""
    height, width = row[0][0].shape[:2]
    below = width > 1.6 * height
    return [(0, at * (height + 30)) if below else (at * (width + GAP), 0) for at in range(len(row))]


def _extent(row: list[Panel]) -> tuple[int, int]:
    """Width and height of a row of panels, without what stands under the lowest."""
    height, width = row[0][0].shape[:2]
    left, top = _places(row)[-1]
    return left + width, top + height


def _words(explanation: Attribution, width: int, y: int, look: Look) -> tuple[list[str], int]:
    """The words in lines, on grounds of their colours and underlined if they speak against the class, and where they end."""
    parts, words = [], laid_out(explanation, wording.scale(explanation), width, look)
    for word in words:
        left, top = round(MARGIN + word.x, 1), y + word.y
        if word.strong:
            ground = _css(mix(WHITE, hue(word.strong), FULL * abs(word.strong)))
            place = f'x="{left}" y="{top}" width="{word.width:.1f}" height="{HEIGHT}"'
            parts.append(f'<rect {place} fill="{ground}"/>')
            if word.strong < 0:
                line = f'x="{left}" y="{top + HEIGHT - 2}" width="{word.width:.1f}" height="2"'
                parts.append(f'<rect {line} fill="{_css(hue(word.strong))}"/>')
        extent = f'textLength="{word.width:.1f}" lengthAdjust="spacingAndGlyphs"'  # whatever font the reader has
        parts.append(
            f'<text x="{left}" y="{top + SIZE}" font-size="{SIZE}" fill="{_css(INK)}" {extent}>{escape(_plain(word.text))}</text>'
        )
    return parts, y + words[-1].y + HEIGHT + 2 * GAP if words else y


def _legend(explanation: Attribution, width: int, y: int) -> tuple[list[str], int]:
    """The colour bar between what its ends mean and their numbers, and where it ends."""
    full = wording.scale(explanation)
    stops = "".join(f'<stop offset="{at / 32:.3f}" stop-color="{_css(c)}"/>' for at, c in enumerate(ramp(33)))
    against, supports = wording.sides(explanation)
    beyond = {"≤ ": -full, "≥ ": full} if wording.clipped(explanation) else {"": -full, " ": full}
    low, high = (f"{sign.strip()} {wording.number(value)}".strip() for sign, value in beyond.items())
    right, middle = MARGIN + width, MARGIN + width // 2
    parts = [
        f'<defs><linearGradient id="scale">{stops}</linearGradient></defs>',
        _text(against, MARGIN, y, 15, INK),
        _text(supports, right, y, 15, INK, "end"),
        f'<rect x="{MARGIN}" y="{y + 8}" width="{width}" height="{BAR}" fill="url(#scale)"/>',
        _text(low, MARGIN, y + BAR + 24, 14, INK),
        _text("0", middle, y + BAR + 24, 14, INK, "middle"),
        _text(high, right, y + BAR + 24, 14, INK, "end"),
    ]
    if not wording.has_blind_area(explanation):
        return parts, y + BAR + 32
    return [*parts, _text("striped: not seen by the model", MARGIN, y + BAR + 44, 14, INK)], y + BAR + 52


def _lines(told: list[tuple[str, int, RGB]], y: int) -> tuple[list[str], int]:
    """Lines of text under one another, from `y` on, and where they end."""
    parts = []
    for text, size, ink in told:
        if text:
            parts.append(_text(text, MARGIN, y + size, size, ink))
            y += round(size * 1.4)
    return parts, y + 8


def _text(text: str, x: int, y: int, size: int, ink: RGB, anchor: str = "start") -> str:
    place = f'x="{x}" y="{y}" font-size="{size}" fill="{_css(ink)}" text-anchor="{anchor}"'
    return f"<text {place}>{escape(_plain(text))}</text>"


def _plain(text: str, longest: int = 400) -> str:
    """On one line, without the characters that XML has no place for."""
    text = "".join(c if c.isprintable() else " " for c in text[: longest + 1])
    text = " ".join(text.encode("utf-8", "replace").decode().split())
    return text if len(text) <= longest else f"{text[:longest]}…"


def _css(colour: tuple[int, ...]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*colour)

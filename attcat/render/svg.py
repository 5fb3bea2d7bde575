"""A figure as SVG: text stays text, the panels are pixels inside the file."""

from __future__ import annotations

import base64

import numpy as np

from ..attribution import Attribution
from ..files import encode_jpeg, encode_png
from . import wording
from .colour import RGB
from .html import escape
from .image import INK, PALE, PLAIN, Look, caption, looks, overlay, panels_of, ramp, wrap
from .media import caption as media_caption
from .media import is_media, panel

MARGIN, GAP, BAR = 16, 16, 18


def svg(explanation: Attribution, look: Look = PLAIN) -> str:
    """The figure as the text of an SVG file, which needs nothing from outside.

    Args:
        explanation: of a picture, a sound or a video.
        look: how the heatmap is drawn.

    Raises:
        InputError: as `image.figure`.
    """
    pictures = _panels(explanation, look)
    height, width = pictures[0][0].shape[:2]
    wide = width > 1.6 * height  # as in `image.figure`
    places = [(0, 0), (0, height + 30)] if wide else [(0, 0), (width + GAP, 0)]
    places = places[: len(pictures)]
    whole = max(places[-1][0] + width, 480)
    told = [(wording.headline(explanation), 24, INK), (wording.correction(explanation) or "", 16, INK)]
    told += [(line, 14, PALE) for line in wrap(wording.origin(explanation), whole)]
    parts, y = _lines(told, MARGIN)
    for (left, top), (pixels, kind, name) in zip(places, pictures, strict=True):
        data = encode_jpeg(pixels) if kind == "jpeg" else encode_png(pixels)
        address = f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
        place = f'x="{MARGIN + left}" y="{y + top}" width="{width}" height="{height}"'
        parts += [f'<image {place} href="{address}"/>', _text(name, MARGIN + left, y + top + height + 17, 14, PALE)]
    legend, y = _legend(explanation, whole, y + places[-1][1] + height + 44)
    notes = [line for note in (*looks(look), *wording.notes(explanation)) for line in wrap(note, whole)]
    below, y = _lines([(line, 14, PALE) for line in notes], y)
    size = f'width="{whole + 2 * MARGIN}" height="{y + MARGIN}" viewBox="0 0 {whole + 2 * MARGIN} {y + MARGIN}"'
    body = "\n".join([*parts, *legend, *below])
    title = f"<title>{escape(_plain(wording.headline(explanation)))}</title>"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="system-ui,sans-serif">\n{title}\n'
        f'<rect width="100%" height="100%" fill="#fff"/>\n{body}\n</svg>\n'
    )


def _panels(explanation: Attribution, look: Look) -> list[tuple[np.ndarray, str, str]]:
    """Pixels, their format, and what stands under them: of a picture two panels, of a sound or a video one."""
    if is_media(explanation):
        return [(panel(explanation, look=look), "png", media_caption(explanation, look))]
    small, source = panels_of(explanation)
    return [(source, "jpeg", "input"), (overlay(small, look=look), "png", caption(look))]


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

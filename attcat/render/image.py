"""Pictures: the heatmap laid over the input, a legend, and both in one figure.

The pieces are small and put together by `stack` and `beside`, so that another arrangement (several methods over one
picture, say) needs no new drawing. Pillow writes, OpenCV colours; both are imported when something is drawn.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from typing import TYPE_CHECKING

import numpy as np

from ..attribution import Attribution
from ..errors import InputError
from ..files import encode_palette_png
from ..tokens import View
from . import wording
from .colour import BLACK, DARK, LIGHT, RGB, WHITE, mix

if TYPE_CHECKING:
    from PIL import Image, ImageFont

LONGEST, LEAST = 560, 448
"""A picture is drawn with its longest side between these, in pixels: large ones shrink, tiny ones grow."""

OPACITY = 0.8
"""Of the strongest score: what is below stays recognisable."""

THRESHOLD = 0.12
"""Below this strength a patch is left as it is, so that noise does not tint water and road."""

POWER = 0.9
"""Of the strength above the threshold: a little more for the weak half, as the eye reads opacity as less than it is."""

TOP = 0.2
"""Share of the picture that the contour encloses."""

MEASURED = 1000
"""How many characters of a label are measured: no line is longer, and measuring is slow."""

PAPER: RGB = (255, 255, 255)
INK: RGB = (26, 26, 26)
PALE: RGB = (95, 95, 95)
BLANK: RGB = (228, 228, 228)
"""The ground of a heatmap whose picture is not known."""


@dataclass(frozen=True)
class Look:
    """How a heatmap is drawn.

    Args:
        positive: only what speaks for the class.
        contour: a line around the fifth of the picture that speaks most for the class.
        cells: each patch in one colour, instead of a smooth map.
    """

    positive: bool = False
    contour: bool = False
    cells: bool = False


PLAIN = Look()


# -- arrays: what is drawn, uint8 [H, W, 3] --------------------------------------------------------------------------


def sized(explanation: Attribution, longest: int = LONGEST, least: int = LEAST, thinnest: int = 8) -> Attribution:
    """The same explanation of a smaller or larger copy of its picture, fit for drawing.

    Args:
        explanation: of a picture.
        longest: a longer side is shrunk to so many pixels.
        least: a picture whose longest side is shorter grows by a whole factor, its pixels staying visible squares.
        thinnest: neither side becomes shorter, so that a hair of a picture can still be seen.
    """
    view = explanation.view
    side = max(view.width, view.height)
    factor = longest / side if side > longest else max(1, least // side)
    width, height = (max(thinnest, round(length * factor)) for length in (view.width, view.height))
    across, down = width / view.width, height / view.height
    left, top, right, bottom = view.box
    box = (left * across, top * down, right * across, bottom * down)
    source = explanation.source
    if isinstance(source, np.ndarray):
        source = _resized(source, width, height)
    return replace(explanation, source=source, tokens=replace(explanation.tokens, view=View(width, height, box)))


def overlay(explanation: Attribution, full: float | None = None, look: Look = PLAIN) -> np.ndarray:
    """The heatmap over the picture, uint8 `[H, W, 3]` in the picture's own pixels.

    The picture is grey, so that orange and blue mean what the legend says and nothing else. The stronger a score, the less
    of the picture shines through. What the model never saw is dark and hatched.

    Args:
        explanation: of a picture.
        full: the score that gets the full colour; by default `wording.scale`.
        look: what is drawn, and how.

    Raises:
        InputError: if the input was not a picture.
    """
    heat = _cells(explanation) if look.cells else explanation.heatmap()
    unseen = np.isnan(heat)
    heat = np.nan_to_num(heat)
    full = wording.scale(explanation) if full is None else full
    signed = np.clip(heat / full, 0 if look.positive else -1, 1) if full else np.zeros_like(heat)
    ground = _grey(explanation.source) if isinstance(explanation.source, np.ndarray) else _grid(explanation)
    drawn = tinted(ground, signed)
    if look.contour:
        drawn = _outlined(drawn, heat, ~unseen)
    if unseen.any():
        hatched = _hatched(ground)
        for channel in range(3):
            np.copyto(drawn[..., channel], hatched, where=unseen)
    return drawn


def tinted(ground: np.ndarray, signed: np.ndarray) -> np.ndarray:
    """Lay strengths, float `[H, W]` in [-1, 1], over `ground`, uint8 `[H, W, 3]`."""
    alpha, positive = opacity(signed.astype(np.float32)), signed > 0
    pale = np.arange(len(signed))[:, None] % STRIPES == 0
    drawn = np.empty_like(ground, dtype=np.uint8)
    for channel, light in enumerate(LIGHT):  # one at a time: whole colours take thrice as long
        against = np.where(pale, np.float32(STRIPE[channel]), np.float32(DARK[channel]))
        mixed = np.where(positive, np.float32(light), against)
        below = ground[..., channel]
        mixed -= below
        mixed *= alpha
        mixed += below
        drawn[..., channel] = np.rint(mixed, out=mixed)
    return drawn


def ramp(steps: int) -> list[tuple[int, int, int]]:
    """The colours of a legend from against to for, on a neutral ground, without stripes."""
    colours = tinted(np.full((2, steps, 3), BLANK), np.tile(np.linspace(-1, 1, steps), (2, 1)))[1]
    return [(red, green, blue) for red, green, blue in colours.tolist()]


@cache
def palette() -> np.ndarray:
    """The colours of a legend and of a grey picture, which a palette must have, uint8 `[N, 3]`."""
    ramp = tinted(np.full((2, 33, 3), BLANK, dtype=np.uint8), np.tile(np.linspace(-1, 1, 33), (2, 1)))
    greys = np.repeat(np.linspace(0, 255, 24).astype(np.uint8)[:, None], 3, axis=1)
    return np.unique(np.concatenate([ramp.reshape(-1, 3), greys, np.array([INK, PALE], dtype=np.uint8)]), axis=0)


def opacity(signed: np.ndarray) -> np.ndarray:
    """How much of the picture a strength covers: nothing below the threshold, then more and more, 0 to `OPACITY`."""
    above = np.clip((np.abs(signed) - THRESHOLD) / (1 - THRESHOLD), 0, 1)
    return np.asarray(OPACITY * above**POWER)


STRIPE, STRIPES = mix(DARK, WHITE, 0.55), 5
"""The colour against has thin lighter lines across, a second sign beside the hue; pixels from one to the next."""


def _cells(explanation: Attribution) -> np.ndarray:
    """The patch scores without interpolation, float `[H, W]` like `Attribution.heatmap`."""
    grid, view = explanation.grid.numpy(), explanation.view
    left, top, right, bottom = view.box
    row, column = (
        np.floor((np.arange(pixels) + 0.5 - start) / (stop - start) * cells).astype(int)
        for pixels, start, stop, cells in (
            (view.height, top, bottom, len(grid)),
            (view.width, left, right, grid.shape[1]),
        )
    )
    seen = ((row >= 0) & (row < grid.shape[0]))[:, None] & ((column >= 0) & (column < grid.shape[1]))[None]
    heat = grid[row.clip(0, grid.shape[0] - 1)][:, column.clip(0, grid.shape[1] - 1)]
    return np.where(seen, heat, np.nan)


def _outlined(pixels: np.ndarray, heat: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """A white line with a black edge around the fifth of what was seen that speaks most for the class."""
    import cv2

    inside = seen & (heat > 0)
    if not inside.any():
        return pixels
    inside &= heat >= np.quantile(heat[seen], 1 - TOP)
    contours, _ = cv2.findContours(inside.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE)
    drawn = np.ascontiguousarray(pixels)
    for ink, width in ((BLACK, 3), (WHITE, 1)):
        cv2.drawContours(drawn, contours, -1, ink, width)
    return drawn


def _resized(picture: np.ndarray, width: int, height: int) -> np.ndarray:
    import cv2

    grows = width >= picture.shape[1] and height >= picture.shape[0]
    how = cv2.INTER_NEAREST if grows else cv2.INTER_AREA
    return np.asarray(cv2.resize(picture, (width, height), interpolation=how))


def _grey(picture: np.ndarray) -> np.ndarray:
    """Grey, and held between dark grey and pale grey: pure white and pure black leave no room for light and dark colours."""
    grey = picture.astype(np.float32) @ np.array([0.299, 0.587, 0.114], dtype=np.float32)
    return np.repeat(np.round(40 + grey * (205 / 255)).astype(np.uint8)[..., None], 3, axis=2)


def _hatched(ground: np.ndarray) -> np.ndarray:
    """`ground`, which is grey, darkened and with light diagonal stripes, uint8 `[H, W]`."""
    row, column = (np.arange(length) % 12 for length in ground.shape[:2])
    dark = np.round(np.arange(256) * 0.4).astype(np.uint8)[ground[..., 0]]
    return np.where((row[:, None] + column) % 12 < 2, np.uint8(125), dark)


def _grid(explanation: Attribution) -> np.ndarray:
    """Blank paper with the borders of the cells, where those are wide enough to be seen."""
    view = explanation.view
    ground = np.full((view.height, view.width, 3), BLANK, dtype=np.uint8)
    rows, columns = explanation.grid.shape
    left, top, right, bottom = view.box
    if min((right - left) / columns, (bottom - top) / rows) < 6:
        return ground
    for x in np.linspace(left, right, columns + 1)[1:-1].round().astype(int):
        if 0 <= x < view.width:
            ground[:, x] = 190
    for y in np.linspace(top, bottom, rows + 1)[1:-1].round().astype(int):
        if 0 <= y < view.height:
            ground[y] = 190
    return ground


# -- pieces of a figure ----------------------------------------------------------------------------------------------


def panel(pixels: np.ndarray, caption: str) -> Image.Image:
    """A picture with a line under it."""
    from PIL import Image

    picture = Image.fromarray(pixels)
    return stack([picture, line(caption, max(picture.width, 190), size=14, ink=PALE)], gap=4)


def legend(explanation: Attribution, width: int, look: Look = PLAIN) -> Image.Image:
    """The colour bar with its numbers, and the notes that belong to them."""
    full = wording.scale(explanation)
    beyond = " and beyond" if wording.clipped(explanation) else ""  # the font has no sign for it
    third = width // 3
    values = [
        line(f"{wording.number(-full)}{beyond}" if full else "0", third, size=14),
        line("0", width - 2 * third, size=14, middle=True),
        line(f"{wording.number(full)}{beyond}" if full else "0", third, size=14, right=True),
    ]
    parts = [bar(explanation, width), beside(values, gap=0), *unseen(explanation, width)]
    shares = [wording.shares(explanation)] if explanation.is_mixed else []
    told = [*shares, *looks(look), *wording.notes(explanation)]
    parts += [line(text, width, size=14, ink=PALE) for note in told for text in wrap(note, width)]
    return stack(parts, gap=4)


def looks(look: Look) -> list[str]:
    """What a reader has to know of a drawing that is not the plain one."""
    told = ["Only what speaks for the class is coloured."] if look.positive else []
    return [*told, f"The line encloses the {TOP:.0%} that speak most for the class."] if look.contour else told


def bar(explanation: Attribution, width: int) -> Image.Image:
    """The colours from against to for, and what the two ends mean."""
    from PIL import Image

    against, supports = wording.sides(explanation)
    half = (width - 16) // 2
    ends = beside([line(against, half, size=15), line(supports, half, size=15, right=True)], gap=width - 2 * half)
    return stack([ends, Image.fromarray(_gradient(width))], gap=4)


@cache
def _gradient(width: int) -> np.ndarray:
    """The colours from against to for, uint8 `[18, width, 3]`."""
    return tinted(np.full((18, width, 3), BLANK), np.tile(np.linspace(-1, 1, width), (18, 1)))


def unseen(explanation: Attribution, width: int) -> list[Image.Image]:
    """What the hatching means, if there is any."""
    from PIL import Image

    if not wording.has_blind_area(explanation):
        return []
    swatch = Image.fromarray(_hatched(np.full((18, 36, 3), BLANK))).convert("RGB")
    return [beside([swatch, line("not seen by the model", width - 44, size=14)], gap=8)]


def heading(explanation: Attribution, width: int, origin: str | None = None) -> Image.Image:
    """The class and its probability, what was predicted if that differs, and how the scores were made."""
    parts = [line(wording.headline(explanation), width, size=24)]
    correction = wording.correction(explanation)
    if correction:
        parts.append(line(correction, width, size=16))
    origin = wording.origin(explanation) if origin is None else origin
    return stack([*parts, *(line(text, width, size=14, ink=PALE) for text in wrap(origin, width))], gap=4)


def figure(explanation: Attribution, look: Look = PLAIN, longest: int = LONGEST) -> Image.Image:
    """The picture, beside it the heatmap laid over it, and a legend.

    Args:
        explanation: of a picture.
        look: how the heatmap is drawn.
        longest: a panel's width and height are at most so many pixels.

    Returns:
        an RGB picture.

    Raises:
        InputError: if the input was not a picture, or its pixels are not known.
    """
    small, shown = panels_of(explanation, longest)
    panels = [panel(shown, "input"), panel(overlay(small, look=look), wording.coloured(explanation, look.positive))]
    wide = shown.shape[1] > 1.6 * shown.shape[0]
    pictures = stack(panels, gap=10) if wide else beside(panels, gap=16)
    width = max(pictures.width, 480)
    return framed(stack([heading(explanation, width), pictures, legend(explanation, width, look)], gap=14))


def panels_of(explanation: Attribution, longest: int = LONGEST) -> tuple[Attribution, np.ndarray]:
    """The explanation in the size of a panel, and its picture.

    Raises:
        InputError: if the input was not a picture, or its pixels are not known.
    """
    if explanation.is_mixed:
        raise InputError(
            "this drawing is of one picture, and this Explanation of words and pictures: draw .of_image(0) or .of_text(), or "
            "save it as .png or .html"
        )
    if not explanation.is_image:
        raise InputError("a figure needs a picture, and this Explanation is of a text: use .show() or save it as .html")
    if not isinstance(explanation.source, np.ndarray):
        raise InputError(
            "a figure needs the picture, and this Explanation was made from ready-made model arguments: explain the "
            "picture itself with an image processor, or use .show() or save it as .html for the heatmap alone"
        )
    small = sized(explanation, longest, min(LEAST, longest))
    assert isinstance(small.source, np.ndarray)
    return small, small.source


def png(explanation: Attribution, look: Look = PLAIN) -> bytes:
    """The figure as the content of a small PNG file: fewer colours, and then fewer pixels, until it fits `PNG_LIMIT`.

    Raises:
        InputError: as `figure`.
    """
    kept, longest = palette(), LONGEST
    drawn = figure(explanation, look)
    data = encode_palette_png(drawn, kept, 256 - len(kept))
    if PNG_LIMIT < len(data) < 1.25 * PNG_LIMIT:  # fewer colours save a fifth
        data = encode_palette_png(drawn, kept, FEW)
    while len(data) > PNG_LIMIT and longest > SHORTEST:
        longest = max(SHORTEST, round(0.9 * longest * (PNG_LIMIT / len(data)) ** 0.5))
        data = encode_palette_png(figure(explanation, look, longest), kept, FEW)
    return data


PNG_LIMIT, FEW, SHORTEST = 120_000, 56, 200
"""Bytes of a figure's PNG file; of one that would have more, the colours beside those that are kept, and the least pixels of a
panel's longer side."""


# -- composing -------------------------------------------------------------------------------------------------------


def stack(pictures: Sequence[Image.Image], gap: int) -> Image.Image:
    """Pictures under one another, flush left."""
    from PIL import Image

    height = sum(picture.height for picture in pictures) + gap * (len(pictures) - 1)
    sheet = Image.new("RGB", (max(picture.width for picture in pictures), height), PAPER)
    y = 0
    for picture in pictures:
        sheet.paste(picture, (0, y))
        y += picture.height + gap
    return sheet


def beside(pictures: Sequence[Image.Image], gap: int) -> Image.Image:
    """Pictures next to one another, flush with the top."""
    from PIL import Image

    width = sum(picture.width for picture in pictures) + gap * (len(pictures) - 1)
    sheet = Image.new("RGB", (width, max(picture.height for picture in pictures)), PAPER)
    x = 0
    for picture in pictures:
        sheet.paste(picture, (x, 0))
        x += picture.width + gap
    return sheet


def framed(picture: Image.Image, margin: int = 16) -> Image.Image:
    """A white margin all round."""
    from PIL import ImageOps

    return ImageOps.expand(picture, margin, PAPER)


def line(text: str, width: int, *, size: int, ink: RGB = INK, right: bool = False, middle: bool = False) -> Image.Image:
    """One line of text on a strip of `width` pixels, cut with an ellipsis where it does not fit."""
    from PIL import Image

    letters = written(fitted(text, width, size), size, ink)
    strip = Image.new("RGB", (width, letters.height), PAPER)
    spare = max(0, width - letters.width)
    strip.paste(letters, (spare if right else spare // 2 if middle else 0, 0))
    return strip


@lru_cache(128)  # captions and legends say the same under every picture
def written(text: str, size: int, ink: RGB) -> Image.Image:
    """One line of text, as wide as it is."""
    from PIL import Image, ImageDraw

    font = font_of(size)
    strip = Image.new("RGB", (math.ceil(font.getlength(text)) + 1, round(size * 1.3)), PAPER)
    ImageDraw.Draw(strip).text((0, 0), text, font=font, fill=ink)
    return strip


@lru_cache(128)
def fitted(text: str, width: int, size: int) -> str:
    """`text` on one line, cut with an ellipsis to `width` pixels."""
    font = font_of(size)
    text = " ".join(text[:MEASURED].split())
    if len(text) < MEASURED and font.getlength(text) <= width:
        return text
    return text[: _longest(text, width, lambda part: font.getlength(part + "…"))] + "…"


@lru_cache(128)
def wrap(text: str, width: int, size: int = 14, most: int = 4) -> tuple[str, ...]:
    """Break a sentence between words into at most `most` lines of `width` pixels; what is left over is in the last."""
    font, words = font_of(size), text[:MEASURED].split()
    lines: list[str] = []
    while words and len(lines) < most - 1:
        if font.getlength(rest := " ".join(words)) <= width:
            return (*lines, rest)
        count = 1
        while count < len(words) and font.getlength(" ".join(words[: count + 1])) <= width:
            count += 1
        lines.append(" ".join(words[:count]))
        words = words[count:]
    return (*lines, " ".join(words)) if words else tuple(lines)


def _longest(text: str, width: float, measure: Callable[[str], float]) -> int:
    """How many characters from the start measure at most `width`."""
    return max(0, bisect_right(range(len(text) + 1), width, key=lambda count: measure(text[:count])) - 1)


@cache
def font_of(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """The letters of every figure, in a size."""
    from PIL import ImageFont

    return ImageFont.load_default(size=size)  # comes with Pillow: the same on every machine

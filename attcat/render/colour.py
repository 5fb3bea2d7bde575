"""Two colours, how strong they are, and where the scale ends.

Scores are signed, so the map diverges: blue against, orange for, a pair that colour-blind readers can tell apart.
Nothing here knows whether the page, the terminal or the notebook is light or dark. So both hues of a text have a
relative luminance of about 0.175, where the contrast to black equals that to white, and on a page a little of the paper
always shines through: the text that stands on it keeps a contrast of at least 4.5 on light and on dark pages.

Over a picture, which is drawn in grey, orange is light and blue is dark and striped: the sign survives a printer without
colours.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

RGB = tuple[int, int, int]

FOR: RGB = (194, 84, 0)
AGAINST: RGB = (10, 121, 190)
GREY: RGB = (118, 118, 118)
WHITE: RGB = (255, 255, 255)
BLACK: RGB = (0, 0, 0)

LIGHT: RGB = (255, 146, 30)
DARK: RGB = (16, 62, 168)
"""For and against over a grey picture."""

FAINT = 0.05
"""Below this strength a word is left as it is: colour that cannot be seen only disturbs."""

FULL = 0.8
"""Opacity of the strongest word on a page."""

PERCENTILE = 0.99
"""Of the magnitudes: where the scale of a picture, and of a long text, ends."""

GUARD = 8
"""The scale never ends below this fraction of the largest magnitude: where one patch is everything, noise stays noise."""


def hue(score: float) -> RGB:
    """The colour of a sign."""
    return FOR if score > 0 else AGAINST


def largest(scores: Iterable[float]) -> float:
    """The greatest absolute value, which gets the full colour; 0 when there is none."""
    return max((abs(score) for score in scores if math.isfinite(score)), default=0.0)


def robust(scores: Iterable[float], many: int) -> float:
    """The magnitude that gets the full colour: the 99th percentile, so that one outlier does not hide the rest.

    Args:
        scores: of the words or patches.
        many: of fewer than these a percentile says nothing, and the largest is taken.

    Returns:
        one of the magnitudes, or an eighth of the largest if that is more; the largest where the percentile is zero, and
        0 when there is no score.
    """
    magnitudes = [abs(score) for score in scores if math.isfinite(score)]
    most = max(magnitudes, default=0.0)
    percentile = 0.0 if len(magnitudes) < many else float(np.quantile(magnitudes, PERCENTILE, method="lower"))
    return max(percentile, most / GUARD) if percentile else most


def strength(score: float, scale: float) -> float:
    """`score / scale`, held to [-1, 1]; 0 when there is no scale."""
    if not (scale > 0 and math.isfinite(score)):
        return 0.0
    return max(-1.0, min(1.0, score / scale))


def mix(ground: RGB, top: RGB, share: float) -> RGB:
    """`ground` with `share` (0 to 1) of `top` over it."""
    red, green, blue = (round(low + (high - low) * share) for low, high in zip(ground, top, strict=True))
    return red, green, blue


def luminance(colour: RGB) -> float:
    """Relative luminance, 0 (black) to 1 (white): WCAG 2.2, definition of "relative luminance"."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (part / 255 for part in colour)]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: RGB, other: RGB) -> float:
    """Contrast ratio, 1 to 21: WCAG 2.2, definition of "contrast ratio"."""
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


def readable_on(ground: RGB) -> RGB:
    """Black or white, whichever is easier to read on `ground`."""
    return max(WHITE, BLACK, key=lambda ink: contrast(ink, ground))


def tint(signed: float) -> str:
    """The inline style of an element that is coloured by a strength in [-1, 1]."""
    return f"--s:{abs(signed):.2g};background:{css(hue(signed))}"


def css(of: RGB) -> str:
    """A translucent CSS colour, as strong as the element's `--s` (0 to 1) says; a light or a dark page shines through."""
    red, green, blue = of
    return f"rgb({red} {green} {blue}/calc({FULL}*var(--s)))"

"""Two colours and how strong they are.

Scores are signed, so the map diverges: blue against, orange for, a pair that colour-blind readers can tell apart.
Nothing here knows whether the page, the terminal or the notebook is light or dark. So both hues have a relative
luminance of about 0.175, where the contrast to black equals that to white: text of either colour stays readable on
them, at any strength.
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

FAINT = 0.05
"""Below this strength a word is left as it is: colour that cannot be seen only disturbs."""


def hue(score: float) -> RGB:
    """The colour of a sign."""
    return FOR if score > 0 else AGAINST


def largest(scores: Iterable[float]) -> float:
    """The greatest absolute value, which gets the full colour; 0 when there is none."""
    return max((abs(score) for score in scores if math.isfinite(score)), default=0.0)


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


def css(signed: float) -> str:
    """A strength in [-1, 1] as a translucent CSS colour, which lets a light or a dark page shine through."""
    red, green, blue = hue(signed)
    return f"rgba({red},{green},{blue},{abs(signed):.3f})"


def lookup_table() -> np.ndarray:
    """The diverging map for `cv2.applyColorMap`: uint8 `[256, 1, 3]` in OpenCV's order (blue, green, red).

    Entry 128 is zero, 1 and 255 are the strongest against and for. It has no white or grey middle: weak scores are
    translucent, so the middle is the picture itself.
    """
    at = [-1.0, -0.5, 0.0, 0.0, 0.5, 1.0]
    stops = np.array([(4, 44, 128), AGAINST, (120, 190, 240), (250, 176, 92), (226, 88, 8), (140, 20, 0)])
    where = (np.arange(256) - 128) / 127
    where[128] = 1e-9  # zero belongs to neither side; any colour does, for it is never seen
    return np.stack([np.interp(where, at, stops[:, part]) for part in (2, 1, 0)], axis=-1).astype(np.uint8)[:, None]

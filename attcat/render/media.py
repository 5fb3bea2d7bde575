"""Sounds and videos: moments coloured over the waveform, and a sheet of frames under their heatmaps.

Each is a panel of pixels, which a page, a figure, a plot and the terminal show like any other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from ..attribution import Attribution
from ..files import encode_palette_png
from ..tokens import Waveform
from . import image, mixed, wording
from .image import BLANK, INK, PALE, PAPER, PLAIN, Look

if TYPE_CHECKING:
    from PIL import Image

WIDTH = 960
"""Of a panel, in pixels."""

TALL, BAND, LEAST = 150, 12, 96
"""Of a waveform; of a band of frequencies; of all bands together at least."""

COLUMNS, FRAMES, CELL = 4, 8, 228
"""Of a sheet of frames: how many stand beside one another, how many are shown at most, and how wide each is."""


def panel(explanation: Attribution, full: float | None = None, look: Look = PLAIN) -> np.ndarray:
    """The drawing of a sound or a video, uint8 `[H, W, 3]`.

    Args:
        explanation: of a sound or a video.
        full: the score that gets the full colour; by default `wording.scale`.
        look: how the heatmap of a frame is drawn, and whether only what speaks for the class is.
    """
    full = wording.scale(explanation) if full is None else full
    return np.asarray(_sheet(explanation, full, look) if explanation.is_video else _strip(explanation, full, look))


def caption(explanation: Attribution, look: Look = PLAIN) -> str:
    """What stands under the panel."""
    what = wording.coloured(explanation, look.positive)
    if explanation.is_sound:
        bands = explanation.tokens.bands is not None
        return f"{what}, by moment and band of frequencies (high above, low below)" if bands else f"{what}, by moment"
    return f"some frames, and below each {what}"


# -- sounds ----------------------------------------------------------------------------------------------------------


def _strip(explanation: Attribution, full: float, look: Look) -> Image.Image:
    """Time from left to right: the scores as colours, on the waveform or, where there are bands, above it."""
    seconds = _seconds(explanation)
    samples = explanation.source.samples if isinstance(explanation.source, Waveform) else None
    parts = []
    if explanation.tokens.bands is not None:
        parts.append(_coloured(_bands(explanation, seconds), None, full, look))
        parts += [_coloured(np.zeros((TALL, WIDTH)), samples, full, look)] if samples is not None else []
    else:
        moments = _by_time(explanation, explanation.scores.numpy(), seconds)
        parts.append(_coloured(np.tile(moments, (TALL, 1)), samples, full, look))
        if samples is not None:  # which hides the colours where it is loud
            parts.append(_coloured(np.tile(moments, (2 * BAND, 1)), None, full, look))
    return image.stack([*parts, _axis(seconds)], gap=3)


def _seconds(explanation: Attribution) -> float:
    if isinstance(explanation.source, Waveform):
        return explanation.source.seconds
    return max(time[1] for time in explanation.tokens.times or () if time is not None)


def _by_time(
    explanation: Attribution, scores: np.ndarray, seconds: float, chosen: np.ndarray | None = None
) -> np.ndarray:
    """For each column the score of the moment that is nearest to it, float `[WIDTH]`; where none is, 0."""
    times = explanation.tokens.times or ()
    there = [at for at, time in enumerate(times) if time is not None and (chosen is None or chosen[at])]
    middles = np.array([sum(times[at] or ()) / 2 for at in there])
    columns = (np.arange(WIDTH) + 0.5) / WIDTH * seconds
    nearest = np.abs(columns[:, None] - middles[None]).argmin(1)
    starts, ends = (np.array([(times[at] or (0, 0))[side] for at in there])[nearest] for side in (0, 1))
    inside = (columns >= starts - 1e-9) & (columns <= ends + 1e-9)
    found: np.ndarray = np.where(inside, scores[there][nearest], 0.0)
    return found


def _bands(explanation: Attribution, seconds: float) -> np.ndarray:
    """The scores by band and time, the highest band above, float `[H, WIDTH]`."""
    bands = explanation.tokens.bands or ()
    rows = sorted({band for band in bands if band is not None}, reverse=True)
    height = max(BAND, -(-LEAST // len(rows)))
    scores = explanation.scores.numpy()
    lines = [_by_time(explanation, scores, seconds, np.array([band == row for band in bands])) for row in rows]
    return np.repeat(np.stack(lines), height, axis=0)


def _coloured(scores: np.ndarray, samples: np.ndarray | None, full: float, look: Look) -> Image.Image:
    """Scores `[H, WIDTH]` as colours on blank paper, with the waveform over them."""
    from PIL import Image

    signed = np.clip(scores / full, 0 if look.positive else -1, 1) if full else np.zeros_like(scores)
    pixels = image.tinted(np.full((*scores.shape, 3), BLANK, dtype=np.uint8), signed)
    if samples is not None:
        pixels[_envelope(samples, len(pixels))] = INK
    return Image.fromarray(pixels)


def _envelope(samples: np.ndarray, height: int) -> np.ndarray:
    """Which pixels the waveform covers, bool `[height, WIDTH]`: from the least to the largest sample of each column."""
    edges = np.linspace(0, len(samples), WIDTH + 1)
    loudest = float(np.abs(samples).max()) or 1.0
    covered = np.zeros((height, WIDTH), dtype=bool)
    for column in range(WIDTH):
        first = min(int(edges[column]), len(samples) - 1)
        part = samples[first : max(first + 1, int(edges[column + 1]))] / loudest
        top, bottom = (round((1 - value) / 2 * (height - 1)) for value in (float(part.max()), float(part.min())))
        covered[top : bottom + 1, column] = True
    return covered


def _axis(seconds: float) -> Image.Image:
    """Seconds, at round numbers."""
    from PIL import Image, ImageDraw

    step = next(s for e in range(-4, 8) for s in (1 * 10.0**e, 2 * 10.0**e, 5 * 10.0**e) if seconds / s <= 10)
    strip = Image.new("RGB", (WIDTH, 26), PAPER)
    draw = ImageDraw.Draw(strip)
    for tick in range(int(seconds / step + 1e-6) + 1):
        x = round(tick * step / seconds * (WIDTH - 1))
        draw.line([(x, 0), (x, 5)], fill=PALE)
        ends = {"right": x > WIDTH - 35, "middle": 35 <= x <= WIDTH - 35}
        text = image.line(f"{tick * step:.4g} s", 70, size=13, ink=PALE, **ends)
        strip.paste(text, (min(max(0, x - 35), WIDTH - 70), 7))
    return strip


# -- videos ----------------------------------------------------------------------------------------------------------


def shown_frames(explanation: Attribution) -> list[int]:
    """The first frames of at most `FRAMES` groups, evenly spread, the strongest group among them."""
    groups = explanation.tokens.frames or ()
    if len(groups) <= FRAMES:
        chosen = list(range(len(groups)))
    else:
        chosen = np.unique(np.linspace(0, len(groups) - 1, FRAMES).round().astype(int)).tolist()
        strongest = strongest_group(explanation)
        if strongest not in chosen:
            chosen[min(range(len(chosen)), key=lambda at: abs(chosen[at] - strongest))] = strongest
    return [groups[group][0] for group in chosen]


def strongest_group(explanation: Attribution) -> int:
    """The group of frames with the largest magnitude."""
    return int(explanation.grid.abs().sum((1, 2)).argmax())


def _sheet(explanation: Attribution, full: float, look: Look) -> Image.Image:
    """Frames with their heatmaps below, four beside one another."""
    from PIL import Image

    cells = []
    for number in shown_frames(explanation):
        one = image.sized(explanation.of_frame(number), CELL, CELL)
        pictures = [Image.fromarray(one.source)] if isinstance(one.source, np.ndarray) else []
        pictures.append(Image.fromarray(image.overlay(one, full, look)))
        cells.append(image.stack([*pictures, image.line(f"frame {number}", CELL, size=14, ink=PALE)], gap=4))
    rows = [image.beside(cells[at : at + COLUMNS], gap=14) for at in range(0, len(cells), COLUMNS)]
    return image.stack(rows, gap=14)


# -- figures ---------------------------------------------------------------------------------------------------------


def is_media(explanation: Attribution) -> bool:
    """Whether an explanation is drawn here."""
    return explanation.is_sound or explanation.is_video


def figure(explanation: Attribution, look: Look = PLAIN) -> Image.Image:
    """A picture as `image.figure`; a sound or a video in one panel, with a legend.

    Raises:
        InputError: if there is nothing to draw, or only words.
    """
    if explanation.is_mixed:
        return mixed.figure(explanation, look)
    if not is_media(explanation):
        return image.figure(explanation, look)
    drawn = image.panel(panel(explanation, look=look), caption(explanation, look))
    width = max(drawn.width, 480)
    parts = [image.heading(explanation, width), drawn, image.legend(explanation, width, look)]
    return image.framed(image.stack(parts, gap=14))


def png(explanation: Attribution, look: Look = PLAIN) -> bytes:
    """The figure as the content of a PNG file.

    Raises:
        InputError: as `figure`.
    """
    if not (is_media(explanation) or explanation.is_mixed):
        return image.png(explanation, look)
    kept = image.palette()
    return encode_palette_png(figure(explanation, look), kept, 256 - len(kept))

"""Time and memory over the number of tokens: docs/scaling.svg.

    python tests/benchmarks/scaling.py [--quick] [--write]

Each point is a process of its own (isolated.py), on the small Llama. `plain` ends where its attention matrices would need
gigabytes, captum where its fifty copies of the input would.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path

from speed import isolated

from attcat.files import write_atomically

PICTURE = Path(__file__).parents[2] / "docs" / "scaling.svg"
TOKENS = (64, 128, 256, 512, 1024, 2048, 4096, 8192)
WIDTH, HEIGHT, LEFT, TOP = 380, 300, 64, 34

Curve = Mapping[int, float]
"""From the number of tokens to what was measured."""


class Line:
    """How a work is drawn, and how far it is measured."""

    def __init__(self, name: str, colour: str, dash: str, up_to: int) -> None:
        self.name, self.colour, self.dash, self.up_to = name, colour, dash, up_to


LINES = {
    "floor": Line("floor", "#777777", "6 4", 8192),
    "attcat": Line("AttCAT, libra", "#d55e00", "", 8192),
    "plain": Line("plain implementation", "#0072b2", "", 4096),
    "captum": Line("captum, 50 steps", "#009e73", "", 1024),
}


def measure(tokens: Sequence[int]) -> dict[str, dict[int, dict[str, float]]]:
    """For each work and length: `seconds` (the median of the repeats) and `peak`, bytes above the loaded model."""
    found: dict[str, dict[int, dict[str, float]]] = {}
    for work, line in LINES.items():
        for length in (n for n in tokens if n <= line.up_to):
            repeats = 1 if work == "captum" else 5 if length <= 1024 else 2
            found.setdefault(work, {})[length] = isolated("peak", work, length, "--repeats", repeats)
            print(work, length, found[work][length], flush=True)
    return found


def picture(measured: Mapping[str, Mapping[int, Mapping[str, float]]]) -> str:
    """Two panels side by side, every axis logarithmic."""
    times = {work: {n: point["seconds"] for n, point in points.items()} for work, points in measured.items()}
    peaks = {work: {n: point["peak"] / 2**20 for n, point in points.items()} for work, points in measured.items()}
    full = 2 * (WIDTH + LEFT + 16)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {full} {HEIGHT + 110}" font-family="sans-serif" font-size="12">',
        '<rect width="100%" height="100%" fill="white"/>',
        *panel(times, "seconds", LEFT),
        *panel(peaks, "peak memory above the loaded model, MiB", full // 2 + LEFT),
    ]
    for index, work in enumerate(measured):
        x, y = LEFT + index * 190, HEIGHT + TOP + 56
        parts.append(f'<path d="M{x},{y} h26" {stroke(LINES[work])}/>')
        parts.append(f'<text x="{x + 32}" y="{y + 4}">{escape(LINES[work].name)}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def panel(curves: Mapping[str, Curve], title: str, left: int) -> list[str]:
    """A pair of axes and the curves."""
    every = [value for curve in curves.values() for value in curve.values()]
    lengths = sorted({n for curve in curves.values() for n in curve})
    low, high = math.floor(math.log10(min(every))), math.ceil(math.log10(max(every)))
    x = scale(math.log(lengths[0]), math.log(lengths[-1]), 0, WIDTH, math.log)
    y = scale(low, high, HEIGHT, 0, math.log10)
    parts = [f'<g transform="translate({left},{TOP})">', f'<text y="-14" font-weight="bold">{escape(title)}</text>']
    for value in (10.0**power for power in range(low, high + 1)):
        parts.append(f'<path d="M0,{y(value)} h{WIDTH}" stroke="#dddddd"/>')
        parts.append(f'<text x="-6" y="{y(value) + 4}" text-anchor="end">{value:g}</text>')
    parts += [f'<text x="{x(n)}" y="{HEIGHT + 18}" text-anchor="middle">{n}</text>' for n in lengths]
    parts.append(f'<text x="{WIDTH / 2}" y="{HEIGHT + 36}" text-anchor="middle">tokens</text>')
    for work, curve in curves.items():
        points = " L".join(f"{x(n)},{y(value)}" for n, value in curve.items())
        parts.append(f'<path d="M{points}" fill="none" {stroke(LINES[work])}/>')
        parts += [f'<circle cx="{x(n)}" cy="{y(v)}" r="3" fill="{LINES[work].colour}"/>' for n, v in curve.items()]
    return [*parts, "</g>"]


def stroke(line: Line) -> str:
    dash = f' stroke-dasharray="{line.dash}"' if line.dash else ""
    return f'stroke="{line.colour}" stroke-width="2.5"{dash}'


def scale(
    low: float, high: float, start: float, stop: float, log: Callable[[float], float]
) -> Callable[[float], float]:
    """From values between `low` and `high`, after the logarithm, to pixels."""
    return lambda value: round(start + (log(value) - low) / ((high - low) or 1) * (stop - start), 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="up to 256 tokens")
    parser.add_argument("--write", action="store_true", help=f"write docs/{PICTURE.name}")
    given = parser.parse_args()
    drawn = picture(measure([n for n in TOKENS if not given.quick or n <= 256]))
    if given.write:
        write_atomically(PICTURE, drawn.encode())


if __name__ == "__main__":
    main()

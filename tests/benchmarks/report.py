"""The figures on paper: a table, JSON, a Markdown page, and the scaling plot as SVG."""

from __future__ import annotations

import json
import math
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import date
from html import escape
from pathlib import Path
from typing import Any

import captum
import timm
import torch
import transformers
from measure import Figure, spliced

import attcat
from attcat.explanation import write_atomically

DOCS = Path(__file__).parents[2] / "docs"
BEGIN, END = "<!-- figures: make bench -->", "<!-- end of the figures -->"
NAMES = {
    "floor": "floor: forward, gradient at the first block",
    "explain": "AttCAT (libra)",
    "plain": "plain implementation",
    "captum": "captum, 50 steps",
}
COLOURS = {"floor": "#777777", "explain": "#d55e00", "plain": "#0072b2", "captum": "#009e73"}


def machine() -> dict[str, str]:
    """What the figures depend on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    cpu = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.machine())
    return {
        "processor": f"{cpu}, {os.cpu_count()} cores, {torch.get_num_threads()} threads",
        "Python": platform.python_version(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
        "timm": timm.__version__,
        "captum": captum.__version__,
        "attcat": attcat.__version__,
        "date": str(date.today()),
    }


def line(figure: Figure) -> str:
    """A row of the table."""
    bound = f"at most {figure.at_most:g}" if figure.at_most is not None else ""
    bound = f"at least {figure.at_least:g}" if figure.at_least is not None else bound
    spread = f"{number(figure.low)} to {number(figure.high)}" if figure.repeats > 1 else ""
    met = ("missed" if figure.missed else "met") if bound else ""
    return f"| {figure.name} | {number(figure.value)} {figure.unit.replace('x', '')} | {spread} | {bound} | {met} |".replace(
        "  ", " "
    )


def number(value: float) -> str:
    """Three decimals for what is near one, else three digits."""
    return f"{value:.3f}" if value < 10 else f"{value:.3g}"


def page(figures: Sequence[Figure], failures: Mapping[str, str], extra: Mapping[str, Any]) -> list[str]:
    """The measured part of docs/benchmarks.md."""
    lines = ["", *(f"- {name}: {value}" for name, value in machine().items()), ""]
    lines += ["| What | Median | Repeats | Target | |", "|---|---|---|---|---|", *map(line, figures)]
    lines += [f"| {name}: failed | | | {error.replace('|', '/')} | missed |" for name, error in failures.items()]
    if "profile" in extra:
        lines += ["", "Where `attcat explain` with a sentence spends its time (cProfile, cumulative):", "", "```"]
        lines += [*extra["profile"], "```"]
    return [*lines, ""]


def write(
    figures: Sequence[Figure],
    failures: Mapping[str, str],
    extra: Mapping[str, Any],
    seconds: Mapping[str, float],
    folder: Path,
) -> None:
    """Write `benchmarks.json`, `benchmarks.md` (what people wrote around the figures stays) and `scaling.svg`."""
    record = {
        "machine": machine(),
        "figures": [{**asdict(figure), "missed": figure.missed} for figure in figures],
        "failures": dict(failures),
        "seconds": dict(seconds),
        **extra,
    }
    write_atomically(folder / "benchmarks.json", (json.dumps(record, indent=1) + "\n").encode())
    file = folder / "benchmarks.md"
    before = file.read_text(encoding="utf-8") if file.exists() else f"{BEGIN}\n{END}\n"
    write_atomically(file, spliced(before, BEGIN, END, page(figures, failures, extra)).encode())
    if "scaling" in extra:
        write_atomically(folder / "scaling.svg", plot(extra["scaling"]).encode())


# -- the plot ----------------------------------------------------------------------------------------------------------

WIDTH, HEIGHT, LEFT, TOP = 380, 300, 58, 30


def plot(curves: Mapping[str, Mapping[str, Any]]) -> str:
    """Time and memory over tokens, both axes logarithmic."""
    panels = [("seconds", "seconds"), ("peak", "peak memory beyond the model's, MiB")]
    total = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {2 * (WIDTH + 80)} {HEIGHT + 110}" '
    parts = [total + 'font-family="sans-serif" font-size="12">', '<rect width="100%" height="100%" fill="white"/>']
    for index, (kind, title) in enumerate(panels):
        parts += [
            f'<g transform="translate({index * (WIDTH + 80) + LEFT},{TOP})">',
            *panel(curves, kind, title),
            "</g>",
        ]
    for index, name in enumerate(curves):
        x, y = LEFT + index % 2 * 400, HEIGHT + 78 + index // 2 * 20
        parts.append(f'<path d="M{x},{y} h24" stroke="{COLOURS[name]}" stroke-width="2.5"/>')
        parts.append(f'<text x="{x + 30}" y="{y + 4}">{escape(NAMES[name])}</text>')
    return "\n".join([*parts, "</svg>"]) + "\n"


def panel(curves: Mapping[str, Mapping[str, Any]], kind: str, title: str) -> list[str]:
    """One pair of axes with every curve."""
    points = {
        name: [(int(n), curve[n][kind]) for n in curve if n.isdigit() and curve[n][kind] > 0]
        for name, curve in curves.items()
    }
    every = [point for found in points.values() for point in found]
    across = (math.log(min(n for n, _ in every)), math.log(max(n for n, _ in every)))
    decades = (math.floor(math.log10(min(v for _, v in every))), math.ceil(math.log10(max(v for _, v in every))))

    def x(tokens: float) -> float:
        return (math.log(tokens) - across[0]) / max(across[1] - across[0], 1e-9) * WIDTH

    def y(value: float) -> float:
        return HEIGHT - (math.log10(value) - decades[0]) / max(decades[1] - decades[0], 1) * HEIGHT

    parts = [f'<text x="0" y="-12" font-weight="bold">{escape(title)}</text>']
    for decade in range(decades[0], decades[1] + 1):
        parts.append(f'<path d="M0,{y(10.0**decade):.1f} h{WIDTH}" stroke="#dddddd"/>')
        parts.append(f'<text x="-6" y="{y(10.0**decade) + 4:.1f}" text-anchor="end">{10.0**decade:g}</text>')
    for tokens in sorted({n for n, _ in every}):
        parts.append(f'<text x="{x(tokens):.1f}" y="{HEIGHT + 18}" text-anchor="middle">{tokens}</text>')
    parts.append(f'<text x="{WIDTH / 2}" y="{HEIGHT + 36}" text-anchor="middle">tokens</text>')
    for name, found in points.items():
        path = " L".join(f"{x(n):.1f},{y(value):.1f}" for n, value in found)
        parts.append(f'<path d="M{path}" fill="none" stroke="{COLOURS[name]}" stroke-width="2.5"/>')
        parts += [f'<circle cx="{x(n):.1f}" cy="{y(v):.1f}" r="3" fill="{COLOURS[name]}"/>' for n, v in found]
    return parts

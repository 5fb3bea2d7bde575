"""The results of a run, for people and for programs: table cells, `table.md`, `results.json`, a page with the curves."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from ..metrics import find_metric
from ..metrics.perturbation import STEPS
from ..render.html import escape, framed
from .runner import Results, versions
from .statistics import Comparison, Estimate

ARROWS = {"higher": "\N{UPWARDS ARROW}", "lower": "\N{DOWNWARDS ARROW}"}
COLOURS = ("#c25400", "#0a79be", "#3a8f3a", "#9a4fb5", "#b8860b", "#d1495b", "#2a9d8f", "#6c757d")
DASHES = ("", "6 3", "2 2", "9 3 2 3")  # with eight colours, 32 lines that differ


def table(results: Results) -> tuple[list[str], list[list[str]], set[tuple[int, int]]]:
    """The summary: column names, one row per method, and which cells are the best in their column."""
    metrics = results.plan.metrics
    names = ["method", *(heading(name, results) for name in metrics), "s/example", "forwards"]
    rows, bold = [], set()
    for number, method in enumerate(results.plan.methods):
        estimates = results.estimates[method]
        cells = [number_with_interval(estimates[name]) for name in metrics]
        bold |= {(number, column + 1) for column, name in enumerate(metrics) if results.best(name) == method}
        cost = results.seconds[method] / results.forward if results.forward else math.nan
        rows.append([method, *cells, f"{results.seconds[method]:.3g}", f"{cost:.1f}"])
    return names, rows, bold


def heading(name: str, results: Results) -> str:
    """A metric's column heading, e.g. `aopc ↑`; for a regression `aopc of value ↑`, where others are of probabilities."""
    metric = find_metric(name)
    of = " of value" if results.watched == "value" and metric.reads in ("curves", "passes") else ""
    return f"{name}{of} {ARROWS[metric.better]}"


def number_with_interval(value: Estimate) -> str:
    """E.g. `0.573 [0.540, 0.606]`."""
    return f"{value.mean:.3f} [{value.low:.3f}, {value.high:.3f}]" if value.count else "-"


def markdown(results: Results) -> str:
    """The summary for a report, the best of the first metric on top; below it, the first method minus each other."""
    names, rows, bold = table(results)
    metrics, methods = results.plan.metrics, results.plan.methods
    sign = 1 if find_metric(metrics[0]).better == "lower" else -1

    def place(row: int) -> tuple[bool, float]:
        value = results.estimates[methods[row]][metrics[0]]
        return not value.count, sign * value.mean if value.count else 0.0

    told = [[f"`{row[0]}`", *row[1:]] for row in rows]
    for row, column in bold:
        told[row][column] = f"**{told[row][column]}**"
    pairs = [
        [f"`{other}`", *(_difference(results.comparisons[name], methods[0], other) for name in metrics)]
        for other in methods[1:]
    ]
    parts = [markdown_table(names, [told[row] for row in sorted(range(len(told)), key=place)])]
    if pairs:
        parts.append(markdown_table([f"`{methods[0]}` minus", *names[1 : 1 + len(metrics)]], pairs))
    return "\n\n".join(parts) + "\n"


def markdown_table(names: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Names and rows of cells in Markdown, without a line end."""
    return "\n".join(f"| {' | '.join(row)} |" for row in [names, ["---"] * len(names), *rows])


def to_json(results: Results, sanity: Mapping[str, Any] | None = None) -> bytes:
    """Everything: settings, versions, summaries, paired tests, values per example."""
    plan = results.plan
    content = {
        "settings": dict(results.settings),
        "limit": plan.limit,
        "examples": len(results.records[plan.methods[0]]),
        "versions": versions(),
        "accuracy": results.accuracy,
        "metrics": {n: {"better": find_metric(n).better, "paper": find_metric(n).paper} for n in plan.metrics},
        "forward_seconds": results.forward,
        "steps": STEPS,
        "methods": {
            method: {
                "seconds": results.seconds[method],
                "estimates": {name: asdict(value) for name, value in results.estimates[method].items()},
                "curves": results.curves[method],
                "values": results.values[method],
                "records": results.records[method],
            }
            for method in plan.methods
        },
        "paired": [
            {"metric": name, "first": first, "second": second, **asdict(comparison)}
            for name, pairs in results.comparisons.items()
            for (first, second), comparison in pairs.items()
        ],
        "sanity": sanity,
    }
    return json.dumps(_without_nan(content), ensure_ascii=False, indent=1, allow_nan=False).encode()


def _without_nan(value: Any) -> Any:
    """The same, with null in place of what JSON cannot express."""
    if isinstance(value, Mapping):
        return {name: _without_nan(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


# -- the page ------------------------------------------------------------------------------------------------------------

STYLE = """
table{border-collapse:collapse;font-size:.9em;margin:1em 0}
td,th{padding:.2em .8em .2em 0;text-align:left;font-variant-numeric:tabular-nums;white-space:nowrap}
tr+tr td{border-top:1px solid rgba(128,128,128,.25)}
.wide{overflow-x:auto}
svg{width:100%;max-width:38rem;height:auto;font:12px system-ui,sans-serif}
svg text{fill:currentColor}
figure{display:inline-block;margin:.5em 1em .5em 0;vertical-align:top;max-width:100%}
@media (max-width:640px){figure{overflow-x:auto}svg{min-width:30rem}}
"""


def page(results: Results, sanity: Mapping[str, Mapping[str, str]] | None = None) -> str:
    """A self-contained page: the table, the curves, the paired tests, the settings; no network, no script."""
    names, rows, bold = table(results)
    settings = results.settings
    count = len(results.records[results.plan.methods[0]])
    accuracy = "" if results.accuracy is None else f" The model predicts {results.accuracy:.1%} of the labels."
    body = [
        f"<p>{escape(str(settings['model']))} on {count} examples of {escape(str(settings['data']))}; tokens are removed by "
        f"<b>{escape(str(settings['removal']))}</b>, watching the {_watched(results)}; means with 95 % bootstrap intervals, "
        f"the best in bold.{accuracy} A forward is the time of one plain forward pass.</p>",
        _table(names, rows, bold),
        *_charts(results),
        "<h2>The best against the others</h2>",
        "<p>Difference of means on the same examples, 95 % bootstrap interval, and p-value (two-sided, not corrected for "
        "the number of comparisons).</p>",
        _table(["metric", "best", "other", "difference", "p"], _paired(results), set()),
    ]
    if sanity:
        checks = list(next(iter(sanity.values())))
        body += ["<h2>Sanity</h2>", _table(["method", *checks], [[m, *by.values()] for m, by in sanity.items()], set())]
    told = {**settings, "seed": results.plan.seed, **versions()}
    body += ["<h2>Settings</h2>", _table(["", ""], [[name, str(value)] for name, value in told.items()], set())]
    title = f"Evaluation: {settings['model']}"
    return framed("\n".join(body), title, STYLE)


def _paired(results: Results) -> list[list[str]]:
    rows = []
    for name, pairs in results.comparisons.items():
        best = results.best(name)
        for other in results.plan.methods:
            if best is not None and (pair := _oriented(pairs, best, other)):
                rows.append([name, best, other, _difference(pairs, best, other), f"{pair.p:.4f}"])
    return rows


def _oriented(pairs: Mapping[tuple[str, str], Comparison], first: str, second: str) -> Comparison | None:
    """`first` minus `second`; each pair is stored in one order only."""
    if (first, second) in pairs:
        return pairs[first, second]
    turned = pairs.get((second, first))
    return turned and Comparison(-turned.difference, -turned.high, -turned.low, turned.p)


def _difference(pairs: Mapping[tuple[str, str], Comparison], first: str, second: str) -> str:
    """E.g. `+0.109 [+0.082, +0.135]`."""
    pair = _oriented(pairs, first, second)
    return "-" if pair is None else f"{pair.difference:+.3f} [{pair.low:+.3f}, {pair.high:+.3f}]"


def _table(names: Sequence[str], rows: Sequence[Sequence[str]], bold: set[tuple[int, int]]) -> str:
    head = "".join(f"<th>{escape(name)}</th>" for name in names)
    lines = []
    for number, row in enumerate(rows):
        cells = (
            f"<td><b>{escape(cell)}</b></td>" if (number, column) in bold else f"<td>{escape(cell)}</td>"
            for column, cell in enumerate(row)
        )
        lines.append(f"<tr>{''.join(cells)}</tr>")
    return f'<div class="wide"><table><tr>{head}</tr>{"".join(lines)}</table></div>'


def _watched(results: Results) -> str:
    """What the curves show, in words."""
    return "value that the model measures" if results.watched == "value" else "probability of the predicted class"


def _ticks(results: Results) -> list[float]:
    """Range of the vertical axis: 0 to 1 for a probability, around all curves for a value."""
    if results.watched == "probability":
        return [0, 0.25, 0.5, 0.75, 1]
    points = [point for by_side in results.curves.values() for curve in by_side.values() for point in curve]
    low, high = min(points), max(points)
    high = high if high > low else low + 1
    return [low + share * (high - low) for share in (0, 0.25, 0.5, 0.75, 1)]


def _charts(results: Results) -> list[str]:
    """The curves both ways, where a metric of the run read them."""
    if not all(results.curves.values()):
        return []
    return [
        _chart(results, "morf", "most relevant first: the lower the better"),
        _chart(results, "lerf", "least relevant first: the higher the better"),
    ]


def _chart(results: Results, side: str, caption: str) -> str:
    """The mean probability (or value) over the share removed, one line per method."""
    left, top, width, height = 44, 12, 330, 230
    methods, ticks = results.plan.methods, _ticks(results)

    def x(share: float) -> float:
        return left + share * width

    def y(level: float) -> float:
        return top + (1 - (level - ticks[0]) / (ticks[-1] - ticks[0])) * height

    parts = []
    for share, tick in zip((0, 0.25, 0.5, 0.75, 1), ticks, strict=True):
        parts.append(f'<path d="M{left} {y(tick):.1f}H{left + width}" stroke="currentColor" stroke-opacity=".15"/>')
        parts.append(f'<text x="{left - 6}" y="{y(tick) + 4:.1f}" text-anchor="end">{tick:.3g}</text>')
        parts.append(f'<text x="{x(share):.1f}" y="{top + height + 16}" text-anchor="middle">{share:.0%}</text>')
    for number, method in enumerate(methods):
        colour, dash = COLOURS[number % len(COLOURS)], DASHES[number // len(COLOURS) % len(DASHES)]
        stroke = f'stroke="{colour}" stroke-width="2" stroke-dasharray="{dash}"'
        points = " ".join(f"{x(s):.1f},{y(p):.1f}" for s, p in zip(STEPS, results.curves[method][side], strict=True))
        parts.append(f'<polyline points="{points}" fill="none" {stroke}><title>{escape(method)}</title></polyline>')
        line = top + 8 + 15 * number
        parts.append(f'<path d="M{left + width + 12} {line}h22" {stroke}/>')
        parts.append(f'<text x="{left + width + 40}" y="{line + 4}">{escape(method)}</text>')
    tall = max(top + height + 22, top + 15 * len(methods) + 8)
    label = f"mean {_watched(results)} while tokens are removed, {caption}"
    drawing = f'<svg viewBox="0 0 600 {tall}" role="img" aria-label="{label}">{"".join(parts)}</svg>'
    return f"<figure>{drawing}<figcaption>{caption}; {results.watched} over the share of tokens removed</figcaption></figure>"

"""A report: one page for one explanation or for many, which needs nothing but itself.

The words, the overlays, the legend, the probabilities and the notes are there without a script. The script that is on the
page (`report.js`; a policy on the page allows this one and nothing from outside) adds what has to move: views, bars, layers,
an opacity, and the order of the index. What comes from outside reaches it as data, never as markup.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from ..attribution import Attribution
from ..tokens import Interleaved
from . import html, wording
from .colour import DARK, LIGHT, WHITE, mix
from .html import escape
from .image import BLANK, OPACITY, POWER, STRIPES, THRESHOLD
from .wording import Piece

PAGE = (
    html.HEAD
    + """{style}</style>
</head>
<body>
<main class="attcat report">
<h1>{title}</h1>
{body}
</main>
<script type="application/json" id="data">{data}</script>
<script>{script}</script>
</body>
</html>
"""
)

CLASSES = 8
"""Classes whose probabilities are drawn, the most probable ones and the one that is explained."""

LAYERS = 400_000
"""Numbers of the layer views that a page holds; beyond it they are left out, and the page says so."""


def page(explanations: Sequence[Attribution], title: str | None = None, names: Sequence[str] | None = None) -> str:
    """A self-contained page: no network, pictures inside; light or dark as the reader prefers.

    Explanations of one input that follow one another (several classes) share a place, in which the class can be switched.

    Args:
        explanations: one or many, shown in this order.
        title: of the page.
        names: what the inputs are called, one per explanation; by default a text's first words.
    """
    given = names or [_name(one, at) for at, one in enumerate(explanations)]
    names = [_shortened(name, one.is_image) for name, one in zip(given, explanations, strict=True)]
    groups = _groups(explanations)
    fulls = _fulls(explanations)
    counted = "what decided the prediction" if len(groups) == 1 else f"what decided {len(groups)} predictions"
    layered = sum(one.layers.numel() for one in explanations) <= LAYERS
    many = len(groups) > 1
    places = [_place(number, group, names, fulls, many) for number, group in enumerate(groups, 1)]
    data = {
        "look": _look(),
        "items": [_data(one, full, layered) for one, full in zip(explanations, fulls, strict=True)],
    }
    left_out = (
        ""
        if layered
        else "<p>The layer views are left out of a page this large: save fewer explanations in a file.</p>"
    )
    index = _index(groups, names) + _legends(explanations, fulls) if many else ""
    style, moves = _asset("report.css"), script()
    return PAGE.format(
        title=escape(title or f"AttCAT: {counted}"),
        policy=html.policy(moves),
        style=html.STYLE + style,
        body="\n".join([index, *places, left_out, _origin(explanations)]),
        data=_json(data),
        script=moves,
    )


def script() -> str:
    """The script of every report, the only one that a policy has to allow."""
    return _asset("report.js")


@cache
def _asset(name: str) -> str:
    return (Path(__file__).parent / name).read_text(encoding="utf-8")


def _json(data: Any) -> str:
    """JSON that can stand inside a script element."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace("\r", "\\r").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")


# -- one scale, and which explanations belong together ---------------------------------------------------------------


def _fulls(explanations: Sequence[Attribution]) -> list[float]:
    """The score that gets the full colour, shared by all explanations of a kind: same model, same recipe."""
    kinds: dict[tuple[bool, str, str], list[Attribution]] = {}
    for one in explanations:
        kinds.setdefault((one.is_image, one.model, one.recipe), []).append(one)
    scales = {kind: wording.scale(*members) for kind, members in kinds.items()}
    return [scales[one.is_image, one.model, one.recipe] for one in explanations]


def _comparable(explanations: Sequence[Attribution]) -> str:
    """Among which of them equal colours are equal scores."""
    scales = {(one.is_image, one.model, one.recipe) for one in explanations}
    if len(scales) == 1:
        return "One scale for all: equal colours are equal scores."
    if len(scales) == len({is_image for is_image, *_ in scales}):
        return "One scale for the texts, another for the pictures: only within either are equal colours equal scores."
    return "A scale for each model and method: only within one of them are equal colours equal scores."


def _groups(explanations: Sequence[Attribution]) -> list[list[tuple[int, Attribution]]]:
    """Neighbours that explain several classes of one input."""
    numbered, start = [], 0
    for at, one in enumerate(explanations):
        if at and not _same_input(explanations[at - 1], one):
            start = at
        numbered.append((start, at, one))
    return [[(at, one) for _, at, one in group] for _, group in groupby(numbered, key=lambda entry: entry[0])]


def _same_input(one: Attribution, other: Attribution) -> bool:
    if one.source is None or type(one.source) is not type(other.source) or one.target == other.target:
        return False
    if one.recipe != other.recipe or one.tokens != other.tokens:
        return False
    if isinstance(one.source, Interleaved):
        return one.source == other.source
    return one.source is other.source or bool(np.array_equal(one.source, other.source))  # type: ignore[arg-type]


def _name(explanation: Attribution, number: int) -> str:
    if explanation.is_image:
        return f"picture {number + 1}"
    known = isinstance(explanation.source, str | tuple | Interleaved)
    return " | ".join(explanation.texts) if known else f"input {number + 1}"


def _shortened(name: str, path: bool) -> str:
    """The beginning of a text; of a path, the end."""
    if len(name) > SHORT:
        name = f"…{name[-SHORT:]}" if path else f"{name[:SHORT].rstrip()}…"
    return wording.one_line(name)


SHORT = 80
"""Characters of a text that name it."""


# -- the parts -------------------------------------------------------------------------------------------------------


def _index(groups: Sequence[Sequence[tuple[int, Attribution]]], names: Sequence[str]) -> str:
    rows = []
    for number, group in enumerate(groups, 1):
        at, one = group[0]
        chance = "" if one.probability is None else f"{one.probability:.1%}"
        link = f'<a href="#input-{number}">{escape(names[at])}</a>'
        rows.append(f"<tr><td>{number}</td><td>{link}</td><td>{escape(one.label)}</td><td>{chance}</td></tr>")
    head = "<tr><th>no.</th><th>input</th><th>label</th><th>probability</th></tr>"
    return f'<nav class="index" aria-label="Inputs"><table><thead>{head}</thead><tbody>{"".join(rows)}</tbody></table></nav>'


def _legends(explanations: Sequence[Attribution], fulls: Sequence[float]) -> str:
    """What the colours mean, once for each kind of input."""
    kinds = {one.is_image: (one, full) for one, full in zip(explanations, fulls, strict=True) if full}
    ends = "speaks against the class", "speaks for the class"
    if not any(one.class_specific for one in explanations):
        ends = wording.sides(explanations[0])
    bars = [
        html.legend(one, *ends, full, beyond=_any_beyond(explanations, fulls, kind))
        for kind, (one, full) in kinds.items()
    ]
    unseen = "".join(dict.fromkeys(html.unseen(one) for one in explanations if one.is_image))
    return f'<div class="legend">{"".join(bars)}{unseen}<p class="origin">{_comparable(explanations)}</p></div>'


def _any_beyond(explanations: Sequence[Attribution], fulls: Sequence[float], pictures: bool) -> bool:
    """True when a score of a picture, or of a text, exceeds the scale."""
    pairs = zip(explanations, fulls, strict=True)
    return any(wording.clipped(one, full) for one, full in pairs if one.is_image == pictures)


def _place(
    number: int, group: Sequence[tuple[int, Attribution]], names: Sequence[str], fulls: Sequence[float], many: bool
) -> str:
    """An input with its explanations, one for each class."""
    at, first = group[0]
    name = f'<p class="name">{escape(names[at])}</p>' if many and first.is_image else ""
    articles = [_article(at, one, fulls[at], not many) for at, one in group]
    return f'<section class="place" id="input-{number}">{name}{"".join(articles)}</section>'


def _article(at: int, explanation: Attribution, full: float, legend: bool) -> str:
    """First what a reader needs, last the numbers."""
    correction = wording.correction(explanation)
    head = f'<h2 class="label">{escape(wording.headline(explanation))}</h2>'
    gist = wording.gist(explanation)
    apart = wording.apart(explanation, full)
    key = html.key(explanation) if legend else ""
    parts = [
        head,
        f"<p>{escape(correction)}</p>" if correction else "",
        f'<p class="gist">{html.unbroken(escape(gist))}</p>' if gist else "",
        html.middle(explanation, full),
        key,
        _chances(explanation),
        *(f'<p class="note">{escape(note)}</p>' for note in wording.notes(explanation, full)),
        f'<p class="apart">{html.chips(apart)}</p>' if apart else "",
        html.table(explanation) if legend else "",
    ]
    return f'<article data-item="{at}">{"".join(parts)}</article>'


def _chances(explanation: Attribution) -> str:
    """The probabilities of the classes as bars, the explained one marked; nothing where there are none."""
    if explanation.activation == "none" or len(explanation.labels) < 2:
        return ""
    chances = explanation.probabilities.tolist()
    best = sorted(range(len(chances)), key=lambda index: -chances[index])
    shown = best[:CLASSES]
    if explanation.target is not None and explanation.target not in shown:
        shown = [*shown[:-1], explanation.target]
    rows = []
    for index in shown:
        marked = ' class="explained" aria-current="true"' if index == explanation.target else ""
        bar = f'<i style="width:{chances[index]:.1%}"></i>'
        rows.append(
            f"<li{marked}><span>{escape(explanation.labels[index])}</span>{bar}<b>{chances[index]:.1%}</b></li>"
        )
    rest = len(chances) - len(shown)
    more = f"<li><span>{rest} more</span></li>" if rest > 0 else ""
    return f'<ul class="chances" aria-label="Probabilities of the classes">{"".join(rows)}{more}</ul>'


def _origin(explanations: Sequence[Attribution]) -> str:
    """What an engineer needs: how the scores were made."""
    facts = [
        ("method", dict.fromkeys(one.recipe for one in explanations)),
        ("model", dict.fromkeys(one.model for one in explanations if one.model)),
        ("task", dict.fromkeys(one.task for one in explanations)),
        ("not read", _unread(explanations)),
        ("versions", [f"{name} {_version(name)}" for name in (*ALWAYS, *(n for n in PERHAPS if n in sys.modules))]),
        ("date", [time.strftime("%Y-%m-%d")]),
    ]
    rows = "".join(f"<dt>{name}</dt><dd>{escape('; '.join(told))}</dd>" for name, told in facts if told)
    said = "A score says how much a word or patch raised (+) or lowered (-) what the model computed for the class."
    if not any(one.class_specific for one in explanations):
        said = "A score says how much weight a word or patch has by this method, whatever the class."
    return (
        f"<footer><h2>How this was made</h2><p>{said} It shows what this model used, not what is true.</p>"
        f"<dl>{rows}</dl></footer>"
    )


ALWAYS, PERHAPS = ("attcat", "torch"), ("transformers", "timm")
"""Packages whose versions a page names: those of the program that wrote it, where it has loaded them."""


def _unread(explanations: Sequence[Attribution]) -> list[str]:
    """What the model did not see of its inputs, all together, and what it saw in parts."""
    cut = [one.dropped for one in explanations if one.dropped]
    hidden = sum(wording.has_blind_area(one) for one in explanations)
    parts = sum(bool(one.windows) for one in explanations)
    told = []
    if cut:
        told.append(f"{sum(cut)} tokens, cut from the end of {len(cut)} of {len(explanations)} inputs")
    if hidden:
        told.append(f"what lies outside of the crop of {hidden} of {len(explanations)} inputs")
    if parts:
        told.append(f"nothing as a whole of {parts} of {len(explanations)} inputs, which were read in windows")
    return told


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "(not installed)"


# -- what the script is given ----------------------------------------------------------------------------------------


def _look() -> dict[str, Any]:
    """The constants of `image.overlay`, which the script draws after."""
    return {
        "threshold": THRESHOLD,
        "power": POWER,
        "opacity": OPACITY,
        "stripes": STRIPES,
        "light": LIGHT,
        "dark": DARK,
        "line": mix(DARK, WHITE, 0.55),
        "blank": BLANK,
    }


def _data(explanation: Attribution, full: float, layered: bool) -> dict[str, Any]:
    told: dict[str, Any] = {"label": explanation.label, "full": full, "sides": explanation.class_specific}
    if explanation.is_image:
        view = explanation.view
        left, top, right, bottom = view.box
        told["grid"] = list(explanation.grid.shape)
        told["values"] = _rounded(explanation.grid.flatten().tolist())
        told["box"] = _rounded([left / view.width, top / view.height, right / view.width, bottom / view.height])
    elif wording.has_words(explanation):
        cuts = {"tokens": wording.tokens(explanation), "sentences": wording.sentences(explanation)}
        told["views"] = {name: _view(wording.cut(explanation, found, full)) for name, found in cuts.items()}
        if told["views"]["tokens"] == _view(wording.passages(explanation, full)):
            told["views"]["tokens"] = None  # no word is made of several
    if explanation.is_mixed:
        told["total"] = _rounded([float(explanation.scores.abs().sum())])[0]  # a word's share is of words and patches
    if layered and len(explanation.layers) > 1 and not explanation.is_video:
        told |= _layers(explanation.of_text() if explanation.is_mixed else explanation)
    return told


def _view(passages: list[list[Piece]]) -> list[list[float | None]]:
    """For each text its pieces: length, as JavaScript counts it, then score or null, and so on."""
    return [
        [entry for p in pieces for entry in (len(p.text.encode("utf-16-le", "surrogatepass")) // 2, _short(p.score))]
        for pieces in passages
    ]


def _short(score: float | None) -> float | None:
    return None if score is None else _rounded([score])[0]


def _layers(explanation: Attribution) -> dict[str, Any]:
    """Contributions `[L, T]` in thousandths of the largest magnitude; of a picture, only its patches'."""
    chosen = ~explanation.special if explanation.is_image else explanation.special | True
    layers = explanation.layers[:, chosen]
    top = float(layers.abs().max()) if layers.numel() else 0.0
    thousandths = (layers / top * 1000).round().int() if top else layers.int()
    told: dict[str, Any] = {"layers": thousandths.tolist(), "top": _rounded([top])[0]}
    if not explanation.is_image:
        told["tokens"] = _labels(explanation)
    return told


def _labels(explanation: Attribution) -> list[str | int]:
    """What the tokens are called; 0 where that is the next stretch of the view of tokens."""
    spans, special = explanation.tokens.spans, explanation.tokens.special
    if spans is None or not wording.has_words(explanation) or len(explanation.texts) > 1:
        return [label[:40] for label in explanation.tokens.labels]
    shown = {(token.start, token.end) for token in wording.tokens(explanation)}
    every = zip(explanation.tokens.labels, spans, special, strict=True)
    labels = [0 if span in shown and not apart else label[:40] for label, span, apart in every]
    return labels if labels.count(0) == len(shown) else [label[:40] for label in explanation.tokens.labels]


def _rounded(numbers: Sequence[float]) -> list[float]:
    return [float(f"{number:.3g}") for number in numbers]

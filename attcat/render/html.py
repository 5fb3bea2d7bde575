"""HTML: a fragment for a notebook, and the parts of a page.

The fragment takes the text colour of whatever surrounds it, and its highlights are translucent, so it needs not know
whether that is light or dark. The sign of a word is also in its underline, and every score is in a table, for readers
who do not see the colours. Everything that comes from outside passes `escape`.
"""

from __future__ import annotations

import base64
import hashlib
import html
import re
from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from ..attribution import Attribution
from ..files import encode_jpeg
from . import wording
from .colour import AGAINST, FAINT, FOR, css
from .image import overlay, ramp, sized
from .media import caption, is_media, panel
from .wording import Piece

WIDEST = 640
"""Longest side of an embedded picture, in pixels."""

STYLE = """
.attcat{font:15px/1.5 system-ui,sans-serif;max-width:72rem;margin:1em 0;overflow-wrap:anywhere}
.attcat p,.attcat figure{margin:.5em 0}
.attcat .label{font-size:1.3em;font-weight:600;margin-right:.6em}
.attcat .origin,.attcat figcaption,.attcat summary{opacity:.75;font-size:.9em}
.attcat .text{white-space:pre-wrap;font-size:1.1em;line-height:1.8;margin:.7em 0}
.attcat mark{color:inherit;border-radius:.2em;padding:.1em 0;print-color-adjust:exact;-webkit-print-color-adjust:exact;
-webkit-box-decoration-break:clone;box-decoration-break:clone}
.attcat .for{background:FOR;border-bottom:2px solid FOR}
.attcat .against{background:AGAINST;border-bottom:2px dashed AGAINST}
.attcat .about{outline:2px solid;outline-offset:2px;border-radius:.1em}
.attcat .chip{display:inline-block;border:1px solid rgba(128,128,128,.5);border-radius:.4em;padding:0 .4em;
font-size:.9em;margin:.15em .3em .15em 0}
.attcat .chip mark{white-space:pre-wrap;padding:.1em .2em}
.attcat .key{display:flex;flex-wrap:wrap;gap:.2em 1em;font-size:.9em;align-items:center}
.attcat .key mark{padding:.1em .4em}
.attcat .pictures{display:flex;flex-wrap:wrap;gap:1em}
.attcat .pictures figure{flex:0 1 auto;min-width:0}
.attcat img{max-width:100%;height:auto;display:block}
.attcat .bar{width:min(24rem,100%)}
.attcat .bar i{display:block;height:1em;border-radius:.2em;print-color-adjust:exact;-webkit-print-color-adjust:exact}
.attcat .bar span{display:flex;justify-content:space-between}
.attcat .unseen{display:inline-block;width:2em;height:1em;vertical-align:-.1em;margin-right:.4em;
background:repeating-linear-gradient(135deg,#7d7d7d 0 2px,#444 2px 8px)}
.attcat table{border-collapse:collapse;margin:.5em 0;font-size:.9em}
.attcat td,.attcat th{padding:.1em .8em .1em 0;text-align:left;white-space:pre-wrap;background:none}
.attcat td:last-child{text-align:right;font-variant-numeric:tabular-nums}
.attcat .methods td{vertical-align:top;border-top:1px solid rgba(128,128,128,.3)}
.attcat .methods td:last-child{text-align:left}
.attcat .methods td:first-child{white-space:nowrap}
.attcat .pair{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,20rem),1fr));gap:0 2em}
""".replace("AGAINST", css(AGAINST)).replace("FOR", css(FOR))
"""Of a fragment. The strength of a word, 0 to 1, is its `--s`."""

HEAD = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
{policy}
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>{title}</title>
<style>
"""
"""How every page begins, up to its own style."""

PAGE = (
    HEAD
    + """:root{{color-scheme:light dark;background:#fff;color:#111}}
@media (prefers-color-scheme:dark){{:root{{background:#111;color:#f4f4f4}}}}
body{{margin:0 auto;max-width:72rem;padding:1rem 1.5rem;font-family:system-ui,sans-serif}}
h1{{font-size:1.4rem;margin:.4em 0}}
article+article{{border-top:1px solid rgba(128,128,128,.4);padding-top:.5em}}
{style}</style>
</head>
<body>
<main>
<h1>{heading}</h1>
{body}
</main>
</body>
</html>
"""
)


def rules(script: str) -> str:
    """The Content-Security-Policy of a page: nothing from outside, and no script but this one, if it is not empty."""
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    allowed = f"'sha256-{digest}'" if script else "'none'"
    return (
        "default-src 'none'; img-src data:; style-src 'unsafe-inline'; "
        f"script-src {allowed}; base-uri 'none'; form-action 'none'"
    )


def policy(script: str) -> str:
    """The same as an element of the page's head."""
    return f'<meta http-equiv="Content-Security-Policy" content="{rules(script)}">'


def framed(body: str, title: str, style: str = STYLE, script: str = "") -> str:
    """A whole page around `body`, which may hold this one script."""
    return PAGE.format(title=escape(title), heading=escape(title), style=style, body=body, policy=policy(script))


def fragment(explanation: Attribution) -> str:
    """What a notebook shows: one explanation with its own style, in the text colour of its surroundings."""
    return f"<style>{STYLE}</style>{_body(explanation)}"


def escape(text: str) -> str:
    """Make a string safe between tags and inside quotes; the reader gets it character for character."""
    return html.escape(text).replace("\r", "&#13;")  # a parser would turn a bare carriage return into a line end


def unbroken(text: str) -> str:
    """Escaped text whose percentages stay on one line."""
    return re.sub(r"(?<=\d) %", "&nbsp;%", text)


# -- the parts, in reading order -------------------------------------------------------------------------------------


def _body(explanation: Attribution) -> str:
    parts = [
        header(explanation),
        f"<p>{unbroken(escape(wording.shares(explanation)))}</p>" if explanation.is_mixed else "",
        middle(explanation),
        key(explanation),
        _apart(explanation),
        _notes(explanation),
        table(explanation),
    ]
    return f'<div class="attcat">{"".join(parts)}</div>'


def middle(explanation: Attribution, full: float | None = None) -> str:
    """What was explained, coloured: a picture, a sound or a video as pixels, a text as words."""
    if is_media(explanation):
        what = f"{wording.coloured(explanation)}: {explanation.label}; {wording.gist(explanation)}"
        return picture(panel(explanation, full), what, caption(explanation), "overlay")
    if explanation.is_mixed:
        full = wording.scale(explanation) if full is None else full
        drawn = [
            pictures(part, full, "input" if explanation.pictures == 1 else wording.picture_name(explanation, number))
            for number, part in wording.maps(explanation)
        ]
        return "".join([*drawn, texts(explanation, full)])
    return pictures(explanation, full) if explanation.is_image else texts(explanation, full)


def header(explanation: Attribution, origin: str | None = None) -> str:
    """The class and its probability, what was predicted if that differs, and how the scores were made."""
    correction = wording.correction(explanation)
    more = f"<span>{escape(correction)}</span>" if correction else ""
    label = f'<span class="label">{escape(wording.headline(explanation))}</span>'
    return (
        f'<p>{label}{more}</p><p class="origin">{escape(wording.origin(explanation) if origin is None else origin)}</p>'
    )


def texts(explanation: Attribution, full: float | None = None) -> str:
    """The text with its words coloured, or its tokens where the words are not known."""
    if not wording.has_words(explanation):
        return f"<p>{chips(wording.chips(explanation, full))}</p>"
    passages = wording.passages(explanation, full)
    both = [_passage(pieces, name) for pieces, name in zip(passages, wording.names(explanation), strict=True)]
    return both[0] if len(both) == 1 else f'<div class="pair">{"".join(f"<div>{one}</div>" for one in both)}</div>'


def _passage(pieces: Iterable[Piece], name: str) -> str:
    above = f'<p class="origin">{name}</p>' if name else ""
    return f'{above}<div class="text" dir="auto">{"".join(_piece(piece) for piece in pieces)}</div>'


def _piece(piece: Piece) -> str:
    """A word with its exact score as tooltip; coloured where the colour can be seen; framed if the prediction is about it."""
    if piece.marked:
        return f'<span class="about">{_piece(replace(piece, marked=False))}</span>'
    if piece.score is None:
        return escape(piece.text)
    told = f'title="{wording.number(piece.score, 4)}"'
    if abs(piece.strength) < FAINT:
        return f"<span {told}>{escape(piece.text)}</span>"
    return mark(piece.text, piece.strength, told)


def mark(text: str, signed: float, told: str = "") -> str:
    """Coloured by strength; the underline, which tells the sign without colour, fades with it."""
    side = "for" if signed > 0 else "against"
    return f'<mark class="{side}" style="--s:{abs(signed):.2g}"{told and " "}{told}>{escape(text)}</mark>'


def chips(pieces: Iterable[Piece]) -> str:
    """Tokens that stand apart, each with its score."""
    return "".join(
        f'<span class="chip">{_piece(piece)} {wording.number(piece.score or 0.0)}</span>' for piece in pieces
    )


def key(explanation: Attribution, *, scale: bool = True) -> str:
    """What the colours mean, and what full strength is."""
    against, supports = wording.sides(explanation)
    full = wording.scale(explanation) if scale else None
    beyond = bool(full and wording.clipped(explanation, full))
    return legend(explanation, against, supports, full, beyond) + unseen(explanation)


def legend(explanation: Attribution, against: str, supports: str, full: float | None, beyond: bool = False) -> str:
    """The two colours with their names, and the score that gets the full colour, if it is to be said.

    Args:
        explanation: of the kind that the colours are for.
        against: what one colour means.
        supports: what the other one means.
        full: the score that gets the full colour.
        beyond: whether some scores are stronger.
    """
    if explanation.is_image or explanation.is_mixed or is_media(explanation):
        return _bar(against, supports, full, beyond)
    more = " or more" if beyond else ""
    value = f"<span>full colour = {wording.number(full)[1:]}{more}</span>" if full else ""
    return f'<p class="key">{mark(against, -1.0)}{mark(supports, 1.0)}{value}</p>'


def _bar(against: str, supports: str, full: float | None, beyond: bool) -> str:
    """The colours of the overlay on a neutral ground, as `image.tinted` lays them."""
    stops = ",".join(f"rgb({red},{green},{blue})" for red, green, blue in ramp(33))
    less, more = ("≤ ", "≥ ") if beyond else ("", "")
    low, high = (less + wording.number(-full), more + wording.number(full)) if full else ("0", "0")
    numbers = "" if full is None else f"<span><b>{low}</b><b>0</b><b>{high}</b></span>"
    return (
        f'<div class="key"><div class="bar"><span><b>{escape(against)}</b><b>{escape(supports)}</b></span>'
        f'<i style="background:linear-gradient(90deg,{stops})"></i>{numbers}</div></div>'
    )


def unseen(explanation: Attribution) -> str:
    """What the hatching means, if there is any."""
    if not (explanation.is_image or explanation.is_mixed) or not wording.has_blind_area(explanation):
        return ""
    return '<p class="key"><span><span class="unseen"></span>not seen by the model</span></p>'


def _apart(explanation: Attribution) -> str:
    pieces = wording.apart(explanation)
    return f"<p>{chips(pieces)}</p>" if pieces else ""


def _notes(explanation: Attribution) -> str:
    return "".join(f"<p>{escape(note)}</p>" for note in wording.notes(explanation))


def table(explanation: Attribution) -> str:
    """Every score of a text, for those who cannot use colours or tooltips."""
    if explanation.is_image or explanation.is_video:
        return ""
    passages = wording.passages(explanation) if wording.has_words(explanation) else [wording.chips(explanation)]
    every = [piece for pieces in passages for piece in pieces if piece.score is not None]
    rows = "".join(
        f"<tr><td>{escape(piece.text)}</td><td>{wording.number(piece.score or 0.0, 6)}</td></tr>" for piece in every
    )
    head = f"<tr><th>{wording.unit(explanation)[0]}</th><th>score</th></tr>"
    return f"<details><summary>scores as a table</summary><table>{head}{rows}</table></details>"


# -- pictures --------------------------------------------------------------------------------------------------------


def pictures(explanation: Attribution, full: float | None = None, name: str = "input") -> str:
    """The input and the overlay; the heatmap alone when the pixels are not known."""
    small = sized(explanation, WIDEST)
    shown = wording.coloured(explanation)
    what = f"heatmap of {shown}: {explanation.label}; {wording.strongest(explanation)}"
    figures = [picture(overlay(small, full), what, shown, "overlay")]
    if isinstance(small.source, np.ndarray):
        figures.insert(0, picture(small.source, "the picture that was explained", name, "photo"))
    return f'<div class="pictures">{"".join(figures)}</div>'


def picture(pixels: np.ndarray, alternative: str, caption: str, name: str = "") -> str:
    """A figure whose pixels are inside the page."""
    address = f"data:image/jpeg;base64,{base64.b64encode(encode_jpeg(pixels)).decode()}"
    size = f'width="{pixels.shape[1]}" height="{pixels.shape[0]}"'
    image = f'<img src="{address}" {size} alt="{escape(alternative)}">'
    kind = f' class="{name}"' if name else ""
    return f"<figure{kind}>{image}<figcaption>{escape(caption)}</figcaption></figure>"

"""Figures for papers, with matplotlib (extra `plot`): words in place, a picture under its heatmap, contributions by block,
methods side by side, curves of an evaluation, what the words of an answer came from.

Everything that can be is drawn as vectors; the heatmap of a picture has the picture's own pixels.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ..attribution import Attribution
from ..errors import InputError
from . import wording
from .colour import AGAINST, FAINT, FOR, FULL, RGB, hue, mix
from .image import PLAIN, Look, overlay, panels_of, ramp
from .media import is_media, panel
from .wording import Piece

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

PAPER: RGB = (255, 255, 255)
ACROSS = 4
"""Pictures in a row."""
WORDS, BAR = 0.42, 0.16
"""Of axes that hold words and pictures: where the pictures begin above the words, and where the words begin above the scale."""
LINE = 0.26
"""Inches from a line of words to the next."""
DASHES = ("-", "--", ":", "-.")
FONTS: dict[Any, Any] = {"pdf.fonttype": 42, "ps.fonttype": 42, "svg.fonttype": "path"}
"""Fonts are embedded as outlines that stay text (PDF) or as paths (SVG)."""


def plot(explanation: Attribution, ax: Axes | None = None, *, layers: bool = False, look: Look = PLAIN) -> Axes:
    """Draw an explanation on axes of matplotlib.

    Args:
        explanation: of a text, a picture, or both.
        ax: where to; by default a new figure of pyplot. Words and pictures together are drawn on axes within it.
        layers: the contributions of each block instead: a heat table of tokens, or for a picture the patches' sum.
        look: how the heatmap of a picture is drawn.

    Raises:
        InputError: if matplotlib is not installed, a picture's pixels are not known, or the contributions of blocks are of
            words and pictures.
    """
    if explanation.is_mixed and layers:
        raise InputError(
            "contributions by block are of words or of a picture, and this Explanation is of both: plot those of .of_text() and "
            ".of_image(0) one by one"
        )
    own = ax is None
    if ax is None:
        _, ax = _pyplot().subplots(figsize=_size(explanation, layers), layout=_layout(explanation, layers))
    if layers:
        (_block_sums if explanation.is_image or is_media(explanation) else _heat_table)(explanation, ax)
    elif explanation.is_mixed:
        _mixed(explanation, ax, look)
    elif explanation.is_image or is_media(explanation):
        _picture(explanation, ax, look)
    else:
        _words(explanation, ax, key=True)
        if own:
            _heighten(ax)
    ax.set_title(_plain(wording.headline(explanation)), loc="left", fontsize="medium")
    return ax


def _pyplot() -> Any:
    try:
        from matplotlib import pyplot
    except ImportError as error:
        raise InputError("plot() needs matplotlib: pip install 'attcat[plot]'") from error
    return pyplot


def side_by_side(explanations: Sequence[Attribution], names: Sequence[str]) -> Figure:
    """A figure with an axes for each explanation: texts below each other, pictures four in a row.

    Args:
        explanations: of one input, by several methods.
        names: what stands above each.

    Raises:
        InputError: as `plot`.
    """
    picture = explanations[0].is_image
    across = min(ACROSS, len(explanations)) if picture else 1
    down = -(-len(explanations) // across)
    width, height = _size(explanations[0], False)
    size = (2.2 * across, 2.5 * down) if picture else (width, height * down)
    figure, axes = _pyplot().subplots(
        down, across, figsize=size, squeeze=False, layout="constrained" if picture else None
    )
    for ax in axes.flat:
        ax.set_axis_off()
    words = not any(one.is_image or one.is_mixed or is_media(one) for one in explanations)
    for number, (explanation, name, ax) in enumerate(zip(explanations, names, axes.flat, strict=False), 1):
        _words(explanation, ax, key=number == len(names)) if words else plot(explanation, ax)
        ax.set_title(_plain(name), loc="left", fontsize="small")
    if words:
        _heighten(*axes.flat)
    figure.suptitle(_plain(wording.headline(explanations[0])), fontsize="medium")
    return figure


def curves(lines: Mapping[str, Sequence[float]], steps: Sequence[float], watched: str, ax: Axes | None = None) -> Axes:
    """What becomes of a prediction while tokens are removed, a line for each method.

    Args:
        lines: from a method to the mean at each step.
        steps: shares of the tokens that are removed, 0 to 1.
        watched: what falls, e.g. `probability`.
        ax: where to; by default a new figure of pyplot.

    Raises:
        InputError: if matplotlib is not installed.
    """
    if ax is None:
        _, ax = _pyplot().subplots(figsize=(4.0, 3.0), layout="constrained")
    for number, (name, values) in enumerate(lines.items()):
        ax.plot(
            [100 * step for step in steps], values, DASHES[number // 8 % len(DASHES)], label=_plain(name), linewidth=1.2
        )
    ax.set_xlabel("tokens removed (%)")
    ax.set_ylabel(f"{watched}, mean over examples")
    ax.legend(fontsize="x-small", frameon=False)
    return ax


def table(strengths: np.ndarray, rows: Sequence[str], columns: Sequence[str], ax: Axes | None = None) -> Axes:
    """Strengths in [-1, 1] as a heat table with names, `[rows, columns]`.

    Args:
        strengths: one for each row and column.
        rows: what stands on the left.
        columns: what stands above, upright.
        ax: where to; by default a new figure of pyplot.

    Raises:
        InputError: if matplotlib is not installed.
    """
    if ax is None:
        _, ax = _pyplot().subplots(figsize=table_size(len(rows), len(columns)), layout="constrained")
    mesh = ax.pcolormesh(strengths, cmap=_diverging(), vmin=-1, vmax=1, edgecolors="white", linewidth=0.4)
    ax.invert_yaxis()
    ax.set_yticks(np.arange(len(rows)) + 0.5, [_plain(name) for name in rows], fontsize="small")
    ax.set_xticks(np.arange(len(columns)) + 0.5, [_plain(name) for name in columns], fontsize="small", rotation=90)
    ax.xaxis.tick_top()
    ax.tick_params(length=0)
    ax.xaxis.set_label_position("bottom")
    ax.set_xlabel("each row in parts of its strongest", loc="left", fontsize="small")
    bar = ax.figure.colorbar(mesh, ax=ax, ticks=[-1, 0, 1])
    bar.ax.set_yticklabels(["against", "0", "for"], fontsize="small")
    return ax


def table_size(rows: int, columns: int) -> tuple[float, float]:
    """Inches of a heat table."""
    return 2.2 + 0.22 * columns, 1.4 + 0.22 * rows


def _diverging() -> Any:
    """From against through white to for."""
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("attcat", [_unit(AGAINST), (1.0, 1.0, 1.0), _unit(FOR)])


def pdf(explanation: Attribution, look: Look = PLAIN) -> bytes:
    """The plot as the content of a PDF file with its fonts embedded.

    Raises:
        InputError: as `plot`.
    """

    def draw(ax: Axes) -> None:
        plot(explanation, ax, look=look)
        if not (explanation.is_image or explanation.is_mixed or is_media(explanation)):
            _heighten(ax)

    return printed(draw, _size(explanation, False), _layout(explanation, False))


def printed(draw: Callable[[Axes], object], size: tuple[float, float], layout: Literal["constrained"] | None) -> bytes:
    """What is drawn on axes as the content of a PDF file with its fonts embedded.

    Args:
        draw: draws on the axes that it is given.
        size: inches.
        layout: of matplotlib.

    Raises:
        InputError: if matplotlib is not installed.
    """
    try:
        from matplotlib import figure as figures
        from matplotlib import rc_context
    except ImportError as error:
        raise InputError("a .pdf file needs matplotlib: pip install 'attcat[plot]'") from error
    figure = figures.Figure(figsize=size, layout=layout)
    buffer = io.BytesIO()
    with rc_context(FONTS):
        draw(figure.add_subplot())
        figure.savefig(buffer, format="pdf", bbox_inches="tight", metadata={"CreationDate": None})
    return buffer.getvalue()


def _layout(explanation: Attribution, layers: bool) -> Literal["constrained"] | None:
    """Axes with numbers need a layout; words are measured in place, and a layout would move them afterwards."""
    return "constrained" if explanation.is_image or is_media(explanation) or layers else None


def _size(explanation: Attribution, layers: bool) -> tuple[float, float]:
    """Inches: a column's width for pictures, a page's for texts."""
    if explanation.is_image:
        return 4.0, 3.4
    if explanation.is_mixed:
        return 6.5, 5.2
    if is_media(explanation):
        return 6.5, 2.4 if explanation.is_sound else 6.0
    return (6.5, 0.6 + 0.17 * len(explanation.tokens)) if layers else (6.5, 1.6)


def _plain(text: str) -> str:
    """What matplotlib would take for mathematics is shown as it is."""
    return wording.one_line(text).replace("$", r"\$")


def _unit(colour: RGB) -> tuple[float, float, float]:
    red, green, blue = (part / 255 for part in colour)
    return red, green, blue


# -- texts -----------------------------------------------------------------------------------------------------------


def _heighten(*axes: Axes) -> None:
    """A figure of our own as high as its lines of words need."""
    from matplotlib.figure import Figure

    figure = axes[0].figure
    assert isinstance(figure, Figure)
    last = min(ax.get_ylim()[0] for ax in axes)
    for ax in axes:
        ax.set_ylim(last, ax.get_ylim()[1])
    lines = (axes[0].get_ylim()[1] - last) / axes[0].get_position().height
    figure.set_size_inches(figure.get_size_inches()[0], LINE * lines)


def _words(explanation: Attribution, ax: Axes, key: bool = False) -> None:
    """The words in place, line by line, on coloured grounds; what speaks against the class has a dashed edge.

    Args:
        explanation: of a text, or of words with pictures.
        ax: where to.
        key: whether a last line says what the colours mean.
    """
    ax.set_axis_off()
    ax.set_xlim(0, 1)
    ax.set_ylim(-1, 1)
    known = wording.has_words(explanation)
    passages = wording.passages(explanation) if known else [wording.chips(explanation)]
    if key:
        against, supports = wording.sides(explanation)
        passages = [*passages, [Piece(against, -1.0, -1.0), Piece("   "), Piece(supports, 1.0, 1.0)]]
    y, height = 0.0, 1.0
    for pieces in passages:
        x = 0.0
        for piece in _unbroken(pieces) if known else pieces:
            text = piece.text if known else f"{piece.text} "
            if text.isspace():
                x += 0.012 if x else 0.0
                continue
            drawn = ax.text(x, y, _plain(text.strip()), va="center", ha="left", **_ground(piece))
            box = drawn.get_window_extent().transformed(ax.transAxes.inverted())
            if x and x + box.width > 1:
                x, y = 0.0, y - height
                drawn.set_position((x, y))
            x += box.width
        y -= height
    ax.set_ylim(y, height * 0.6)


def _unbroken(pieces: list[Piece]) -> list[Piece]:
    """Pieces without a score are cut where a line may break."""
    cut: list[Piece] = []
    for piece in pieces:
        if piece.score is not None:
            cut.append(piece)
            continue
        for part in piece.text.split(" "):
            cut += [Piece(part)] if part.strip() else []
            cut.append(Piece(" "))
        cut = cut[:-1] if not piece.text.endswith(" ") else cut
    return cut


def _ground(piece: Piece) -> dict[str, Any]:
    if abs(piece.strength) < FAINT:
        return {}
    colour = _unit(mix(PAPER, hue(piece.strength), FULL * abs(piece.strength)))
    edge = (
        {"edgecolor": _unit(AGAINST), "linestyle": "--", "linewidth": 0.6} if piece.strength < 0 else {"linewidth": 0}
    )
    return {"bbox": {"boxstyle": "round,pad=0.12", "facecolor": colour, **edge}}


def _heat_table(explanation: Attribution, ax: Axes) -> None:
    """Tokens by blocks."""
    values = explanation.layers.T.numpy()
    full = float(np.abs(values).max()) or 1.0
    mesh = ax.pcolormesh(values, cmap=_diverging(), vmin=-full, vmax=full, edgecolors="white", linewidth=0.4)
    ax.invert_yaxis()
    labels = [_plain(label) for label in explanation.tokens.labels]
    ax.set_yticks(np.arange(len(labels)) + 0.5, labels, fontsize="small")
    ax.set_xticks(np.arange(values.shape[1]) + 0.5, [str(at + 1) for at in range(values.shape[1])], fontsize="small")
    ax.set_xlabel("block")
    ax.tick_params(length=0)
    ax.figure.colorbar(mesh, ax=ax, label=_plain(" / ".join(wording.sides(explanation))))


# -- pictures --------------------------------------------------------------------------------------------------------


def _picture(explanation: Attribution, ax: Axes, look: Look) -> None:
    pixels = panel(explanation, look=look) if is_media(explanation) else overlay(panels_of(explanation)[0], look=look)
    ax.imshow(pixels, interpolation="none")
    ax.set_axis_off()
    ax.figure.colorbar(_scale(explanation), ax=ax, orientation="horizontal", shrink=0.8, **_ends(explanation))


def _mixed(explanation: Attribution, ax: Axes, look: Look) -> None:
    """The pictures under their maps beside each other, the words below, and one scale for all."""
    ax.set_axis_off()
    full, maps = wording.scale(explanation), wording.maps(explanation)
    floor = WORDS if wording.has_words(explanation) else BAR
    for at, (number, part) in enumerate(maps):
        inner = ax.inset_axes((at / len(maps), floor, 0.98 / len(maps), 0.95 - floor))
        inner.imshow(overlay(panels_of(part)[0], full, look), interpolation="none")
        inner.set_axis_off()
        if len(maps) > 1:
            inner.set_title(wording.picture_name(explanation, number), fontsize="small")
    if wording.has_words(explanation):
        _words(explanation, ax.inset_axes((0, BAR + 0.02, 1, WORDS - BAR - 0.04)))
    below = ax.inset_axes((0.1, BAR - 0.05, 0.8, 0.03))
    ax.figure.colorbar(_scale(explanation), cax=below, orientation="horizontal", **_ends(explanation))


def _scale(explanation: Attribution) -> Any:
    """The colours of the scores."""
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import ListedColormap, Normalize

    full = wording.scale(explanation)
    return ScalarMappable(Normalize(-full or -1, full or 1), ListedColormap([_unit(colour) for colour in ramp(64)]))


def _ends(explanation: Attribution) -> dict[str, Any]:
    """What a colour bar says of its ends."""
    extend = "both" if wording.clipped(explanation) else "neither"
    return {"extend": extend, "label": _plain(" / ".join(wording.sides(explanation)))}


def _block_sums(explanation: Attribution, ax: Axes) -> None:
    sums = explanation.layers[:, ~explanation.special].sum(1).numpy()
    colours = [_unit(hue(value)) for value in sums]
    ax.bar(np.arange(len(sums)) + 1, sums, color=colours, hatch=["" if value > 0 else "///" for value in sums])
    ax.axhline(0, color="black", linewidth=0.6)
    ax.set_xlabel("block")
    ax.set_ylabel(f"sum over {wording.unit(explanation)[1]}")

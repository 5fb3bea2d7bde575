"""Drawing: in the terminal, as HTML, as pictures. Nothing here runs a model."""

from . import comparison, generation, summary, terminal
from .html import fragment
from .image import Look
from .media import figure, png
from .notebook import progress, show
from .plot import curves, pdf, plot, side_by_side
from .report import page
from .svg import svg
from .terminal import highlight

__all__ = [
    "Look",
    "comparison",
    "curves",
    "figure",
    "fragment",
    "generation",
    "highlight",
    "page",
    "pdf",
    "plot",
    "png",
    "progress",
    "show",
    "side_by_side",
    "summary",
    "svg",
    "terminal",
]

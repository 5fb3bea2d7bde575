"""Drawing: in the terminal, as HTML, as pictures. Nothing here runs a model."""

from . import comparison, generation, terminal
from .html import fragment
from .image import Look
from .media import figure, png
from .notebook import show
from .plot import pdf, plot
from .report import page
from .svg import svg
from .terminal import highlight

__all__ = [
    "Look",
    "comparison",
    "figure",
    "fragment",
    "generation",
    "highlight",
    "page",
    "pdf",
    "plot",
    "png",
    "show",
    "svg",
    "terminal",
]

"""Drawing: in the terminal, as HTML, as pictures. Nothing here runs a model."""

from . import comparison, generation, terminal
from .html import fragment, page
from .image import figure
from .notebook import show
from .terminal import highlight

__all__ = ["comparison", "figure", "fragment", "generation", "highlight", "page", "show", "terminal"]

"""Drawing: terminal, HTML, figures. Reads an Explanation and nothing else."""

from .html import fragment, page
from .image import figure
from .notebook import show
from .terminal import highlight

__all__ = ["figure", "fragment", "highlight", "page", "show"]

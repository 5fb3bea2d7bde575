"""Drawing: terminal, HTML, figures. Reads an Explanation, or a Comparison of several, and nothing else."""

from .comparison import figure as comparison_figure
from .comparison import fragment as comparison_fragment
from .comparison import page as comparison_page
from .html import fragment, page
from .image import figure
from .notebook import show, show_comparison
from .terminal import highlight

__all__ = [
    "comparison_figure",
    "comparison_fragment",
    "comparison_page",
    "figure",
    "fragment",
    "highlight",
    "page",
    "show",
    "show_comparison",
]

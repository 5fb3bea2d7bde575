"""Where the user is: in a notebook or in a terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from ..explanation import Explanation
from . import comparison, terminal

if TYPE_CHECKING:
    from ..comparison import Comparison

Shown = TypeVar("Shown")


def show(explanation: Explanation) -> None:
    """Show an explanation as HTML in a notebook, else print it to the terminal.

    In a terminal a text is printed with its words highlighted, a picture as a small copy with the heatmap over it.
    """
    _show(explanation, terminal.show)


def show_comparison(compared: Comparison) -> None:
    """Show a comparison as HTML in a notebook, else print a row for each method."""
    _show(compared, comparison.show)


def _show(result: Shown, printed: Callable[[Shown], None]) -> None:
    if in_notebook():
        from IPython.display import display

        display(result)  # type: ignore[no-untyped-call]  # asks it for _repr_html_
    else:
        printed(result)


def in_notebook() -> bool:
    """True in an IPython that has a front end to show HTML; the IPython of a terminal has none."""
    ipython = sys.modules.get("IPython")  # who did not import it does not run in it
    shell = ipython.get_ipython() if ipython else None
    return getattr(shell, "kernel", None) is not None

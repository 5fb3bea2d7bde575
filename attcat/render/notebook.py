"""Where the user is: in a notebook or in a terminal."""

from __future__ import annotations

import sys

from ..explanation import Explanation
from . import terminal


def show(explanation: Explanation) -> None:
    """Show an explanation as HTML in a notebook, else print it to the terminal.

    In a terminal a text is printed with its words highlighted, a picture as a small copy with the heatmap over it.
    """
    if in_notebook():
        from IPython.display import display

        display(explanation)  # type: ignore[no-untyped-call]  # asks it for _repr_html_
    else:
        terminal.show(explanation)


def in_notebook() -> bool:
    """True in an IPython that has a front end to show HTML; the IPython of a terminal has none."""
    ipython = sys.modules.get("IPython")  # who did not import it does not run in it
    shell = ipython.get_ipython() if ipython else None
    return getattr(shell, "kernel", None) is not None

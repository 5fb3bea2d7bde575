"""Where the user is: in a notebook or in a terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any


def show(result: Any, in_terminal: Callable[[], None]) -> None:
    """Show a result as HTML in a notebook, which asks it for `_repr_html_`; else call what prints it to the terminal."""
    if in_notebook():
        from IPython.display import display

        display(result)  # type: ignore[no-untyped-call]
    else:
        in_terminal()


def in_notebook() -> bool:
    """True in an IPython that has a front end to show HTML; the IPython of a terminal has none."""
    ipython = sys.modules.get("IPython")  # who did not import it does not run in it
    shell = ipython.get_ipython() if ipython else None
    return getattr(shell, "kernel", None) is not None

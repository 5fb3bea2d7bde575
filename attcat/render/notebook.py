"""Where the user is: in a notebook or in a terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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


SOON, EVERY = 1.0, 0.5
"""Seconds before a bar is shown, as what is done at once needs none; and between two states of it."""


@contextmanager
def progress(total: int) -> Iterator[Callable[[int], None]]:
    """A function that is told how many more of `total` inputs are explained.

    In a notebook a bar follows it, an element of the page like every output, and vanishes when all is done. Elsewhere a call
    shows nothing: a library does not write into the terminal of a program that uses it.
    """
    if total < 2 or not in_notebook():
        yield lambda more: None
        return
    bar = _Bar(total)
    try:
        yield bar.advance
    finally:
        bar.close()


class _Bar:
    """A bar in the output of a cell."""

    def __init__(self, total: int) -> None:
        self._total, self._done = total, 0
        self._next = time.monotonic() + SOON
        self._handle: Any = None

    def advance(self, more: int) -> None:
        self._done += more
        if time.monotonic() < self._next or self._done >= self._total:
            return
        self._next = time.monotonic() + EVERY
        told = f"explained {self._done} of {self._total}"
        self._show(f'<progress max="{self._total}" value="{self._done}"></progress> {told}', told)

    def close(self) -> None:
        if self._handle is not None:
            self._show("", "")

    def _show(self, html: str, text: str) -> None:
        from IPython.display import display

        data = {"text/html": html, "text/plain": text}
        if self._handle is None:
            self._handle = display(data, raw=True, display_id=True)  # type: ignore[no-untyped-call]
        else:
            self._handle.update(data, raw=True)

"""What the user gets: lines, tables and progress on the terminal, and files."""

from __future__ import annotations

import errno
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import OptionError, visible

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress


def write_file(path: Path, write: Callable[[Path], object]) -> None:
    """Call `write(path)`; if it cannot be written, that is for the user to fix.

    Raises:
        OptionError: if the system refuses.
    """
    try:
        write(path)
    except OSError as error:
        raise OptionError(f"cannot write {path}: {error.strerror or error}; choose another --output") from error


def check_name(output: str) -> None:
    """Before any work: could a file be called that?

    Raises:
        OptionError: if it could not.
    """
    try:
        os.lstat(output)
    except ValueError as error:
        raise OptionError(
            f"--output {output!a} cannot be the name of a file: {error}; choose another --output"
        ) from error
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            raise OptionError(f"--output {output[:40]!a}... ({len(output)} characters) is too long a name") from error


class Writer:
    """Writes files beside the model: while the next input is explained, the last one is drawn and written."""

    AHEAD = 8
    """Files that may wait; an explanation that holds a photograph is large."""

    def __init__(self) -> None:
        self._started = False
        self._pool = ThreadPoolExecutor(1)
        self._waiting: deque[Future[None]] = deque()

    def __enter__(self) -> Writer:
        return self

    def write(self, path: Path, write: Callable[[Path], object]) -> None:
        """As `write_file`: the first at once, as it shows whether the place can be written, the others later.

        What an earlier file raised is raised here.
        """
        if not self._started:
            self._started = True
            write_file(path, write)
            return
        self._waiting.append(self._pool.submit(write_file, path, write))
        while len(self._waiting) > self.AHEAD or (self._waiting and self._waiting[0].done()):
            self._waiting.popleft().result()

    def __exit__(self, kind: object, *_: object) -> None:
        self._pool.shutdown(cancel_futures=kind is not None)
        while kind is None and self._waiting:
            self._waiting.popleft().result()


def print_table(
    names: Sequence[str], rows: Sequence[Sequence[str]], bold: Collection[tuple[int, int]] = (), head: bool = False
) -> None:
    """A table on a terminal; in a pipe one line per row, columns separated by tabs.

    Args:
        names: the columns' names.
        rows: their cells.
        bold: rows and columns of cells that stand out on a terminal.
        head: whether the names are also written to a pipe.
    """
    from rich.table import Column, Table
    from rich.text import Text

    console = console_for_results()
    if not console.is_terminal:
        rows = [names, *rows] if head else rows
        print("\n".join("\t".join(row).replace("\n", ", ") for row in rows))
        return
    table = Table(*(Column(name, overflow="fold") for name in names))
    for number, row in enumerate(rows):
        table.add_row(*(Text(cell, "bold" if (number, column) in bold else "") for column, cell in enumerate(row)))
    console.print(table)


def one_line(text: str) -> str:
    """The text on one line, with control characters made visible."""
    return visible("".join(" " if character.isspace() else character for character in text))


def console_for_results() -> Console:
    """Stdout, with nothing in a text taken for markup."""
    from rich.console import Console

    return Console(highlight=False, markup=False, emoji=False)


@contextmanager
def progress(total: int, show: Callable[[Any], None]) -> Iterator[Callable[[Any], None]]:
    """Give back `show`; with a bar on stderr that follows it, if someone is looking and there is a wait.

    If no one is looking, a line every few seconds says how far it is.
    """
    bar = _bar("explaining") if total > 1 else None
    if bar is None:
        say = _said("explaining", total)

        def show_and_say(line: Any) -> None:
            show(line)
            say(1)

        yield show_and_say
        return
    with bar:
        task = bar.add_task("", total=total)

        def show_and_advance(line: Any) -> None:
            bar.stop()  # the bar is cleared, so that a line on the same screen is not drawn into it
            show(line)
            bar.advance(task)
            bar.start()

        yield show_and_advance


@contextmanager
def counting(doing: str, total: int) -> Iterator[Callable[[int], None]]:
    """A function that is told how many more of `total` are done; with a bar on stderr, or a line every few seconds."""
    bar = _bar(doing)
    if bar is None:
        yield _said(doing, total)
        return
    with bar:
        task = bar.add_task("", total=total)
        yield lambda done: bar.advance(task, done)


EVERY = 5.0
"""Seconds between two lines about progress, where there is no terminal to draw a bar on."""


def _said(doing: str, total: int) -> Callable[[int], None]:
    """What is done is counted, and said on stderr now and then; nothing about what takes only seconds."""
    done, last = 0, 0.0

    def say(more: int) -> None:
        nonlocal done, last
        last = last or time.monotonic()  # the first one pays for what is loaded
        done += more
        if done < total and time.monotonic() - last >= EVERY:
            last = time.monotonic()
            print(f"attcat: {doing} {done} of {total}", file=sys.stderr, flush=True)

    return say


def _bar(doing: str) -> Progress | None:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    console = Console(stderr=True)
    if not console.is_terminal:
        return None
    columns = (doing, BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    # rich would redirect stdout to the bar's console, which is stderr: results must go where they belong.
    return Progress(*columns, console=console, transient=True, redirect_stdout=False, redirect_stderr=False)

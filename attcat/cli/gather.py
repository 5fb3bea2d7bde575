"""From what stands on the command line to inputs one by one: texts, pictures, folders, tables, stdin.

Inputs are independent: one that cannot be read is `Bad`, and the others go on.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import AttCATError, InputError, OptionError
from ..files import PICTURES
from .inputs import TABULAR, Item, read
from .output import one_line
from .wording import in_shell, unexpected

if TYPE_CHECKING:
    from ..evaluation.tables import Table

KINDS = ("lines", "tsv", "csv", "jsonl", "parquet")
"""What stdin can hold."""


@dataclass(frozen=True)
class Asked:
    """How inputs are to be read.

    Args:
        pair: the second text of all.
        choices: the choices of all.
        text_column: of tables, the column with the text; None to find it.
        pair_column: the column with the second text.
        stdin: one of `KINDS`; None to find out.
        question: about all pictures.
    """

    pair: str | None = None
    choices: Sequence[str] | None = None
    text_column: str | None = None
    pair_column: str | None = None
    stdin: str | None = None
    question: str | None = None


@dataclass(frozen=True)
class Bad:
    """An input that cannot be explained: where it stands, and why."""

    place: str
    error: Exception

    def __str__(self) -> str:
        """Both on one line."""
        reason = in_shell(self.error) if isinstance(self.error, AttCATError) else unexpected(self.error)
        return one_line(reason if reason.startswith(self.place) else f"{self.place}: {reason}")


def gather(inputs: Sequence[str], asked: Asked) -> Iterator[Item | Bad]:
    """Every input: `-` stands for stdin, a folder for the pictures in it, a table for its rows.

    Raises:
        InputError: if stdin, a folder or a table holds nothing, or a table cannot be read as a whole.
        OptionError: if options contradict each other, or a table has no column of that name.
    """
    for value in inputs:
        if value == "-":
            yield from _stdin(asked)
        elif is_table(value):
            yield from _rows(_table(value, asked), asked)
        elif os.path.isdir(value):
            yield from (_read(path, asked, path) for path in _pictures_in(value))
        else:
            yield _argument(value, asked)


def report(bad: Bad) -> None:
    """A line on stderr about an input that is skipped."""
    print(f"attcat: {bad}; skipped", file=sys.stderr)


def only_good(given: Iterable[Item | Bad]) -> list[Item]:
    """The inputs, where one that cannot be read ends the work.

    Raises:
        AttCATError: what is wrong with the first that cannot be.
    """
    found = []
    for one in given:
        if isinstance(one, Bad):
            raise one.error
        found.append(one)
    return found


def is_table(value: str) -> bool:
    """Whether it is the path of a table that exists."""
    return Path(value).suffix.lower() in TABULAR and os.path.isfile(value)


def _read(value: str, asked: Asked, place: str) -> Item | Bad:
    place = one_line(place)[:80] if place.strip() else repr(one_line(place)[:80])
    try:
        return replace(read(value, asked.pair, asked.choices, asked.question), place=place)
    except InputError as error:
        return Bad(place, error)


def _argument(value: str, asked: Asked) -> Item | Bad:
    """As on stdin; but what is a file is not taken for a text."""
    try:
        _check_file(value)
    except InputError as error:
        return Bad(one_line(value)[:80], error)
    return _read(value, asked, value)


def _check_file(value: str) -> None:
    if os.path.isfile(value) and not Path(value).suffix:
        raise InputError(
            f"{value} is a file, but not a picture ({' '.join(PICTURES)}): "
            f"to explain each of its lines, attcat explain - < {value}; "
            f"to explain its name as a text, echo {value} | attcat explain -"
        )


def _pictures_in(folder: str) -> list[str]:
    try:
        entries = sorted(str(path) for path in Path(folder).iterdir() if path.suffix.lower() in PICTURES)
    except OSError as error:
        raise InputError(f"the folder {folder} cannot be read: {error.strerror or error}") from error
    found = [path for path in entries if not os.path.isdir(path)]
    if not found:
        raise InputError(
            f"{folder} is a folder, and has no pictures in it ({' '.join(PICTURES)}): give pictures, or a folder of them; "
            f"to explain it as a text, echo {folder} | attcat explain -"
        )
    return found


# -- stdin -----------------------------------------------------------------------------------------------------------


def _stdin(asked: Asked) -> Iterator[Item | Bad]:
    """The rows of a table, or texts and paths, one per line."""
    from ..evaluation.tables import table_in

    data = _piped()
    if asked.stdin != "lines":
        table = table_in(data, "stdin", _columns(asked), f".{asked.stdin}" if asked.stdin else None)
        if table is not None:
            yield from _rows(table, asked)
            return
    try:
        content = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"stdin is not text in UTF-8: {error}") from error
    lines = [line.strip() for line in re.split(r"\r\n|\r|\n", content)]
    if not any(lines):
        raise InputError("stdin is empty: give one text or path per line")
    yield from (_read(line, asked, f"stdin, line {number}") for number, line in enumerate(lines, 1) if line)


def _piped() -> bytes:
    """All of stdin."""
    source = getattr(sys.stdin, "buffer", None)
    data: bytes = sys.stdin.read().encode("utf-8", "surrogatepass") if source is None else source.read()
    return data


# -- tables ----------------------------------------------------------------------------------------------------------


def _columns(asked: Asked) -> Any:
    from ..evaluation.tables import Columns

    return Columns(text=asked.text_column, pair=asked.pair_column)


def _table(path: str, asked: Asked) -> Table:
    from ..evaluation.tables import read_table

    return read_table(Path(path), _columns(asked))


def _rows(table: Table, asked: Asked) -> Iterator[Item | Bad]:
    """The texts of a table; which columns they were found in is said on stderr."""
    if not table.columns:
        raise InputError(f"{table.name} is empty: expected a line for each text")
    columns = table.choose(_columns(asked))
    if asked.text_column is not None and asked.pair_column is None:
        columns = replace(columns, pair=None)  # what was named is meant, and no more
    if columns.pair is not None and (asked.pair is not None or asked.choices):
        raise OptionError(f"{table.name} has a second text in {columns.pair!r}: leave out --pair and --choice")
    if asked.question is not None:
        raise OptionError(
            f"{table.name} holds texts: --question is asked about pictures, give paths or a folder of them"
        )
    if asked.text_column is None:
        print(f"attcat: {one_line(table.said(columns))}", file=sys.stderr)
    empty = True
    for line, value in table.texts(columns):
        empty, place = False, table.where(line)
        if isinstance(value, InputError):
            yield Bad(place, value)
        elif isinstance(value, str) and asked.choices:
            yield Item((value, list(asked.choices)), place)
        else:
            yield Item((value, asked.pair) if isinstance(value, str) and asked.pair is not None else value, place)
    if empty:
        raise InputError(f"{table.name} holds no texts, only the names of columns: expected a line for each text")

"""Tables of texts: .tsv, .csv, .jsonl and .parquet, one reader for everything that takes them.

A row is good or bad by itself: a table gives a line number with each, and either its fields or what is wrong with it. The caller
decides whether a bad row is passed over or ends the work. What is wrong with the table as a whole is raised at once.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from ..errors import InputError, OptionError
from ..model.text import half_at

TEXT = ("text", "sentence", "sentence1", "premise", "question", "question1", "review", "document")
PAIR = ("pair", "text2", "sentence2", "hypothesis", "question2", "context")
LABEL = ("label", "class", "gold", "target", "category")
SPANS = ("spans", "span", "rationale", "rationales", "evidence")
NUMBER = ("id", "idx", "index", "guid")

NESTED = 100
"""How deeply a line of .jsonl may be nested."""


@dataclass(frozen=True)
class Columns:
    """The names of a table's columns; None to look for the usual names.

    Args:
        text: the text that is explained.
        pair: the second text.
        label: the gold label, a class name or number.
        spans: gold spans, half-open characters: `[[3, 8], ...]` or `3:8 10:14`; a third number is the text of a pair.
    """

    text: str | None = None
    pair: str | None = None
    label: str | None = None
    spans: str | None = None


Row = tuple[int, Mapping[str, Any] | InputError]
"""The line on which a row begins, from 1 (in .parquet the row), and its fields, or what is wrong with it."""


@dataclass(frozen=True)
class Table:
    """Rows under names.

    Args:
        name: of the file, for messages.
        columns: the names, in order.
        rows: one by one, read when they are asked for.
        headed: whether the names stood in the file; otherwise they are ours.
        unit: what is counted, for messages.
    """

    name: str
    columns: tuple[str, ...]
    rows: Iterable[Row]
    headed: bool = True
    unit: str = "line"

    def choose(self, wanted: Columns) -> Columns:
        """Which columns are read: those that are named, and of the others those with usual names.

        Raises:
            OptionError: if a named column does not exist.
            InputError: if no column, or more than one, can be the text.
        """
        given = {name: self._named(getattr(wanted, name)) for name in ("text", "pair", "label", "spans")}
        usual = {"pair": PAIR, "label": LABEL, "spans": SPANS}
        found = {name: given[name] or next(iter(self.usual(names)), None) for name, names in usual.items()}
        return Columns(given["text"] or self._text(), **found)

    def said(self, columns: Columns) -> str:
        """Which columns were found to be the texts, in a line."""
        pair = "" if columns.pair is None else f", the second text {columns.pair!r}"
        others = [name for name in self.columns if name not in (columns.text, columns.pair)]
        about = f" (not read: {', '.join(others)})" if others else ""
        return f"{self.name}: the text is column {columns.text!r}{pair}{about}{'' if self.headed else '; no header'}"

    def texts(self, columns: Columns) -> Iterator[tuple[int, str | tuple[str, str] | InputError]]:
        """Each row's line, and its text or pair of texts, or what is wrong with it."""
        for line, row in self.rows:
            try:
                yield line, self.text(line, row, columns)
            except InputError as error:
                yield line, error

    def text(self, line: int, row: Mapping[str, Any] | InputError, columns: Columns) -> str | tuple[str, str]:
        """The text of a row, or the pair of texts.

        Raises:
            InputError: what is wrong with it.
        """
        if isinstance(row, InputError):
            raise row
        names = [name for name in (columns.text, columns.pair) if name is not None]
        parts = [_text(row, name, self.where(line)) for name in names]
        return parts[0] if len(parts) == 1 else (parts[0], parts[1])

    def where(self, line: int) -> str:
        """A place in the table, for messages."""
        return f"{self.name}, {self.unit} {line}"

    def _named(self, given: str | None) -> str | None:
        if given is not None and given not in self.columns:
            raise OptionError(f"{self.name} has no column {given!r}: it has {', '.join(self.columns) or 'none'}")
        return given

    def usual(self, names: Sequence[str]) -> list[str]:
        """The columns that have one of these names, the first of these first."""
        return [column for name in names for column in self.columns if column.lower() == name]

    def _text(self) -> str:
        found = self.usual(TEXT) or (list(self.columns) if len(self.columns) == 1 else [])
        if len(found) == 1:
            return found[0]
        what = f"several columns that could be the text ({', '.join(found)})" if found else "no column for the text"
        raise InputError(
            f"{self.name} has {what} among {', '.join(self.columns) or 'none'}: name it with --text-column, "
            "or in Python with Columns(text=...)"
        )


def _text(row: Mapping[str, Any], name: str, where: str) -> str:
    """A field that is a text.

    Raises:
        InputError: if there is no such field, or it is something else, empty, or not valid Unicode.
    """
    if name not in row:
        raise InputError(f"{where}: there is no {name!r}, only {', '.join(row) or 'nothing'}")
    value = row[name]
    if not isinstance(value, str):
        raise InputError(f"{where}: {name!r} is {shown(value)}, expected a text")
    if not value.strip():
        raise InputError(f"{where}: the text is empty")
    if half_at(value) is not None:
        raise InputError(f"{where}: {name!r} has half of a surrogate pair: it is not valid Unicode")
    return value


def shown(value: Any) -> str:
    """A field in a message, no longer than a few words."""
    try:
        found = json.dumps(value, default=str)
    except (ValueError, RecursionError):
        found = f"a {type(value).__name__}"
    return found if len(found) <= 40 else f"{found[:37]}..."


# -- files -------------------------------------------------------------------------------------------------------------


def read_table(path: Path, columns: Columns | None = None) -> Table:
    """Open a table; its suffix says what it is.

    Raises:
        InputError: if it is no table, cannot be read, or names two columns alike.
        OptionError: if a named column does not exist, or pyarrow is not installed for .parquet.
    """
    suffix = path.suffix.lower()
    if suffix not in TABLES:
        raise InputError(f"{path.name} is not one of {', '.join(TABLES)}")
    if suffix == ".parquet":
        return _parquet(path, path.name)  # a part at a time
    try:
        return TABLES[suffix](path.read_bytes(), path.name, columns or Columns())
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror or error}") from error


def table_in(data: bytes, name: str, columns: Columns | None = None, kind: str | None = None) -> Table | None:
    """The table in some bytes without a suffix, as they come from a pipe; None if they are plain lines.

    A first line that is a JSON object announces .jsonl, one with tabs .tsv. Commas stand in every text: they announce .csv only
    if the first line is a header with a usual name, or with the one that is asked for.

    Args:
        data: the content.
        name: for messages.
        columns: the columns that are asked for.
        kind: the suffix, if it is known.

    Raises:
        InputError: if it cannot be read.
    """
    columns = columns or Columns()
    kind = kind or _kind(data, name, columns)
    return None if kind is None else TABLES[kind](data, name, columns)


def _kind(data: bytes, name: str, columns: Columns) -> str | None:
    if data.startswith(b"PAR1"):
        return ".parquet"
    first = next((line for line in _decoded(data, name).split("\n") if line.strip()), "").strip("\r")
    if first.lstrip().startswith("{"):
        try:
            return ".jsonl" if isinstance(_object(first), dict) else None
        except InputError:
            return ".jsonl" if first.rstrip().endswith("}") and '"' in first else None
    if "\t" in first:
        return ".tsv"
    names = first.split(",")
    known = {*TEXT, *filter(None, [columns.text])}
    spaced = any(name != name.strip() for name in names)  # a sentence has spaces after its commas
    return ".csv" if len(names) > 1 and not spaced and known & {*names, *map(str.lower, names)} else None


def _decoded(data: bytes, name: str) -> str:
    """UTF-8, with or without a byte-order mark."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{name} is not text in UTF-8: {error}") from error


def _delimited(data: bytes, name: str, columns: Columns, tabs: bool) -> Table:
    file = io.StringIO(_decoded(data, name), newline="")
    # In a .tsv, a quotation mark is an ordinary character.
    reader = csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE) if tabs else csv.reader(file)
    rows = _numbered(reader, name)
    first = next(rows, None)
    if first is None:
        return Table(name, (), ())
    names = [field.strip() for field in first[1]]
    headed = _heading(names, columns)
    if headed:
        _check_names(names, name)
    elif columns != Columns():
        asked = next(filter(None, (columns.text, columns.pair, columns.label, columns.spans)))
        raise OptionError(f"{name} has no column {asked!r}: its first line is {names[:6]}")
    else:
        if len(names) > 3:
            raise InputError(f"{name} has {len(names)} columns and no header: name one {TEXT[0]!r}, one {LABEL[0]!r}")
        names = [[TEXT[0]], [TEXT[0], LABEL[0]], [TEXT[0], PAIR[0], LABEL[0]]][len(names) - 1]
        rows = chain([first], rows)
    return Table(name, tuple(names), _fields(rows, names, name), headed)


def _heading(names: Sequence[str], columns: Columns) -> bool:
    """Whether the fields of a first line are names: one is asked for, or usual."""
    asked = [columns.text, columns.pair, columns.label, columns.spans]
    if any(name is not None for name in asked):
        return any(name in names for name in asked if name is not None)
    return bool({name.lower() for name in names} & {*TEXT, *PAIR, *LABEL, *SPANS, *NUMBER})


def _numbered(reader: Any, name: str) -> Iterator[tuple[int, list[str]]]:
    """Rows that are not empty, and the lines on which they begin."""
    while True:
        line = reader.line_num + 1
        try:
            row = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            raise InputError(f"{name}, line {line}: cannot be read: {error}") from error
        if any(field.strip() for field in row):
            yield line, row


def _fields(rows: Iterable[tuple[int, list[str]]], names: Sequence[str], name: str) -> Iterator[Row]:
    for line, row in rows:
        if len(row) == len(names):
            yield line, dict(zip(names, row, strict=True))
        else:
            yield (
                line,
                InputError(f"{name}, line {line}: {len(row)} columns, expected {len(names)} ({', '.join(names)})"),
            )


def _check_names(names: Sequence[str], name: str) -> None:
    twice = sorted({one for one in names if names.count(one) > 1})
    if twice:
        raise InputError(f"{name} has two columns called {twice[0]!r}: rename one of them")


def _tsv(data: bytes, name: str, columns: Columns) -> Table:
    return _delimited(data, name, columns, tabs=True)


def _csv(data: bytes, name: str, columns: Columns) -> Table:
    return _delimited(data, name, columns, tabs=False)


def _json_lines(data: bytes, name: str, columns: Columns) -> Table:
    rows = _objects(_decoded(data, name), name)
    seen: list[Row] = []
    names: tuple[str, ...] = ()
    for row in rows:  # the first good one names the columns
        seen.append(row)
        if not isinstance(row[1], InputError):
            names = tuple(row[1])
            break
    if seen and not names and isinstance(seen[0][1], InputError):
        raise seen[0][1]
    return Table(name, names, chain(seen, rows))


def _objects(text: str, name: str) -> Iterator[Row]:
    for line, content in enumerate(text.split("\n"), 1):  # other line breaks may stand inside of a string
        if not content.strip():
            continue
        try:
            found = _object(content)
            if not isinstance(found, dict):
                raise InputError(f"expected one object per line, got a {type(found).__name__}")
            yield line, found
        except InputError as error:
            yield line, InputError(f"{name}, line {line}: {error}")


def _object(content: str) -> Any:
    """What a line of JSON holds.

    Raises:
        InputError: if it is not JSON, nested too deeply, or has a key twice.
    """
    if _depth(content) > NESTED:
        raise InputError(f"nested more than {NESTED} deep")
    try:
        return json.loads(content, object_pairs_hook=_unlike)
    except InputError:
        raise
    except (ValueError, RecursionError) as error:  # also a number of thousands of digits
        raise InputError(f"cannot be read as JSON: {error}") from error


def _unlike(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise InputError(f"the key {next(one for one in names if names.count(one) > 1)!r} stands there twice")
    return found


def _depth(content: str) -> int:
    """How deep the brackets are nested, outside of strings."""
    depth = most = 0
    for bracket in re.findall(r'"(?:[^"\\]++|\\.)*+"?|[\[{\]}]', content):
        if bracket in "[{":
            depth += 1
            most = max(most, depth)
        elif bracket in "]}":
            depth -= 1
    return most


def open_parquet(source: Any, name: str) -> Any:
    """A `pyarrow.parquet.ParquetFile`.

    Args:
        source: a path, or a file that is open.
        name: for messages.

    Raises:
        InputError: if it cannot be read as Parquet.
        OptionError: if pyarrow is not installed.
    """
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise OptionError("a .parquet file needs pyarrow: pip install 'attcat[frame]'") from error
    try:
        return parquet.ParquetFile(source)
    except (pyarrow.ArrowException, OSError) as error:
        raise InputError(f"{name} cannot be read as Parquet: {error}") from error


def _parquet(source: Any, name: str) -> Table:
    import pyarrow

    file = open_parquet(source, name)
    names = tuple(file.schema_arrow.names)
    _check_names(names, name)

    def rows() -> Iterator[Row]:
        line = 0
        try:
            for batch in file.iter_batches(batch_size=1024):
                for row in batch.to_pylist():
                    line += 1
                    yield line, row
        except (pyarrow.ArrowException, OSError) as error:
            raise InputError(f"{name}, after row {line}: cannot be read as Parquet: {error}") from error

    return Table(name, names, rows(), unit="row")


TABLES: Mapping[str, Callable[[bytes, str, Columns], Table]] = {
    ".tsv": _tsv,
    ".csv": _csv,
    ".jsonl": _json_lines,
    ".parquet": lambda data, name, _: _parquet(io.BytesIO(data), name),
}
"""From a suffix to what reads the content of such a file."""

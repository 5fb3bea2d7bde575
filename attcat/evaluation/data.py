"""Reading a dataset: tables of texts, folders of pictures, datasets of the Hugging Face hub."""

from __future__ import annotations

import csv
import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..errors import InputError, OptionError
from ..model.picture import PICTURES

TEXT = ("text", "sentence", "sentence1", "premise", "question", "question1", "review", "document")
PAIR = ("pair", "text2", "sentence2", "hypothesis", "question2", "context")
LABEL = ("label", "class", "gold", "target", "category")
SPANS = ("spans", "span", "rationale", "rationales", "evidence")


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


@dataclass(frozen=True)
class Example:
    """One input of a dataset.

    Args:
        value: a text, a pair of texts, a path or a picture.
        label: its gold class, a name or a number, if known.
        spans: gold spans of characters, if known.
    """

    value: Any
    label: str | int | None = None
    spans: tuple[tuple[int, ...], ...] | None = None


@dataclass(frozen=True)
class Dataset:
    """Examples and where they come from.

    Args:
        name: of the file, folder or dataset.
        examples: in the order of the source.
        pictures: whether they are pictures.
        fingerprint: of the content; an evaluation is resumable only on the same content.
    """

    name: str
    examples: tuple[Example, ...]
    pictures: bool
    fingerprint: str


def read_dataset(source: str, columns: Columns | None = None, *, split: str = "validation") -> Dataset:
    """Read a dataset.

    A `.tsv` or `.csv` file whose first line names a column for the text has a header; without one, its columns are text
    and label, or two texts and label, or the text alone. A `.jsonl` file has one object per line. A folder has one folder
    of pictures per class. Anything else is taken for a dataset on the Hugging Face hub, `owner/name` or
    `name:configuration`.

    Args:
        source: a file, a folder or a name.
        columns: the names of columns, where they are not the usual ones.
        split: of a dataset from the hub.

    Raises:
        InputError: if it cannot be read, has no texts or pictures, or the number of columns differs between lines.
        OptionError: if a named column does not exist, or `datasets` is not installed.
    """
    path, wanted = Path(source), columns or Columns()
    if path.is_dir():
        return _folder(path)
    if path.is_file():
        readers = {".tsv": _table, ".csv": _table, ".jsonl": _json_lines}
        if path.suffix.lower() not in readers:
            raise InputError(f"{path.name} is not one of {', '.join(readers)}, nor a folder of pictures by class")
        try:
            examples = tuple(readers[path.suffix.lower()](path, wanted))
        except (UnicodeDecodeError, csv.Error, json.JSONDecodeError) as error:
            raise InputError(f"{path} cannot be read: {error}") from error
        return _dataset(path.name, examples, hashlib.sha256(path.read_bytes()).hexdigest())
    if path.suffix or source.startswith((".", "/", "~")) or not re.fullmatch(r"[\w.-]+(/[\w.-]+)?(:[\w.-]+)?", source):
        raise InputError(f"no such file or folder: {source}")
    return _hub(source, wanted, split)


def _dataset(name: str, examples: tuple[Example, ...], fingerprint: str) -> Dataset:
    if not examples:
        raise InputError(f"{name} holds no examples")
    return Dataset(name, examples, not isinstance(examples[0].value, (str, tuple)), fingerprint)


def _folder(path: Path) -> Dataset:
    files = sorted(file for file in path.glob("*/*") if file.suffix.lower() in PICTURES)
    if not files:
        raise InputError(f"{path} holds no pictures: expected one folder per class, e.g. {path.name}/cat/1.jpg")
    told = "\n".join(f"{file.parent.name}/{file.name} {file.stat().st_size}" for file in files)
    fingerprint = hashlib.sha256(told.encode()).hexdigest()
    return _dataset(path.name, tuple(Example(file, file.parent.name) for file in files), fingerprint)


def _table(path: Path, columns: Columns) -> Iterator[Example]:
    tabs = path.suffix.lower() == ".tsv"
    with path.open(encoding="utf-8-sig", newline="") as file:
        # In a .tsv, a quotation mark is an ordinary character.
        rows = list(csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE) if tabs else csv.reader(file))
    rows = [row for row in rows if any(field.strip() for field in row)]
    if not rows:
        return
    names = [field.strip() for field in rows[0]]
    if columns.text in names or (columns.text is None and {name.lower() for name in names} & set(TEXT)):
        rows = rows[1:]
    elif columns != Columns():
        raise OptionError(f"{path.name} has no column {columns.text or TEXT[0]!r}: its first line is {names[:6]}")
    else:
        if len(names) > 3:
            raise InputError(
                f"{path.name} has {len(names)} columns and no header: name one {TEXT[0]!r}, one {LABEL[0]!r}"
            )
        names = [[TEXT[0]], [TEXT[0], LABEL[0]], [TEXT[0], PAIR[0], LABEL[0]]][len(names) - 1]
    for number, row in enumerate(rows):
        if len(row) != len(names):
            raise InputError(
                f"{path.name}, row {number + 1}: {len(row)} columns, expected {len(names)} ({', '.join(names)})"
            )
    yield from _examples((dict(zip(names, row, strict=True)) for row in rows), names, columns, path.name)


def _json_lines(path: Path, columns: Columns) -> Iterator[Example]:
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    if not all(isinstance(row, dict) for row in rows):
        raise InputError(f"{path.name}: expected one object per line")
    yield from _examples(rows, list(rows[0]) if rows else [], columns, path.name)


def _hub(source: str, columns: Columns, split: str) -> Dataset:
    try:
        import datasets
    except ImportError as error:
        raise OptionError(
            f"no file or folder {source!r} here; a dataset from the hub needs datasets: pip install 'attcat[datasets]'"
        ) from error
    name, _, configuration = source.partition(":")
    try:
        table = datasets.load_dataset(name, configuration or None, split=split)
    except Exception as error:  # datasets raises whatever its many parts raise
        raise InputError(f"the dataset {source!r} cannot be loaded: {' '.join(str(error).split())[:200]}") from error
    label = columns.label or _usual(list(table.column_names), LABEL)
    names = getattr(table.features.get(label), "names", None) if label else None
    picture = next((n for n in table.column_names if n in ("image", "img", "picture")), None)
    found: Iterable[Example]
    if picture is not None and columns.text is None:
        found = (Example(row[picture], row[label] if label else None) for row in table)
    else:
        found = _examples(table, list(table.column_names), columns, source)
    if names:
        found = (replace(e, label=names[e.label] if isinstance(e.label, int) and e.label >= 0 else None) for e in found)
    fingerprint = str(getattr(table, "_fingerprint", source))
    return _dataset(f"{source} ({split})", tuple(found), fingerprint)


def _examples(
    rows: Iterable[Mapping[str, Any]], names: Sequence[str], columns: Columns, source: str
) -> Iterator[Example]:
    text, pair, label, spans = (
        _column(names, given, usual, source)
        for given, usual in ((columns.text, TEXT), (columns.pair, PAIR), (columns.label, LABEL), (columns.spans, SPANS))
    )
    if text is None:
        raise InputError(
            f"{source} has no column for the text among {', '.join(names) or 'none'}: rename it, or say which one it is"
        )
    for number, row in enumerate(rows):
        value = str(row[text]) if pair is None else (str(row[text]), str(row[pair]))
        if not all(part.strip() for part in ((value,) if isinstance(value, str) else value)):
            raise InputError(f"{source}, row {number + 1}: the text is empty")
        given = None if spans is None else _spans(row[spans], f"{source}, row {number + 1}")
        yield Example(value, None if label is None else row[label], given)


def _column(names: Sequence[str], given: str | None, usual: Sequence[str], source: str) -> str | None:
    if given is not None and given not in names:
        raise OptionError(f"{source} has no column {given!r}: it has {', '.join(names) or 'none'}")
    return given or _usual(names, usual)


def _usual(names: Sequence[str], usual: Sequence[str]) -> str | None:
    lower = {name.lower(): name for name in names}
    return next((lower[name] for name in usual if name in lower), None)


def _spans(value: Any, where: str) -> tuple[tuple[int, ...], ...] | None:
    """Gold spans from `[[3, 8]]`, its JSON, or `3:8 10:14`; None for an empty field."""
    given = value
    try:
        if isinstance(value, str):
            text = value.strip()
            value = (
                json.loads(text)
                if text.startswith("[")
                else [part.split(":") for part in re.split(r"[\s;]+", text) if part]
            )
        if value and not isinstance(value[0], (list, tuple)):
            value = [value]
        return tuple(tuple(int(number) for number in span) for span in value or ()) or None
    except (TypeError, ValueError) as error:
        raise InputError(
            f"{where}: {given!r} are not spans: write [[start, end], ...] or start:end start:end"
        ) from error

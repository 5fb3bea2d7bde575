"""Reading a dataset: tables of texts, folders of pictures, datasets of the Hugging Face hub."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..errors import InputError, OptionError
from ..model.picture import PICTURES
from .tables import LABEL, Columns, Table, read_table, shown

PICTURE = "picture"
"""The column of a table that makes its texts questions about pictures."""
BOXES = ("boxes", "box", "bboxes")

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Example:
    """One input of a dataset.

    Args:
        value: a text, a pair of texts, a path or a picture, or a path and a question about the picture.
        label: its gold class, a name or a number, if known.
        spans: gold spans of characters (of the question), if known.
        boxes: where on the picture the evidence lies, each left, top, right, bottom in its pixels, if known.
    """

    value: Any
    label: str | int | None = None
    spans: tuple[tuple[int, ...], ...] | None = None
    boxes: tuple[Box, ...] | None = None


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

    A `.tsv` or `.csv` file whose first line has a usual name (or one that was given) has a header; without one, its columns
    are text and label, or two texts and label, or the text alone. A `.jsonl` file has one object per line, a `.parquet` file
    a row per example. With a column `picture`, paths relative to the table, each text is a question about a picture; then
    `answer` is also the name of a label, and `boxes` may say where the evidence lies. A folder has one folder of pictures per
    class. Anything else is taken for a dataset on the Hugging Face hub, `owner/name` or `name:configuration`.

    Args:
        source: a file, a folder or a name.
        columns: the names of columns, where they are not the usual ones.
        split: of a dataset from the hub.

    Raises:
        InputError: if it cannot be read, has no texts or pictures, or a row is bad.
        OptionError: if a named column does not exist, or `datasets` is not installed.
    """
    path, wanted = Path(source), columns or Columns()
    if path.is_dir():
        return _folder(path)
    if path.is_file():
        table = read_table(path, wanted)
        examples = tuple(_examples(table, wanted, path.parent))
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


def _hub(source: str, columns: Columns, split: str) -> Dataset:
    try:
        import datasets
    except ImportError as error:
        raise OptionError(
            f"no file or folder {source!r} here; a dataset from the hub needs datasets: pip install 'attcat[datasets]'"
        ) from error
    name, _, configuration = source.partition(":")
    try:
        rows = datasets.load_dataset(name, configuration or None, split=split)
    except Exception as error:  # datasets raises whatever its many parts raise
        raise InputError(f"the dataset {source!r} cannot be loaded: {' '.join(str(error).split())[:200]}") from error
    table = Table(source, tuple(rows.column_names), enumerate(rows, 1), unit="row")
    label = columns.label or next(iter(table.usual(LABEL)), None)
    names = getattr(rows.features.get(label), "names", None) if label else None
    picture = next((n for n in table.columns if n in ("image", "img", "picture")), None)
    found: Iterable[Example]
    if picture is not None and columns.text is None:
        found = (Example(row[picture], row[label] if label else None) for row in rows)
    else:
        found = _examples(table, columns)
    if names:
        found = (replace(e, label=names[e.label] if isinstance(e.label, int) and e.label >= 0 else None) for e in found)
    fingerprint = str(getattr(rows, "_fingerprint", source))
    return _dataset(f"{source} ({split})", tuple(found), fingerprint)


def _examples(table: Table, wanted: Columns, folder: Path | None = None) -> Iterator[Example]:
    """Every row, or the error of the first that is bad: an evaluation is of all examples or of none."""
    if not table.columns:
        return
    columns = table.choose(wanted)
    seen = folder is not None and PICTURE in table.columns
    answer = next(iter(table.usual(("answer",))), None) if seen else None
    label_name, boxes_name = columns.label or answer, next(iter(table.usual(BOXES)), None) if seen else None
    for line, row in table.rows:
        if isinstance(row, InputError):
            raise row
        value, where = table.text(line, row, columns), table.where(line)
        label = None if label_name is None else _label(_field(row, label_name, where), where)
        given = None if columns.spans is None else _spans(_field(row, columns.spans, where), where)
        if not seen:
            yield Example(value, label, given)
            continue
        assert folder is not None
        picture = _picture(_field(row, PICTURE, where), folder, where)
        boxes = None if boxes_name is None else _boxes(_field(row, boxes_name, where), where)
        yield Example((picture, value), label, given, boxes)


def _picture(value: Any, folder: Path, where: str) -> Path:
    """The path of a picture that exists."""
    if not isinstance(value, str) or not (folder / value).is_file():
        raise InputError(f"{where}: {shown(value)} is not a picture in {folder}: give its path, relative to the table")
    return folder / value


def _boxes(value: Any, where: str) -> tuple[Box, ...] | None:
    """Boxes from `[[left, top, right, bottom], ...]` or its JSON; None for an empty field."""
    try:
        found = json.loads(value) if isinstance(value, str) and value.strip() else value or ()
        boxes = tuple((float(left), float(top), float(right), float(bottom)) for left, top, right, bottom in found)
        if not all(box[0] < box[2] and box[1] < box[3] for box in boxes):
            raise ValueError("empty")
        return boxes or None
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise InputError(f"{where}: {shown(value)} are not boxes: write [[left, top, right, bottom], ...]") from error


def _field(row: Mapping[str, Any], name: str, where: str) -> Any:
    if name not in row:
        raise InputError(f"{where}: there is no {name!r}, only {', '.join(row)}")
    return row[name]


def _label(value: Any, where: str) -> str | int | None:
    """A class by name or number.

    Raises:
        InputError: if it is something else.
    """
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if value is None or isinstance(value, str) or (isinstance(value, int) and not isinstance(value, bool)):
        return value
    raise InputError(f"{where}: the label is {shown(value)}, expected the name or the number of a class")


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
        if not isinstance(value or [], (list, tuple)):
            raise TypeError("expected a list")
        if value and not isinstance(value[0], (list, tuple)):
            value = [value]
        return tuple(tuple(int(number) for number in span) for span in value or ()) or None
    except (TypeError, ValueError, OverflowError, RecursionError) as error:
        raise InputError(
            f"{where}: {shown(given)} are not spans: write [[start, end], ...] or start:end start:end"
        ) from error

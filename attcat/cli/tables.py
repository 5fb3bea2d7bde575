"""Many explanations as a table: .csv, .jsonl, .parquet."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ..errors import OptionError

if TYPE_CHECKING:
    from ..explanation import Explanation

Named = tuple[int, str]
"""The number of an input among all that were given, and what it is called."""


def to_csv(names: Sequence[Named], explanations: Sequence[Explanation]) -> bytes:
    """A row for each word or patch, after what its input is called and how it was predicted."""
    rows = _rows(names, explanations)
    columns = list(dict.fromkeys(column for row in rows for column in row))
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode("utf-8", "replace")


def to_jsonl(names: Sequence[Named], explanations: Sequence[Explanation]) -> bytes:
    """A line for each input, with its words or patches in a list."""
    lines = [
        json.dumps({**_head(name, one), "scores": one.records()}, ensure_ascii=False)
        for (_, name), one in zip(names, explanations, strict=True)
    ]
    return "".join(f"{line}\n" for line in lines).encode("utf-8", "replace")


def to_parquet(names: Sequence[Named], explanations: Sequence[Explanation]) -> bytes:
    """The rows of the .csv file, with their types.

    Raises:
        OptionError: if pandas or pyarrow is not installed.
    """
    try:
        import pandas

        buffer = io.BytesIO()
        pandas.DataFrame(_rows(names, explanations)).to_parquet(buffer)
    except ImportError as error:
        raise OptionError(
            "a .parquet file needs pandas and pyarrow: pip install 'attcat[frame]', or use .csv"
        ) from error
    return buffer.getvalue()


TABLES: Mapping[str, Callable[[Sequence[Named], Sequence[Explanation]], bytes]] = {
    ".csv": to_csv,
    ".jsonl": to_jsonl,
    ".parquet": to_parquet,
}
"""From a suffix to what makes the content of such a file."""


def _rows(names: Sequence[Named], explanations: Sequence[Explanation]) -> list[dict[str, Any]]:
    pairs = zip(names, explanations, strict=True)
    return [{"number": at, **_head(name, one), **row} for (at, name), one in pairs for row in one.records()]


def _head(name: str, explanation: Explanation) -> dict[str, Any]:
    return {
        "input": name,
        "label": explanation.label,
        "probability": explanation.probability,
        "predicted": explanation.labels[explanation.predicted],
        "method": explanation.recipe,
    }

"""Columns in, columns out: a callable for engines that send batches of a data set to their workers.

An engine pickles the callable, sends it to its workers, and calls it there with batch after batch. So what is pickled is the
description alone: the model is loaded by name in the worker, once per process, however often the callable is unpickled there. The
same description gives the same pickle and the same hash, by which Hugging Face datasets recognise what they have computed before.
"""

from __future__ import annotations

import io
import json
import math
import threading
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

from ..errors import AttCATError, InputError, OptionError
from ..explanation import Explanation
from ..methods import DEFAULT
from ..model import VisionAdapter
from ..model.registry import load_by_name
from .each import Each
from .explainer import Explainer

_loaded: dict[str, Explainer] = {}
_loading = threading.Lock()

COLUMNS = {
    "label": "string",
    "probability": "double",
    "words": "array<string>",
    "starts": "array<int>",
    "ends": "array<int>",
    "segments": "array<int>",
    "scores": "array<float>",
    "grid": "array<array<float>>",
    "box": "array<double>",
    "special_share": "double",
    "dropped": "int",
    "error": "string",
}
"""The columns of a result and their types, as Spark writes them."""


class Explain:
    """Explain a column of texts or pictures.

        explain = attcat.batch.Explain("owner/name", column="review")
        dataset.map(explain, batched=True)                               # Hugging Face datasets
        ray.data.read_parquet("reviews/").map_batches(explain)           # Ray Data

    Called with a batch, it gives the batch back with the columns of `COLUMNS`; as many rows as came in, in their order. Of a
    text, `words` with the characters at which they begin and end (in the text of their segment: 0, or 1 for the second of a
    pair) and their scores; of a picture the `grid` of scores and its `box` (left, top, right, bottom) on the picture. A row
    that cannot be explained has its reason in `error`, which is empty otherwise, and nothing in the others.

    Args:
        model_id: a folder, or a model on the Hugging Face hub.
        processor_id: where its tokenizer or image processor is, if elsewhere.
        method: name of the attribution method.
        column: the batch's column with the texts or pictures (arrays, PIL images, paths, the bytes of a file, or a dict that has
            these as `bytes` or `path`).
        pair_column: the column with the second text.
        target: the class to explain, by label or index; by default the predicted one.
        truncation: truncate texts that are too long; otherwise they are errors.
        revision: which commit of a model on the hub; it pins what the workers load.
        prefix: put before the names of the columns, where the batch already has such names.
        keep: give back the batch's own columns as well.
        device: where the model runs, e.g. `cuda`.
        **options: of the `Explainer`, in plain values.

    Raises:
        OptionError: if an option does not exist, or is not a plain value.
    """

    schema: ClassVar[str] = ", ".join(f"{name} {kind}" for name, kind in COLUMNS.items())
    """The columns and their types for Spark's `mapInPandas`, with `keep=False` and no prefix."""

    def __init__(
        self,
        model_id: str,
        processor_id: str | None = None,
        method: str = DEFAULT,
        *,
        column: str = "text",
        pair_column: str | None = None,
        target: str | int | None = None,
        truncation: bool = False,
        revision: str | None = None,
        prefix: str = "",
        keep: bool = True,
        device: str = "cpu",
        **options: Any,
    ) -> None:
        self._model: dict[str, Any] = {
            "model_id": str(model_id),
            "processor_id": None if processor_id is None else str(processor_id),
            "revision": revision,
            "device": device,
            "method": method,
            "options": options,
            "files": [_files(one) for one in (model_id, processor_id)],
            "version": version("attcat"),
        }
        self._reading: dict[str, Any] = {
            "column": column,
            "pair_column": pair_column,
            "target": target,
            "truncation": truncation,
        }
        self._writing: dict[str, Any] = {"prefix": prefix, "keep": keep}
        try:
            self._key = json.dumps([self._model, self._reading, self._writing], sort_keys=True)
        except (TypeError, ValueError) as error:
            raise OptionError(
                f"the options are sent to other processes, as plain values: {error}; give names, numbers and lists of them"
            ) from error

    # -- a value: the same description is the same callable ------------------------------------------------------------

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Explain) and self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    def __repr__(self) -> str:
        return f"<Explain {self._model['model_id']} by {self._model['method']}: column {self._reading['column']!r}>"

    def __getstate__(self) -> str:
        return self._key

    def __setstate__(self, key: str) -> None:
        self._key = key
        self._model, self._reading, self._writing = json.loads(key)

    @property
    def key(self) -> str:
        """The whole description, as text."""
        return self._key

    @property
    def prefix(self) -> str:
        """What stands before the names of the columns."""
        return str(self._writing["prefix"])

    # -- the work ------------------------------------------------------------------------------------------------------

    @property
    def explainer(self) -> Explainer:
        """The Explainer, loaded when it is first asked for in a process.

        Raises:
            LoadError: if the model cannot be loaded.
        """
        key = json.dumps(self._model, sort_keys=True)
        with _loading:
            if key not in _loaded:
                told = self._model
                model, processor = load_by_name(told["model_id"], told["revision"], told["processor_id"])
                _loaded[key] = Explainer(model.to(told["device"]), processor, method=told["method"], **told["options"])
            return _loaded[key]

    def rows(self, values: Sequence[Any]) -> list[Explanation | Exception]:
        """The explanation of each value, or what it failed with.

        Raises:
            AttCATError: if the model, the target or an option is wrong, so that no row could be explained.
        """
        explainer, reading = self.explainer, self._reading
        call = partial(explainer, target=reading["target"], truncation=reading["truncation"])
        found: list[Any] = [_value(value, isinstance(explainer.adapter, VisionAdapter)) for value in values]
        good = [index for index, value in enumerate(found) if not isinstance(value, Exception)]
        for index, result in zip(good, Each(lambda batch: call(batch))([found[i] for i in good]), strict=True):
            found[index] = result
        return found

    def columns(self, values: Sequence[Any]) -> dict[str, list[Any]]:
        """The columns of `COLUMNS` for some values."""
        rows = [_row(one) for one in self.rows(values)]
        return {f"{self._writing['prefix']}{name}": [row[name] for row in rows] for name in COLUMNS}

    def __call__(self, batch: Any) -> Any:
        """Explain a batch: a mapping from names to arrays or lists, a pandas data frame, or an Arrow table; the same comes back.

        Raises:
            InputError: if it is something else.
            OptionError: if it does not have the column, or already has one that would be added.
        """
        for names, give in ((_frame_names, self._frame), (_table_names, self._table), (_mapping_names, self._mapping)):
            known = names(batch)
            if known is not None:
                self._check(known)
                return give(batch)
        raise InputError(f"a batch is a dict of columns, a data frame or an Arrow table, got a {type(batch).__name__}")

    def _check(self, names: list[str]) -> None:
        for name in (self._reading["column"], self._reading["pair_column"]):
            if name is not None and name not in names:
                raise OptionError(
                    f"the batch has no column {name!r}, only {', '.join(names) or 'none'}: name it with column="
                )
        twice = [name for name in COLUMNS if f"{self._writing['prefix']}{name}" in names]
        if twice and self._writing["keep"]:
            raise OptionError(
                f"the batch already has a column {self._writing['prefix']}{twice[0]}: give a prefix, as in prefix='explained_', "
                "or keep=False"
            )

    def _values(self, of: Callable[[str], Any]) -> list[Any]:
        """The inputs; a pair of texts where there are two columns."""
        first, second = self._reading["column"], self._reading["pair_column"]
        return list(of(first)) if second is None else list(zip(of(first), of(second), strict=True))

    def _mapping(self, batch: Mapping[str, Any]) -> dict[str, Any]:
        """Arrays for arrays, lists for lists."""
        import numpy as np

        added: dict[str, Any] = self.columns(self._values(lambda name: batch[name]))
        if isinstance(batch[self._reading["column"]], np.ndarray):
            added = {name: _array(values, self._kind(name)) for name, values in added.items()}
        return {**(dict(batch) if self._writing["keep"] else {}), **added}

    def _kind(self, name: str) -> str:
        return COLUMNS[name.removeprefix(self._writing["prefix"])]

    def _frame(self, frame: Any) -> Any:
        import pandas

        def listed(name: str) -> list[Any]:
            return [None if value is pandas.NA or isinstance(value, float) else value for value in frame[name]]

        added = self.columns(self._values(listed))
        kinds = {"double": "float64", "int": "Int32"}  # Int32 has missing values
        columns = {
            name: pandas.Series(values, index=frame.index, dtype=kinds.get(self._kind(name), "object"))
            for name, values in added.items()
        }
        return frame.assign(**columns) if self._writing["keep"] else pandas.DataFrame(columns, index=frame.index)

    def _table(self, table: Any) -> Any:
        import pyarrow

        added = self.columns(self._values(lambda name: table.column(name).to_pylist()))
        if isinstance(table, pyarrow.RecordBatch):
            table = pyarrow.Table.from_batches([table])
        fresh = pyarrow.table(added, schema=self.arrow_schema)
        if not self._writing["keep"]:
            return fresh
        for name in fresh.column_names:
            table = table.append_column(fresh.schema.field(name), fresh.column(name))
        return table

    @property
    def arrow_schema(self) -> Any:
        """The columns that are added, as a `pyarrow.Schema`."""
        import pyarrow

        kinds = {
            "string": pyarrow.string(),
            "double": pyarrow.float64(),
            "int": pyarrow.int32(),
            "float": pyarrow.float32(),
        }

        def kind(told: str) -> Any:
            return pyarrow.list_(kind(told[6:-1])) if told.startswith("array<") else kinds[told]

        return pyarrow.schema([(f"{self._writing['prefix']}{name}", kind(told)) for name, told in COLUMNS.items()])

    def features(self, known: Any) -> Any:
        """The features of a Hugging Face dataset with these columns, for `map(..., features=...)`; so they do not hang on what
        stands in the first batch.

        Args:
            known: the dataset's own.
        """
        import datasets

        return datasets.Features({**known, **datasets.Features.from_arrow_schema(self.arrow_schema)})


# -- a row -------------------------------------------------------------------------------------------------------------


def _value(value: Any, picture: bool) -> Any:
    """What is explained, or what is wrong with it."""
    if picture:
        value = (value.get("bytes") or value.get("path")) if isinstance(value, Mapping) else value
        return _decoded(value) if isinstance(value, bytes) else _nothing() if value is None else value
    parts = value if isinstance(value, tuple) else (value,)
    for part in parts:
        if not isinstance(part, str):
            return InputError(f"expected a text, got {'nothing' if part is None else f'a {type(part).__name__}'}")
    return tuple(map(str, parts)) if len(parts) > 1 else str(parts[0])


def _nothing() -> InputError:
    return InputError("expected a picture, got nothing")


def _decoded(data: bytes) -> Any:
    from PIL import Image

    try:
        return Image.open(io.BytesIO(data))  # what is damaged later on is reported when it is read
    except Exception as error:  # Pillow raises all kinds
        reason = f"the {len(data)} bytes are not a picture that Pillow can read ({type(error).__name__})"
        return InputError(reason)


def _row(one: Explanation | Exception) -> dict[str, Any]:
    """The columns of one row."""
    row: dict[str, Any] = dict.fromkeys(COLUMNS)
    if isinstance(one, Exception):
        reason = str(one) if isinstance(one, AttCATError) else f"{type(one).__name__}: {one}"
        return {**row, "label": "", "error": reason or type(one).__name__}
    row |= {"label": one.label, "probability": one.probability, "error": ""}
    row |= {"special_share": one.special_share, "dropped": one.dropped}
    if one.is_image:
        return {**row, "grid": one.grid.tolist(), "box": list(one.view.box)}
    if one.is_mixed:
        raise InputError("words and pictures in one sequence do not fit in these columns: use Explanation.records()")
    found = one.records()
    row |= {"words": [word["text"] for word in found], "scores": [word["score"] for word in found]}
    if found and "start" in found[0]:
        row |= {name: [word[name[:-1]] for word in found] for name in ("starts", "ends", "segments")}
    return row


def _array(values: list[Any], kind: str) -> Any:
    """A numpy array of a column: numbers as numbers, NaN where there is none, and all else as objects."""
    import numpy as np

    if kind in ("double", "int"):
        return np.array([math.nan if value is None else value for value in values], float)
    found = np.empty(len(values), object)
    for index, value in enumerate(values):
        found[index] = value
    return found


def _frame_names(batch: Any) -> list[str] | None:
    return list(batch.columns) if hasattr(batch, "columns") and hasattr(batch, "assign") else None


def _table_names(batch: Any) -> list[str] | None:
    return list(batch.schema.names) if hasattr(batch, "schema") and hasattr(batch, "to_pylist") else None


def _mapping_names(batch: Any) -> list[str] | None:
    return list(batch) if isinstance(batch, Mapping) else None


def _files(name: str | None) -> list[Any]:
    """What tells a model in a folder from another that was saved there later."""
    folder = Path(name) if name is not None else None
    if folder is None or not folder.is_dir():
        return []
    found = sorted(path for path in folder.iterdir() if path.suffix in (".json", ".safetensors"))
    return [[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in found]

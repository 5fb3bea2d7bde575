"""`attcat explain data.parquet --engine ...`: a data set in parts, each a file, written whole by whichever worker explained it.

A part is a range of rows that does not depend on how many workers there are, and its file is put in place in one step. So a
killed worker's part is made again, a killed run goes on with the parts that are missing, and none is there twice.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import InputError, OptionError
from ..evaluation.tables import open_parquet
from ..files import write_atomically
from .options import ENGINES as ENGINES
from .output import check_name, counting, write_file

if TYPE_CHECKING:
    from ..batch import Explain

ROWS = 1024
"""In a part; a killed worker loses no more."""
BATCH = 128
"""Rows that are read and explained at a time."""
SETTINGS = "_attcat.json"
"""Readers of Parquet pass over what begins with an underscore."""


@dataclass(frozen=True)
class Part:
    """Rows of a file, and where their explanations go.

    Args:
        source: the .parquet file.
        first: the first row.
        count: how many.
        target: the file that is written.
    """

    source: str
    first: int
    count: int
    target: str


def parts_of(source: Path, folder: Path, size: int = ROWS) -> list[Part]:
    """The parts of a file, in order.

    Raises:
        InputError: if it cannot be read as Parquet, or is empty.
    """
    count = open_parquet(source, str(source)).metadata.num_rows
    if not count:
        raise InputError(f"{source} holds no rows")
    return [
        Part(
            str(source.resolve()),
            first,
            min(size, count - first),
            str((folder / f"part-{number:06}.parquet").resolve()),
        )
        for number, first in enumerate(range(0, count, size))
    ]


def write_part(explain: Explain, part: Part) -> int:
    """Explain the rows of a part, write its file, and return how many of them failed."""
    import pyarrow
    from pyarrow import parquet

    found = [explain(batch) for batch in _batches(part)]
    table = pyarrow.concat_tables(found)
    data = io.BytesIO()
    parquet.write_table(table, data)
    write_atomically(Path(part.target), data.getvalue())
    return _failed(table, explain)


def _failed(table: Any, explain: Explain) -> int:
    errors = table.column(f"{explain.prefix}error").to_pylist()
    return sum(bool(error) for error in errors)


def _batches(part: Part) -> Iterator[Any]:
    """The rows of a part, from those row groups alone in which they lie."""
    import pyarrow

    file, begin, end = open_parquet(part.source, part.source), part.first, part.first + part.count
    groups: list[int] = []
    offset = before = 0
    for group in range(file.metadata.num_row_groups):
        rows = file.metadata.row_group(group).num_rows
        if offset < end and offset + rows > begin:
            before = offset if not groups else before
            groups.append(group)
        offset += rows
    at = before
    for batch in file.iter_batches(batch_size=BATCH, row_groups=groups):
        low, high = max(begin - at, 0), min(end - at, batch.num_rows)
        if low < high:
            yield pyarrow.Table.from_batches([batch.slice(low, high - low)])
        at += batch.num_rows


def run(
    explain: Explain, source: Path, folder: Path, engine: str, workers: int | None, size: int = ROWS
) -> tuple[int, int]:
    """Explain a file into a folder of parts; those that are there already are kept.

    Args:
        explain: what is done with a batch.
        source: a .parquet file.
        folder: where the parts go.
        engine: one of `ENGINES`.
        workers: how many, with Ray; None for one per core.
        size: rows in a part.

    Returns:
        How many rows there are, and how many of them failed.

    Raises:
        OptionError: if the folder holds the results of other settings, or Ray is not installed.
        InputError: if the file cannot be read.
    """
    from pyarrow import parquet

    check_name(str(folder))
    parts = parts_of(source, folder, size)
    stat = source.stat()
    _check_settings(folder, {"explain": explain.key, "source": [stat.st_size, stat.st_mtime_ns], "rows": size})
    missing = [part for part in parts if not Path(part.target).exists()]
    with counting("explaining", sum(part.count for part in parts)) as tick:
        tick(sum(part.count for part in parts) - sum(part.count for part in missing))
        for part in _local(explain, missing) if engine == "local" else _ray(explain, missing, workers):
            tick(part.count)
    failed = 0
    for part in parts:
        failed += _failed(parquet.read_table(part.target, columns=[f"{explain.prefix}error"]), explain)
    return sum(part.count for part in parts), failed


def _check_settings(folder: Path, settings: Mapping[str, Any]) -> None:
    """The first run writes them down, later ones are held against them."""
    path, told = folder / SETTINGS, json.dumps(settings)
    try:
        known = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        write_file(path, partial(write_atomically, data=told.encode()))
        return
    except (OSError, ValueError) as error:
        raise OptionError(f"{path} cannot be read: {error}; choose another --output") from error
    if known != told:
        raise OptionError(
            f"{folder} holds explanations of other data, or with other settings: choose another --output, or remove it"
        )


def _local(explain: Explain, parts: Sequence[Part]) -> Iterator[Part]:
    for part in parts:
        write_part(explain, part)
        yield part


def _ray(explain: Explain, parts: Sequence[Part], workers: int | None) -> Iterator[Part]:
    """Each worker is an actor that loads the model once; one that dies is started again, with the part that it had."""
    try:
        ray: Any = import_module("ray")
    except ImportError as error:
        raise OptionError("--engine ray needs Ray: pip install 'attcat[ray]', or use --engine local") from error
    if not parts:
        return
    ours = not ray.is_initialized()
    if ours:
        ray.init(include_dashboard=False, log_to_driver=False, logging_level="ERROR", configure_logging=False)
    try:
        yield from _with_actors(ray, explain, parts, workers or int(ray.cluster_resources().get("CPU", 1)))
    finally:
        if ours:
            ray.shutdown()


def _with_actors(ray: Any, explain: Explain, parts: Sequence[Part], workers: int) -> Iterator[Part]:
    worker = ray.remote(num_cpus=1, max_restarts=-1, max_task_retries=-1)(Worker)
    actors = [worker.remote(explain) for _ in range(min(workers, len(parts)))]
    waiting, under_way = list(reversed(parts)), {}
    for actor in actors:
        part = waiting.pop()
        under_way[actor.write.remote(part)] = actor, part
    while under_way:
        (done,), _ = ray.wait(list(under_way), num_returns=1)
        actor, part = under_way.pop(done)
        try:
            ray.get(done)
        except ray.exceptions.RayTaskError as error:  # what the work raised there
            raise error.cause or error from None
        if waiting:
            following = waiting.pop()
            under_way[actor.write.remote(following)] = actor, following
        yield part


class Worker:
    """What runs in a worker's process.

    Args:
        explain: what is done with a batch.
    """

    def __init__(self, explain: Explain) -> None:
        self.explain = explain

    def write(self, part: Part) -> int:
        """As `write_part`; a part that another has written in the meantime is kept."""
        return 0 if Path(part.target).exists() else write_part(self.explain, part)

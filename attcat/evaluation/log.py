"""`records.jsonl`: what a run has found so far, so that an interrupted run is resumable."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import OptionError

RECORDS = "records.jsonl"


class Log:
    """`records.jsonl`: a line of settings, then one line per method and part. A truncated last line is discarded."""

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        self.path = path
        self._known: dict[tuple[str, tuple[int, ...]], list[dict[str, Any]]] = {}
        lines = whole_lines(path)
        if lines and lines[0] != dict(settings):
            differs = [name for name in settings if lines[0].get(name) != settings[name]]
            raise OptionError(
                f"{path.parent} holds an evaluation with other settings ({', '.join(differs) or 'of another version'}): "
                "choose another --output, or remove it"
            )
        for number, line in enumerate(lines[1:], 2):
            method, examples, records = _checked(line, f"{path}, line {number}")
            self._known[method, examples] = records
        if not lines:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(settings) + "\n", encoding="utf-8")

    def holds(self, method: str, examples: Sequence[int]) -> bool:
        """Whether these examples are done."""
        return (method, tuple(examples)) in self._known

    def add(self, method: str, examples: Sequence[int], records: list[dict[str, Any]]) -> None:
        """Append a line, and make sure that it is on disk."""
        line = json.dumps({"method": method, "examples": list(examples), "records": records}, allow_nan=False)
        with self.path.open("a", encoding="utf-8") as file:
            file.write(line + "\n")
            file.flush()
            os.fsync(file.fileno())
        self._known[method, tuple(examples)] = records

    def of(self, method: str, examples: Sequence[int]) -> list[dict[str, Any]]:
        """The records of these examples."""
        return self._known[method, tuple(examples)]


def _checked(line: Mapping[str, Any], where: str) -> tuple[str, tuple[int, ...], list[dict[str, Any]]]:
    """The parts of a line, as `Log.add` writes them.

    Raises:
        OptionError: if it was damaged.
    """
    method, examples, records = line.get("method"), line.get("examples"), line.get("records")
    whole = isinstance(examples, list) and all(type(index) is int for index in examples)
    known = isinstance(records, list) and all(isinstance(one, dict) and _is_record(one) for one in records)
    if not (isinstance(method, str) and whole and known):
        raise OptionError(f"{where} is damaged: remove the line, and what it held is computed again")
    assert isinstance(examples, list)
    assert isinstance(records, list)
    return method, tuple(examples), records


def _is_record(record: Mapping[str, Any]) -> bool:
    """Whether it has the measured values, as numbers; records of mosaics have no more than these."""
    values = record.get("values")
    numbers = isinstance(values, dict) and all(
        value is None or isinstance(value, (int, float)) for value in values.values()
    )
    curves = [record[side] for side in ("morf", "lerf") if side in record]
    times = [record[name] for name in ("seconds", "forward") if name in record]
    return (
        numbers
        and all(isinstance(curve, list) and all(isinstance(v, (int, float)) for v in curve) for curve in curves)
        and all(isinstance(time, (int, float)) for time in times)
    )


def whole_lines(path: Path) -> list[dict[str, Any]]:
    """The lines that were written completely; an unfinished last line is removed, so that the next one starts afresh.

    Raises:
        OptionError: if they are something else.
    """
    try:
        data = path.read_bytes() if os.path.lexists(path) else b""
        whole = data[: data.rfind(b"\n") + 1]
        if len(whole) < len(data):
            with path.open("r+b") as file:
                file.truncate(len(whole))
        lines = [json.loads(line) for line in whole.decode().split("\n") if line]
    except (ValueError, RecursionError, OSError) as error:
        raise OptionError(f"{path} is not a record of an evaluation: choose another --output, or remove it") from error
    if not all(isinstance(line, dict) for line in lines):
        raise OptionError(f"{path} is not a record of an evaluation: choose another --output, or remove it")
    return lines

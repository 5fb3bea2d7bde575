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
        lines = _whole_lines(path)
        if lines and lines[0] != dict(settings):
            differs = [name for name in settings if lines[0].get(name) != settings[name]]
            raise OptionError(
                f"{path.parent} holds an evaluation with other settings ({', '.join(differs) or 'of another version'}): "
                "choose another --output, or remove it"
            )
        for line in lines[1:]:
            self._known[line["method"], tuple(line["examples"])] = line["records"]
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


def _whole_lines(path: Path) -> list[dict[str, Any]]:
    """The lines that were written completely; an unfinished last line is removed, so that the next one starts afresh."""
    if not path.exists():
        return []
    data = path.read_bytes()
    whole = data[: data.rfind(b"\n") + 1]
    if len(whole) < len(data):
        with path.open("r+b") as file:
            file.truncate(len(whole))
    try:
        return [json.loads(line) for line in whole.decode().splitlines()]
    except ValueError as error:
        raise OptionError(f"{path} is not a record of an evaluation: choose another --output, or remove it") from error

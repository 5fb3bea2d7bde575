"""The command line as the tests run it."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple


class Result(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def rows(self) -> list[list[str]]:
        """Columns of each line of stdout."""
        return [line.split("\t") for line in self.out.splitlines()]


Run = Callable[..., Result]

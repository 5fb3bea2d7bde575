"""Errors in the words of the command line."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from ..errors import AttCATError, Option

TRACEBACK = "ATTCAT_TRACEBACK"
"""The environment variable that shows where an unexpected error comes from."""

FLAGS = {
    "batch_size": "--batch-size",
    "method": "--method",
    "references": "--reference",
    "rule": "--rule",
    "hidden": "--hidden",
    "queries": "--queries",
    "target": "--target",
    "token": "--token",
    "truncation": "--truncation",
    "window": "--window",
}
"""From an option's name in Python to the flag; the others exist only in Python."""


def in_shell(error: AttCATError) -> str:
    """The message, with options as flags: `--token word`, not `token='word'`."""
    return error.message(_flag)


def _flag(option: Option) -> str:
    flag = FLAGS.get(option.name)
    if flag is None or (option.name, option.value) == ("target", "all"):
        return f"{option} (in Python)"
    return flag if option.value is None or option.value is True else f"{flag} {shlex.quote(_written(option.value))}"


def _written(value: Any) -> str:
    """A value as it stands behind a flag; a place as `box:3`, `pixel:120,40`, with a class `box:3:cat`."""
    if not isinstance(value, tuple):
        return str(value)
    kind, *rest = value
    known = [item for item in rest if item is not None]
    last = [str(known.pop())] if len(known) > 1 and isinstance(known[-1], str) else []
    return ":".join([str(kind), ",".join(map(str, known)), *last])


def unexpected(error: Exception) -> str:
    """What was raised by the model, a library or our own code, and how to see where."""
    trace, place = error.__traceback__, ""
    while trace is not None:
        place, trace = trace.tb_frame.f_code.co_filename, trace.tb_next
    ours = Path(place).is_relative_to(Path(__file__).parent.parent)
    what = "this is a bug in AttCAT" if ours else "the model, or a library, failed"
    reason = next((line.strip() for line in str(error).splitlines() if line.strip()), "no message")
    return f"{what}: {type(error).__name__}: {reason}; {TRACEBACK}=1 in the environment shows where"

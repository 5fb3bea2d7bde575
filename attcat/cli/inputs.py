"""What the user gave: texts, pictures, names of methods. What is wrong with them is said at once: nothing here imports torch."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import InputError, OptionError
from ..files import PICTURES, open_picture
from .listing import METHODS
from .output import one_line

TABULAR = (".tsv", ".csv", ".jsonl", ".parquet")
"""Suffixes of tables."""

REFERENCES = 8
"""How many references are drawn from data."""


@dataclass(frozen=True)
class Item:
    """One input, where it stands, and its number.

    It is a text, a pair of texts, a prompt with choices, the path of a picture, or that and a question about it.
    """

    value: str | tuple[str, str] | tuple[str, list[str]] | Path | tuple[Path, str]
    place: str = ""
    number: int = 1

    @property
    def is_picture(self) -> bool:
        """True for a path."""
        return isinstance(self.value, Path)

    @property
    def has_question(self) -> bool:
        """True for a picture with a question."""
        return isinstance(self.value, tuple) and isinstance(self.value[0], Path)

    @property
    def name(self) -> str:
        """The input on one line."""
        if not isinstance(self.value, tuple):
            return one_line(str(self.value))
        first, others = self.value
        return one_line(" | ".join([str(first), *([others] if isinstance(others, str) else others)]))

    @property
    def has_choices(self) -> bool:
        """True for a prompt with choices."""
        return isinstance(self.value, tuple) and isinstance(self.value[1], list)

    @property
    def stem(self) -> str:
        """The name of a file about this input, without suffix."""
        if isinstance(self.value, Path):
            return self.value.stem
        first = f"{self.value[0].stem} {self.value[1]}" if isinstance(self.value[0], Path) else self.name
        return "-".join(re.findall(r"\w+", first.lower()))[:40].strip("-") or "text"


def listed(text: str) -> tuple[str, ...]:
    """Names separated by commas."""
    return tuple(name.strip() for name in text.split(",") if name.strip())


def check_methods(names: Sequence[str]) -> None:
    """An unknown method is reported before torch is imported; its rule and its options are looked at when it is used.

    Raises:
        OptionError: if there is no such method.
    """
    loaded = sys.modules.get("attcat.methods")  # where it is, there may be methods that others registered
    known = [method for method, *_ in METHODS] if loaded is None else list(loaded.METHODS)
    for name in names:
        method = name.split(":")[0].partition("+")[0]
        if method not in known:
            raise OptionError(f"no method {method!r}: use one of {', '.join(known)}")


def read(value: str, pair: str | None, choices: Sequence[str] | None = None, question: str | None = None) -> Item:
    """Distinguish a picture's path from a text.

    Args:
        value: a text, or the path of a picture.
        pair: the second text.
        choices: the choices.
        question: about the picture.

    Raises:
        InputError: if it looks like a path and there is no such picture.
        OptionError: if there is a second text as well as choices, or a single choice.
    """
    if choices and pair is not None:
        raise OptionError("--pair and --choice exclude each other: each choice is the second text of a pair")
    if choices and len(choices) == 1:
        raise OptionError("--choice is given once: give it again for each of the other choices")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"{value!a} is not valid UTF-8: convert the text, or rename the file") from error
    suffix = Path(value).suffix.lower()
    if suffix in PICTURES:
        if pair is not None or choices:
            raise InputError(f"{value} is a picture: {'--choice' if choices else '--pair'} is for texts")
        open_picture(Path(value)).close()
        return Item(Path(value) if question is None else (Path(value), question))
    if suffix and os.path.isfile(value):
        raise InputError(
            f"{value} is a file, but not a picture ({' '.join(PICTURES)}): "
            f"to explain each of its lines, attcat explain - < {value}"
        )
    if suffix in TABULAR and not re.search(r"\s", value):
        raise InputError(f"no such file: {value}")
    if question is not None:
        raise InputError(f"{value!r} is a text: --question is asked about pictures, give the path of one")
    if choices:
        return Item((value, list(choices)))
    if not value.strip() or (pair is not None and not pair.strip()):
        raise InputError("the text is empty: there is nothing to explain")
    return Item(value if pair is None else (value, pair))

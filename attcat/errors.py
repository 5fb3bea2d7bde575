"""Every error that AttCAT raises on purpose.

    AttCATError
    ├── LoadError               no model can be loaded from the folder or hub id
    ├── UnsupportedModelError   no adapter for this model, or its head is not one that can be explained
    ├── InputError              the text, picture or model arguments cannot be explained as given
    │   └── TooLongError        the text is longer than the model takes
    ├── ProcessorError          tokenizer, image processor or transform does not fit the model
    ├── TargetError             the class that was asked for does not exist
    ├── OptionError             a method, rule or option that does not exist
    ├── CaptureError            the forward pass did not show what the method needs
    └── OutOfMemoryError        the device has too little memory for this model and input

A message says what was given, what was expected, and the next thing to try. An option that it names is an `Option`, not part of
the text: Python and the command line each write it in their own way. What comes from outside is made `visible`.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Option:
    """An option that a message names.

    Args:
        name: as Python calls it.
        value: an example of what to give; None for any value.
    """

    name: str
    value: Any = None

    def __str__(self) -> str:
        """As Python writes it: `token='word'`."""
        return f"{self.name}=" if self.value is None else f"{self.name}={self.value!r}"


class AttCATError(Exception):
    """Base class: catch this to catch everything that AttCAT raises on purpose.

    Args:
        *parts: the message, in pieces: strings, and the options that it names.
    """

    def __init__(self, *parts: str | Option) -> None:
        self.parts = parts
        super().__init__(self.message())

    def message(self, word: Callable[[Option], str] = str) -> str:
        """The message, with options written by `word`; by default as in Python."""
        return "".join(word(part) if isinstance(part, Option) else str(part) for part in self.parts)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), self.parts, self.__dict__


class LoadError(AttCATError, OSError):
    """No model can be loaded from the folder or hub id."""


class UnsupportedModelError(AttCATError, TypeError):
    """No adapter serves this model, or its head is not one that can be explained."""


class InputError(AttCATError, ValueError):
    """The text, picture or model arguments cannot be explained as given."""


class TooLongError(InputError):
    """The text has more tokens than the model takes."""


class ProcessorError(AttCATError, ValueError):
    """The tokenizer, image processor or transform does not fit the model."""


class TargetError(AttCATError, ValueError):
    """The class that was asked for does not exist."""


class OptionError(AttCATError, ValueError):
    """A method, rule or option that does not exist."""


class CaptureError(AttCATError, RuntimeError):
    """The forward pass did not show what the method needs."""


class OutOfMemoryError(AttCATError, MemoryError):
    """The device has too little memory for this model and this input; what torch said is its cause."""


def visible(text: str) -> str:
    """Replace control characters, except line ends and tabs, by their symbols, one for one."""
    text = text.replace("\r\n", " \n")
    return "".join(_symbol(character) if _controls(character) else character for character in text)


def _controls(character: str) -> bool:
    return character not in "\n\t" and unicodedata.category(character) == "Cc"


def _symbol(character: str) -> str:
    code = ord(character)
    return chr(0x2400 + code) if code < 0x20 else "\u2421" if code == 0x7F else "\ufffd"

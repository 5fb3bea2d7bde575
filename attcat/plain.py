"""Plain values: what the fields of frozen values may hold, checked and copied once, in their constructors.

A check takes what was given and returns what is kept, as a plain type (a numpy number becomes a Python number, a list a tuple),
or raises a ValueError that says what was expected. `settle` applies one to each field and names the field in the error.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from numbers import Integral, Real
from types import MappingProxyType
from typing import Any

import numpy as np

Check = Callable[[Any], Any]
"""From what was given to what is kept.

Raises:
    ValueError: if it does not fit.
"""

LARGEST = 1 << 63
"""Integers stay below it, as in every other language that reads JSON."""

LARGEST_FLOAT = 3.4e38
"""Numbers stay below it, so that they fit in float32."""


def settle(instance: object, checks: Mapping[str, Check]) -> None:
    """Check the fields of a frozen dataclass, and keep what the checks return.

    Raises:
        ValueError: naming the field, what was given and what is expected.
    """
    for name, check in checks.items():
        try:
            object.__setattr__(instance, name, check(getattr(instance, name)))
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error


def whole(low: int = 0, high: int = LARGEST) -> Check:
    """An integer, not a bool, `low <= value < high`."""
    bounds = f"an integer from {low}" + ("" if high == LARGEST else f" to {high - 1}")

    def check(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, Integral) or not low <= int(value) < high:
            raise _unfit(value, bounds)
        return int(value)

    return check


def real(value: Any, limit: float = LARGEST_FLOAT) -> float:
    """A finite number, not a bool."""
    if isinstance(value, Real) and not isinstance(value, bool):
        try:
            number = float(value)
        except OverflowError:  # an integer of hundreds of digits
            number = math.inf
        if abs(number) < limit:
            return number
    raise _unfit(value, "a finite number")


def real_or_ruled_out(value: Any) -> float:
    """A finite number, or minus infinity: the logit of a class that the model rules out."""
    return -math.inf if isinstance(value, float) and value == -math.inf else real(value)


def flag(value: Any) -> bool:
    """True or False."""
    if value is not True and value is not False:
        raise _unfit(value, "True or False")
    return bool(value)


def text(value: Any) -> str:
    """A string that can be encoded as UTF-8."""
    if not isinstance(value, str):
        raise _unfit(value, "a string")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise _unfit(value, "a string of whole characters (it has half of a surrogate pair)") from error
    return str(value)


def optional(check: Check) -> Check:
    """None, or what passes a check."""
    return lambda value: None if value is None else check(value)


def tuple_of(check: Check, length: int | None = None) -> Check:
    """A tuple or list of what passes a check."""

    def checked(value: Any) -> tuple[Any, ...]:
        if not isinstance(value, (tuple, list)) or length not in (None, len(value)):
            raise _unfit(value, "a tuple" if length is None else f"a tuple of {length}")
        kept = []
        for place, item in enumerate(value):
            try:
                kept.append(check(item))
            except ValueError as error:
                raise ValueError(f"entry {place}: {error}") from error
        return tuple(kept)

    return checked


def a(kind: type) -> Check:
    """An instance of a class."""

    def check(value: Any) -> Any:
        if not isinstance(value, kind):
            raise _unfit(value, f"a {kind.__name__}")
        return value

    return check


def span(value: Any) -> tuple[int, int]:
    """`(start, end)`, neither negative, in order."""
    start, end = _PAIR(value)
    if start > end:
        raise _unfit(value, "(start, end) with start <= end")
    return start, end


_PAIR = tuple_of(whole(), 2)


def read_only(array: np.ndarray) -> np.ndarray:
    """A copy of an array that cannot be made writable; the array itself if it is one already.

    What pickle makes lies on bytes as well, but can be written.
    """
    if isinstance(array.base, bytes) and not array.flags.writeable:
        return array
    return np.ndarray(array.shape, array.dtype, array.tobytes())


def numbers(value: Any) -> Frozen:
    """Finite numbers by name."""
    return Frozen({text(name): real(number) for name, number in _items(value)})


def frozen(value: Any) -> Frozen:
    """A mapping from strings to plain values (what JSON can hold), as a deep, read-only copy."""
    return Frozen({text(name): _frozen(item) for name, item in _items(value)})


class Frozen(Mapping[str, Any]):
    """A read-only mapping. It can be compared with a dict, copied and pickled."""

    __slots__ = ("_items",)
    _items: Mapping[str, Any]

    def __init__(self, items: Mapping[str, Any]) -> None:
        object.__setattr__(self, "_items", MappingProxyType(dict(items)))

    def __getitem__(self, name: str) -> Any:
        return self._items[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._items)

    def __len__(self) -> int:
        return len(self._items)

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"{type(self).__name__} cannot be changed")

    def __delattr__(self, name: str) -> None:
        raise AttributeError(f"{type(self).__name__} cannot be changed")

    def __repr__(self) -> str:
        return repr(dict(self._items))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (dict(self._items),)


def recorded(value: Any) -> Any:
    """What is recorded of any value: itself if it is plain, its number if it is a numpy or torch number, else its text."""
    try:
        return _frozen(value)
    except ValueError:
        pass
    if getattr(value, "shape", None) == () and callable(getattr(value, "item", None)):
        return recorded(value.item())  # a tensor without dimensions
    if hasattr(value, "shape"):
        return f"{type(value).__name__} {list(value.shape)}"
    name = getattr(value, "__qualname__", None)
    return name if isinstance(name, str) else _shown(value)


def _frozen(value: Any, depth: int = 20) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, (Mapping, tuple, list)) and depth == 0:
        raise ValueError("the value is nested too deeply")
    if isinstance(value, Mapping):
        return Frozen({text(name): _frozen(item, depth - 1) for name, item in value.items()})
    if isinstance(value, (tuple, list)):
        return tuple(_frozen(item, depth - 1) for item in value)
    for check in (text, whole(-LARGEST), partial(real, limit=math.inf)):
        try:
            return check(value)
        except ValueError:
            continue
    raise _unfit(value, "a plain value (a string, number, bool or None, or a list or dict of them)")


def _items(value: Any) -> Any:
    if not isinstance(value, Mapping):
        raise _unfit(value, "a mapping")
    return value.items()


def _unfit(value: Any, expected: str) -> ValueError:
    return ValueError(f"got {_shown(value)}, expected {expected}")


def _shown(value: Any) -> str:
    """A value in an error message, no longer than a line."""
    try:
        shown = repr(value)
    except Exception:
        shown = f"a {type(value).__name__}"  # other people's __repr__ may fail too
    return shown if len(shown) <= 60 else f"{shown[:57]}..."

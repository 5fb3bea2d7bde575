"""The user's tokenizer, without what it keeps from one call to the next.

A fast tokenizer keeps the truncation and padding of its last call in its compiled part. A thread that asks for others
changes them under the feet of one that is reading. So a program of several threads gets a copy of the compiled part,
which only explanations use, one after another; everything else is the user's, as it is at that moment.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from weakref import WeakKeyDictionary


@dataclass
class _Own:
    original: Any
    size: int
    compiled: Any
    lock: threading.Lock = field(default_factory=threading.Lock)


_copies: WeakKeyDictionary[Any, _Own] = WeakKeyDictionary()
_making = threading.Lock()


@contextmanager
def undisturbed(tokenizer: Any) -> Iterator[Any]:
    """A tokenizer that no other thread uses meanwhile, and that reads like the user's."""
    if getattr(tokenizer, "_tokenizer", None) is None or threading.active_count() == 1:
        yield tokenizer
        return
    with _making:
        own = _copies.get(tokenizer)
        size = len(tokenizer) if hasattr(type(tokenizer), "__len__") else 0
        if own is None or own.original is not tokenizer._tokenizer or own.size != size:
            own = _Own(tokenizer._tokenizer, size, copy.deepcopy(tokenizer._tokenizer))
            _copies[tokenizer] = own
    with own.lock:
        made = object.__new__(type(tokenizer))
        vars(made).update(vars(tokenizer), _tokenizer=own.compiled)
        yield made


def token_names(tokenizer: Any, ids: Sequence[int]) -> tuple[str, ...]:
    """What a tokenizer calls tokens; `#17` without one, and for numbers that it does not know."""
    names = [None] * len(ids) if tokenizer is None else tokenizer.convert_ids_to_tokens(list(ids))
    return tuple(f"#{number}" if name is None else str(name) for number, name in zip(ids, names, strict=True))

"""The user's tokenizer, without what it keeps from one call to the next.

A fast tokenizer keeps the truncation and padding of its last call in its compiled part. A thread that asks for others
changes them under the feet of one that is reading. So a program of several threads gets a copy of the compiled part,
which only explanations use, one after another; everything else is the user's, as it is at that moment.
"""

from __future__ import annotations

import copy
import threading
from collections.abc import Iterator
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
        if own is None or own.original is not tokenizer._tokenizer or own.size != len(tokenizer):
            own = _Own(tokenizer._tokenizer, len(tokenizer), copy.deepcopy(tokenizer._tokenizer))
            _copies[tokenizer] = own
    with own.lock:
        made = object.__new__(type(tokenizer))
        vars(made).update(vars(tokenizer), _tokenizer=own.compiled)
        yield made

"""What this thread has of torch's state, put back after an interruption at any instant.

A `with` puts back what its `__enter__` changed, unless a signal arrives within `__enter__` itself, or within `__exit__`. So the
outermost call notes the state and puts it back again: twice, because a signal may arrive while it does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch

Result = TypeVar("Result")


def unwound(run: Callable[[], Result]) -> Result:
    """The result of `run`; gradient mode and function modes of this thread are afterwards as before, whatever happens."""
    before = torch.is_grad_enabled(), _modes()
    try:
        try:
            return run()
        finally:
            _put_back(*before)
    finally:
        _put_back(*before)


_C: Any = torch._C


def _modes() -> int:
    """How many function modes are on."""
    return int(_C._len_torch_function_stack())


def _put_back(gradient: bool, modes: int) -> None:
    while _modes() > modes:
        _C._pop_torch_function_stack()
    torch._C._set_grad_enabled(gradient)

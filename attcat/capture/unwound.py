"""What this thread has of torch's state, put back after an interruption at any instant.

A `with` puts back what its `__enter__` changed, unless a signal arrives within `__enter__` itself, or within `__exit__`. So the
outermost call notes the state and puts it back again: twice, because a signal may arrive while it does.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import Any, TypeVar

import torch

Result = TypeVar("Result")


def unwound(run: Callable[[], Result]) -> Result:
    """The result of `run`; gradient mode and function modes of this thread are afterwards as before, whatever happens.

    Raises:
        KeyboardInterrupt: also if putting back raised something else in its place.
    """
    before = torch.is_grad_enabled(), _modes()
    try:
        try:
            return run()
        except BaseException as error:
            if not _interrupted(error):
                raise
            _finish(error)
            if isinstance(error, Exception):
                raise KeyboardInterrupt from error
            raise
        finally:
            _put_back(*before)
    finally:
        _put_back(*before)


_C: Any = torch._C


def _modes() -> int:
    """How many function modes are on."""
    return int(_C._len_torch_function_stack())


def _interrupted(error: BaseException | None) -> bool:
    """Whether an error is an interruption, or came while one was handled."""
    return error is not None and (not isinstance(error, Exception) or _interrupted(error.__context__))


def _finish(error: BaseException | None) -> None:
    """Let generators that were interrupted put back what they changed, now rather than when the traceback is forgotten."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__context__


def _put_back(gradient: bool, modes: int) -> None:
    while _modes() > modes:
        _C._pop_torch_function_stack()
    _C._set_grad_enabled(gradient)

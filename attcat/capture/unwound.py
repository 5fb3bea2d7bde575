"""What this thread has of torch's state, put back after an interruption at any instant; and a lack of memory, reported as such.

A `with` puts back what its `__enter__` changed, unless a signal arrives within `__enter__` itself, or within `__exit__`. So the
outermost call notes the state and puts it back again: twice, because a signal may arrive while it does.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import Any, TypeVar

import torch

from ..errors import InputError, OutOfMemoryError

Result = TypeVar("Result")


def unwound(run: Callable[[], Result]) -> Result:
    """The result of `run`; gradient mode and function modes of this thread are afterwards as before, whatever happens.

    Raises:
        KeyboardInterrupt: also if putting back raised something else in its place.
        OutOfMemoryError: if memory ran out, also if something else was raised because of it.
    """
    before = torch.is_grad_enabled(), _modes()
    try:
        try:
            return run()
        except BaseException as error:
            lack = None if _interrupted(error) else lack_of_memory(error)
            if lack is not None:
                _finish(error)  # its frames hold what filled the memory
                raise OutOfMemoryError(_too_little(lack)) from error
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


def lack_of_memory(error: BaseException | None) -> BaseException | None:
    """The error with which memory ran out, if this is it, or came while it was handled; None if it has been reported."""
    if error is None or isinstance(error, (OutOfMemoryError, InputError)):  # e.g. a picture that is too large to decode
        return None
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return error
    # On processors it is a RuntimeError like any other.
    if isinstance(error, RuntimeError) and any(words in str(error) for words in _ALLOCATION):
        return error
    return lack_of_memory(error.__cause__ or error.__context__)


_ALLOCATION = ("can't allocate memory", "not enough memory")


def _too_little(lack: BaseException) -> str:
    said = " ".join(str(lack).split()) or type(lack).__name__
    return (
        f"the device has too little memory for this model and this input ({said[:200]}). An explanation keeps what every block "
        "computes, and the first one of a model without an adapter tries it on a few more: explain one input at a time, a "
        "smaller picture or a shorter text if the model takes one, load the model in bfloat16, or use a device with more memory"
    )


def _finish(error: BaseException | None) -> None:
    """Let generators that were interrupted put back what they changed, now rather than when the traceback is forgotten."""
    while error is not None:
        traceback.clear_frames(error.__traceback__)
        error = error.__context__


def _put_back(gradient: bool, modes: int) -> None:
    while _modes() > modes:
        _C._pop_torch_function_stack()
    _C._set_grad_enabled(gradient)

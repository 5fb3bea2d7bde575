"""The user's model itself for the length of a pass, where it has no twin: one thread at a time, and every flag is put back."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

from ..errors import CaptureError
from .twin import CHECKPOINTING

OURS = __name__.partition(".")[0]

_locks: WeakKeyDictionary[nn.Module, threading.RLock] = WeakKeyDictionary()
_making = threading.Lock()


@contextmanager
def as_found(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, eager, without checkpoints; afterwards every flag is as before.

    Other explanations of the model wait; its user's own passes in other threads do not, and see what is done here.
    """
    modules = tuple(model.modules())
    if any(p.is_inference() for module in modules for p in module._parameters.values() if p is not None):
        raise CaptureError("the model was made inside torch.inference_mode(), so it has no gradients: make it outside")
    with _making:
        lock = _locks.setdefault(model, threading.RLock())
    with lock, ExitStack() as undo:
        training = [module for module in modules if module.training]
        flags = [(m, name) for m in modules for name in CHECKPOINTING if vars(m).get(name) is True]
        if any(map(is_compiled, modules)):
            undo.enter_context(torch.compiler.set_stance("force_eager"))
        hooked = [(table, set(table)) for m in modules for table in (m._forward_pre_hooks, m._forward_hooks)]
        undo.callback(_put_back, training, flags, hooked)  # twice, for an interruption may come while it runs
        try:
            if training:
                model.eval()
            for module, name in flags:
                setattr(module, name, False)
            yield
        finally:
            _put_back(training, flags, hooked)


def _put_back(
    training: list[nn.Module], flags: list[tuple[nn.Module, str]], hooked: list[tuple[dict[int, Any], set[int]]]
) -> None:
    for module in training:
        module.training = True
    for module, name in flags:
        setattr(module, name, True)
    for table, before in hooked:  # one that was set, and whose handle an interruption lost
        for number in set(table) - before:
            if str(getattr(table.get(number), "__module__", "")).startswith(f"{OURS}."):
                table.pop(number, None)


def is_compiled(module: nn.Module) -> bool:
    """Whether calling a module runs a compiled program."""
    return module._compiled_call_impl is not None or "_orig_mod" in module._modules

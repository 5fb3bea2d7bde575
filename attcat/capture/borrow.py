"""The user's model for the length of a pass: mode, training flags and random state are put back whatever happens."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import torch
from torch import nn

from ..errors import CaptureError

CHECKPOINTING = ("gradient_checkpointing", "grad_checkpointing")
"""Flags by which models compute a block a second time in the backward pass, where no gradient rule would see it."""


@contextmanager
def as_found(model: nn.Module) -> Iterator[None]:
    """Evaluation mode, eager, without checkpoints, a scratch random state; afterwards every flag and the state are as before."""
    modules = tuple(model.modules())  # walked once: in small models these walks are a good part of the cost
    training = [module for module in modules if module.training]
    flags = [(m, name) for m in modules for name in CHECKPOINTING if vars(m).get(name) is True]
    parameters = [p for module in modules for p in module._parameters.values() if p is not None]
    if any(p.is_inference() for p in parameters):
        raise CaptureError("the model was made inside torch.inference_mode(), so it has no gradients: make it outside")
    devices = {p.device.index or 0 for p in parameters if p.is_cuda}
    with ExitStack() as undo:
        undo.enter_context(torch.random.fork_rng(devices=sorted(devices)))
        if any(map(is_compiled, modules)):
            undo.enter_context(torch.compiler.set_stance("force_eager"))
        try:
            if training:
                model.eval()
            for module, name in flags:
                setattr(module, name, False)
            yield
        finally:
            for module in training:
                module.training = True
            for module, name in flags:
                setattr(module, name, True)


def is_compiled(module: nn.Module) -> bool:
    """Whether calling a module runs a compiled program."""
    return module._compiled_call_impl is not None or "_orig_mod" in module._modules

"""A model's own code, run a little otherwise: what it detaches stays in the graph, or what it makes is made in float64.

Each is a `TorchFunctionMode`, so that it acts in the thread alone that is in it.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode


class Uncut(TorchFunctionMode):
    """Gradients go through where the model's own code detaches a tensor; what we detach in it stays so."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is not torch.Tensor.detach:
            return func(*args, **(kwargs or {}))
        asks: Any = sys._getframe(1)
        while asks.f_globals is globals():  # another mode of ours, through which the call came
            asks = asks.f_back
        if asks.f_globals.get("__name__", "").startswith("attcat"):
            return func(*args, **(kwargs or {}))
        return args[0].view_as(args[0])


class Wide(TorchFunctionMode):
    """Tensors are made in float64 unless another type is asked for. torch's own default would be that of all threads."""

    MADE = (torch.full, torch.zeros, torch.ones, torch.empty, torch.tensor, torch.linspace, torch.arange)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if func in self.MADE and (kwargs or {}).get("dtype") is None and made.dtype == torch.float32:
            return made.double()
        return made


def run_under(model: nn.Module, mode: Callable[[], Any]) -> Callable[[], None]:
    """Have every forward pass of a model run under a mode, until what is returned is called."""
    entered: list[Any] = []

    def enter(*given: Any) -> None:
        entered.append(mode())
        entered[-1].__enter__()

    def leave(*given: Any) -> None:
        entered.pop().__exit__(None, None, None)

    hooks = model.register_forward_pre_hook(enter), model.register_forward_hook(leave, always_call=True)

    def remove() -> None:
        for hook in hooks:
            hook.remove()

    return remove

"""Activations and softmaxes that a model brings as autograd functions of its own: no torch call shows what they compute.

What such a function is can be asked of itself: it is an activation if it treats each number alone, as BLOOM's, and then it gets
the gate that the rule gives to torch's own. It is a softmax if it returns what a softmax inside of it wrote, as SEW-D's, and then
the rule's softmax takes its place. What does more than that, as a fused normalisation, is left as it is.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

Foreign = torch.autograd.function.BackwardCFunction
"""The node that an autograd function written in Python leaves in the graph."""

_SAMPLE = 64


def gated(node: Any, result: Tensor) -> Tensor:
    """The result of an autograd function, which passes gradients on by its gate if it is an activation.

    Args:
        node: the `grad_fn` of `result`.
        result: f(x). If f(0) = 0 the gradient is multiplied by f(x) / x, as for a GELU; else, as for a sigmoid, f(x) is a
            constant.
    """
    if not hasattr(node, "_attcat_constant"):  # each use of its result leads here
        node._attcat_constant = _set_gate(node, result)
    return result.detach() if node._attcat_constant else result


def is_softmax_of(inside: Tensor | None, result: Tensor) -> bool:
    """Whether an autograd function passes on, in the same memory, what the last softmax inside of it wrote.

    Masked weights may have been set to 0 there.
    """
    return inside is not None and inside.shape == result.shape and inside.data_ptr() == result.data_ptr()


def _set_gate(node: Any, result: Tensor) -> bool:
    """Replace what the node does to a gradient, if it is an activation; whether its result is a constant instead."""
    function = node._forward_cls
    if function.__module__.startswith(__name__.rpartition(".")[0]):  # a rule's own
        return False
    sources = [source for source, _ in node.next_functions if source is not None]
    saved = [x for x in node.saved_tensors if isinstance(x, Tensor) and x.shape == result.shape and x.requires_grad]
    if len(sources) != 1 or len(saved) != 1:
        return False
    x, y = saved[0].detach(), result.detach()
    at_zero = _at_zero(function, x, y)
    if at_zero is None or at_zero[0] != 0:
        return at_zero is not None
    gate = torch.where(x == 0, at_zero[1], y / torch.where(x == 0, 1, x))

    def passed(gradients: tuple[Any, ...], arrived: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(None if gradient is None else arrived[0] * gate for gradient in gradients)

    node.register_hook(passed)
    return False


def _at_zero(function: Any, x: Tensor, y: Tensor) -> tuple[float, float] | None:
    """f(0) and f'(0), if the function treats each number alone; else None."""
    with torch.no_grad():
        few, expected = x.flatten()[:_SAMPLE].flip(0), y.flatten()[:_SAMPLE].flip(0)
        try:
            found, near = function.apply(few), function.apply(x.new_tensor([0.0, 1e-3, -1e-3]))
        except Exception:  # it takes something else as well
            return None
    if not isinstance(found, Tensor) or found.shape != few.shape or not torch.allclose(found, expected, atol=1e-6):
        return None
    return float(near[0]), float(near[1] - near[2]) / 2e-3

"""Experiments on a model: change one thing in a forward pass, and see what becomes of the logits."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Any

import torch
from PIL import Image
from torch import Tensor, nn

from ...capture.borrow import as_found
from ..adapter import Adapter
from ..encoding import Encoding
from ..text import TextAdapter
from ..vision import VisionAdapter

FAILURES = (ValueError, RuntimeError, TypeError, IndexError, KeyError, AttributeError, AssertionError)
"""What other people's forward passes raise on arguments that they do not take."""


def logits_of(adapter: Adapter, encoding: Encoding) -> Tensor:
    """The logits `[B, C]` of a plain forward pass."""
    with as_found(adapter.model), torch.no_grad():
        return adapter.predict(encoding)[1].detach()


def logits_without(adapter: Adapter, encoding: Encoding, positions: Sequence[int]) -> Tensor:
    """The logits `[B, C]` when the last block passes on other states at some positions."""
    last, calls = adapter.blocks[-1], adapter.blocks.count(adapter.blocks[-1])
    seen = 0

    def disturb(module: nn.Module, args: Any, output: Any) -> Any:
        nonlocal seen
        seen += 1
        if seen < calls:  # one block that is called again and again: only its last call
            return None
        state = (output if isinstance(output, Tensor) else output[0]).clone()
        push = torch.linspace(-3, 3, state.shape[-1], device=state.device, dtype=state.dtype)
        state[:, list(positions)] += push * state.float().std().clamp(min=1e-3).to(state.dtype)
        return state if isinstance(output, Tensor) else type(output)((state, *output[1:]))

    with ExitStack() as undo:
        undo.callback(last.register_forward_hook(disturb).remove)
        return logits_of(adapter, encoding)


def differ(one: Tensor, other: Tensor, tolerance: float | None = None) -> bool:
    """Whether logits `[C]` or `[B, C]` are different by more than rounding."""
    return distance(one, other) > (rounding(one) if tolerance is None else tolerance)


def distance(one: Tensor, other: Tensor) -> float:
    """The largest difference of two tensors, as a share of the largest value."""
    one, other = one.double(), other.double()
    return float((one - other).abs().max() / one.abs().max().clamp(min=1e-12))


def rounding(like: Tensor) -> float:
    """The share by which two results that should be equal may differ: a few hundred units in the last place."""
    return 300 * torch.finfo(like.dtype).eps


def accepted(function: Callable[..., Any]) -> frozenset[str] | None:
    """The names of a function's parameters; None if it takes any name and tells none."""
    parameters = inspect.signature(function).parameters.values()
    open_ended = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    names = frozenset(p.name for p in parameters if p.kind not in open_ended)
    any_name = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters)
    return None if any_name and not names else names


def ordinary_tokens(adapter: TextAdapter, count: int) -> Tensor:
    """Token numbers `[count]` of a text of ordinary tokens, the last one the end of the text if the model has one.

    They count down from the end of the vocabulary, where no special tokens are, so that nothing takes them for positions.
    """
    model: Any = adapter.model
    table = next((module for module in model.modules() if isinstance(module, nn.Embedding)), None)
    get = getattr(model, "get_input_embeddings", None)
    tables: tuple[Any, ...] = (get() if get else None, table)
    rows = next((int(found.num_embeddings) for found in tables if hasattr(found, "num_embeddings")), 2)
    config = getattr(model, "config", None)
    special = {getattr(config, f"{name}_token_id", None) for name in ("pad", "bos", "eos", "cls", "sep", "mask")}
    ordinary = [token for token in range(rows - 1, -1, -1) if token not in special] or [0]
    tokens = torch.tensor((ordinary * count)[:count])
    if isinstance(end := getattr(config, "eos_token_id", None), int) and end < rows:
        tokens[-1] = end  # some heads look for it
    return tokens


def picture_size(adapter: VisionAdapter, default: int = 224) -> tuple[int, int]:
    """Height and width of a picture that the model takes: what its processor makes, what it says itself, or the usual."""
    if adapter.processor is not None:
        height, width = adapter.preprocess(Image.new("RGB", (64, 64))).shape[1:]
        return height, width
    return adapter.native_size or (default, default)

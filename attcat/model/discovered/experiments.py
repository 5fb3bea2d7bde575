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
from ...tokens import Tokens
from ..adapter import Adapter
from ..encoding import Encoding
from ..heads import SpanHead
from ..text import TextAdapter
from ..vision import VisionAdapter
from ..wrappers import input_embeddings

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
    gap = (one - other).masked_fill(one == other, 0.0)  # classes that both rule out are at -inf
    return float(gap.abs().max() / one[one.isfinite()].abs().amax().clamp(min=1e-12))


def rounding(like: Tensor) -> float:
    """The share by which two results that should be equal may differ: a few hundred units in the last place, at most a tenth.

    In half precision a few hundred units are more than the whole.
    """
    return min(0.1, 300 * torch.finfo(like.dtype).eps)


def accepted(function: Callable[..., Any]) -> frozenset[str] | None:
    """The names of a function's parameters; None if it takes any name and tells none."""
    parameters = inspect.signature(function).parameters.values()
    open_ended = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    names = frozenset(p.name for p in parameters if p.kind not in open_ended)
    any_name = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters)
    return None if any_name and not names else names


def vocabulary_size(model: nn.Module) -> int | None:
    """How many different tokens a model has embeddings for; None if no table of them is found."""
    table = next((module for module in model.modules() if isinstance(module, nn.Embedding)), None)
    candidates: tuple[Any, ...] = (input_embeddings(model), table)
    return next((int(found.num_embeddings) for found in candidates if hasattr(found, "num_embeddings")), None)


def ordinary_tokens(adapter: TextAdapter, count: int) -> Tensor:
    """Token numbers `[count]` of a text of ordinary tokens, the last one the end of the text if the model has one.

    They count down from the end of the vocabulary, where no special tokens are, so that nothing takes them for positions.
    """
    rows = vocabulary_size(adapter.model) or 2
    special = {name: special_tokens(adapter.model, name) for name in ("pad", "bos", "eos", "cls", "sep", "mask")}
    every = {token for tokens in special.values() for token in tokens}
    ordinary = [token for token in range(rows - 1, -1, -1) if token not in every] or [0]
    tokens = torch.tensor((ordinary * count)[:count])
    # Some heads look for the end; where it is the padding as well, it would be taken for padding.
    ends = [end for end in special["eos"] if end < rows and end not in special["pad"]]
    if ends:
        tokens[-1] = ends[0]
    return tokens


def encoding_of(adapter: TextAdapter, ids: Tensor, mask: Tensor) -> Encoding:
    """A batch of token numbers `[B, T]`, which name its tokens; for question answering the first two are the question."""
    arguments = adapter.place({"input_ids": ids, "attention_mask": mask})
    real = arguments["attention_mask"].bool()
    names = [tuple(f"#{token}" for token in row[kept].tolist()) for row, kept in zip(ids, mask.bool(), strict=True)]
    if not isinstance(adapter.head, SpanHead):
        return Encoding(arguments, real, tuple(Tokens(row, (False,) * len(row)) for row in names), (None,) * len(ids))
    pairs = [(row[:2], row[2:]) for row in names]
    texts = tuple((" ".join(question), " ".join(context)) for question, context in pairs)
    return Encoding(arguments, real, tuple(_pair_tokens(*pair) for pair in pairs), texts)


def _pair_tokens(question: tuple[str, ...], context: tuple[str, ...]) -> Tokens:
    """The tokens of two texts, each with its characters in the words joined by spaces."""
    spans: list[tuple[int, int]] = []
    for words in (question, context):
        start = 0
        for word in words:
            spans.append((start, start + len(word)))
            start += len(word) + 1
    segments = (0,) * len(question) + (1,) * len(context)
    return Tokens(question + context, (False,) * len(segments), spans=tuple(spans), segments=segments)


def special_tokens(model: nn.Module, name: str) -> tuple[int, ...]:
    """The numbers of a special token in the model's configuration, as `eos`, of which there may be several."""
    given = getattr(getattr(model, "config", None), f"{name}_token_id", None)
    return tuple(t for t in (given if isinstance(given, (list, tuple)) else (given,)) if isinstance(t, int))


def picture_size(adapter: VisionAdapter, default: int = 224) -> tuple[int, int]:
    """Height and width of a picture that the model takes: what its processor makes, what it says itself, or the usual."""
    if adapter.processor is not None:
        height, width = adapter.preprocess(Image.new("RGB", (64, 64))).shape[1:]
        return height, width
    return adapter.native_size or (default, default)

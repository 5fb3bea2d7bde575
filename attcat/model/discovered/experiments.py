"""Experiments on a model: change one thing in a forward pass, and see what becomes of the logits."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from ...capture.blocks import flat, hidden_state, rebind, replaced, with_state
from ...capture.randomness import OwnRandomness
from ...capture.streams import memory_of
from ...capture.survey import Survey, Visit
from ...tokens import Tokens
from ..adapter import Adapter
from ..bound import borrowed
from ..encoding import Encoding
from ..heads import SpanHead
from ..text import TextAdapter
from ..vision import VisionAdapter
from ..wrappers import input_embeddings

FAILURES = (ValueError, RuntimeError, TypeError, IndexError, KeyError, AttributeError, AssertionError, ArithmeticError)
"""What other people's forward passes raise on arguments that they do not take."""


def logits_of(adapter: Adapter, encoding: Encoding) -> Tensor:
    """The logits `[B, C]` of a plain forward pass."""
    with borrowed(adapter) as own, torch.no_grad(), OwnRandomness():
        return own.predict(encoding)[1].detach()


def logits_without(adapter: Adapter, encoding: Encoding, positions: Sequence[int]) -> Tensor:
    """The logits `[B, C]` when the last block passes on other states at some positions."""
    seen = 0

    def disturb(module: nn.Module, args: Any, output: Any) -> Any:
        nonlocal seen
        seen += 1
        if seen < calls:  # one block that is called again and again: only its last call
            return None
        given = [part for part in flat(output) if part.is_floating_point()]
        passed = next((part for part in given if part.dim() == 3), given[0])
        state = passed.clone()
        at = state if adapter.position_axis == 1 else state.transpose(1, adapter.position_axis)
        push = torch.linspace(-3, 3, at.shape[-1], device=state.device, dtype=state.dtype)
        places = [position - encoding.offset for position in positions if position >= encoding.offset]
        at[:, places] += push * state.float().std().clamp(min=1e-3).to(state.dtype)
        return replaced(output, passed, state)

    with borrowed(adapter) as own, ExitStack() as undo:
        last, calls = own.blocks[-1], own.blocks.count(own.blocks[-1])
        undo.callback(last.register_forward_hook(disturb).remove)
        return logits_of(own, encoding)


def idle(adapter: Adapter, encoding: Encoding, block: int, before: Tensor) -> bool:
    """Whether the logits stay what they were before when a block, called once, takes another state."""

    def disturb(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        place, state = hidden_state(module, args, kwargs)
        return with_state(place, -state + state.float().std().to(state.dtype), args, kwargs)

    with borrowed(adapter) as own, ExitStack() as undo:
        undo.callback(own.blocks[block].register_forward_pre_hook(disturb, with_kwargs=True).remove)
        return not differ(before, logits_of(own, encoding))


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
    """The names of a function's parameters; None if it takes any name and names none."""
    parameters = inspect.signature(function).parameters.values()
    open_ended = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    names = frozenset(p.name for p in parameters if p.kind not in open_ended)
    any_name = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters)
    return None if any_name and not names else names


def vocabulary_size(model: nn.Module) -> int | None:
    """How many different tokens a model has embeddings for; None if no table of them is found."""
    table = next((module for module in model.modules() if isinstance(module, nn.Embedding)), None)
    candidates: tuple[Any, ...] = (input_embeddings(model), table)
    rows = next((int(found.num_embeddings) for found in candidates if hasattr(found, "num_embeddings")), None)
    said = getattr(getattr(model, "config", None), "vocab_size", None)  # of one codebook, where a table holds several
    return min(rows, said) if rows is not None and isinstance(said, int) and said > 0 else rows


def ordinary_tokens(adapter: TextAdapter, count: int, rows: int | None = None) -> Tensor:
    """Token numbers `[count]` of a text of ordinary tokens, the last one the end of the text if the model has one.

    They count down from the end of the vocabulary, where no special tokens are, so that nothing takes them for positions. It has
    `rows` tokens; by default as many as the model has embeddings for.
    """
    rows = rows or vocabulary_size(adapter.model) or 2
    special = {name: special_tokens(adapter.model, name) for name in ("pad", "bos", "eos", "cls", "sep", "mask")}
    every = {token for tokens in special.values() for token in tokens} | _named_tokens(adapter.model)
    ordinary = [token for token in range(rows - 1, -1, -1) if token not in every] or [0]
    tokens = torch.tensor((ordinary * count)[:count])
    # Some heads look for the end; where it is the padding as well, it would be taken for padding.
    ends = [end for end in special["eos"] if end < rows and end not in special["pad"]]
    if ends:
        tokens[-1] = ends[0]
    return tokens


def _named_tokens(model: nn.Module) -> set[int]:
    """The numbers of tokens that the configuration gives a meaning of its own, as where a picture stands."""
    named = (
        vars(getattr(model, "config", None) or object()) if hasattr(getattr(model, "config", None), "__dict__") else {}
    )
    return {n for key, n in named.items() if key.endswith(("_token_id", "_token_index")) and type(n) is int}


def encoding_of(adapter: TextAdapter, ids: Tensor, mask: Tensor) -> Encoding:
    """A batch of token numbers `[B, T]`, which name its tokens; for question answering the first two are the question."""
    arguments = adapter.place({"input_ids": ids, "attention_mask": mask})
    real = arguments["attention_mask"].bool()
    names = [tuple(f"#{token}" for token in row[kept].tolist()) for row, kept in zip(ids, mask.bool(), strict=True)]
    if not isinstance(adapter.head, SpanHead):
        tokens = tuple(Tokens(row, (False,) * len(row)) for row in names)
        return adapter.completed(Encoding(arguments, real, tokens, (None,) * len(ids)))
    pairs = [(row[:2], row[2:]) for row in names]
    texts = tuple((" ".join(question), " ".join(context)) for question, context in pairs)
    return adapter.completed(Encoding(arguments, real, tuple(_pair_tokens(*pair) for pair in pairs), texts))


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


def mixed(adapter: TextAdapter, encoding: Encoding) -> dict[int, list[int]]:
    """Where else the first block's input changes when one token is replaced by another; empty where each is by itself.

    Args:
        adapter: of the model.
        encoding: one text.

    Returns:
        From the replaced position to the others that change.
    """
    ids = encoding.arguments["input_ids"]
    # What a decoder has written is no input of the first block.
    before = adapter.own_tokens[0]
    content = [
        place for place, special in enumerate(encoding.tokens[0].special[before:][: ids.shape[1]]) if not special
    ]
    content = [place for place in content if int(ids[0, place]) != adapter.pad_id]  # which would move positions
    patches = encoding.tokens[0].places or ()
    content = [place for place in content if not any(patches[place + before : place + before + 1])]
    tried = sorted({content[len(content) // 3], content[2 * len(content) // 3]}) if content else []

    def state_of(numbers: Tensor) -> Tensor:
        changed = replace(encoding, arguments={**encoding.arguments, "input_ids": numbers})
        return first_states(adapter, changed)[0].transpose(1, adapter.position_axis)[0]

    plain, found = state_of(ids), {}
    for place in tried:
        changed = ids.clone()
        words = (int(ids[0, other]) for other in content)  # ordinary ones: padding, e.g., would move positions
        changed[0, place] = next((word for word in words if word not in (ids[0, place], adapter.pad_id)), ids[0, place])
        try:
            state = state_of(changed)
        except FAILURES:
            continue  # a picture's placeholder, of which there have to be as many as the picture has tokens
        away = (state - plain).abs().amax(-1) > rounding(state) * plain.abs().max()
        others_changed = [index for index in away.nonzero().flatten().tolist() if index != place + before]
        if others_changed:
            found[place + before] = others_changed
    return found


def mixers(adapter: Adapter, watched: Survey, first: str, encoding: Encoding) -> list[Visit]:
    """The modules before the first block that take a state like its own, and mix its tokens, in the order of their calls.

    A positional convolution, e.g.: what it is given is the state of the tokens, each by itself.

    Args:
        adapter: of the model.
        watched: a forward pass of it.
        first: the name of the first block.
        encoding: what it is run with, one example.
    """
    block = next(visit for visit in watched.visits if visit.name == first)
    assert block.state is not None
    found: list[Visit] = []
    for visit in watched.visits[: watched.visits.index(block)]:
        within = any(visit.name.startswith(f"{other.name}.") for other in found)
        alike = visit.state is not None and visit.state.shape == block.state.shape
        if alike and visit.changes and not within and _mixes(adapter, visit.name, encoding):
            found.append(visit)
    return found


def _mixes(adapter: Adapter, name: str, encoding: Encoding) -> bool:
    """Whether what a module gives at other positions changes when its input is changed at one."""
    given = []
    for push in (0.0, 1.0):

        def disturb(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], push: float = push) -> Any:
            place, state = hidden_state(module, args, kwargs)
            state = state.clone()
            state[:, state.shape[1] // 2] += push * state.std() * torch.linspace(-1, 1, state.shape[2]).to(state)
            return with_state(place, state, args, kwargs)

        def stop(module: nn.Module, args: Any, output: Any) -> None:
            given.append(output if isinstance(output, Tensor) else output[0])
            raise Stop

        with borrowed(adapter) as own, torch.no_grad(), OwnRandomness(), ExitStack() as undo:
            module = own.model.get_submodule(name)
            undo.callback(module.register_forward_pre_hook(disturb, with_kwargs=True).remove)
            undo.callback(module.register_forward_hook(stop).remove)
            until_stopped(partial(own.call, encoding))
    away = (given[1] - given[0]).abs().amax((0, 2)) > rounding(given[0]) * given[0].abs().max()
    away[away.shape[0] // 2] = False
    return bool(away.any())


@dataclass(frozen=True)
class Placed:
    """Where on the picture tokens were found.

    Args:
        off: how many rows or columns of the grid the worst token lies from where it was expected.
        alone: whether another picture in one patch changed that patch's token and no other.
        before: whether a token in front of the patches changed.
    """

    off: int
    alone: bool
    before: bool


def placed(
    states_of: Callable[[Tensor], Tensor], size: tuple[int, int], grid: tuple[int, int], patch: tuple[float, float]
) -> Placed | None:
    """Change the pixels of some patches, and see which tokens change most.

    Args:
        states_of: from pixels `[B, 3, H, W]` to the first block's input `[B, T, D]`.
        size: H and W.
        grid: rows and columns of patches, which are the last of the T tokens.
        patch: height and width of a patch.

    Returns:
        Where they were found; None if there are fewer tokens than patches.
    """
    (rows, columns), (down, across) = grid, patch
    tried = sorted({(row, column) for row in _spread(rows) for column in _spread(columns)})
    noise = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))
    pixels = noise[:1].repeat(1 + len(tried), 1, 1, 1)
    for index, (row, column) in enumerate(tried, 1):
        rows_of = slice(round(row * down), round((row + 1) * down))
        columns_of = slice(round(column * across), round((column + 1) * across))
        pixels[index, :, rows_of, columns_of] = noise[1, :, rows_of, columns_of]
    states = states_of(pixels)
    count = states.shape[1] - rows * columns
    if count < 0 or len(states) != len(pixels):
        return None
    change = (states[1:] - states[0]).abs().mean(-1)
    patches, changed = change[:, count:], change > 0
    # Behind many convolutions some tokens answer to everything: then what counts is which change moves a token most.
    off = min(
        max(
            max(abs(int(place) // columns - row), abs(int(place) % columns - column))
            for place, (row, column) in zip(answers.argmax(-1), tried, strict=True)
        )
        for answers in (patches, patches / patches.mean(0).clamp(min=1e-30))
    )
    reached = changed[:, count:].view(-1, rows, columns)
    if off > 1 and (middle := _middle_of_reach(reached, tried)) is not None:
        off = middle
    return Placed(off, bool((changed.sum(-1) == 1).all()), bool(changed[:, :count].any()))


def _middle_of_reach(reached: Tensor, tried: Sequence[tuple[int, int]]) -> int | None:
    """How far the middle of all that a patch reaches lies from it, at worst, in rows or columns.

    The weights of convolutions may lean to one side, so that a token answers most to what lies two patches away, but what they
    reach at all has the same extent on every side. At an edge it is cut off, so that its other side is compared with how far a
    patch inside reaches.

    Args:
        reached: the tokens that change with each patch, bool `[patches, rows, columns]`.
        tried: rows and columns of the patches: the first, the middle and the last of each.

    Returns:
        None if there is no patch that reaches less than the grid, so that this says nothing.
    """
    worst = 0
    for seen in reached:  # one rectangle: of scattered tokens the middle says nothing
        whole = seen.any(1).sum() * seen.any(0).sum() if _is_one_run(seen.any(1)) and _is_one_run(seen.any(0)) else 0
        if not seen.sum() >= FILLED * whole > 0:
            return None
    for axis in (0, 1):
        last = reached.shape[axis + 1] - 1
        ends = []
        for seen, place in zip(reached.any(2 - axis), tried, strict=True):
            reaches = seen.nonzero().flatten().tolist()
            ends.append((place[axis], reaches[0], reaches[-1]))
        inner = [(place, low, high) for place, low, high in ends if low > 0 and high < last]
        if not inner:
            return None
        reach = max((high - low) / 2 for _, low, high in inner)
        for at, low, high in ends:
            middles = [edge for edge, free in ((low + reach, low > 0), (high - reach, high < last)) if free]
            worst = max([worst, *(math.ceil(abs(middle - at) - 0.5) for middle in middles)])
            if not middles:
                return None
    return worst


FILLED = 0.8
"""The share of a rectangle of tokens that a patch reaches: at its corners activations may let nothing through."""


def _is_one_run(line: Tensor) -> bool:
    """Whether what is true in a row stands side by side."""
    at = line.nonzero().flatten()
    return len(at) > 0 and int(at[-1] - at[0]) == len(at) - 1


def _spread(count: int) -> tuple[int, ...]:
    """The first, the middle and the last of so many."""
    return (0, count // 2, count - 1)


# -- a forward pass that ends before the first block -----------------------------------------------------------------


class Stop(Exception):  # noqa: N818 - no error
    """What was wanted is known: the pass ends here."""


def first_states(adapter: Adapter, encoding: Encoding) -> list[Tensor]:
    """What the first block takes, as the model has it, without running the blocks; empty if it is not called.

    Where the blocks read states of a picture beside it, these first: both make up what the tokens stand for.
    """
    streams = adapter.streams
    beside = streams is not None and not streams.encoder and encoding.offset
    taken = partial(_with_memory, streams.places[0]) if streams is not None and beside else _state
    with borrowed(adapter) as own, torch.no_grad(), OwnRandomness(), stopped_before(own.blocks[0], taken) as seen:
        until_stopped(partial(own.call, encoding))
    return seen


Taken = Callable[[nn.Module, tuple[Any, ...], dict[str, Any]], Tensor | None]
"""From a module and what it is called with to what is wanted of it."""


def _state(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    return hidden_state(module, args, kwargs)[1]


def _with_memory(place: int | str, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    """The state with that which it reads, `[N, P, D]`, before it."""
    state, read = _state(module, args, kwargs), memory_of(args, kwargs, place)
    if read is None:
        return state
    both = [read.reshape(len(state), -1, read.shape[-1]), state]
    width = max(each.shape[-1] for each in both)
    return torch.cat([F.pad(each, (0, width - each.shape[-1])) for each in both], 1)


@contextmanager
def stopped_before(block: nn.Module, taken: Taken = _state) -> Iterator[list[Tensor]]:
    """A forward pass ends where this block would be called; its input, or what else is taken of its arguments, is put into the
    list, unless that is None."""
    states: list[Tensor] = []

    def stop(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        found = taken(module, args, kwargs)
        if found is not None:
            states.append(found)
        raise Stop

    hook = block.register_forward_pre_hook(stop, with_kwargs=True)
    try:
        yield states
    finally:
        hook.remove()


@contextmanager
def replaced_before(block: nn.Module, state: Tensor) -> Iterator[None]:
    """Another hidden state for a block, in place of the one that it is called with."""

    def enter(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        place, own = hidden_state(module, args, kwargs)
        return None if rebind(own, state) else with_state(place, state, args, kwargs)

    hook = block.register_forward_pre_hook(enter, with_kwargs=True)
    try:
        yield
    finally:
        hook.remove()


@contextmanager
def stopped_after(blocks: Sequence[nn.Module]) -> Iterator[list[Tensor]]:
    """A forward pass ends where the last of these blocks would be called; what each of them takes is put into the list."""
    states: list[Tensor] = []

    def enter(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        states.append(hidden_state(module, args, kwargs)[1].clone())
        if len(states) == len(blocks):
            raise Stop

    with ExitStack() as undo:
        for block in blocks:
            undo.callback(block.register_forward_pre_hook(enter, with_kwargs=True).remove)
        yield states


def until_stopped(run: Callable[[], Any]) -> None:
    """Run a forward pass that is stopped."""
    try:
        run()
    except Stop:
        return

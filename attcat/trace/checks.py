"""Whether a trace tells the truth about a model: four figures, each measured against the model itself.

None takes the adapter's word. A gradient rule is complete if gradient times input and the biases make up the logit; the first
block's input is all that the prediction depends on if it foretells what becomes of the logits when something *below* it is
moved; and a block's input is the hidden state if no gradient passes it by.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from ..capture.blocks import hidden_state, rebind, with_state
from ..capture.modes import Wide, run_under
from ..capture.rules import Rule, make_rule
from ..model import Adapter, Encoding
from ..model.bound import borrowed
from .recording import Recording, record
from .values import Needs

STEPS = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1e-7, 1e-8)
"""Finite differences are taken with each: too small a step drowns in rounding (some models compute in float32 inside,
whatever their parameters; and of some the pixels hardly have an effect), too large a one in curvature, or among thousands of
ReLUs that bend within it. The smallest come last: few models need them, and a check may stop at the first that agrees."""


def incompleteness(adapter: Adapter, encoding: Encoding, rule: str = "libra", targets: int = 3) -> float:
    """The share of a logit that gradient times input and the biases do not explain, the worst of the likeliest few classes.

        | y_c - sum_{i,d} h_{i,d} dy_c/dh_{i,d} - bias |  /  max(|y_c|, |sum|, |bias|)

    Args:
        adapter: of the model.
        encoding: one example.
        rule: the gradient rule.
        targets: how many classes are asked for.
    """
    recording = record(adapter, encoding, make_rule(rule), biases=True)
    worst, count = 0.0, min(targets, recording.logits.shape[1])
    for target in recording.logits[0].topk(count).indices.tolist():
        with torch.enable_grad():
            value = recording.logits[:, target]
        trace = recording.trace(value, needs=Needs(), keep=True)
        inputs = float((trace.hidden[0].double() * trace.gradient[0].double()).sum())
        later = zip(trace.added, trace.gradient, strict=True) if trace.added else ()
        inputs += sum(float((added.double() * g.double()).sum()) for added, g in later if added is not None)
        bias = 0.0 if trace.bias is None else float(trace.bias.sum())
        logit = float(trace.value.sum())
        worst = max(worst, abs(logit - inputs - bias) / max(abs(logit), abs(inputs), abs(bias), 1e-30))
    return worst


def slope_error(
    adapter: Adapter, encoding: Encoding, steps: Sequence[float] = STEPS, enough: float = 0.0
) -> float | None:
    """How far the gradient at the first block's input is from foretelling what happens when what lies below it is moved.

    The word embeddings, or the pixels, are moved a little both ways, and the change of the logits is compared with the
    gradient times the change of the first block's input that comes with it. The two differ if a part of the forward pass is
    not differentiated, or if the model has another way from the embeddings to the logits.

    Args:
        adapter: of the model.
        encoding: one example.
        steps: how far, as shares of the standard deviation of what is moved.
        enough: a difference with which no further steps are tried.

    Returns:
        The difference as a share of the change, the smallest over the steps; None if there is nothing to move, or its
        effect drowns in rounding.
    """
    recording = record(adapter, encoding, Rule())
    share = torch.linspace(1, 2, recording.logits.shape[1], dtype=recording.logits.dtype).to(recording.logits.device)
    finite = recording.logits.detach().isfinite()

    def combined(logits: Tensor) -> Tensor:
        return (torch.where(finite, logits, 0.0) * share).sum(-1)

    with torch.enable_grad():
        value = combined(recording.logits)
    trace = recording.trace(value, needs=Needs())
    logits = recording.logits.detach()
    # Independent errors add up in squares.
    noise = torch.finfo(logits.dtype).eps * float((logits * share)[finite].norm())
    errors = []
    for step in steps:
        ends = [_moved(adapter, encoding, sign * step) for sign in (1, -1)]
        moved = [end for end in ends if end is not None]
        if len(moved) < 2:
            return None
        (up, above), (down, below) = moved
        change = float((combined(up) - combined(down)).sum())
        expected = float((trace.gradient[0].double() * (above - below).double()).sum())
        size = max(abs(change), abs(expected))
        if size > 100 * noise:
            errors.append(abs(change - expected) / size)
            if errors[-1] <= enough:
                break
    return min(errors, default=None)


def in_float64(adapter: Adapter, encoding: Encoding, wide: bool = False) -> tuple[Adapter, Encoding]:
    """An adapter of a copy of the model in float64, and the example for it.

    Args:
        adapter: of the model.
        encoding: one example.
        wide: also of tensors for which the model's code names no type, into which some write their logits.
    """
    model = copy.deepcopy(adapter.model).double()
    if wide:
        run_under(model, Wide)
    own = adapter.like(model)
    return own, replace(encoding, arguments=own.place(encoding.arguments))


def _exchanged(own: Tensor, state: Tensor) -> bool:
    """Exchange a tensor with the model's own, whose values stay where the backward pass keeps them; whether that can be done."""
    with torch._C.DisableTorchFunction():
        try:
            torch.utils.swap_tensors(own, state)  # type: ignore[no-untyped-call]
        except RuntimeError:  # something in torch holds it, as a view of it
            return False
    return True


WAYS = (rebind, _exchanged)


def past_the_blocks(adapter: Adapter, encoding: Encoding) -> float | None:
    """The share of the gradient at the word embeddings, or the pixels, that does not come through the first block's input.

    Exactly 0 if the first block's input is all that the prediction depends on. Measured by an ordinary forward and backward
    pass, and another in which the first block's input is made a constant in the way in which `record` makes it a leaf.

    Args:
        adapter: of the model.
        encoding: one example.

    Returns:
        The largest gradient that goes past, as a share of the largest; None if there is nothing to differentiate by.
    """
    whole, past = (_gradient_below(adapter, encoding, cut) for cut in (False, True))
    return None if whole is None or past is None or whole == 0 else past / whole


def _gradient_below(
    adapter: Adapter, encoding: Encoding, cut: bool, ways: Sequence[Callable[[Tensor, Tensor], bool]] = WAYS
) -> float | None:
    """The largest gradient at the word embeddings, or the pixels; None if there are none.

    Args:
        adapter: of the model.
        encoding: one example.
        cut: make the first block's input a constant.
        ways: to do that in the model's own tensor, which may be read again outside of the block, the first one that lets the
            backward pass through; if none does, in the block's argument.
    """
    arguments, entered = dict(encoding.arguments), set[nn.Module]()
    moving = _Moving(0.0, _words(adapter, encoding))

    def enter(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        first = module not in entered
        entered.add(module)
        if not cut or not first:
            return None
        place, state = hidden_state(module, args, kwargs)
        constant = state.detach().clone()
        return None if ways and ways[0](state, constant) else with_state(place, constant, args, kwargs)

    with borrowed(adapter) as own, torch.enable_grad(), moving, ExitStack() as undo:
        for start in (0,) if own.streams is None else own.streams.starts:
            undo.callback(own.blocks[start].register_forward_pre_hook(enter, with_kwargs=True).remove)
        if adapter.continuous is not None:
            arguments[adapter.continuous] = moving.move(arguments[adapter.continuous])
        logits = own.predict(replace(encoding, arguments=arguments))[1]
        total = logits[logits.isfinite()].sum()
    if not moving.leaves:
        return None
    try:
        found = torch.autograd.grad(total, moving.leaves, allow_unused=True) if total.requires_grad else ()
    except RuntimeError:
        if cut and ways:
            # What was written over was needed: something else is computed from it, before the blocks, or it is kept by an
            # activation that made it.
            return _gradient_below(adapter, encoding, cut, ways[1:])
        return None  # a model that only runs without gradient, as one that writes over what the backward pass needs
    return max((float(g.abs().max()) for g in found if g is not None), default=0.0)


def passed_by(adapter: Adapter, encoding: Encoding) -> list[int]:
    """The blocks whose input the gradient of a later state does not need: some of it reaches an earlier state without.

    Each block's input lets no gradient through. If it is the hidden state, nothing arrives at the blocks before the last one.
    """
    recording = record(adapter, encoding, Rule())
    arrived: dict[int, float] = {}

    def closed(index: int) -> Callable[[Tensor], Tensor]:
        def hook(gradient: Tensor) -> Tensor:
            arrived[index] = max(arrived.get(index, 0.0), float(gradient.abs().max()))
            return torch.zeros_like(gradient)

        return hook

    blocks = recording.blocks
    for index, block in enumerate(blocks):
        block.input.register_hook(closed(index))  # type: ignore[no-untyped-call]
    begins = [blocks[0].input]
    for cuts in () if recording.cuts is None else recording.cuts.every:  # a block of the decoder also takes the memory
        first = cuts.streams.encoder
        begins.append(blocks[first].input if first else cuts.memory[0])
        for index, memory in enumerate(cuts.memory[:-1], first):
            memory.register_hook(closed(index))  # type: ignore[no-untyped-call]
    with torch.enable_grad():
        total = recording.logits[recording.logits.isfinite()].sum()
    torch.autograd.grad(total, begins, allow_unused=True)
    return [index + 1 for index in range(len(blocks) - 1) if arrived.get(index, 0.0) > 0]


def looks_back(adapter: Adapter, encoding: Encoding) -> bool | None:
    """Whether a token sees only those before it: the states of the others stay when that of the last token is changed.

    Args:
        adapter: of the model, with one sequence of tokens.
        encoding: a batch.

    Returns:
        None if no example has two tokens, the blocks have other states than those of the tokens, or there is one block, which
        returns no state.
    """
    if not (encoding.mask.sum(-1) > 1).any():
        return None

    def last(states: Tensor) -> Tensor:
        """Its place, `[B, 1]`; a model may put tokens of its own in front, so that places are counted from the end."""
        own = states.shape[1] - encoding.mask.shape[1]
        places = torch.arange(encoding.mask.shape[1], device=states.device)
        return own + (places * encoding.mask).argmax(-1, keepdim=True)

    def turned(states: Tensor) -> Tensor:
        places = torch.arange(states.shape[1], device=states.device)
        return torch.where((places == last(states))[..., None], -states, states)

    plain, other = (record(adapter, encoding, Rule(), gradient=False, before=change) for change in (_same, turned))
    if len(plain.blocks) == 1 and plain.blocks[-1].output is None:
        return None  # all that is seen is what was changed
    states = [_end(plain), _end(other)]
    change = (states[0] - states[1]).abs().amax(-1)
    earlier = torch.arange(change.shape[1], device=change.device) < last(states[0])
    if not earlier.any() or not float(change.max()) > 0:
        return None  # its states are not those of the tokens that are named
    return float(change[earlier].max()) <= ROUNDING * float(change.max())


ROUNDING = 1e-4
"""What of a change may be rounding: kernels sum in another order when experts get other tokens."""


def _same(states: Tensor) -> Tensor:
    return states


def _end(recording: Recording) -> Tensor:
    """What the last block returns, `[B, T, D]`; or takes, where it returns no state."""
    end = recording.blocks[-1].output
    return (recording.inputs[-1] if end is None else end.detach()).float()


# -- moving what lies below the first block --------------------------------------------------------------------------


def _moved(adapter: Adapter, encoding: Encoding, step: float) -> tuple[Tensor, Tensor] | None:
    """The logits and the first block's input when the pixels or the word embeddings are moved; None if there are none."""
    arguments = dict(encoding.arguments)
    moving = _Moving(step, _words(adapter, encoding))
    if adapter.continuous is not None:
        arguments[adapter.continuous] = moving.move(arguments[adapter.continuous])
    with moving:
        recording: Recording = record(adapter, replace(encoding, arguments=arguments), Rule(), gradient=False)
    return (recording.logits.detach(), recording.inputs[0]) if moving.leaves else None


def _words(adapter: Adapter, encoding: Encoding) -> tuple[Tensor, ...]:
    """The token numbers whose embeddings are moved; none where a continuous input is."""
    return () if adapter.continuous is not None else adapter.words(encoding)


class _Moving(TorchFunctionMode):
    """Adds a fixed random direction to the embeddings of the words (of each sequence) when they are first looked up."""

    def __init__(self, step: float, words: Sequence[Tensor]) -> None:
        super().__init__()
        self.words = list(words)
        self.step = step
        self.leaves: list[Tensor] = []

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func is F.embedding:
            place = next((index for index, words in enumerate(self.words) if _equal(args[0], words)), None)
            if place is not None:
                del self.words[place]
                return self.move(result)
        return result

    def move(self, x: Tensor) -> Tensor:
        """x and a step in a direction that is the same in every pass."""
        direction = torch.randn(x.shape, generator=torch.Generator().manual_seed(len(self.leaves)), dtype=torch.float64)
        size = float(x.detach().float().std(correction=0)) or 1.0
        self.leaves.append(x.detach() + (self.step * size * direction).to(x))
        return self.leaves[-1].requires_grad_().clone() if torch.is_grad_enabled() else self.leaves[-1]


def _equal(one: Any, other: Tensor) -> bool:
    return isinstance(one, Tensor) and one.numel() == other.numel() and torch.equal(one.flatten(), other.flatten())

"""What happens in one forward pass: which modules are called, where attention is computed, which of them are the blocks.

Names tell nothing for sure about a model, but what it does can be watched. A block is a module of a list (or one that is
called again and again) that takes a hidden state `[B, T, D]`, computes self-attention once over its T positions, and
passes on a state of the same shape. Other attention may only pool: fewer queries than tokens.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .attention import Call, is_flat
from .blocks import flat
from .borrow import as_found
from .rules import named
from .torch_calls import Looking


@dataclass(frozen=True)
class Attention:
    """Attention that was computed: `shape` of its matrix, `[B, H, queries, keys]`, and whether in one fused call."""

    shape: tuple[int, ...]
    fused: bool


@dataclass(frozen=True)
class Convolution:
    """A convolution over pixels: the patches of its output `[B, D, rows, columns]`, its kernel and stride."""

    kernel: tuple[int, int]
    stride: tuple[int, int]
    grid: tuple[int, int]


@dataclass(eq=False)
class Visit:
    """One call of one module: the hidden state that came in and went out, and the attention that was computed inside."""

    name: str
    module: nn.Module
    parent: Visit | None
    state: Tensor | None
    output: Tensor | None = None
    seen: list[Attention] = field(default_factory=list)
    taken: Tensor | None = None
    """The first floating point tensor with three or four axes that came in: a hidden state, perhaps with a grid."""
    given: Tensor | None = None
    """The same of what went out."""
    handed: Mapping[int | str, Tensor] = field(default_factory=dict)
    """Every floating point tensor `[B, T, D]` that came in, by its place among the arguments."""
    origin: tuple[Any, int] | None = None
    """Where what was taken comes from: a node of the graph and the number of its output."""
    before: int = 0
    """How much attention had been computed in the pass when it was called."""

    @property
    def around(self) -> Iterator[Visit]:
        """The calls that this one was made within, from the inside."""
        parent = self.parent
        while parent is not None:
            yield parent
            parent = parent.parent

    def forget(self) -> None:
        """Keep the shape of what was taken, and let go of all tensors and of the graph that made them."""
        self.state = self.output = self.given = self.origin = None
        self.handed = {}
        if self.taken is not None:
            self.taken = torch.empty_like(self.taken, device="meta", requires_grad=False)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of what was taken; empty if that is no state."""
        return () if self.taken is None else tuple(self.taken.shape)

    @property
    def keeps_shape(self) -> bool:
        """Takes and passes on a hidden state of one shape, perhaps with a grid."""
        return self.taken is not None and self.given is not None and self.taken.shape == self.given.shape

    @property
    def attention(self) -> list[Attention]:
        """Fused calls, or if there are none what looks like attention written out."""
        return [attention for attention in self.seen if attention.fused] or self.seen

    @property
    def position_axis(self) -> int:
        """1 for a hidden state `[B, T, D]`; 0 for `[T, B, D]`, as torch's own layers have it by default (one example is watched);
        2 for `[B, D, T]`, as convolutions have it, where attention is over the last axis and not over the second."""
        assert self.state is not None
        rows, second, third = self.state.shape
        if rows > 1 and second == 1:
            return 0
        queries = {attention.shape[2] for attention in self.attention}
        return 2 if queries == {third} and second != third else 1

    @property
    def length(self) -> int:
        """T of the hidden state."""
        assert self.state is not None
        return self.state.shape[self.position_axis]

    @property
    def attends(self) -> bool:
        """Takes and passes on a hidden state, and attends over all of it and over nothing else, once or several times."""
        if self.state is None or self.output is None or self.state.shape != self.output.shape:
            return False
        batch, length = self.state.shape[1 if self.position_axis == 0 else 0], self.length
        shapes = [attention.shape for attention in self.attention]
        whole = ((length, length), (length, length + 1))  # one key more: a sink behind the tokens
        return bool(shapes) and all(shape[0] == batch and shape[2:] in whole for shape in shapes)

    @property
    def is_block(self) -> bool:
        """Takes and passes on a hidden state, and attends once over all of it."""
        return len(self.attention) == 1 and self.attends

    @property
    def passes(self) -> bool:
        """Takes and passes on a hidden state, another one of the same shape."""
        if self.state is None or self.output is None:
            return False
        return self.state.shape == self.output.shape and not torch.equal(self.state, self.output)

    @property
    def changes(self) -> bool:
        """The same, and attends nowhere inside."""
        return not self.seen and self.passes


@dataclass
class Survey:
    """What was seen in a forward pass: the calls in order, the attention, the first convolution, embeddings looked up."""

    visits: list[Visit] = field(default_factory=list)
    attention: list[Attention] = field(default_factory=list)
    convolutions: list[Convolution] = field(default_factory=list)
    lookups: list[tuple[Tensor, int]] = field(default_factory=list)
    """Indices and the number of rows of each embedding table."""
    batch: int = 1

    @cached_property
    def listed(self) -> frozenset[nn.Module]:
        """The modules that stand in lists; the first that is called is the model."""
        everything = self.visits[0].module.modules()
        return frozenset(child for module in everything if _is_list(module) for child in module.children())

    @cached_property
    def calls(self) -> Counter[nn.Module]:
        """How many times each module is called."""
        return Counter(visit.module for visit in self.visits)


class Unclear(Exception):  # noqa: N818 - a finding that the caller turns into an error
    """The forward pass does not tell which modules are the blocks.

    Args:
        reason: what was seen.
        hopeless: whether the model does something that no adapter can make explainable.
    """

    def __init__(self, reason: str, hopeless: bool = False) -> None:
        super().__init__(reason)
        self.hopeless = hopeless


def survey(model: nn.Module, run: Callable[[], Any], gradient: bool = False) -> Survey:
    """Watch one forward pass, without gradient unless it is asked for; the model is left as it was found."""
    found = Survey()
    with as_found(model), torch.set_grad_enabled(gradient), _visits(model, found) as stack, _Watcher(found, stack):
        run()
    return found


def blocks_of(found: Survey) -> list[Visit]:
    """The calls of the blocks, in order.

    They are the modules of a list, or those that are called again, that attend once; else any that do, as attributes of a model
    may; else those of a list that attend several times. Of these the first are taken that pass on just what the next one takes,
    or if none do, the first that make one line.

    Raises:
        Unclear: if there are none, or the candidates do not make one line; the message says what was seen.
    """
    once = [visit for visit in found.visits if visit.is_block]
    again = [visit for visit in once if visit.module in found.listed or found.calls[visit.module] > 1]
    several = [visit for visit in found.visits if visit.module in found.listed and visit.attends]
    lines, failed = [], None
    for blocks in (outermost(again), outermost(once), _innermost(several), outermost(several)):
        try:
            _check_line(blocks)
            _check_rest(found, blocks)
        except Unclear as error:
            failed = failed or error
        else:
            lines.append(_in_line(found, blocks) if blocks else [])
    lines = [line for line in lines if line]
    clean = (line for line in lines if len(line) > 1 and not between(found, line))
    if (line := next(clean, lines[0] if lines else None)) is not None:
        return line
    raise failed or _why_none(found)


def passing(found: Survey) -> list[Visit]:
    """The blocks of a model that attends in another way, or not at all: windows, blocks of tokens, recurrences, convolutions.

    They are the modules of a list that take a hidden state, change it and pass it on, each just to the next one. Gradients are
    all that can be read there.

    Raises:
        Unclear: if there are fewer than two.
    """
    able = [v for v in found.visits if v.module in found.listed and any(v.module.children()) and v.passes]
    for blocks in (outermost(able), _innermost(able)):
        if len(blocks) > 1 and not between(found, blocks):
            return blocks
    raise Unclear("no modules of a list take a hidden state and pass it on, each to the next one")


def divided(found: Survey) -> list[Visit]:
    """The blocks of a model that divides its attention: the innermost modules of lists that take a hidden state, attend, and
    pass on a state of the same shape.

    Raises:
        Unclear: if there are fewer than two.
    """
    blocks = _innermost([v for v in found.visits if v.module in found.listed and v.seen and v.keeps_shape])
    if len(blocks) < 2:
        raise Unclear("no modules of a list take a hidden state, attend, and pass on a state of the same shape")
    return blocks


def outermost(visits: Sequence[Visit]) -> list[Visit]:
    """Without those that are called within others of them."""
    every = set(visits)
    return [visit for visit in visits if every.isdisjoint(visit.around)]


def _innermost(visits: Sequence[Visit]) -> list[Visit]:
    """Without those that others of them are called within."""
    outer = {around for visit in visits for around in visit.around}
    return [visit for visit in visits if visit not in outer]


def _in_line(found: Survey, blocks: Sequence[Visit]) -> list[Visit]:
    """The blocks, and those of their list that do not attend but stand in the same line (recurrent layers, convolutions).

    What one passes on is just what the next one takes.
    """
    inside = {*blocks}
    free: list[Visit] = []
    for visit in found.visits:
        if visit.parent in inside:
            inside.add(visit)
        elif visit not in inside and visit.module in found.listed and visit.changes and any(visit.module.children()):
            free.append(visit)
    order = {visit: index for index, visit in enumerate(found.visits)}
    line = list(blocks)

    def before(block: Visit, start: int) -> Iterator[Visit]:
        """Backwards from a block, to the call with that number."""
        state, end = block.state, order[block]
        while True:
            fits = (v for v in reversed(free) if start < order[v] < end and _passes(v, state))
            if (visit := next(fits, None)) is None:
                return
            yield visit
            state, end = visit.state, order[visit]

    starts = [-1, *(order[block] for block in blocks)]
    for block, start in zip(blocks, starts, strict=False):
        line.extend(before(block, start))
    last = blocks[-1]
    for visit in free:
        if order[visit] > order[last] and visit.parent is last.parent and _passes(last, visit.state):
            line.append(visit)
            last = visit
    return sorted(line, key=order.__getitem__)


def _passes(visit: Visit, state: Tensor | None) -> bool:
    """Whether this is what the call passes on."""
    return visit.output is not None and state is not None and _same(visit.output, state)


def between(found: Survey, blocks: Sequence[Visit]) -> list[str]:
    """What stands between the blocks where one does not take just what the one before it returned; empty if each does.

    Returns:
        The kinds of modules that are called there, or `a sum or another operation` if there are none.
    """
    kinds: dict[str, None] = {}
    order = {visit: index for index, visit in enumerate(found.visits)}
    for before, after in pairwise(blocks):
        if before.output is not None and after.state is not None and _same(before.output, after.state):
            continue
        called = [v for v in found.visits[order[before] + 1 : order[after]] if v.parent is before.parent]
        kinds.update(dict.fromkeys([type(v.module).__name__ for v in called] or ["a sum or another operation"]))
    return list(kinds)


def _same(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.equal(one, other)


def _check_line(blocks: Sequence[Visit]) -> None:
    """Each block gets what the one before it passed on, or is its sibling in the same loop."""
    for before, after in pairwise(blocks):
        assert before.output is not None
        assert after.state is not None
        if before.output.shape == after.state.shape and (
            (before.parent is after.parent and type(before.module) is type(after.module))
            or torch.equal(before.output, after.state)
        ):
            continue
        raise Unclear(
            f"there are several lines of blocks: {after.name} ({type(after.module).__name__}) does not take over what "
            f"{before.name} ({type(before.module).__name__}) passes on (an encoder with a decoder, two towers, several streams?)",
            hopeless=True,
        )


def _check_rest(found: Survey, blocks: Sequence[Visit]) -> None:
    """Outside of the blocks attention may pool with one query (a learned one, or a class token), nothing else."""
    within = {id(attention) for block in blocks for attention in block.seen}
    if not blocks:
        return
    for attention in found.attention:
        if id(attention) not in within and attention.shape[2] != 1:
            raise Unclear(
                f"beside {len(blocks)} blocks ({blocks[0].name} to {blocks[-1].name}) there is attention of shape "
                f"{attention.shape} elsewhere, which would be left out: a decoder, windows, or a pyramid of stages",
                hopeless=True,
            )


NO_ATTENTION = "its forward pass computes no attention: neither scaled_dot_product_attention nor a softmax [B, H, T, T]"


def _why_none(found: Survey) -> Unclear:
    if not found.attention:
        return Unclear(NO_ATTENTION, hopeless=True)
    shapes = ", ".join(str(shape) for shape in dict.fromkeys(a.shape for a in found.attention))
    lengths = {visit.state.shape[1] for visit in found.visits if visit.state is not None}
    several = {a.shape for a in found.attention if a.shape[2] > 1}
    whole = all(shape[0] == found.batch and shape[2] == shape[3] and shape[2] in lengths for shape in several)
    return Unclear(
        "none of its repeated modules takes a hidden state [B, T, D], attends once over its T positions and passes on such "
        f"a state; attention matrices [B, H, queries, keys] of {shapes} were seen"
        + ("" if whole else " (windowed, block-sparse, channel or hybrid attention does not see all tokens at once)"),
        hopeless=not whole,
    )


# -- watching --------------------------------------------------------------------------------------------------------


def _is_list(module: nn.Module) -> bool:
    return isinstance(module, (nn.ModuleList, nn.Sequential, nn.ModuleDict))


@contextmanager
def _visits(model: nn.Module, found: Survey) -> Iterator[list[Visit]]:
    """Hook every module; gives the stack of the calls that are running."""
    stack: list[Visit] = []

    def hooks(name: str) -> tuple[Callable[..., None], Callable[..., None]]:
        def enter(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            visit = Visit(name, module, stack[-1] if stack else None, _state((*args, *kwargs.values())))
            places: list[tuple[int | str, Any]] = [*enumerate(args), *kwargs.items()]
            visit.handed = {place: value for place, value in places if _state((value,)) is not None}
            alone = [value for _, value in places if isinstance(value, Tensor)]  # of a list no tensor can be replaced
            visit.taken = next((state for axes in (3, 4) if (state := _state(alone, axes)) is not None), None)
            visit.before = len(found.attention)
            if visit.taken is not None and visit.taken.grad_fn is not None:
                visit.origin = (visit.taken.grad_fn, visit.taken.output_nr)
            found.visits.append(visit)
            stack.append(visit)

        def leave(module: nn.Module, args: Any, output: Any) -> None:
            visit = stack.pop()
            visit.output = _state(output)
            visit.given = visit.output if visit.output is not None else _state(output, 4)

        return enter, leave

    with ExitStack() as undo:
        for name, module in model.named_modules():
            enter, leave = hooks(name)
            undo.callback(module.register_forward_pre_hook(enter, with_kwargs=True).remove)
            undo.callback(module.register_forward_hook(leave).remove)
        yield stack


def _state(values: Any, axes: int = 3) -> Tensor | None:
    """The first floating point tensor with so many axes, as a hidden state `[B, T, D]`."""
    tensors = (v for v in flat(values) if v.is_floating_point() and v.dim() == axes)
    return next(tensors, None)


class _Watcher(Looking):
    """Notes attention, convolutions over pixels and embeddings."""

    def __init__(self, found: Survey, stack: list[Visit]) -> None:
        super().__init__()
        self.found = found
        self.stack = stack

    def look(self, func: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
        """One call."""
        if func is F.scaled_dot_product_attention:
            self._attention(Call.of(*args, **kwargs).shape, fused=True)
        elif func in _SOFTMAX and isinstance(result, Tensor) and result.dim() >= 4:
            self._attention(tuple(result.shape), fused=False)
        elif func in _SOFTMAX and isinstance(result, Tensor) and is_flat(result, self.found.batch):
            self._attention((self.found.batch, len(result) // self.found.batch, *result.shape[1:]), fused=False)
        elif func in _CONVOLUTION and args[0].dim() == 4:
            weight = args[1] if len(args) > 1 else kwargs["weight"]
            stride = args[3] if len(args) > 3 else kwargs.get("stride", 1)
            across = (stride, stride) if isinstance(stride, int) else tuple(stride)
            self.found.convolutions.append(Convolution(tuple(weight.shape[2:]), across, tuple(result.shape[2:])))
        elif func is F.embedding:
            weight = args[1] if len(args) > 1 else kwargs["weight"]
            self.found.lookups.append((args[0], weight.shape[0]))

    def _attention(self, shape: tuple[int, ...], fused: bool) -> None:
        attention = Attention(shape, fused)
        self.found.attention.append(attention)
        for visit in self.stack:
            visit.seen.append(attention)


_SOFTMAX = set(named("softmax"))
_CONVOLUTION = set(named("conv2d"))

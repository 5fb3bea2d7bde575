"""Run a model once forward and once backward; what is left is a `Trace` of plain tensors.

Hidden states are seen by hooks on the blocks that the adapter names (`capture.blocks`), attention where every family computes it
(`capture.torch_calls`). The first block's input becomes a leaf, so that nothing below it is differentiated. Inside a trace
parameters are constants: a tensor requires a gradient exactly if it depends on the hidden states.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..capture.attention import Call, Matrices, Seen, Several, counting, parts_of
from ..capture.blocks import Block, output_of, watch
from ..capture.rules import Rule
from ..capture.streams import remembered
from ..capture.torch_calls import Interception
from ..errors import CaptureError, InputError
from ..model import Adapter, Encoding, borrowed
from .streams import Cuts, cuts_in
from .values import RECEIVED, Hidden, Needs, Queries, Trace


@dataclass(frozen=True)
class Recording:
    """A forward pass, ready to be differentiated towards any target."""

    blocks: tuple[Block, ...]
    output: Any
    logits: Tensor
    mask: Tensor
    read: Tensor
    ones: Tensor | None = None  # factor of every bias, [B, T + 1], when their share is measured
    aligned: Callable[[int, Tensor, bool], Tensor] = lambda _block, state, _share: state  # see Adapter
    attends: tuple[bool, ...] = ()  # for each block, whether it does; those that do not receive no weight
    within: Callable[[int, Block], Tensor | None] = lambda _index, _block: None  # what tokens receive within windows
    cuts: Cuts | None = None  # of an encoder with a decoder: what belongs together
    causal: tuple[bool, ...] = ()  # for each block, whether its tokens see only those before them
    adds: bool = False  # whether something of the input may be added between blocks, see Adapter
    mingled: bool = False  # whether some biases have one factor for all examples, whose rows are routed together

    @property
    def inputs(self) -> tuple[Tensor, ...]:
        """What the blocks take, over all tokens that are named, `[B, T, D]` each, without a graph."""
        return self._joined([state.detach() for state in self._states("input")], False)

    def _states(self, hidden: Hidden) -> tuple[Tensor, ...]:
        """What is differentiated with respect to, beside attention: the states of the blocks, and what lies at their cuts."""
        if self.cuts is not None:
            return self.cuts.wanted(self.blocks, hidden)
        return tuple(block.input if hidden == "input" else output_of(block) for block in self.blocks)

    def trace(
        self,
        value: Tensor,
        target: Tensor | None = None,
        *,
        needs: Needs = RECEIVED,
        hidden: Hidden = "input",
        queries: Queries = "mean",
        keep: bool = False,
    ) -> Trace:
        """Differentiate one number per example with respect to the blocks' hidden states.

        Args:
            value: what is explained, `[B]`, computed from `logits` or `output`.
            target: the class it stands for, if any, `[B]`.
            needs: what to compute.
            hidden: the blocks' inputs or outputs.
            queries: which queries count in the received attention.
            keep: keep the graph for another target.

        Raises:
            CaptureError: if the value does not depend on a block, or a block's attention was not seen.
        """
        wanted, states, seen = self._wanted(needs, hidden)
        gradient = _differentiate(value, wanted, keep or self.mingled)
        if self.mingled and gradient:  # of the biases each example asks for its own
            assert self.ones is not None
            each = [_differentiate(value[row : row + 1], (self.ones,), keep=True)[0] for row in range(len(value))]
            shares = [self.ones.new_zeros(self.ones.shape[1]) if share is None else share.sum(0) for share in each]
            gradient = (*gradient[:-1], torch.stack(shares))
        return self._trace(
            value, target, gradient, states, seen, hidden, self._received(queries) if needs.received else ()
        )

    def received_by(self, query_weights: Tensor) -> tuple[Tensor, ...]:
        """The attention that each token receives, as a mean over queries with these weights.

        Args:
            query_weights: `[B, T]`, rows summing to 1; for the only example also several, `[N, T]`.

        Returns:
            Per block, `[B, T]` (or `[N, T]`).
        """
        with torch.no_grad():
            if self.cuts is not None:
                alone = self.cuts.streams.attends_alone  # of the others they are read by the cuts
                seen = [
                    _of_tokens(one_attention(index, block)) if yes and alone(index) else None
                    for index, (block, yes) in enumerate(zip(self.blocks, self.attends, strict=True))
                ]
                mask = self.mask if len(self.mask) == len(query_weights) else self.mask.expand(len(query_weights), -1)
                return self.cuts.received(self.blocks, mask, query_weights, seen, _received)
            rows = counting(query_weights)
            return tuple(
                self._received_in(index, block, query_weights, rows)
                if self.attends[index]
                else torch.zeros_like(query_weights)
                for index, block in enumerate(self.blocks)
            )

    def _received_in(self, index: int, block: Block, query_weights: Tensor, rows: Sequence[int]) -> Tensor:
        within = self.within(index, block)
        if within is not None:
            return within
        return _received(_of_tokens(one_attention(index, block)), query_weights, rows)

    def traces(
        self,
        values: Tensor,
        places: Sequence[int],
        *,
        target: Tensor | None,
        mask: Tensor,
        read: Tensor,
        received: tuple[Tensor, ...],
        logits: Tensor,
        needs: Needs = RECEIVED,
        hidden: Hidden = "input",
    ) -> Trace:
        """Differentiate several numbers of the only example; each becomes a row of the Trace.

        Where the gradient rule allows it, this is one backward pass over a batch of gradients, else one after another.

        Args:
            values: `[M]`, computed from `logits` or `output`; the graph is kept.
            places: which N of them are explained.
            target: the classes they stand for, if any, `[N]`.
            mask: the tokens that each is explained by, bool `[N, T]`.
            read: the tokens that the head reads for each, bool `[N, T]`.
            received: per block, the attention that each token receives, `[N, T]`; empty if the method does not read it.
            logits: `[N, C]`.
            needs: what to compute.
            hidden: the blocks' inputs or outputs.

        Raises:
            CaptureError: if a value does not depend on a block, or a block's attention was not seen.
        """
        wanted, states, seen = self._wanted(needs, hidden)
        gradient = _differentiate_each(values, places, wanted)
        rows = replace(self, mask=mask, read=read, logits=logits)
        return rows._trace(values[list(places)], target, gradient, states, seen, hidden, received)

    def _wanted(self, needs: Needs, hidden: Hidden) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...], tuple[Seen, ...]]:
        """What is differentiated with respect to; of it the hidden states; and the attention."""
        states = self._states(hidden)
        seen = self._seen() if needs.attention else ()
        mixed = [mix for attention in seen for mix in _mixed(attention)]
        wanted = (*states, *mixed, *(() if self.ones is None else (self.ones,))) if needs.gradient else ()
        return wanted, states, seen

    def _trace(
        self,
        value: Tensor,
        target: Tensor | None,
        gradient: Sequence[Tensor | None],
        states: tuple[Tensor, ...],
        seen: tuple[Seen, ...],
        hidden: Hidden,
        received: tuple[Tensor, ...],
    ) -> Trace:
        """What is left, for the B examples; or for N rows of one, which share its hidden states."""
        count = len(states)
        last = count + sum(len(parts_of(attention)) for attention in seen)
        lost = [str(block) for block, g in enumerate(gradient[: min(count, len(self.blocks))]) if g is None]
        if lost:
            raise CaptureError(
                f"the target does not depend on the {hidden} of block {', '.join(lost)}: check the adapter's blocks"
            )
        rows, end = len(self.mask), None if self.cuts else self.blocks[-1].output
        with torch.no_grad():
            # What no later block reads has no gradient, in any of the rows.
            filled = [_shared(g, rows) for g in _filled(gradient[:count], states)]
            gradients = self._joined(filled, True) if gradient else ()
            added = self._added(rows) if hidden == "input" and gradient else ()
            return Trace(
                hidden=self._joined([_shared(state.detach(), rows) for state in states], False),
                gradient=gradients,
                received=received,
                attention=Matrices([partial(_matrix, attention, rows) for attention in seen]),
                attention_gradient=_matrix_gradients(seen, gradient[count:last]),
                last=None if end is None else _shared(end.detach(), rows),
                biases=self._biases(gradient[last:], added, gradients),
                logits=self.logits.detach(),
                target=target,
                value=value.detach(),
                mask=self.mask,
                read=self.read,
                causal=self.causal,
                added=added,
            )

    def _added(self, rows: int) -> tuple[Tensor | None, ...]:
        """What each block takes and the one before it did not return: where the states of some tokens are just as they were
        returned, and others are not. Where all are others, a layer stands there, and nothing was added.
        """
        if not self.adds or self.cuts is not None:
            return ()
        found: list[Tensor | None] = [None]
        for before, block in itertools.pairwise(self.blocks):
            moved = None
            if before.output is not None and before.output is not block.input:
                moved = block.input.detach() - before.output.detach()
                changed = (moved != 0).any(-1)
                moved = _shared(moved, rows) if bool(changed.any()) and not bool(changed.all()) else None
            found.append(moved)
        return tuple(found) if any(each is not None for each in found) else ()

    def _biases(
        self, gradient: Sequence[Tensor | None], added: Sequence[Tensor | None], gradients: Sequence[Tensor]
    ) -> Tensor | None:
        """What the biases contribute at each token, `[B, T]` (0 of a model that has none); None if it was not measured.

        What is added between blocks is a constant to them, but no bias.
        """
        if self.ones is None or not gradient:
            return None
        shape = (len(self.mask), self.ones.shape[1])
        each = self.ones.new_zeros(shape) if gradient[0] is None else gradient[0].reshape(shape)
        found = each[:, :-1] + each[:, -1:] * self.mask / self.mask.sum(1, keepdim=True)
        pairs = zip(added, gradients, strict=True) if added else ()
        return found - sum(((each * g).sum(2).to(found) for each, g in pairs if each is not None), 0)

    def _joined(self, tensors: Sequence[Tensor], share: bool) -> tuple[Tensor, ...]:
        """The states of the blocks, or their gradients, over the tokens that are named."""
        if self.cuts is not None:
            return self.cuts.joined(tensors, self.mask)
        return tuple(self.aligned(index, tensor, share) for index, tensor in enumerate(tensors))

    def relevance(self, value: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """The relevance of the first block's input, `[B, T, D]`, and of each attention matrix, `[B, H, T, T]`.

        The forward pass must have been recorded under the rule `Relevance`, whose backward pass carries it.
        """
        seen = self._seen()
        matrices = [matrix for attention in seen for matrix in _mixed(attention)]  # the rule is explicit: matrices
        first, *rest = _differentiate(value, (self.blocks[0].input, *matrices), keep=False)
        if first is None:
            raise CaptureError("the target does not depend on the first block's input: check the adapter's blocks")
        filled = iter(_filled(rest, matrices))
        return first, tuple(torch.cat([next(filled) for _ in parts_of(attention)], 1) for attention in seen)

    def matrix(self, block: int) -> Tensor:
        """The attention matrix of a block, `[B, H, T, T]`, without a graph."""
        with torch.no_grad():
            return _matrix(one_attention(block, self.blocks[block]), len(self.mask))

    def attention_gradient(self, value: Tensor, block: int) -> Tensor:
        """The gradient of a value `[B]` with respect to one block's attention matrix, `[B, H, T, T]`.

        The forward pass must have been recorded with `attention=True`.
        """
        attention = one_attention(block, self.blocks[block])
        return _matrix_gradients([attention], _differentiate(value, _mixed(attention), keep=False))[0]

    def _seen(self) -> tuple[Seen, ...]:
        if self.cuts is not None:
            raise CaptureError(
                f"{self.cuts.streams.apart}, so that there is no attention matrix over all tokens: use a method that reads none, "
                "as attcat, cat or input_x_gradient"
            )
        if not all(self.attends):
            without = [str(index) for index, attends in enumerate(self.attends) if not attends]
            raise CaptureError(
                f"block {', '.join(without)} of {len(self.blocks)} does not attend, so that there is no attention matrix of "
                "every block: use a method that reads none, as attcat, cat or input_x_gradient"
            )
        return tuple(one_attention(index, block) for index, block in enumerate(self.blocks))

    def _received(self, queries: Queries) -> tuple[Tensor, ...]:
        counted = (self.mask if queries == "mean" else self.read & self.mask).float()
        received = self.received_by(counted / counted.sum(-1, keepdim=True))
        return tuple(each * self.mask for each in received)


def _differentiate(value: Tensor, wanted: Sequence[Tensor], keep: bool) -> tuple[Tensor | None, ...]:
    if not wanted:
        return ()
    if not value.requires_grad:
        raise CaptureError(
            "the target does not depend on the hidden states: the model, or the target function, computes it without "
            "gradient (torch.no_grad, .detach(), argmax or numpy inside)"
        )
    try:
        return torch.autograd.grad(value, tuple(wanted), torch.ones_like(value), retain_graph=keep, allow_unused=True)
    except RuntimeError as error:
        if "inplace operation" not in str(error):
            raise
        raise CaptureError(
            "the model writes over tensors that its gradient needs (x[...] = ..., x += ...), so that it cannot be "
            "differentiated: write them anew there, or use method='occlusion', which needs no gradient"
        ) from error


ONE_BY_ONE = ("ScaledDotProduct", "GroupedMm")
"""Fused kernels, by how the names of their backward passes begin, which torch cannot run for several gradients at once."""


HOUSE = __name__.partition(".")[0] + "."


def _differentiate_each(values: Tensor, places: Sequence[int], wanted: Sequence[Tensor]) -> tuple[Tensor | None, ...]:
    """The gradients of N of the values, each `[N, ...]` for a tensor `[1, ...]`; the graph is kept.

    One backward pass for all is two to three times as fast as one for each: matrices are multiplied once, and constant
    attention weights are computed once.
    """
    if not wanted:
        return ()
    if not values.requires_grad or len(places) == 1 or not _takes_several(values):
        each = [_differentiate(values[place : place + 1], wanted, keep=True) for place in places]
        return tuple(_joined(gradients, x) for gradients, x in zip(zip(*each, strict=True), wanted, strict=True))
    unused: set[int] = set()

    def backward(direction: Tensor) -> list[Tensor]:
        found = torch.autograd.grad(values, tuple(wanted), direction, retain_graph=True, allow_unused=True)
        unused.update(index for index, g in enumerate(found) if g is None)
        return [torch.zeros_like(x) if g is None else g for g, x in zip(found, wanted, strict=True)]

    directions = torch.eye(len(values), dtype=values.dtype, device=values.device)[list(places)]
    together = torch.func.vmap(backward)(directions)
    return tuple(None if index in unused else g.flatten(0, 1) for index, g in enumerate(together))


def _takes_several(values: Tensor) -> bool:
    """Whether the graph has a backward pass for several gradients at once.

    Functions of other people may not be able to, which are recognised by their module.
    """
    waiting, known = [values.grad_fn], set()
    while waiting:
        node = waiting.pop()
        if node is None or node in known:
            continue
        known.add(node)
        function = getattr(type(node), "_forward_cls", None)
        foreign = function is not None and not function.__module__.startswith(HOUSE)
        if foreign or node.name().startswith(ONE_BY_ONE):
            return False
        waiting += [after for after, _ in node.next_functions]
    return True


def _joined(gradients: Sequence[Tensor | None], like: Tensor) -> Tensor | None:
    """One after another along the first axis; None if the tensor plays no part in any."""
    if all(g is None for g in gradients):
        return None
    return torch.cat([torch.zeros_like(like) if g is None else g for g in gradients])


def _shared(tensor: Tensor, rows: int) -> Tensor:
    """What several rows have in common, `[N, ...]` of `[1, ...]`, without copies."""
    return tensor if len(tensor) == rows else tensor.expand(rows, *tensor.shape[1:])


def _filled(gradient: Sequence[Tensor | None], like: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """Gradients, with zeros where the target does not depend on a tensor."""
    return tuple(torch.zeros_like(x) if g is None else g for g, x in zip(gradient, like, strict=False))


def record(
    adapter: Adapter,
    encoding: Encoding,
    rule: Rule,
    *,
    attention: bool = False,
    biases: bool = False,
    gradient: bool = True,
    before: Callable[[Tensor], Tensor] | None = None,
    early: int | None = None,
) -> Recording:
    """Run the model forward once, under a gradient rule, and keep what explanations need.

    Args:
        adapter: of the model.
        encoding: the batch.
        rule: gradient rule, made for this pass.
        attention: keep what attention matrices and their gradients are made from, for methods that read them.
        biases: measure what the bias terms contribute.
        gradient: build the graph; without it nothing can be differentiated, and less is kept.
        before: replaces the first block's input.
        early: the block whose output the head reads, in place of the last one's.

    Raises:
        CaptureError: inside `torch.inference_mode()`, or if the blocks were not called.
        InputError: if a logit is not finite.
    """
    if torch.is_inference_mode_enabled():
        raise CaptureError(
            "gradients cannot be computed inside torch.inference_mode(): call AttCAT outside of it (torch.no_grad() is fine)"
        )
    adapter = adapter.reading(encoding)
    if early is not None and adapter.streams is not None:
        raise CaptureError("of two sequences of tokens no earlier block can be read by the head: use another method")
    blocks: list[Block] = []
    open_blocks: list[Block] = []
    batch, length = encoding.mask.shape
    ones = torch.ones(batch, length + 1, device=adapter.device, requires_grad=True) if biases else None

    # An argument may itself be the first block's input, which is written to.
    written = {name: v.clone() for name, v in encoding.arguments.items() if _is_state(v)}
    encoding = replace(encoding, arguments={**encoding.arguments, **written}) if written else encoding
    streams, memory = adapter.streams, list[Any]()
    starts = (0,) if streams is None else streams.starts
    watching = Interception(rule, open_blocks, attention=attention, ones=ones)
    shared = streams is not None and not encoding.offset
    first = None
    if streams is not None:
        apart = cuts_in(streams)(streams, (), encoding.offset, shared)
        first = None if streams.encoder else _leaf(before, apart, encoding.mask, gradient)
        before = None if before is None else _either(before, apart, encoding.mask, blocks)
    with (
        borrowed(adapter) as own,
        watch(
            own.blocks,
            blocks,
            open_blocks,
            gradient,
            before=before,
            early=early,
            outputs=own.passes_state,
            position_axis=own.position_axis,
            several=own.attends_again,
            lasting=own.model.buffers,
            starts=starts,
            until_next=own.until_next,
        ),
        remembered(own.blocks, streams, memory, own.position_axis, None if first is None else batch, first),
        torch.no_grad(),  # until the first block is reached
        watching,
    ):
        output, logits = own.predict(encoding)
    if len(blocks) < len(own.blocks):
        raise CaptureError(
            f"{type(adapter.model).__name__} was run, but only {len(blocks)} of its {len(own.blocks)} blocks were called"
        )
    for index, block in enumerate(blocks):
        if block.input._version != block.version:
            raise CaptureError(
                f"the model changes the input of block {index} in place (x += ...), so that the hidden state is lost: "
                "write x = x + ... there"
            )
    if logits.dim() != 2:
        raise CaptureError(f"logits have shape {tuple(logits.shape)}, expected [B, C]")
    # Of very many classes some may be ruled out with -inf, as the spans that are no answer.
    if not (logits if adapter.head.kept is None else logits.max(-1).values).isfinite().all():
        raise InputError(
            "the model's logits are not finite (NaN or infinity) for this input: there is nothing to explain"
        )
    read = adapter.head.read(encoding, logits.argmax(-1))
    source = encoding.offset or encoding.mask.shape[1]
    cuts = None if streams is None else cuts_in(streams).of(streams, memory, source, shared)
    return Recording(
        tuple(blocks),
        output,
        logits,
        encoding.mask,
        read,
        ones,
        adapter.aligned,
        adapter.attends,
        adapter.received,
        cuts,
        _causal(adapter),
        adapter.adds_between,
        watching.mingled,
    )


def _causal(adapter: Adapter) -> tuple[bool, ...]:
    """For each block; what is written sees only what was written before."""
    if adapter.streams is None:
        return (bool(adapter.causal),) * len(adapter.blocks)
    streams = adapter.streams
    return tuple(streams.causal and index >= streams.encoder for index in range(len(adapter.blocks)))


def _either(
    before: Callable[[Tensor], Tensor], cuts: Cuts, mask: Tensor, blocks: Sequence[Block]
) -> Callable[[Tensor], Tensor]:
    """Of states over all tokens those of the sequence that begins."""

    def own(state: Tensor) -> Tensor:
        begun = [blocks[start].input for start in cuts.streams.starts if start < len(blocks)]
        return cuts.begun(before(state), mask, begun, state)

    return own


def _leaf(
    before: Callable[[Tensor], Tensor] | None, cuts: Cuts, mask: Tensor, gradient: bool
) -> Callable[[Tensor], Tensor]:
    """Where no block makes the memory: what makes it a leaf, or puts in its place its part of states over all tokens."""

    def own(state: Tensor) -> Tensor:
        if before is not None:
            state = cuts.split(before(state), mask, (state.shape[-1], 0))[0]
        return state if state.requires_grad else state.detach().clone().requires_grad_(gradient)

    return own


def _is_state(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point() and value.dim() == 3


# -- reading a block -------------------------------------------------------------------------------------------------


def _of_tokens(attention: Seen) -> Seen:
    return _tokens_only(attention) if isinstance(attention, Tensor) else attention


def _received(attention: Seen, query_weights: Tensor, counted: Sequence[int]) -> Tensor:
    """The attention that tokens receive in one block, `[B, T]` float32 or wider, a mean over the heads of all calls."""
    parts = parts_of(attention)
    if len(parts) == 1:
        return _received_in(parts[0], query_weights, counted)
    heads = [part.shape[1] for part in parts]
    each = [_received_in(part, query_weights, counted) * many for part, many in zip(parts, heads, strict=True)]
    return torch.stack(each).sum(0) / sum(heads)


def _received_in(attention: Call | Tensor, query_weights: Tensor, counted: Sequence[int]) -> Tensor:
    if isinstance(attention, Call):
        return attention.received(query_weights, counted)
    wide = attention.detach()
    wide = wide.to(torch.promote_types(wide.dtype, torch.float32)).nan_to_num(0.0)
    weights = query_weights.to(wide.dtype)
    if len(weights) != len(wide):
        return weights @ wide.mean(1).squeeze(0)
    return torch.einsum("bq,bhqk->bk", weights, wide) / wide.shape[1]


def _mixed(attention: Seen) -> tuple[Tensor, ...]:
    """What the gradient of the matrix is read off: the attention's output, or the matrix itself where it is in the graph; one of
    each call."""
    found = tuple(part if isinstance(part, Tensor) else part.output for part in parts_of(attention))
    kept = tuple(part for part in found if part is not None)
    if len(kept) < len(found):
        raise CaptureError("the forward pass was recorded without its attention: record(..., attention=True)")
    return kept


def _matrix(attention: Seen, rows: int) -> Tensor:
    each = [_tokens_only(p.detach()) if isinstance(p, Tensor) else p.weights() for p in parts_of(attention)]
    return _shared(each[0] if len(each) == 1 else torch.cat(each, 1), rows)


def _tokens_only(matrix: Tensor) -> Tensor:
    """`[B, H, T, T]` without the column of the attention sink."""
    return matrix[..., : matrix.shape[2]]


def _matrix_gradients(seen: Sequence[Seen], gradient: Sequence[Tensor | None]) -> Matrices:
    """Of the attention matrices, from gradients at what `_mixed` gives; 0 where the target does not depend on it."""
    if not gradient:
        return Matrices()
    filled = iter(_filled(gradient, [mix for attention in seen for mix in _mixed(attention)]))
    return Matrices([partial(_joined_gradient, [(part, next(filled)) for part in parts_of(one)]) for one in seen])


def _joined_gradient(parts: Sequence[tuple[Call | Tensor, Tensor]]) -> Tensor:
    """The gradient at one block's matrix, `[B, H, T, T]`, from those at what each of its calls gave."""
    each = [part.weight_gradient(g) if isinstance(part, Call) else _tokens_only(g.detach()) for part, g in parts]
    return each[0] if len(each) == 1 else torch.cat(each, 1)


def one_attention(index: int, block: Block) -> Seen:
    """The block's self-attention, over all of the block's tokens: one call, or several where the adapter says so."""
    batch, length = block.input.shape[:2]
    seen = [a for a in block.attention if isinstance(a, Call)] or block.attention
    if not seen:
        raise CaptureError(
            f"the attention of block {index} was not seen: it calls neither scaled_dot_product_attention nor softmax "
            "(flash or flex attention?); load the model with its default attention or attn_implementation='eager'"
        )
    if len(seen) > 1 and not block.several:
        raise CaptureError(f"block {index} calls attention {len(seen)} times, expected once")
    for one in seen:
        shape = tuple(one.shape)
        sink = (block.sink and shape[2:] == (length, length + 1)) or _has_sink(one, length)
        if shape[0] != batch or (shape[2:] != (length, length) and not sink):
            raise CaptureError(
                f"block {index} attends with a matrix of shape {shape} over {batch} x {length} tokens: windowed, block-sparse "
                "or cross attention is not supported"
            )
    return seen[0] if len(seen) == 1 else Several(tuple(seen))


def _has_sink(attention: Call | Tensor, length: int) -> bool:
    """Whether a causal matrix has one more column behind the tokens: a sink, which takes what no token gets (GPT-OSS).

    The first query sees itself and the sink alone; this distinguishes it from a sink in front or another key. Where every query
    sees every token, the block says whether the model was seen to leave that column out.
    """
    if not isinstance(attention, Tensor) or attention.shape[2:] != (length, length + 1):
        return False
    return not bool(attention.detach()[:, :, 0, 1:length].any())

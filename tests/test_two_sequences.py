"""The cuts of an encoder with a decoder, position by position: states put together and taken apart, and received attention."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from attcat.capture.attention import Call
from attcat.capture.blocks import Block
from attcat.capture.streams import Streams
from attcat.errors import CaptureError
from attcat.trace.recording import _received
from attcat.trace.streams import Cuts

S, A = 4, 3  # tokens of the encoder and of the decoder
BATCH = 2


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


def cuts(shared: bool, shift: int = 0, own: tuple[int, ...] = (0, 0), cross: tuple[int, ...] = (1, 1)) -> Cuts:
    streams = Streams(2, ("memory", "memory"), own, cross, shift)
    memory = tuple(drawn(BATCH, S, 5, seed=20 + index) for index in range(3))
    return Cuts(streams, memory, S, shared)


def blocks(decoder: int, width: int) -> tuple[Block, ...]:
    """Two of the encoder, over S tokens, and two of the decoder, over so many."""
    made = []
    for index in range(4):
        shape = (BATCH, S, 5) if index < 2 else (BATCH, decoder, width)
        made.append(Block(drawn(*shape, seed=index), drawn(*shape, seed=10 + index)))
    return tuple(made)


MASK = torch.tensor([[True] * 4, [True, True, True, False]])


@pytest.mark.parametrize("width", [5, 3, 7])
@pytest.mark.parametrize("hidden", ["input", "output"])
def test_what_lies_at_each_cut(hidden: str, width: int) -> None:
    """At the encoder's blocks their state and the decoder's embeddings; at the decoder's the memory that is unread and theirs."""
    found, every = cuts(shared=False), blocks(A, width)
    mask = torch.ones(BATCH, S + A, dtype=torch.bool)
    joined = found.joined(found.wanted(every, hidden), mask)  # type: ignore[arg-type]
    state = [block.input if hidden == "input" else block.output for block in every]
    memory = found.memory[:2] if hidden == "input" else found.memory[1:]
    pairs = [(state[0], every[2].input), (state[1], every[2].input), (memory[0], state[2]), (memory[1], state[3])]
    assert len(joined) == 4
    for both, (first, second) in zip(joined, pairs, strict=True):
        assert both.shape == (BATCH, S + A, max(5, width))
        assert torch.equal(both[:, :S, : first.shape[-1]], first)
        assert torch.equal(both[:, S:, : second.shape[-1]], second)
        assert not both[:, :S, first.shape[-1] :].any()
        assert not both[:, S:, second.shape[-1] :].any()
        again = found.split(both, mask, (first.shape[-1], second.shape[-1]))
        assert torch.equal(again[0], first)
        assert torch.equal(again[1], second)


def test_what_an_encoder_pads_is_left_out() -> None:
    found = cuts(shared=False)
    source, target = drawn(BATCH, S + 2, 5), drawn(BATCH, A, 5, seed=1)
    both = found._together(source, target, torch.ones(BATCH, S + A, dtype=torch.bool))
    assert torch.equal(both, torch.cat([source[:, :S], target], 1))


def read_at(row: int, token: int, shift: int) -> int:
    """Where the decoder reads a token: `shift` later, the last one at the start; padding stays where it is."""
    length = int(MASK[row].sum())
    return (token + shift) % length if token < length else token


@pytest.mark.parametrize("shift", [0, 1])
def test_a_text_that_both_read_has_a_state_in_each(shift: int) -> None:
    found, every = cuts(shared=True, shift=shift), blocks(S, 3)
    joined = found.joined(found.wanted(every, "input"), MASK)
    pairs = [(every[0].input, every[2].input), (every[1].input, every[2].input)]
    pairs += [(found.memory[0], every[2].input), (found.memory[1], every[3].input)]
    for both, (first, second) in zip(joined, pairs, strict=True):
        for row in range(BATCH):
            for token in range(S):
                expected = torch.cat([first[row, token], second[row, read_at(row, token, shift)]])
                assert torch.equal(both[row, token], expected)
        again = found.split(both, MASK, (5, 3))
        assert torch.equal(again[0], first)
        assert torch.equal(again[1], second)


def attended(queries: int, keys: int, seed: int) -> Call:
    return Call(drawn(BATCH, 2, queries, 3, seed=seed), drawn(BATCH, 2, keys, 3, seed=seed + 1))


def mean(call: Call, weights: Tensor) -> Tensor:
    """Over heads and queries, one at a time."""
    matrix = call.weights()
    total = torch.zeros(BATCH, matrix.shape[-1])
    for row in range(BATCH):
        for head in range(matrix.shape[1]):
            for query in range(matrix.shape[2]):
                total[row] += weights[row, query] / weights[row].sum() * matrix[row, head, query] / matrix.shape[1]
    return total


@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize("shared", [False, True])
def test_what_tokens_of_two_sequences_receive(shared: bool, swapped: bool) -> None:
    """In the encoder from all of the source; in the decoder the memory's tokens over the one call, its own over the other."""
    length = S if shared else A
    order = {"own": (1, 1), "cross": (0, 0)} if swapped else {}
    found, every = cuts(shared=shared, shift=1, **order), blocks(length, 5)
    seen = [attended(S, S, 30), None, None, None]
    for index in (2, 3):
        own, cross = attended(length, length, 40 + index), attended(length, S, 50 + index)
        every[index].attention = [cross, own] if swapped else [own, cross]
    mask = MASK if shared else torch.cat([MASK, torch.ones(BATCH, A, dtype=torch.bool)], 1)
    counted = mask.float()
    received = found.received(every, mask, counted / counted.sum(-1, keepdim=True), seen, _received)
    weights = MASK.float() if shared else torch.ones(BATCH, A)
    resting = torch.zeros(BATCH, 0 if shared else A)
    expected = [torch.cat([mean(seen[0], MASK.float()), resting], 1), torch.zeros(BATCH, S + resting.shape[1])]
    for index in (2, 3):
        own, cross = (every[index].attention[place] for place in ((1, 0) if swapped else (0, 1)))
        of_own, of_cross = mean(own, weights), mean(cross, weights)
        if shared:
            turned = torch.stack([of_own[row, [read_at(row, t, 1) for t in range(S)]] for row in range(BATCH)])
            expected.append(of_cross + turned)
        else:
            expected.append(torch.cat([of_cross, of_own], 1))
    for one, other in zip(received, expected, strict=True):
        torch.testing.assert_close(one, other)


def test_what_was_not_seen_as_two_calls_is_refused() -> None:
    weights, mask = torch.ones(BATCH, S + A) / (S + A), torch.ones(BATCH, S + A, dtype=torch.bool)
    seen = [attended(S, S, 30), attended(S, S, 31), None, None]
    with pytest.raises(CaptureError, match="was not seen as one call over its own tokens and one over the source"):
        cuts(shared=False, own=(), cross=()).received(blocks(A, 5), mask, weights, seen, _received)
    for attention, said in (
        ([attended(A, A, 1)], r"\(2, 2, 3, 3\)"),
        ([], "none"),
        ([attended(A, A, 1), attended(A, S - 1, 2)], r"\(2, 2, 3, 3\), \(2, 2, 3, 3\)"),
        ([attended(A, A + 1, 1), attended(A, S, 2)], r"\(2, 2, 3, 4\), \(2, 2, 3, 4\)"),
    ):
        every = blocks(A, 5)
        every[2].attention = list(attention)
        every[3].attention = [attended(A, A, 3), attended(A, S, 4)]
        with pytest.raises(CaptureError, match=f"over 3 tokens of its own and 4 of the source; .* are {said}"):
            cuts(shared=False).received(every, mask, weights, seen, _received)

"""Received attention within windows, over coarser keys and at the cuts of a graph, against counting by hand."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from attcat.capture import windowed
from attcat.capture.attention import Call
from attcat.capture.cuts import cuts
from attcat.capture.windowed import Keys, KeyWatcher, received_within


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def counted(weights: Tensor, places: Tensor, count: int, batch: int) -> Tensor:
    """For each place the mean over the weights that a query gives it, one weight at a time; weights `[B, N, Q, K]`."""
    total, able = torch.zeros(batch, count), torch.zeros(batch, count)
    _, matrices, queries, keys = weights.shape
    for b, n, q, k in itertools.product(range(batch), range(matrices), range(queries), range(keys)):
        if queries == keys and places[n, q] < 0:  # a query that is padding
            continue
        if places[n, k] >= 0 and weights[b, n, q, k] > 0:
            total[b, places[n, k]] += weights[b, n, q, k]
            able[b, places[n, k]] += 1
    return total / able.clamp(min=1)


# Two windows of three of five positions, the last of which is padded, for each of two heads.
PLACES = torch.tensor([[0, 3, 1], [0, 3, 1], [4, 2, -1], [4, 2, -1]])


@pytest.mark.parametrize("masked", [False, True])
def test_what_a_position_receives_within_its_window(masked: bool) -> None:
    products = drawn(2, 2, 2, 3, 3)  # [B, windows, heads, Q, K]
    if masked:
        products[:, 0, :, 1, 2] = -torch.inf
    weights = products.softmax(-1)
    found = received_within([torch.zeros(1), weights.flatten(0, 1)], [Keys(1, PLACES, 5)], 2)
    torch.testing.assert_close(found, counted(weights.flatten(1, 2), PLACES, 5, 2))


def test_a_query_without_keys_counts_for_nothing() -> None:
    weights = drawn(1, 4, 3, 3).softmax(-1)
    weights[0, 0, 1] = torch.nan
    found = received_within([weights], [Keys(0, PLACES, 5)], 1)
    torch.testing.assert_close(found, counted(weights.nan_to_num(0.0), PLACES, 5, 1))


@pytest.mark.parametrize("chunk", [1, 30, 1 << 20])
@pytest.mark.parametrize(("queries", "causal"), [(3, False), (3, True), (7, False)])
def test_a_fused_call_is_read_in_chunks(
    queries: int, causal: bool, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(windowed, "CHUNK", chunk)
    query, key = drawn(4, 2, queries, 5), drawn(4, 2, 3, 5, seed=1)  # two examples of two windows
    call = Call(query, key, causal=causal)
    found = received_within([call], [Keys(0, PLACES, 5)], 2)
    torch.testing.assert_close(found, counted(call.weights().reshape(2, 4, queries, 3), PLACES, 5, 2))


def test_coarser_keys_share_their_weight_among_their_positions() -> None:
    """Six positions in three cells of 3, 2 and 1; four queries, so that none is known to be padding."""
    weights = drawn(2, 1, 4, 3).softmax(-1)
    places, cells = torch.tensor([[2, 0, 1]]), torch.tensor([0, 0, 1, 0, 2, 1])
    found = received_within([weights], [Keys(0, places, 3, cells)], 2)
    by_cell = counted(weights, places, 3, 2)
    sizes = [3, 2, 1]
    expected = torch.stack([by_cell[:, cell] / sizes[cell] for cell in cells.tolist()], 1)
    torch.testing.assert_close(found, expected)


def test_of_several_matrices_the_mean() -> None:
    first, second = drawn(2, 4, 3, 3).softmax(-1), drawn(2, 4, 3, 3, seed=1).softmax(-1)
    keys = [Keys(2, PLACES, 5), Keys(0, PLACES, 5)]
    each = [counted(weights, PLACES, 5, 2) for weights in (first, second)]
    torch.testing.assert_close(received_within([second, torch.zeros(1), first], keys, 2), (each[0] + each[1]) / 2)


# -- which keys an attention matrix is over --------------------------------------------------------------------------

QUERY, KEY = drawn(2, 3, 4, 5), drawn(2, 3, 6, 5, seed=1)
NOTED: dict[str, Callable[[], Any]] = {
    "product": lambda: (QUERY @ KEY.transpose(-2, -1)).softmax(-1),
    "flat product": lambda: torch.bmm(QUERY.flatten(0, 1), KEY.flatten(0, 1).transpose(-2, -1)).softmax(-1),
    "another arrangement": lambda: (
        torch.bmm(QUERY.flatten(0, 1), KEY.flatten(0, 1).transpose(-2, -1)).view(2, 3, 4, 6).softmax(-1)
    ),
    "another product behind": lambda: (lambda p: (p @ drawn(6, 2), p.softmax(-1))[1])(QUERY @ KEY.transpose(-2, -1)),
    "a product with a vector before": lambda: (KEY @ drawn(5), (QUERY @ KEY.transpose(-2, -1)).softmax(-1))[1],
    "sum over indices": lambda: torch.einsum("bhqd,bhkd->bhqk", QUERY, KEY).softmax(-1),
    "sum over indices, with spaces": lambda: torch.einsum("b h q d, b h k d -> b h q k", QUERY, KEY).softmax(-1),
    "sum over indices of a list": lambda: torch.einsum("bhkd,bhqd->bhqk", [KEY, QUERY]).softmax(-1),
    "sum over indices, keys turned": lambda: torch.einsum("bhqd,hdkb->bhqk", QUERY, KEY.permute(1, 3, 2, 0)).softmax(
        -1
    ),
    "fused": lambda: F.scaled_dot_product_attention(QUERY, KEY, KEY),
}


def watched(function: Callable[[], Any], running: list[int]) -> dict[int, list[tuple[tuple[int, ...], Tensor | None]]]:
    matrices: dict[int, list[tuple[tuple[int, ...], Tensor | None]]] = {}
    with KeyWatcher(running, matrices):
        function()
    return matrices


@pytest.mark.parametrize("name", NOTED)
def test_the_keys_of_a_matrix_are_found(name: str) -> None:
    ((shape, keys),) = watched(NOTED[name], [0, 3])[3]
    assert torch.Size(shape).numel() == 2 * 3 * 4 * 6
    assert shape[-2:] == (4, 6)
    assert keys is not None
    assert torch.equal(keys.reshape(2, 3, 6, 5), KEY)


@pytest.mark.parametrize(
    "function",
    [
        lambda: drawn(2, 3, 4, 6).softmax(-1),  # made of no product
        lambda: torch.einsum("...qd,...kd->...qk", QUERY, KEY).softmax(-1),  # dots are not taken apart
        lambda: (QUERY[:, :2] @ KEY[:, :2].transpose(-2, -1), drawn(2, 3, 4, 6).softmax(-1)),  # fewer matrices
        lambda: (QUERY @ KEY[:, :, :4].transpose(-2, -1), drawn(2, 3, 4, 6).softmax(-1)),  # other keys
    ],
)
def test_keys_that_were_not_seen(function: Callable[[], Any]) -> None:
    (noted,) = watched(function, [0])[0]
    assert noted == ((2, 3, 4, 6), None)


def test_outside_of_the_blocks_nothing_is_noted() -> None:
    assert watched(NOTED["product"], []) == {}
    assert watched(NOTED["fused"], []) == {}
    assert watched(lambda: drawn(2, 3).softmax(-1), [0]) == {}


def test_a_product_belongs_to_one_matrix_only() -> None:
    def twice() -> None:
        products = QUERY @ KEY.transpose(-2, -1)
        products.softmax(-1)
        products.softmax(-1)

    first, second = watched(twice, [0])[0]
    assert first[1] is not None
    assert second[1] is None


# -- the cuts of a graph ---------------------------------------------------------------------------------------------


def reaches(root: Any, leaf: Tensor, without: Any = None) -> bool:
    waiting, known = [root], set()
    while waiting:
        node = waiting.pop()
        if node is None or node is without or node in known:
            continue
        if getattr(node, "variable", None) is leaf:
            return True
        known.add(node)
        waiting += [after for after, _ in node.next_functions]
    return False


def every_node(root: Any) -> list[Any]:
    found: list[Any] = []
    waiting = [root]
    while waiting:
        node = waiting.pop()
        if node is not None and node not in found:
            found.append(node)
            waiting += [after for after, _ in node.next_functions]
    return found


def random_graph(generator: random.Random, leaf: Tensor) -> Tensor:
    """Sums, products and splits of what was computed before, now and then through one state."""
    states = [leaf * 1.0]
    for _ in range(generator.randint(1, 12)):
        kind = generator.choice(["sum", "sum", "one", "split", "aside"])
        a, b = generator.choice(states), generator.choice(states)
        if kind == "sum":
            states.append(a + b)
        elif kind == "one":
            states = [sum(states[1:], states[0]).tanh()]
        elif kind == "split":
            first, second = torch.cat([a, b]).chunk(2)
            states += [first, second]
        else:
            states.append(torch.ones(2, requires_grad=True) * a)
    return sum(states[1:], states[0]).sum()


@pytest.mark.parametrize("seed", range(40))
def test_cuts_are_the_nodes_that_every_way_leads_through(seed: int) -> None:
    """By leaving out one node after another; a node with several outputs on the way is none."""
    generator = random.Random(seed)
    leaf = torch.ones(2, requires_grad=True)
    root = random_graph(generator, leaf).grad_fn
    nodes = every_node(root)
    expected = set()
    for node in nodes:
        if not reaches(node, leaf) or (node is not root and reaches(root, leaf, without=node)):
            continue
        outputs = {out for n in nodes if reaches(n, leaf) for after, out in n.next_functions if after is node}
        if len(outputs | ({0} if node is root else set())) == 1:
            expected.add((node, next(iter(outputs), 0)))
    found = cuts(root, leaf)
    assert set(found) == expected
    assert list(found.values()) == list(range(len(found)))
    order = list(found)
    assert all(
        reaches(before[0], leaf) and after[0] in every_node(before[0]) for before, after in itertools.pairwise(order)
    )

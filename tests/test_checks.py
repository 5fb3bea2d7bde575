"""What a proof measures, on models of a few lines whose figures are worked out on paper."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
import torch
import torch.nn.functional as F
from test_recording import Simple
from torch import Tensor, nn

from attcat.capture.cuts import pieces_of
from attcat.capture.survey import Survey, Unclear, Visit, between, blocks_of, divided, passing, survey
from attcat.trace import incompleteness, looks_back, passed_by, past_the_blocks, slope_error
from attcat.trace.checks import _Moving

IDS = torch.tensor([[3, 1, 4, 1, 5]])


class Doubling(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 2 * x


class Model(nn.Module):
    """Three blocks that double what they take: the logits are 8 times the embeddings, and what is added to the states."""

    def __init__(self, beside: float = 0.0, skipped: float = 0.0, power: int = 1, bias: float = 0.0) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(30, 4)
        nn.init.uniform_(self.embed.weight, 0.5, 1.0)
        self.layers = nn.ModuleList(Doubling() for _ in range(3))
        self.classify = nn.Linear(4, 2)
        nn.init.ones_(self.classify.weight)
        nn.init.constant_(self.classify.bias, bias)
        self.past, self.skipped, self.power = lambda state: beside * state, skipped, power

    def forward(self, input_ids: Tensor) -> Tensor:
        state = self.embed(input_ids)
        past = self.past(state)  # made before the blocks
        first = self.layers[0](state)
        last = self.layers[2](self.layers[1](first))
        return self.classify((last + past + self.skipped * first).mean(1) ** self.power)


def adapter(**options: float) -> Simple:
    return Simple(Model(**options).double().eval())  # type: ignore[arg-type]


def measured(check: Callable[..., object], **options: float) -> object:
    own = adapter(**options)
    return check(own, own.encode_arguments({"input_ids": IDS}))


def test_the_share_of_the_gradient_that_goes_past_the_blocks() -> None:
    """Two of ten parts are made before the first block."""
    assert measured(past_the_blocks) == 0
    assert measured(past_the_blocks, beside=2.0) == pytest.approx(0.2)


@pytest.mark.parametrize("within", [True, False])
def test_a_share_of_a_gradient_that_there_is_not(within: bool) -> None:
    """What the gradient needs is written over: within a block, where a constant hides it, or past the blocks, where none does."""

    def writing(x: Tensor) -> Tensor:
        gate = x.exp()
        product = gate * gate
        gate += 1.0
        return product

    own = adapter()
    if within:
        own.model.layers[1].forward = writing  # type: ignore[operator, union-attr]
    else:
        own.model.past = writing
    assert past_the_blocks(own, own.encode_arguments({"input_ids": IDS})) is None


def test_whether_tokens_see_only_those_before_them() -> None:
    """Two tokens are enough to tell, one is not."""
    for mixed, expected in ((lambda x: x.cumsum(1), True), (lambda x: x + x.sum(1, keepdim=True), False)):
        own = adapter()
        own.model.layers[1].forward = mixed  # type: ignore[operator, union-attr]
        found = [looks_back(own, own.encode_arguments({"input_ids": IDS[:, :count]})) for count in (1, 2, 5)]
        assert found == [None, expected, expected]


def test_where_no_block_returns_a_state_what_the_last_one_takes_tells() -> None:
    """Which is after the second of three."""

    class Within(Simple):
        passes_state = False

    for mixed, expected in ((lambda x: x.cumsum(1), True), (lambda x: x + x.sum(1, keepdim=True), False)):
        own = Within(Model().double().eval())  # type: ignore[arg-type]
        own.model.layers[1].forward = mixed  # type: ignore[operator, union-attr]
        assert looks_back(own, own.encode_arguments({"input_ids": IDS})) is expected


def test_of_one_block_that_returns_no_state_nothing_can_be_said() -> None:
    """It was said to look back, as all that is seen of it is what was changed."""

    class Within(Simple):
        passes_state = False

        @property
        def blocks(self) -> tuple[nn.Module, ...]:
            return super().blocks[:1]

    own = Within(Model().double().eval())  # type: ignore[arg-type]
    assert looks_back(own, own.encode_arguments({"input_ids": IDS})) is None


def test_what_the_gradient_foretells_of_a_change_below() -> None:
    """Eight of ten parts of the change; all of it where nothing goes past."""
    assert measured(slope_error) == pytest.approx(0, abs=1e-6)
    assert measured(slope_error, beside=2.0) == pytest.approx(0.2, abs=1e-6)


def test_a_model_that_bends_at_short_distances_is_moved_less() -> None:
    """As deep convolutions with ReLUs: over a thousandth of the way its slope is another, a tenth up here and down there."""

    class Bent(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            steps = x / 1e-7
            return 2 * x + 2e-8 * (steps - steps.detach().round()).abs()

    own = adapter()
    own.model.layers[1] = Bent()  # type: ignore[operator]
    error = slope_error(own, own.encode_arguments({"input_ids": IDS}))
    assert error is not None
    assert error < 1e-3


def test_the_share_of_a_logit_that_nothing_explains() -> None:
    """Gradient times input gives of y twice what it is if y is a square; what the classifier adds is a bias."""
    assert measured(incompleteness) == pytest.approx(0, abs=1e-12)
    assert measured(incompleteness, bias=3.0) == pytest.approx(0, abs=1e-12)

    def plain(*given: object) -> float:
        return incompleteness(*given, rule="plain")  # type: ignore[arg-type]

    assert measured(plain, bias=3.0) == pytest.approx(0, abs=1e-12)
    assert measured(plain, power=2) == pytest.approx(0.5)


def test_the_blocks_that_a_gradient_passes_by() -> None:
    """However little of it: the head reads what block 0 returned, past block 1."""
    assert measured(passed_by) == []
    assert measured(passed_by, skipped=1e-3) == [2]


def test_only_the_words_are_moved_and_each_once() -> None:
    table, places = torch.rand(30, 4), torch.arange(5)[None]
    moving = _Moving(0.1, (IDS,))
    with torch.no_grad(), moving:
        found = [F.embedding(ids, table) for ids in (places, IDS, IDS)]
    assert torch.equal(found[0], table[places])
    assert torch.equal(found[2], table[IDS])
    assert found[1] is moving.leaves[0]
    step = (found[1] - table[IDS]) / (0.1 * float(table[IDS].std(correction=0)))
    expected = torch.randn(1, 5, 4, generator=torch.Generator().manual_seed(0), dtype=torch.double)
    torch.testing.assert_close(step.double(), expected, rtol=1e-4, atol=1e-5)


# -- which modules are the blocks ------------------------------------------------------------------------------------


class Attending(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.heads = nn.Linear(4, 4)

    def forward(self, x: Tensor, keys: Tensor | None = None) -> Tensor:
        q, k = self.heads(x)[:, None], (x if keys is None else keys)[:, None]
        return x + F.scaled_dot_product_attention(q, k, k)[:, 0]


class Pooling(Attending):
    def forward(self, x: Tensor, keys: Tensor | None = None) -> Tensor:
        return super().forward(x, keys)[:, :1]


class Mixing(Attending):
    """Attends to nothing."""

    def forward(self, x: Tensor, keys: Tensor | None = None) -> Tensor:
        return x + self.heads(x)


class Keeping(Attending):
    def forward(self, x: Tensor, keys: Tensor | None = None) -> Tensor:
        return x


Run = Callable[[nn.ModuleList, Tensor], Tensor]


def watched(run: Run, count: int = 3, kinds: Sequence[type[nn.Module]] = ()) -> Survey:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.layers = nn.ModuleList(kind() for kind in kinds or [Attending] * count)

        def forward(self) -> Tensor:
            return run(self.layers, torch.rand(1, 5, 4))

    net = Net()
    return survey(net, net)


def in_a_row(layers: nn.ModuleList, x: Tensor) -> Tensor:
    for layer in layers:
        x = layer(x)
    return x


def names(visits: list[Visit]) -> list[str]:
    return [visit.name for visit in visits]


def test_attention_beside_the_blocks_is_told_with_the_first_and_the_last() -> None:
    def run(layers: nn.ModuleList, x: Tensor) -> Tensor:
        x = in_a_row(layers, x)
        return F.scaled_dot_product_attention(*(x[:, None],) * 3)

    with pytest.raises(Unclear, match=r"beside 3 blocks \(layers\.0 to layers\.2\)") as error:
        blocks_of(watched(run))
    assert error.value.hopeless


@pytest.mark.parametrize("queries", [1, 2, 5])
def test_one_query_beside_the_blocks_pools_and_several_are_too_many(queries: int) -> None:
    def run(layers: nn.ModuleList, x: Tensor) -> Tensor:
        x = in_a_row(layers, x)
        return F.scaled_dot_product_attention(x[:, None, :queries], x[:, None], x[:, None])

    if queries == 1:
        assert names(blocks_of(watched(run))) == ["layers.0", "layers.1", "layers.2"]
    else:
        with pytest.raises(Unclear, match=rf"there is attention of shape \(1, 1, {queries}, 5\) elsewhere"):
            blocks_of(watched(run))


def test_no_adapter_makes_one_line_of_two() -> None:
    class Other(Attending):
        pass

    with pytest.raises(Unclear, match=r"layers\.1 \(Other\) does not take over what layers\.0 \(Attending\)") as error:
        blocks_of(watched(lambda layers, x: layers[0](x) + layers[1](x), kinds=(Attending, Other)))
    assert error.value.hopeless


def test_what_does_not_attend_is_a_block_where_it_stands_in_line() -> None:
    """In front, between and behind; not where another tensor is passed on to it."""
    kinds = (Mixing, Attending, Mixing, Attending, Mixing)
    assert names(blocks_of(watched(in_a_row, kinds=kinds))) == [f"layers.{index}" for index in range(5)]

    def apart(layers: nn.ModuleList, x: Tensor) -> Tensor:
        return layers[4](2 * layers[3](layers[2](layers[1](2 * layers[0](x)))))

    assert names(blocks_of(watched(apart, kinds=kinds))) == ["layers.1", "layers.2", "layers.3"]


def test_what_passes_a_state_on_changes_it() -> None:
    assert names(passing(watched(in_a_row, kinds=(Mixing, Keeping, Mixing)))) == ["layers.0", "layers.2"]
    with pytest.raises(Unclear, match="no modules of a list take a hidden state and pass it on"):
        passing(watched(in_a_row, kinds=(Mixing, Keeping)))


def test_the_module_of_a_list_is_the_block_and_not_what_is_around_it() -> None:
    """As an encoder of one layer, which attends once as well; and a module that is called again, within others."""

    class Around(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.layers = nn.ModuleList([inner])

        def forward(self, x: Tensor) -> Tensor:
            return 2 * self.layers[0](x)

    class Calling(Attending):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: Tensor, keys: Tensor | None = None) -> Tensor:
            return self.inner(x)

    class Net(nn.Module):
        def __init__(self, *parts: nn.Module) -> None:
            super().__init__()
            for index, part in enumerate(parts):
                self.add_module(f"part{index}", part)

        def forward(self) -> Tensor:
            return in_a_row(self._modules.values(), torch.rand(1, 5, 4))  # type: ignore[arg-type]

    shared = Attending()
    for net, expected in (
        (Net(Around(Attending())), ["part0.layers.0"]),
        (Net(Calling(shared), Calling(shared)), ["part0.inner"] * 2),
    ):
        assert names(blocks_of(survey(net, net))) == expected


def test_of_the_calls_that_take_a_state_the_innermost_that_attends_to_all_of_it_is_the_piece() -> None:
    """And not the first of them, which computes more than that."""
    leaf = torch.rand(1, 5, 4).requires_grad_()
    values: list[Tensor] = []

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = nn.Sequential(Attending(), Attending())

        def forward(self, x: Tensor) -> Tensor:
            return self.encoder(x)

    net = Net()
    found = survey(net, lambda: values.append(net(2 * leaf).sum()), gradient=True)
    pieces = pieces_of(found, values[0], leaf, [visit for visit in found.visits if visit.seen])
    assert [(piece.visit.name, piece.attention, piece.whole) for piece in pieces] == [
        ("encoder.0", range(1), True),
        ("encoder.1", range(1, 2), True),
    ]


def test_what_stands_between_blocks_is_named() -> None:
    def run(layers: nn.ModuleList, x: Tensor) -> Tensor:
        return layers[2](2 * layers[1](layers[0](x)))

    found = watched(run)
    assert names(blocks_of(found)) == ["layers.0", "layers.1", "layers.2"]
    assert between(found, blocks_of(found)) == ["a sum or another operation"]
    assert between(found, [found.visits[1], found.visits[-2]]) == ["Attending"]
    assert between(watched(in_a_row), blocks_of(watched(in_a_row))) == []


def test_two_blocks_that_divide_their_attention_are_enough() -> None:
    def halves(layers: nn.ModuleList, x: Tensor) -> Tensor:
        for layer in layers:
            x = layer(x, x[:, :2])
        return x

    assert names(divided(watched(halves, 2))) == ["layers.0", "layers.1"]
    assert names(divided(watched(halves, kinds=(Attending, Attending, Pooling)))) == ["layers.0", "layers.1"]
    with pytest.raises(Unclear, match="attend, and pass on a state"):
        divided(watched(halves, 1))
    with pytest.raises(Unclear, match=r"of \(1, 1, 5, 2\) were seen \(windowed"):
        blocks_of(watched(halves, 2))

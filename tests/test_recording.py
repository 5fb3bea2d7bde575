"""What a forward pass has to be like so that it can be explained: each way in which it may not be is told apart."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tasks_zoo import tokenizer
from test_streams import ANSWER, CLASSIFIERS, SOURCE, WRITERS, made
from torch import Tensor, nn

import attcat
from attcat.capture.attention import Call, Several
from attcat.capture.blocks import Block, hidden_state, rebind, replaced, watch
from attcat.capture.borrow import as_found
from attcat.capture.relevance import Relevance
from attcat.capture.rules import make_rule
from attcat.capture.survey import Survey, _visits, _Watcher, survey
from attcat.capture.torch_calls import Interception
from attcat.errors import CaptureError
from attcat.trace import record
from attcat.trace.recording import _matrix, _matrix_gradients, _received, one_attention
from attcat.trace.values import Needs

IDS = torch.arange(5)[None]


class Attending(nn.Module):
    """A block of one head."""

    def __init__(self) -> None:
        super().__init__()
        self.project, self.out = nn.Linear(8, 24), nn.Linear(8, 8)
        self.times, self.writes, self.how = 1, False, "fused"

    def forward(self, x: Tensor) -> Tensor:
        state = x
        for _ in range(self.times):
            q, k, v = (part[:, None] for part in self.project(state).chunk(3, -1))
            if self.how == "fused":
                mixed = F.scaled_dot_product_attention(q, k, v)
            elif self.how == "own":  # a softmax that torch does not name
                weights = (q @ k.transpose(-2, -1)).exp()
                mixed = weights / weights.sum(-1, keepdim=True) @ v
            else:  # over half of the keys
                mixed = F.scaled_dot_product_attention(q, k[:, :, ::2], v[:, :, ::2])
            state = state + self.out(mixed[:, 0])
        if self.writes:
            x += 1.0
        return state


class Model(nn.Module):
    """Two blocks between an embedding and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed, self.classify = nn.Embedding(30, 8), nn.Linear(8, 3)
        self.layers = nn.ModuleList(Attending() for _ in range(2))
        self.called, self.head = 2, lambda state: state.mean(1)

    def forward(self, input_ids: Tensor) -> Tensor:
        state = self.embed(input_ids)
        for layer in self.layers[: self.called]:
            state = layer(state)
        return self.classify(self.head(state))


class Simple(attcat.TextAdapter):
    family = "simple"

    @property
    def blocks(self) -> tuple[nn.Module, ...]:
        return tuple(self.model.layers)

    def call(self, encoding: attcat.Encoding) -> Tensor:
        return self.model(encoding.arguments["input_ids"])

    def read(self, encoding: attcat.Encoding) -> Tensor:
        return encoding.mask


def model_with(change: Callable[[Any], Any] = lambda model: None) -> Model:
    model = Model().eval()
    change(model)
    return model


def recording(model: nn.Module, rule: Any = None, **options: Any) -> Any:
    adapter = Simple(model)
    return record(adapter, adapter.encode_arguments({"input_ids": IDS}), rule or make_rule("plain"), **options)


def few(model: Model) -> None:
    model.called = 1


def writing(model: Model) -> None:
    model.layers[1].writes = True


def deep(model: Model) -> None:
    model.head = lambda state: state


def nothing_finite(model: Model) -> None:
    nn.init.constant_(model.classify.bias, torch.inf)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (few, attcat.CaptureError, "Model was run, but only 1 of its 2 blocks were called"),
        (writing, attcat.CaptureError, "changes the input of block 1 in place"),
        (deep, attcat.UnsupportedModelError, r"has no class logits \[B, C\]"),
        (nothing_finite, attcat.InputError, "logits are not finite"),
    ],
)
def test_a_pass_that_cannot_be_explained(change: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        recording(model_with(change))


def test_inference_mode_has_no_gradient() -> None:
    with torch.inference_mode(), pytest.raises(CaptureError, match=r"torch.no_grad\(\) is fine"):
        recording(model_with())


def set_all(name: str, value: Any) -> Callable[[Model], None]:
    def change(model: Model) -> None:
        for layer in model.layers:
            setattr(layer, name, value)

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (set_all("how", "own"), "the attention of block 0 was not seen"),
        (set_all("times", 2), "block 0 calls attention 2 times, expected once"),
        (set_all("how", "half"), r"block 0 attends with a matrix of shape \(1, 1, 5, 3\) over 1 x 5 tokens"),
    ],
)
def test_attention_that_cannot_be_read(change: Any, message: str) -> None:
    found = recording(model_with(change), attention=True)
    for needs in (Needs(received=True), Needs(attention=True)):
        with torch.enable_grad(), pytest.raises(CaptureError, match=message):
            found.trace(found.logits[:, 1], needs=needs, keep=True)


def test_a_value_that_depends_on_nothing() -> None:
    found = recording(model_with(), attention=True)
    with pytest.raises(CaptureError, match="does not depend on the hidden states"):
        found.trace(found.logits[:, 1].detach())
    with torch.enable_grad():
        elsewhere = torch.ones(1, requires_grad=True) * 2
        first = (found.blocks[0].input * 1.0).sum()[None]
    with pytest.raises(CaptureError, match="does not depend on the input of block 0, 1: check the adapter's blocks"):
        found.trace(elsewhere, needs=Needs())
    with pytest.raises(CaptureError, match="does not depend on the output of block 0, 1"):
        found.trace(first, needs=Needs(), hidden="output")
    under = recording(model_with(), Relevance())
    with pytest.raises(CaptureError, match="does not depend on the first block's input"):
        under.relevance(elsewhere)


def test_what_is_explained_may_be_named_and_what_is_computed_must_be() -> None:
    found = recording(model_with())
    value, target = found.logits[:, 1], torch.tensor([1])
    traces = [found.trace(value, target, keep=True), found.trace(value=value, target=target, keep=True)]
    assert torch.equal(traces[0].gradient[0], traces[1].gradient[0])
    assert torch.equal(traces[1].target, target)
    with pytest.raises(TypeError, match="positional"):
        found.trace(value, target, Needs())


def test_a_model_that_writes_over_what_its_gradient_needs() -> None:
    def head(state: Tensor) -> Tensor:
        gate = state.mean(1).exp()
        product = gate * gate
        gate += 1.0
        return product

    def change(model: Model) -> None:
        model.head = head

    found = recording(model_with(change))
    with pytest.raises(CaptureError, match=r"writes over tensors that its gradient needs .* or use method='occlusion'"):
        found.trace(found.logits[:, 1])
    again = recording(model_with())
    again.trace(again.logits[:, 1])
    with pytest.raises(
        RuntimeError, match="backward through the graph a second time"
    ):  # torch's own error stays what it is
        again.trace(again.logits[:, 1])


def test_attention_that_was_not_kept_is_asked_for() -> None:
    found = recording(model_with())
    with pytest.raises(CaptureError, match=r"record\(\.\.\., attention=True\)"):
        found.trace(found.logits[:, 1], needs=Needs(attention=True))


def test_a_block_that_was_given_no_attention_has_none() -> None:
    with pytest.raises(CaptureError, match="load the model with its default attention"):
        one_attention(3, Block(torch.zeros(1, 4, 8)))


def test_a_block_attends_once_unless_it_may_attend_again() -> None:
    block = Block(torch.zeros(1, 4, 8), attention=[torch.full((1, heads, 4, 4), 0.25) for heads in (2, 3)])
    with pytest.raises(CaptureError, match="block 3 calls attention 2 times, expected once"):
        one_attention(3, block)
    block.several = True
    assert one_attention(3, block).shape == (1, 5, 4, 4)


def test_a_last_column_is_a_sink_if_the_model_leaves_it_out() -> None:
    """Where every token sees every token, the matrix does not tell it from a key."""
    block = Block(torch.zeros(1, 4, 8), attention=[torch.full((1, 2, 4, 5), 0.2)])
    with pytest.raises(CaptureError, match=r"matrix of shape \(1, 2, 4, 5\)"):
        one_attention(0, block)
    block.sink = True
    assert one_attention(0, block) is block.attention[0]
    block.attention = [torch.full((1, 2, 4, 3), 1 / 3)]
    with pytest.raises(CaptureError, match=r"matrix of shape \(1, 2, 4, 3\)"):
        one_attention(0, block)


def test_a_block_that_attends_several_times_has_the_heads_of_all() -> None:
    """A fused call of two heads and a matrix of one, with a sink: matrices, their gradients, and what tokens receive."""
    query, key, value = torch.randn(3, 1, 2, 4, 5, generator=torch.Generator().manual_seed(1))
    matrix = torch.rand(1, 1, 4, 5, generator=torch.Generator().manual_seed(2))
    call = Call(query, key, value=value, output=value * 1.0)
    seen = Several((call, matrix))
    assert seen.shape == (1, 3, 4, 4)
    whole = torch.cat([call.weights(), matrix[..., :4]], 1)
    torch.testing.assert_close(_matrix(seen, 1), whole)
    torch.testing.assert_close(_matrix(seen, 3), whole.expand(3, -1, -1, -1))
    starts = torch.rand(1, 2, 4, 5), torch.rand(1, 1, 4, 5)
    found = _matrix_gradients([seen, matrix], [*starts, starts[1] * 2])
    torch.testing.assert_close(found[0], torch.cat([call.weight_gradient(starts[0]), starts[1][..., :4]], 1))
    torch.testing.assert_close(found[1], starts[1][..., :4] * 2)
    torch.testing.assert_close(_matrix_gradients([seen, matrix], [None, None, None])[0], torch.zeros(1, 3, 4, 4))
    assert len(_matrix_gradients([seen], [])) == 0
    weights = torch.tensor([[0.5, 0.25, 0.25, 0.0]])
    received = _received(Several((call, matrix[..., :4])), weights, [0, 1, 2])
    torch.testing.assert_close(received, torch.einsum("bq,bhqk->bk", weights, whole) / 3)


# -- encoders with decoders ------------------------------------------------------------------------------------------


def test_an_integral_over_both_sequences() -> None:
    """From the blank to the input the contributions make up the change of the logit, in one sequence and in the other."""
    model = made(CLASSIFIERS["t5"])
    ids = torch.arange(5, 14)[None]
    ids[0, -1] = model.config.eos_token_id
    explain = attcat.Explainer(model, method="integrated_gradients", steps=64)
    found = explain({"input_ids": ids}, 1)
    adapter = explain.adapter
    encoding = adapter.encode_arguments({"input_ids": ids})
    with torch.no_grad():
        after, before = (float(adapter.predict(one)[1][0, 1]) for one in (encoding, adapter.remove(encoding)))
    assert abs(after - before) > 1e-3
    assert float(found.scores.sum()) == pytest.approx(after - before, abs=0.02 * max(1.0, abs(after - before)))


def test_an_integral_over_a_source_and_what_was_written() -> None:
    """The decoder's part of the state is its own: the baseline is a source and a target of blanks."""
    model = made(WRITERS["bart"])
    explain = attcat.Explainer(model, method="integrated_gradients", steps=64)
    adapter = explain.adapter
    arguments = {"input_ids": torch.arange(5, 12)[None], "decoder_input_ids": torch.tensor([[2, 9, 30, 7]])}
    encoding = adapter.encode_arguments(arguments)
    found = explain(arguments, 11)
    with torch.no_grad():
        after, before = (
            float(adapter.predict(adapter.head.point(one, [None]))[1][0, 11])
            for one in (encoding, adapter.remove(encoding))
        )
    assert abs(after - before) > 1e-3
    assert float(found.scores.sum()) == pytest.approx(after - before, abs=0.02 * max(1.0, abs(after - before)))


@pytest.mark.parametrize("how", ["mask", "pad"])
def test_what_is_removed_of_a_source_and_of_what_was_written(how: str) -> None:
    words = tokenizer("Bert")
    adapter = attcat.Explainer(made(WRITERS["bart"]), words).adapter
    encoding = adapter.encode_arguments({"input_ids": torch.arange(5, 12)[None], "decoder_input_ids": [2, 9, 30, 7]})
    removed = torch.zeros_like(encoding.mask)
    removed[0, [1, 8, 10]] = True
    changed = adapter.remove(encoding, removed, how).arguments
    token = words.mask_token_id if how == "mask" else words.pad_token_id
    assert changed["input_ids"].tolist() == [[5, token, 7, 8, 9, 10, 11]]
    assert changed["decoder_input_ids"].tolist() == [[2, token, 30, token]]
    everything = adapter.remove(encoding, None, how).arguments
    assert everything["decoder_input_ids"].tolist() == [[2, token, token, token]]  # the start token stays
    assert adapter.removals == ("mask", "pad")
    with pytest.raises(attcat.OptionError, match="delete"):
        adapter.remove(encoding, removed, "delete")


@pytest.mark.parametrize(
    ("method", "message"),
    [("genatt", "attend each on its own"), ("legrad", "no earlier block can be read by the head")],
)
def test_methods_of_one_sequence_are_refused(method: str, message: str) -> None:
    with pytest.raises(CaptureError, match=message):
        _ = attcat.Explainer(made(WRITERS["t5"]), tokenizer("Bert"), method=method)(SOURCE, answer=ANSWER).explanations


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"input_ids": torch.arange(5, 9)[None], "decoder_input_ids": []}, "decoder_input_ids are empty"),
        ({"input_ids": torch.arange(5, 13).view(2, 4)}, "a source is one row of input_ids without padding"),
        (
            {"input_ids": torch.arange(5, 9)[None], "attention_mask": torch.tensor([[1, 1, 1, 0]])},
            "a source is one row of input_ids without padding",
        ),
    ],
)
def test_arguments_that_are_no_source(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(attcat.InputError, match=message):
        attcat.Explainer(made(WRITERS["bart"]), method="cat")(arguments, 11)


def test_a_start_token_that_nobody_names() -> None:
    """Of the configuration, of its decoder, a list of them; else the model's special tokens; else none."""
    model = made(WRITERS["bart"])
    adapter = attcat.Explainer(model).adapter
    assert adapter.start_token == 2
    model.config.decoder_start_token_id = model.generation_config.decoder_start_token_id = None
    assert adapter.start_token == 1  # the beginning of a text
    model.generation_config.decoder_start_token_id = [7, 8]
    assert adapter.start_token == 7
    model.generation_config.decoder_start_token_id = None
    for name in ("bos", "eos", "pad"):
        setattr(model.config, f"{name}_token_id", None)
        setattr(model.generation_config, f"{name}_token_id", None)
    with pytest.raises(attcat.ProcessorError, match="which token its decoder starts with: set decoder_start_token_id"):
        _ = adapter.start_token
    with pytest.raises(attcat.ProcessorError, match="set decoder_start_token_id"):
        adapter.start_of([])


# -- the pieces --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("until_next", "expected"), [(False, [[0, 1], [0], [2]]), (True, [[1], [1], [2]])])
def test_a_block_is_open_while_it_runs_or_until_the_next(until_next: bool, expected: list[list[int]]) -> None:
    """The second of three blocks is called within the first."""
    blocks, running, seen = list[Block](), list[Block](), list[list[int]]()

    class Noting(nn.Module):
        def __init__(self, *inside: nn.Module) -> None:
            super().__init__()
            self.inside = nn.ModuleList(inside)

        def forward(self, x: Tensor) -> Tensor:
            for module in self.inside:
                x = module(x)
            seen.append([next(n for n, block in enumerate(blocks) if block is one) for one in running])
            return x + 1

    inner, last = Noting(), Noting()
    outer = Noting(inner)
    with watch([outer, inner, last], blocks, running, gradient=False, until_next=until_next):
        last(outer(torch.zeros(1, 4, 8)))
    assert seen == expected
    assert len(running) == until_next


def test_a_hidden_state_is_the_first_of_its_shape() -> None:
    state, grid, mask = torch.zeros(1, 4, 8), torch.zeros(1, 8, 2, 2), torch.zeros(1, 4, dtype=torch.long)
    assert hidden_state(nn.Linear(1, 1), (mask, grid), {"x": state}) == ("x", state)
    assert hidden_state(nn.Linear(1, 1), (mask, grid), {}) == (1, grid)
    with pytest.raises(CaptureError, match=r"Linear was called without a hidden state .* have shapes \[\(1, 4\)\]"):
        hidden_state(nn.Linear(1, 1), (mask, None), {"y": 3})


def test_what_a_module_returns_has_another_tensor_in_one_place() -> None:
    own, other, new = torch.zeros(1), torch.ones(1), torch.full((1,), 2.0)
    given = {"a": (own, [other, {"b": own}]), "c": None}
    found = replaced(given, own, new)
    assert found["a"][0] is found["a"][1][1]["b"] is new
    assert found["a"][1][0] is other
    assert type(found["a"]) is tuple
    assert type(found["a"][1]) is list
    assert given["a"][0] is own
    assert replaced(own, own, new) is new


def test_a_tensor_is_rebound_only_where_it_can_be() -> None:
    whole = torch.zeros(2, 4)
    leaf = torch.ones(4, requires_grad=True)
    row = whole[0]
    assert rebind(row, leaf * 2)
    assert row.requires_grad
    assert row.tolist() == [2.0] * 4
    own = torch.zeros(4)
    assert rebind(own, leaf * 3)
    assert own.tolist() == [3.0] * 4
    assert not rebind(torch.zeros(3), leaf)
    assert not rebind(nn.Parameter(torch.zeros(4)), leaf)
    with torch.inference_mode():
        made_there = torch.zeros(4)
    assert not rebind(made_there, leaf)


@pytest.mark.parametrize(
    ("call", "kernel", "stride", "grid"),
    [
        (lambda x, w: F.conv2d(x, w), (2, 3), (1, 1), (5, 6)),
        (lambda x, w: F.conv2d(x, weight=w, stride=2), (2, 3), (2, 2), (3, 3)),
        (lambda x, w: F.conv2d(x, w, None, (2, 3)), (2, 3), (2, 3), (3, 2)),
        (lambda x, w: F.conv2d(x, w, None, 3), (2, 3), (3, 3), (2, 2)),
        (lambda x, w: F.conv2d(x, w, stride=(3, 1), bias=None), (2, 3), (3, 1), (2, 6)),
    ],
)
def test_a_convolution_is_noted_however_it_is_called(call: Any, kernel: Any, stride: Any, grid: Any) -> None:
    class Net(nn.Module):
        def forward(self) -> None:
            call(torch.zeros(1, 3, 6, 8), torch.zeros(4, 3, 2, 3))
            F.conv1d(torch.zeros(1, 3, 6), torch.zeros(4, 3, 2))  # over no pixels
            F.conv2d(torch.zeros(3, 6, 8), torch.zeros(4, 3, 2, 3))  # of no batch
            F.embedding(IDS, torch.zeros(30, 8))
            F.embedding(IDS, weight=torch.zeros(40, 8))

    net = Net()
    found = survey(net, net)
    assert [(one.kernel, one.stride, one.grid) for one in found.convolutions] == [(kernel, stride, grid)]
    assert [rows for _, rows in found.lookups] == [30, 40]


@pytest.mark.parametrize("flat", [False, True])
def test_attention_is_noted_within_the_calls_that_compute_it(flat: bool) -> None:
    class Net(nn.Module):
        def forward(self) -> None:
            products = torch.zeros(6, 4, 4) if flat else torch.zeros(2, 3, 4, 4)
            products.softmax(-1)
            F.scaled_dot_product_attention(*torch.zeros(3, 2, 3, 4, 5))
            torch.zeros(3, 4).softmax(-1)  # of a classifier
            torch.zeros(6, 4, 7).softmax(-1)  # over other keys
            torch.zeros(6, 1, 2).softmax(-1)  # a choice of two

    net = nn.Sequential(Net())
    net.forward = lambda: net[0]()  # type: ignore[method-assign, assignment]
    seen = Survey(batch=2)
    with torch.no_grad(), _visits(net, seen) as stack, _Watcher(seen, stack):
        net()
    assert [(one.shape, one.fused) for one in seen.attention] == [((2, 3, 4, 4), False), ((2, 3, 4, 4), True)]
    assert [visit.seen for visit in seen.visits] == [seen.attention, seen.attention]
    assert stack == []


def test_windows_as_an_axis_of_their_own_are_examples_of_a_call() -> None:
    query, key = torch.rand(2, 2, 3, 2, 4, 5)
    call = Call.of(query, key, key)
    assert call.shape == (6, 2, 4, 4)
    expected = (query @ key.transpose(-2, -1) / 5**0.5).softmax(-1)
    torch.testing.assert_close(call.weights(), expected.flatten(0, 1))


def test_a_softmax_over_the_tokens_of_a_block_is_its_attention() -> None:
    """`[B, H, T, T]`, or with batch and heads in one axis, perhaps with a sink; not over other tokens, and not of rows."""
    state = torch.rand(2, 4, 8, requires_grad=True)
    block = Block(state)
    with Interception(make_rule("plain"), [block]):
        products = state @ state.transpose(1, 2)
        several = products.repeat_interleave(3, 0)
        sink, pair = (torch.cat([several, several[..., :more]], -1) for more in (1, 2))
        for x in (products[:, None], several, sink, pair, products[:, 1:, 1:], products[:, 0]):
            torch.testing.assert_close(x.softmax(-1).sum(-1), torch.ones(x.shape[:-1]))
    assert [tuple(one.shape) for one in block.attention] == [(2, 1, 4, 4), (2, 3, 4, 4), (2, 3, 4, 5)]
    torch.testing.assert_close(block.attention[1][1, 2], products.softmax(-1)[1])  # type: ignore[index]


# -- the model itself ------------------------------------------------------------------------------------------------


def test_a_borrowed_model_has_its_flags_back() -> None:
    """Evaluation mode while it is borrowed, without checkpoints; a hook of ours that was lost is taken off, another's stays."""
    model = model_with().train()
    model.layers[1].eval()
    model.layers[0].gradient_checkpointing = True
    training = [module.training for module in model.modules()]

    def theirs(module: nn.Module, args: Any) -> None:
        return None

    def ours(module: nn.Module, args: Any) -> None:
        return None

    ours.__module__ = "attcat.capture.blocks"

    def fail() -> None:
        with as_found(model):
            assert not any(module.training for module in model.modules())
            assert model.layers[0].gradient_checkpointing is False
            model.layers[0].register_forward_pre_hook(ours)
            model.layers[0].register_forward_pre_hook(theirs)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert [module.training for module in model.modules()] == training
    assert model.layers[0].gradient_checkpointing is True
    assert list(model.layers[0]._forward_pre_hooks.values()) == [theirs]


def test_a_model_that_was_made_in_inference_mode_is_not_borrowed() -> None:
    with torch.inference_mode():
        model = Model()
    with pytest.raises(CaptureError, match=r"made inside torch\.inference_mode"), as_found(model):
        pass

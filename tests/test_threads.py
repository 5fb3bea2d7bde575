"""One model, many threads: every result is the one computed alone, and nobody else's pass sees anything of an explanation."""

from __future__ import annotations

import asyncio
import copy
import os
import pickle
import random
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import FunctionType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from tokenizers_small import wordpiece
from torch import Tensor, nn
from zoo import FAMILIES

import attcat
from attcat.testing import changes, snapshot

CALLS = int(os.environ.get("ATTCAT_CALLS", "120"))
"""Calls in each test that counts them; `make stress` makes a thousand."""

Work = Callable[[], list[Tensor]]


def model_of(name: str = "bert", **config: object) -> nn.Module:
    """With dropout, which only a training step may see."""
    model = FAMILIES[name].model()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.2
    return model


def scores(explanations: Any) -> list[Tensor]:
    listed = explanations if isinstance(explanations, list) else [explanations]
    return [tensor for e in listed for tensor in (e.layers, e.logits)]


def same(one: list[Tensor], other: list[Tensor]) -> bool:
    return len(one) == len(other) and all(map(torch.equal, one, other))


def at_once(workers: list[Callable[[], Any]]) -> list[Any]:
    """Each in a thread of its own, started together."""
    start = threading.Barrier(len(workers))

    def run(worker: Callable[[], Any]) -> Any:
        start.wait()
        return worker()

    with ThreadPoolExecutor(len(workers)) as pool:
        return [future.result() for future in [pool.submit(run, worker) for worker in workers]]


# -- threads that meet inside of the blocks ---------------------------------------------------------------------------


class Meeting:
    """A hook of the user's: every thread waits until all are in the same block. Switched off, it does nothing."""

    def __init__(self, blocks: list[nn.Module], threads: int) -> None:
        self.on = False
        self.barriers = [threading.Barrier(threads, timeout=60) for _ in blocks]
        for block, barrier in zip(blocks, self.barriers, strict=True):
            block.register_forward_pre_hook(lambda *_, wait=barrier.wait: self.meet(wait))

    def meet(self, wait: Callable[[], int]) -> None:
        if self.on:
            wait()


def explanation(model: nn.Module, batch: dict[str, Tensor], **options: Any) -> Work:
    explain = attcat.Explainer(model, None, **options)
    return lambda: scores(explain(batch))


def inference(model: nn.Module, batch: dict[str, Tensor]) -> Work:
    def run() -> list[Tensor]:
        with torch.no_grad():
            logits = model(**batch).logits
            assert not logits.requires_grad
            assert not torch.is_grad_enabled()
        assert torch.is_grad_enabled()
        return [logits]

    return run


def training_step(model: nn.Module, batch: dict[str, Tensor]) -> Work:
    def run() -> list[Tensor]:
        model.zero_grad()
        loss = model(**batch).logits.square().sum()
        loss.backward()
        return [loss.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)]

    return run


@pytest.mark.filterwarnings("ignore:`(is_)?gradient_checkpointing:FutureWarning")
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("training", [False, True])
def test_threads_that_meet_inside_of_the_blocks(training: bool, checkpointing: bool) -> None:
    if checkpointing and not training:
        pytest.skip("checkpoints are used in training")
    model = model_of().train(training)
    if checkpointing:
        model.gradient_checkpointing_enable()
    batch, other = FAMILIES["bert"].arguments(2), FAMILIES["bert"].arguments(3, seed=5)
    explained: list[Work] = [
        explanation(model, batch, rule="plain"),
        explanation(model, batch, rule="libra"),
        explanation(model, other, method="genatt"),
        explanation(model, other, method="attnlrp", completeness=True),
    ]
    # In training mode plain passes draw their dropout from one generator: only one thread can, if its numbers are to be known.
    plain: list[Work] = [training_step(model, batch)] + ([] if training else [inference(model, other)] * 3)
    works = explained + plain
    meeting = Meeting(list(model.bert.encoder.layer), len(works))
    rounds = max(3, CALLS // len(works))
    alone = [work() for work in explained]
    torch.manual_seed(7)
    steps = [training_step(model, batch)() for _ in range(rounds)]
    plain_alone = [work() for work in plain[1:]]

    def repeated(work: Work) -> Callable[[], list[list[Tensor]]]:
        return lambda: [work() for _ in range(rounds)]

    # The backward pass of a checkpointed model runs its blocks once more, where nobody else comes.
    meeting.on = not checkpointing
    torch.manual_seed(7)
    found = at_once([repeated(work) for work in works])
    meeting.on = False
    for results, expected in zip(found[: len(alone)], alone, strict=True):
        assert all(same(result, expected) for result in results)
    assert all(map(same, found[len(alone)], steps))
    for results, expected in zip(found[len(alone) + 1 :], plain_alone, strict=True):
        assert all(same(result, expected) for result in results)
    assert all(module.training == training for module in model.modules())


# -- sixteen threads, everything mixed --------------------------------------------------------------------------------


WORDS = ["a", "gripping", "film", "beautifully", "acted", "though", "the", "ending", "is", "boring", "and", "slow"]


def sentences(count: int) -> list[str]:
    generator = random.Random(0)
    return [" ".join(generator.choices(WORDS, k=generator.randint(1, 12))) for _ in range(count)]


@pytest.fixture(scope="module")
def mixed() -> list[Work]:
    """Calls of every kind, on one text model and one vision model, with shared and with own Explainers."""
    bert, vit = model_of(), model_of("vit")
    bert.config.max_position_embeddings = 16
    tokenizer = wordpiece()
    processor = transformers.ViTImageProcessor(size={"height": 32, "width": 32})
    generator = np.random.default_rng(0)
    pictures = [Image.fromarray(generator.integers(0, 255, (40, size, 3), dtype=np.uint8)) for size in (32, 48, 64)]
    texts = sentences(9)
    calls: list[Work] = []
    methods: dict[str, dict[str, Any]] = {
        "attcat": {}, "attcat+plain": {}, "cat": {"hidden": "output"}, "rollout": {}, "transatt": {}, "legrad": {},
        "input_x_gradient": {"completeness": True}, "integrated_gradients": {"steps": 3}, "tokentm": {}, "random": {},
    }  # fmt: skip
    for method, options in methods.items():
        text = attcat.Explainer(bert, tokenizer, method=method, **options)
        vision = attcat.Explainer(vit, processor, method=method, **options)
        calls += [
            lambda text=text: scores(text(texts[0])),
            lambda text=text: scores(text(texts[1:4], target=[0, 1, 2])),
            lambda text=text: scores(text(texts[4], target=(0, 1))),
            lambda text=text: scores(text(" ".join(WORDS * 3), truncation=True)),
            lambda text=text: scores(text(" ".join(WORDS * 3), window=12)),
            lambda vision=vision: scores(vision(pictures[0])),
            lambda vision=vision: scores(vision(pictures[1:], top_k=1)[0]),
        ]
    return calls


def test_sixteen_threads_with_everything_mixed(mixed: list[Work]) -> None:
    assert_as_alone(mixed, max(CALLS, 2 * len(mixed)))


def beyond_classifiers() -> list[Work]:
    """What was written, words with a picture, a sound that was written down, a box: each by the default and by another rule."""
    import test_generation
    import test_hearing
    import test_mixed_families
    import test_regions

    question = (test_mixed_families.PICTURE, test_mixed_families.QUESTION)
    calls = []
    for method in ("oddscat", "attnlrp"):
        writer = attcat.Explainer(test_generation.explainer().adapter, method=method)
        reader = attcat.Explainer(test_mixed_families.made("git")[2].adapter, method=method)
        listener = attcat.Explainer(test_hearing.explainer("whisper").adapter, method=method)
        detector = attcat.Explainer(test_regions.explainer("yolos").adapter, method=method)
        calls += [
            lambda one=writer: scores(list(one("the film was", answer=" good and long").explanations)),
            lambda one=writer: scores(list(one.generate("the film was", max_new_tokens=3).explanations)),
            lambda one=reader: scores(one(question)),
            lambda one=listener: scores(list(one.generate(test_hearing.sound(), max_new_tokens=2).explanations)),
            lambda one=detector: scores(one(test_regions.noise())),
        ]
    return calls


def test_sixteen_threads_with_other_kinds_than_classifiers() -> None:
    calls = beyond_classifiers()
    assert_as_alone(calls, max(CALLS // 2, 2 * len(calls)))


def assert_as_alone(calls: list[Work], count: int) -> None:
    """Each call gives in sixteen threads what it gives alone, in a shuffled order."""
    expected = [call() for call in calls]
    order = list(range(len(calls))) * -(-count // len(calls))
    random.Random(1).shuffle(order)
    wrong: list[int] = []
    waiting = iter(order)
    lock = threading.Lock()

    def work() -> int:
        done = 0
        while True:
            with lock:
                number = next(waiting, None)
            if number is None:
                return done
            if not same(calls[number](), expected[number]):
                wrong.append(number)
            done += 1

    assert sum(at_once([work] * 16)) == len(order)
    assert wrong == []


def test_one_explainer_of_a_discovered_model() -> None:
    from zoo_unseen import UNSEEN

    family = UNSEEN["timm-eva02"]
    explain = attcat.Explainer(family.model(), None)
    batch = family.arguments(2)
    expected = scores(explain(batch))
    assert all(same(found, expected) for found in at_once([lambda: scores(explain(batch))] * 8))


# -- what belongs to the user -----------------------------------------------------------------------------------------


def test_modes_set_by_the_user_stand_and_do_not_change_a_result() -> None:
    model, batch = model_of(), FAMILIES["bert"].arguments(2)
    explain = attcat.Explainer(model, None)
    expected = scores(explain(batch))
    done = threading.Event()
    explained = ThreadPoolExecutor(4)

    def work() -> bool:
        return all(same(scores(explain(batch)), expected) for _ in range(max(8, CALLS // 8)))

    waiting = [explained.submit(work) for _ in range(4)]
    while not all(future.done() for future in waiting):
        for training in (True, False):
            model.train(training)
            done.wait(0.002)
            assert all(module.training == training for module in model.modules())
    assert all(future.result() for future in waiting)


def test_random_numbers_of_other_threads_are_theirs() -> None:
    model, batch = model_of().train(), FAMILIES["bert"].arguments(2)
    explain = attcat.Explainer(model, None)
    torch.manual_seed(3)
    expected = torch.rand(20_000)

    def draw() -> Tensor:
        torch.manual_seed(3)
        return torch.stack([torch.rand(()) for _ in range(20_000)])

    with ThreadPoolExecutor(4) as pool:
        drawn = pool.submit(draw)
        while not drawn.done():
            explain(batch)
    assert len(set(drawn.result().tolist())) > 19_900
    torch.manual_seed(3)
    assert torch.equal(drawn.result(), torch.stack([torch.rand(()) for _ in range(20_000)]))
    assert expected.shape == drawn.result().shape


class Noisy(nn.Module):
    """Draws random numbers in evaluation mode, too."""

    def __init__(self, inner: nn.Module, draw: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.inner = inner
        self.draw = draw

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        output = self.inner(*args, **kwargs)
        state, *rest = output if isinstance(output, tuple) else (output,)
        state = state + self.draw(state)
        return (state, *rest) if isinstance(output, tuple) else state


DRAWS: dict[str, Callable[[Tensor], Tensor]] = {
    "rand": lambda x: torch.rand(x.shape),
    "randn_like": lambda x: torch.randn_like(x),
    "randint_like": lambda x: torch.randint_like(x, 3),
    "normal_": lambda x: torch.empty_like(x).normal_(0, 2),
    "bernoulli": lambda x: torch.bernoulli(torch.full(x.shape, 0.5)),
    "dropout": lambda x: nn.functional.dropout(x, 0.3),
    "dropout in place": lambda x: nn.functional.dropout(x.clone(), 0.3, True, True),
    "whole channels": lambda x: nn.functional.dropout1d(x, 0.3),
    "gumbel": lambda x: nn.functional.gumbel_softmax(x),
    "permutation": lambda x: x[:, :, torch.randperm(x.shape[-1])],
    "own generator": lambda x: torch.rand(x.shape, generator=torch.Generator().manual_seed(1)),
}


@pytest.mark.parametrize("draw", DRAWS)
@pytest.mark.parametrize("place", [0, 1])
def test_a_model_that_draws_in_evaluation_mode(draw: str, place: int) -> None:
    model, batch = model_of(), FAMILIES["bert"].arguments(2)
    output = model.bert.encoder.layer[place].output
    output.dense = Noisy(output.dense, DRAWS[draw])
    explain = attcat.Explainer(model, None)
    state = torch.get_rng_state()
    first, second = explain(batch), explain(batch)
    assert torch.equal(torch.get_rng_state(), state)
    assert same(scores(first), scores(second))
    without = attcat.Explainer(model_of(), None)(batch)
    assert not same(scores(first), scores(without))


def test_dropout_of_ours_keeps_the_expected_share() -> None:
    from attcat.capture.randomness import OwnRandomness

    x = torch.ones(400, 500)
    with OwnRandomness():
        dropped = nn.functional.dropout(x, 0.3)
        channels = nn.functional.dropout2d(torch.ones(20, 30, 4, 4), 0.5)
        assert torch.equal(nn.functional.dropout(x, 0.3, training=False), x)
        uniform, integers = torch.rand_like(x), torch.randint_like(x, 2, 5)
        soft = nn.functional.gumbel_softmax(torch.zeros(3, 7), hard=True)
    assert float((dropped == 0).float().mean()) == pytest.approx(0.3, abs=0.01)
    assert dropped.unique().tolist() == pytest.approx([0.0, 1 / 0.7])
    assert channels.mean((2, 3)).unique().tolist() == [0.0, 2.0]
    assert 0 <= float(uniform.min()) < float(uniform.max()) < 1
    assert integers.unique().tolist() == [2, 3, 4]
    assert torch.equal(soft.sum(-1), torch.ones(3))


@pytest.mark.parametrize("which", ["rrelu", "alpha dropout", "attention"])
def test_draws_that_cannot_be_repeated_are_refused(which: str) -> None:
    model = model_of()
    layer = model.bert.encoder.layer[1]
    if which == "attention":
        model = FAMILIES["timm-vit"].model()
        attend = nn.functional.scaled_dot_product_attention
        functions = {**vars(nn.functional), "scaled_dot_product_attention": lambda *a, **k: attend(*a, **{**k, **drop})}
        drop = {"dropout_p": 0.1}
        dropping = SimpleNamespace(**functions)
        forward = type(model.blocks[1].attn).forward
        model.blocks[1].attn.forward = FunctionType(
            forward.__code__, {**forward.__globals__, "F": dropping}, "forward", forward.__defaults__
        ).__get__(model.blocks[1].attn)
        batch, message = FAMILIES["timm-vit"].arguments(1), "drops attention in evaluation mode"
    else:
        functions = nn.functional.rrelu, nn.functional.alpha_dropout
        function = functions[which == "alpha dropout"]
        layer.output.dense = Noisy(layer.output.dense, lambda x: function(x, training=True))
        batch, message = FAMILIES["bert"].arguments(1), "draws random numbers in evaluation mode"
    with pytest.raises(attcat.CaptureError, match=message):
        attcat.Explainer(model, None)(batch)


# -- a user who exchanges things --------------------------------------------------------------------------------------


def exchange_in_place(model: nn.Module) -> None:
    with torch.no_grad():
        model.bert.encoder.layer[0].output.dense.weight.mul_(-1)


def exchange_state(model: nn.Module) -> None:
    model.load_state_dict(FAMILIES["bert"].model(seed=3).state_dict())


def exchange_parameter(model: nn.Module) -> None:
    model.classifier.weight = nn.Parameter(-model.classifier.weight.detach())


def exchange_data(model: nn.Module) -> None:
    model.classifier.weight.data = -model.classifier.weight.data


def exchange_module(model: nn.Module) -> None:
    model.bert.encoder.layer[1].output.dense = FAMILIES["bert"].model(seed=3).bert.encoder.layer[1].output.dense


def exchange_block(model: nn.Module) -> None:
    model.bert.encoder.layer[1] = FAMILIES["bert"].model(seed=3).bert.encoder.layer[1]


def fewer_blocks(model: nn.Module) -> None:
    model.bert.encoder.layer = model.bert.encoder.layer[:2]


def exchange_attribute(model: nn.Module) -> None:
    for layer in model.bert.encoder.layer:
        layer.attention.self.scaling = 2.0


def add_hook(model: nn.Module) -> None:
    model.bert.encoder.layer[0].output.register_forward_hook(lambda module, args, output: output * 1.5)


def exchange_forward(model: nn.Module) -> None:
    dense = model.bert.encoder.layer[0].output.dense
    dense.forward = lambda x: -type(dense).forward(dense, x)


EXCHANGES = [
    exchange_in_place,
    exchange_state,
    exchange_parameter,
    exchange_data,
    exchange_module,
    exchange_block,
    fewer_blocks,
    exchange_attribute,
    add_hook,
    exchange_forward,
]


@pytest.mark.parametrize("exchange", EXCHANGES)
@pytest.mark.parametrize("discovered", [False, True])
def test_what_the_user_exchanges_is_explained(exchange: Callable[[nn.Module], None], discovered: bool) -> None:
    model, batch = FAMILIES["bert"].model(), FAMILIES["bert"].arguments(2)
    explain = attcat.Explainer(model, None)
    if discovered:
        if exchange is fewer_blocks:
            pytest.skip("which modules are the blocks is found once")
        explain.adapter = attcat.model.discovered.DiscoveredText(model)
    before = scores(explain(batch))
    assert same(scores(explain(batch)), before)
    exchange(model)
    changed = FAMILIES["bert"].model()
    exchange(changed)
    fresh = attcat.Explainer(changed, None)
    if discovered:
        fresh.adapter = attcat.model.discovered.DiscoveredText(changed)
    after = scores(explain(batch))
    assert same(after, scores(fresh(batch)))
    assert not same(after, before)


def test_twins_are_kept_and_made_again_only_after_a_change() -> None:
    model, batch = model_of(), FAMILIES["bert"].arguments(2)
    explain = attcat.Explainer(model, None)
    explain(batch)
    explain(batch)
    (kept,) = vars(explain.adapter)["_twins"]
    for training in (True, False, True):
        model.train(training)
        exchange_in_place(model)
        explain(batch)
        assert [kept] == list(vars(explain.adapter)["_twins"])
    exchange_parameter(model)
    explain(batch)
    assert kept not in vars(explain.adapter)["_twins"]


def test_a_twin_shares_every_tensor_and_no_module() -> None:
    from attcat.capture.twin import Twin

    model = model_of()
    twin = Twin(model).model
    assert {id(t) for t in model.state_dict(keep_vars=True).values()} == {
        id(t) for t in twin.state_dict(keep_vars=True).values()
    }
    assert not set(model.modules()) & set(twin.modules())
    assert [name for name, _ in model.named_modules()] == [name for name, _ in twin.named_modules()]


# -- models that refer to themselves ----------------------------------------------------------------------------------


def bound_forward(model: nn.Module) -> None:
    """A forward that was replaced on the instance, as a bound method."""
    block = model.bert.encoder.layer[1]
    plain = type(block).forward

    def doubled(self: nn.Module, hidden: Tensor, *args: Any, **kwargs: Any) -> Any:
        return plain(self, 2 * hidden, *args, **kwargs)

    block.forward = doubled.__get__(block)


def closed_forward(model: nn.Module) -> None:
    """A forward that closes over the method that it replaces."""
    for block in model.bert.encoder.layer:
        before = block.forward
        block.forward = lambda hidden, *a, before=before, **k: before(2 * hidden, *a, **k)
    inner = model.bert.forward
    model.bert.forward = lambda *args, **kwargs: inner(*args, **kwargs)


def plain_list(model: nn.Module) -> None:
    """Modules in a plain list, a dict and a tuple, by which the forward pass reaches them."""
    layers = list(model.bert.encoder.layer)
    model.bert.encoder.order = {"all": [(layer, 2.0) for layer in layers]}

    def forward(self: nn.Module, hidden: Tensor, *args: Any, **kwargs: Any) -> Any:
        for layer, factor in self.order["all"]:
            hidden = layer(factor * hidden, *args, **kwargs)
        return transformers.modeling_outputs.BaseModelOutputWithPastAndCrossAttentions(last_hidden_state=hidden)

    model.bert.encoder.forward = forward.__get__(model.bert.encoder)


class Holder:
    """An object that holds a module and is called in its place."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def __call__(self, x: Tensor) -> Tensor:
        return -self.module(x)


def holder(model: nn.Module) -> None:
    block = model.bert.encoder.layer[1]
    block.held = Holder(block.output.dense)

    def forward(self: nn.Module, hidden: Tensor, given: Tensor, block: nn.Module = block) -> Tensor:
        return self.LayerNorm(self.dropout(block.held(hidden)) + given)

    block.output.forward = forward.__get__(block.output)


def hook_on_another(model: nn.Module) -> None:
    """A hook that runs another module of the model."""
    first, second = model.bert.encoder.layer[0].output, model.bert.encoder.layer[1].output
    first.register_forward_hook(lambda module, args, output: output + second.dropout(output))


def parametrised(model: nn.Module) -> None:
    nn.utils.parametrizations.weight_norm(model.bert.encoder.layer[0].output.dense)
    nn.utils.parametrizations.spectral_norm(model.bert.pooler.dense)


@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated")
def old_weight_norm(model: nn.Module) -> None:
    nn.utils.weight_norm(model.bert.encoder.layer[0].output.dense)


def tied(model: nn.Module) -> None:
    layers = model.bert.encoder.layer
    layers[1].output.dense.weight = layers[0].output.dense.weight
    layers[2].output = layers[1].output


def functional_graph(model: nn.Module) -> None:
    dense = model.bert.encoder.layer[0].output
    dense.dense = torch.fx.symbolic_trace(nn.Sequential(dense.dense, nn.Tanh()))


def hidden_in_training_mode(model: nn.Module) -> None:
    """A module that `eval()` does not reach: its dropout is a part of the model, and drawn from a generator of ours."""
    output = model.bert.encoder.layer[0].output
    output.beside = [nn.Dropout(0.5)]
    output.forward = (lambda self, x, y: self.LayerNorm(self.beside[0](self.dense(x)) + y)).__get__(output)


def scripted(model: nn.Module) -> None:
    """A TorchScript program inside: it has no twin."""
    model.bert.encoder.layer[0].output.dense = torch.jit.script(model.bert.encoder.layer[0].output.dense)


def global_name(model: nn.Module) -> None:
    """A forward that names the model as a global variable: it has no twin."""
    global _dense
    _dense = model.bert.encoder.layer[0].output.dense
    _dense.forward = _through_a_global


def _through_a_global(x: Tensor) -> Tensor:
    return -(lambda: nn.functional.linear(x, _dense.weight, _dense.bias))()


def long_chain(model: nn.Module) -> None:
    """A chain of objects that leads to a module and is too long to be followed."""
    chain: Any = model.bert.pooler
    for _ in range(1_500):
        chain = Holder(chain)
    model.chain = chain


def needle(model: nn.Module) -> None:
    """A module somewhere among very many objects."""
    model.many = [[number] for number in range(200_000)] + [[model.bert.pooler]]


SELF_REFERENCES = [
    bound_forward,
    closed_forward,
    plain_list,
    holder,
    hook_on_another,
    parametrised,
    old_weight_norm,
    tied,
    functional_graph,
]
WITHOUT_TWIN = [scripted, global_name, long_chain, needle]


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*")
@pytest.mark.filterwarnings("ignore:.*weight_norm.*:FutureWarning")
@pytest.mark.parametrize("change", [*SELF_REFERENCES, *WITHOUT_TWIN])
def test_models_that_refer_to_themselves(change: Callable[[nn.Module], None]) -> None:
    batch = FAMILIES["bert"].arguments(2)
    model = model_of()
    change(model)
    with torch.no_grad():
        expected_logits = model(**batch).logits
    expected = scores(attcat.Explainer(model, None)(batch))
    torch.testing.assert_close(torch.stack(expected[1::2]), expected_logits)
    model.train()
    explain = attcat.Explainer(model, None, rule="plain")
    before = snapshot(model)
    # Dropout, were it seen, would make every call another.
    found = at_once([lambda: scores(attcat.Explainer(model, None)(batch)), lambda: scores(explain(batch))] * 3)
    assert all(same(one, expected) for one in found[::2])
    assert all(same(one, found[1]) for one in found[1::2])
    assert changes(before, snapshot(model)) == []
    twins = vars(explain.adapter)["_twins"]
    assert (len(twins) > 0) == (change not in WITHOUT_TWIN)


def test_a_module_that_evaluation_mode_does_not_reach() -> None:
    model, batch = model_of(), FAMILIES["bert"].arguments(2)
    hidden_in_training_mode(model)
    explain = attcat.Explainer(model, None)
    state = torch.get_rng_state()
    assert same(scores(explain(batch)), scores(explain(batch)))
    assert torch.equal(torch.get_rng_state(), state)
    model.bert.encoder.layer[0].output.beside[0].eval()
    assert same(scores(explain(batch)), scores(attcat.Explainer(model_of(), None)(batch)))


class Wrapped(nn.Module):
    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        return self.inner(input_ids=input_ids, attention_mask=attention_mask).logits


class WrappedAdapter(attcat.TextAdapter):
    """A user's adapter with attributes of its own that hold modules."""

    family = "wrapped"

    def __init__(self, model: nn.Module, processor: Any = None) -> None:
        super().__init__(model, processor)
        self.parts = {"layers": model.inner.bert.encoder.layer, "run": model.forward}
        self.first = lambda: self.parts["layers"][0]

    @property
    def blocks(self) -> tuple[nn.Module, ...]:  # type: ignore[override]
        return (self.first(), *self.parts["layers"][1:])

    def call(self, encoding: Any) -> Any:
        return self.parts["run"](**encoding.arguments)


def test_a_users_adapter_with_modules_of_its_own() -> None:
    inner, batch = model_of(), FAMILIES["bert"].arguments(2)
    expected = scores(attcat.Explainer(inner, None)(batch))
    explain = attcat.Explainer(WrappedAdapter(Wrapped(inner).train()), None)
    assert all(same(found, expected) for found in at_once([lambda: scores(explain(batch))] * 4))
    assert all(module.training for module in inner.modules())


# -- pickles and asyncio ----------------------------------------------------------------------------------------------


@pytest.fixture(params=["bert", "vit", "timm-vit", "timm-eva02"])
def made(request: pytest.FixtureRequest) -> tuple[attcat.Explainer, Any]:
    from zoo_unseen import UNSEEN

    family = {**FAMILIES, **UNSEEN}[request.param]
    processors = {"bert": wordpiece, "vit": lambda: transformers.ViTImageProcessor(size={"height": 32, "width": 32})}
    processor = processors.get(request.param, lambda: None)()
    value = "a gripping film" if family.text else Image.new("RGB", (40, 32), "red")
    return attcat.Explainer(family.model(), processor, method="cat", rule="plain"), value


def test_explainers_pickle(made: tuple[attcat.Explainer, Any]) -> None:
    explain, value = made
    before = pickle.loads(pickle.dumps(explain))
    size = len(pickle.dumps(explain))
    expected = scores(explain(value))
    assert len(pickle.dumps(explain)) < 1.1 * size  # without the twins
    for found in (before, pickle.loads(pickle.dumps(explain)), copy.deepcopy(explain)):
        assert same(scores(found(value)), expected)
        assert found.adapter is not explain.adapter
        assert found.adapter.model is not explain.adapter.model
        assert found.settings == explain.settings


def test_asyncio_through_threads() -> None:
    explain = attcat.Explainer(model_of(), wordpiece())
    texts = sentences(12)
    expected = [scores(explain(text)) for text in texts]

    async def serve() -> list[Any]:
        return await asyncio.gather(*(asyncio.to_thread(explain, text) for text in texts))

    assert all(map(same, map(scores, asyncio.run(serve())), expected))

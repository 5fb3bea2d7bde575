"""Models that people write by hand: each is explained, or refused with the reason that is true of it."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from test_families import assert_same
from tokenizers_small import wordpiece
from torch import Tensor, nn
from zoo_written import LONG, PICTURES, WRITTEN, Flattened, Written, made

import attcat
from attcat.capture.rules import Rule
from attcat.testing import check_adapter, snapshot
from attcat.trace import record

EXPLAINED = {name: written for name, written in {**WRITTEN, **PICTURES}.items() if not written.refused}


def some(written: Written) -> dict[str, Tensor]:
    """A text of a length that the model takes."""
    return {"input_ids": torch.arange(20, 20 + (LONG if written.make is Flattened else 9))[None]}


def expected(written: Written, length: int) -> list[int]:
    """The positions that the head reads."""
    places = {"first": [0], "last": [-1], "all": range(length)}.get(written.reads)
    return sorted(p % length for p in (places or [int(p) for p in written.reads.removeprefix("at ").split(",")]))


@cache
def explainer(name: str) -> attcat.Explainer:
    """It is found out once; no test changes it."""
    return attcat.Explainer(made(EXPLAINED[name]), None)


@pytest.mark.parametrize("name", EXPLAINED)
def test_every_promise_is_kept(name: str) -> None:
    model = made(EXPLAINED[name])
    failed = [str(check) for check in check_adapter(model) if check.passed is False]
    assert not failed


@pytest.mark.parametrize("name", [name for name, written in EXPLAINED.items() if name not in PICTURES])
def test_scores_equal_a_slow_computation(name: str) -> None:
    """Autograd from the first block's input on, by hooks on the blocks that were found; attention from nowhere but there."""
    written, explain = EXPLAINED[name], explainer(name).like(method="cat", rule="plain")
    model = explain.adapter.model
    token = None if written.reads != "focus" or "nanogpt" in name else 2
    arguments = some(written)
    target = min(1, getattr(model, "outputs", 2) - 1)
    explanation = explain(arguments, target, token=token)
    adapter, states = explain.adapter, []

    def seen(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        states.append(args[0])
        args[0].retain_grad()

    hooks = [block.register_forward_pre_hook(seen) for block in dict.fromkeys(adapter.blocks)]
    try:
        encoding = adapter.head.point(adapter.encode_arguments(arguments), [token])
        adapter.head.rows(adapter.logits(adapter.call(encoding)), encoding)[0, target].backward()
    finally:
        for hook in hooks:
            hook.remove()
    features = 1 if adapter.position_axis == 2 else -1
    slow = torch.stack([(state * state.grad).sum(features).flatten() for state in states]).detach()
    assert slow.shape == (len(adapter.blocks), len(explanation.scores))
    assert torch.allclose(torch.as_tensor(explanation.layers), slow, atol=1e-4 * float(slow.abs().max()))


@pytest.mark.parametrize("name", [n for n, w in EXPLAINED.items() if w.reads != "focus" and n not in PICTURES])
def test_what_the_head_reads(name: str) -> None:
    written, adapter = WRITTEN[name], explainer(name).adapter
    encoding = adapter.encode_arguments(some(written))
    assert adapter.read(encoding)[0].nonzero().flatten().tolist() == expected(written, encoding.mask.shape[1])


@pytest.mark.parametrize("name", [name for name, written in WRITTEN.items() if written.refused])
def test_the_reason_is_true(name: str) -> None:
    with pytest.raises(attcat.UnsupportedModelError, match=WRITTEN[name].refused):
        attcat.Explainer(made(WRITTEN[name]))(some(WRITTEN[name]))


@pytest.mark.parametrize("name", [name for name, written in WRITTEN.items() if not written.weights])
def test_methods_that_need_weights_are_refused_where_there_are_none(name: str) -> None:
    explain = attcat.Explainer(made(WRITTEN[name]))
    for method in ("attcat", "rollout", "lrp"):
        with pytest.raises(attcat.UnsupportedModelError, match=f"no attention weights, which {method} needs"):
            explain.like(method=method)(some(WRITTEN[name]))
    assert "none of which attends over all tokens" in explain.describe()


@pytest.mark.parametrize("name", ["torch attention, positions first", "flat bmm", "own class token", "flattened"])
def test_the_model_is_left_as_it_was(name: str) -> None:
    model = made(WRITTEN[name]).train()
    before = snapshot(model)
    attcat.Explainer(model)(some(WRITTEN[name]))
    assert_same(before, snapshot(model))


@pytest.mark.parametrize("name", ["own class token", "own token behind", "flattened", "second token"])
@pytest.mark.parametrize("method", ["attcat", "occlusion"])
def test_words_have_their_own_scores(name: str, method: str) -> None:
    """What the model adds is special; removing a word removes that word: its score is what the logit loses."""
    explain = attcat.Explainer(made(WRITTEN[name]), wordpiece(), method=method)
    explanation = explain("the film was boring", 1)
    assert [word.text for word in explanation.words()] == ["the", "film", "was", "boring"]
    if method == "occlusion":
        changed = explain("the film [MASK] boring", 1)
        lost = float(explanation.logits[1] - changed.logits[1])
        assert explanation.words()[2].score == pytest.approx(lost, abs=1e-5)


def test_a_text_of_another_length_than_the_only_one() -> None:
    explain = attcat.Explainer(made(WRITTEN["flattened"]), wordpiece())
    assert f"it takes {LONG} tokens, no other number" in explain.describe()
    explanation = explain("the film")
    assert explanation.tokens.labels[4:] == ("[PAD]",) * (LONG - 4)
    assert all(explanation.tokens.special[4:])
    with pytest.raises(attcat.TooLongError, match=f"have 17 tokens, the model takes at most {LONG}"):
        explain({"input_ids": torch.arange(20, 37)[None]})
    with pytest.raises(
        attcat.InputError, match=f"takes {LONG} tokens and no other number, got 5, and there is no padding"
    ):
        attcat.Explainer(made(WRITTEN["flattened"]))({"input_ids": torch.arange(20, 25)[None]})
    with pytest.raises(attcat.InputError, match="there are no windows"):
        explain("the film", window=True)
    with pytest.raises(attcat.OptionError, match="use the removal mask or pad"):
        explain.adapter.remove(explain.adapter.encode(["the film"]), how="delete")


def test_heads_in_several_calls_are_taken_together() -> None:
    """Four modules with one head each: the attention that a token receives is the mean over all of them."""
    model = made(WRITTEN["lecture"])
    adapter = attcat.Explainer(model, None).adapter
    encoding = adapter.head.point(adapter.encode_arguments(some(WRITTEN["lecture"])), [2])
    wanted = []

    def seen(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
        x = args[0]
        products = module.query(x) @ module.key(x).transpose(-2, -1) * module.key.out_features**-0.5
        wanted.append(products.masked_fill(torch.ones_like(products).tril() == 0, -torch.inf).softmax(-1))

    hooks = [head.register_forward_hook(seen) for block in model.blocks for head in block.attention.heads]
    with torch.no_grad():
        model(some(WRITTEN["lecture"])["input_ids"])
    for hook in hooks:
        hook.remove()
    recording = record(adapter, encoding, Rule())
    expected = torch.cat(wanted).view(2, -1, 9, 9)
    for block in range(2):
        assert torch.allclose(recording.matrix(block)[0], expected[block], atol=1e-6)
        received = recording.received_by(torch.full((1, 9), 1 / 9))[block]
        assert torch.allclose(received[0], expected[block].mean((0, 1)), atol=1e-6)

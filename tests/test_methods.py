"""Every method, for every family, against a second, plain implementation of its formula."""

from __future__ import annotations

import copy
import itertools
import math
from dataclasses import replace
from functools import cache, cached_property
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from reference import eager_forward, eager_twin
from slow_relevance import Graph, attnlrp, chefer
from torch import Tensor, nn
from transformers.activations import NewGELUActivation
from zoo import EVERY, FAMILIES, TEXT

import attcat
from attcat.capture.rules import Rule
from attcat.demos import embedded
from attcat.methods import METHODS, read_name
from attcat.model.encoding import content_of
from attcat.trace.passes import Passes

TARGET = 1
SEED = 8  # of a model in which no method's scores are all zero


class Plain:
    """What the formulas are made of, for one example: eager attention, all hidden states, a full backward pass."""

    def __init__(self, name: str) -> None:
        self.family = FAMILIES[name]
        self.model = self.family.model()
        batch = self.family.arguments(2)
        self.arguments = self.family.row(batch, 1)
        self.adapter = attcat.Explainer(self.model, None).adapter
        self.encoding = self.adapter.encode_arguments(self.arguments)
        self.read = self.adapter.read(self.encoding)[0].nonzero()[:, 0].tolist()
        hidden, attention, output = eager_forward(self.model, self.arguments)
        for tensor in (*hidden, *attention):
            tensor.retain_grad()
        getattr(output, "logits", output)[0, TARGET].backward()
        self.hidden = [(h.detach()[0], h.grad[0]) for h in hidden]
        self.attention = [(a.detach()[0], torch.zeros_like(a[0]) if a.grad is None else a.grad[0]) for a in attention]
        self.received = [a.mean((0, 1)) for a, _ in self.attention]

    def row(self, matrix: Tensor) -> Tensor:
        return torch.stack([matrix[q] for q in self.read]).mean(0)

    def rolled(self, steps: list[Tensor], normalise: bool = False) -> Tensor:
        joint = torch.eye(len(steps[0])).double()
        for step in steps:
            augmented = step.double() + torch.eye(len(step))
            joint = (augmented / augmented.sum(-1, keepdim=True) if normalise else augmented) @ joint
        return joint

    def scores(self, method: str, **options: object) -> Tensor:
        """The library's contributions for this example."""
        return self.explained(method, **options).layers

    def explained(self, method: str, **options: object) -> attcat.Explanation:
        """The library's explanation of this example, which is the same in a padded batch with another one."""
        explain = attcat.Explainer(self.model, None, method=method, **options)
        alone = explain(self.arguments, TARGET)
        together = explain(self.family.arguments(2), [TARGET] * 2)[1]
        # 5e-7 is what float32 logits differ by, from which occlusion takes differences.
        atol = 5e-7 + 1e-4 * float(alone.layers.abs().max())
        torch.testing.assert_close(together.layers, alone.layers, rtol=0, atol=atol)
        return alone

    @cached_property
    def graph(self) -> Graph:
        return Graph(self.model, self.adapter, self.arguments, TARGET)


plain_of = cache(Plain)
"""One of each family for all tests: none of them changes it."""


@pytest.fixture(params=EVERY)
def plain(request: pytest.FixtureRequest) -> Plain:
    return plain_of(request.param)


def close(actual: Tensor, expected: Tensor, tolerance: float = 2e-5) -> None:
    assert actual.shape == expected.shape
    expected = expected.float()
    assert float((actual - expected).abs().max()) <= tolerance * float(expected.abs().max()) + 1e-12


def test_attention(plain: Plain) -> None:
    close(plain.scores("attention")[0], plain.row(plain.attention[-1][0].mean(0)))


def test_rollout(plain: Plain) -> None:
    steps = [a.mean(0) for a, _ in plain.attention]
    close(plain.scores("rollout")[0], plain.row(plain.rolled(steps, normalise=True)))
    assert float(plain.scores("rollout").sum()) == pytest.approx(1.0, rel=1e-5)


def test_gradients(plain: Plain) -> None:
    close(plain.scores("gradients")[0], plain.row(plain.attention[-1][1].mean(0)))


def test_attention_gradients(plain: Plain) -> None:
    expected = torch.stack([plain.row((a * g).mean(0)) for a, g in plain.attention])
    close(plain.scores("attention_gradients"), expected)


def test_attention_gradcam(plain: Plain) -> None:
    attention, gradient = plain.attention[-1]
    expected = plain.row(
        sum(g.mean() * a for a, g in zip(attention, gradient, strict=True)).clamp(min=0) / len(attention)
    )
    close(plain.scores("attention_gradcam")[0], expected, 1e-4)


def test_genatt(plain: Plain) -> None:
    relevance = torch.eye(len(plain.hidden[0][0])).double()
    for a, g in plain.attention:
        relevance = relevance + (a * g).clamp(min=0).mean(0).double() @ relevance
    close(plain.scores("genatt")[0], plain.row(relevance - torch.eye(len(relevance))), 1e-4)


def test_tokentm(plain: Plain) -> None:
    states = [h for h, _ in plain.hidden] + [last_state(plain)]
    relevance = torch.diag(states[0].norm(dim=-1)).double()
    for block, (a, g) in enumerate(plain.attention):
        before, after = states[block], states[block + 1]
        correlation = torch.tensor(
            [float(torch.dot(x, y) / x.norm() / y.norm()) for x, y in zip(before, after, strict=True)]
        ).exp()
        weight = after.norm(dim=-1) / before.norm(dim=-1) * correlation / correlation.mean()
        relevance = relevance + ((a * g).clamp(min=0).mean(0) @ torch.diag(weight)).double() @ relevance
    close(plain.scores("tokentm")[0], plain.row(relevance - torch.diag(states[0].norm(dim=-1))), 1e-4)


def last_state(plain: Plain) -> Tensor:
    found: list[Tensor] = []
    hook = plain.adapter.blocks[-1].register_forward_hook(
        lambda module, args, output: found.append(output if isinstance(output, Tensor) else output[0])
    )
    with torch.no_grad():
        plain.adapter.call(plain.encoding)
    hook.remove()
    return found[0][0]


def test_input_x_gradient(plain: Plain) -> None:
    hidden, gradient = plain.hidden[0]
    close(plain.scores("input_x_gradient")[0], (hidden * gradient).sum(-1))


def test_fullgrad_plus(plain: Plain) -> None:
    """Of every module behind the first block's input its bias times the gradient at what it gives, seen by hooks.

    A GELU that is written out, x / 2 (1 + tanh ...), has the bias 1.
    """
    found: list[tuple[Tensor, Tensor]] = []

    def keep(module: nn.Module, args: tuple[Tensor, ...], output: object) -> None:
        if isinstance(output, Tensor) and output.requires_grad:
            output.retain_grad()
            found.append((args[0] / 2 if type(module) is NewGELUActivation else module.bias, output))

    undo = [
        module.register_forward_hook(keep)
        for name, module in plain.model.named_modules()
        if (isinstance(getattr(module, "bias", None), Tensor) and "embed" not in name)
        or type(module) is NewGELUActivation
    ]
    hidden, _, output = eager_forward(plain.model, plain.arguments)
    for state in hidden:
        state.retain_grad()
    getattr(output, "logits", output)[0, TARGET].backward()
    for hook in undo:
        hook.remove()
    expected = sum((h.detach()[0] * h.grad[0]).sum(-1) for h in hidden)
    for bias, given in found:
        shares = (bias.detach() * given.grad).sum(-1).flatten() if given.grad is not None else torch.zeros(1)
        expected = expected + (shares if len(shares) == len(expected) else shares.sum() / len(expected))
    assert len(found) > 2 * len(plain.hidden)
    close(plain.scores("fullgrad_plus", rule="plain")[0], expected, 1e-4)


def test_the_states_of_fullgrad_plus_are_those_that_were_asked_for() -> None:
    """What blocks return in place of what they take changes it as much as CAT: the biases are the same."""
    explain, arguments = attcat.Explainer(FAMILIES["bert"].model(), method="cat"), FAMILIES["bert"].arguments(2)

    def moved(name: str) -> Tensor:
        own = explain.like(method=name)
        pairs = zip(own.like(hidden="output")(arguments, [0, 0]), own(arguments, [0, 0]), strict=True)
        return torch.cat([after.scores - before.scores for after, before in pairs])

    close(moved("fullgrad_plus"), moved("cat"), 1e-4)
    assert moved("cat").any()


def test_under_libra_the_first_block_and_the_biases_of_fullgrad_plus_make_up_the_logit(plain: Plain) -> None:
    one, several = (plain.scores(name, rule="libra") for name in ("cat", "fullgrad_plus"))
    with torch.no_grad():
        logit = float(plain.adapter.predict(plain.encoding)[1][0, TARGET])
    assert float(several.sum() - one[1:].sum()) == pytest.approx(logit, rel=1e-4, abs=1e-5)


def draws(plain: Plain, seed: int = 0) -> torch.Generator:
    return Passes(plain.adapter, plain.encoding, None).generator(0, seed)


def test_smoothgrad(plain: Plain) -> None:
    state = plain.hidden[0][0]
    close(plain.scores("smoothgrad", noise=0.0), plain.scores("input_x_gradient"), 1e-4)
    moves = 0.3 * state.std() * torch.randn(2, *state.shape, generator=draws(plain))
    gradients = []
    for move in (sign * move for move in moves for sign in (1, -1)):
        moved = (state + move)[None].requires_grad_()

        def put(module: nn.Module, args: tuple, kwargs: dict, moved: Tensor = moved) -> tuple:
            return ((moved, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": moved})

        hook = plain.adapter.blocks[0].register_forward_pre_hook(put, with_kwargs=True)
        value = plain.adapter.predict(plain.encoding)[1][0, TARGET]
        hook.remove()
        gradients.append(torch.autograd.grad(value, moved)[0][0])
    expected = (state * torch.stack(gradients).mean(0)).sum(-1)
    close(plain.scores("smoothgrad", noise=0.3, samples=4)[0], expected, 1e-3)


def worth(plain: Plain, kept: Tensor) -> float:
    """The logit of the input with only these of its content tokens."""
    content = content_of(plain.encoding)
    removed = content.clone()
    removed[0, content[0].nonzero()[:, 0][kept]] = False
    encoding = plain.adapter.remove(plain.encoding, removed) if removed.any() else plain.encoding
    with torch.no_grad():
        return float(plain.adapter.predict(encoding)[1][0, TARGET])


def test_rise(plain: Plain) -> None:
    content = content_of(plain.encoding)[0]
    for samples, batch in ((12, 8), (3, 1), (1, 8)):
        masks = torch.rand(samples, plain.encoding.mask.shape[1], generator=draws(plain)) < 0.6
        expected = sum(worth(plain, mask[content]) * (mask & content).float() for mask in masks) / (samples * 0.6)
        close(plain.scores("rise", samples=samples, keep=0.6, batch=batch)[0], expected, 1e-3)


def shapley(plain: Plain) -> Tensor:
    """By their definition: the mean over all orders of what a token adds to those before it."""
    count = int(content_of(plain.encoding).sum())
    every = {
        kept: worth(plain, torch.tensor(kept, dtype=torch.bool))
        for kept in itertools.product((False, True), repeat=count)
    }
    values = torch.zeros(count)
    for kept, value in every.items():
        size = sum(kept)
        for token in range(count):
            if not kept[token]:
                weight = math.factorial(size) * math.factorial(count - size - 1) / math.factorial(count)
                values[token] += weight * (every[(*kept[:token], True, *kept[token + 1 :])] - value)
    return values


@pytest.mark.parametrize("name", ["bert", "vit"])
def test_kernel_shap_comes_close_to_shapley_values(name: str) -> None:
    plain = Plain(name)
    content, expected = content_of(plain.encoding)[0], shapley(plain)
    before = torch.random.get_rng_state()
    found = plain.scores("kernel_shap", samples=400)[0]
    assert torch.equal(torch.random.get_rng_state(), before)  # the user's
    assert not found[~content].any()
    assert float(found.sum()) == pytest.approx(float(expected.sum()), rel=1e-3, abs=1e-6)
    assert float((found[content] - expected).abs().max()) < 0.1 * float(expected.abs().max())
    assert not torch.equal(
        plain.scores("kernel_shap", samples=20)[0], plain.scores("kernel_shap", samples=20, seed=1)[0]
    )


def test_kernel_shap_gives_all_to_the_only_token_and_nothing_to_none() -> None:
    explain = attcat.Explainer(*embedded.sentiment(), method="kernel_shap")
    alone, occluded = explain("boring"), attcat.Explainer(*embedded.sentiment(), method="occlusion")("boring")
    assert len(alone.words()) == 1
    torch.testing.assert_close(alone.scores, occluded.scores)


@pytest.mark.parametrize(
    ("method", "options"),
    [
        ("smoothgrad", {"samples": 3}),
        ("smoothgrad", {"samples": 0}),
        ("smoothgrad", {"noise": -1.0}),
        ("rise", {"samples": 0}),
        ("rise", {"keep": 1.0}),
        ("kernel_shap", {"samples": 2}),
        ("kernel_shap", {"batch": 0}),
    ],
)
def test_options_of_sampling_that_make_no_sense_are_refused(method: str, options: dict[str, float]) -> None:
    family = FAMILIES["bert"]
    with pytest.raises(attcat.OptionError, match=r"expected"):
        attcat.Explainer(family.model(), None, method=method, **options)(family.arguments(1))


def test_contrast_cat(plain: Plain) -> None:
    others = [plain.family.row(plain.family.arguments(2, seed=seed), 0) for seed in (5, 6)]
    expected = []
    for arguments in others:
        reference, _, _ = eager_forward(plain.model, arguments)
        layers = []
        for (hidden, gradient), received, other in zip(plain.hidden, plain.received, reference, strict=True):
            r = torch.zeros_like(hidden)
            length = min(len(r), other.shape[1])
            r[:length] = other.detach()[0, :length]
            layers.append(received * (gradient * (hidden - r)).sum(-1))
        expected.append(torch.stack(layers))
    close(plain.scores("contrast_cat", rule="plain", references=others), torch.stack(expected).mean(0), 1e-4)


def test_contrast_cat_can_select_references(plain: Plain) -> None:
    """Those whose map, with the better half of the content removed, makes the value fall furthest."""
    others = [plain.family.row(plain.family.arguments(2, seed=seed), 0) for seed in (5, 6, 7)]
    each = [plain.scores("contrast_cat", references=[other]) for other in others]
    one = plain.scores("contrast_cat", references=others, select=1 / 3)
    content = content_of(plain.encoding)[0].nonzero()[:, 0].tolist()
    after = []
    for layers in each:
        scores, removed = layers.sum(0), torch.zeros_like(plain.encoding.mask)
        removed[0, sorted(content, key=lambda at: -float(scores[at]))[: -(-len(content) // 2)]] = True
        with torch.no_grad():
            after.append(float(plain.adapter.predict(plain.adapter.remove(plain.encoding, removed))[1][0, TARGET]))
    best = [
        layers for layers, value in zip(each, after, strict=True) if value <= min(after) + 1e-5
    ]  # ties are all kept
    kept = [torch.stack(some).mean(0) for size in range(1, len(best) + 1) for some in combinations(best, size)]
    assert min(float((one - mean).abs().max() / mean.abs().max()) for mean in kept) < 1e-4
    everything = plain.scores("contrast_cat", references=others, select=1.0)
    close(everything, torch.stack(each).mean(0), 1e-4)


def test_occlusion(plain: Plain) -> None:
    def value(arguments: dict[str, Tensor]) -> float:
        with torch.no_grad():
            return float(plain.adapter.predict(plain.adapter.encode_arguments(arguments))[1][0, TARGET])

    before, expected = value(plain.arguments), []
    tokens = plain.encoding.tokens[0]
    patch = 0
    for position, special in enumerate(tokens.special):
        changed = {name: tensor.clone() for name, tensor in plain.arguments.items()}
        if special:
            expected.append(0.0)
            continue
        if plain.family.text:
            changed["input_ids"][0, position] = plain.adapter.blank_token
        else:
            row, column = divmod(patch, tokens.grid[1])
            changed["pixel_values"][0, :, 8 * row : 8 * row + 8, 8 * column : 8 * column + 8] = 0
            patch += 1
        expected.append(before - value(changed))
    close(plain.scores("occlusion")[0], torch.tensor(expected), 1e-3)
    if plain.family.text:
        close(plain.scores("occlusion", batch=1)[0], torch.tensor(expected), 1e-3)


def test_integrated_gradients(plain: Plain) -> None:
    """The same integral, by Gauss-Legendre points from numpy, which are the rows of one batch."""
    start, end = plain.adapter.blocks[0], plain.hidden[0][0]
    blank = {**plain.arguments}
    name = "input_ids" if plain.family.text else "pixel_values"
    blank[name] = plain.adapter.remove(plain.encoding).arguments[name]
    reference = eager_forward(plain.model, blank)[0][0].detach()[0]
    points, weights = (torch.tensor(given, dtype=torch.float32) / 2 for given in np.polynomial.legendre.leggauss(50))
    state = (reference + (points + 0.5)[:, None, None] * (end - reference)).requires_grad_()

    def put(module: nn.Module, args: tuple, kwargs: dict) -> tuple:
        return ((state, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": state})

    rows = {name: value.expand(len(points), *value.shape[1:]) for name, value in plain.arguments.items()}
    hook = start.register_forward_pre_hook(put, with_kwargs=True)
    logits = plain.adapter.predict(plain.adapter.encode_arguments(rows))[1][:, TARGET]
    hook.remove()
    total = torch.einsum("n,ntd->td", weights, torch.autograd.grad(logits.sum(), state)[0])
    explanation = plain.explained("integrated_gradients")
    close(explanation.layers[0], (total * (end - reference)).sum(-1), 1e-3)
    assert abs(explanation.measured["convergence_delta"]) < 0.02


def test_random(plain: Plain) -> None:
    scores = plain.scores("random")
    assert torch.equal(scores, plain.scores("random"))
    assert not torch.equal(scores, plain.scores("random", seed=1))
    assert 0 <= float(scores.min()) < float(scores.max()) < 1


def test_legrad(plain: Plain) -> None:
    name = plain.family.name
    model = copy.deepcopy(plain.model)
    body = getattr(model, "timm_model", model)
    registers = {"dinov2": 0, "dinov2-swiglu": 0, "dinov2-registers": 2}
    heads = {
        "bert": lambda state: model.classifier(model.bert.pooler(state)),
        "distilbert": lambda state: model.classifier(model.pre_classifier(state[:, 0]).relu()),
        "roberta": lambda state: model.classifier(state),
        "gpt2": lambda state: model.score(model.transformer.ln_f(state))[:, -1],
        "vit": lambda state: model.classifier(model.vit.layernorm(state)[:, 0]),
        "deit": lambda state: model.classifier(model.deit.layernorm(state)[:, 0]),
        "deit-teacher": lambda state: teacher(model, model.deit.layernorm(state)),
        **{
            n: lambda state, r=r: model.classifier(features(model.base_model.layernorm(state), r))
            for n, r in registers.items()
        },
    }
    head = heads.get(name, lambda state: body.forward_head(body.norm(state)))
    close(plain.scores("legrad"), legrad(model, plain, head))


def teacher(model: nn.Module, state: Tensor) -> Tensor:
    return (model.cls_classifier(state[:, 0]) + model.distillation_classifier(state[:, 1])) / 2


def features(state: Tensor, registers: int) -> Tensor:
    return torch.cat([state[:, 0], state[:, 1 + registers :].mean(1)], dim=1)


def legrad(model: nn.Module, plain: Plain, head) -> Tensor:
    """The head on every block's output, and the gradient of what it says with respect to that block's attention."""
    hidden, attention = eager_forward_of(model, plain.arguments)
    outputs, found = hidden[1:], []
    for state, a in zip(outputs, attention, strict=True):
        (gradient,) = torch.autograd.grad(head(state)[0, TARGET], a, retain_graph=True)
        found.append(gradient[0].clamp(min=0).mean((0, 1)) / len(attention))
    return torch.stack(found)


def eager_forward_of(model: nn.Module, arguments: dict[str, Tensor]) -> tuple[list[Tensor], list[Tensor]]:
    """Block inputs and the last output, and attention matrices: in one graph."""
    body = getattr(model, "timm_model", model)
    states: list[Tensor] = []
    if hasattr(body, "config"):
        body = eager_twin(body)
    blocks = attcat.Explainer(body, None).adapter.blocks
    hooks = [
        block.register_forward_hook(
            lambda m, a, out: states.append(out if isinstance(out, Tensor) else next(o for o in out if o.dim() == 3))
        )
        for block in blocks
    ]
    if hasattr(body, "config"):
        attention = list(body(**arguments, output_attentions=True).attentions)
    else:
        attention = []
        for block in blocks:
            block.attn.fused_attn = False
            hooks.append(block.attn.attn_drop.register_forward_hook(lambda m, a, o: attention.append(o)))
        body(arguments["pixel_values"])
    for hook in hooks:
        hook.remove()
    return [states[0], *states], attention


# -- relevance -------------------------------------------------------------------------------------------------------


def test_relevance_is_conserved_down_to_the_embeddings(plain: Plain) -> None:
    """Linear layers, sums, products, softmax and normalisations pass on what they get: the total stays 1."""
    assert float(plain.scores("lrp").sum()) == pytest.approx(1.0, rel=2e-2)


def test_relevance_methods_agree_with_a_slow_walk_over_the_graph(plain: Plain) -> None:
    relevance, matrices = plain.graph.propagate(chefer)
    matrices = [matrix[0].float() for matrix in matrices]
    assert len(matrices) == len(plain.hidden)
    close(plain.scores("lrp")[0], relevance[0].sum(-1).float(), 1e-3)
    close(plain.scores("partial_lrp")[0], plain.row(matrices[-1].clamp(min=0).mean(0)), 1e-3)
    steps = [(g * r).clamp(min=0).mean(0) for (_, g), r in zip(plain.attention, matrices, strict=True)]
    close(plain.scores("transatt")[0], plain.row(plain.rolled(steps) - torch.eye(len(steps[0]))), 1e-3)


def test_attnlrp_agrees_with_a_slow_walk_over_the_graph(plain: Plain) -> None:
    relevance, _ = plain.graph.propagate(attnlrp)
    close(plain.scores("attnlrp")[0], relevance[0].sum(-1).float(), 1e-3)


# -- the registry ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in METHODS if name != "tam"])  # of language models: tests/test_tam.py
def test_every_method_says_what_is_true_of_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    method = METHODS[name]
    options = (
        {"references": [FAMILIES["bert"].row(FAMILIES["bert"].arguments(2, seed=9), 0)]}
        if name == "contrast_cat"
        else {}
    )
    model = FAMILIES["bert"].model(seed=SEED)
    explain = attcat.Explainer(model, None, method=name, **options)
    batch = FAMILIES["bert"].arguments(2)
    backwards, grad = [], torch.autograd.grad
    monkeypatch.setattr(torch.autograd, "grad", lambda *given, **more: backwards.append(1) or grad(*given, **more))
    first, second = explain(batch, [0, 0]), explain(batch, [1, 1])
    at_output = explain.like(hidden="output")(batch, [0, 0])
    differ = [
        any(not torch.allclose(a.layers, b.layers, atol=1e-7) for a, b in zip(first, other, strict=True))
        for other in (second, at_output)
    ]
    assert differ == [method.class_specific, method.states]
    demands = set(method.demands.split(", "))
    assert bool(backwards) == bool(demands & {"gradient", "relevance"})
    if not method.signed:
        assert all(float(e.layers.min()) >= 0 for e in (*first, *second))
    assert all(torch.equal(e.scores, e.layers.sum(0)) for e in first)
    assert name == "random" or method.paper
    assert explain.settings.options.get("rule") == method.rule


def test_the_page_says_of_every_method_what_the_registry_says() -> None:
    page = (Path(__file__).parents[1] / "docs" / "methods.md").read_text(encoding="utf-8")
    table = page.partition("<!-- table")[2].partition("<!-- end of the table")[0]
    yes = {True: "yes", False: "no"}
    expected = [
        [
            f"`{name}`" + f" ({m.rule})" * bool(m.rule),
            m.paper or "-",
            m.demands,
            yes[m.signed],
            yes[m.class_specific],
            m.passes,
        ]
        for name, m in METHODS.items()
    ]
    rows = [[cell.strip() for cell in line.split("|")[1:7]] for line in table.splitlines() if line.startswith("| `")]
    assert rows == expected


@pytest.mark.parametrize("name", [name for name in METHODS if name != "tam"])
def test_a_method_needs_what_it_says_and_nothing_else(name: str) -> None:
    """Without any one of its needs it fails, or gives something else; and signed methods are negative somewhere."""
    method, family = METHODS[name], FAMILIES["bert"]
    model, arguments = family.model(seed=SEED), family.row(family.arguments(2), 1)
    options = {"references": [family.row(family.arguments(2, seed=9), 0)]} if name == "contrast_cat" else {}
    every = attcat.Explainer(model, None, method=name, **options)(arguments, "all")
    expected = every[0].layers
    assert any(float(one.layers.min()) < 0 for one in every) == method.signed
    for need in ("gradient", "received", "attention", "relevance", "biases"):
        if not getattr(method.needs, need):
            continue
        without = replace(method, needs=replace(method.needs, **{need: False}))
        try:
            found = attcat.Explainer(model, None, method=without, **options)(arguments, "all")[0].layers
        except Exception:  # what it reads is not there
            continue
        assert found.shape != expected.shape or not torch.allclose(found, expected), need


def test_what_a_name_says() -> None:
    method, rule, options = read_name("oddscat+graded:ranked=true:a=False:b=NONE:samples=2:beta=0.5: removal = mask ")
    assert (method.name, rule) == ("oddscat", "graded")
    assert options == {"ranked": True, "a": False, "b": None, "samples": 2, "beta": 0.5, "removal": "mask"}
    assert type(options["samples"]) is int
    assert read_name("cat") == (METHODS["cat"], None, {})


def test_only_oddscat_asks_what_tokens_see() -> None:
    """Which takes two further passes, once for a model."""
    assert [name for name, method in METHODS.items() if method.needs.order] == ["oddscat"]


@pytest.mark.parametrize("name", [n for n, m in METHODS.items() if m.rule and not m.fixed])
@pytest.mark.parametrize("family", ["bert", "timm-vit"])
def test_every_gradient_method_runs_under_both_rules(name: str, family: str) -> None:
    arguments = FAMILIES[family].row(FAMILIES[family].arguments(), 0)
    options = {"references": [arguments]} if name == "contrast_cat" else {}
    model = FAMILIES[family].model(seed=SEED + 3)
    by_rule = [
        attcat.Explainer(model, None, method=f"{name}+{rule}", **options)(arguments, "all")
        for rule in ("plain", "libra")
    ]
    assert [several[0].options["rule"] for several in by_rule] == ["plain", "libra"]
    if name != "contrast_cat":  # against itself the contrast is 0; and one class may have nothing positive to show
        assert any(not torch.allclose(a.scores, b.scores, rtol=1e-3) for a, b in zip(*by_rule, strict=True))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "rollout", "rule": "libra"}, "uses no gradient rule"),
        ({"method": "attnlrp", "rule": "libra"}, "defined by its rule 'attnlrp'"),
        ({"method": "attcat", "steps": 3}, "attcat has no option steps; it has no options of its own"),
        ({"method": "integrated_gradients", "step": 3}, "has no option step; it has steps"),
        ({"method": "attcat+x"}, "no gradient rule 'x'"),
        ({"method": "oddscat:samples"}, "'samples' in 'oddscat:samples' is no option: write it as name=value"),
        ({"method": "oddscat:samples="}, "is no option"),
        ({"method": "oddscat:=8"}, "is no option"),
    ],
)
def test_options_that_do_not_fit(options: dict, message: str) -> None:
    with pytest.raises(attcat.OptionError, match=message):
        attcat.Explainer(FAMILIES["bert"].model(), None, **options)


def test_options_are_checked_when_they_are_used() -> None:
    model, arguments = FAMILIES["bert"].model(), FAMILIES["bert"].row(FAMILIES["bert"].arguments(), 0)
    with pytest.raises(attcat.OptionError, match="steps=0"):
        attcat.Explainer(model, None, method="integrated_gradients", steps=0)(arguments)
    with pytest.raises(attcat.InputError, match="no references"):
        attcat.Explainer(model, None, method="contrast_cat")(arguments)
    with pytest.raises(attcat.OptionError, match="select=2"):
        attcat.Explainer(model, None, method="contrast_cat", references=[arguments], select=2)(arguments)


def test_a_users_own_method() -> None:
    method = attcat.Method(
        "norm", lambda trace: torch.stack([h.norm(dim=-1) for h in trace.hidden]), "this test", rule=None
    )
    attcat.register_method(method)
    try:
        explanation = attcat.Explainer(FAMILIES["bert"].model(), None, method="norm")(FAMILIES["bert"].arguments(1))
        assert float(explanation.scores.min()) > 0
        attcat.register_method(method)  # the same again, as when a notebook's cell is run again
        with pytest.raises(attcat.OptionError, match="already"):
            attcat.register_method(replace(method, paper="another"))
    finally:
        del METHODS["norm"]


@pytest.mark.parametrize("name", [*TEXT, "vit", "timm-vit-avg", "deit-teacher", "dinov2-swiglu", "timm-deit-distilled"])
def test_completeness_is_measured(name: str) -> None:
    model = FAMILIES[name].model().double()
    arguments = FAMILIES[name].arguments(2)
    for rule, gap in (("libra", 1e-6), ("plain", None)):
        explain = attcat.Explainer(model, None, method="input_x_gradient", rule=rule, completeness=True)
        for explanation in explain(arguments, [0, 1]):
            assert explanation.value == pytest.approx(float(explanation.logits[explanation.target]), rel=1e-5)
            if gap is None:
                assert abs(explanation.completeness) > 1e-4
            else:
                assert abs(explanation.completeness) < gap
    assert attcat.Explainer(model, None)(arguments)[0].completeness is None  # not measured


def test_ordinary_gradients_are_ordinary_after_every_method() -> None:
    model = FAMILIES["bert"].model()
    arguments = FAMILIES["bert"].row(FAMILIES["bert"].arguments(), 0)

    def gradient() -> Tensor:
        model.zero_grad()
        model(**arguments).logits[0, 0].backward()
        return model.bert.embeddings.word_embeddings.weight.grad.clone()

    before = gradient()
    for name in set(METHODS) - {"tam"}:
        options = {"references": [arguments]} if name == "contrast_cat" else {}
        attcat.Explainer(model, None, method=name, **options)(arguments)
        assert torch.equal(gradient(), before)
    assert Rule().replacements() == {}

"""The rule between libra and AttnLRP, written a second time: attention with its matrix, products shared by hand."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from reference import eager_twin
from torch import Tensor, nn
from zoo import EVERY, FAMILIES, TEXT

import attcat
from attcat.capture.attention import Call, mix
from attcat.capture.rules import Explicit, Libra, Rule, make_rule, named
from attcat.capture.torch_calls import Interception
from attcat.errors import OptionError
from attcat.trace import record

DOUBLE = torch.double
QUERY, KEY, VALUE = torch.randn(3, 1, 2, 4, 5, dtype=DOUBLE, generator=torch.Generator().manual_seed(0))


def halved(a: Tensor, b: Tensor) -> Tensor:
    return 0.5 * (a @ b.detach() + a.detach() @ b)


def shared(weights: Tensor, value: Tensor, beta: float) -> Tensor:
    """a v, with 1 - beta/2 of the gradient for v and beta/2 for a."""
    return (1 - beta / 2) * (weights.detach() @ value) + beta / 2 * (weights @ value.detach())


def slow(x: Tensor, beta: float) -> Tensor:
    weights = halved((QUERY + x) / math.sqrt(5), (KEY + x).transpose(-2, -1)).softmax(-1)
    return shared(weights, VALUE + x, beta)


def fused(x: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(QUERY + x, KEY + x, VALUE + x)


def eager(x: Tensor) -> Tensor:
    weights = F.softmax((QUERY + x) / math.sqrt(5) @ (KEY + x).transpose(-2, -1), dim=-1)
    return weights @ (VALUE + x)


def eager_and_flat(x: Tensor) -> Tensor:
    """With what lies between softmax and its product in old models: casts, dropout, batches of matrices."""
    products = torch.bmm(((QUERY + x) / math.sqrt(5)).flatten(0, 1), (KEY + x).flatten(0, 1).transpose(-2, -1))
    weights = products.view(1, 2, 4, 4).softmax(-1).to(torch.float64)
    weights = F.dropout(weights, 0.5, training=False).view(2, 4, 4)
    return torch.bmm(weights, (VALUE + x).flatten(0, 1)).view(1, 2, 4, 5)


def gradient(function, rule: Rule | None) -> tuple[Tensor, Tensor]:
    x = torch.randn(1, 2, 4, 5, dtype=DOUBLE, generator=torch.Generator().manual_seed(2)).requires_grad_()
    if rule is None:
        value = function(x)
    else:
        with Interception(rule, []):
            value = function(x)
    start = torch.randn(value.shape, generator=torch.Generator().manual_seed(1), dtype=DOUBLE)
    return value.detach(), torch.autograd.grad(value, x, start)[0]


@pytest.mark.parametrize("beta", [0.0, 0.3, 0.75, 1.0])
@pytest.mark.parametrize("function", [fused, eager, eager_and_flat])
def test_graded_is_the_slow_rule(function, beta: float) -> None:
    value, expected = gradient(lambda x: slow(x, beta), None)
    found = gradient(function, make_rule("graded", beta=beta))
    torch.testing.assert_close(found[0], value)
    torch.testing.assert_close(found[1], expected)
    if beta in (0, 1):
        torch.testing.assert_close(gradient(function, make_rule("libra" if beta == 0 else "attnlrp"))[1], found[1])
    else:
        other = gradient(function, make_rule("graded", beta=beta + 0.1))[1]
        assert (other - found[1]).abs().max() > 1e-3


def test_values_are_those_of_the_kernel() -> None:
    query, key, value = torch.randn(3, 2, 4, 9, 8, generator=torch.Generator().manual_seed(3))
    expected = F.scaled_dot_product_attention(query, key, value)
    leaves = [x.clone().requires_grad_() for x in (query, key, value)]
    with Interception(make_rule("graded"), []):
        found = F.scaled_dot_product_attention(*leaves)
    assert torch.equal(found, F.scaled_dot_product_attention(*leaves))  # the same kernel, which gradients may change
    torch.testing.assert_close(found, expected)


def test_what_softmax_takes_is_what_is_missing() -> None:
    """At q, k and v together: g.o is explained in full at beta 0; at beta, beta/2 (g.D - g.o) is added, D = sum a (s - <s>) v."""
    leaves = [x.clone().requires_grad_() for x in (QUERY, KEY, VALUE)]
    g = torch.randn(1, 2, 4, 5, dtype=DOUBLE, generator=torch.Generator().manual_seed(4))
    products = QUERY @ KEY.transpose(-2, -1) / math.sqrt(5)
    weights = products.softmax(-1)
    output = weights @ VALUE
    change = (weights * (products - (weights * products).sum(-1, keepdim=True))) @ VALUE
    for beta in (0.0, 0.4, 1.0):
        with Interception(make_rule("graded", beta=beta), []):
            result = F.scaled_dot_product_attention(*leaves)
        found = torch.autograd.grad(result, leaves, g, allow_unused=True)
        total = sum(float((x.detach() * d).sum()) for x, d in zip(leaves, found, strict=True) if d is not None)
        # Queries and keys each find D in the product that they share.
        expected = (1 - beta / 2) * (g * output).sum() + beta / 2 * (g * change).sum()
        assert total == pytest.approx(float(expected), rel=1e-9)


class WithMatrix(Libra, Explicit):
    """The same rule with the attention matrix in the graph; at beta 1 it is AttnLRP as the paper gives it."""

    def __init__(self, beta: float) -> None:
        super().__init__()
        self.beta = beta

    def replacements(self):
        return {f: replacement for f, replacement in super().replacements().items() if f not in named("softmax")}

    def attend(self, call: Call, value: Tensor) -> tuple[Tensor, Tensor]:
        weights = call.weights(product=halved)
        return mix(weights, value, product=lambda a, b: shared(a, b, self.beta)), weights


def gradients(model: nn.Module, arguments: dict[str, Tensor], rule: Rule) -> tuple[Tensor, ...]:
    adapter = attcat.Explainer(model, None).adapter
    recording = record(adapter, adapter.encode_arguments(arguments), rule)
    return recording.trace(recording.logits[:, 1]).gradient


@pytest.mark.parametrize("name", EVERY)
def test_every_family_agrees_with_the_matrix_in_the_graph(name: str) -> None:
    model, arguments = FAMILIES[name].model().double(), FAMILIES[name].arguments()
    arguments = {n: v.double() if v.is_floating_point() else v for n, v in arguments.items()}
    real = arguments["attention_mask"].bool() if FAMILIES[name].text else torch.ones(2, 1, dtype=torch.bool)
    for beta, rule in ((0.3, make_rule("graded", beta=0.3)), (1.0, make_rule("attnlrp"))):
        expected = gradients(model, arguments, WithMatrix(beta))
        for a, b in zip(gradients(model, arguments, rule), expected, strict=True):
            assert float(((a - b) * real[..., None]).abs().max()) <= 1e-9 * float(b.abs().max())


@pytest.mark.parametrize("name", [*TEXT, "vit", "dinov2-swiglu"])
def test_eager_models_agree_with_fused_ones(name: str) -> None:
    model, arguments = FAMILIES[name].model().double(), FAMILIES[name].row(FAMILIES[name].arguments(), 0)
    arguments = {n: v.double() if v.is_floating_point() else v for n, v in arguments.items()}
    for method in ("cat+graded:beta=0.3", "cat+attnlrp", "attention_gradients+graded", "attention_gradients+libra"):
        expected = attcat.Explainer(model, None, method=method)(arguments, 1).layers
        found = attcat.Explainer(eager_twin(model), None, method=method)(arguments, 1).layers
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6 * float(expected.abs().max()))


def test_no_attention_matrix_is_kept() -> None:
    length, kept = 600, []
    x = torch.randn(1, 2, length, 8, requires_grad=True)

    def note(tensor: Tensor) -> Tensor:
        kept.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor), Interception(make_rule("graded"), []):
        F.scaled_dot_product_attention(x, x, x)
    assert kept
    assert max(kept) < length * length


def test_beta_is_an_option_of_the_rule() -> None:
    model, arguments = FAMILIES["bert"].model(), FAMILIES["bert"].row(FAMILIES["bert"].arguments(), 0)
    by_argument = attcat.Explainer(model, method="cat", rule="graded", beta=0.5)(arguments, 1)
    by_name = attcat.Explainer(model, method="cat+graded:beta=0.5")(arguments, 1)
    assert by_argument.options == by_name.options == {"rule": "graded", "beta": 0.5, "hidden": "input"}
    assert torch.equal(by_argument.scores, by_name.scores)
    assert attcat.Explainer(model, method="cat", rule="graded").settings.options["beta"] == 0.75
    libra = attcat.Explainer(model, method="cat", rule="libra")(arguments, 1)
    assert torch.equal(attcat.Explainer(model, method="cat+graded:beta=0")(arguments, 1).scores, libra.scores)
    assert not torch.allclose(by_name.scores, libra.scores, rtol=1e-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "cat", "rule": "graded", "beta": 1.5}, "beta=1.5, expected a number from 0"),
        ({"method": "cat+libra", "beta": 0.5}, "cat has no option beta"),
        ({"method": "cat+graded:beta=0.5", "beta": 0.25}, "beta=0.25 differ"),
        ({"method": "cat+graded:beta"}, "'beta' in 'cat.graded:beta' is no option: write it as name=value"),
        ({"method": "oddscat:hidden=output", "hidden": "x"}, "hidden='x' differ"),
        ({"method": "cat:hidden=x"}, "hidden='x' is not one of input, output"),
    ],
)
def test_what_does_not_fit_is_refused(options: dict, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        attcat.Explainer(FAMILIES["bert"].model(), None, **options)
    with pytest.raises(OptionError, match="the rule libra has no option beta; it has none"):
        make_rule("libra", beta=0.5)


def test_completeness_says_what_softmax_took() -> None:
    """Scores and biases add up to the logit at beta 0, and no longer do when softmax is differentiated."""
    model, arguments = FAMILIES["bert"].model().double(), FAMILIES["bert"].row(FAMILIES["bert"].arguments(), 0)

    def gap(beta: float) -> float:
        method = f"input_x_gradient+graded:beta={beta}"
        return attcat.Explainer(model, method=method, completeness=True)(arguments, 1).completeness

    assert abs(gap(0.0)) < 1e-5
    assert abs(gap(0.75)) > 1e-3


def test_of_log_odds_the_entropy_of_the_others_is_missing() -> None:
    model, arguments = FAMILIES["bert"].model().double(), FAMILIES["bert"].row(FAMILIES["bert"].arguments(), 0)
    method = "input_x_gradient+libra:quantity=log-odds"
    explanation = attcat.Explainer(model, method=method, completeness=True)(arguments, 1)
    others = explanation.logits[[0, 2]].double().softmax(0)
    entropy = -float((others * others.log()).sum())
    assert explanation.completeness == pytest.approx(-entropy, abs=1e-5)

"""OddsCAT and the quantity that is explained, against plain loops."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tasks_zoo import TASKS
from torch import Tensor
from zoo import EVERY, FAMILIES

import attcat
from attcat.errors import InputError, OptionError
from attcat.methods.odds import _best
from attcat.probabilities import quantity

ONE_PASS = "cat+graded:quantity=log-odds"
BACKWARDS = f"{ONE_PASS}:beta=0.25"
"""The same where tokens see only those before them."""


# -- the quantity ----------------------------------------------------------------------------------------------------


def test_quantities_are_what_they_are_called() -> None:
    logits, classes = torch.tensor([[1.0, 2.0, 4.0], [0.5, -1.0, 3.0]], dtype=torch.double), torch.tensor([1, 2])
    p = logits.softmax(-1)[torch.arange(2), classes]
    y = logits[torch.arange(2), classes]

    def value(which: str, activation: str = "softmax") -> Tensor:
        return quantity(logits, classes, which, activation)

    torch.testing.assert_close(value("logit"), y)
    torch.testing.assert_close(value("log-odds"), (p / (1 - p)).log())
    torch.testing.assert_close(value("probability"), p)
    torch.testing.assert_close(value("log-probability"), p.log())
    torch.testing.assert_close(value("log-odds", "sigmoid"), y)
    torch.testing.assert_close(value("probability", "sigmoid"), y.sigmoid())
    torch.testing.assert_close(value("log-odds", "none"), y)
    with pytest.raises(InputError, match="measured values, which have no probability"):
        value("probability", "none")
    with pytest.raises(OptionError, match="quantity='odds' is not one of logit, log-odds"):
        value("odds")
    with pytest.raises(OptionError, match="quantity='odds' is not one of"):
        attcat.Explainer(FAMILIES["bert"].model(), quantity="odds")


def test_log_odds_are_finite_where_others_are_ruled_out() -> None:
    logits = torch.tensor([[1.0, -torch.inf, 3.0]], requires_grad=True)
    value = quantity(logits, torch.tensor([0]), "log-odds", "softmax")
    value.sum().backward()
    torch.testing.assert_close(value.detach(), torch.tensor([-2.0]))
    torch.testing.assert_close(logits.grad, torch.tensor([[1.0, 0.0, -1.0]]))


@pytest.mark.parametrize("which", ["log-odds", "probability", "log-probability"])
def test_the_quantity_is_explained(which: str) -> None:
    """The same as a function of the model's output that computes it by itself."""
    family = FAMILIES["vit"]
    arguments = family.row(family.arguments(), 0)

    def function(output) -> Tensor:
        p = output.logits.softmax(-1)[:, 2]
        return {"log-odds": (p / (1 - p)).log(), "probability": p, "log-probability": p.log()}[which]

    expected = attcat.Explainer(family.model(), method="cat")(arguments, function)
    found = attcat.Explainer(family.model(), method="cat", quantity=which)(arguments, 2)
    torch.testing.assert_close(found.layers, expected.layers, rtol=1e-4, atol=1e-6)
    assert found.value == pytest.approx(expected.value, rel=1e-5)
    assert found.options["quantity"] == which
    assert f"quantity={which}" in found.recipe


def test_published_methods_explain_the_logit_and_contrasts_stay() -> None:
    family = FAMILIES["bert"]
    model, arguments = family.model(), family.row(family.arguments(), 0)
    explanation = attcat.Explainer(model, method="attcat")(arguments, 1)
    assert explanation.value == pytest.approx(float(explanation.logits[1]))
    assert all(method.quantity == "logit" for name, method in attcat.METHODS.items() if name != "oddscat")
    contrast = attcat.Explainer(model, method="cat+libra")(arguments, (1, 0))
    of_odds = attcat.Explainer(model, method="cat+libra", quantity="log-odds")(arguments, (1, 0))
    torch.testing.assert_close(of_odds.scores, contrast.scores)
    assert of_odds.value == pytest.approx(contrast.value)
    assert of_odds.options == contrast.options  # nothing was explained in odds
    function = attcat.Explainer(model, method="cat+libra", quantity="log-odds")(
        arguments, lambda output: output.logits[:, 1]
    )
    assert "quantity" not in function.options


def test_a_regression_explains_its_value() -> None:
    import transformers

    torch.manual_seed(0)
    config = transformers.BertConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16, vocab_size=100, num_labels=1
    )
    model = transformers.BertForSequenceClassification(config).eval()
    arguments = {"input_ids": torch.tensor([[5, 6, 7, 8]])}
    odds, logit = (
        attcat.Explainer(model, method="cat", quantity=which)(arguments, 0) for which in ("log-odds", "logit")
    )
    assert torch.equal(odds.scores, logit.scores)
    with pytest.raises(InputError, match="no probability"):
        attcat.Explainer(model, quantity="probability")(arguments, 0)


# -- the method ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", EVERY)
def test_without_copies_it_is_one_pass(name: str) -> None:
    family = FAMILIES[name]
    model, batch = family.model(), family.arguments()
    for found, expected in zip(
        attcat.Explainer(model, method="oddscat")(batch, [1, 1]),
        attcat.Explainer(model, method=BACKWARDS if name == "gpt2" else ONE_PASS)(batch, [1, 1]),
        strict=True,
    ):
        assert torch.equal(found.layers, counted(name, expected.layers))


def counted(name: str, layers: Tensor) -> Tensor:
    """Of a model whose tokens see only those before them the first third of the three blocks; else the l-th of L blocks by
    1 - (l / L)^2."""
    if name == "gpt2":
        return torch.cat([layers[:1], torch.zeros_like(layers[1:])])
    return torch.stack([block * (1 - (depth / len(layers)) ** 2) for depth, block in enumerate(layers)])


def test_all_blocks_count_once_on_demand() -> None:
    family = FAMILIES["bert"]
    arguments = family.row(family.arguments(), 0)
    found, expected = (
        attcat.Explainer(family.model(), method=method)(arguments, 1) for method in ("oddscat:blocks=all", ONE_PASS)
    )
    assert torch.equal(found.layers, expected.layers)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Tensor]:
    """What is removed first of each pair, as the method draws it."""
    halves: list[Tensor] = []

    def noted(scores: Tensor, content: Tensor, share: float) -> Tensor:
        halves.append(_best(scores, content, share))
        assert int(halves[-1].sum()) == int(content.sum() * share + 1e-6)
        return halves[-1]

    monkeypatch.setattr("attcat.methods.odds._best", noted)
    return halves


def by_hand(name: str, removed: list[Tensor], removal: str | None) -> Tensor:
    """The mean over the input and its copies, one at a time, from changed model arguments."""
    family = FAMILIES[name]
    arguments = family.row(family.arguments(), 0)
    explain = attcat.Explainer(family.model(), method=BACKWARDS if name == "gpt2" else ONE_PASS)
    encoding = explain.adapter.encode_arguments(arguments)
    total, count = counted(name, explain(arguments, 1).layers).clone(), torch.ones(len(encoding.tokens[0]))
    removal = "delete" if removal is None and name == "gpt2" else removal  # copies of such a model are shorter texts
    for gone in removed:
        changed = explain.adapter.remove(encoding, gone, removal).arguments
        found = counted(name, explain(dict(changed), 1).layers)
        kept = ~gone[0]
        total[:, kept] += found if removal == "delete" else found[:, kept]
        count += kept
    return total / count


@pytest.mark.parametrize(
    ("name", "removal"),
    [
        ("bert", None),
        ("bert", "delete"),
        ("gpt2", "mask"),
        ("gpt2", None),
        ("timm-deit-distilled", "mean"),
        ("dinov2", None),
    ],
)
@pytest.mark.parametrize(
    "options",
    [
        {"samples": 4, "copies": "random"},
        {"samples": 2, "copies": "ranked"},
        {"samples": 4, "copies": "ranked"},
        {"samples": 4},
        {"samples": 8},
    ],
)
def test_the_mean_over_copies_is_that_of_a_loop(name: str, removal: str | None, options, drawn: list[Tensor]) -> None:
    family = FAMILIES[name]
    arguments = family.row(family.arguments(), 0)
    explain = attcat.Explainer(family.model(), method="oddscat", removal=removal, **options)
    found = explain(arguments, 1)
    content = ~torch.tensor(found.tokens.special)[None]
    halves = [part for half in drawn for part in (half, content & ~half)]
    assert len(halves) == options["samples"]
    for first, second in zip(halves[::2], halves[1::2], strict=True):  # what one removes, the other keeps
        assert torch.equal(first ^ second, content)
    expected = by_hand(name, halves, removal)
    torch.testing.assert_close(found.layers, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))
    if options.get("copies") == "ranked":
        one = attcat.Explainer(family.model(), method="oddscat")(arguments, 1).scores
        for best, others in zip(halves[::2], halves[1::2], strict=True):
            assert float(one[best[0]].min()) >= float(one[others[0]].max())


@pytest.mark.parametrize("samples", [2, 4, 8, 16])
def test_guided_copies_are_ranked_by_the_input_drawn_and_ranked_by_the_mean(samples: int, drawn: list[Tensor]) -> None:
    """Of eight pairs two each way and four at random, of two one ranked; the random ones are those of the same seed."""
    family = FAMILIES["bert"]
    arguments = family.row(family.arguments(), 0)

    def halves_of(**options: Any) -> list[Tensor]:
        drawn.clear()
        attcat.Explainer(family.model(), method="oddscat", removal="mask", **options)(arguments, 1)
        return list(drawn)

    last, pairs = samples // 8, samples // 2
    first = max(1, last)
    halves = halves_of(samples=samples)
    assert len(halves) == pairs
    ranked = halves_of(samples=2 * first, copies="ranked")
    between = 2 * (pairs - first - last)
    random = halves_of(samples=between, copies="random") if between else []
    assert all(map(torch.equal, halves[: pairs - last], ranked + random))
    content = ~torch.tensor(attcat.Explainer(family.model())(arguments, 1).tokens.special)[None]
    before = [part for half in halves[: pairs - last] for part in (half, content & ~half)]
    scores = by_hand("bert", before, "mask").sum(0)
    for half in halves[pairs - last :]:
        assert float(scores[half[0]].min()) >= float(scores[(content & ~half)[0]].max())


@pytest.mark.parametrize("name", ["bert", "vit"])
def test_copies_are_the_same_alone_and_in_a_batch_and_for_a_seed(name: str) -> None:
    family = FAMILIES[name]
    model, batch = family.model(), family.arguments()
    explain = attcat.Explainer(model, method="oddscat:samples=6")
    together = explain(batch, [1, 1])
    for row, explanation in enumerate(together):
        alone = explain(family.row(batch, row), 1)
        torch.testing.assert_close(explanation.layers, alone.layers, rtol=1e-4, atol=1e-5)
        assert torch.equal(alone.layers, explain(family.row(batch, row), 1).layers)
    other = attcat.Explainer(model, method="oddscat:samples=6:seed=1")(batch, [1, 1])
    assert not torch.allclose(other[0].layers, together[0].layers, rtol=1e-3)
    assert explain.settings.options == {
        "rule": "graded",
        "beta": 0.75,
        "quantity": "log-odds",
        "hidden": "input",
        "samples": 6,
    }


def test_copies_share_passes_within_the_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    family = FAMILIES["bert"]
    model, arguments = family.model(), family.row(family.arguments(), 0)
    whole = attcat.Explainer(model, method="oddscat:samples=4")(arguments, 1)
    monkeypatch.setattr("attcat.trace.passes.BUDGET", 1)
    torch.testing.assert_close(attcat.Explainer(model, method="oddscat:samples=4")(arguments, 1).layers, whole.layers)


@pytest.mark.parametrize("removal", ["mask", "delete"])
def test_a_text_of_one_token_has_no_halves_to_keep_it_from(removal: str) -> None:
    """Of a copy nothing stays; alone, and beside a longer text, whose copies keep a half."""
    explain = attcat.Explainer(FAMILIES["gpt2"].model(), method="oddscat:samples=4", removal=removal)
    alone = explain({"input_ids": torch.tensor([[7]])}, 1)
    assert alone.scores.isfinite().all()
    ids = torch.tensor([[7, 0, 0, 0], [5, 6, 8, 9]])
    together = explain({"input_ids": ids, "attention_mask": (ids > 0).long()}, [1, 1])
    torch.testing.assert_close(together[0].scores, alone.scores)


def test_copies_of_a_text_whose_answers_are_places_keep_them() -> None:
    """Shorter copies would move them, so that tokens are masked, though tokens see only those before them."""
    task = TASKS["GPT2ForQuestionAnswering"]
    usual, masked = (
        task.explainer(method="oddscat:samples=2", removal=removal)(task.inputs[0]) for removal in (None, "mask")
    )
    assert usual.options["causal"] is True
    assert torch.equal(usual.scores, masked.scores)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"samples": 3}, "copies come in pairs, expected 0 or an even number"),
        ({"samples": -2}, "samples=-2"),
        ({"copies": "ranked"}, "copies='ranked' says which copies are made: say how many"),
        ({"samples": 4, "copies": "drawn"}, "copies='drawn': expected guided, ranked, random"),
        ({"samples": 2, "removal": "burn"}, "no removal 'burn'"),
    ],
)
def test_options_that_do_not_fit(options: dict, message: str) -> None:
    family = FAMILIES["bert"]
    with pytest.raises(OptionError, match=message):
        attcat.Explainer(family.model(), method="oddscat", **options)(family.row(family.arguments(), 0), 1)


@pytest.mark.parametrize("name", ["BertForTokenClassification", "BertForQuestionAnswering", "GPT2LMHeadModel"])
def test_other_heads_read_the_same_token_in_every_copy(name: str) -> None:
    task = TASKS[name]
    explain = task.explainer(method="oddscat:samples=2")
    together = explain(list(task.inputs), token=list(task.tokens))
    alone = explain(task.inputs[1], token=task.tokens[1])
    torch.testing.assert_close(together[1].scores, alone.scores, rtol=1e-3, atol=1e-4 * float(alone.scores.abs().max()))
    deleting = task.explainer(method="oddscat:samples=2:removal=delete")
    if task.head == "ForQuestionAnswering":  # whose classes are places
        with pytest.raises(OptionError, match="removal='delete' moves the answers"):
            deleting(task.inputs[0])
    else:
        found = deleting(task.inputs[1], token=task.tokens[1])
        assert found.scores.isfinite().all()
        assert found.value == pytest.approx(alone.value, rel=1e-5)

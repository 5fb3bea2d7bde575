"""The registries (adapters, heads, rules, methods, metrics) behave alike: add, refuse a duplicate, say what there is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from saved import save_text
from torch import Tensor, nn

import attcat
from attcat import metrics
from attcat.capture.rules import Rule, make_rule
from attcat.cli import run as command
from attcat.errors import OptionError, UnsupportedModelError
from attcat.methods import METHODS
from attcat.metrics import Curves, Metric, register_metric
from attcat.model import Head, registry
from attcat.model.heads import HEADS, TokenHead, head_of

pytestmark = pytest.mark.usefixtures("forgotten")


def halved(curves: Curves) -> Tensor:
    """The fall of the probability when half of the tokens are gone."""
    (column,) = curves.columns([0.5])
    return curves.morf.level[:, 0] - curves.morf.level[:, column]


def test_metrics() -> None:
    mine = Metric("halved", halved, "curves", "by hand", fractions=(0.5,))
    assert register_metric(mine) is mine
    assert metrics.find_metric("halved") is mine
    assert register_metric(mine) is mine
    with pytest.raises(OptionError, match=r"there is already a metric 'halved': choose another name; taken are aopc"):
        register_metric(Metric("halved", halved, "curves", "another", fractions=(0.1,)))
    with pytest.raises(OptionError, match="there is already a metric 'aopc'"):
        register_metric(Metric("aopc", halved, "curves", "", fractions=(0.5,)))
    with pytest.raises(OptionError, match=r"no metric 'thirds': use one of aopc.*halved"):
        metrics.find_metric("thirds")
    with pytest.raises(OptionError, match="expected a name, one of curves, published"):
        Metric("x", halved, "tea leaves", "")  # type: ignore[arg-type]
    with pytest.raises(OptionError, match="say at which shares"):
        Metric("x", halved, "curves", "")


def test_your_own_metric_is_evaluated(tmp_path: Path) -> None:
    """By name, in Python as well as by the command, where a curve metric with one share is a part of aopc."""
    register_metric(Metric("halved", halved, "curves", "by hand", fractions=(0.5,)))
    folder = save_text(tmp_path / "model")
    data = tmp_path / "data.tsv"
    data.write_text("a gripping film\nthe film was not boring\n", encoding="utf-8")
    given = ["evaluate", str(data), "--model", str(folder), "--methods", "attcat", "--metrics", "halved"]
    assert command([*given, "--output", str(tmp_path / "out")]) == 0
    values = json.loads((tmp_path / "out" / "results.json").read_text())["methods"]["attcat"]["values"]["halved"]
    from attcat.cli.models import load_model

    explainer = attcat.Explainer(*load_model(str(folder), False))
    texts = ["a gripping film", "the film was not boring"]
    found = metrics.evaluate(metrics.Ablation(explainer, texts), explainer(texts), ["halved"])["halved"].tolist()
    assert sorted(values) == pytest.approx(sorted(found), abs=1e-6)


def test_methods() -> None:
    mine = attcat.Method("half_cat", METHODS["cat"].function, "by hand", rule="libra")
    assert attcat.register_method(mine) is mine
    with pytest.raises(
        OptionError, match=r"there is already a method 'half_cat': choose another name; taken are attcat"
    ):
        attcat.register_method(attcat.Method("half_cat", METHODS["cat"].function, "another"))


def test_adapters() -> None:
    @attcat.register("registries.Model")
    class First(attcat.TextAdapter):
        family = "First"

    assert attcat.supported_models()["registries.Model"].endswith("First")
    assert attcat.register("registries.Model")(First) is First
    first = First

    with pytest.raises(OptionError, match=r"already an adapter for registries\.Model, .*First: .*registered are"):

        @attcat.register("registries.Other", "registries.Model")
        class Second(attcat.TextAdapter):
            family = "Second"

    assert "registries.Other" not in attcat.supported_models()

    def again() -> type[attcat.TextAdapter]:
        """As when a notebook cell is run twice."""
        made = type("First", (attcat.TextAdapter,), {"family": "First", "__module__": first.__module__})
        made.__qualname__ = first.__qualname__
        return made

    assert attcat.register("registries.Model")(again()) is not first
    with pytest.raises(UnsupportedModelError, match=r"no adapter for .*registries\.Model"):
        registry.find_adapter(nn.Linear(1, 1))


def test_rules(tmp_path: Path) -> None:
    @attcat.register_rule
    class Own(Rule):
        name = "own"

    assert attcat.register_rule(Own) is Own
    assert attcat.RULES["own"] is Own
    other = type("Other", (Rule,), {"name": "own"})
    with pytest.raises(OptionError, match=r"a rule 'own' already: choose another name; taken are plain, libra.*own"):
        attcat.register_rule(other)
    with pytest.raises(OptionError, match="there is a rule 'libra' already"):
        attcat.register_rule(type("Libra", (Rule,), {"name": "libra"}))
    for nameless in (type("Inherits", (Own,), {}), type("Odd", (Rule,), {"name": "attcat+own"})):
        with pytest.raises(OptionError, match=f"{nameless.__name__} has no name that can be typed"):
            attcat.register_rule(nameless)
    with pytest.raises(TypeError, match="not a subclass"):
        attcat.register_rule(Own())  # type: ignore[arg-type]
    again = type("Own", (Rule,), {"name": "own", "__module__": Own.__module__, "__qualname__": Own.__qualname__})
    assert attcat.register_rule(again) is again
    model = str(save_text(tmp_path / "model"))
    assert (
        command(["explain", "a film", "--model", model, "--rule", "own", "--output", str(tmp_path / "own.json")]) == 0
    )
    assert attcat.load(tmp_path / "own.json").options["rule"] == "own"
    with pytest.raises(OptionError, match=r"no gradient rule 'x': use one of plain, libra, .*own"):
        make_rule("x")


def test_heads() -> None:
    @attcat.register_head("ForRegistries", "ForSomeTokenClassification")
    class Own(Head):
        task = "own"

    def model(name: str, base: type[nn.Module] = nn.Linear) -> nn.Module:
        return type(name, (base,), {})(1, 1)

    assert attcat.register_head("ForRegistries")(Own) is Own
    assert head_of(model("BertForRegistries")) is Own
    assert head_of(model("Derived", type("BertForRegistries", (nn.Linear,), {}))) is Own
    assert head_of(model("BertForSomeTokenClassification")) is Own  # the longer end counts
    assert head_of(model("BertForTokenClassification")) is TokenHead
    assert head_of(model("BertFor")) is Head
    with pytest.raises(
        OptionError, match=r"a head for ForRegistries already, .*Own: give another.*ForMaskedLM.*ForRegistries"
    ):

        @attcat.register_head("ForOthers", "ForRegistries")
        class Second(Head):
            task = "second"

    assert "ForOthers" not in HEADS
    with pytest.raises(OptionError, match="there is a head for ForMaskedLM already, MaskedTokenHead"):
        attcat.register_head("ForMaskedLM")(Own)
    with pytest.raises(TypeError, match="ends of class names"):
        attcat.register_head("")
    with pytest.raises(TypeError, match="not a subclass"):
        attcat.register_head("ForX")(nn.Linear)  # type: ignore[type-var]
    with pytest.raises(
        UnsupportedModelError, match=r"no class logits.*ForMultipleChoice.*ForRegistries.*register_head"
    ):
        Head(model("BertFor")).rows(None, None)  # type: ignore[arg-type]

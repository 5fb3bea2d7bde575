"""Is there a better recipe than AttCAT's? Search on one half of the data, report on the other.

    python -m attcat.demos.recipes DATA --search 64

DATA holds ``sst2/dev.tsv`` and ``cifar10.zip``. AttCAT is one point of a grid: which gradient rule, whose hidden states,
which queries weigh a token (or none), which blocks count, whether negative contributions do, and whether the runner-up
class is subtracted. Every recipe of the grid is scored by ABPC on inputs of the first half of the data, on the embedded
models for text and for pictures. The best of each, and the three best on average over both, are then compared with AttCAT on
the second half, which played no part in the choice, with paired bootstrap intervals. Prints Markdown.

One recorded forward pass per rule serves every recipe; most of the time goes into removing tokens.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import astuple, dataclass, fields, replace
from itertools import product
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

import attcat
from attcat.capture.rules import make_rule
from attcat.evaluation.statistics import compare
from attcat.methods.cat import attcat as weighted
from attcat.methods.cat import cat
from attcat.metrics import Ablation, abpc, aopc, perturbation_curves
from attcat.metrics.perturbation import TENTHS
from attcat.model import Adapter, Encoding, content_of
from attcat.targets import Goal
from attcat.trace import Needs, Trace, record

from .embedded import objects, objects_processor, sentiment
from .faithfulness import PIXELS
from .train_objects import read

COARSE = (0.2, 0.5, 0.8)
"""Shares removed while searching; the report removes every tenth."""


@dataclass(frozen=True)
class Recipe:
    """A way to make scores from a trace.

    Args:
        rule: of the gradient.
        hidden: the blocks' input or output.
        queries: whose attention weighs a token: of all tokens, of those that the head reads, of those that are not
            special; or no weight, which is CAT.
        blocks: all, or the later half.
        part: signed contributions, or of each block the positive part.
        against: the class alone, or minus the runner-up.
    """

    rule: Literal["libra", "plain"] = "libra"
    hidden: Literal["input", "output"] = "input"
    queries: Literal["mean", "pooled", "content", "none"] = "mean"
    blocks: Literal["all", "later"] = "all"
    part: Literal["signed", "positive"] = "signed"
    against: Literal["nothing", "runner-up"] = "nothing"

    def scores(self, trace: Trace) -> Tensor:
        """float32 `[B, T]` from a trace that was made for this rule, state, query and class."""
        contributions = cat(trace) if self.queries == "none" else weighted(trace)
        contributions = contributions.clamp(min=0) if self.part == "positive" else contributions
        return contributions[len(contributions) // 2 if self.blocks == "later" else 0 :].sum(0)


GRID = tuple(
    Recipe(*values)  # type: ignore[arg-type]
    for values in product(
        ("libra", "plain"),
        ("input", "output"),
        ("mean", "pooled", "content", "none"),
        ("all", "later"),
        ("signed", "positive"),
        ("nothing", "runner-up"),
    )
)
ATTCAT = Recipe()


def explain(adapter: Adapter, inputs: Sequence[Any], recipes: Sequence[Recipe]) -> dict[Recipe, list[Tensor]]:
    """The scores of every recipe, one tensor `[T]` per input."""
    found: dict[Recipe, list[Tensor]] = {recipe: [] for recipe in recipes}
    for start in range(0, len(inputs), 16):
        encoding = adapter.encode(inputs[start : start + 16])
        for recipe, scores in _batch(adapter, encoding, recipes).items():
            found[recipe] += [row[mask] for row, mask in zip(scores, encoding.mask.cpu(), strict=True)]
    return found


def _batch(adapter: Adapter, encoding: Encoding, recipes: Sequence[Recipe]) -> dict[Recipe, Tensor]:
    """Recipes that differ in what is done with a trace alone share it."""
    found = {}
    for rule in dict.fromkeys(recipe.rule for recipe in recipes):
        recording = record(adapter, encoding, make_rule(rule))
        top = recording.logits.detach().topk(2).indices.tolist()
        labels = tuple(map(str, range(recording.logits.shape[1])))
        content = replace(recording, read=content_of(encoding))  # `pooled` then means the content's queries
        traces: dict[tuple[str, str, str], Trace] = {}
        for recipe in (recipe for recipe in recipes if recipe.rule == rule):
            key = (recipe.hidden, recipe.queries, recipe.against)
            if key not in traces:
                targets: list[Any] = [pair[0] if recipe.against == "nothing" else tuple(pair) for pair in top]
                with torch.enable_grad():
                    value = Goal.of(recording.logits, targets, [labels] * len(targets)).value(
                        recording.output, recording.logits
                    )
                traces[key] = (content if recipe.queries == "content" else recording).trace(
                    value,
                    needs=Needs(received=recipe.queries != "none"),
                    hidden=recipe.hidden,
                    queries="mean" if recipe.queries in ("mean", "none") else "pooled",
                    keep=True,
                )
            found[recipe] = recipe.scores(traces[key]).cpu()
    return found


def search(
    adapter: Adapter, inputs: Sequence[Any], removal: str, recipes: Sequence[Recipe] = GRID
) -> dict[Recipe, float]:
    """The mean ABPC of every recipe, coarsely."""
    totals = dict.fromkeys(recipes, 0.0)
    for start in range(0, len(inputs), 16):  # the copies of a few inputs are remembered, not those of all
        part = inputs[start : start + 16]
        ablation = Ablation(adapter, part, removal)
        for recipe, scores in explain(adapter, part, recipes).items():
            curves = perturbation_curves(ablation, scores, fractions=COARSE)
            totals[recipe] += float((curves.lerf.level - curves.morf.level)[:, 1:].mean(1).sum())
    return {recipe: total / len(inputs) for recipe, total in totals.items()}


def report(adapter: Adapter, inputs: Sequence[Any], removal: str, recipes: Sequence[Recipe]) -> dict[str, list[str]]:
    """AOPC and ABPC of some recipes on inputs that were not searched, and their paired differences from AttCAT."""
    ablation = Ablation(adapter, inputs, removal)
    rows: dict[str, list[str]] = {name(recipe): [] for recipe in recipes}
    curves = {
        r: perturbation_curves(ablation, s, fractions=TENTHS) for r, s in explain(adapter, inputs, recipes).items()
    }
    for metric in (aopc, abpc):
        values = {name(recipe): metric(curve).tolist() for recipe, curve in curves.items()}
        compared = compare(values, seed=0)
        for other, row in rows.items():
            row.append(f"{sum(values[other]) / len(inputs):.3f}")
            pair = compared.get((name(ATTCAT), other))  # AttCAT comes first
            row.append("" if pair is None else f"{-pair.difference:+.3f} [{-pair.high:+.3f}, {-pair.low:+.3f}]")
    return rows


def name(recipe: Recipe) -> str:
    """What a recipe changes in AttCAT."""
    changed = [
        f"{field.name}={value}"
        for field, value, usual in zip(fields(recipe), astuple(recipe), astuple(ATTCAT), strict=True)
        if value != usual
    ]
    return "AttCAT" + (f" with {', '.join(changed)}" if changed else "")


def main(arguments: Sequence[str] | None = None, recipes: Sequence[Recipe] = GRID) -> Mapping[str, list[Recipe]]:
    """Search, report; return the winners of each modality and of both."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder that contains sst2/dev.tsv and cifar10.zip")
    parser.add_argument("--search", type=int, default=64, help="inputs of each kind to search on")
    parser.add_argument("--report", type=int, help="inputs of each kind to report on [default: all of the other half]")
    given = parser.parse_args(arguments)

    tasks = {kind: (adapter, inputs, how) for kind, adapter, inputs, how in _tasks(given.data)}
    found = {
        kind: search(a, spread(inputs[::2], given.search), how, recipes) for kind, (a, inputs, how) in tasks.items()
    }
    joint = {recipe: sum(scores[recipe] for scores in found.values()) / len(found) for recipe in recipes}
    winners: dict[str, list[Recipe]] = {}
    for kind, scores in {**found, "both": joint}.items():
        winners[kind] = sorted(scores, key=lambda recipe: -scores[recipe])[:3]
        shares = ", ".join(f"{share:.0%}" for share in COARSE)
        print(f"\nBest of {len(recipes)} on {given.search} inputs of the first half, {kind} (ABPC at {shares}):\n")
        for recipe in dict.fromkeys([*winners[kind], ATTCAT]):
            print(f"- {scores[recipe]:.3f} {name(recipe)}")
    for kind, (adapter, inputs, how) in tasks.items():
        shown = dict.fromkeys([ATTCAT, Recipe("plain"), winners[kind][0], *winners["both"]])
        others = spread(inputs[1::2], given.report)
        print(f"\nSecond half, {kind}, {len(others)} inputs, removal by {how}:\n")
        print("| recipe | AOPC | minus AttCAT | ABPC | minus AttCAT |\n|---|---|---|---|---|")
        for label, row in report(adapter, others, how, list(shown)).items():
            print(f"| {label} | {' | '.join(row)} |", flush=True)
    return winners


def spread(inputs: Sequence[Any], count: int | None) -> list[Any]:
    """This many of the inputs, evenly spread, because pictures come sorted by class; all if no count is given."""
    count = min(count or len(inputs), len(inputs))
    return [inputs[index * len(inputs) // count] for index in range(count)]


def _tasks(data: Path) -> list[tuple[str, Adapter, list[Any], str]]:
    lines = (data / "sst2" / "dev.tsv").read_text(encoding="utf-8").splitlines()
    sentences = [line.partition("\t")[0] for line in lines]
    pictures = [picture for picture, _ in read(data / "cifar10.zip", "cifar10/test")]
    model, _ = objects()
    return [
        ("text", attcat.Explainer(*sentiment()).adapter, sentences, "pad"),
        ("pictures", attcat.Explainer(model, objects_processor(PIXELS)).adapter, pictures, "mean"),
    ]


if __name__ == "__main__":
    main()

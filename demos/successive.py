"""Explain, remove what comes first, explain what is left: does an order made so get nearer to the ceiling?

    python -m attcat.demos.successive DATA [--only text|pictures] [--limit 40] [--seed 0]

DATA holds ``sst2/short.tsv`` and the folder ``cifar10/test`` of the evaluation (docs/evaluation.md). The ceiling of NAOPC is a
sequence of removals, each made after those before it; an explanation says once what each token is worth. Here the explanation
is made anew after each removal (or nine times, which costs as many passes as eight copies), with the metric's way of removal
and with another. What comes out is an order and says no amounts, so that it is no method of the library, but one of your own is
added in the same way. Prints Markdown: of sentences NAOPC, of pictures the area between the perturbation curves at every tenth,
and paired differences from OddsCAT.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import attcat
from attcat.evaluation.runner import choose
from attcat.metrics import Ablation, abpc, naopc, perturbation_curves
from attcat.metrics.ablation import Scores
from attcat.metrics.perturbation import TENTHS
from attcat.model import Adapter
from attcat.trace import Trace
from attcat.trace.passes import Passes

from .embedded import objects, objects_processor, sentiment
from .faithfulness import PIXELS, paired
from .shifts import fitted

REMOVALS = {"text": ("pad", "mask"), "pictures": ("mean", "zero")}
"""The metric's, and the one that copies are made with."""
ONCE = attcat.METHODS["oddscat"]
"""What explains each time."""
Metric = Callable[[Ablation, list[Scores]], Tensor]
PART = 8
"""Inputs that go through together."""


def successive(trace: Trace, passes: Passes, *, steps: int = 0, removal: str | None = None) -> Tensor:
    """The content's order when what is best is removed, and the rest explained anew; 1 is the last.

    Args:
        trace: of the batch, under the rule.
        passes: further passes through the model.
        steps: after each a share of the content is gone, the same of each input; 0 removes one token after the other.
        removal: how tokens are removed; by default the adapter's first.

    Returns:
        float32 `[1, B, T]`; what is never removed is 0.
    """

    def explained(one: Trace) -> Tensor:
        return ONCE.function(one, passes)

    content = passes.removable
    size = content.sum(-1, keepdim=True)
    count = steps or int(size.max())
    scores, left, places = explained(trace).sum(0), content, torch.zeros(content.shape)
    for step in range(1, count + 1):
        number = left.sum(-1, keepdim=True)
        ranks = scores.masked_fill(~left, -torch.inf).argsort(dim=-1, descending=True, stable=True).argsort(-1)
        now = left & (ranks < number - (size - size * step // count))
        places = torch.where(now, (number - ranks).float(), places)
        left = left & ~now
        if step < count:
            ((_, found),) = passes.without([content & ~left], explained, removal)
            scores = found.sum((0, 1))
    return places[None]


def compared(removals: tuple[str, str]) -> list[str]:
    """Names of methods: one pass, and for each removal eight copies and successive removal."""
    names = ["oddscat"]
    for removal in removals:
        names += [
            f"oddscat:samples=8:removal={removal}",
            f"successive:steps=9:removal={removal}",
            f"successive:removal={removal}",
        ]
    return names


def measured(
    adapter: Adapter,
    inputs: Sequence[Any],
    removals: tuple[str, str],
    metric: Metric,
) -> dict[str, list[float]]:
    """What a metric says of each input, for each method."""
    attcat.register_method(replace(ONCE, name="successive", function=successive, further=None, silent=()))
    explainers = {name: attcat.Explainer(adapter, method=name) for name in compared(removals)}
    values: dict[str, list[float]] = {name: [] for name in explainers}
    for start in range(0, len(inputs), PART):
        part = list(inputs[start : start + PART])
        ablation = Ablation(adapter, part, removals[0])
        targets = ablation.predicted.tolist()
        for name, explainer in explainers.items():
            found: list[Scores] = [torch.as_tensor(one.scores) for one in explainer(part, targets)]
            values[name] += metric(ablation, found).tolist()
    return values


def area(ablation: Ablation, scores: list[Scores]) -> Tensor:
    """ABPC at every tenth, float64 `[N]`."""
    return abpc(perturbation_curves(ablation, scores, fractions=TENTHS))


METRICS: Mapping[str, tuple[str, Metric]] = {"text": ("NAOPC", naopc), "pictures": ("ABPC", area)}


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder that contains sst2/short.tsv and cifar10/test")
    parser.add_argument("--only", choices=REMOVALS, action="append", help="a kind of data [default: both]")
    parser.add_argument("--limit", type=int, default=40, help="examples of each kind")
    parser.add_argument("--seed", type=int, default=0, help="which are drawn")
    given = parser.parse_args(arguments)
    for kind in given.only or REMOVALS:
        if kind == "text":
            found: list[Any] = (given.data / "sst2" / "short.tsv").read_text(encoding="utf-8").splitlines()
            drawn = [found[index].partition("\t")[0] for index in choose(given.seed, len(found))[: given.limit]]
            adapter = attcat.Explainer(*sentiment()).adapter
        else:
            found = sorted((given.data / "cifar10" / "test").rglob("*.jpg"))
            drawn = [fitted(found[index], PIXELS) for index in choose(given.seed, len(found))[: given.limit]]
            adapter = attcat.Explainer(objects()[0], objects_processor(PIXELS)).adapter
        head, metric = METRICS[kind]
        values = measured(adapter, drawn, REMOVALS[kind], metric)
        print(f"\n{kind}, {len(drawn)} examples:\n\n" + paired(values, ("method", head, "minus `oddscat`")), flush=True)


if __name__ == "__main__":
    main()

"""Which explanation is right? Remove what it points at, and watch the prediction.

    python -m attcat.demos.faithfulness DATA --limit 100

DATA holds ``sst2/dev.tsv`` (sentence, tab, label) and ``cifar10.zip``. With the embedded models, the tokens of a hundred
sentences and a hundred pictures are removed most relevant first, in the order of five explanations: the default, AttCAT
under both gradient rules, the last block's attention, and chance. Words become `[PAD]`, patches the picture's mean colour.
The better the explanation, the sooner the probability of the predicted class falls.

`attcat evaluate` does the same for any model, with more metrics, intervals and tests.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attcat
from attcat.evaluation import statistics
from attcat.metrics.ablation import Ablation
from attcat.metrics.perturbation import Curves, abpc, aopc, perturbation_curves

from .embedded import objects, objects_processor, sentiment
from .train_objects import read

METHODS = ("oddscat", "attcat+libra", "attcat+plain", "attention", "random")
PIXELS = 98
"""Side of the pictures: CIFAR-10's have 32 pixels, and at 98 the model takes 50 tokens instead of 257."""


def main(arguments: Sequence[str] | None = None) -> dict[str, dict[str, Curves]]:
    """Print one table for sentences and one for pictures; return the curves of each method."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder that contains sst2/dev.tsv and cifar10.zip")
    parser.add_argument("--limit", type=int, default=100, help="how many of each (default: 100)")
    given = parser.parse_args(arguments)

    lines = (given.data / "sst2" / "dev.tsv").read_text(encoding="utf-8").splitlines()
    sentences = [line.partition("\t")[0] for line in lines[: given.limit]]
    print(f"{len(sentences)} sentences of SST-2, words become [PAD]")
    texts = compare(*sentiment(), sentences, "pad")

    pictures = [picture for picture, _ in read(given.data / "cifar10.zip", "cifar10/test")]
    spread = pictures[:: max(1, len(pictures) // given.limit)][: given.limit]  # they are sorted by class
    print(f"\n{len(spread)} pictures of CIFAR-10 at {PIXELS} pixels, patches become the mean colour")
    model, _ = objects()
    return {"texts": texts, "pictures": compare(model, objects_processor(PIXELS), spread, "mean")}


def compare(model: Any, processor: Any, inputs: list[Any], removal: str) -> dict[str, Curves]:
    """Explain the inputs with each method, and print how the probability falls."""
    ablation = Ablation(attcat.Explainer(model, processor).adapter, inputs, removal)
    found: dict[str, Curves] = {}
    for method in METHODS:
        explanations = attcat.Explainer(model, processor, method=method)(inputs)
        found[method] = perturbation_curves(ablation, explanations)
        if len(found) == 1:
            print(f"{'removed':14}" + "".join(f"{share:6.0%}" for share in found[method].fractions) + "   AOPC  ABPC")
        falling = "".join(f"{value:6.2f}" for value in found[method].morf.level.mean(0).tolist())
        print(f"{method:14}{falling}  {aopc(found[method]).mean():5.2f} {abpc(found[method]).mean():5.2f}", flush=True)
    return found


def paired(values: Mapping[str, Sequence[float]], heads: tuple[str, str, str], digits: int = 3) -> str:
    """A table in Markdown: the mean of each row's values, and the paired difference from the first row.

    Args:
        values: of the same examples, by row.
        heads: of the rows' names, of the mean and of the difference.
        digits: how many decimal places.
    """
    first, pairs = next(iter(values)), statistics.compare(values, 0)
    lines = [f"| {' | '.join(heads)} |\n|---|---|---|"]
    for name, each in values.items():
        pair = pairs.get((first, name))
        told = (
            ""
            if pair is None
            else "{:+.{n}f} [{:+.{n}f}, {:+.{n}f}]".format(
                *(0.0 - value for value in (pair.difference, pair.high, pair.low)), n=digits
            )
        )
        lines.append(f"| {name} | {statistics.estimate(each, 0).mean:.{digits}f} | {told} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()

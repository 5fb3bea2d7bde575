"""How much do deep blocks count? Tried on training data.

    python -m attcat.demos.fading DATA [--only text|pictures|photographs] [--limit 128] [--seed 0]

DATA holds ``sst2/train.tsv``, ``cifar10.zip`` and ``photos.zip``. OddsCAT adds up gradient times state over the blocks. The
deeper a block, the more a token's state also says of other tokens; so it may count less. This tries weights of the l-th of L
blocks on the embedded models, by the area between the perturbation curves at every tenth, on sentences and pictures that the
evaluation does not use, drawn by the seed. Prints Markdown: the paired differences from blocks that all count once.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import attcat
from attcat.evaluation.runner import choose
from attcat.metrics import Ablation, abpc, perturbation_curves
from attcat.metrics.perturbation import TENTHS
from attcat.model import Adapter

from .embedded import objects, objects_processor, sentiment
from .faithfulness import PIXELS, paired
from .train_objects import read

WEIGHTS: Mapping[str, Callable[[float], float]] = {
    "1": lambda depth: 1.0,
    "1 - l / 2L": lambda depth: 1 - depth / 2,
    "(1 - l / L)^(1/2)": lambda depth: (1 - depth) ** 0.5,
    "1 - (l / L)^2": lambda depth: 1 - depth**2,
    "1 - l / L": lambda depth: 1 - depth,
    "(1 - l / L)^2": lambda depth: (1 - depth) ** 2,
    "1 in the first half": lambda depth: float(depth < 0.5),
    "(l + 1) / L": lambda depth: depth,
}
"""Of the share of the blocks that stand before one; the last is told the share up to it and with it."""
PART = 8
"""Inputs that go through together."""
KINDS = ("text", "pictures", "photographs")


def measured(adapter: Adapter, inputs: Sequence[Any], removal: str) -> dict[str, list[float]]:
    """ABPC of each input, for each way to weigh blocks."""
    explainer = attcat.Explainer(adapter, method="oddscat:blocks=all")
    values: dict[str, list[float]] = {name: [] for name in WEIGHTS}
    for start in range(0, len(inputs), PART):
        part = list(inputs[start : start + PART])
        ablation = Ablation(adapter, part, removal)
        layers = [torch.as_tensor(one.layers) for one in explainer(part, ablation.predicted.tolist())]
        for name in WEIGHTS:
            curves = perturbation_curves(ablation, [weighted(each, name) for each in layers], fractions=TENTHS)
            values[name] += abpc(curves).tolist()
    return values


def weighted(layers: Tensor, name: str) -> Tensor:
    """The sum over blocks `[L, T]`, weighted."""
    count = len(layers)
    depths = [(block + (name == "(l + 1) / L")) / count for block in range(count)]
    return (torch.tensor([WEIGHTS[name](depth) for depth in depths])[:, None] * layers).sum(0)


def report(kind: str, values: Mapping[str, list[float]]) -> str:
    """A table of the weights, and what they change."""
    count = len(next(iter(values.values())))
    return f"\n{kind}, {count} examples:\n\n" + paired(values, ("weight", "ABPC", "minus equal weights"), digits=4)


def tasks(data: Path, only: Sequence[str]) -> Iterator[tuple[str, Adapter, list[Any], str]]:
    """The kinds of data: name, model, inputs, removal."""
    if "text" in only:
        lines = (data / "sst2" / "train.tsv").read_text(encoding="utf-8").splitlines()
        texts = [text for text, _, _ in (line.partition("\t") for line in lines) if len(text.split()) > 5]
        yield "text", attcat.Explainer(*sentiment()).adapter, texts, "pad"
    for kind, archive, folder in (
        ("pictures", "cifar10.zip", "cifar10/train"),
        ("photographs", "photos.zip", "photos/cats_dogs/train"),
    ):
        if kind in only:
            model, processor = objects()
            chosen = objects_processor(PIXELS) if kind == "pictures" else processor
            pictures = [picture for picture, _ in read(data / archive, folder)]
            yield kind, attcat.Explainer(model, chosen).adapter, pictures, "mean"


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder that contains sst2/train.tsv, cifar10.zip and photos.zip")
    parser.add_argument("--only", choices=KINDS, action="append", help="a kind of data [default: all]")
    parser.add_argument("--limit", type=int, default=128, help="examples of each kind")
    parser.add_argument("--seed", type=int, default=0, help="which are drawn")
    given = parser.parse_args(arguments)
    for kind, adapter, inputs, removal in tasks(given.data, given.only or KINDS):
        drawn = [inputs[index] for index in choose(given.seed, len(inputs))[: given.limit]]
        print(report(kind, measured(adapter, drawn, removal)), flush=True)


if __name__ == "__main__":
    main()

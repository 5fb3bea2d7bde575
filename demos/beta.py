"""How much of the softmax? Chosen on one half of the data, reported on the other.

    python -m attcat.demos.beta DATA --output FOLDER [--only text|pictures|photographs] [--limit 200] [--methods NAMES]

DATA holds ``sst2/dev.tsv``, ``cifar10.zip`` and ``photos.zip``. OddsCAT differentiates the softmax of attention in part, by
``beta``; this measures it at several, alone and over copies of the input, beside the methods that it has to beat, on the
embedded models. Each method is scored by the area between the perturbation curves at three shares removed (20, 50 and 80 %),
which costs a third of ABPC at every tenth. Examples are shuffled; the best beta of one pass is chosen on every other one, as
the mean over the three kinds of data, and the paired differences from AttCAT (the first method) are those of the rest, which
played no part in the choice.

FOLDER keeps what was found, a file for each kind, so that an interrupted run goes on; a file of another version of the code
is refused. Prints Markdown of as many examples as are done.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import attcat
from attcat.evaluation.log import Log
from attcat.evaluation.runner import choose, code_version
from attcat.evaluation.statistics import estimate
from attcat.metrics import Ablation, perturbation_curves
from attcat.model import Adapter

from .embedded import objects, objects_processor, sentiment
from .faithfulness import PIXELS, paired
from .recipes import COARSE
from .train_objects import read

BETAS = (0.5, 0.75, 1.0)
ONE_PASS = tuple(f"oddscat:beta={beta}" for beta in BETAS)
METHODS = (
    "attcat",
    "attnlrp",
    *ONE_PASS,
    "oddscat:beta=0.75:samples=2",
    "oddscat:beta=0.75:samples=8",
)
PART = 8
"""Examples that go through together; what they found is a line of the file."""
KINDS = ("text", "pictures", "photographs")


def measured(adapter: Adapter, inputs: Sequence[Any], removal: str, log: Log, methods: Sequence[str]) -> Iterator[int]:
    """Measure what the log does not hold, a part at a time; yields how many examples are done."""
    order = choose(0, len(inputs))
    for start in range(0, len(order), PART):
        part = order[start : start + PART]
        missing = [name for name in methods if not log.holds(name, part)]
        if missing:
            values = [inputs[index] for index in part]
            ablation = Ablation(adapter, values, removal)
            targets = ablation.predicted.tolist()
            for name in missing:
                explanations = attcat.Explainer(adapter, method=name)(values, targets)
                curves = perturbation_curves(ablation, explanations, targets, COARSE)
                between = (curves.lerf.level - curves.morf.level)[:, 1:].mean(1)
                log.add(name, part, [{"values": {"abpc": value}} for value in between.tolist()])
        yield start + len(part)


def found(log: Log, count: int, methods: Sequence[str]) -> dict[str, list[float]]:
    """The figures of each method, of the examples for which all methods have one, in the order in which they were measured."""
    order = choose(0, count)
    values: dict[str, list[float]] = {name: [] for name in methods}
    for start in range(0, count, PART):
        part = order[start : start + PART]
        if not all(log.holds(name, part) for name in methods):
            break
        for name in methods:
            values[name] += [record["values"]["abpc"] for record in log.of(name, part)]
    return values


def report(tables: dict[str, dict[str, list[float]]]) -> str:
    """Choose beta on the even examples; tell the odd ones, minus those of the first method."""
    even = {kind: {m: estimate(v[::2], 0).mean for m, v in by.items()} for kind, by in tables.items()}
    choice = {
        m: sum(by[m] for by in even.values()) / len(even) for m in ONE_PASS if all(m in by for by in even.values())
    }
    lines = [f"- {mean:.4f} {m}" for m, mean in sorted(choice.items(), key=lambda item: -item[1])]
    parts = ["One pass, the half to choose on, mean over the kinds:\n", *lines]
    for kind, by in tables.items():
        rest = {m: v[1::2] for m, v in by.items()}
        first = next(iter(rest))
        parts.append(f"\n{kind}, {len(rest[first])} examples of the other half:\n")
        named = {f"`{method}`": values for method, values in rest.items()}
        parts.append(paired(named, ("method", "ABPC at 20, 50, 80 %", f"minus `{first}`")))
    return "\n".join(parts)


def tasks(data: Path, only: Sequence[str] = KINDS) -> Iterator[tuple[str, Adapter, list[Any], str]]:
    """The kinds of data: name, model, inputs, removal."""
    if "text" in only:
        lines = (data / "sst2" / "dev.tsv").read_text(encoding="utf-8").splitlines()
        yield "text", attcat.Explainer(*sentiment()).adapter, [line.partition("\t")[0] for line in lines], "pad"
    if "pictures" in only:
        model, _ = objects()
        adapter = attcat.Explainer(model, objects_processor(PIXELS)).adapter
        yield "pictures", adapter, [picture for picture, _ in read(data / "cifar10.zip", "cifar10/test")], "mean"
    if "photographs" in only:
        every = read(data / "photos.zip", "photos/labelled") + read(data / "photos.zip", "photos/cats_dogs/test")
        yield "photographs", attcat.Explainer(*objects()).adapter, [picture for picture, _ in every], "mean"


def main(arguments: Sequence[str] | None = None, methods: Sequence[str] = METHODS) -> str:
    """Measure what is missing, and print what is known; with `methods` in place of the usual ones."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="folder that contains sst2/dev.tsv, cifar10.zip and photos.zip")
    parser.add_argument("--output", type=Path, required=True, help="folder of the records")
    parser.add_argument("--only", choices=KINDS, action="append", help="a kind of data [default: all]")
    parser.add_argument("--limit", type=int, help="examples of each kind [default: all]; 0 only reports")
    parser.add_argument("--methods", help="names with commas, the first is the one to beat [default: those above]")
    given = parser.parse_args(arguments)
    methods = tuple(given.methods.split(",")) if given.methods else methods
    tables = {}
    for kind, adapter, inputs, removal in tasks(given.data, given.only or KINDS):
        settings = {"format": "attcat-beta-1", "code": code_version(type(adapter)), "kind": kind, "removal": removal}
        log = Log(given.output / f"{kind}.jsonl", settings)
        for done in measured(adapter, inputs, removal, log, methods) if given.limit != 0 else ():
            if given.limit is not None and done >= given.limit:
                break
        table = found(log, len(inputs), methods)
        if len(table[methods[0]]) > 1:
            tables[kind] = table
    text = report(tables)
    print(text)
    return text


if __name__ == "__main__":
    main()

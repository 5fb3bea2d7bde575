"""Write docs/evaluation.md from the records of `attcat evaluate`: tables, intervals, paired differences, commands, versions.

    python -m attcat.demos.evaluation_page RECORDS [--write docs/evaluation.md]

RECORDS holds a folder for each data set and way of removal, named ``SET-REMOVAL`` as in `SETS` and `ASIDE`, and in each the
``records.jsonl`` of an evaluation; others are ignored. An unfinished evaluation counts as far as it goes: every figure stands
beside the number of its examples, and a difference is of the examples that both methods have. Records of one model that two
versions of the code made are refused.

What a page begins with was written by hand and stays, and so does what follows the line `BELOW`; all between is written anew.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from attcat import InputError
from attcat.evaluation.report import ARROWS, markdown_table, number_with_interval
from attcat.evaluation.statistics import compare, estimate
from attcat.files import write_atomically
from attcat.methods import read_name
from attcat.metrics import find_metric
from attcat.metrics.perturbation import STEPS, TENTHS

BELOW = "<!-- What follows is written by hand; what precedes, by attcat.demos.evaluation_page. -->"
OURS, FIRST, RIVAL = "oddscat", "attcat", "attnlrp"
"""The method whose differences are tabled, and those from which they are."""
COPIES = (
    "OddsCAT's own copies are made with [MASK], with shorter texts where tokens see only those before them, and with grey "
    "patches; one pass makes none."
)


@dataclass(frozen=True)
class Set:
    """A data set, with the model that is explained on it.

    Args:
        title: for headings.
        short: for columns.
        data: of the command, under DATA.
        others: further options of the command.
        removals: the ways in which tokens are removed, the usual one first, each with what it makes of them.
    """

    title: str
    short: str
    data: str
    others: str
    removals: Mapping[str, str]


_TEXT = {
    "pad": "words become [PAD]",
    "mask": "words become [MASK]",
    "delete": "words are deleted",
}
_PICTURE = {
    "mean": "patches become the picture's mean colour",
    "blur": "patches are blurred",
    "zero": "patches become grey",
    "drop": "patches are dropped",
}
_SMALL = "--image-size 98 --references DATA/cifar10/train"
SETS = {
    "sst2": Set("SST-2 dev", "SST-2", "sst2/dev.tsv", "--references DATA/sst2/train.tsv", _TEXT),
    "cifar10": Set("CIFAR-10 test at 98 pixels (7 x 7 patches)", "CIFAR-10", "cifar10/test", _SMALL, _PICTURE),
    "photographs": Set(
        "Photographs at 224 pixels (16 x 16 patches)",
        "photographs",
        "photographs",
        "--references DATA/photos/cats_dogs/train",
        _PICTURE,
    ),
    "sst2_second": Set(
        "SST-2 dev, the second model (GPT-2-shaped)",
        "SST-2, second model",
        "sst2/dev.tsv",
        "--model SECOND/text --references DATA/sst2/train.tsv",
        _TEXT,
    ),
    "cifar10_second": Set(
        "CIFAR-10 test, the second model (a plain ViT)",
        "CIFAR-10, second model",
        "cifar10/test",
        "--model SECOND/pictures --references DATA/cifar10/train",
        _PICTURE,
    ),
}

_SHORT = "--limit 40 --references DATA/sst2/train.tsv"
ASIDE = {
    "sst2_short": Set("40 sentences of 6 to 14 words", "short sentences", "sst2/short.tsv", _SHORT, _TEXT),
    "sst2_second_short": Set(
        "The same 40 sentences, the second model",
        "short sentences, second model",
        "sst2/short.tsv",
        f"--model SECOND/text {_SHORT}",
        _TEXT,
    ),
    "photographs_grid": Set(
        "The grid pointing game on photographs",
        "mosaics of photographs",
        "photographs",
        "--references DATA/photos/cats_dogs/train",
        _PICTURE,
    ),
}
"""Evaluations by other figures than the curves'."""
ABOUT = {
    "naopc": "NAOPC: the area over the curve, token by token, as a share of what lies between the worst and the best order "
    "that a beam search of width 5 finds; 1 is the ceiling. `short.tsv` holds the sentences of 6 to 14 words of SST-2 dev:\n\n"
    "```sh\nawk -F'\\t' '{n = split($1, w, \" \")} n >= 6 && n <= 14' DATA/sst2/dev.tsv > DATA/sst2/short.tsv\n```\n",
    "grid_2x2": "Mosaics of 2 x 2 and of 3 x 3 pictures of different classes that the model gets right: the share of the "
    "positive relevance for a cell's class that lies in the cell. Chance is 1/4 and 1/9.\n",
}
"""What a figure is, before its table."""


class Records:
    """One evaluation, as far as it got.

    Args:
        folder: that holds `records.jsonl`.

    Raises:
        InputError: if that is not a record of an evaluation.
    """

    def __init__(self, folder: Path) -> None:
        self.name = folder.name
        data = (folder / "records.jsonl").read_bytes()
        try:
            settings, *lines = map(json.loads, data[: data.rfind(b"\n") + 1].decode().splitlines())
            self.settings: dict[str, Any] = settings
            self._code = settings["code"], settings["model"], settings["fingerprint"]
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{folder} holds no record of an evaluation ({error}): remove the folder") from error
        self.values: dict[str, dict[int, dict[str, float]]] = {}
        self.right: dict[int, bool] = {}
        for line in lines:
            method, _, mosaic = line["method"].partition(" ")
            places = range(len(line["records"])) if mosaic else line["examples"]
            for example, record in zip(places, line["records"], strict=True):
                told = {k: math.nan if v is None else float(v) for k, v in record["values"].items()}
                if "morf" in record:  # not where the ceiling alone was measured
                    told["srg"] = srg(record["morf"], record["lerf"])
                if told:  # of the pictures themselves nothing is said where mosaics of them alone were measured
                    self.values.setdefault(method, {}).setdefault(example, {}).update(told)
                if not mosaic:
                    self.right[example] = record["label"] == record["predicted"]

    @property
    def stem(self) -> str:
        """The data set."""
        return self.name.rpartition("-")[0]

    @property
    def removal(self) -> str:
        """How tokens were removed."""
        return str(self.settings["removal"])

    @property
    def metrics(self) -> list[str]:
        """As they were asked for, and what is read off the curves beside their area."""
        asked = list(self.settings["metrics"])
        return [*asked, "srg"] if "abpc" in asked else asked

    def of(self, method: str, metric: str, examples: Sequence[int] | None = None) -> list[float]:
        """The values of some examples, by default of all that are done."""
        values = self.values.get(method, {})
        return [values[example][metric] for example in (values if examples is None else examples)]

    def mean(self, method: str, metric: str) -> float:
        """Over the examples for which it is defined."""
        values = [value for value in self.of(method, metric) if math.isfinite(value)]
        return sum(values) / len(values) if values else math.nan

    def cell(self, method: str, metric: str) -> str:
        """E.g. `0.573 [0.540, 0.606]`."""
        return number_with_interval(estimate(self.of(method, metric), 0))

    def difference(self, first: str, second: str, metric: str = "abpc") -> str:
        """First minus second, e.g. `+0.018 [+0.008, +0.029] (64)`, bold where the interval leaves out 0."""
        both = [example for example in self.values.get(first, {}) if example in self.values.get(second, {})]
        pairs = compare({name: self.of(name, metric, both) for name in (first, second)}, 0)
        if first == second or not pairs:
            return "-"
        (pair,) = pairs.values()
        told = f"{pair.difference:+.3f} [{pair.low:+.3f}, {pair.high:+.3f}]"
        return f"{f'**{told}**' if pair.low > 0 or pair.high < 0 else told} ({len(both)})"


def srg(morf: Sequence[float], lerf: Sequence[float]) -> float:
    """The mean distance between the curves in log-odds, over every tenth that is removed."""
    inner = [STEPS.index(share) for share in TENTHS]
    return sum(_log_odds(lerf[i]) - _log_odds(morf[i]) for i in inner) / len(inner)


def _log_odds(probability: float) -> float:
    inside = min(max(probability, 1e-12), 1 - 1e-12)
    return math.log(inside / (1 - inside))


def read(folder: Path) -> list[Records]:
    """The evaluations of a folder, in the order of `SETS` and `ASIDE`.

    Raises:
        InputError: if there is none, or two versions of the code made those of one data set.
    """
    places = [folder / f"{stem}-{how}" for stem, one in _all().items() for how in one.removals]
    begun = [Records(place) for place in places if (place / "records.jsonl").is_file()]
    found = [one for one in begun if one.values]
    if not found:
        expected = ", ".join(f"{stem}-{next(iter(one.removals))}" for stem, one in SETS.items())
        raise InputError(f"{folder} holds no evaluation: expected folders named {expected}")
    first: dict[str, Records] = {}
    for one in found:
        known = first.setdefault(one.stem, one)
        for name in ("code", "model", "fingerprint"):
            if one.settings[name] != known.settings[name]:
                raise InputError(
                    f"{known.name} and {one.name} differ in {name} ({known.settings[name]}, {one.settings[name]}): "
                    "evaluate one of them anew, results of two versions are never mixed"
                )
    return found


def _all() -> dict[str, Set]:
    return {**SETS, **ASIDE}


def page(found: Sequence[Records], place: str = "PAGE") -> str:
    """What the records say, in Markdown, with the command that writes it to a place."""
    curves = [one for one in found if one.stem in SETS]
    usual = [one for one in curves if one.removal == next(iter(SETS[one.stem].removals))]
    others = [one for one in curves if one not in usual]
    parts = ["## In one table\n", _summary(usual), *(_section(one) for one in usual)] if usual else []
    if others:
        parts.append(f"## Other ways of removal\n\nABPC, minus `{FIRST}`. {COPIES}\n")
        parts += [_by_removal(others, FIRST), f"The same, from `{OURS}`:\n", _by_removal(others, OURS)]
    parts += [_aside(one) for one in found if one.stem in ASIDE]
    parts.append("## Commands and versions\n\n" + _commands(found, place))
    return "\n".join(parts)


def _summary(found: Sequence[Records]) -> str:
    told = [
        f"ABPC; the first row is that of `{FIRST}`, the others are differences from it, in brackets the number of examples.\n",
        _differences(found, FIRST, lambda one: SETS[one.stem].short),
    ]
    for other in (RIVAL, OURS):
        told.append(f"The same, from `{other}`:\n")
        told.append(_differences(found, other, lambda one: SETS[one.stem].short))
    return "\n".join(told)


def _differences(found: Sequence[Records], first: str, heading: Any) -> str:
    methods = sorted({method for one in found for method in one.values}, key=_place)
    rows = [[f"`{first}`", passes(first), *(_absolute(one, first) for one in found)]]
    for method in methods:
        if method != first:
            rows.append([f"`{method}`", passes(method), *(one.difference(method, first) for one in found)])
    return markdown_table(["minus" if first != FIRST else "method", "passes", *map(heading, found)], rows) + "\n"


def _by_removal(found: Sequence[Records], first: str) -> str:
    return _differences(found, first, lambda one: f"{SETS[one.stem].short}, {one.removal}")


def _absolute(one: Records, method: str) -> str:
    values = one.of(method, "abpc")
    return f"{one.mean(method, 'abpc'):.3f} ({len(values)})" if values else "-"


def _section(one: Records) -> str:
    told = SETS[one.stem]
    order = sorted(one.values, key=lambda method: -one.mean(method, "abpc"))
    names = [f"{name} {ARROWS['higher' if name == 'srg' else find_metric(name).better]}" for name in one.metrics]
    best = {name: _best(one, name, order) for name in one.metrics}
    rows = []
    for method in order:
        cells = {name: one.cell(method, name) for name in one.metrics}
        cells = {name: f"**{cell}**" if best[name] == method else cell for name, cell in cells.items()}
        rows.append([f"`{method}`", *cells.values(), str(len(one.values[method]))])
    right = sum(one.right.values()) / len(one.right)
    return "\n".join(
        [
            f"## {told.title}, {told.removals[one.removal]}\n",
            markdown_table(["method", *names, "n"], rows) + "\n",
            f"The model names {right:.1%} of the {len(one.right)} examples as they are labelled.\n",
        ]
    )


def _aside(one: Records) -> str:
    told, (metric, *_) = ASIDE[one.stem], one.metrics
    rows = []
    for method in sorted(one.values, key=lambda method: -one.mean(method, metric)):
        cells = [one.cell(method, name) for name in one.metrics]
        against = [one.difference(method, FIRST, name) for name in one.metrics]
        rows.append([f"`{method}`", passes(method), *cells, *against, str(len(one.values[method]))])
    names = [f"{name} {ARROWS[find_metric(name).better]}" for name in one.metrics]
    minus = [f"{name} minus `{FIRST}`" for name in one.metrics]
    title = f"## {told.title}" if metric.startswith("grid") else f"## {told.title}, {told.removals[one.removal]}"
    return "\n".join(
        [f"{title}\n", ABOUT[metric], markdown_table(["method", "passes", *names, *minus, "n"], rows) + "\n"]
    )


def _best(one: Records, metric: str, methods: Sequence[str]) -> str:
    sign = -1 if metric != "srg" and find_metric(metric).better == "lower" else 1
    return max(methods, key=lambda method: sign * one.mean(method, metric))


def passes(method: str) -> str:
    """Forward and backward passes, `T` for one with each token; of methods that only remove tokens, forward passes."""
    found, _, options = read_name(method)
    for name in ("samples", "steps"):
        if name in found.defaults:
            the_input_itself = found.name == OURS
            return str(options.get(name, found.defaults[name]) + the_input_itself)
    return {"occlusion": "T", "legrad": "L"}.get(found.name, "1")


def _place(method: str) -> tuple[int, str]:
    told = passes(method)
    return (int(told) if told.isdecimal() else 10**6, method)


def _commands(found: Sequence[Records], place: str) -> str:
    lines = []
    for one in found:
        methods = ",".join(method for method in one.values if method != "random")
        lines.append(
            f"attcat evaluate DATA/{_all()[one.stem].data} {_all()[one.stem].others} \\\n"
            f"    --removal {one.removal} --output RECORDS/{one.name} \\\n"
            f"    --metrics {','.join(one.settings['metrics'])} \\\n    --methods {methods}"
        )
    made = [[one.name, f"`{one.settings['code'][:12]}`", one.settings["fingerprint"][:12]] for one in found]
    versions = markdown_table(["records", "code", "data"], made)
    lines.append(f"python -m attcat.demos.evaluation_page RECORDS --write {place}")
    note = (
        "The code's version is a hash of the library and of the model's adapter, so that it differs between models; that of "
        "the data is one of its content.\n"
    )
    return "\n".join(["```sh", *lines, "```\n", versions, "", note])


def main(arguments: Sequence[str] | None = None) -> str:
    """Print the tables, or put them between what an existing page begins with and its line `BELOW`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("records", type=Path, help="folder of the evaluations")
    parser.add_argument("--write", type=Path, metavar="PAGE", help="the page whose middle is replaced")
    given = parser.parse_args(arguments)
    if given.write is None:
        text = page(read(given.records))
        print(text)
        return text
    text = page(read(given.records), given.write.as_posix())
    old, line, below = given.write.read_text(encoding="utf-8").partition(BELOW)
    if not line:
        raise InputError(f"{given.write} has no line {BELOW!r}: add it above what is to stay")
    head = old[: old.index("\n## ") + 1] if "\n## " in old else old
    write_atomically(given.write, f"{head}{text}\n{BELOW}{below}".encode())
    print(f"wrote {given.write}")
    return text


if __name__ == "__main__":
    main()

"""The run: every method explains the same examples, and each explanation is measured.

Examples are shuffled with the seed and processed in parts. A part's results are one line of `records.jsonl`: an interrupted
run loses at most one part of one method. A smaller limit takes the first examples of a larger one, and methods can be added
later: only what is missing is computed.
"""

from __future__ import annotations

import hashlib
import math
import platform
import random
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from .. import render
from ..errors import InputError, OptionError
from ..explainer import Explainer
from ..explanation import Explanation
from ..metrics import Ablation, Metric, evaluate, find_metric, for_values, gold_tokens, perturbation_curves
from ..metrics.ablation import content_scores
from ..metrics.localisation import Mosaic, grid_pointing, mosaics
from ..metrics.perturbation import STEPS
from ..metrics.sanity import explain_two
from ..targets import find_class
from .data import Dataset, Example
from .log import RECORDS, Log
from .statistics import Comparison, Estimate, compare, estimate

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PART = {False: 64, True: 16}
"""How many texts, or pictures, are processed together."""
MOSAICS = 50

Make = Callable[[str], Explainer]
"""From a method's name, e.g. `attcat+libra`, to its Explainer."""
Tick = Callable[[int], None]
"""Receives how many examples of one method are done."""


@dataclass(frozen=True)
class Plan:
    """What is evaluated.

    Args:
        model: the model's name, for the report.
        methods: names, as an Explainer takes them; `random` is added.
        metrics: names, see `attcat.metrics.METRICS`.
        removal: how tokens are removed; None for the adapter's first way.
        limit: how many examples; None for all.
        seed: of the choice of examples, of `random`, of mosaics and of the bootstrap.
        truncation: truncate texts that are too long.
        conditions: what else the numbers depend on, by name, e.g. the size of the model's input.

    Raises:
        OptionError: if a metric does not exist, or there is nothing to evaluate.
    """

    model: str
    methods: tuple[str, ...]
    metrics: tuple[str, ...]
    removal: str | None = None
    limit: int | None = None
    seed: int = 0
    truncation: bool = False
    conditions: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in self.metrics:
            find_metric(name)
        if not self.methods or not self.metrics:
            raise OptionError("nothing to evaluate: name at least one method and one metric")
        object.__setattr__(self, "methods", tuple(dict.fromkeys([*self.methods, "random"])))
        object.__setattr__(self, "metrics", tuple(dict.fromkeys(self.metrics)))

    def of(self, kind: str) -> list[Metric]:
        """The metrics that read this."""
        return [metric for name in self.metrics if (metric := find_metric(name)).reads == kind]


@dataclass(frozen=True)
class Results:
    """What a run found.

    Args:
        plan: what was evaluated.
        settings: everything that the numbers depend on.
        accuracy: share of the examples whose gold label the model predicts; None without labels.
        values: method, metric, value per example (NaN where a metric is not defined).
        curves: method, `morf` or `lerf`, mean probability (of a regression: value) at `STEPS`; of a method nothing where no
            metric of the plan reads the curves.
        seconds: method, seconds per example.
        forward: seconds of a plain forward pass per example, in the same batches.
        records: method, the records of its examples.
    """

    plan: Plan
    settings: Mapping[str, Any]
    accuracy: float | None
    values: Mapping[str, Mapping[str, Sequence[float]]]
    curves: Mapping[str, Mapping[str, Sequence[float]]]
    seconds: Mapping[str, float]
    forward: float
    records: Mapping[str, Sequence[Mapping[str, Any]]]
    estimates: Mapping[str, Mapping[str, Estimate]] = field(init=False)
    comparisons: Mapping[str, Mapping[tuple[str, str], Comparison]] = field(init=False)

    def __post_init__(self) -> None:
        seed = self.plan.seed
        estimates = {m: {name: estimate(v, seed) for name, v in by.items()} for m, by in self.values.items()}
        names = self.plan.metrics
        object.__setattr__(self, "estimates", estimates)
        paired = {n: compare({m: by[n] for m, by in self.values.items() if n in by}, seed) for n in names}
        object.__setattr__(self, "comparisons", paired)

    @property
    def watched(self) -> str:
        """What falls when tokens are removed: the `probability` of the predicted class, or the `value` of a regression."""
        return str(self.settings.get("watched", "probability"))

    def plot(self, ax: Axes | None = None, curve: str = "morf") -> Axes:
        """The curves with matplotlib: what becomes of the prediction while tokens are removed, a line for each method.

        Args:
            ax: where to; by default a new figure of pyplot.
            curve: `morf` (most relevant first) or `lerf` (least relevant first).

        Raises:
            InputError: if matplotlib is not installed, or no metric of the run needed the curves.
        """
        lines = {method: by[curve] for method, by in self.curves.items() if curve in by}
        if not lines:
            raise InputError(f"there are no {curve} curves: evaluate with a metric that removes tokens, e.g. aopc")
        return render.curves(lines, STEPS, self.watched, ax)

    def best(self, metric: str) -> str | None:
        """The method with the best mean, except `random`; None if no method has a value."""
        sign = 1 if find_metric(metric).better == "higher" else -1
        means = {m: sign * e[metric].mean for m, e in self.estimates.items() if metric in e and e[metric].count}
        means.pop("random", None)
        return max(means, key=lambda name: means[name]) if means else None


def run(plan: Plan, data: Dataset, make: Make, folder: Path, tick: Tick = lambda done: None) -> Results:
    """Evaluate every method, resuming from what the folder already holds.

    Args:
        plan: what to evaluate.
        data: the examples.
        make: returns the Explainer for a method's name; also called with options that the run sets.
        folder: where `records.jsonl` is kept.
        tick: called with the progress.

    Raises:
        OptionError: if the folder holds an evaluation with other settings, or a metric does not fit the data.
        InputError: if an example cannot be used.
    """
    explainers = {name: make(name) for name in plan.methods}
    adapter = next(iter(explainers.values())).adapter
    chosen = choose(plan.seed, len(data.examples))[: plan.limit]
    _check(plan, data, [data.examples[index] for index in chosen])
    measured = adapter.head.activation == "none"
    if measured:
        for_values([find_metric(name) for name in plan.metrics])
    labels = [None] * len(chosen) if measured else _labels(data, chosen, explainers[plan.methods[0]])
    settings = _settings(plan, data, adapter.removal(plan.removal), measured, type(adapter))
    log = Log(folder / RECORDS, settings)
    size = PART[data.pictures]
    for start in range(0, len(chosen), size):
        part = chosen[start : start + size]
        missing = [name for name in plan.methods if not log.holds(name, part)]
        tick((len(plan.methods) - len(missing)) * len(part))
        if not missing:
            continue
        batch = Part(plan, [data.examples[index] for index in part], labels[start : start + size], adapter)
        for name in missing:
            log.add(name, part, batch.measure(explainers[name]))
            tick(len(part))
    if plan.of("mosaics"):
        _mosaics(plan, data, chosen, labels, explainers, log)
    return _results(plan, settings, log, chosen, size)


class Part:
    """Some examples, whose perturbed copies the methods share."""

    def __init__(self, plan: Plan, examples: Sequence[Example], labels: Sequence[int | None], adapter: Any) -> None:
        self.plan, self.examples, self.labels = plan, examples, labels
        self.inputs = [example.value for example in examples]
        self.ablation = Ablation(adapter, self.inputs, plan.removal, truncation=plan.truncation)
        self.predicted = self.ablation.predicted
        self.forward = self.ablation.seconds_per_pass()

    def measure(self, explainer: Explainer) -> list[dict[str, Any]]:
        """One record per example."""
        start = time.perf_counter()
        explanations = explainer(self.inputs, self.predicted.tolist(), truncation=self.plan.truncation)
        seconds = (time.perf_counter() - start) / len(self.inputs)
        curves = self._curves(explanations)
        values = self._faithfulness(explainer, explanations)
        values.update(self._classes(explainer))
        values.update(self._spans(explanations))
        values.update(self._boxes(explanations))
        values.update(self._other_pictures(explainer, explanations))
        values.update(self._shares(explanations))
        return [
            {
                "seconds": seconds,
                "forward": self.forward,
                "predicted": int(self.predicted[row]),
                "label": self.labels[row],
                "values": {name: _plain(column[row]) for name, column in values.items()},
                **{side: levels[row] for side, levels in curves.items()},
            }
            for row in range(len(self.inputs))
        ]

    def _curves(self, explanations: list[Explanation]) -> dict[str, list[list[float]]]:
        """The prediction of each example at `STEPS` while tokens are removed; nothing where no metric reads such curves."""
        if not self.plan.of("curves"):
            return {}
        curves = perturbation_curves(self.ablation, explanations, self.predicted, STEPS)
        return {"morf": curves.morf.level.tolist(), "lerf": curves.lerf.level.tolist()}

    def _faithfulness(self, explainer: Explainer, explanations: list[Explanation]) -> dict[str, Sequence[float]]:
        names = [metric.name for metric in (*self.plan.of("curves"), *self.plan.of("passes"))]
        found = evaluate(self.ablation, explanations, names, classes=self.predicted) if names else {}
        published = [metric.name for metric in self.plan.of("published")]
        if published:
            gold = [int(label) for label in self.labels if label is not None]
            told = self._of_gold(explainer, explanations, gold)
            found |= evaluate(self.ablation, told, published, labels=gold)
        return {name: column.tolist() for name, column in found.items()}

    def _of_gold(self, explainer: Explainer, explanations: list[Explanation], gold: list[int]) -> list[Explanation]:
        """Explanations of the gold label, which the published metrics watch: new ones where another class was predicted."""
        wrong = [row for row, label in enumerate(gold) if label != int(self.predicted[row])]
        told = list(explanations)
        if wrong:
            inputs, labels = [self.inputs[row] for row in wrong], [gold[row] for row in wrong]
            for row, explanation in zip(wrong, explainer(inputs, labels, truncation=self.plan.truncation), strict=True):
                told[row] = explanation
        return told

    def _classes(self, explainer: Explainer) -> dict[str, Sequence[float]]:
        metrics = self.plan.of("two classes")
        if not metrics:
            return {}
        told = explain_two(explainer, self.inputs, truncation=self.plan.truncation)
        first, second = (content_scores(self.ablation, explanations) for explanations in told)
        found: dict[str, Sequence[float]] = {}
        for metric in metrics:
            pairs = zip(first, second, strict=True)
            found[metric.name] = [float(metric.function([a], [b])) if len(a) > 1 else math.nan for a, b in pairs]  # type: ignore[arg-type]
        return found

    def _spans(self, explanations: list[Explanation]) -> dict[str, Sequence[float]]:
        metrics = self.plan.of("spans")
        found: dict[str, list[float]] = {metric.name: [] for metric in metrics}
        for row, scores in enumerate(content_scores(self.ablation, explanations) if metrics else ()):
            spans = self.examples[row].spans
            for metric in metrics:
                if spans is None:
                    found[metric.name].append(math.nan)
                    continue
                words = self._words(row)
                gold = self._gold(row, _in_text(explanations[row], self.inputs[row], spans))
                found[metric.name].append(float(metric.function(scores[words], gold[words])))  # type: ignore[arg-type]
        return dict(found)

    def _words(self, row: int) -> torch.Tensor:
        """bool `[n]`: of the tokens that can be removed those that are no patches."""
        return self._words_of_all(row)[self.ablation.content[row]]

    def _boxes(self, explanations: list[Explanation]) -> dict[str, Sequence[float]]:
        """Of explanations of pictures, or of pictures and questions."""
        metrics = self.plan.of("boxes")
        found: dict[str, list[float]] = {metric.name: [] for metric in metrics}
        for example, explanation in zip(self.examples, explanations, strict=True) if metrics else ():
            seen = explanation.of_image(0) if explanation.is_mixed else explanation
            for metric in metrics:
                value: Any = math.nan if example.boxes is None else metric.function(seen, example.boxes)
                found[metric.name].append(float(value))
        return dict(found)

    def _other_pictures(self, explainer: Explainer, explanations: list[Explanation]) -> dict[str, Sequence[float]]:
        """Against the explanation of the same class for the next picture that is another one, under the same question."""
        metrics = self.plan.of("other picture")
        found: dict[str, list[float]] = {metric.name: [] for metric in metrics}
        for row, explanation in enumerate(explanations if metrics else ()):
            others = [
                v for v in (*self.inputs[row + 1 :], *self.inputs[:row]) if _asks(v) and v[0] != self.inputs[row][0]
            ]
            pair: tuple[torch.Tensor, torch.Tensor] | None = None
            if _asks(self.inputs[row]) and others:
                other = explainer((others[0][0], self.inputs[row][1]), int(self.predicted[row]))
                pair = explanation.of_image(0).scores, other.of_image(0).scores
            for metric in metrics:
                comparable = pair is not None and len(pair[0]) == len(pair[1])
                value: Any = metric.function(*pair) if comparable and pair is not None else math.nan
                found[metric.name].append(float(value))
        return dict(found)

    def _shares(self, explanations: list[Explanation]) -> dict[str, Sequence[float]]:
        """Of the picture and of the question: their shares, and how far the log-odds fall without them."""
        metrics = self.plan.of("shares")
        found: dict[str, list[float]] = {metric.name: [] for metric in metrics}
        for row, explanation in enumerate(explanations if metrics else ()):
            if not _asks(self.inputs[row]):
                for metric in metrics:
                    found[metric.name].append(math.nan)
                continue
            content, seen = self.ablation.content[row], ~self._words_of_all(row)
            jobs = [(row, torch.zeros_like(content)), (row, content & seen), (row, content & ~seen)]
            logs = self.ablation.log_probabilities(jobs, self.predicted[[row] * 3])
            odds = logs - torch.log(-torch.expm1(logs.clamp(max=-1e-12)))
            shares = explanation.shares()
            for metric in metrics:
                value: Any = metric.function((shares.picture, shares.text), tuple((odds[0] - odds[1:]).tolist()))
                found[metric.name].append(float(value))
        return dict(found)

    def _words_of_all(self, row: int) -> torch.Tensor:
        """bool `[T]`: the tokens that are no patches."""
        tokens = self.ablation.tokens[row]
        return torch.tensor([place is None for place in tokens.places or (None,) * len(tokens)])

    def _gold(self, row: int, spans: Any) -> torch.Tensor:
        """bool `[n]`: gold tokens among those that can be removed, i.e. all but the explained one."""
        inner = ~torch.tensor(self.ablation.tokens[row].special)
        return gold_tokens(self.ablation.tokens[row], spans)[self.ablation.content[row][inner]]


def _asks(value: Any) -> bool:
    """Whether an input is a picture and a question."""
    return isinstance(value, tuple) and not isinstance(value[0], str)


def _in_text(explanation: Explanation, value: Any, spans: Sequence[Sequence[int]]) -> Sequence[Sequence[int]]:
    """Spans of a question about a picture as those of the text in which the model reads it; others as they are."""
    if not explanation.is_mixed:
        return spans
    at = explanation.texts[0].index(value[1])
    return [(start + at, end + at) for start, end in spans]


def _mosaics(
    plan: Plan,
    data: Dataset,
    chosen: list[int],
    labels: Sequence[int | None],
    explainers: dict[str, Explainer],
    log: Log,
) -> None:
    """The grid pointing game, on pictures that the model gets right."""
    adapter = explainers["random"].adapter
    inputs = [data.examples[index].value for index in chosen]
    right: list[int] = []
    for start in range(0, len(chosen), PART[True]):
        predicted = Ablation(adapter, inputs[start : start + PART[True]], plan.removal).predicted.tolist()
        right += [start + row for row, found in enumerate(predicted) if found == labels[start + row]]
    for metric in plan.of("mosaics"):
        shown = [int(label) for r in right if (label := labels[r]) is not None]
        boards = mosaics([inputs[r] for r in right], shown, side=metric.side, count=MOSAICS, seed=plan.seed)
        key = [metric.side, len(chosen)]
        for name, explainer in explainers.items():
            if not log.holds(f"{name} {metric.name}", key):
                log.add(f"{name} {metric.name}", key, [{"values": {metric.name: _board(explainer, b)}} for b in boards])


def _board(explainer: Explainer, board: Mosaic) -> float | None:
    """The mean share over the cells of one mosaic."""
    explanations = explainer(board.picture, list(board.classes))  # the cells' classes share a forward pass
    shares = torch.tensor(grid_pointing(board, explanations))
    return _plain(float(shares.nanmean()))


# -- before and after ----------------------------------------------------------------------------------------------------


def code_version(*used: type) -> str:
    """A fingerprint of this package's source, and of the files that define some classes from elsewhere.

    Args:
        *used: such classes, as an adapter's.
    """
    package = Path(__file__).parents[1]
    beside = {package / "adapters", package / "demos"}  # there if installed; in a checkout they lie elsewhere
    files = [path for path in sorted(package.rglob("*.py")) if not beside & set(path.parents)]
    found = hashlib.sha256()
    for path in files:
        found.update(path.relative_to(package).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    places = {getattr(sys.modules.get(one.__module__), "__file__", None) for one in used}  # None in a notebook
    for path in sorted({Path(place) for place in places if place} - set(files)):
        found.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    return found.hexdigest()[:16]


def _settings(plan: Plan, data: Dataset, removal: str, measured: bool, adapter: type) -> dict[str, Any]:
    """What a record depends on; the versions of other packages are in results.json, and do not forbid to go on."""
    return {
        "format": "attcat-evaluation-2",
        "code": code_version(adapter),
        "model": plan.model,
        "data": data.name,
        "fingerprint": data.fingerprint,
        "metrics": list(plan.metrics),
        "removal": removal,
        "seed": plan.seed,
        "truncation": plan.truncation,
        **({"watched": "value"} if measured else {}),
        **plan.conditions,
    }


def versions() -> dict[str, str]:
    """What the numbers were made with."""
    from importlib.metadata import PackageNotFoundError, version

    found = {"python": platform.python_version()}
    for package in ("attcat", "torch", "transformers", "timm", "numpy", "scipy", "captum"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def choose(seed: int, count: int) -> list[int]:
    """The examples' indices, shuffled with the seed; a limit takes the first of them."""
    order = list(range(count))
    random.Random(seed).shuffle(order)
    return order


def _check(plan: Plan, data: Dataset, examples: Sequence[Example]) -> None:
    """Check that the data has what the metrics need.

    Raises:
        OptionError: if it does not.
    """
    for kind, fits, needed in (
        ("published", all(e.label is not None for e in examples), "a gold label for each example"),
        ("spans", any(e.spans is not None for e in examples), "texts with gold spans"),
        ("boxes", any(e.boxes is not None for e in examples), "questions about pictures with boxes"),
        ("other picture", any(_asks(e.value) for e in examples), "questions about pictures"),
        ("shares", any(_asks(e.value) for e in examples), "questions about pictures"),
        ("mosaics", data.pictures and all(e.label is not None for e in examples), "pictures with their classes"),
    ):
        if plan.of(kind) and not fits:
            names = ", ".join(metric.name for metric in plan.of(kind))
            raise OptionError(f"{names} needs {needed}, which {data.name} does not have: leave it out of the metrics")


def _labels(data: Dataset, chosen: list[int], explainer: Explainer) -> list[int | None]:
    """Class indices. A label that is a number is an index, unless a class has that name.

    Raises:
        InputError: if the model has no such class.
    """
    known: dict[Any, int | None] = {None: None}
    if all(data.examples[index].label is None for index in chosen):
        return [None] * len(chosen)
    names = _class_names(explainer, data.examples[chosen[0]].value)
    for index in chosen:
        label = data.examples[index].label
        if label not in known:
            digits = isinstance(label, str) and label.strip().isdecimal() and label.strip() not in names
            try:
                known[label] = find_class(int(label) if digits else label, names)  # type: ignore[arg-type]
            except ValueError as error:
                raise InputError(f"label {label!r} of {data.name}: {error}") from error
    return [known[data.examples[index].label] for index in chosen]


def _class_names(explainer: Explainer, value: Any) -> Sequence[str]:
    ablation = Ablation(explainer, [value], truncation=True)
    return explainer.adapter.head.labels(ablation.encodings[0], 0, ablation.intact.shape[1])


def _results(plan: Plan, settings: Mapping[str, Any], log: Log, chosen: list[int], size: int) -> Results:
    parts = [chosen[start : start + size] for start in range(0, len(chosen), size)]
    records = {m: [r for part in parts for r in log.of(m, part)] for m in plan.methods}
    values: dict[str, dict[str, Sequence[float]]] = {}
    for method, lines in records.items():
        names = [name for name in plan.metrics if name in lines[0]["values"]]
        values[method] = {name: [_number(line["values"][name]) for line in lines] for name in names}
        for metric in plan.of("mosaics"):
            boards = log.of(f"{method} {metric.name}", [metric.side, len(chosen)])
            values[method][metric.name] = [_number(board["values"][metric.name]) for board in boards]
    first = records[plan.methods[0]]
    labelled = [line for line in first if line["label"] is not None]
    return Results(
        plan=plan,
        settings=settings,
        accuracy=sum(line["label"] == line["predicted"] for line in labelled) / len(labelled) if labelled else None,
        values=values,
        curves={
            method: {
                side: torch.tensor([line[side] for line in lines]).mean(0).tolist()
                for side in ("morf", "lerf")
                if side in lines[0]
            }
            for method, lines in records.items()
        },
        seconds={method: sum(line["seconds"] for line in lines) / len(lines) for method, lines in records.items()},
        forward=sum(line["forward"] for line in first) / len(first),
        records={m: [{"example": i, **r} for i, r in zip(chosen, lines, strict=True)] for m, lines in records.items()},
    )


def _plain(value: float) -> float | None:
    """For JSON, which has no NaN."""
    return value if math.isfinite(value) else None


def _number(value: float | None) -> float:
    return math.nan if value is None else value

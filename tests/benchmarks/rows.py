"""The rows of the table: each a function from options to figures."""

from __future__ import annotations

import io
import os
import resource
import statistics
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import workloads as w
from measure import Figure, alternating, child, ratios, resident
from PIL import Image
from torch import Tensor

import attcat
from attcat.demos import embedded

LENGTHS = (64, 128, 256, 512, 1024, 2048, 4096, 8192)
UP_TO = {"floor": 8192, "explain": 8192, "plain": 2048, "captum": 512}
"""How far each curve is drawn: beyond, the matrices of `plain` and the fifty copies of captum need gigabytes."""
PROFILE = """
import cProfile, pstats, sys
profile = cProfile.Profile()
profile.enable()
from attcat.cli import run
run(sys.argv[1:])
profile.disable()
pstats.Stats(profile).strip_dirs().sort_stats("cumtime").print_stats(30)
"""
SCALING = str(Path(__file__).with_name("scaling.py"))


@dataclass
class Options:
    """What the command line says, and what rows leave for the report beside their figures."""

    quick: bool = False
    data: Path | None = None
    extra: dict[str, Any] = field(default_factory=dict)

    @property
    def repeats(self) -> int:
        """Turns of each measurement."""
        return 3 if self.quick else 5


Row = Callable[[Options], Iterator[Figure]]


def time(options: Options) -> Iterator[Figure]:
    """An explanation, from model arguments and from the input itself; and the plain implementation; over the floor."""
    kinds = {"libra": 1.10, "plain rule": 1.10, "from the input": 1.15}
    medians: dict[str, list[float]] = {}
    for name, make in w.CASES.items():
        if options.quick and ("8" in name.split()[1] or "512" in name):
            continue
        case = make()
        explainers = [attcat.Explainer(case.model, case.processor, rule=rule) for rule in ("libra", "plain")]
        found = alternating(_works(case, explainers), options.repeats)
        for kind, bound in kinds.items():
            figure = Figure.of("time", f"{name}, {kind} / floor", ratios(found[kind], found["floor"]), at_most=bound)
            medians.setdefault(kind, []).append(figure.value)
            yield figure
        speedup = ratios(found["plain implementation"], found["libra"])
        yield Figure.of("time", f"{name}, plain implementation / libra", speedup, at_least=1.2)
    for kind, values in medians.items():
        bound = 1.05 if kind == "libra" else None
        mean = statistics.geometric_mean(values)
        yield Figure(
            "time", f"geometric mean, {kind} / floor", mean, min(values), max(values), len(values), at_most=bound
        )


def _works(case: w.Case, explainers: list[attcat.Explainer]) -> dict[str, Callable[[], object]]:
    libra, plain = explainers
    twin = w.eager(case.model)
    inputs = case.inputs if len(case.inputs) > 1 else case.inputs[0]
    return {
        "floor": lambda: w.floor(case.model, libra.adapter.blocks[0], case.arguments),
        "libra": lambda: libra(case.arguments),
        "plain rule": lambda: plain(case.arguments),
        "from the input": lambda: libra(inputs),
        "plain implementation": lambda: w.plain(twin, case.arguments),
    }


def captum(options: Options) -> Iterator[Figure]:
    """Integrated gradients by captum, 50 steps, over an explanation."""
    for length in (32,) if options.quick else (32, 128):
        model, arguments = w.seeded(w.bert), w.ids(1, length)
        explain = attcat.Explainer(model)
        works = _pair("captum", model, arguments, explain)
        found = alternating(works, options.repeats)
        speedup = ratios(found["captum"], found["explain"])
        yield Figure.of("captum", f"BERT-base 1x{length}, LayerIntegratedGradients(50) / libra", speedup, at_least=28)


def _pair(
    name: str, model: torch.nn.Module, arguments: dict[str, Tensor], explain: attcat.Explainer
) -> dict[str, Callable[[], object]]:
    return {name: lambda: w.captum(model, arguments), "explain": lambda: explain(arguments)}


def scaling(options: Options) -> Iterator[Figure]:
    """Time and memory over the number of tokens, each curve in a process of its own."""
    lengths = [n for n in LENGTHS if n <= (1024 if options.quick else 8192)]
    curves = {name: child(SCALING, name, *(str(n) for n in lengths if n <= limit)) for name, limit in UP_TO.items()}
    options.extra["scaling"] = curves
    for at in lengths:
        if at >= min(4096, lengths[-1]):
            seconds, memory = (
                [curves["explain"][str(at)][kind] / curves["floor"][str(at)][kind]] for kind in ("seconds", "peak")
            )
            yield Figure.of("scaling", f"Llama shape, {at} tokens, peak memory / floor", memory, at_most=1.10)
            yield Figure.of("scaling", f"Llama shape, {at} tokens, time / floor", seconds)
    if (largest := curves["explain"].get("matrices")) is not None:
        yield Figure.of("scaling", "tensors of T x T entries or more, at 2,048 tokens", [largest], unit="", at_most=0)


def matrix(options: Options) -> Iterator[Figure]:
    """Peak memory of methods that read attention matrices, BERT-base 1x512, against all of its L x H x T x T numbers."""
    whole = 12 * 12 * 512**2 * 4 / 2**20
    for method in ("rollout", "genatt", "transatt"):
        found = [child(SCALING, f"bert:{method}", "512")["512"]["peak"] / whole]
        yield Figure.of("matrix", f"{method}, BERT-base 1x512, peak / one L x H x T x T tensor", found)


def lists(options: Options) -> Iterator[Figure]:
    """Sentences one by one, and in a list."""
    texts, source = w.sentences(options.data, 200 if options.quick else 1000)
    explain = attcat.Explainer(*embedded.sentiment())
    works = {"one by one": lambda: [explain(text) for text in texts], "list": lambda: explain(texts)}
    found = alternating(works, options.repeats)
    name = f"{len(texts)} of {source}, one by one / list"
    yield Figure.of("lists", name, ratios(found["one by one"], found["list"]), at_least=2)


def flat(options: Options) -> Iterator[Figure]:
    """Resident memory over many explanations in one process."""
    count = 1000 if options.quick else 10_000
    explain, arguments = attcat.Explainer(w.seeded(w.tiny)), w.ids(1, 16)
    parts = []
    for _ in range(10):
        seen = []
        for _ in range(10):
            for _ in range(count // 100):
                explain(arguments)
            seen.append(resident())
        parts.append(statistics.mean(seen))
    name = f"resident memory over {count:,} explanations, last tenth / second tenth"
    yield Figure.of("flat", name, [parts[-1] / parts[1]], at_most=1.02)


def imports(options: Options) -> Iterator[Figure]:
    """`import attcat` after `import torch`."""
    code = "import torch, time; s = time.perf_counter(); import attcat; print(time.perf_counter() - s)"
    run = [sys.executable, "-c", code]
    found = [float(subprocess.run(run, capture_output=True, text=True, check=True).stdout) for _ in range(5)]
    yield Figure.of("imports", "import attcat, after import torch", found, unit="s", at_most=0.3)


def command(options: Options) -> Iterator[Figure]:
    """User seconds of `attcat explain` with the embedded models, and where they go."""
    inputs = {"a sentence": "A gripping film.", "a photograph": str(w.IMAGES / "dog.jpg")}
    program = [sys.executable, "-m", "attcat", "explain"]
    for name, value in inputs.items():
        found = [_user_seconds([*program, value]) for _ in range(options.repeats + 1)][1:]  # the first warms the disk
        yield Figure.of("command", f"attcat explain, {name}, user seconds", found, unit="s")
    done = subprocess.run(
        [sys.executable, "-c", PROFILE, "explain", inputs["a sentence"]], capture_output=True, text=True, check=True
    )
    options.extra["profile"] = [line.strip() for line in done.stdout.splitlines() if line.strip()][1:]


def _user_seconds(run: list[str]) -> float:
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    subprocess.run(run, capture_output=True, check=True, env={**os.environ, "HF_HUB_OFFLINE": "1"})
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before


def half(options: Options) -> Iterator[Figure]:
    """Rank correlation of the scores of a bfloat16 model with those of its float32 twin, for the same class."""
    count = 10 if options.quick else 100
    texts, source = w.sentences(options.data, count)
    kinds: dict[str, tuple[Any, list[Any]]] = {
        f"{len(texts)} of {source}": (embedded.sentiment, texts),
        "photographs": (embedded.objects, _photographs(options.data, count // 2)),
    }
    for name, (load, inputs) in kinds.items():
        single, double = load(), load()
        twins = attcat.Explainer(*single), attcat.Explainer(double[0].bfloat16(), double[1])
        found = []
        for value in inputs:
            expected = twins[0](value)
            found.append(spearman(expected.scores, twins[1](value, expected.target).scores))
        yield Figure.of("half", f"bfloat16 and float32, {name}, Spearman", found, unit="", at_least=0.99)


def spearman(a: Tensor, b: Tensor) -> float:
    """Rank correlation; scores are never tied."""
    ranks = torch.stack([x.argsort().argsort().float() for x in (a, b)])
    return float(torch.corrcoef(ranks)[0, 1])


def _photographs(data: Path | None, count: int) -> list[Image.Image]:
    if data is None:
        return [Image.open(path).convert("RGB") for path in sorted(w.IMAGES.glob("*.jpg"))][:count]
    with zipfile.ZipFile(data / "photos.zip") as archive:
        names = sorted(name for name in archive.namelist() if name.endswith(".jpg"))
        step = max(1, len(names) // count)
        return [Image.open(io.BytesIO(archive.read(name))).convert("RGB") for name in names[::step][:count]]


ROWS: dict[str, Row] = {
    row.__name__: row for row in (time, captum, scaling, matrix, lists, flat, imports, command, half)
}

"""What an explanation costs: the table of docs/benchmarks.md, and docs/benchmarks.json.

    python tests/benchmarks/speed.py [--only ROW ...] [--quick] [--rounds 5] [--data FOLDER] [--write]

Every figure is a ratio within one run, the median of at least five rounds (`--rounds`) in which the sides take turns, and of as
many as fill twenty seconds, where they are short. A row that cannot be measured is told as failed, and the rest goes on.
`--quick` takes fewer rounds and smaller sets, to see whether the benchmark works; its figures mean nothing. FOLDER holds
sst2/dev.tsv and cifar10.zip.
"""

from __future__ import annotations

import argparse
import copy
import json
import os
import platform
import pstats
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from datetime import date
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from floor import (
    CASES,
    Case,
    bert,
    floor,
    ids,
    integrated,
    llava,
    mixed,
    plain,
    ratios,
    rounds,
    seeded,
    writer,
    written,
)
from PIL import Image
from scipy.stats import spearmanr
from torch import nn

import attcat
from attcat.demos import embedded
from attcat.demos.train_objects import read as read_pictures
from attcat.demos.train_sentiment import read as read_sentences
from attcat.files import write_atomically

ROOT = Path(__file__).parents[2]
PAGE, RECORD = ROOT / "docs" / "benchmarks.md", ROOT / "docs" / "benchmarks.json"
BEGIN, END = "<!-- table: tests/benchmarks/speed.py --write -->", "<!-- end of the table -->"
ISOLATED = Path(__file__).with_name("isolated.py")
SENTENCE = "A gripping, beautifully acted film, though the ending is a mess."


@dataclass(frozen=True)
class Figure:
    """One line of the table.

    Args:
        work: what was done, over what.
        figure: the ratio, or what `unit` says.
        target: the most it may be (or the least, if `least`); None if it is only told.
    """

    work: str
    figure: float
    target: float | None = None
    least: bool = False
    unit: str = ""
    note: str = ""

    @property
    def result(self) -> str:
        if self.target is None:
            return "told"
        return "met" if (self.figure >= self.target if self.least else self.figure <= self.target) else "missed"

    @classmethod
    def median(cls, work: str, values: list[float], *further: Any, **named: Any) -> Figure:
        spread = f"{min(values):.3g} to {max(values):.3g}"
        return cls(work, statistics.median(values), *further, note=spread, **named)


@dataclass(frozen=True)
class Effort:
    """How much is measured: the whole, or a quick look."""

    rounds: int = 5
    seconds: float = 20.0
    sentences: int = 1000
    examples: int = 100
    pictures: int = 50
    explanations: int = 10_000
    tokens: tuple[int, ...] = (4096, 8192)
    data: Path | None = None


QUICK = {
    "rounds": 2,
    "seconds": 0.0,
    "sentences": 16,
    "examples": 6,
    "pictures": 3,
    "explanations": 200,
    "tokens": (512,),
}
Row = Callable[[Effort], Iterator[Figure]]


# -- time ------------------------------------------------------------------------------------------------------------


def against_floor(name: str, effort: Effort) -> Iterator[Figure]:
    """AttCAT under both rules, OddsCAT, the plain implementation, and the whole call from a string or picture, over the floor."""
    case = CASES[name]
    model, eager = seeded(case.make), seeded(case.make, "eager")
    processor, raw = human_input(case)
    libra, published = (attcat.Explainer(model, None, method="attcat", rule=rule) for rule in ("libra", "plain"))
    works = {
        "floor": partial(floor, model, libra.adapter.blocks[0], case.arguments),
        "libra": partial(libra, case.arguments),
        "published": partial(published, case.arguments),
        "oddscat": partial(attcat.Explainer(model, None, method="oddscat"), case.arguments),
        "plain": partial(plain, eager, case.arguments),
        "whole": partial(attcat.Explainer(model, processor), raw),
    }
    found = rounds(works, effort.rounds, effort.seconds)
    yield Figure.median(f"{name}: AttCAT, libra / floor", ratios(found, "libra", "floor"), 1.10)
    yield Figure.median(f"{name}: AttCAT, plain rule / floor", ratios(found, "published", "floor"), 1.10)
    yield Figure.median(f"{name}: OddsCAT / floor", ratios(found, "oddscat", "floor"), 1.10)
    yield Figure.median(f"{name}: from string or picture to Explanation / floor", ratios(found, "whole", "floor"), 1.15)
    yield Figure.median(f"{name}: plain implementation / AttCAT, libra", ratios(found, "plain", "libra"), 1.2, True)


def words_and_patches(effort: Effort) -> Iterator[Figure]:
    """A picture and a question in one sequence: the whole call, over a forward pass and the gradient at the first block."""
    model, arguments = seeded(llava), mixed(64)
    explainer = attcat.Explainer(model, None)
    explainer(arguments)  # where the patches lie is found once
    last: dict[str, Any] = {**arguments, "logits_to_keep": 1}
    works = {
        "floor": partial(floor, model, explainer.adapter.blocks[0], last),
        "whole": partial(explainer, arguments),
    }
    found = rounds(works, effort.rounds, effort.seconds)
    yield Figure.median("LLaVA, 576 patches and 64 words: OddsCAT / floor", ratios(found, "whole", "floor"), 1.15)


def human_input(case: Case) -> tuple[Any, Any]:
    """A processor, and strings or pictures that it makes the case's sizes of."""
    if "pixel_values" in case.arguments:
        pictures = [photograph()] * len(case.arguments["pixel_values"])
        return transformers.ViTImageProcessorPil(), pictures if len(pictures) > 1 else pictures[0]
    rows, length = case.arguments["input_ids"].shape
    if case.make is bert:
        tokenizer = embedded.sentiment_encoder()[2]
    else:
        sys.path.insert(0, str(ROOT / "tests"))
        from tokenizers_small import byte_bpe

        tokenizer = copy.deepcopy(byte_bpe(specials=False))
    tokenizer.model_max_length = 1024
    text = "film"
    while len(tokenizer(text, truncation=False)["input_ids"]) < length:
        text += " film"
    if (real := len(tokenizer(text, truncation=False)["input_ids"])) != length:
        raise RuntimeError(f"a text of {real} tokens where {length} were wanted")
    return tokenizer, [text] * rows if rows > 1 else text


def photograph() -> Image.Image:
    return Image.open(ROOT / "demos" / "images" / "dog.jpg").convert("RGB")


def captum(effort: Effort) -> Iterator[Figure]:
    """Integrated gradients with 50 steps."""
    model, arguments = seeded(bert), ids(1, 128)
    works = {
        "captum": partial(integrated, model, arguments),
        "attcat": partial(attcat.Explainer(model, None, method="attcat"), arguments),
    }
    found = ratios(rounds(works, effort.rounds), "captum", "attcat")
    yield Figure.median("BERT-base 1x128: captum LayerIntegratedGradients, 50 steps / AttCAT", found, 28.0, True)


def sentences(effort: Effort, count: int) -> list[str]:
    """SST-2's development set, or made-up sentences of about its lengths (mean 19 words, standard deviation 9)."""
    if effort.data is not None:
        return read_sentences(effort.data / "sst2" / "dev.tsv")[0][:count]
    draw = random.Random(0)
    words = SENTENCE.strip(".").replace(",", "").lower().split()
    return [" ".join(draw.choices(words, k=max(2, round(draw.gauss(19, 9))))) for _ in range(count)]


def listed(effort: Effort) -> Iterator[Figure]:
    """A list in one call against one call for each."""
    explain, texts = attcat.Explainer(*embedded.sentiment()), sentences(effort, effort.sentences)
    works = {"one by one": lambda: [explain(text) for text in texts], "list": partial(explain, texts)}
    found = ratios(rounds(works, effort.rounds), "one by one", "list")
    yield Figure.median(f"embedded model, {len(texts)} sentences: one by one / one list", found, 2.0, True)


def targets(effort: Effort) -> Iterator[Figure]:
    """Several targets of one input share the forward pass."""
    explain, arguments = attcat.Explainer(seeded(bert), None), ids(1, 128)
    works = {
        "one": partial(explain, arguments),
        "three": partial(explain, arguments, top_k=3),
        "contrast": partial(explain, arguments, (0, 1)),
    }
    found = rounds(works, effort.rounds)
    yield Figure.median("BERT-base 1x128: top_k=3 / one target", ratios(found, "three", "one"))
    yield Figure.median("BERT-base 1x128: contrast / one target", ratios(found, "contrast", "one"), 1.10)


def generation(effort: Effort) -> Iterator[Figure]:
    """Fifty written tokens after a prompt of 500: together, one by one, and the answer as a whole."""
    model, prompt, answer = seeded(writer), 500, 50
    tokens = ids(1, prompt + answer)["input_ids"]
    given, said = {"input_ids": tokens[:, :prompt]}, tokens[0, prompt:]
    for rule, limits in {"libra": (0.6, 1.15), "plain": (None, None)}.items():
        explain = attcat.Explainer(model, None, method="attcat", rule=rule)

        def alone(explain: attcat.Explainer = explain) -> None:
            for end in range(prompt, prompt + answer):
                explain({"input_ids": tokens[:, :end]}, target=int(tokens[0, end]))

        works: dict[str, Callable[[], Any]] = {
            "together": lambda explain=explain: explain(given, answer=said).explanations,
            "one by one": alone,
        }
        found = ratios(rounds(works, effort.rounds), "together", "one by one")
        yield Figure.median(f"Llama's shape, 500 + 50 tokens, {rule}: written tokens / one by one", found, limits[0])
        works = {
            "whole": lambda explain=explain: explain(given, answer=said).total,
            "floor": partial(written, model, explain.adapter.blocks[0], tokens, answer),
        }
        found = ratios(rounds(works, effort.rounds, effort.seconds), "whole", "floor")
        yield Figure.median(f"Llama's shape, 500 + 50 tokens, {rule}: the whole answer / floor", found, limits[1])


# -- memory ----------------------------------------------------------------------------------------------------------


def isolated(*arguments: object) -> dict[str, float]:
    """A measurement in a process of its own."""
    done = subprocess.run(
        [sys.executable, str(ISOLATED), *map(str, arguments)], capture_output=True, text=True, timeout=600, check=False
    )
    if done.returncode:
        raise RuntimeError(
            f"isolated.py {' '.join(map(str, arguments))}: {(done.stderr.splitlines() or ['killed'])[-1]}"
        )
    return json.loads(done.stdout.splitlines()[-1])


def memory(effort: Effort) -> Iterator[Figure]:
    """Long inputs, under AttCAT's rule and the default's: the peak above a loaded model, and the largest tensor."""
    for tokens in effort.tokens:
        base, whole = isolated("peak", "floor", tokens), 4 * tokens * tokens
        for shown, name in {"AttCAT": "attcat", "OddsCAT": "oddscat"}.items():
            ours, work = isolated("peak", name, tokens, "--largest"), f"Llama shape, {tokens} tokens: {shown}'s"
            told = f"{ours['peak'] / 2**20:.0f} MiB over {base['peak'] / 2**20:.0f} MiB"
            yield Figure(f"{work} peak memory / floor's", ours["peak"] / base["peak"], 1.10, note=told)
            told = f"{ours['largest']:,} elements; H x T x T would be {whole:,}"
            yield Figure(f"{work} largest tensor / H x T x T", ours["largest"] / whole, 0.5, note=told)


def quadratic(effort: Effort) -> Iterator[Figure]:
    """The methods that need attention matrices."""
    tokens = min(1024, *effort.tokens) if len(effort.tokens) == 1 else 1024
    base = isolated("peak", "attcat", tokens)["peak"]
    for name in ("rollout", "genatt", "transatt"):
        ours = isolated("peak", name, tokens)["peak"]
        told = f"{ours / 2**20:.0f} MiB over {base / 2**20:.0f} MiB"
        yield Figure(f"Llama shape, {tokens} tokens: {name}'s peak memory / AttCAT's", ours / base, note=told)


def flat(effort: Effort) -> Iterator[Figure]:
    """Many explanations in one process."""
    count = effort.explanations
    found = isolated("flat", count)
    told = f"{found['second'] / 2**20:.1f} and {found['last'] / 2**20:.1f} MiB"
    work = f"tiny model, {count:,} explanations: resident memory, last tenth / second tenth"
    yield Figure(work, found["last"] / found["second"], 1.02, note=told)


# -- the library and the command -----------------------------------------------------------------------------------------


def importing(effort: Effort) -> Iterator[Figure]:
    """`import attcat` above `import torch`, each in new processes that take turns."""
    works = {
        name: partial(subprocess.run, [sys.executable, "-c", program], check=True)
        for name, program in {"torch": "import torch", "attcat": "import torch, attcat"}.items()
    }
    found = [times["attcat"] - times["torch"] for times in rounds(works, effort.rounds + 4)]
    yield Figure.median("import attcat, more than import torch", found, 0.3, unit="s")


def command(effort: Effort) -> Iterator[Figure]:
    """`attcat explain` with both embedded models, and where its time goes."""
    with tempfile.TemporaryDirectory() as folder:
        inputs = ["explain", SENTENCE, str(ROOT / "demos" / "images" / "dog.jpg"), "--output", folder]
        run = partial(subprocess.run, check=True, capture_output=True)
        used = []
        for _ in range(effort.rounds + 1):
            before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
            run([sys.executable, "-m", "attcat", *inputs])
            used.append(resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before)
        file = str(Path(folder) / "profile")
        run([sys.executable, "-m", "cProfile", "-o", file, "-m", "attcat", *inputs])
        profile = "; ".join(slowest(file))
    work = "attcat explain, a sentence and a photograph, embedded models"
    yield Figure.median(work, used[1:], unit="s user")
    yield Figure(f"profile of it, seconds of own time: {profile}", float("nan"))


def slowest(file: str) -> list[str]:
    """The ten functions with most time of their own."""
    stats: dict[Any, Any] = vars(pstats.Stats(file))["stats"]
    best = sorted(stats.items(), key=lambda item: -item[1][2])[:10]
    return [f"`{Path(path).name}:{name.strip('<>')}` {own:.2f}" for (path, _, name), (_, _, own, *_) in best]


# -- half precision -----------------------------------------------------------------------------------------------------


def half(effort: Effort) -> Iterator[Figure]:
    """The order of the scores in bfloat16 against float32."""
    yield from agreement("sentences", *embedded.sentiment(), sentences(effort, effort.examples))
    yield from agreement("pictures", *embedded.objects(), pictures(effort))


def pictures(effort: Effort) -> list[Image.Image]:
    """CIFAR-10's test set, taken evenly; or pieces of the photographs that come with the library."""
    if effort.data is not None:
        found = [picture for picture, _ in read_pictures(effort.data / "cifar10.zip", "cifar10/test")]
        return found[:: len(found) // effort.pictures][: effort.pictures]
    draw, files = random.Random(0), sorted((ROOT / "demos" / "images").glob("*.jpg"))
    found = []
    for index in range(effort.pictures):
        whole = Image.open(files[index % len(files)]).convert("RGB")
        side = draw.randint(min(whole.size) // 2, min(whole.size))
        left, top = draw.randint(0, whole.width - side), draw.randint(0, whole.height - side)
        found.append(whole.crop((left, top, left + side, top + side)))
    return found


def agreement(kind: str, model: nn.Module, processor: Any, inputs: list[Any]) -> Iterator[Figure]:
    twin = copy.deepcopy(model).to(torch.bfloat16)
    for method in ("attcat", "cat"):
        single = [attcat.Explainer(model, processor, method=method)(value) for value in inputs]
        explain = attcat.Explainer(twin, processor, method=method)
        found = [
            float(spearmanr(one.scores, explain(value, one.target).scores).statistic)
            for one, value in zip(single, inputs, strict=True)
        ]
        low, high = np.quantile(found, [0.05, 0.95])
        work = f"{len(inputs)} {kind}, {method}, libra: Spearman of bfloat16 and float32, median"
        limit = 0.99 if method == "attcat" else None
        yield Figure(work, statistics.median(found), limit, True, note=f"5 to 95 %: {low:.3f} to {high:.3f}")


# -- the table ----------------------------------------------------------------------------------------------------------

ROWS: dict[str, Row] = {
    **{name: partial(against_floor, name) for name in CASES},
    "words and patches": words_and_patches,
    "captum": captum,
    "list": listed,
    "targets": targets,
    "generation": generation,
    "memory": memory,
    "quadratic": quadratic,
    "flat": flat,
    "import": importing,
    "command": command,
    "bfloat16": half,
}


def measure(name: str, effort: Effort) -> list[dict[str, Any]]:
    """The figures of a row, or what went wrong."""
    start, found = time.perf_counter(), []
    try:
        for figure in ROWS[name](effort):
            told = {**asdict(figure), "result": figure.result, "date": str(date.today())}
            if figure.figure != figure.figure:  # a text without a figure
                told["figure"] = None
            found.append(told)
            print(line(told), flush=True)
    except Exception as error:
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        found.append({"work": name, "figure": None, "result": "failed", "note": reason, "date": str(date.today())})
        print(line(found[-1]), flush=True)
    print(f"    {name}: {time.perf_counter() - start:.0f} s", file=sys.stderr, flush=True)
    return found


def means(record: dict[str, list[dict[str, Any]]]) -> list[dict[str, Any]]:
    """The geometric means over the sizes."""
    found = []
    for kind, target in (("AttCAT, libra", 1.05), ("AttCAT, plain rule", 1.05), ("OddsCAT", 1.05)):
        values = [
            figure["figure"]
            for name in CASES
            for figure in record.get(name, [])
            if figure["work"].endswith(f"{kind} / floor")
        ]
        if len(values) == len(CASES):
            mean = Figure(f"geometric mean: {kind} / floor", statistics.geometric_mean(values), target)
            found.append({**asdict(mean), "result": mean.result, "date": str(date.today())})
    return found


def line(told: dict[str, Any]) -> str:
    figure = "" if told["figure"] is None else f"{told['figure']:.3f} {told['unit']}".strip()
    target = told.get("target")
    limit = "" if target is None else f"{'at least' if told['least'] else 'at most'} {target:g}"
    return f"| {told['work']} | {figure} | {limit} | {told['result']} | {told['note'].replace('|', '/')} |"


def machine() -> dict[str, Any]:
    """What it ran on."""
    information = Path("/proc/cpuinfo")
    lines = information.read_text(encoding="utf-8").splitlines() if information.exists() else []
    models = [text.partition(":")[2].strip() for text in lines if text.startswith("model name")]
    return {
        "cpu": models[0] if models else platform.processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "transformers", "captum")},
    }


def table(record: dict[str, Any]) -> str:
    rows = [figure for figures in record["rows"].values() for figure in figures]
    about = record["machine"]
    return "\n".join(
        [
            "",
            f"Measured {' and '.join(sorted({row['date'] for row in rows}))} on {about['cores']} cores ({about['cpu']}), "
            f"{about['threads']} threads, Python {about['python']}, torch {about['torch']}, "
            f"transformers {about['transformers']}, captum {about['captum']}; data: {record['data']}.",
            "",
            "| work | figure | target | result | lowest to highest, or what it is made of |",
            "|---|---|---|---|---|",
            *map(line, rows),
            "",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", choices=ROWS, help="measure these; the others keep what the record says")
    parser.add_argument("--quick", action="store_true", help="a short look; nothing is written")
    parser.add_argument("--data", type=Path, help="a folder with sst2/dev.tsv and cifar10.zip")
    parser.add_argument(
        "--rounds", type=int, default=Effort.rounds, help="at least so many; on a noisy machine more help"
    )
    parser.add_argument("--write", action="store_true", help=f"write {RECORD.name} and the table of {PAGE.name}")
    given = parser.parse_args()
    if given.quick and given.write:
        parser.error("--quick measures too little to be written: leave out one of --quick and --write")
    data = given.data if given.data is not None and (given.data / "sst2" / "dev.tsv").exists() else None
    if given.data is not None and data is None:
        parser.error(f"--data {given.data}: no sst2/dev.tsv in it")
    effort = Effort(data=data, **(QUICK if given.quick else {"rounds": given.rounds}))
    warnings.simplefilter("ignore")
    transformers.logging.set_verbosity_error()

    known = json.loads(RECORD.read_text(encoding="utf-8"))["rows"] if given.only and RECORD.exists() else {}
    measured = {name: measure(name, effort) for name in ROWS if given.only is None or name in given.only}
    found = {name: measured.get(name, known.get(name)) for name in ROWS if name in measured or name in known}
    found["means"] = means(found)
    for told in found["means"]:
        print(line(told))
    record = {
        "machine": machine(),
        "data": "SST-2 and CIFAR-10" if data else "made-up sentences, pieces of the embedded photographs",
        "rows": found,
    }
    if given.write:
        write_atomically(RECORD, (json.dumps(record, indent=1) + "\n").encode())
        before, _, rest = PAGE.read_text(encoding="utf-8").partition(BEGIN)
        write_atomically(PAGE, (before + BEGIN + table(record) + END + rest.partition(END)[2]).encode())


if __name__ == "__main__":
    main()

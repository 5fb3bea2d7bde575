"""What does the command line add to the explanations themselves? Paired ratios, pictures and texts.

    python tests/benchmarks/shell.py DATA --texts 500 --pictures 200 --repeats 3

DATA has `sst2/dev.tsv`, and in `photos/labelled` a folder of photographs for each class, which are used again under other
names where they are too few. The command explains and writes a file for each (a .jsonl for all texts); the loop explains the same
and writes nothing. Both load the embedded model, in one process that has imported everything, and alternate.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import itertools
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import attcat
from attcat.cli import run
from attcat.demos.embedded import objects, sentiment

TOGETHER, LIMIT = 64, 1.15


def texts(data: Path, count: int, folder: Path) -> tuple[list[str], list[str]]:
    """A table of `count` sentences as the argument of a command, and the sentences."""
    lines = (data / "sst2" / "dev.tsv").read_text(encoding="utf-8").splitlines()[:count]
    table = folder / "reviews.tsv"
    table.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return [str(table), "--output", str(folder / "texts.jsonl")], [line.rsplit("\t", 1)[0] for line in lines]


def pictures(data: Path, count: int, folder: Path) -> tuple[list[str], list[Path]]:
    """A folder of `count` photographs as the argument of a command, and their paths."""
    found = itertools.cycle(sorted((data / "photos" / "labelled").rglob("*.jpg")))
    (folder / "in").mkdir()
    paths = [folder / "in" / f"{number:04}.jpg" for number in range(count)]
    for path, source in zip(paths, found, strict=False):
        shutil.copy(source, path)
    return [str(folder / "in"), "--output", str(folder / "maps") + "/"], paths


def loop(load: Callable[[], tuple[object, object]], inputs: list[object]) -> None:
    """What the command does, without a file or a line."""
    explainer = attcat.Explainer(*load())
    for start in range(0, len(inputs), TOGETHER):
        explainer(inputs[start : start + TOGETHER])


def command(arguments: list[str], output: Path) -> None:
    """The command, from an empty output; its lines go nowhere."""
    shutil.rmtree(output, ignore_errors=True)
    output.unlink(missing_ok=True) if output.is_file() else None
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        if run(["explain", *arguments]):
            raise RuntimeError("the command failed")


def spent(work: Callable[[], None]) -> tuple[float, float]:
    """Seconds by the clock, and of the processor in all threads."""
    clock, processor = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - clock, time.process_time() - processor


def main() -> None:
    """Measure, print, and fail if the limit is exceeded."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--texts", type=int, default=500)
    parser.add_argument("--pictures", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    slow = False
    for name, count, make, load in (
        ("texts", given.texts, texts, sentiment),
        ("pictures", given.pictures, pictures, objects),
    ):
        with tempfile.TemporaryDirectory() as folder:
            arguments, inputs = make(given.data, count, Path(folder))
            output = Path(arguments[-1])
            command([*arguments], output)
            loop(load, inputs[:2])
            rounds = []
            for _ in range(given.repeats):
                rounds.append((spent(lambda: command(arguments, output)), spent(lambda: loop(load, inputs))))  # noqa: B023
                (_, shell), (_, alone) = rounds[-1]
                print(f"{name}: {shell:.1f} s of the processor, {alone:.1f} s alone", file=sys.stderr, flush=True)
        for number, unit in enumerate(("clock", "processor")):
            ratio = statistics.median(shell[number] / alone[number] for shell, alone in rounds)
            medians = [statistics.median(one[side][number] for one in rounds) for side in (0, 1)]
            print(
                f"{count} {name}, {unit}: {medians[0]:.1f} s, {medians[1]:.1f} s alone; ratio {ratio:.2f}", flush=True
            )
        slow = slow or ratio > LIMIT  # of the processor: the clock is for two free cores
    sys.exit(slow)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()

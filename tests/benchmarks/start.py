"""What does the command line cost before it explains? Processor time of programs, as ratios.

    python tests/benchmarks/start.py --repeats 5

`attcat explain` of a sentence with the embedded model, over a program that imports torch and transformers and loads the same
model. The two alternate in one run, so that what else the machine does falls on both. Then the commands that need no model, and
mistakes that are seen without one.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys

SENTENCE = "A gripping, beautifully acted film, though the ending is a mess."
EXPLAIN = (sys.executable, "-m", "attcat", "explain", SENTENCE)
LOADING = "import torch, transformers; from attcat.demos.embedded import sentiment; sentiment()"
LOAD = (sys.executable, "-c", LOADING)
AT_ONCE = ("--help", "--version", "methods")
WRONG = ("explain nowhere.jpg", "explain film --method nothing")
LIMIT, SECONDS = 1.3, {AT_ONCE: 0.3, WRONG: 0.5}
"""The ratio, and the processor time of what needs no model, that are not to be exceeded."""


def spent(command: tuple[str, ...], code: int = 0) -> float:
    """Seconds of processor time that a program took, with the programs that it started.

    Raises:
        RuntimeError: if its exit code was another.
    """
    before = os.times()
    if subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False).returncode != code:
        raise RuntimeError(f"{' '.join(command)} did not end with {code}")
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def main() -> None:
    """Measure, print, and fail if a limit is exceeded."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    repeats: int = parser.parse_args().repeats
    spent(LOAD)  # files come from the disk once
    pairs = [(spent(EXPLAIN), spent(LOAD)) for _ in range(repeats)]
    explained, loaded = (statistics.median(side) for side in zip(*pairs, strict=True))
    ratio = statistics.median(one / other for one, other in pairs)
    print(
        f"attcat explain: {explained:.2f} s, importing and loading: {loaded:.2f} s; ratio {ratio:.2f} (limit {LIMIT})"
    )
    slow = ratio > LIMIT
    for names, limit in SECONDS.items():
        for name in names:
            command, code = (sys.executable, "-m", "attcat", *name.split()), 2 * (names is WRONG)
            seconds = statistics.median(spent(command, code) for _ in range(repeats))
            print(f"attcat {name}: {seconds:.2f} s (limit {limit})", flush=True)
            slow = slow or seconds > limit
    sys.exit(slow)


if __name__ == "__main__":
    main()

"""What an explanation costs, as ratios to the floor within one run.

    python tests/benchmarks/speed.py [--only ROW ...] [--quick] [--data FOLDER] [--write FOLDER]

The floor is a forward pass in the model's default attention plus `torch.autograd.grad` of the logit with respect to the
first block's input, nothing recorded. Times are wall clock; each figure is the median of at least five repeats in which
the works take turns. Memory is measured in processes of their own. A row that fails is told, and the others go on.
The data folder holds SST-2 and photographs; without it made-up sentences and the demos' pictures stand in.
"""

from __future__ import annotations

import argparse
import sys
import time
import warnings
from pathlib import Path

import report
from rows import ROWS, Options


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", choices=ROWS, default=list(ROWS), metavar="ROW", help=", ".join(ROWS))
    parser.add_argument("--quick", action="store_true", help="smaller inputs and fewer repeats, to try the benchmark")
    parser.add_argument("--data", type=Path, help="folder with sst2/ and photos.zip")
    parser.add_argument("--write", type=Path, help="write benchmarks.json, benchmarks.md and scaling.svg there")
    given = parser.parse_args()

    warnings.simplefilter("ignore")
    options = Options(given.quick, given.data)
    figures, failures, seconds = [], {}, {}
    print(*(f"{name}: {value}" for name, value in report.machine().items()), sep="\n", end="\n\n", flush=True)
    for name in given.only:
        start = time.monotonic()
        try:
            for figure in ROWS[name](options):
                figures.append(figure)
                print(report.line(figure), flush=True)
        except Exception as error:  # one row must not cost the others
            failures[name] = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            print(f"| {name}: failed | {failures[name]} |", flush=True)
        seconds[name] = round(time.monotonic() - start, 1)
        print(f"({name}: {seconds[name]} s)", flush=True)
    if given.write:
        report.write(figures, failures, options.extra, seconds, given.write)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())

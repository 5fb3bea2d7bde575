"""What one piece of work takes in a process of its own, as one line of JSON.

    python tests/benchmarks/isolated.py peak floor|plain|captum|METHOD TOKENS [--repeats N] [--largest]
    python tests/benchmarks/isolated.py flat COUNT

`peak`: on the small Llama, the peak of resident memory above what was resident when model and explainer stood ready (Linux'
`VmHWM`, so one process for each; `ru_maxrss` would begin with the parent's), the median seconds of the repeats after it, and
with `--largest` the most elements of any tensor made.
`flat`: the resident memory at each of so many explanations of a tiny model.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import torch
from floor import floor, ids, integrated, llama, plain, seconds, seeded, tiny
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

import attcat


class Largest(TorchDispatchMode):
    """Notes the largest tensor that any operation gives."""

    def __init__(self) -> None:
        super().__init__()
        self.elements = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            # An expanded view of few elements holds no more than its storage.
            if isinstance(leaf, Tensor):
                self.elements = max(self.elements, leaf.untyped_storage().nbytes() // leaf.element_size())
        return result


def resident() -> int:
    """Bytes of this process that are in memory now."""
    pages = Path("/proc/self/statm").read_text(encoding="ascii").split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def highest() -> int:
    """The most bytes of this process that ever were in memory."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))


def peak(name: str, tokens: int, repeats: int, largest: bool) -> dict[str, float]:
    model = seeded(llama, "eager" if name == "plain" else "sdpa")
    # Made for every work, so that what the look at the model leaves behind counts for none of them.
    explainer = attcat.Explainer(model, None, method=name if name in attcat.METHODS else "attcat")
    first = explainer.adapter.blocks[0]
    works = {
        "floor": partial(floor, model, first),
        "plain": partial(plain, model),
        "captum": partial(integrated, model),
    }
    work = works.get(name, explainer)
    work(ids(1, 32))  # what torch sets up once
    before = resident()
    arguments = ids(1, tokens)
    times = [seconds(partial(work, arguments))]
    found = {"peak": highest() - before}
    times += [seconds(partial(work, arguments)) for _ in range(repeats)]
    found["seconds"] = statistics.median(times[1:] or times)
    if largest:
        with Largest() as seen:
            work(arguments)
        found["largest"] = seen.elements
    return found


def flat(count: int) -> dict[str, float]:
    """Mean resident memory over the last tenth of the explanations, over that of the second tenth."""
    explainer = attcat.Explainer(seeded(tiny), None)
    lengths = torch.randint(4, 24, (count,), generator=torch.Generator().manual_seed(0)).tolist()
    sizes = []
    for length in lengths:
        explainer(ids(1, length))
        sizes.append(resident())
    tenth = count // 10
    return {"second": statistics.mean(sizes[tenth : 2 * tenth]), "last": statistics.mean(sizes[-tenth:])}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    programs = parser.add_subparsers(dest="program", required=True)
    of_peak = programs.add_parser("peak")
    of_peak.add_argument("name", choices=["floor", "plain", "captum", *attcat.METHODS])
    of_peak.add_argument("tokens", type=int)
    of_peak.add_argument("--repeats", type=int, default=0)
    of_peak.add_argument("--largest", action="store_true")
    programs.add_parser("flat").add_argument("count", type=int)
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    if given.program == "peak":
        print(json.dumps(peak(given.name, given.tokens, given.repeats, given.largest)))
    else:
        print(json.dumps(flat(given.count)))


if __name__ == "__main__":
    main()

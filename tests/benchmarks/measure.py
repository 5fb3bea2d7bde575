"""How things are measured: ratios within one run, and memory in a process of its own."""

from __future__ import annotations

import ctypes
import gc
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

Work = Callable[[], object]


@dataclass(frozen=True)
class Figure:
    """One measured number.

    Args:
        row: the kind of measurement, as `--only` names it.
        name: what was measured.
        value: the median.
        low, high: the smallest and the largest of the repeats.
        repeats: how many there were.
        unit: of the value; "x" for a ratio.
        at_most, at_least: the target, if there is one.
    """

    row: str
    name: str
    value: float
    low: float
    high: float
    repeats: int
    unit: str = "x"
    at_most: float | None = None
    at_least: float | None = None

    @classmethod
    def of(cls, row: str, name: str, values: Sequence[float], **rest: Any) -> Figure:
        """The median of some values."""
        return cls(row, name, statistics.median(values), min(values), max(values), len(values), **rest)

    @property
    def missed(self) -> bool:
        """Whether there is a target, and the median does not meet it."""
        return (self.at_most is not None and self.value > self.at_most) or (
            self.at_least is not None and self.value < self.at_least
        )


def seconds(work: Work) -> float:
    """Wall clock time of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def alternating(works: Mapping[str, Work], repeats: int) -> dict[str, list[float]]:
    """Seconds of each work, taking turns in a rotating order, after one of each that does not count."""
    names = list(works)
    for work in works.values():
        work()
    found: dict[str, list[float]] = {name: [] for name in names}
    for repeat in range(repeats):
        for name in names[repeat % len(names) :] + names[: repeat % len(names)]:
            found[name].append(seconds(works[name]))
    return found


def ratios(above: Sequence[float], below: Sequence[float]) -> list[float]:
    """Turn by turn."""
    return [a / b for a, b in zip(above, below, strict=True)]


def resident(field: str = "VmRSS") -> float:
    """Memory of this process in MiB: `VmRSS` now, `VmHWM` at its peak (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(field)).split()[1]) / 1024


def peak(work: Work) -> float:
    """How many MiB the process grows at most while it works, over what it held before."""
    gc.collect()
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before = resident()
    work()
    return resident("VmHWM") - before


def child(script: str, *arguments: str, timeout: float = 600) -> Any:
    """What a fresh Python process prints as its last line, in JSON.

    It gives freed memory back at once, so that its peak is what it needed and not what its allocator kept.
    """
    environment = {**os.environ, "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    done = subprocess.run(
        [sys.executable, script, *arguments], env=environment, capture_output=True, text=True, timeout=timeout
    )
    if done.returncode:
        raise RuntimeError(f"{Path(script).name} {' '.join(arguments)} failed: {done.stderr.strip()[-500:]}")
    return json.loads(done.stdout.splitlines()[-1])


def spliced(page: str, begin: str, end: str, lines: Sequence[str]) -> str:
    """A page with what stands between two marks replaced; what people wrote around it stays."""
    before, _, rest = page.partition(begin)
    return "\n".join([before + begin, *lines, end + rest.partition(end)[2]])

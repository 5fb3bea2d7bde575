"""What an explanation costs beside another version of this code: `python tests/benchmarks/against.py COMMIT`.

Both versions run in one go, in a process each, and take turns; a figure is the median of the ratios of neighbouring
rounds, in processor time, which other work on the machine disturbs less than the wall clock. Memory is the highest
resident set of a process that explains one long input.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).parents[2]

TIMED = {
    "BERT 1 x 32": ("bert", 1, 32),
    "BERT 8 x 128": ("bert", 8, 128),
    "BERT 1 x 512": ("bert", 1, 512),
    "ViT 1 x 197": ("vit", 1, 0),
    "tiny 1 x 32": ("tiny", 1, 32),
}
"""A model of floor.py, rows, tokens; each is measured under both rules."""

HELD = {"Llama, small, 1 x 4,096": ("llama", 1, 4096)}


def adopt(tree: Path) -> None:
    """Let `attcat`, with `attcat.adapters`, be that of another folder."""
    sys.path.insert(0, str(tree))
    import attcat

    assert Path(attcat.__file__).is_relative_to(tree), attcat.__file__
    place = tree / "adapters" / "__init__.py"
    spec = importlib.util.spec_from_file_location(
        "attcat.adapters", place, submodule_search_locations=[str(place.parent)]
    )
    assert spec is not None
    assert spec.loader is not None
    sys.modules["attcat.adapters"] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)


def work(tree: Path) -> None:
    """Explain what is asked for on standard input, a JSON object a line, and answer with what it took."""
    adopt(tree)
    sys.path.insert(0, str(Path(__file__).parent))
    import time

    import floor
    import torch

    import attcat

    torch.set_num_threads(1)
    known: dict[str, Any] = {}
    for line in sys.stdin:
        name, rows, tokens, rule = json.loads(line)
        if name not in known:
            known[name] = floor.seeded(getattr(floor, name))
        key = f"{name}+{rule}"
        if key not in known:
            known[key] = attcat.Explainer(known[name], method="attcat", rule=rule)
        arguments = floor.ids(rows, tokens) if tokens else floor.pixels(rows)
        start = time.process_time()
        known[key](arguments)
        took = time.process_time() - start
        status = Path("/proc/self/status").read_text()
        held = int(next(row for row in status.splitlines() if row.startswith("VmHWM")).split()[1]) if status else 0
        print(json.dumps({"seconds": took, "kilobytes": held}), flush=True)


@contextmanager
def worker(tree: Path) -> Iterator[tuple[IO[str], IO[str]]]:
    """A process that explains with the code in a folder."""
    command = [sys.executable, __file__, "--work", str(tree)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        yield process.stdin, process.stdout
        process.stdin.close()


def ask(channel: tuple[IO[str], IO[str]], case: tuple[Any, ...]) -> dict[str, float]:
    """One explanation."""
    print(json.dumps(case), file=channel[0], flush=True)
    return json.loads(channel[1].readline())


def told(name: str, ratios: list[float]) -> None:
    """Print the median and the middle half of some ratios."""
    low, middle, high = statistics.quantiles(ratios, n=4)
    print(f"{name:34} {middle:.3f}  ({low:.3f} to {high:.3f}, {len(ratios)} rounds)", flush=True)


def main() -> None:
    """Compare the working tree with a commit."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("commit", nargs="?", default="HEAD~1")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        work(options.work)
        return
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        before = Path(folder) / "before"
        subprocess.run(
            ["git", "-C", str(ROOT), "worktree", "add", "-q", "--detach", str(before), options.commit], check=True
        )
        stack.callback(
            subprocess.run, ["git", "-C", str(ROOT), "worktree", "remove", "--force", str(before)], check=True
        )
        print(f"this version / {options.commit}: median of neighbouring rounds (middle half)")
        with worker(before) as old, worker(ROOT) as new:
            for name, case in TIMED.items():
                for rule in ("libra", "plain"):
                    for channel in (old, new):  # what the first run loads does not count
                        ask(channel, (*case, rule))
                    ratios = []
                    for turn in range(options.rounds):
                        pair = {}
                        for channel in (old, new) if turn % 2 else (new, old):
                            pair[channel] = ask(channel, (*case, rule))["seconds"]
                        ratios.append(pair[new] / pair[old])
                    told(f"{name}, {rule}", ratios)
        for name, case in HELD.items():
            ratios = []
            for _ in range(3):
                with worker(before) as old, worker(ROOT) as new:
                    ratios.append(ask(new, (*case, "libra"))["kilobytes"] / ask(old, (*case, "libra"))["kilobytes"])
            told(f"{name}, peak memory", ratios)


if __name__ == "__main__":
    main()

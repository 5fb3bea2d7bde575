"""What a model that no adapter knows costs when it is met for the first time: in plain passes, and in memory.

    python tests/benchmarks/first_call.py NAME [NAME ...]

NAME is a vision model of timm, at its published size and with random weights. A plain pass is a forward pass without gradient
in its default attention. Printed are the plain passes that inspecting it takes, the first call, which checks what was found,
and the next one, and how much memory the process held at most.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import timm
import torch
from PIL import Image

import attcat

PHOTO = Path(__file__).parents[2] / "demos" / "images" / "dog.jpg"


def timed(work: Callable[[], Any]) -> tuple[Any, float]:
    start = time.perf_counter()
    return work(), time.perf_counter() - start


def measure(name: str) -> str:
    """A line of the table."""
    torch.manual_seed(0)
    model = timm.create_model(name, pretrained=False, num_classes=10).eval()
    size = timm.data.resolve_model_data_config(model)["input_size"]
    with torch.no_grad():
        plain = min(timed(lambda: model(torch.zeros(1, *size)))[1] for _ in range(2))
    explain, inspected = timed(lambda: attcat.Explainer(model))
    picture = Image.open(PHOTO).convert("RGB")
    first, then = (timed(lambda: explain(picture)) for _ in range(2))
    tokens, peak = len(first[0].tokens), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    passes = " | ".join(f"{seconds / plain:.1f}" for seconds in (inspected, first[1], then[1]))
    return f"| `{name}` | {size[1]} | {tokens} | {plain:.1f} s | {passes} | {peak:.1f} GB |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="+", metavar="NAME")
    print("| model | pixels | tokens | plain pass | inspected | first call | next call | memory |")
    print("|---|---|---|---|---|---|---|---|")
    for name in parser.parse_args().names:
        print(measure(name), flush=True)


if __name__ == "__main__":
    main()

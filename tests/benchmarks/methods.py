"""What every method is and costs: the table of docs/methods.md.

    python tests/benchmarks/methods.py [--only NAME ...] [--repeats 5] [--write]

The columns that say what a method is come from `attcat.METHODS`. Its cost is measured: one explanation of one input, from
ready-made model arguments, divided by one plain forward pass of the same model. The two take turns, and the figure is
the median of at least five ratios. The models have the shapes of published ones and random parameters, which cost the
same. Everything runs on one thread.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Mapping
from datetime import date
from pathlib import Path
from typing import Any

import timm
import torch
import transformers
from torch import nn

import attcat
from attcat.methods import METHODS, Method

PAGE = Path(__file__).parents[2] / "docs" / "methods.md"
BEGIN, END = "<!-- table: tests/benchmarks/methods.py --write -->", "<!-- end of the table -->"
STATIC = ("method", "paper", "needs", "signed", "class-specific", "passes")
COST = ("cost, text", "cost, picture")


def bert() -> tuple[nn.Module, dict[str, Any]]:
    """BERT-base (12 blocks of width 768), 128 tokens."""
    model = transformers.BertForSequenceClassification(transformers.BertConfig(num_labels=2)).eval()
    ids = torch.randint(1000, 30000, (1, 128), generator=torch.Generator().manual_seed(0))
    return model, {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def vit() -> tuple[nn.Module, dict[str, Any]]:
    """ViT-S/16 (12 blocks of width 384), 224 x 224 pixels, hence 197 tokens."""
    pixels = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    return timm.create_model("vit_small_patch16_224").eval(), {"pixel_values": pixels}


def cost(model: nn.Module, arguments: Mapping[str, Any], name: str, repeats: int) -> float:
    """Time of one explanation over that of one forward pass: the median of `repeats` ratios, after a warm-up."""
    references = {option: [arguments] for option in METHODS[name].required}
    explainer = attcat.Explainer(model, None, method=name, **references)

    def forward() -> None:
        with torch.no_grad():
            model(**arguments) if "input_ids" in arguments else model(arguments["pixel_values"])

    forward()
    explainer(arguments)
    return statistics.median(seconds(lambda: explainer(arguments)) / seconds(forward) for _ in range(repeats))


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def static(method: Method) -> tuple[str, ...]:
    """What the registry says of a method: the columns `STATIC`."""
    yes = {True: "yes", False: "no"}
    name = f"`{method.name}`" + (f" ({method.rule})" if method.rule else "")
    return name, method.paper or "-", method.demands, yes[method.signed], yes[method.class_specific], method.passes


def rows(page: str) -> dict[str, tuple[str, ...]]:
    """The table of a page, method to cells."""
    table = page.partition(BEGIN)[2].partition(END)[0]
    rows = [line.strip() for line in table.splitlines() if line.startswith("| `")]
    lines = [tuple(cell.strip() for cell in row[1:-1].split("|")) for row in rows]
    return {cells[0].split("`")[1]: cells for cells in lines}


def line(cells: tuple[str, ...]) -> str:
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", choices=METHODS, help="measure these; the others keep what the page says")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--write", action="store_true", help=f"put the table into {PAGE.name}")
    given = parser.parse_args()

    torch.set_num_threads(1)
    page = PAGE.read_text(encoding="utf-8") if PAGE.exists() else f"{BEGIN}\n{END}\n"
    known = rows(page)
    models = [bert(), vit()]
    table = [line((*STATIC, *COST)), "|" + "---|" * len((*STATIC, *COST))]
    print("\n".join(table), flush=True)
    for name, method in METHODS.items():
        if given.only is None or name in given.only:
            costs = tuple(f"{cost(*model, name, given.repeats):.3g}" for model in models)
        else:
            costs = known[name][len(STATIC) :] if name in known else ("?", "?")
        table.append(line((*static(method), *costs)))
        print(table[-1], flush=True)
    told = f"Measured on {date.today()} on a two-core CPU, one thread, torch {torch.__version__.partition('+')[0]}."
    old = next((line for line in page.splitlines() if line.startswith("Measured on ")), None)
    if given.only is not None and old is not None:
        told = f"{old.rstrip('.')}; {', '.join(f'`{name}`' for name in given.only)} on {date.today()}."
    table += ["", told]
    if given.write:
        before, _, rest = page.partition(BEGIN)
        after = rest.partition(END)[2]
        PAGE.write_text("\n".join([before + BEGIN, *table, END + after]), encoding="utf-8")


if __name__ == "__main__":
    main()

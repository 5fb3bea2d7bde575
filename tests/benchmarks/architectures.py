"""Which architectures keep the promises: the page docs/architectures.md.

    python tests/benchmarks/architectures.py [--write]

Runs `attcat.testing.check_adapter` over every model of the test suite: the families that an adapter serves, those that are
found out by looking at them, and those that have to be refused. The models have the published architectures, few and
narrow blocks, and random parameters. What the table says is what the check measured in this run.
"""

from __future__ import annotations

import argparse
import sys
import warnings
from datetime import date
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "tests"))

import torch  # noqa: E402
import transformers  # noqa: E402
from tokenizers_small import wordpiece  # noqa: E402
from torch import nn  # noqa: E402
from zoo import FAMILIES, Family  # noqa: E402
from zoo_unseen import REFUSED, SERVED, UNSEEN  # noqa: E402

import attcat  # noqa: E402
from attcat.model import known_adapter  # noqa: E402
from attcat.model.discovered import DiscoveredText, DiscoveredVision  # noqa: E402
from attcat.testing import CHECKS, check_adapter  # noqa: E402

PAGE = ROOT / "docs" / "architectures.md"
HEAD = ("name", "model", "source", "task", "served by", "checked", "result")
LIBRARIES = ("torch", "transformers", "timm", "torchvision")

INTRODUCTION = """# Architectures

What `attcat check` measured on small models of each architecture: few and narrow blocks, random parameters. "Served by"
names the adapter, or says that there is none and the model was inspected. "Checked" counts the promises that passed, of
those that can be asked of the model. Made by

    python tests/benchmarks/architectures.py --write
"""


def package(model: nn.Module) -> str:
    """The library that a model comes from; one that is written in the tests may hold a library's encoder."""
    found = (type(module).__module__.partition(".")[0] for module in model.modules())
    return next((name for name in found if name in LIBRARIES), "own code")


def served_by(model: nn.Module) -> str:
    """The adapter's name, or how the model was found out."""
    known = known_adapter(model)
    looked = known is None or issubclass(known, (DiscoveredText, DiscoveredVision))
    return "inspection" if looked else str(known.__name__)


def row(family: Family) -> tuple[str, ...]:
    """Check one family."""
    model = family.model()
    checks = check_adapter(model, wordpiece() if family.text else None)
    asked = [check for check in checks if check.passed is not None]
    failed = [f"{check.name}: {check.measured:.2g} (limit {check.limit:.2g})" for check in asked if not check.passed]
    reason = getattr(family, "incomplete", "")
    return (
        family.name,
        f"`{type(model).__name__}`",
        package(model),
        "text classification" if family.text else "image classification",
        served_by(model),
        f"{len(asked) - len(failed)} of {len(asked)}",
        "passed" if not failed else f"failed: {'; '.join(failed)}{reason and f' ({reason})'}",
    )


def refusal(name: str) -> tuple[str, str]:
    """What the error says about a model that cannot be explained."""
    try:
        model = REFUSED[name][0]().eval()
        attcat.Explainer(model, None)
    except attcat.UnsupportedModelError as error:
        return f"`{type(model).__name__}` ({package(model)})", " ".join(str(error).split())
    raise AssertionError(f"{name} is explained, though it should be refused")


def line(cells: tuple[str, ...]) -> str:
    return f"| {' | '.join(cells)} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true", help=f"write {PAGE.name}")
    given = parser.parse_args()

    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    warnings.simplefilter("ignore")
    rows = []
    for family in (*FAMILIES.values(), *SERVED.values(), *UNSEEN.values()):
        rows.append(row(family))
        print(line(rows[-1]), flush=True)
    passed = sum(cells[-1] == "passed" for cells in rows)
    refused = [refusal(name) for name in REFUSED]
    versions = ", ".join(f"{name} {version(name).partition('+')[0]}" for name in LIBRARIES)
    told = f"{passed} of {len(rows)} architectures pass every check ({date.today()}; {versions})."
    print(told)
    page = [
        INTRODUCTION,
        told,
        "",
        line(HEAD),
        "|" + "---|" * len(HEAD),
        *map(line, rows),
        "",
        "## What is checked",
        "",
        *(f"- {name}" for name in CHECKS),
        "",
        "## What is refused",
        "",
        line(("model", "what the error says")),
        "|---|---|",
        *map(line, refused),
        "",
    ]
    if given.write:
        PAGE.write_text("\n".join(page), encoding="utf-8")


if __name__ == "__main__":
    main()

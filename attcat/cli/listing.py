"""`attcat adapters` and `attcat methods`: what there is."""

from __future__ import annotations

from importlib import import_module
from itertools import groupby

from ..methods import METHODS
from ..model import supported_models
from .output import print_table


def adapters() -> None:
    """List the supported families: name, model classes, adapter."""
    rows = [
        (_family(source), "\n".join(name for name, _ in group), source.partition(":")[0])
        for source, group in groupby(
            sorted(supported_models().items(), key=lambda item: item[1]), key=lambda item: item[1]
        )
    ]
    print_table(("family", "model classes", "adapter"), rows)


def methods() -> None:
    """List the attribution methods: name, gradient rule, cost, paper."""
    rows = [(method.name, method.rule or "-", method.passes, method.paper) for method in METHODS.values()]
    print_table(("method", "rule", "passes", "paper"), rows)


def _family(source: str) -> str:
    """The name of an adapter's family; an adapter from elsewhere may fail in any way when it is imported."""
    module, _, name = source.partition(":")
    try:
        return str(getattr(import_module(module), name).family)
    except Exception as error:
        return f"(cannot be imported: {' '.join(str(error).split())})"

"""`attcat check`: does a model meet what explanations rely on?"""

from __future__ import annotations

from typing import Annotated

import typer

from ..testing import Check, check_adapter
from .gather import Asked, gather, only_good
from .models import load_model
from .options import Revision
from .output import one_line, print_table


def check(
    model: Annotated[str, typer.Argument(metavar="DIR_OR_HUB_ID", help="A classifier, with or without an adapter.")],
    inputs: Annotated[
        list[str] | None,
        typer.Option(
            "--input",
            metavar="TEXT_OR_PATH",
            help="What to check with; may be given several times [default: two sentences, or noise].",
        ),
    ] = None,
    revision: Revision = None,
) -> None:
    """Check a model and its adapter: print each promise with the figure that was measured.

    The exit code is 0 if every check passed, 1 if any failed.
    """
    network, processor = load_model(model, picture=False, revision=revision)
    given = [item.value for item in only_good(gather(inputs, Asked()))] if inputs else None
    checks = check_adapter(network, processor, given)
    print_table(("promise", "result", "measured", "limit", "note"), [_row(one) for one in checks])
    if any(one.passed is False for one in checks):
        raise typer.Exit(1)


def _row(one: Check) -> tuple[str, ...]:
    """Name, result and figures; advice only where it matters."""
    if one.passed is None:
        return one.name, "not asked", "", "", one_line(one.advice)
    result, note = ("passed", "") if one.passed else ("failed", one_line(one.advice))
    return one.name, result, f"{one.measured:.3g}", f"{one.limit:.3g}", note

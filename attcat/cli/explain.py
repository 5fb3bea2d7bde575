"""`attcat explain`: why each input was predicted as it was."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, cast

import typer
from rich.text import Text

from ..errors import AttCATError, InputError, OptionError
from ..explainer import RULES, Explainer, Hidden, Queries, make_rule
from ..explainer.columns import COLUMNS as RESULTS
from ..explainer.each import Each
from ..explanation import Explanation
from ..files import write_atomically
from ..methods import DEFAULT, read_name
from ..render import page, terminal, wording
from ..render.terminal import visible
from .gather import KINDS, Asked, Bad, gather
from .inputs import Item, check_kind, device_named, drawn, load_model, named_class
from .journal import Journal, settings_of
from .options import Device, Pair, PairColumn, Question, Revision, Target, TextColumn, Truncation
from .output import Writer, check_name, console_for_results, one_line, progress, write_file
from .scale import ENGINES
from .scale import run as run_parts
from .tables import TABLES
from .wording import TRACEBACK

if TYPE_CHECKING:
    from rich.console import Console

FIGURES = (".png", ".jpg", ".svg")
"""Suffixes of figures, which only pictures have."""

SINGLE = (".json", ".safetensors", ".pdf", *FIGURES)
"""Suffixes of files that hold one explanation."""

TOGETHER_IN = (".html", *TABLES)
"""Suffixes of files that hold any number."""

SKIPPED = 3
"""The exit code if inputs were skipped."""

PREFIX = "attcat_"
"""Before the columns of a result, where the data has such names itself."""

NAMED = 12
"""Files that are named one by one when they are written."""

TOGETHER = 64
"""How many inputs are sorted into batches of similar length at a time; their results are printed before more are read."""


def explain(
    inputs: Annotated[
        list[str],
        typer.Argument(
            metavar="INPUT...",
            help="Texts, pictures, folders of pictures, tables (.tsv, .csv, .jsonl, .parquet); - reads stdin: a table, "
            "or a text or path per line.",
        ),
    ],
    model: Annotated[
        str | None,
        typer.Option(metavar="DIR_OR_HUB_ID", help="A model with its head; without it the embedded models are used."),
    ] = None,
    revision: Revision = None,
    target: Target = None,
    method: Annotated[
        str,
        typer.Option(
            metavar="NAME", help="The attribution method, see attcat methods; with options as oddscat:samples=8."
        ),
    ] = DEFAULT,
    rule: Annotated[
        str | None,
        typer.Option(metavar="|".join(RULES), help="The gradient rule [default: the method's; graded for oddscat]."),
    ] = None,
    hidden: Annotated[Hidden, typer.Option(help="Which hidden states of the blocks to read.")] = "input",
    queries: Annotated[
        Queries, typer.Option(help="Whose attention weights a token: all tokens', or the pooled ones'.")
    ] = "mean",
    pair: Pair = None,
    choice: Annotated[
        list[str] | None,
        typer.Option(metavar="TEXT", help="A choice, for models that choose between texts; given at least twice."),
    ] = None,
    question: Question = None,
    text_column: TextColumn = None,
    pair_column: PairColumn = None,
    stdin: Annotated[
        str | None,
        typer.Option(metavar="|".join(KINDS), help="What stdin holds [default: as its first line looks]."),
    ] = None,
    engine: Annotated[
        str | None,
        typer.Option(
            metavar="|".join(ENGINES),
            help="Explain a .parquet file in parts, into a folder of .parquet files, here or on the workers of Ray.",
        ),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="How many workers Ray has [default: one per core].")
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Stop at the first input that cannot be explained, instead of skipping it.")
    ] = False,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Inputs per forward pass [default: a few thousand tokens].")
    ] = None,
    truncation: Truncation = False,
    window: Annotated[
        bool, typer.Option("--window", help="Read long texts in overlapping windows instead of refusing them.")
    ] = False,
    token: Annotated[
        str | None,
        typer.Option(
            metavar="WORD",
            help="The word (or its number, from 0) whose tag or prediction is explained, in models that have one for each.",
        ),
    ] = None,
    references: Annotated[
        list[str] | None,
        typer.Option(
            "--references",
            "--reference",
            metavar="INPUT|DATA",
            help="An input of another class, for contrast_cat, or a file or folder of them; may be given several times.",
        ),
    ] = None,
    device: Device = "cpu",
    output: Annotated[
        str | None,
        typer.Option(
            metavar="PATH",
            help="A folder, or a file: .html, .csv, .jsonl, .parquet for many inputs; "
            ".json, .safetensors, .pdf, .png, .jpg, .svg for one.",
        ),
    ] = None,
    form: Annotated[
        Literal["lines", "terminal"],
        typer.Option(
            "--format", help="A line for each input, or each whole: its words, or its picture in half blocks."
        ),
    ] = "lines",
    positive: Annotated[
        bool, typer.Option("--positive", help="In figures of pictures, draw only what speaks for the class.")
    ] = False,
    contour: Annotated[
        bool, typer.Option("--contour", help="In figures of pictures, a line around the strongest fifth.")
    ] = False,
    cells: Annotated[
        bool, typer.Option("--cells", help="In figures of pictures, each patch in one colour instead of a smooth map.")
    ] = False,
) -> None:
    """Explain texts and pictures.

    Words or patches that speak for the class are orange, those against it blue.

    Prints one line per input: text or path, label, probability. When piped, columns are separated by tabs, and a fourth
    column has the text with the scores of its strongest words. Inputs that cannot be explained are reported and skipped, and
    the exit code is then 3. An interrupted run resumes.
    """
    if stdin not in (None, *KINDS):
        raise OptionError(f"--stdin {stdin}: use one of {', '.join(KINDS)}")
    if engine is not None:
        refused: dict[str, Any] = {
            "--pair": pair, "--choice": choice, "--question": question, "--references": references, "--token": token,
            "--window": window or None, "--strict": strict or None, "--stdin": stdin,
        }  # fmt: skip
        own = {"rule": rule, "hidden": hidden, "queries": queries, "batch_size": batch_size}
        reading = {"column": text_column, "pair_column": pair_column, "target": target, "truncation": truncation}
        wrong = [flag for flag, value in refused.items() if value]
        if wrong:
            raise OptionError(f"--engine explains a column of a .parquet file as it is: leave out {', '.join(wrong)}")
        description = {"revision": revision, "device": device, "method": method, **reading, **own}
        _explain_in_parts(inputs, model, engine, workers, output, description)
        return
    given = list(gather(inputs, Asked(pair, choice, text_column, pair_column, stdin, question)))
    items = _readable(given, strict)
    paths = _plan(output, items)
    compared = _references(method, references)  # a wrong option is reported before a model is loaded
    if rule is not None:
        make_rule(rule)
    place = device_named(device)

    @cache
    def explainer(picture: bool) -> Explainer:
        network, processor = load_model(model, picture, revision)
        same = [one.value for one in compared if model is not None or one.is_picture == picture]
        own: dict[str, Any] = {"references": same} if compared else {}
        return Explainer(
            network.to(place),
            processor,
            method=method,
            rule=rule,
            hidden=hidden,
            queries=queries,
            batch_size=batch_size,
            **own,
        )

    options = {"truncation": truncation, "window": window, "token": _numbered(token)}
    for one in compared:
        check_kind(explainer(one.is_picture if model is None else False), one)
    look = {"positive": positive, "contour": contour, "cells": cells}
    work = _Work(
        lambda picture: explainer(picture if model is None else False), target, options, strict or len(given) == 1
    )
    work.check(items)
    journal = None
    if paths and any(len(part) < len(items) for part in work.parts(items)):
        told: dict[str, Any] = {
            "revision": revision,
            "target": target,
            "references": [str(one.value) for one in compared],
            **options,
            **look,
        }
        settings = settings_of(work.explainer_for(items[0].is_picture), model, told)
        journal = Journal(Path(output or ""), len(paths) == len(items) and paths[0].suffix not in TABLES, settings)
    failed = _print_and_write(items, work.results(items, journal), paths, look, form == "terminal")
    _finish(len(given), len(given) - len(items) + failed, journal)


def _explain_in_parts(
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


def _readable(given: Sequence[Item | Bad], strict: bool) -> list[Item]:
    """The inputs that can be read; the others are reported.

    Raises:
        AttCATError: what is wrong with the only input, with the first if `strict`, or if there is no other.
    """
    bad = [one for one in given if isinstance(one, Bad)]
    good = [replace(one, number=number) for number, one in enumerate(given, 1) if isinstance(one, Item)]
    if bad and len(given) == 1:
        raise bad[0].error
    if bad and (strict or not good):
        raise InputError(str(bad[0]))
    for one in bad:
        report(one)
    return good


def _finish(given: int, failed: int, journal: Journal | None) -> None:
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


@dataclass(frozen=True)
class _Work:
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


def _references(method: str, given: Sequence[str] | None) -> list[Item]:
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


def _numbered(token: str | None) -> str | int | None:
    """A word, or the number of one."""
    return int(token) if token is not None and token.strip().lstrip("-").isdecimal() else token


def _print_and_write(
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


def report(bad: Bad) -> None:
    """A line on stderr about an input that is skipped."""
    print(f"attcat: {bad}; skipped", file=sys.stderr)


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


def _plan(output: str | None, items: Sequence[Item]) -> list[Path]:
    """Where the explanations are written: one path each, a single page for all, or none.

    Raises:
        OptionError: if the output cannot hold what was asked for.
    """
    if output is None:
        return []
    check_name(output)
    path = Path(output)
    suffix = "" if output.endswith(("/", os.sep)) or path.is_dir() else path.suffix.lower()
    if not suffix:
        if path.is_file():
            raise OptionError(
                f"--output {output} is a file: give a folder, or a file called {', '.join((*TOGETHER_IN, *SINGLE))}"
            )
        return _name_files(path, items)
    if suffix in TOGETHER_IN:
        return [path]
    if suffix not in SINGLE:
        raise OptionError(
            f"--output {output} cannot be written: use {', '.join((*TOGETHER_IN, *SINGLE))}, or a folder ({path.stem}/)"
        )
    if len(items) > 1:
        raise OptionError(
            f"a {suffix} file holds one explanation, but there are {len(items)} inputs: give a folder or an .html file"
        )
    if suffix in FIGURES and not (items[0].is_picture or items[0].has_question):
        raise OptionError(f"a text is not drawn as {suffix}: use --output with .html, .json or .safetensors")
    return [path]


def _name_files(folder: Path, items: Sequence[Item]) -> list[Path]:
    """One file per input in the folder, named after it; no two are the same, even where case does not matter."""
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

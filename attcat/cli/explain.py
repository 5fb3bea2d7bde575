"""`attcat explain`: why each input was predicted as it was."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, partial
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.text import Text

from ..capture.rules import RULES, make_rule
from ..errors import OptionError
from ..explainer import Explainer
from ..explanation import Explanation
from ..files import write_atomically
from ..methods import DEFAULT, read_name
from ..render import page, terminal, wording
from ..render.terminal import visible
from ..trace import Hidden, Queries
from .inputs import Item, check_kind, device_named, drawn, expand, load_model, named_class, read
from .output import Writer, console_for_results, one_line, progress, write_file
from .tables import TABLES

if TYPE_CHECKING:
    from rich.console import Console

FIGURES = (".png", ".jpg", ".svg")
"""Suffixes of figures, which only pictures have."""

SINGLE = (".json", ".safetensors", ".pdf", *FIGURES)
"""Suffixes of files that hold one explanation."""

TOGETHER_IN = (".html", *TABLES)
"""Suffixes of files that hold any number."""

TOGETHER = 64
"""How many inputs are sorted into batches of similar length at a time; their results are printed before more are read."""


def explain(
    inputs: Annotated[
        list[str],
        typer.Argument(metavar="INPUT...", help="Texts and paths of pictures; - reads them from stdin, one per line."),
    ],
    model: Annotated[
        str | None,
        typer.Option(metavar="DIR_OR_HUB_ID", help="A model with its head; without it the embedded models are used."),
    ] = None,
    target: Annotated[
        str | None,
        typer.Option(metavar="LABEL", help="The class to explain, by label or index [default: the predicted one]."),
    ] = None,
    method: Annotated[
        str,
        typer.Option(
            metavar="NAME", help="The attribution method, see attcat methods; with options as oddscat:samples=8."
        ),
    ] = DEFAULT,
    rule: Annotated[
        str | None,
        typer.Option(metavar="|".join(RULES), help="The gradient rule [default: the method's; libra for attcat]."),
    ] = None,
    hidden: Annotated[Hidden, typer.Option(help="Which hidden states of the blocks to read.")] = "input",
    queries: Annotated[
        Queries, typer.Option(help="Whose attention weights a token: all tokens', or the pooled ones'.")
    ] = "mean",
    pair: Annotated[
        str | None, typer.Option(metavar="TEXT", help="The second text, for models that read pairs.")
    ] = None,
    choice: Annotated[
        list[str] | None,
        typer.Option(metavar="TEXT", help="A choice, for models that choose between texts; given at least twice."),
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Inputs per forward pass [default: a few thousand tokens].")
    ] = None,
    truncation: Annotated[bool, typer.Option("--truncation", help="Truncate a text that is too long.")] = False,
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
    device: Annotated[str, typer.Option(metavar="cpu|cuda", help="Where the model runs.")] = "cpu",
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
    column has the text with the scores of its strongest words.
    """
    items = [read(value, pair, choice) for value in expand(inputs)]
    paths = _plan(output, items)
    compared = _references(method, references)  # a wrong option is reported before a model is loaded
    if rule is not None:
        make_rule(rule)
    place = device_named(device)

    @cache
    def explainer(picture: bool) -> Explainer:
        network, processor = load_model(model, picture)
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
    done = _explain(items, lambda picture: explainer(picture if model is None else False), target, options)
    _print_and_write(items, done, paths, look, form == "terminal")


def _explain(
    items: Sequence[Item],
    explainer_for: Callable[[bool], Explainer],
    target: str | None,
    options: Mapping[str, Any],
) -> Iterator[Explanation]:
    """Explanations in the order of the inputs; neighbours of one kind share a forward pass."""
    for item in items:  # nothing is explained before everything fits
        check_kind(explainer_for(item.is_picture), item)
    for picture, group in groupby(items, key=lambda item: item.is_picture):
        same, explainer = list(group), explainer_for(picture)
        wanted = named_class(target, explainer)
        step = explainer.settings.batch_size or TOGETHER
        for start in range(0, len(same), step):
            batch = [item.value for item in same[start : start + step]]
            yield from explainer(batch, wanted, **options)


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
    items: Sequence[Item], done: Iterator[Explanation], paths: Sequence[Path], look: Mapping[str, Any], whole: bool
) -> None:
    """Print each explanation as it comes, as a line or whole, write the files, then say where they are."""
    console = console_for_results()
    one_each = len(paths) == len(items) and paths[0].suffix.lower() not in TABLES
    kept: list[Explanation] = []

    def show(drawn: Text | Explanation) -> None:
        if not isinstance(drawn, Text):
            terminal.show(drawn, console)
            console.print()
        else:  # away from a terminal rich would turn the tabs between columns into spaces
            console.print(drawn, soft_wrap=True) if console.is_terminal else print(drawn.plain)

    with Writer() as writer, progress(len(items), show) as show_next:
        for index, explanation in enumerate(done):
            if one_each:
                writer.write(paths[index], partial(explanation.save, **look))
            elif paths:
                kept.append(explanation)
            show_next(explanation if whole else _line(items[index], explanation, console))
    if kept:
        names = [item.name for item in items]
        table = TABLES.get(paths[0].suffix.lower())
        data = table(names, kept) if table is not None else page(kept, names=names).encode()
        write_file(paths[0], partial(write_atomically, data=data))
    for path in paths:
        print(f"wrote {visible(str(path))}")


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
    if suffix in FIGURES and not items[0].is_picture:
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

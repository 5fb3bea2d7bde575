"""`attcat explain`: why each input was predicted as it was."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from ..errors import InputError, OptionError
from .gather import KINDS, Asked, Bad, gather, report
from .inputs import Item, check_methods
from .options import (
    DEFAULT,
    ENGINES,
    RULES,
    Device,
    Hidden,
    Pair,
    PairColumn,
    Queries,
    Question,
    Revision,
    Target,
    TextColumn,
    Truncation,
)
from .output import check_name
from .tables import TABLES

FIGURES = (".png", ".jpg", ".svg")
"""Suffixes of figures, which only pictures have."""

SINGLE = (".json", ".safetensors", ".pdf", *FIGURES)
"""Suffixes of files that hold one explanation."""

TOGETHER_IN = (".html", *TABLES)
"""Suffixes of files that hold any number."""


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
        check_methods([method])
        from .explaining import explain_in_parts

        explain_in_parts(inputs, model, engine, workers, output, description)
        return
    check_methods([method])
    given = list(gather(inputs, Asked(pair, choice, text_column, pair_column, stdin, question)))
    items = _readable(given, strict)
    paths = _plan(output, items)
    from ..explainer import Explainer, make_rule  # what is wrong with the inputs was said before torch is imported
    from .explaining import Work, finish, numbered, print_and_write, references_of
    from .journal import Journal, settings_of
    from .models import check_kind, device_named, load_model

    compared = references_of(method, references)  # a wrong option is reported before a model is loaded
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

    options = {"truncation": truncation, "window": window, "token": numbered(token)}
    for one in compared:
        check_kind(explainer(one.is_picture if model is None else False), one)
    look = {"positive": positive, "contour": contour, "cells": cells}
    work = Work(
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
    failed = print_and_write(items, work.results(items, journal), paths, look, form == "terminal")
    finish(len(given), len(given) - len(items) + failed, journal)


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

"""`attcat compare`: one input, several methods side by side."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import OptionError, visible
from .gather import Asked, Bad, gather
from .inputs import Item, check_methods, listed, read
from .options import COMPARED, Classifier, Device, Pair, PairColumn, Question, Revision, Target, TextColumn, Truncation
from .output import check_name, console_for_results, write_file

if TYPE_CHECKING:
    from ..comparison import Comparison


def compare(
    value: Annotated[
        str, typer.Argument(metavar="INPUT", help="A text, a picture, or a table of texts (- for one on stdin).")
    ],
    methods: Annotated[
        str, typer.Option(metavar="NAME,NAME+RULE,...", help="The methods, see attcat methods.")
    ] = ",".join(COMPARED),
    model: Classifier = None,
    revision: Revision = None,
    row: Annotated[
        int | None,
        typer.Option(min=1, metavar="NUMBER", help="Which text of a table, from 1; needed if it has several."),
    ] = None,
    text_column: TextColumn = None,
    pair_column: PairColumn = None,
    target: Target = None,
    pair: Pair = None,
    question: Question = None,
    reference: Annotated[
        list[str] | None,
        typer.Option(metavar="INPUT", help="An input of another class, for contrast_cat; may be given several times."),
    ] = None,
    truncation: Truncation = False,
    device: Device = "cpu",
    output: Annotated[
        str | None, typer.Option(metavar="PATH", help="A file to draw the comparison to: .html, or for a picture .png.")
    ] = None,
) -> None:
    """Compare methods: show how each explains the same prediction, and how long it takes."""
    names = listed(methods)
    check_methods(names)
    item = _one(value, Asked(pair, None, text_column, pair_column, question=question), row)
    references = [read(one, None) for one in reference or ()]
    _check_output(output, item.is_picture or item.has_question)
    # What is wrong with the input was said before torch is imported.
    from ..comparison import compare as compare_methods
    from ..explainer import Explainer
    from .models import check_kind, check_options, device_named, load_model, named_class

    check_options(names)
    network, processor = load_model(model, item.is_picture, revision)
    explainer = Explainer(network.to(device_named(device)), processor)
    for one in (item, *references):
        check_kind(explainer, one)
    comparison = compare_methods(
        explainer.adapter,
        None,
        item.value,
        names,
        target=named_class(target, explainer),
        references=[one.value for one in references],
        truncation=truncation,
    )
    _print(comparison)
    if output is not None:
        write_file(Path(output), comparison.save)
        print(f"wrote {visible(output)}")


def _one(value: str, asked: Asked, row: int | None) -> Item:
    """The input, of a table the row.

    Raises:
        AttCATError: if it cannot be read, or it is not said which row is meant.
    """
    every = list(gather([value], asked))
    if row is None and len(every) > 1:
        raise OptionError(f"{value} holds {len(every)} inputs, and one is compared: name it with --row, from 1")
    if row is not None and row > len(every):
        raise OptionError(f"--row {row}: {value} holds {len(every)} inputs")
    found = every[(row or 1) - 1]
    if isinstance(found, Bad):
        raise found.error
    return found


def _check_output(output: str | None, picture: bool) -> None:
    if output is not None:
        check_name(output)
    suffix = Path(output).suffix.lower() if output is not None else ".html"
    if suffix not in ((".html", ".png") if picture else (".html",)):
        raise OptionError(f"--output {output}: a comparison is drawn as .html, or for a picture also as .png")


def _print(comparison: Comparison) -> None:
    """A table on a terminal; in a pipe one line per method, columns separated by tabs."""
    from ..render.comparison import lines, show

    console = console_for_results()
    if console.is_terminal:
        show(comparison.timed, console, comparison.note)
        return
    for row in lines(comparison.timed, colour=False):
        print("\t".join(cell.plain for cell in row))

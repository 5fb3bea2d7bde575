"""`attcat summary`: what speaks for each class over a whole data set."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import OptionError, visible
from .inputs import Item, check_methods
from .options import (
    DEFAULT,
    Classifier,
    Device,
    LabelColumn,
    Limit,
    PairColumn,
    Revision,
    Split,
    TextColumn,
    Truncation,
)
from .output import console_for_results, counting, one_line, print_table, write_file

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..evaluation.data import Example
    from ..explainer import Explainer
    from ..explanation import Explanation, Summary

SUFFIXES = (".html", ".csv", ".json")
TOGETHER = 64
"""How many inputs are sorted into batches of similar length at a time."""


def summary(
    data: Annotated[
        str,
        typer.Argument(
            metavar="DATA",
            help="A .tsv, .csv or .jsonl file, a folder of pictures by class, or a dataset from the hub.",
        ),
    ],
    model: Classifier = None,
    revision: Revision = None,
    method: Annotated[str, typer.Option(metavar="NAME", help="The attribution method, see attcat methods.")] = DEFAULT,
    limit: Limit = None,
    seed: Annotated[int, typer.Option(min=0, help="The seed of the draw.")] = 0,
    minimum: Annotated[int, typer.Option(min=2, help="List a word from so many inputs on.")] = 3,
    text_column: TextColumn = None,
    pair_column: PairColumn = None,
    label_column: LabelColumn = None,
    split: Split = "validation",
    truncation: Truncation = False,
    device: Device = "cpu",
    output: Annotated[
        str | None, typer.Option(metavar="PATH", help=f"A file to write the summary to: {', '.join(SUFFIXES)}.")
    ] = None,
) -> None:
    """Explain every example, and list what speaks for each class: words with counts, means and intervals, or places on pictures.

    Where the data say which class is true, what the model got wrong stands apart: what misled it.
    """
    check_methods([method])
    if output is not None and Path(output).suffix.lower() not in SUFFIXES:
        raise OptionError(f"--output {output} cannot be written: use {', '.join(SUFFIXES)}")
    from ..evaluation import read_dataset  # what is wrong with the options was said before torch is imported
    from ..evaluation.data import Columns
    from ..evaluation.runner import choose
    from ..explainer import Explainer
    from ..explanation import aggregate
    from ..methods import read_name
    from .models import check_kind, device_named, load_model

    read_name(method)
    dataset = read_dataset(data, Columns(text_column, pair_column, label_column), split=split)
    network, processor = load_model(model, dataset.pictures, revision)
    explainer = Explainer(network.to(device_named(device)), processor, method=method)
    check_kind(explainer, Item(Path("picture") if dataset.pictures else "text"))
    count = len(dataset.examples)
    chosen = [dataset.examples[at] for at in choose(seed, count)[:limit]] if limit else list(dataset.examples)
    with counting("explaining", len(chosen)) as tick:
        found = aggregate(
            _explained(explainer, chosen, truncation, tick),
            [example.label for example in chosen],
            names=[_name(example.value) for example in chosen],
            minimum=minimum,
        )
    _print(found)
    if output is not None:
        write_file(Path(output), found.save)
        print(f"wrote {visible(output)}")


def _explained(
    explainer: Explainer, examples: Sequence[Example], truncation: bool, tick: Callable[[int], None]
) -> Iterator[Explanation]:
    for start in range(0, len(examples), TOGETHER):
        part = examples[start : start + TOGETHER]
        yield from explainer([example.value for example in part], truncation=truncation)
        tick(len(part))


def _name(value: Any) -> str:
    """A picture by its folder, which is its class, and its file."""
    if isinstance(value, Path):
        return one_line(f"{value.parent.name}/{value.name}")
    return Item(value).name if isinstance(value, (str, tuple)) else one_line(str(value))


def _print(found: Summary) -> None:
    """A table for each class on a terminal; in a pipe one line per word, or per class of pictures, columns separated by tabs."""
    if console_for_results().is_terminal:
        found.show()
        return
    from ..render.summary import strongest

    rows = found.records()
    if any(group.positions is not None for group in found.groups):
        rows = [
            {"label": one.label, "mistaken": one.mistaken, "inputs": one.inputs, "strongest": strongest(one.positions)}
            for one in found.groups
            if one.positions is not None
        ]
    cells = [["" if value is None else _told(value) for value in row.values()] for row in rows]
    print_table(list(rows[0]) if rows else [], cells, head=True)


def _told(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else one_line(str(value))

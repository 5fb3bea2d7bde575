"""Options that several commands have, with one wording."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

DEFAULT = "oddscat"
ENGINES = ("local", "ray")
RULES = ("plain", "libra", "graded", "attnlrp", "gim", "reslrp")
COMPARED = (
    "oddscat",
    "attcat",
    "attcat+plain",
    "cat",
    "attention",
    "rollout",
    "genatt",
    "transatt",
    "input_x_gradient+libra",
    "random",
)
Hidden = Literal["input", "output"]
Queries = Literal["mean", "pooled"]
# As in the library, where they stand beside what imports torch; a test compares.

Classifier = Annotated[
    str | None,
    typer.Option(
        metavar="DIR_OR_HUB_ID",
        help="A model, or embedded.sentiment, .objects or .shapes; without it an embedded one that fits.",
    ),
]
Revision = Annotated[
    str | None,
    typer.Option(metavar="COMMIT", help="The commit, branch or tag of a model on the hub [default: the newest]."),
]
Target = Annotated[
    str | None,
    typer.Option(
        metavar="LABEL",
        help="The class to explain, by label or index [default: the predicted one]; of a detector box:0 or box:0:LABEL, of a "
        "segmentation pixel:X,Y or segment:0, each also with a LABEL.",
    ),
]
Pair = Annotated[str | None, typer.Option(metavar="TEXT", help="The second text, for models that read pairs.")]
Question = Annotated[
    str | None,
    typer.Option(
        metavar="TEXT", help="A question about the picture, for models that read words and pictures in one sequence."
    ),
]
TextColumn = Annotated[
    str | None,
    typer.Option(metavar="NAME", help="The column of a table with the text [default: the one with a usual name]."),
]
PairColumn = Annotated[str | None, typer.Option(metavar="NAME", help="The column with the second text.")]
LabelColumn = Annotated[str | None, typer.Option(metavar="NAME", help="The column with the gold label.")]
Split = Annotated[str, typer.Option(help="The split of a dataset from the hub.")]
Limit = Annotated[int | None, typer.Option(min=1, help="How many examples, drawn with the seed [default: all].")]
Truncation = Annotated[bool, typer.Option("--truncation", help="Truncate texts that are too long.")]
Device = Annotated[str, typer.Option(metavar="cpu|cuda", help="Where the model runs.")]

"""`attcat evaluate`: methods against each other on a dataset."""

from __future__ import annotations

from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import AttCATError, OptionError
from ..files import write_atomically
from .inputs import REFERENCES, Item, check_methods, listed
from .options import Classifier, Device, LabelColumn, Limit, PairColumn, Revision, Split, TextColumn, Truncation
from .output import check_name, counting, print_table, write_file
from .wording import in_shell

if TYPE_CHECKING:
    from ..evaluation import Dataset, Plan, Results
    from ..evaluation.runner import Make
    from ..explainer import Explainer

METHODS = "oddscat,attcat+libra,attcat+plain,attention,rollout,genatt"
METRICS = "aopc,lodds,comprehensiveness,sufficiency,abpc"
SEEDS = 2**32 - 1
"""The largest seed that every generator takes."""
CHECKED = 16
"""How many examples the sanity checks use."""


def evaluate(
    data: Annotated[
        str,
        typer.Argument(
            metavar="DATA",
            help="A .tsv, .csv, .jsonl or .parquet file, a folder of pictures by class, or a dataset from the hub.",
        ),
    ],
    output: Annotated[str, typer.Option(metavar="FOLDER", help="Where results are kept; an interrupted run resumes.")],
    model: Classifier = None,
    revision: Revision = None,
    methods: Annotated[
        str, typer.Option(metavar="NAMES", help="NAME or NAME+RULE, separated by commas; random is added.")
    ] = METHODS,
    metrics: Annotated[str, typer.Option(metavar="NAMES", help="With commas.")] = METRICS,
    removal: Annotated[
        str | None,
        typer.Option(
            metavar="HOW", help="mask, pad, delete for texts; zero, mean, blur, drop for pictures [default: the first]."
        ),
    ] = None,
    limit: Limit = None,
    seed: Annotated[int, typer.Option(min=0, max=SEEDS, help="The seed of everything random.")] = 0,
    sanity: Annotated[bool, typer.Option("--sanity", help="Also run the sanity checks.")] = False,
    references: Annotated[
        str | None,
        typer.Option(
            metavar="DATA", help="Where contrast_cat's references are drawn from [default: what --limit leaves over]."
        ),
    ] = None,
    image_size: Annotated[
        int | None,
        typer.Option(min=1, metavar="PIXELS", help="Size of the model's input, if the model accepts others."),
    ] = None,
    text_column: TextColumn = None,
    pair_column: PairColumn = None,
    label_column: LabelColumn = None,
    span_column: Annotated[str | None, typer.Option(metavar="NAME", help="The column with gold spans.")] = None,
    split: Split = "validation",
    truncation: Truncation = False,
    device: Device = "cpu",
) -> None:
    """Measure which explanations are faithful: all methods on the same examples, random always among them."""
    names, folder = listed(methods), Path(output)
    check_methods(names)
    check_name(output)
    if folder.is_file():
        raise OptionError(f"--output {output} is a file: give a folder")
    from ..evaluation import Plan, read_dataset, run  # what is wrong with the options was said before torch is imported
    from ..evaluation.report import markdown, page, table, to_json
    from ..evaluation.tables import Columns
    from .models import check_kind, check_options, device_named, load_model

    check_options(names)
    plan = Plan(_named(model, revision), names, listed(metrics), removal, limit, seed, truncation)
    place = device_named(device)
    columns = Columns(text_column, pair_column, label_column, span_column)
    dataset = read_dataset(data, columns, split=split)
    others = None if references is None else read_dataset(references, columns, split=split)
    plan = replace(plan, conditions=_conditions(image_size, others))
    network, processor = load_model(model, dataset.pictures, revision)
    processor = processor if image_size is None else _resized(processor, image_size)
    make = _maker(network.to(place), processor, plan, dataset, others)
    check_kind(make("random"), Item(Path("picture") if dataset.pictures else "text"))
    total = len(plan.methods) * min(len(dataset.examples), limit or len(dataset.examples))
    try:
        with counting("evaluating", total) as tick:
            results = run(plan, dataset, make, folder, tick)
    except OSError as error:
        raise OptionError(f"cannot write to {folder}: {error.strerror or error}; choose another --output") from error
    checks = _sanity(results, dataset, make) if sanity else None
    print_table(*table(results), head=True)
    if checks:
        print_table(
            ["method", *next(iter(checks.values()))], [[m, *by.values()] for m, by in checks.items()], head=True
        )
    for name, content in (
        ("results.json", to_json(results, checks)),
        ("table.md", markdown(results).encode()),
        ("report.html", page(results, checks).encode()),
    ):
        write_file(folder / name, partial(write_atomically, data=content))
        print(f"wrote {folder / name}")


def _named(model: str | None, revision: str | None) -> str:
    return "embedded" if model is None else model if revision is None else f"{model}@{revision}"


def _conditions(image_size: int | None, others: Dataset | None) -> dict[str, Any]:
    """What the numbers depend on besides the plan, as far as it was given."""
    told: dict[str, Any] = {} if image_size is None else {"image_size": image_size}
    return told if others is None else {**told, "references": f"{others.name} ({others.fingerprint[:12]})"}


def _maker(network: Any, processor: Any, plan: Plan, data: Dataset, others: Dataset | None) -> Make:
    """Explainers by name, each with the options that its method requires."""
    from ..explainer import Explainer
    from ..methods import read_name
    from ..model.discovered import adapter_of

    adapter = adapter_of(network, processor)

    @cache
    def make(name: str) -> Explainer:
        method, _, given = read_name(name)
        options: dict[str, Any] = {"seed": plan.seed} if "seed" in method.defaults and "seed" not in given else {}
        if "references" in method.required:
            options["references"] = _references(plan, data, others)
        return Explainer(adapter, method=name, **options)

    return make


def _references(plan: Plan, data: Dataset, others: Dataset | None) -> list[Any]:
    """Inputs that are not evaluated: from the data named for it, or what the limit leaves over.

    Raises:
        OptionError: if there are none, or if they are of another kind.
    """
    from ..evaluation.runner import choose

    source = data if others is None else others
    if source.pictures != data.pictures:
        raise OptionError(f"--references {source.name} and {data.name}: one holds texts, the other pictures")
    rest = choose(plan.seed, len(source.examples))
    rest = rest if others is not None else rest[plan.limit :] if plan.limit else []
    if not rest:
        raise OptionError(
            "contrast_cat needs references that are not evaluated: name other data with --references, such as the "
            "training data, or give a --limit smaller than the data"
        )
    return [source.examples[index].value for index in rest[:REFERENCES]]


def _resized(processor: Any, size: int) -> Any:
    """The same image processor for another input size.

    Raises:
        OptionError: if it is not an image processor of transformers, which have a known size.
    """
    if not hasattr(processor, "to_dict") or not getattr(processor, "size", None):
        raise OptionError("--image-size changes the image processors of transformers; this model has none")
    told = processor.to_dict()
    square = {"height": size, "width": size}
    cropped = bool(told.get("do_center_crop") and told.get("crop_size"))
    told["size"] = {"shortest_edge": size} if cropped or "shortest_edge" in dict(told["size"]) else square
    if cropped:
        told["crop_size"] = square
    return type(processor).from_dict(told)


def _sanity(results: Results, data: Dataset, make: Make) -> dict[str, dict[str, str]]:
    """One row of checks per method, on a few of the examples; a check that cannot be run says why."""
    from ..metrics.sanity import CHECKS, parameter_randomisation

    records = results.records["random"][:CHECKED]
    inputs = [data.examples[record["example"]].value for record in records]
    found: dict[str, dict[str, str]] = {}
    for name in results.plan.methods:
        explainer = make(name)
        row: dict[str, str] = {}
        for check, function in CHECKS.items():
            used = explainer.like(completeness=True) if check == "completeness_gap" else explainer
            row[check] = _told(lambda f=function, e=used: f"{float(f(e, inputs).nanmean()):.2g}")  # type: ignore[misc]
        for cascading in (True, False):
            kind = "cascading" if cascading else "independent"
            row[f"{kind} randomisation"] = _told(
                lambda c=cascading, e=explainer: " ".join(  # type: ignore[misc]
                    f"{float(value):.2f}"
                    for value in parameter_randomisation(e, inputs, cascading=c).similarity.nanmean(1)
                )
            )
        found[name] = row
    return found


def _told(work: Any) -> str:
    try:
        return str(work())
    except AttCATError as error:
        return f"({in_shell(error).splitlines()[0][:60]})"

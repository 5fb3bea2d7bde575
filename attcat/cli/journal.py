"""What a run of `attcat explain` has found so far, beside its output: an interrupted run resumes."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..errors import AttCATError, InputError, OptionError
from ..evaluation.log import whole_lines
from ..evaluation.runner import code_version
from ..explainer import Explainer
from ..explanation import Explanation
from ..model.picture import read_picture, to_pixels
from ..saving import pack, unpack
from .gather import Bad
from .inputs import Item

NAME = ".attcat.jsonl"


class Journal:
    """A line of settings, then a line per input that is done. With other settings it begins anew.

    Args:
        output: the file or folder that is written.
        folder: whether it is a folder.
        settings: everything that the results depend on.
    """

    def __init__(self, output: Path, folder: bool, settings: Mapping[str, Any]) -> None:
        self.path = output / NAME if folder else output.with_name(f".{output.name}{NAME}")
        self._known: dict[str, Mapping[str, Any]] = {}
        told = json.loads(json.dumps(dict(settings)))
        try:
            lines = whole_lines(self.path)
        except OptionError:  # not a journal, or damaged: nothing in it can be relied on
            lines = []
        if lines and lines[0] == told:
            self._known = {line["input"]: line for line in lines[1:] if isinstance(line.get("input"), str)}
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.write_text(json.dumps(told) + "\n", encoding="utf-8")
        except (OSError, ValueError) as error:
            raise _unwritable(self.path, error) from error

    def kept(self, part: Sequence[Item]) -> list[Explanation | Bad] | None:
        """The results of inputs that were explained together; None if one of them is missing."""
        found: list[Explanation | Bad] = []
        for item in part:
            line = self._known.get(key(item))
            if line is None:
                return None
            if "error" in line:
                found.append(Bad(item.place, InputError(str(line["error"]))))
                continue
            try:
                found.append(_seen(unpack(line["explanation"], Explanation), item))
            except (AttCATError, KeyError):
                return None
        return found

    def add(self, part: Sequence[Item], results: Sequence[Explanation | Bad]) -> None:
        """Append inputs that were explained together, and make sure that they are on disk."""
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.writelines(f"{json.dumps(line)}\n" for line in _lines(part, results))
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise _unwritable(self.path, error) from error

    def remove(self) -> None:
        """Everything is done."""
        self.path.unlink(missing_ok=True)


def _lines(part: Sequence[Item], results: Sequence[Explanation | Bad]) -> Iterator[dict[str, Any]]:
    for item, one in zip(part, results, strict=True):
        told = {"error": str(one)} if isinstance(one, Bad) else {"explanation": pack(_unseen(one, item))}
        yield {"input": key(item), **told}


def _unseen(explanation: Explanation, item: Item) -> Explanation:
    """Without the pixels of a picture, which can be read again and cost far more to write than all the rest."""
    return replace(explanation, source=None) if item.is_picture else explanation


def _seen(explanation: Explanation, item: Item) -> Explanation:
    """With the pixels of its picture again: the fingerprint of the file is that of the line."""
    if not item.is_picture:
        return explanation
    return replace(explanation, source=to_pixels(read_picture(item.value)))


def _unwritable(path: Path, error: OSError | ValueError) -> OptionError:
    reason = error.strerror if isinstance(error, OSError) else error
    return OptionError(f"cannot write {path}: {reason or error}; choose another --output")


def key(item: Item) -> str:
    """A fingerprint of an input: of the text, or of the picture's file; of a picture with a question both."""
    if isinstance(item.value, Path):
        try:
            return hashlib.sha256(item.value.read_bytes()).hexdigest()
        except OSError:
            return f"unreadable {item.value}"
    if isinstance(item.value, tuple) and isinstance(item.value[0], Path):
        return f"{key(Item(item.value[0]))} {key(Item(str(item.value[1])))}"
    return hashlib.sha256(json.dumps(item.value).encode()).hexdigest()


def settings_of(explainer: Explainer, model: str | None, options: Mapping[str, Any]) -> dict[str, Any]:
    """What a result depends on, in plain values."""
    settings = explainer.settings
    return {
        "format": "attcat-explained-2",
        "code": code_version(type(explainer.adapter)),
        "model": model or "embedded",
        "weights": _weights(explainer),
        "method": settings.method.name,
        "options": {name: str(value) for name, value in settings.options.items()},
        "batch_size": settings.batch_size,
        **{name: str(value) for name, value in options.items()},
    }


def _weights(explainer: Explainer) -> str:
    """A fingerprint of the parameters' names, shapes and a few of their numbers: a model that was trained on is another."""
    found = hashlib.sha256()
    for name, parameter in explainer.adapter.model.named_parameters():
        few = parameter.detach().flatten()[:8].double().cpu().tolist() if not parameter.is_meta else []
        found.update(f"{name} {tuple(parameter.shape)} {few}".encode())
    return found.hexdigest()[:16]

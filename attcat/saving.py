"""Explanations as files: written whole or not at all, read back without pickle."""

from __future__ import annotations

import base64
import json
import struct
from collections.abc import Callable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from .attribution import Attribution, Window
from .errors import InputError
from .files import decode_png, encode_png
from .tokens import Tokens, View

FORMAT = "attcat-explanation-1"

Kind = TypeVar("Kind", bound=Attribution)


def load(path: Path, kind: type[Kind]) -> Kind:
    """Read an attribution of some kind back from a .json or .safetensors file.

    Raises:
        InputError: if the file is not one that was written by `WRITERS`.
        FileNotFoundError: if there is no such file.
    """
    readers = {".json": _from_json, ".safetensors": _from_safetensors}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise InputError(f"cannot load {path.name!r}: only {' and '.join(readers)} can be read back")
    data = path.read_bytes()
    try:
        return kind(**reader(data))
    except Exception as error:  # a damaged file can fail in every way that JSON, safetensors, PNG and our checks know
        raise InputError(f"{path} is not an explanation that was saved by AttCAT: {error}") from error


# -- the content -------------------------------------------------------------------------------------------------------

_PLAIN = ("target", "labels", "method", "model", "dropped", "value", "bias", "against")
_LATER = ("task", "activation", "rest", "position", "answers", "classes")
"""Fields that hold plain values; the later ones are absent from files that were written before there were such tasks."""


def _to_record(explanation: Attribution) -> dict[str, Any]:
    """Everything except the tensors, as plain JSON values."""
    tokens, source = explanation.tokens, explanation.source
    record: dict[str, Any] = {"format": FORMAT, "scores": explanation.scores.tolist()}
    for name in (*_PLAIN, *_LATER):
        record[name] = getattr(explanation, name)
    record["windows"] = [[window.start, window.end, list(window.logits)] for window in explanation.windows]
    record["options"], record["measured"] = dict(explanation.options), dict(explanation.measured)
    record["tokens"] = {f.name: getattr(tokens, f.name) for f in fields(tokens) if f.name != "view"}
    view = tokens.view
    record["tokens"]["view"] = view and {"width": view.width, "height": view.height, "box": view.box}
    record["source"] = {"texts": [source] if isinstance(source, str) else source if isinstance(source, tuple) else None}
    return record


def _from_record(record: dict[str, Any], layers: Tensor, logits: Tensor, pixels: np.ndarray | None) -> dict[str, Any]:
    """The fields of an attribution."""
    if record.get("format") != FORMAT:
        raise ValueError(f"format {record.get('format')!r}, expected {FORMAT!r}")
    described = dict(record["tokens"])
    view = described.pop("view")
    for name in ("labels", "special", "segments", "words", "grid"):
        described[name] = None if described[name] is None else tuple(described[name])
    if described["spans"] is not None:
        described["spans"] = tuple(None if span is None else (span[0], span[1]) for span in described["spans"])
    tokens = Tokens(view=view and View(view["width"], view["height"], tuple(view["box"])), **described)
    texts = record["source"]["texts"]
    later = {name: record[name] for name in _LATER if name in record}
    if later.get("answers") is not None:
        later["answers"] = tuple(None if span is None else (span[0], span[1]) for span in later["answers"])
    if later.get("classes") is not None:
        later["classes"] = tuple(int(number) for number in later["classes"])
    later["windows"] = tuple(Window(start, end, tuple(logits)) for start, end, logits in record.get("windows", ()))
    return dict(
        layers=layers.float(),
        tokens=tokens,
        logits=logits.float(),
        target=record["target"],
        labels=tuple(record["labels"]),
        method=record["method"],
        options=record["options"],
        source=pixels if texts is None else texts[0] if len(texts) == 1 else (texts[0], texts[1]),
        model=record["model"],
        dropped=record["dropped"],
        value=record["value"],
        bias=record["bias"],
        against=record["against"],
        measured=record["measured"],
        **later,
    )


# -- the files ---------------------------------------------------------------------------------------------------------


def _to_json(explanation: Attribution) -> bytes:
    record = _to_record(explanation)
    record["layers"], record["logits"] = explanation.layers.tolist(), explanation.logits.tolist()
    if isinstance(explanation.source, np.ndarray):
        record["source"]["png"] = base64.b64encode(encode_png(explanation.source)).decode()
    return json.dumps(record, ensure_ascii=False, indent=1, allow_nan=False).encode()


def _from_json(data: bytes) -> dict[str, Any]:
    record = json.loads(data)
    picture = record["source"].get("png")
    pixels = None if picture is None else decode_png(base64.b64decode(picture))
    return _from_record(record, torch.tensor(record["layers"]), torch.tensor(record["logits"]), pixels)


def _to_safetensors(explanation: Attribution) -> bytes:
    import safetensors.torch

    tensors = {"layers": explanation.layers, "scores": explanation.scores, "logits": explanation.logits}
    if isinstance(explanation.source, np.ndarray):
        tensors["picture"] = torch.tensor(explanation.source)  # a copy: the pixels of a PIL image are read-only
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    return safetensors.torch.save(tensors, metadata={"attcat": json.dumps(_to_record(explanation))})


def _from_safetensors(data: bytes) -> dict[str, Any]:
    import safetensors.torch

    tensors = safetensors.torch.load(data)
    (length,) = struct.unpack("<Q", data[:8])  # a safetensors file begins with the length of its JSON header
    record = json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["attcat"])
    pixels = tensors["picture"].numpy() if "picture" in tensors else None
    return _from_record(record, tensors["layers"], tensors["logits"], pixels)


WRITERS: Mapping[str, Callable[[Attribution], bytes]] = {".json": _to_json, ".safetensors": _to_safetensors}
"""From a suffix to what makes the content of such a file, which `load` reads back."""

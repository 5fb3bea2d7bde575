"""Explanations as files: written whole or not at all, read back without pickle."""

from __future__ import annotations

import base64
import io
import json
import os
import tempfile
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from .errors import InputError
from .explanation import Explanation, Window
from .tokens import Tokens, View

if TYPE_CHECKING:
    from PIL import Image

FORMAT = "attcat-explanation-1"


def save(explanation: Explanation, path: Path) -> Path:
    """See `Explanation.save`.

    Raises:
        InputError: for a suffix that is not known, or .png of a text.
    """
    writers = {
        ".json": lambda: _to_json(explanation),
        ".safetensors": lambda: _to_safetensors(explanation),
        ".html": lambda: explanation.to_html().encode(),
        ".png": lambda: encode_png(explanation.to_image()),
    }
    if path.suffix.lower() not in writers:
        raise InputError(f"cannot save as {path.name!r}: use one of {', '.join(writers)}")
    write_atomically(path, writers[path.suffix.lower()]())
    return path


def load(path: str | os.PathLike[str]) -> Explanation:
    """Read an Explanation back from a .json or .safetensors file written by `Explanation.save`.

    Raises:
        InputError: if the file is not one of these.
        FileNotFoundError: if there is no such file.
    """
    path = Path(path)
    data = path.read_bytes()
    try:
        if path.suffix.lower() == ".json":
            record = json.loads(data)
            picture = record["source"].get("png")
            pixels = None if picture is None else _decode_png(base64.b64decode(picture))
            return _from_record(record, torch.tensor(record["layers"]), torch.tensor(record["logits"]), pixels)
        if path.suffix.lower() == ".safetensors":
            import safetensors
            import safetensors.torch

            tensors = safetensors.torch.load(data)
            with safetensors.safe_open(path, framework="pt") as file:
                record = json.loads(file.metadata()["attcat"])
            pixels = tensors["picture"].numpy() if "picture" in tensors else None
            return _from_record(record, tensors["layers"], tensors["logits"], pixels)
    except (
        Exception
    ) as error:  # a damaged file can fail in every way that JSON, safetensors, PNG and our own checks know
        raise InputError(f"{path} is not an explanation that was saved by AttCAT: {error}") from error
    raise InputError(f"cannot load {path.name!r}: only .json and .safetensors can be read back")


def write_atomically(path: Path, data: bytes) -> None:
    """Write `data` to `path` so that a reader, or an interruption, never sees half a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(name, 0o666 & ~umask)  # mkstemp is private; a result is not
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


# -- the content -------------------------------------------------------------------------------------------------------

_PLAIN = ("target", "labels", "method", "model", "dropped", "value", "bias", "against")
_LATER = ("task", "activation", "rest", "position", "answers")
"""Fields that hold plain values; the later ones are absent from files that were written before there were such tasks."""


def _to_record(explanation: Explanation) -> dict[str, Any]:
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


def _from_record(record: dict[str, Any], layers: Tensor, logits: Tensor, pixels: np.ndarray | None) -> Explanation:
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
    later["windows"] = tuple(Window(start, end, tuple(logits)) for start, end, logits in record.get("windows", ()))
    return Explanation(
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


def _to_json(explanation: Explanation) -> bytes:
    record = _to_record(explanation)
    record["layers"], record["logits"] = explanation.layers.tolist(), explanation.logits.tolist()
    if isinstance(explanation.source, np.ndarray):
        record["source"]["png"] = base64.b64encode(encode_png(explanation.source)).decode()
    return json.dumps(record, ensure_ascii=False, indent=1, allow_nan=False).encode()


def _to_safetensors(explanation: Explanation) -> bytes:
    import safetensors.torch

    tensors = {"layers": explanation.layers, "scores": explanation.scores, "logits": explanation.logits}
    if isinstance(explanation.source, np.ndarray):
        tensors["picture"] = torch.tensor(explanation.source)  # a copy: the pixels of a PIL image are read-only
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    return safetensors.torch.save(tensors, metadata={"attcat": json.dumps(_to_record(explanation))})


def encode_png(picture: Image.Image | np.ndarray) -> bytes:
    """A picture, or uint8 `[H, W, 3]`, as the content of a PNG file."""
    from PIL import Image

    buffer = io.BytesIO()
    (Image.fromarray(picture) if isinstance(picture, np.ndarray) else picture).save(buffer, "PNG")
    return buffer.getvalue()


def _decode_png(data: bytes) -> np.ndarray:
    from PIL import Image

    return np.array(Image.open(io.BytesIO(data)).convert("RGB"))

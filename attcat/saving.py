"""Explanations as files: written whole or not at all, read back without pickle."""

from __future__ import annotations

import base64
import json
import math
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor

from .attribution import Attribution, Window
from .errors import InputError
from .files import decode_png, encode_png
from .tokens import MAX_PIXELS, Interleaved, Patches, Tokens, View, Waveform

if TYPE_CHECKING:
    import pandas

FORMAT = "attcat-explanation-1"

Kind = TypeVar("Kind", bound=Attribution)
Read = TypeVar("Read")
Made = TypeVar("Made")
Seen = np.ndarray | Waveform | tuple[np.ndarray, ...] | None
"""What is not text of an input: a picture or video, a sound, the pictures of a text."""


def load(path: Path, kind: type[Kind]) -> Kind:
    """Read an attribution of class `kind` back from a .json or .safetensors file.

    Raises:
        InputError: if the file is not one that was written by `WRITERS`.
        FileNotFoundError: if there is no such file.
    """
    readers = {".json": _from_json, ".safetensors": _from_safetensors}
    return _loaded(path, readers, "an explanation", lambda fields: kind(**fields))


def _loaded(
    path: Path, readers: Mapping[str, Callable[[bytes], Read]], what: str, made: Callable[[Read], Made]
) -> Made:
    """What is made of a file's content, whatever a damaged one fails with."""
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise InputError(f"cannot load {path.name!r}: only {' and '.join(readers)} can be read back")
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise
    except (OSError, ValueError) as error:  # a folder, a name that no file can have
        raise InputError(f"{str(path)!r} cannot be read: {error}; give a file that was saved by AttCAT") from error
    return _made(lambda: made(reader(data)), str(path), what)


def _made(made: Callable[[], Made], name: str, what: str) -> Made:
    try:
        return made()
    except Exception as error:  # a damaged file can fail in every way that JSON, safetensors, PNG and our checks know
        raise InputError(f"{name} is not {what} that was saved by AttCAT: {error}") from error


# -- the content -------------------------------------------------------------------------------------------------------

_PLAIN = ("target", "labels", "method", "model", "dropped", "value", "bias", "against")
_LATER = ("task", "activation", "rest", "position", "answers", "classes")
"""Fields that hold plain values; the later ones are missing from files that are older than these tasks."""


def _to_record(explanation: Attribution) -> dict[str, Any]:
    """Everything except the tensors, as plain JSON values (read-only mappings are written as dicts)."""
    source = explanation.source
    record: dict[str, Any] = {"format": FORMAT, "scores": explanation.scores.tolist()}
    for name in (*_PLAIN, *_LATER):
        record[name] = getattr(explanation, name)
    record["windows"] = [[window.start, window.end, _written(window.logits)] for window in explanation.windows]
    record["options"], record["measured"] = explanation.options, explanation.measured
    if explanation.start is not None:
        record["start"] = explanation.start
    record["tokens"] = _described(explanation.tokens)
    record["source"] = {"texts": explanation.texts if isinstance(source, (str, tuple, Interleaved)) else None}
    if isinstance(source, Waveform):
        record["source"]["rate"] = source.rate
    return record


def _described(tokens: Tokens) -> dict[str, Any]:
    """Tokens as plain JSON values."""
    described = {f.name: getattr(tokens, f.name) for f in fields(tokens) if f.name not in ("view", "patches", "places")}
    described["view"] = _described_view(tokens.view)
    if tokens.patches is not None:
        described["patches"] = [
            {"picture": one.picture, "grid": one.grid, "view": _described_view(one.view)} for one in tokens.patches
        ]
        described["places"] = tokens.places
    return described


def _described_view(view: View | None) -> dict[str, Any] | None:
    return None if view is None else {"width": view.width, "height": view.height, "box": view.box}


def _tokens(described: Mapping[str, Any]) -> Tokens:
    """Tokens from these."""
    values = dict(described)
    view, patches = _view(values.pop("view")), values.pop("patches", None)
    if patches is not None:
        patches = tuple(Patches(one["picture"], one["grid"], _view(one["view"])) for one in patches)
    return Tokens(**values, view=view, patches=patches)


def _view(described: Mapping[str, Any] | None) -> View | None:
    return None if described is None else View(**described)


def _from_record(record: dict[str, Any], layers: Tensor, logits: Tensor, seen: Seen) -> dict[str, Any]:
    """The fields of an attribution."""
    if record.get("format") != FORMAT:
        raise ValueError(f"format {record.get('format')!r}, expected {FORMAT!r}")
    texts = record["source"]["texts"]
    if texts is not None and (not isinstance(texts, list) or not 1 <= len(texts) <= 2):
        raise ValueError("source: expected a list of one or two texts")
    windows = [Window(start, end, _read(logits)) for start, end, logits in record.get("windows", ())]
    return dict(
        {name: record[name] for name in (*_PLAIN, "options", "measured")},
        **{name: record[name] for name in (*_LATER, "start") if name in record},
        layers=layers,
        tokens=_tokens(record["tokens"]),
        logits=logits,
        source=_source(texts, seen),
        windows=windows,
    )


def _source(texts: list[str] | None, seen: Seen) -> Any:
    """The input, of its texts and what else there was."""
    if texts is None:
        return seen
    if isinstance(seen, tuple):
        return Interleaved(texts[0], seen)
    return texts[0] if len(texts) == 1 else tuple(texts)


def _pictures_of(explanation: Attribution) -> tuple[np.ndarray, ...]:
    """The pictures of a text that has some."""
    return explanation.source.pictures if isinstance(explanation.source, Interleaved) else ()


def _encoded(pictures: Sequence[np.ndarray]) -> list[str]:
    return [base64.b64encode(encode_png(picture)).decode() for picture in pictures]


def _decoded(pictures: Sequence[str]) -> tuple[np.ndarray, ...]:
    return tuple(decode_png(base64.b64decode(picture), MAX_PIXELS) for picture in pictures)


def _samples(sound: Waveform) -> str:
    """A sound's samples as text."""
    return base64.b64encode(sound.samples.astype("<f4").tobytes()).decode()


def _waveform(samples: str, rate: int) -> Waveform:
    """A sound from these."""
    return Waveform(np.frombuffer(base64.b64decode(samples), "<f4").astype(np.float32), rate)


def _numbered(pictures: Sequence[np.ndarray]) -> dict[str, Tensor]:
    """Pictures as tensors by name."""
    return {f"picture.{number}": torch.tensor(picture) for number, picture in enumerate(pictures)}


def _named(tensors: Mapping[str, Tensor]) -> tuple[np.ndarray, ...] | None:
    """Pictures from these; None if there are none."""
    count = sum(name.startswith("picture.") for name in tensors)
    return tuple(tensors[f"picture.{number}"].numpy() for number in range(count)) or None


def _written(logits: Sequence[float]) -> list[float | None]:
    """JSON has no minus infinity, the logit of a class that is ruled out: null stands for it."""
    return [None if logit == -math.inf else logit for logit in logits]


def _read(logits: Any) -> tuple[Any, ...]:
    if not isinstance(logits, list):
        raise ValueError(f"logits: got {type(logits).__name__}, expected a list")
    return tuple(-math.inf if logit is None else logit for logit in logits)


def _floats(values: Any) -> Tensor:
    """Numbers from JSON as float32; a number that is too large becomes infinite, and is refused like other infinities."""
    found = torch.tensor(values, dtype=torch.float64)
    if torch.tensor(values).dtype == torch.bool:
        raise ValueError("got True and False, expected numbers")
    return found.float()


# -- the files ---------------------------------------------------------------------------------------------------------


def to_text(explanation: Attribution, indent: int | None = None) -> str:
    """The content of a .json file, by default on one line."""
    record = _to_record(explanation)
    record["layers"], record["logits"] = explanation.layers.tolist(), _written(explanation.logits.tolist())
    if isinstance(explanation.source, np.ndarray):
        tall = explanation.source.reshape(-1, *explanation.source.shape[-2:])  # the frames of a video under one another
        record["source"]["png"] = base64.b64encode(encode_png(tall)).decode()
    if pictures := _pictures_of(explanation):
        record["source"]["pictures"] = _encoded(pictures)
    if isinstance(explanation.source, Waveform):
        record["source"]["samples"] = _samples(explanation.source)
    return json.dumps(record, ensure_ascii=False, indent=indent, allow_nan=False, default=dict)


def from_text(text: str, kind: type[Kind]) -> Kind:
    """An attribution of class `kind` from what `to_text` made.

    Raises:
        InputError: if it is something else.
    """
    return _made(lambda: kind(**_from_json(text.encode())), "this text", "an explanation")


def _to_json(explanation: Attribution) -> bytes:
    return to_text(explanation, indent=1).encode()


def _from_json(data: bytes) -> dict[str, Any]:
    record = json.loads(data)
    picture = record["source"].get("png")
    seen: Seen = None
    if "pictures" in record["source"]:
        seen = _decoded(record["source"]["pictures"])
    if picture is not None:
        seen = decode_png(base64.b64decode(picture), MAX_PIXELS)
        frames = record["tokens"].get("frames")
        seen = seen.reshape(frames[-1][1], -1, *seen.shape[1:]) if frames else seen
    if "samples" in record["source"]:
        seen = _waveform(record["source"]["samples"], record["source"]["rate"])
    return _from_record(record, _floats(record["layers"]), _floats(_read(record["logits"])), seen)


def _to_safetensors(explanation: Attribution) -> bytes:
    import safetensors.torch

    tensors = {"layers": explanation.layers, "scores": explanation.scores, "logits": explanation.logits}
    if isinstance(explanation.source, np.ndarray):
        tensors["picture"] = torch.tensor(explanation.source)  # a copy: the pixels of a PIL image are read-only
    tensors |= _numbered(_pictures_of(explanation))
    if isinstance(explanation.source, Waveform):
        tensors["samples"] = torch.tensor(explanation.source.samples)
    tensors = {name: tensor.contiguous() for name, tensor in tensors.items()}
    return safetensors.torch.save(tensors, metadata={"attcat": json.dumps(_to_record(explanation), default=dict)})


def pack(explanation: Attribution) -> str:
    """The content of a .safetensors file in letters: what is quickest to write and to read, for files that do not last."""
    return base64.b64encode(_to_safetensors(explanation)).decode()


def unpack(text: str, kind: type[Kind]) -> Kind:
    """An attribution of class `kind` from what `pack` made.

    Raises:
        InputError: if it is something else.
    """
    return _made(lambda: kind(**_from_safetensors(base64.b64decode(text))), "this text", "an explanation")


def _metadata(data: bytes) -> Any:
    """What stands in the header of a safetensors file, which begins with the header's length."""
    (length,) = struct.unpack("<Q", data[:8])
    return json.loads(json.loads(data[8 : 8 + length])["__metadata__"]["attcat"])


def _from_safetensors(data: bytes) -> dict[str, Any]:
    import safetensors.torch

    tensors, record = safetensors.torch.load(data), _metadata(data)
    seen: Seen = tensors["picture"].numpy() if "picture" in tensors else _named(tensors)
    if "samples" in tensors:
        seen = Waveform(tensors["samples"].numpy(), record["source"]["rate"])
    return _from_record(record, tensors["layers"], tensors["logits"], seen)


def records(explanation: Attribution) -> list[dict[str, Any]]:
    """A row for each word (or token, where the words are not known), patch or moment: what it is, score, share and rank.

    Of words and pictures in one sequence, `kind` says which of them a row is, and `image` on which picture a patch lies.
    Share is of the total magnitude of the rows, 0 to 1; rank 1 is the largest magnitude.
    """
    if explanation.is_mixed:
        rows = _mixed(explanation)
    elif explanation.is_sound:
        rows = _moments(explanation)
    elif explanation.is_video:
        rows = [
            {"first": first, "last": end - 1, **patch}
            for first, end in explanation.tokens.frames or ()
            for patch in _patches(explanation.of_frame(first))
        ]
    else:
        rows = _patches(explanation) if explanation.is_image else _stretches(explanation)
    total = sum(abs(row["score"]) for row in rows) or 1.0
    ranked = sorted(range(len(rows)), key=lambda at: -abs(rows[at]["score"]))
    ranks = {at: rank for rank, at in enumerate(ranked, 1)}
    return [{**row, "share": abs(row["score"]) / total, "rank": ranks[at]} for at, row in enumerate(rows)]


def frame(rows: Sequence[Mapping[str, Any]]) -> pandas.DataFrame:
    """Rows, as of `records`, as a pandas table.

    Raises:
        InputError: if pandas is not installed.
    """
    try:
        import pandas
    except ImportError as error:
        raise InputError("to_frame() needs pandas: pip install 'attcat[frame]', or use records()") from error
    return pandas.DataFrame(rows)


def _patches(explanation: Attribution) -> list[dict[str, Any]]:
    """Row and column from 0, and the edges in pixels of the picture."""
    grid, view, rows = explanation.grid, explanation.view, []
    shape = (grid.shape[0], grid.shape[1])
    for number, score in enumerate(grid.flatten().tolist()):
        row, column = divmod(number, shape[1])
        edges = dict(zip(("left", "top", "right", "bottom"), view.cell(shape, number), strict=True))
        rows.append({"row": row, "column": column, **edges, "score": score})
    return rows


def _mixed(explanation: Attribution) -> list[dict[str, Any]]:
    """First the patches, picture by picture, then the words; a picture whose tokens lie nowhere in it is one row."""
    rows: list[dict[str, Any]] = []
    for number in range(explanation.pictures):
        placed = any(one.picture == number and one.grid is not None for one in explanation.tokens.patches or ())
        found = _patches(explanation.of_image(number)) if placed else [{"score": explanation.shares().signed[number]}]
        rows += [{"kind": "patch" if placed else "picture", "image": number, **row} for row in found]
    return rows + [{"kind": "word", **row} for row in _stretches(explanation.of_text())]


def _moments(explanation: Attribution) -> list[dict[str, Any]]:
    """Start and end in seconds; of a spectrogram also the band, for each band of a moment a row."""
    tokens = explanation.tokens
    bands = tokens.bands or (None,) * len(tokens)
    return [
        {"start": time[0], "end": time[1], **({"low": band[0], "high": band[1]} if band else {}), "score": score}
        for time, band, score in zip(tokens.times or (), bands, explanation.scores.tolist(), strict=True)
        if time is not None
    ]


def _stretches(explanation: Attribution) -> list[dict[str, Any]]:
    if explanation.tokens.spans is not None and explanation.source is not None:
        return [
            {"text": word.text, "start": word.start, "end": word.end, "segment": word.segment, "score": word.score}
            for word in explanation.words()
        ]
    every = zip(explanation.tokens.labels, explanation.scores.tolist(), explanation.tokens.special, strict=True)
    return [{"text": label, "score": score} for label, score, special in every if not special]


# -- what was written ------------------------------------------------------------------------------------------------

GENERATION = "attcat-generation-1"


@dataclass(frozen=True)
class Written(Generic[Kind]):
    """A prompt and what was written after it, with an attribution for every written token; see `attcat.Generation`."""

    text: str
    tokens: Tokens
    start: int
    prompt: str | None
    explanations: tuple[Kind, ...]


def load_written(path: Path, kind: type[Kind]) -> Written[Kind]:
    """Read what was written, with attributions of some kind, back from a .json or .safetensors file.

    Raises:
        InputError: if the file is not one that was written by `WRITERS_OF_WRITTEN`.
        FileNotFoundError: if there is no such file.
    """
    readers = {".json": _written_from_json, ".safetensors": _written_from_safetensors}
    return _loaded(path, readers, "a generation", lambda parts: _written_of(kind, *parts))


def _written_of(
    kind: type[Kind], record: dict[str, Any], layers: list[Tensor], logits: list[Tensor], seen: Seen
) -> Written[Kind]:
    if record.get("format") != GENERATION:
        raise ValueError(f"format {record.get('format')!r}, expected {GENERATION!r}")
    each = zip(record["explanations"], layers, logits, strict=True)
    explanations = tuple(kind(**_from_record(*parts, seen)) for parts in each)
    tokens, start = _tokens(record["tokens"]), record["start"]
    lengths = [len(explanation.tokens) for explanation in explanations]
    if lengths != list(range(start, len(tokens))):
        raise ValueError(f"{len(tokens)} tokens, {start} of the prompt, but explanations of {lengths}")
    return Written(record["text"], tokens, start, record["prompt"], explanations)


def _record_of_written(written: Written[Any]) -> dict[str, Any]:
    record: dict[str, Any] = {"format": GENERATION, "text": written.text, "start": written.start}
    record["prompt"], record["tokens"] = written.prompt, _described(written.tokens)
    record["explanations"] = [_to_record(explanation) for explanation in written.explanations]
    return record


def _written_to_json(written: Written[Any]) -> bytes:
    record = _record_of_written(written)
    for one, explanation in zip(record["explanations"], written.explanations, strict=True):
        one["layers"], one["logits"] = explanation.layers.tolist(), _written(explanation.logits.tolist())
    if pictures := _pictures_of(written.explanations[-1]):
        record["pictures"] = _encoded(pictures)  # once: they are the same for every written token
    if isinstance(sound := written.explanations[-1].source, Waveform):
        record["sound"] = {"rate": sound.rate, "samples": _samples(sound)}
    return json.dumps(record, ensure_ascii=False, allow_nan=False, default=dict).encode()


def _written_from_json(data: bytes) -> tuple[dict[str, Any], list[Tensor], list[Tensor], Seen]:
    record = json.loads(data)
    each = record["explanations"]
    layers, logits = [_floats(one["layers"]) for one in each], [_floats(_read(one["logits"])) for one in each]
    seen: Seen = _decoded(record["pictures"]) if "pictures" in record else None
    if "sound" in record:
        seen = _waveform(record["sound"]["samples"], record["sound"]["rate"])
    return record, layers, logits, seen


def _written_to_safetensors(written: Written[Any]) -> bytes:
    import safetensors.torch

    tensors, source = _numbered(_pictures_of(written.explanations[-1])), written.explanations[-1].source
    if isinstance(source, Waveform):
        tensors["samples"] = torch.tensor(source.samples)
    for number, explanation in enumerate(written.explanations):
        tensors[f"layers.{number}"] = explanation.layers.contiguous()
        tensors[f"logits.{number}"] = explanation.logits.contiguous()
    metadata = {"attcat": json.dumps(_record_of_written(written), default=dict)}
    return safetensors.torch.save(tensors, metadata=metadata)


def _written_from_safetensors(data: bytes) -> tuple[dict[str, Any], list[Tensor], list[Tensor], Seen]:
    import safetensors.torch

    tensors, record = safetensors.torch.load(data), _metadata(data)
    count = range(len(record["explanations"]))
    layers, logits = [tensors[f"layers.{i}"] for i in count], [tensors[f"logits.{i}"] for i in count]
    seen: Seen = _named(tensors)
    if "samples" in tensors:
        seen = Waveform(tensors["samples"].numpy(), record["explanations"][0]["source"]["rate"])
    return record, layers, logits, seen


WRITERS_OF_WRITTEN: Mapping[str, Callable[[Written[Any]], bytes]] = {
    ".json": _written_to_json,
    ".safetensors": _written_to_safetensors,
}
"""The same for what was written, read back by `load_written`."""


WRITERS: Mapping[str, Callable[[Attribution], bytes]] = {".json": _to_json, ".safetensors": _to_safetensors}
"""From a suffix to the function that makes the content of such a file, which `load` reads back."""

"""What the values hold: nothing in them can be changed, every field is checked, and an edited file is one clear error."""

from __future__ import annotations

import copy
import io
import json
import pickle
import struct
import warnings
from collections.abc import Callable, Iterator
from dataclasses import FrozenInstanceError, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from rich.console import Console

import attcat
from attcat import plain
from attcat.attribution import recorded
from attcat.explanation import Explanation
from attcat.render import terminal
from attcat.tokens import Tokens, View, Waveform, Word

Make = Callable[..., Explanation]


def _explain(tokens: Tokens, source: Any, **changes: Any) -> Explanation:
    layers = torch.linspace(-1, 2, 2 * len(tokens)).reshape(2, -1)
    given: dict[str, Any] = {"logits": torch.tensor([2.0, 0.5]), "target": 0, "labels": ("yes", "no")}
    given |= {"method": "attcat", "options": {"rule": "libra", "several": [1, {"deep": [2]}]}, "measured": {"gap": 0.1}}
    given |= {"model": "Tiny", "value": 2.0, "bias": 0.5, "rest": -1.5}
    return Explanation(layers, tokens, source=source, **(given | changes))


def text(**changes: Any) -> Explanation:
    """Read in two windows."""
    tokens = Tokens(
        ("[CLS]", "grip", "##ping", "film", "[SEP]"),
        (True, False, False, False, True),
        spans=(None, (0, 4), (4, 8), (9, 13), None),
        segments=(None, 0, 0, 0, None),
        words=(None, 0, 0, 1, None),
    )
    windows = (attcat.Window(0, 8, (2.5, 0.5)), attcat.Window(4, 13, (1.5, 0.5)))
    return _explain(tokens, "gripping film", **({"against": 1, "windows": windows} | changes))


def answer(**changes: Any) -> Explanation:
    tokens = Tokens(
        ("who", "[SEP]", "by", "Varda"),
        (False, True, False, False),
        spans=((0, 3), None, (0, 2), (3, 8)),
        segments=(0, None, 1, 1),
        words=(0, None, 0, 1),
    )
    given = {"task": "question answering", "answers": ((3, 8), None), "position": None}
    return _explain(tokens, ("who", "by Varda"), **(given | changes))


def photo(**changes: Any) -> Explanation:
    tokens = Tokens(
        ("[CLS]", "0,0", "0,1", "1,0", "1,1"),
        (True, False, False, False, False),
        grid=(2, 2),
        view=View(6, 5, (0.5, 0, 5.5, 5)),
    )
    picture = np.arange(90, dtype=np.uint8).reshape(5, 6, 3)
    return _explain(tokens, picture, **({"position": 1, "task": "token classification"} | changes))


def bare(**changes: Any) -> Explanation:
    return _explain(Tokens(("#1", "#2"), (False, False)), None, **({"target": None} | changes))


ALL = [text, answer, photo, bare]


def state(explanation: Explanation) -> dict[str, Any]:
    """Everything that it holds, as values that can be compared."""
    held = {field.name: getattr(explanation, field.name) for field in fields(explanation)}
    return {name: value.tolist() if hasattr(value, "tolist") else value for name, value in held.items()}


# -- nothing can be changed --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("make", ALL)
def test_what_is_handed_out_cannot_change_it(make: Make) -> None:
    made = make()
    before = state(made)
    made.layers.zero_()
    made.logits.zero_()
    made.scores.zero_()
    for mapping in (made.options, made.measured, made.options["several"][1]):
        with pytest.raises((TypeError, AttributeError)):
            mapping["rule"] = "plain"
        with pytest.raises(AttributeError):
            mapping.rule = "plain"
        with pytest.raises((TypeError, AttributeError)):
            mapping.update(rule="plain")
    with pytest.raises(FrozenInstanceError):
        made.layers = torch.zeros(1)  # type: ignore[misc]
    if isinstance(made.source, np.ndarray):
        with pytest.raises(ValueError, match="read-only"):
            made.source[:] = 0
        with pytest.raises(ValueError, match="WRITEABLE"):
            made.source.flags.writeable = True
    assert state(made) == before


def test_what_was_given_cannot_change_it() -> None:
    picture, layers, logits = np.zeros((5, 6, 3), np.uint8), torch.zeros(1, 5), torch.tensor([1.0, 0.0])
    options: dict[str, Any] = {"list": [1, 2], "deep": {"a": [1]}}
    measured = {"gap": 0.5}
    made = photo()
    made = replace(made, source=picture, layers=layers, logits=logits, options=options, measured=measured)
    before = state(made)
    picture[:] = 255
    layers += 1
    logits += 1
    options["list"].append(3)
    options["deep"]["a"].append(3)
    measured["gap"] = 1.0
    assert state(made) == before


@pytest.mark.parametrize("again", [copy.copy, copy.deepcopy, lambda made: pickle.loads(pickle.dumps(made)), replace])
@pytest.mark.parametrize("make", ALL)
def test_copies_are_equal_and_as_frozen(make: Make, again: Callable[[Explanation], Explanation]) -> None:
    made = make()
    other = again(made)
    assert type(other) is Explanation
    assert state(other) == state(made)
    other.layers.zero_()
    assert other.scores.any()
    if isinstance(other.source, np.ndarray):
        with pytest.raises(ValueError, match="WRITEABLE"):
            other.source.flags.writeable = True


def test_an_unpickled_sound_cannot_be_written_to() -> None:
    sound = pickle.loads(pickle.dumps(Waveform(np.ones(4, np.float32), 2)))
    with pytest.raises(ValueError, match="read-only"):
        sound.samples[:] = 0
    with pytest.raises(ValueError, match="WRITEABLE"):
        sound.samples.flags.writeable = True


def test_pixels_are_copied_once() -> None:
    made = photo()
    assert replace(made, target=1).source is made.source


def test_a_frozen_mapping_is_like_a_dict_to_read() -> None:
    made = plain.frozen({"a": 1, "b": [True, None, {"c": 0.5}]})
    assert made == {"a": 1, "b": (True, None, {"c": 0.5})}
    assert (len(made), list(made), made["a"], made.get("z")) == (2, ["a", "b"], 1, None)
    assert repr(made) == "{'a': 1, 'b': (True, None, {'c': 0.5})}"
    assert pickle.loads(pickle.dumps(made)) == made == copy.deepcopy(made)
    with pytest.raises(AttributeError, match="cannot be changed"):
        del made._items


# -- every field is checked --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [
        ("layers", [[1.0]], "layers: got list, expected float32 on the CPU"),
        ("layers", torch.zeros(2, 5, dtype=torch.float64), r"layers: got torch.float64 on cpu, expected float32"),
        ("layers", torch.full((2, 5), torch.nan), "layers: got numbers that are not finite"),
        ("layers", torch.full((2, 5), 3e38), "layers: .* too large to be summed"),
        ("layers", torch.zeros(0, 5), r"layers has shape \(0, 5\), expected \[L, 5\]"),
        ("tokens", None, "tokens: got None, expected a Tokens"),
        ("logits", torch.tensor([1.0, torch.inf]), "logits: got numbers that are not finite"),
        ("logits", torch.tensor([-torch.inf, -torch.inf]), "logits: .*minus infinity only next to finite ones"),
        ("target", True, "target: got True, expected an integer from 0"),
        ("target", -1, "target: got -1, expected an integer from 0"),
        ("target", 2, "target 2 is not one of 2 classes"),
        ("against", [], r"against: got \[\], expected an integer"),
        ("against", 0, "against is 0, expected one of the 2 classes other than the target, which is 0"),
        ("against", 2, "against is 2, expected one of the 2 classes other than"),
        ("labels", ("a", 1), "labels: entry 1: got 1, expected a string"),
        ("labels", "ab", "labels: got 'ab', expected a tuple"),
        ("labels", ("a", "\ud800"), "labels: entry 1: .* half of a surrogate pair"),
        ("method", None, "method: got None, expected a string"),
        ("options", None, "options: got None, expected a mapping"),
        ("options", {"f": len}, "options: got <built-in function len>, expected a plain value"),
        ("options", {"x": float("nan")}, "options: got nan, expected a plain value"),
        ("options", {1: 1}, "options: got 1, expected a string"),
        (
            "source",
            ["a"],
            "source: got list, expected a string, a pair of strings, a picture, a Waveform, an Interleaved",
        ),
        ("source", ("a",), "source: .* expected a tuple of 2"),
        ("dropped", 1.0, "dropped: got 1.0, expected an integer from 0"),
        ("value", "x", "value: got 'x', expected a finite number"),
        ("bias", float("inf"), "bias: got inf, expected a finite number"),
        ("bias", 10**400, "bias: got 1000.*, expected a finite number"),
        ("rest", "x", "rest: got 'x', expected a finite number"),
        ("measured", {"a": None}, "measured: got None, expected a finite number"),
        ("activation", "relu", "activation: got 'relu', expected one of softmax, sigmoid, none"),
        ("position", 5, "position 5 is not one of 5 tokens"),
        ("answers", ((0, 3),), "1 answers for 2 labels"),
        ("answers", ((3, 0), None), r"answers: entry 0: got \(3, 0\), expected \(start, end\) with start <= end"),
        ("answers", ((0, 3), None), "an answer lies outside of the context, of which 0 characters are known"),
        ("windows", ((0, 3),), r"windows: entry 0: got \(0, 3\), expected a Window"),
        ("windows", (attcat.Window(0, 99, (0.0, 0.0)),), "a window ends beyond the 13 characters of the text"),
    ],
)
def test_a_wrong_field_is_named(name: str, value: Any, told: str) -> None:
    with pytest.raises(ValueError, match=told):
        replace(text(), **{name: value})


def test_a_contrast_needs_a_target() -> None:
    with pytest.raises(ValueError, match=r"against is 1, .* the target, which is None"):
        replace(text(), target=None)


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: Tokens(("a", None), (False, False)), "labels: entry 1: got None, expected a string"),  # type: ignore[arg-type]
        (lambda: Tokens(("a",), (0,)), "special: entry 0: got 0, expected True or False"),  # type: ignore[arg-type]
        (lambda: Tokens(("a",), (False,), spans=((2, 1),)), "spans: entry 0: .* start <= end"),
        (lambda: Tokens(("a",), (False,), segments=(-1,)), "segments: entry 0: got -1"),
        (lambda: Tokens(("a",), (False,), words=("b",)), "words: entry 0: got 'b'"),  # type: ignore[arg-type]
        (lambda: Tokens((), (), grid=(0, 1 << 60)), "grid: entry 0: got 0, expected an integer from 1"),
        (lambda: View(1.5, 2, (0, 0, 1, 1)), "width: got 1.5, expected an integer"),  # type: ignore[arg-type]
        (lambda: View(1 << 20, 1 << 20, (0, 0, 1, 1)), "at most 134,217,728 pixels, got 1048576 x 1048576"),
        (lambda: View(2, 2, (0, 0, float("nan"), 1)), "box: entry 2: got nan, expected a finite number"),
        (lambda: View(2, 2, (2, 0, 3, 1)), "lies outside 2 x 2 pixels"),
        (lambda: Word("a", 0, 1, "x"), "score: got 'x', expected a finite number"),  # type: ignore[arg-type]
        (lambda: Word(b"a", 0, 1, 0.0), "text: got b'a', expected a string"),  # type: ignore[arg-type]
        (lambda: attcat.Window(3, 2, ()), "a window from character 3 to 2 ends before it starts"),
        (lambda: attcat.Window(0, 1, (True,)), "logits: entry 0: got True, expected a finite number"),
    ],
)
def test_a_wrong_field_of_the_parts_is_named(make: Callable[[], object], told: str) -> None:
    with pytest.raises(ValueError, match=told):
        make()


def test_a_grid_that_no_memory_holds_is_refused() -> None:
    labels, view = ("",) * 4096, View(1, 1 << 20, (0, 0, 1, 1 << 20))
    with pytest.raises(ValueError, match="too fine for a picture of 1 x 1048576 pixels"):
        Tokens(labels, (False,) * 4096, grid=(4096, 1), view=view)


def test_numbers_of_numpy_become_plain() -> None:
    made = replace(text(), target=np.int64(0), against=None, value=np.float32(1.5))
    assert (type(made.target), type(made.value)) == (int, float)
    box = tuple(np.array([0, 0, 1, 1], np.float32))
    assert type(View(np.int32(2), 2, box).box[0]) is float  # type: ignore[arg-type]


# -- options that are not plain ----------------------------------------------------------------------------------------


def _nothing() -> None: ...


@pytest.mark.parametrize(
    ("value", "noted"),
    [
        (0.5, 0.5),
        ([1, "a"], (1, "a")),
        (np.int64(3), 3),
        (np.float32(0.5), 0.5),
        (torch.tensor(2), 2),
        (torch.zeros(2, 3), "Tensor [2, 3]"),
        (np.zeros(4), "ndarray [4]"),
        (_nothing, "_nothing"),
        (Path("a/b"), repr(Path("a/b"))),
        (float("inf"), "inf"),
        (np.float64("nan"), "nan"),
        (10**400, f"1{'0' * 56}..."),
        ("\ud800", "'\\ud800'"),
        (1e300, 1e300),
        ({1: 2}, "{1: 2}"),
    ],
)
def test_an_option_is_recorded_in_plain_form(value: Any, noted: Any, tmp_path: Path) -> None:
    assert recorded(value) == noted
    made = text(options={"own": recorded(value)})
    assert attcat.load(made.save(tmp_path / "a.json")).options == made.options == {"own": noted}


# -- ruled out ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".json", ".safetensors"])
def test_a_class_that_is_ruled_out_is_saved(tmp_path: Path, suffix: str) -> None:
    windows = (attcat.Window(0, 8, (2.0, -np.inf)),)
    made = text(logits=torch.tensor([2.0, -torch.inf]), windows=windows, against=None, rest=None)
    back = attcat.load(made.save(tmp_path / f"a{suffix}"))
    assert state(back) == state(made)
    assert back.probabilities.tolist() == [1.0, 0.0]


# -- edited files ------------------------------------------------------------------------------------------------------

WRONG: list[Any] = [None, True, 0, -1, 7, 1.5, 10**9, 10**30, 1e300, "", "x", "\ud800", [], [0], [None], [[0, 1]]]
WRONG += [["a", "b"], [[[]]], {}, {"a": 1}, [1, [2]], float("nan"), float("inf"), [10**9, 10**9], [5, 2]]

DRAWN = ("tokens", "source", "task", "activation", "answers", "windows", "position")
"""Fields that drawing depends on."""


def _places(value: Any, way: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every place in a JSON value, of a list the first and the last."""
    if way:
        yield way
    inside = (
        value if isinstance(value, dict) else sorted({0, len(value) - 1}) if isinstance(value, list) and value else ()
    )
    for key in inside:
        yield from _places(value[key], (*way, key))


def _edited(record: Any, way: tuple[Any, ...], value: Any) -> Any:
    made = copy.deepcopy(record)
    inner = made
    for key in way[:-1]:
        inner = inner[key]
    inner[way[-1]] = value
    return made


def _use(path: Path, folder: Path, drawn: bool = True) -> bool:
    """Whether a file is loaded, and then everything works; an InputError is the only other way."""
    try:
        made = attcat.load(path)
    except attcat.InputError:
        return False
    if made.is_image:
        assert made.heatmap().dtype == np.float32
    elif made.tokens.spans is not None and made.source is not None:
        made.words()
    assert made.recipe
    assert repr(made)
    terminal.show(made, Console(file=io.StringIO(), width=80))
    if drawn:  # takes its time
        terminal.show(made, Console(file=io.StringIO(), width=40, force_terminal=True, color_system="truecolor"))
        made.to_html()
    suffix = path.suffix
    assert state(attcat.load(made.save(folder / f"again{suffix}"))) == state(made)
    return True


@pytest.mark.parametrize("make", ALL)
def test_any_edit_of_a_json_file_works_or_is_one_clear_error(make: Make, tmp_path: Path) -> None:
    record = json.loads(make().save(tmp_path / "whole.json").read_text())
    refused, path = 0, tmp_path / "edited.json"
    places = list(_places(record))
    assert len(places) > 40
    for number, way in enumerate(places):
        for value in WRONG[number % 5 :: 5] if len(way) > 1 else WRONG:
            path.write_text(json.dumps(_edited(record, way, value)))
            refused += not _use(path, tmp_path, drawn=way[0] in DRAWN)
        inner = record
        for key in way[:-1]:
            inner = inner[key]
        if isinstance(inner, dict):
            without = _edited(record, way, None)
            parent = without
            for key in way[:-1]:
                parent = parent[key]
            del parent[way[-1]]
            path.write_text(json.dumps(without))
            refused += not _use(path, tmp_path, drawn=way[0] in DRAWN)
    assert refused > 80


def _tensors() -> Iterator[tuple[str, torch.Tensor]]:
    for name, shape in (("layers", (2, 5)), ("logits", (2,))):
        for dtype in (torch.float64, torch.int64, torch.bool, torch.bfloat16, torch.float16):
            yield name, torch.ones(shape, dtype=dtype)
        for value in (torch.nan, torch.inf, -torch.inf, 3e38):
            yield name, torch.full(shape, value)
        for other in ((), (0,), (5,), (2, 4), (2, 0), (0, 5), (2, 5, 1)):
            yield name, torch.zeros(other)
    for pixels in (torch.zeros(5, 6, 3), torch.zeros(5, 6, dtype=torch.uint8), torch.zeros(6, 5, 3, dtype=torch.uint8)):
        yield "picture", pixels
    yield "picture", torch.zeros(0, 6, 3, dtype=torch.uint8)
    yield "picture", torch.zeros(5, 6, 3, dtype=torch.bfloat16)


@pytest.mark.parametrize("make", [text, photo])
def test_any_edit_of_a_safetensors_file_works_or_is_one_clear_error(make: Make, tmp_path: Path) -> None:
    data = make().save(tmp_path / "whole.safetensors").read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    metadata = json.loads(data[8 : 8 + length])["__metadata__"]
    tensors, path = safetensors.torch.load(data), tmp_path / "edited.safetensors"
    assert _use(tmp_path / "whole.safetensors", tmp_path)
    refused = 0
    for name, tensor in _tensors():
        path.write_bytes(safetensors.torch.save({**tensors, name: tensor}, metadata))
        refused += not _use(path, tmp_path)
    for name in tensors:
        path.write_bytes(safetensors.torch.save({n: t for n, t in tensors.items() if n != name}, metadata))
        refused += not _use(path, tmp_path)
    record = json.loads(metadata["attcat"])
    for number, way in enumerate(_places(record)):
        for value in WRONG[number % 5 :: 5]:
            edited = {"attcat": json.dumps(_edited(record, way, value))}
            path.write_bytes(safetensors.torch.save(tensors, edited))
            refused += not _use(path, tmp_path, drawn=False)
    assert refused > 80


def test_a_picture_that_would_fill_the_memory_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    import zlib

    header = struct.pack(">IIBBBBB", 1 << 14, 1 << 14, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b"")]
    png = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    import base64

    record = json.loads(photo().save(tmp_path / "a.json").read_text())
    record["source"]["png"] = base64.b64encode(png).decode()
    (tmp_path / "a.json").write_text(json.dumps(record))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(attcat.InputError, match="pixels"):
            attcat.load(tmp_path / "a.json")


def test_options_of_a_method_are_saved_whatever_they_are(tmp_path: Path) -> None:
    """The work is not lost at the end because an option is not JSON."""
    import saved
    import transformers

    def own(trace: Any, *, weight: Any = None, score: Any = len) -> torch.Tensor:
        return torch.ones(2, *trace.mask.shape) * trace.mask

    method = attcat.Method("own", own, "here", rule=None)
    attcat.METHODS["own"] = method
    try:
        model = transformers.AutoModelForSequenceClassification.from_pretrained(saved.save_text(tmp_path / "model"))
        explain = attcat.Explainer(model, saved.tokenizer(), method="own", weight=np.float32(0.5), score=_nothing)
        made = explain("a film")
    finally:
        del attcat.METHODS["own"]
    assert attcat.load(made.save(tmp_path / "a.json")).options == made.options == {"weight": 0.5, "score": "_nothing"}

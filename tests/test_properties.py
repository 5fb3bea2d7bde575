"""Whatever comes in, a right result or an error of ours comes out: texts, tables, pictures, arrays, options, saved files.

In the suite with few examples each; `ATTCAT_EXAMPLES` sets another number (`make fuzz`).
"""

from __future__ import annotations

import csv
import io
import json
import os
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import saved
import torch
from PIL import Image

import attcat
from attcat.adapters import hub
from attcat.batch import Explain
from attcat.errors import AttCATError, InputError
from attcat.evaluation.data import _examples
from attcat.evaluation.tables import Columns, table_in

hypothesis = pytest.importorskip("hypothesis")
from hypothesis import HealthCheck, given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from hypothesis.extra import numpy as arrays  # noqa: E402

EXAMPLES = int(os.environ.get("ATTCAT_EXAMPLES", "20"))
few = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize="ATTCAT_EXAMPLES" not in os.environ,
    database=None,
    suppress_health_check=list(HealthCheck),
)
ANY_TEXT = st.text(st.characters(), max_size=60)
"""Surrogates and control characters among them."""
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | ANY_TEXT | st.binary(max_size=8)
ANYTHING = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(ANY_TEXT, inner, max_size=3)
)


@pytest.fixture(scope="module")
def reader(tmp_path_factory: pytest.TempPathFactory) -> attcat.Explainer:
    return attcat.Explainer(*hub.load(saved.save_text(tmp_path_factory.mktemp("text"))))


@pytest.fixture(scope="module")
def viewer(tmp_path_factory: pytest.TempPathFactory) -> attcat.Explainer:
    return attcat.Explainer(*hub.load(saved.save_image(tmp_path_factory.mktemp("image"))))


def asked(explainer: attcat.Explainer, value: Any, **options: Any) -> Any:
    """The result, or None if it is refused; another exception fails the test."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return explainer(value, **options)
        except AttCATError:
            return None


@few
@given(value=ANY_TEXT, truncation=st.booleans())
def test_texts(reader: attcat.Explainer, value: str, truncation: bool) -> None:
    found = asked(reader, value, truncation=truncation)
    if found is None:
        return
    assert found.source == value
    assert found.scores.isfinite().all()
    assert found.layers.sum(0).numpy() == pytest.approx(found.scores.numpy(), abs=1e-5)
    for word in found.words():
        assert value[word.start : word.end] == word.text
    again = attcat.Explanation.from_json(found.to_json())
    assert again.scores.tolist() == found.scores.tolist()
    assert found.to_html()


@few
@given(value=ANYTHING)
def test_anything_as_an_input(reader: attcat.Explainer, viewer: attcat.Explainer, value: Any) -> None:
    for explainer in (reader, viewer):
        found = asked(explainer, value)
        assert found is None or isinstance(value, (str, list))


@few
@given(
    value=arrays.arrays(
        dtype=arrays.scalar_dtypes() | st.just(np.dtype(object)),
        shape=arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=6),
    )
)
def test_arrays_as_pictures(viewer: attcat.Explainer, value: np.ndarray) -> None:
    found = asked(viewer, value)
    if found is not None:
        assert value.dtype.kind in "buif"
        assert found.heatmap().shape == found.source.shape[:2]
        assert found.scores.isfinite().all()


@few
@given(
    ids=arrays.arrays(
        dtype=st.sampled_from([np.int64, np.int32, np.uint8, np.float32, np.bool_]),
        shape=arrays.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=5),
    ),
    mask=st.none() | arrays.arrays(np.int64, arrays.array_shapes(max_dims=2, max_side=5), elements=st.integers(-1, 2)),
)
def test_token_numbers(reader: attcat.Explainer, ids: np.ndarray, mask: np.ndarray | None) -> None:
    found = asked(reader, {"input_ids": ids} if mask is None else {"input_ids": ids, "attention_mask": mask})
    for one in found if isinstance(found, list) else [found]:
        assert one is None or one.scores.isfinite().all()


OPTIONS = st.fixed_dictionaries(
    {},
    optional={
        "target": SCALARS | st.integers(-3, 3) | st.sampled_from(["dull", "great", "all", (0, 1)]),
        "token": SCALARS,
        "top_k": SCALARS | st.integers(-1, 4),
        "truncation": st.booleans() | SCALARS,
        "window": st.booleans() | SCALARS | st.integers(-1, 20),
    },
)


@few
@given(options=OPTIONS)
def test_options_of_a_call(reader: attcat.Explainer, options: dict[str, Any]) -> None:
    asked(reader, "a great film", **options)


@few
@given(
    name=st.sampled_from([*attcat.METHODS, "attcat+plain", "nothing"]) | SCALARS,
    options=st.dictionaries(
        st.sampled_from(["rule", "hidden", "queries", "batch_size", "quantity", "seed", "steps", "samples", "beta"]),
        SCALARS | st.sampled_from(["libra", "plain", "output", "pooled", "log-odds"]),
        max_size=2,
    ),
)
def test_options_of_an_explainer(reader: attcat.Explainer, name: Any, options: dict[str, Any]) -> None:
    """They are refused when it is made, or it can be used."""
    with suppress(AttCATError):
        attcat.Explainer(reader.adapter, method=name, **options)


@few
@given(
    rows=st.lists(st.tuples(ANY_TEXT, st.integers(0, 1)), max_size=5),
    kind=st.sampled_from(["csv", "tsv", "jsonl"]),
    bom=st.booleans(),
)
def test_tables_give_back_what_was_written(rows: list[tuple[str, int]], kind: str, bom: bool) -> None:
    rows = [(text.encode("utf-8", "replace").decode(), label) for text, label in rows]
    if kind == "tsv":
        rows = [("".join(" " if c in "\t\r\n" else c for c in text), label) for text, label in rows]
    file = io.StringIO(newline="")
    if kind == "jsonl":
        for text, label in rows:
            file.write(json.dumps({"text": text, "label": label}, ensure_ascii=False) + "\n")
    else:
        options: dict[str, Any] = (
            {"delimiter": "\t", "quoting": csv.QUOTE_NONE, "quotechar": None} if kind == "tsv" else {}
        )
        if kind == "tsv":
            file.writelines(f"{text}\t{label}\n" for text, label in [("text", "label"), *rows])
        else:
            csv.writer(file, **options).writerows([("text", "label"), *rows])
    data = file.getvalue().encode("utf-8-sig" if bom else "utf-8")
    table = table_in(data, "stdin", kind=f".{kind}")
    assert table is not None
    if not rows and kind == "jsonl":
        return
    found = [value for _, value in table.texts(table.choose(Columns()))]
    assert len(found) == len(rows)
    for value, (text, _) in zip(found, rows, strict=True):
        assert isinstance(value, InputError) if not text.strip() else value == text


@few
@given(data=st.binary(max_size=200) | ANY_TEXT.map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_any_bytes_as_a_table(data: bytes) -> None:
    for kind in (None, ".csv", ".tsv", ".jsonl", ".parquet"):
        with suppress(AttCATError):
            table = table_in(data, "stdin", kind=kind)
            if table is not None:
                list(_examples(table, Columns()))


@few
@given(data=st.binary(max_size=300), cut=st.integers(0, 400), at=st.integers(0, 400))
def test_any_bytes_as_a_picture(viewer: attcat.Explainer, data: bytes, cut: int, at: int) -> None:
    file = io.BytesIO()
    Image.linear_gradient("L").resize((24, 24)).save(file, "PNG")
    whole = file.getvalue()
    damaged = whole[:at] + data[:3] + whole[at + 3 : at + cut]
    explain = Explain("nowhere", column="image")
    from attcat.explainer.columns import _value

    for content in (data, damaged):
        value = _value(content, True)
        if not isinstance(value, AttCATError):
            asked(viewer, value)
    assert explain.prefix == ""


@few
@given(at=st.integers(0, 5000), put=st.binary(min_size=1, max_size=4), golden=st.integers(0, 3))
def test_damaged_files_are_refused_or_load(
    tmp_path_factory: pytest.TempPathFactory, at: int, put: bytes, golden: int
) -> None:
    source = sorted((Path(__file__).parent / "golden").iterdir())[golden]
    data = bytearray(source.read_bytes())
    at %= len(data)
    data[at : at + len(put)] = put
    path = tmp_path_factory.getbasetemp() / f"damaged{source.suffix}"
    path.write_bytes(data)
    with suppress(InputError):
        assert attcat.load(path).scores.isfinite().all()


@few
@given(batch=st.lists(ANYTHING, max_size=4))
def test_rows_of_a_batch_are_independent(reader: attcat.Explainer, tmp_path_factory: Any, batch: list[Any]) -> None:
    from attcat.explainer.each import Each

    with torch.no_grad():
        found = Each(lambda values: [reader(value) for value in values])(["a film", *batch, "great"])
    assert len(found) == len(batch) + 2
    assert isinstance(found[0], attcat.Explanation)
    assert isinstance(found[-1], attcat.Explanation)

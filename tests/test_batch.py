"""`attcat.batch.Explain`: columns in, columns out, and the engines that call it."""

from __future__ import annotations

import os
import pickle
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import saved
from pages import blocks

import attcat
from attcat.adapters import hub
from attcat.batch import Explain
from attcat.errors import InputError, LoadError, OptionError
from attcat.explainer import columns

pyarrow = pytest.importorskip("pyarrow")
pandas = pytest.importorskip("pandas")

TEXTS = ["a great film", None, "great " * 40, "so dull", "gripping, acted"]


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved.save_text(tmp_path_factory.mktemp("text"))


@pytest.fixture(scope="module")
def explain(text: Path) -> Explain:
    return Explain(str(text))


def read_only(values: list[Any]) -> np.ndarray:
    found = np.array(values, object)
    found.flags.writeable = False
    return found


def test_columns_are_those_of_explanations(explain: Explain, text: Path) -> None:
    found = explain({"text": read_only(TEXTS), "id": np.arange(5)})
    assert found["id"].tolist() == list(range(5))
    assert [bool(error) for error in found["error"]] == [False, True, True, False, False]
    assert "expected a text, got nothing" in found["error"][1]
    assert "the model takes at most 16" in found["error"][2]
    explainer = attcat.Explainer(*hub.load(text))
    for row in (0, 3, 4):
        one = explainer(TEXTS[row])
        words = one.words()
        assert found["label"][row] == one.label
        assert found["probability"][row] == pytest.approx(one.probability)
        assert found["words"][row] == [word.text for word in words]
        assert found["starts"][row] == [word.start for word in words]
        assert found["ends"][row] == [word.end for word in words]
        assert found["scores"][row] == pytest.approx([word.score for word in words], abs=1e-5)
        assert found["special_share"][row] == pytest.approx(one.special_share, abs=1e-4)
        assert (found["grid"][row], found["box"][row], found["dropped"][row]) == (None, None, 0)
    assert (found["label"][1], found["words"][1]) == ("", None)
    assert np.isnan(found["probability"][1])


def test_what_comes_in_comes_out(explain: Explain) -> None:
    listed = explain({"text": TEXTS})
    assert list(listed) == ["text", *columns.COLUMNS]
    assert all(isinstance(column, list) and len(column) == 5 for column in listed.values())
    frame = explain(pandas.DataFrame({"text": TEXTS}, index=range(7, 12)))
    assert (list(frame.columns), list(frame.index)) == (list(listed), list(range(7, 12)))
    table = explain(pyarrow.table({"text": TEXTS}))
    assert table.schema.field("words").type == pyarrow.list_(pyarrow.string())
    assert table.column("label").to_pylist() == frame["label"].tolist() == listed["label"]
    alone = Explain(explain._model["model_id"], keep=False)(pyarrow.table({"text": TEXTS}))
    assert alone.schema == explain.arrow_schema
    assert [part.split()[0] for part in Explain.schema.split(", ")] == alone.schema.names
    assert explain({"text": []})["label"] == []
    frame = Explain(explain._model["model_id"], keep=False)(pandas.DataFrame({"text": TEXTS}))
    spark = pyarrow.Table.from_pandas(
        frame, schema=explain.arrow_schema, preserve_index=False
    )  # what Spark does with it
    assert spark.to_pylist() == alone.to_pylist()


def test_pairs_targets_and_options(text: Path) -> None:
    explain = Explain(str(text), column="a", pair_column="b", target="dull", method="cat+plain", truncation=True)
    found = explain({"a": ["film", "film"], "b": ["great " * 40, None]})
    assert found["label"] == ["dull", ""]
    assert set(found["segments"][0]) == {0, 1}
    assert found["dropped"][0] > 0
    assert "expected a text, got nothing" in found["error"][1]


def test_pictures(tmp_path: Path) -> None:
    model = saved.save_image(tmp_path / "model")
    path = saved.save_picture(tmp_path / "a.png")
    data = path.read_bytes()
    given = [str(path), data, {"bytes": data, "path": None}, {"bytes": None, "path": str(path)}, None, b"x", data[:90]]
    found = Explain(str(model), column="image")({"image": given})
    assert found["label"][:4] == [found["label"][0]] * 4
    assert np.shape(found["grid"][0]) == (4, 4)
    assert found["box"][0] == [0, 0, 48, 40]
    assert [bool(error) for error in found["error"]] == [False] * 4 + [True] * 3
    assert found["words"] == [None] * 7


def test_a_value_that_travels(explain: Explain, text: Path) -> None:
    again = pickle.loads(pickle.dumps(explain))
    assert (again, hash(again)) == (explain, hash(explain))
    assert again.explainer is explain.explainer  # loaded once in a process
    assert Explain(str(text), method="cat") != explain
    assert len(pickle.dumps(explain)) < 2000
    (text / "config.json").touch()
    assert Explain(str(text)) != explain  # saved anew


def test_what_is_wrong_with_the_call(text: Path, tmp_path: Path) -> None:
    explain = Explain(str(text))
    for batch, told in (
        ({"body": ["a"]}, "no column 'text', only body"),
        ({"text": ["a"], "label": [1]}, "already has a column label: give a prefix"),
    ):
        with pytest.raises(OptionError, match=told):
            explain(batch)
    assert list(Explain(str(text), prefix="x_")({"text": ["a"], "label": [1]}))[:3] == ["text", "label", "x_label"]
    with pytest.raises(InputError, match="got a list"):
        explain(["a"])
    with pytest.raises(OptionError, match="plain values"):
        Explain(str(text), steps=object())
    with pytest.raises(LoadError):
        Explain(str(tmp_path))({"text": ["a"]})
    with pytest.raises(attcat.TargetError, match="no class 'x'"):  # no row could be explained
        Explain(str(text), target="x")({"text": ["a", "b"]})


def test_hugging_face_datasets(explain: Explain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    datasets = pytest.importorskip("datasets")
    datasets.disable_progress_bars()
    source = tmp_path / "a.jsonl"
    source.write_text('{"text": "great"}\n{"text": "dull film"}\n{"text": "a film"}\n')
    whole = datasets.Dataset.from_json(str(source), cache_dir=str(tmp_path / "cache"))
    first = whole.map(explain, batched=True, batch_size=2)
    assert first["label"] == explain({"text": list(whole["text"])})["label"]
    calls: list[int] = []
    really = Explain.columns
    monkeypatch.setattr(Explain, "columns", lambda self, values: calls.append(1) or really(self, values))  # type: ignore[func-returns-value]
    fresh = pickle.loads(pickle.dumps(explain))
    second = whole.map(fresh, batched=True, batch_size=2)
    assert second._fingerprint == first._fingerprint
    assert calls == []  # the cache
    whole.map(Explain(explain._model["model_id"], method="cat"), batched=True, batch_size=2)
    assert len(calls) == 2
    bad = datasets.Dataset.from_dict({"text": ["great " * 40, "great " * 40, "dull"]})
    typed = bad.map(explain, batched=True, batch_size=2, features=explain.features(bad.features))
    assert typed[2]["words"] == ["dull"]
    assert typed[0]["probability"] is None


def test_the_example_of_the_page_runs(text: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for block in blocks("docs/scale.md"):
        exec(block, {"model_id": str(text)})
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert lines[1] == "expected a text, got nothing"


# -- in parts ----------------------------------------------------------------------------------------------------------


def write_reviews(path: Path, count: int, group: int = 7) -> list[str]:
    texts = [f"{'great ' * (n % 5)}film" if n != 4 else "great " * 40 for n in range(count)]
    table = pyarrow.table({"review": texts, "label": list(range(count))})
    pyarrow.parquet.write_table(table, path, row_group_size=group)
    return texts


def read_parts(folder: Path) -> Any:
    return pyarrow.concat_tables(pyarrow.parquet.read_table(path) for path in sorted(folder.glob("part-*.parquet")))


def test_a_file_in_parts_and_a_killed_run_goes_on(
    text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    import pyarrow.parquet  # noqa: F401

    from attcat import cli
    from attcat.cli import scale

    monkeypatch.setattr(scale.run, "__defaults__", (5,))
    monkeypatch.setattr(scale, "BATCH", 3)
    texts = write_reviews(tmp_path / "data.parquet", 23)
    command = ["explain", str(tmp_path / "data.parquet"), "--model", str(text), "--engine", "local"]
    command += ["--output", str(tmp_path / "out")]
    really, written = scale.write_part, []

    def killed(explain: Explain, part: scale.Part) -> int:
        if len(written) == 2:
            raise KeyboardInterrupt
        written.append(part.first)
        return really(explain, part)

    monkeypatch.setattr(scale, "write_part", killed)
    assert cli.run(command) == 130
    assert written == [0, 5]
    written[:] = [0, 0, 0]
    capfd.readouterr()
    assert cli.run(command) == 3
    out, err = capfd.readouterr()
    assert "23 rows, 1 with an error" in out
    assert err == "attcat: data.parquet: the text is column 'review' (not read: label)\n"
    assert written[3:] == [10, 15, 20]
    found = read_parts(tmp_path / "out")
    assert found.column("review").to_pylist() == texts  # no gap, nothing twice
    assert found.column("label").to_pylist() == list(range(23))
    assert found.column("attcat_label").to_pylist() == Explain(str(text))({"text": texts})["label"]
    assert [row for row, error in enumerate(found.column("attcat_error").to_pylist()) if error] == [4]
    assert cli.run([*command, "--method", "cat"]) == 2
    assert "other settings" in capfd.readouterr().err
    monkeypatch.setitem(sys.modules, "ray", None)
    for wrong, told in (
        ([*command[:5], "ray", "--output", str(tmp_path / "other")], "pip install 'attcat[ray]'"),
        ([*command[:2], "--engine", "local", "--output", "x"], "name it with --model"),
        (["explain", "a film", "--engine", "local", "--output", "x"], "one .parquet file"),
        ([*command[:-2]], "--output out/"),
        ([*command, "--pair", "x"], "leave out --pair"),
        ([*command, "--text-column", "x"], "no column 'x'"),
        (["explain", str(tmp_path / "data.parquet"), "--engine", "spark", "--output", "x"], "use one of local, ray"),
    ):
        assert cli.run(wrong) == 2
        assert told in capfd.readouterr().err


@pytest.mark.skipif("ATTCAT_RAY" not in os.environ, reason="half a minute: make engines, or ATTCAT_RAY=1")
def test_ray(text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two workers, one of which is killed in the middle; and Ray Data."""
    import pyarrow.parquet  # noqa: F401

    ray = pytest.importorskip("ray", reason="ray is not installed: pip install 'attcat[ray]'")
    from dying import Dying

    from attcat.cli import scale

    texts = write_reviews(tmp_path / "data.parquet", 40)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    monkeypatch.setenv("RAY_worker_niceness", "0")  # Ray's workers give way to everything else, here to other tests
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    try:
        explain = Dying(str(text), column="review", prefix="x_", options_flag=str(tmp_path / "killed"))
        rows, failed = scale.run(explain, tmp_path / "data.parquet", tmp_path / "out", "ray", 2, size=8)
        assert (rows, failed) == (40, 1)
        assert (tmp_path / "killed").exists()
        found = read_parts(tmp_path / "out")
        assert found.column("review").to_pylist() == texts
        assert found.column("label").to_pylist() == list(range(40))
        expected = Explain(str(text))({"text": texts})
        assert found.column("x_label").to_pylist() == expected["label"]

        data = ray.data.read_parquet(str(tmp_path / "data.parquet")).select_columns(["review"])
        mapped = data.map_batches(Explain(str(text), column="review"), batch_format="pyarrow", batch_size=16)
        frame = mapped.to_pandas()
        assert sorted(frame["review"]) == sorted(texts)
        assert sorted(frame["label"]) == sorted(expected["label"])
    finally:
        ray.shutdown()


@pytest.mark.skipif("ATTCAT_SPARK" not in os.environ, reason="half a minute, and a Java runtime: make engines")
@pytest.mark.filterwarnings("ignore")
def test_spark(text: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two workers of a local Spark; rows that fail carry their errors."""
    spark = pytest.importorskip("pyspark.sql", reason="pyspark is not installed")
    monkeypatch.setenv("PYSPARK_PYTHON", sys.executable)
    builder = spark.SparkSession.builder.master("local[2]").config("spark.ui.enabled", "false")
    session = builder.config("spark.driver.bindAddress", "127.0.0.1").getOrCreate()
    try:
        texts = [None if number % 5 == 0 else f"good film {number}" for number in range(40)]
        frame = session.createDataFrame([(one,) for one in texts], "text string").repartition(3)
        explain = Explain(str(text), column="text", keep=False)
        rows = frame.mapInPandas(lambda parts: map(explain, parts), explain.schema).collect()
    finally:
        session.stop()
    expected = explain({"text": texts})
    assert sorted((row.words or [], row.error) for row in rows) == sorted(
        (words or [], error) for words, error in zip(expected["words"], expected["error"], strict=True)
    )
    assert sum(bool(row.error) for row in rows) == 8
    by_words = {tuple(words or ()): scores for words, scores in zip(expected["words"], expected["scores"], strict=True)}
    for row in rows:
        if not row.error:
            assert row.scores == pytest.approx(by_words[tuple(row.words)], rel=1e-3, abs=1e-5)

"""Datasets, the run and its record, statistics, the report, and the command."""

from __future__ import annotations

import json
import re
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from saved import save_text
from tasks_zoo import TASKS, make
from tokenizers_small import wordpiece
from zoo import FAMILIES

import attcat
from attcat.cli import run as command
from attcat.errors import InputError, OptionError
from attcat.evaluation import Plan, read_dataset, run
from attcat.evaluation import run as run_evaluation
from attcat.evaluation.data import Columns, Dataset, Example
from attcat.evaluation.report import markdown, page, table, to_json
from attcat.evaluation.runner import code_version
from attcat.evaluation.statistics import compare, estimate

TEXTS = [
    "a gripping film",
    "the film was not boring",
    "unwatchable, not gripping!",
    "a film, a film",
    "the boring film",
]
"""Of unlike length, all of them in the small tokenizer's words."""


def write(path: Path, text: str) -> str:
    path.write_text(text, encoding="utf-8")
    return str(path)


# -- data ----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "content", "values", "labels"),
    [
        ("a.tsv", 'say "so	0\nno	1\n', ['say "so', "no"], ["0", "1"]),
        ("a.tsv", "sentence\tlabel\nyes\tgood\n", ["yes"], ["good"]),
        ("a.tsv", "one\ntwo\n", ["one", "two"], [None, None]),
        ("a.tsv", "one\ttwo\t1\n", [("one", "two")], ["1"]),
        ("a.csv", 'Label,Text\n1,"a, b"\n', ["a, b"], ["1"]),
        ("a.csv", "premise,hypothesis,gold\nx,y,2\n", [("x", "y")], ["2"]),
        ("a.jsonl", '{"review": "x", "label": 1}\n\n{"review": "y", "label": 0}\n', ["x", "y"], [1, 0]),
    ],
)
def test_tables(tmp_path: Path, name: str, content: str, values: list[Any], labels: list[Any]) -> None:
    data = read_dataset(write(tmp_path / name, content))
    assert [example.value for example in data.examples] == values
    assert [example.label for example in data.examples] == labels
    assert not data.pictures


def test_named_columns_and_spans(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", 'id,body,answer\n1,a long text,"[[2, 6]]"\n2,another,0:3 4:5\n3,none,\n')
    data = read_dataset(path, Columns(text="body", spans="answer"))
    assert [example.spans for example in data.examples] == [((2, 6),), ((0, 3), (4, 5)), None]
    with pytest.raises(OptionError, match="no column 'x': it has id, body, answer"):
        read_dataset(path, Columns(text="body", label="x"))
    with pytest.raises(OptionError, match="no column 'y'"):
        read_dataset(path, Columns(text="y"))
    with pytest.raises(InputError, match='line 2: "x" are not spans'):
        read_dataset(write(tmp_path / "b.csv", "text,spans\na,x\n"))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", "x", "not one of .tsv, .csv, .jsonl"),
        ("a.tsv", "", "holds no examples"),
        ("a.tsv", "a\tb\tc\td\n", "4 columns and no header"),
        ("a.tsv", "text\tlabel\none\n", "line 2: 1 columns, expected 2"),
        ("a.tsv", "text\tlabel\n \t1\n", "line 2: the text is empty"),
        ("a.jsonl", "[1]\n", "expected one object per line"),
        ("a.jsonl", "{\n", "cannot be read"),
        ("a.jsonl", '{"x": 1, "y": 2}\n', "no column for the text among x, y"),
    ],
)
def test_bad_tables(tmp_path: Path, name: str, content: str, message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        read_dataset(write(tmp_path / name, content))


def test_bad_sources(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such file or folder"):
        read_dataset(str(tmp_path / "missing.tsv"))
    with pytest.raises(InputError, match="holds no pictures"):
        read_dataset(str(tmp_path))


def test_folder_of_pictures(tmp_path: Path) -> None:
    for name in ("cat/2.png", "cat/1.png", "dog/1.png", "dog/notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (8, 8)).save(tmp_path / name) if name.endswith("png") else (tmp_path / name).write_text("x")
    data = read_dataset(str(tmp_path))
    assert [(e.value.name, e.label) for e in data.examples] == [("1.png", "cat"), ("2.png", "cat"), ("1.png", "dog")]
    assert data.pictures


def test_hub_dataset(monkeypatch: pytest.MonkeyPatch) -> None:
    class Table(list[dict[str, Any]]):
        column_names = ("sentence", "label")
        features = {"label": types.SimpleNamespace(names=["bad", "good"])}  # noqa: RUF012

    asked: list[Any] = []
    fake = types.ModuleType("datasets")

    def load_dataset(*given: Any, **options: Any) -> Table:
        asked.append((given, options))
        return Table([{"sentence": "x", "label": 1}, {"sentence": "y", "label": -1}])

    fake.load_dataset = load_dataset  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "datasets", fake)
    data = read_dataset("nyu-mll/glue:sst2", split="train")
    assert asked == [(("nyu-mll/glue", "sst2"), {"split": "train"})]  # and never trust_remote_code
    assert [(e.value, e.label) for e in data.examples] == [("x", "good"), ("y", None)]
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(OptionError, match=r"pip install 'attcat\[datasets\]'"):
        read_dataset("imdb")


def test_the_datasets_library_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A local repository in the hub's layout, read by the real library: class names, pairs, pictures, and what is not there."""
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()
    monkeypatch.chdir(tmp_path)
    features = datasets.Features(
        {
            "premise": datasets.Value("string"),
            "hypothesis": datasets.Value("string"),
            "label": datasets.ClassLabel(2, ["no", "yes"]),
        }
    )
    rows = {"premise": ["x", "y"], "hypothesis": ["u", "v"], "label": [1, -1]}
    (tmp_path / "owner" / "pairs").mkdir(parents=True)
    datasets.Dataset.from_dict(rows, features=features).to_parquet("owner/pairs/validation.parquet")
    data = read_dataset("owner/pairs:default")
    assert [(e.value, e.label) for e in data.examples] == [(("x", "u"), "yes"), (("y", "v"), None)]
    assert data.fingerprint == read_dataset("owner/pairs:default").fingerprint

    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(2, ["cat", "dog"])})
    rows = {"image": [Image.new("RGB", (8, 6), "red")], "label": [1]}
    (tmp_path / "owner" / "pictures").mkdir()
    datasets.Dataset.from_dict(rows, features=features).to_parquet("owner/pictures/validation.parquet")
    (example,) = read_dataset("owner/pictures:default").examples
    assert (example.value.size, example.label) == ((8, 6), "dog")
    with pytest.raises(InputError, match="the dataset 'owner/pairs:default' cannot be loaded"):
        read_dataset("owner/pairs:default", split="train")


# -- statistics ----------------------------------------------------------------------------------------------------------


def test_intervals_are_those_of_scipy() -> None:
    from scipy.stats import bootstrap

    values = np.random.default_rng(1).normal(0.3, 1.0, 80)
    ours = estimate([*values, float("nan")], seed=0, resamples=20_000)
    theirs = bootstrap((values,), np.mean, n_resamples=20_000, method="percentile", rng=0).confidence_interval
    assert ours.count == 80
    assert ours.mean == pytest.approx(values.mean())
    assert (ours.low, ours.high) == pytest.approx(tuple(theirs), abs=0.01)


def test_paired_comparison() -> None:
    """Noise that both methods share cancels; methods that are the same do not differ."""
    noise = np.random.default_rng(0).normal(0, 5, 60)
    found = compare({"a": noise + 0.1, "b": noise, "c": noise}, seed=0)
    assert found["a", "b"].difference == pytest.approx(0.1)
    assert found["a", "b"].low == pytest.approx(0.1)
    assert found["a", "b"].p < 0.001
    assert (found["b", "c"].difference, found["b", "c"].p) == (0, 1)
    assert compare({"a": [float("nan")], "b": [1.0]}, seed=0) == {}


# -- the run -------------------------------------------------------------------------------------------------------------


def dataset(count: int = 5, spans: Any = None) -> Dataset:
    examples = tuple(Example(text, number % 3, spans) for number, text in enumerate(TEXTS[:count]))
    return Dataset("films", examples, False, "fingerprint")


def maker() -> Any:
    model = FAMILIES["bert"].model()
    return lambda name: attcat.Explainer(model, wordpiece(), method=name)


PLAN = Plan("small", ("attcat", "attention"), ("aopc", "abpc", "saco", "kendall_tau"), "mask")


def test_same_seed_same_table_and_a_smaller_limit_is_a_part(tmp_path: Path) -> None:
    first, second = (run(PLAN, dataset(), maker(), tmp_path / name) for name in "ab")
    assert first.values == second.values
    assert [e for by in first.estimates.values() for e in by.values()] == [
        e for by in second.estimates.values() for e in by.values()
    ]
    assert first.plan.methods == ("attcat", "attention", "random")
    assert first.accuracy is not None
    fewer = run(Plan(**{**vars(PLAN), "limit": 3}), dataset(), maker(), tmp_path / "c")
    assert fewer.values["attcat"]["aopc"] == pytest.approx(first.values["attcat"]["aopc"][:3], abs=1e-5)


def test_values_are_those_of_the_functions(tmp_path: Path) -> None:
    from attcat.metrics import Ablation, evaluate

    results = run(PLAN, dataset(), maker(), tmp_path)
    order = [record["example"] for record in results.records["attention"]]
    texts = [TEXTS[index] for index in order]
    explainer = maker()("attention")
    values = evaluate(Ablation(explainer, texts, "mask"), explainer(texts), ["aopc", "saco"])
    for name, column in values.items():
        assert results.values["attention"][name] == pytest.approx(column.tolist(), abs=1e-5)


def test_an_interrupted_run_goes_on(tmp_path: Path) -> None:
    whole = run(PLAN, dataset(), maker(), tmp_path / "whole")
    model = FAMILIES["bert"].model()
    asked: list[str] = []

    class Watched(attcat.Explainer):
        stopped = False

        def __call__(self, *given: Any, **options: Any) -> Any:
            if self.stopped and self.settings.method.name == "attention":
                raise KeyboardInterrupt
            asked.append(self.settings.method.name)
            return super().__call__(*given, **options)

    def make(name: str) -> attcat.Explainer:
        return Watched(model, wordpiece(), method=name)

    Watched.stopped = True
    with pytest.raises(KeyboardInterrupt):
        run(PLAN, dataset(), make, tmp_path / "part")
    log = tmp_path / "part" / "records.jsonl"
    with log.open("a") as file:
        file.write('{"method": "attention", "examples": [0, 1')  # cut off in the middle of a line
    Watched.stopped = False
    asked.clear()
    resumed = run(PLAN, dataset(), make, tmp_path / "part")
    assert resumed.values == whole.values
    assert set(asked) == {"attention", "random"}
    assert all(json.loads(line) for line in log.read_text().splitlines())


def test_another_evaluation_in_the_folder_is_refused(tmp_path: Path) -> None:
    run(Plan("small", ("attention",), ("aopc",)), dataset(), maker(), tmp_path)
    with pytest.raises(OptionError, match=r"other settings \(metrics, seed\)"):
        run(Plan("small", ("attention",), ("abpc",), seed=1), dataset(), maker(), tmp_path)


def test_records_of_other_code_are_not_mixed_with_new_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = Plan("small", ("attention",), ("aopc",))
    run(plan, dataset(), maker(), tmp_path)
    monkeypatch.setattr("attcat.evaluation.runner.code_version", lambda *used: "other")
    with pytest.raises(OptionError, match=r"other settings \(code\)"):
        run(plan, dataset(), maker(), tmp_path)


def test_the_code_version_is_that_of_the_sources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One byte of a module, or of the file with an adapter, changes it; the folders beside the core do not."""
    for name in ("evaluation/runner.py", "methods/cat.py", "adapters/bert.py"):
        path = tmp_path / "attcat" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("x = 1\n")
    monkeypatch.setattr("attcat.evaluation.runner.__file__", str(tmp_path / "attcat" / "evaluation" / "runner.py"))
    before = code_version()
    assert code_version() == before
    assert code_version(attcat.Explainer) != before  # a class from elsewhere
    (tmp_path / "attcat" / "adapters" / "bert.py").write_text("x = 2\n")
    assert code_version() == before
    (tmp_path / "attcat" / "methods" / "cat.py").write_text("x = 2\n")
    assert code_version() != before


def test_metrics_that_the_data_does_not_allow() -> None:
    with pytest.raises(OptionError, match="token_f1 needs texts with gold spans, which films does not have"):
        run_evaluation(Plan("small", ("attention",), ("token_f1",)), dataset(), maker(), Path("unused"))
    with pytest.raises(OptionError, match="grid_2x2 needs pictures"):
        run_evaluation(Plan("small", ("attention",), ("grid_2x2",)), dataset(), maker(), Path("unused"))
    with pytest.raises(OptionError, match="no metric 'x'"):
        Plan("small", ("attention",), ("x",))


def test_unknown_labels_are_reported() -> None:
    data = Dataset("films", (Example("a film", "wonderful"),), False, "x")
    with pytest.raises(InputError, match="label 'wonderful' of films: no class 'wonderful'"):
        run_evaluation(Plan("small", ("attention",), ("aopc",)), data, maker(), Path("unused"))


def test_spans_and_pictures(tmp_path: Path) -> None:
    results = run(Plan("s", ("attcat",), ("token_f1", "auprc")), dataset(spans=((0, 3),)), maker(), tmp_path / "a")
    assert 0 < results.estimates["attcat"]["auprc"].mean <= 1
    family = FAMILIES["vit"]
    model = family.model()

    def transform(picture: Image.Image) -> torch.Tensor:
        return torch.tensor(np.asarray(picture.resize((32, 32))), dtype=torch.float32).permute(2, 0, 1) / 128 - 1

    def make(name: str) -> attcat.Explainer:
        return attcat.Explainer(model, transform, method=name)

    draw = np.random.default_rng(0)
    pictures = [Image.fromarray(draw.integers(0, 255, (32, 32, 3), dtype=np.uint8)) for _ in range(8)]
    labels = [make("attention")(picture).predicted for picture in pictures]
    data = Dataset("noise", tuple(map(Example, pictures, labels)), True, "x")
    found = run(Plan("s", ("attcat",), ("abpc",), "mean"), data, make, tmp_path / "b")
    assert found.accuracy == 1.0
    with pytest.raises(InputError, match="a mosaic of 2 x 2 needs pictures of 4 classes"):
        run(Plan("s", ("attcat",), ("grid_2x2",), "mean"), data, make, tmp_path / "c")


def test_mosaics_in_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four colours, four classes: AttCAT finds the cell of each, chance a quarter of it, and the record is used again."""
    monkeypatch.setattr("attcat.evaluation.runner.MOSAICS", 5)
    config = transformers.ViTConfig(
        image_size=32, patch_size=8, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48
    )
    config.num_labels = 4
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = transformers.ViTForImageClassification(config).eval()
    colours = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)]

    def transform(picture: Image.Image) -> torch.Tensor:
        return torch.tensor(np.asarray(picture.resize((32, 32))), dtype=torch.float32).permute(2, 0, 1) / 128 - 1

    # A head that tells the four colours apart: least squares on what the encoder makes of them.
    pictures = [Image.new("RGB", (32, 32), colour) for colour in colours]
    with torch.no_grad():
        states = model.vit(torch.stack([transform(picture) for picture in pictures])).last_hidden_state[:, 0]
        model.classifier.weight.copy_((torch.linalg.pinv(states) @ torch.eye(4)).T)
        model.classifier.bias.zero_()

    def make(name: str) -> attcat.Explainer:
        return attcat.Explainer(model, transform, method=name)

    data = Dataset("colours", tuple(map(Example, pictures, range(4))), True, "x")
    plan = Plan("s", ("attcat",), ("grid_2x2",), "mean")
    with monkeypatch.context() as patch:
        patch.delattr("attcat.evaluation.runner.perturbation_curves")  # nothing was asked for that needs them
        found = run(plan, data, make, tmp_path)
    assert not any(found.curves.values())
    assert "<polyline" not in page(found)
    assert "grid_2x2" in page(found)
    assert "morf" not in found.records["attcat"][0]
    with pytest.raises(InputError, match="there are no morf curves"):
        found.plot()
    assert found.accuracy == 1.0
    assert found.values["random"]["grid_2x2"] == pytest.approx([0.25] * 5, abs=1e-6)
    assert found.values["attcat"]["grid_2x2"] == pytest.approx([1.0] * 5, abs=0.01)  # only the right cell speaks for it
    assert run(plan, data, make, tmp_path).values == found.values


# -- report and command ----------------------------------------------------------------------------------------------------


def test_report(tmp_path: Path) -> None:
    plan = Plan("<small>", ("attcat", "attention"), ("aopc", "lodds"))
    results = run(plan, dataset(), maker(), tmp_path)
    names, rows, bold = table(results)
    assert names[:3] == ["method", "aopc \u2191", "lodds \u2193"]
    assert [row[0] for row in rows] == list(plan.methods)
    assert len(bold) == 2
    assert all(row != 2 for row, _ in bold)  # chance is never the best
    summary, paired = markdown(results).rstrip().split("\n\n")
    by_aopc = sorted(results.estimates, key=lambda name: -results.estimates[name]["aopc"].mean)
    assert [line.split("`")[1] for line in summary.splitlines()[2:]] == by_aopc
    assert summary.count("**") == 2 * 2
    pair = results.comparisons["aopc"]["attcat", "random"]
    assert paired.splitlines()[0] == "| `attcat` minus | aopc \u2191 | lodds \u2193 |"
    assert f"| `random` | {pair.difference:+.3f} [{pair.low:+.3f}, {pair.high:+.3f}] |" in paired
    html = page(results)
    assert "&lt;small&gt;" in html
    assert "<small>" not in html
    assert not re.search(r"(src|href)=|<script", html)
    assert html.count("<polyline") == 2 * 3
    record = json.loads(to_json(results))
    assert record["methods"]["attcat"]["estimates"]["aopc"]["count"] == 5
    assert len(record["methods"]["attcat"]["records"]) == 5
    assert record["versions"]["torch"]
    assert {(pair["first"], pair["second"]) for pair in record["paired"]} == {
        ("attcat", "attention"),
        ("attcat", "random"),
        ("attention", "random"),
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_text(tmp_path_factory.mktemp("model"))


def test_command(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = write(tmp_path / "films.tsv", "".join(f"{text}\t{number % 2}\n" for number, text in enumerate(TEXTS)))
    given = [
        "evaluate",
        data,
        "--model",
        str(folder),
        "--output",
        str(tmp_path / "out"),
        "--methods",
        "attcat+plain,attention",
    ]
    assert command([*given, "--metrics", "aopc,aopc_published", "--limit", "4", "--removal", "pad", "--sanity"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0].split("\t")[:3] == ["method", "aopc \u2191", "aopc_published \u2191"]
    assert [line.split("\t")[0] for line in out[1:4]] == ["attcat+plain", "attention", "random"]
    assert out[4].split("\t")[0] == "method"
    assert out[-1] == f"wrote {tmp_path / 'out' / 'report.html'}"
    record = json.loads((tmp_path / "out" / "results.json").read_text())
    assert record["settings"]["removal"] == "pad"
    assert "| `attention` |" in (tmp_path / "out" / "table.md").read_text()
    assert set(record["sanity"]) == {"attcat+plain", "attention", "random"}
    assert "Sanity" in (tmp_path / "out" / "report.html").read_text()


def test_references_are_drawn_from_where_it_is_said(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = write(tmp_path / "films.tsv", "".join(f"{text} and the film was not gripping\n" for text in TEXTS))
    given = ["evaluate", data, "--model", str(folder), "--methods", "contrast_cat", "--metrics", "aopc", "--output"]
    assert command([*given, str(tmp_path / "a")]) == 2
    assert "name other data with --references" in capsys.readouterr().err
    said = []
    for name, text in (("one.tsv", "not boring\n"), ("two.tsv", "unwatchable, not gripping!\n")):
        assert command([*given, str(tmp_path / name[:3]), "--references", write(tmp_path / name, text)]) == 0
        record = json.loads((tmp_path / name[:3] / "results.json").read_text())
        said.append(record["methods"]["contrast_cat"]["values"]["aopc"])
    assert said[0] != said[1]
    assert command([*given, str(tmp_path / "one"), "--references", str(tmp_path / "two.tsv")]) == 2
    assert "holds an evaluation with other settings (references)" in capsys.readouterr().err
    (tmp_path / "pictures" / "cat").mkdir(parents=True)
    Image.new("RGB", (8, 8)).save(tmp_path / "pictures" / "cat" / "a.png")
    assert command([*given, str(tmp_path / "b"), "--references", str(tmp_path / "pictures")]) == 2
    assert "one holds texts, the other pictures" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--methods", "nonsense"], "no method 'nonsense'"),
        (["--metrics", "nonsense"], "no metric 'nonsense'"),
        (["--removal", "blur"], "no removal 'blur'"),
        (["--image-size", "98"], "--image-size changes the image processors"),
        (["--text-column", "body"], "no column 'body'"),
    ],
)
def test_bad_options(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    data = write(tmp_path / "films.tsv", "a film\t0\n")
    assert command(["evaluate", data, "--model", str(folder), "--output", str(tmp_path / "out"), *options]) == 2
    assert message in capsys.readouterr().err


# -- other tasks -----------------------------------------------------------------------------------------------------


def evaluated(explainer: attcat.Explainer, texts: list[Any], metrics: list[str], folder: Path, **options: Any) -> Any:
    """A run over two methods; `random` comes by itself."""
    data = Dataset("data", tuple(Example(value) for value in texts), pictures=False, fingerprint="fingerprint")
    plan = Plan("model", ("attcat",), tuple(metrics), **options)
    return run(plan, data, lambda name: attcat.Explainer(explainer.adapter, method=name), folder)


@pytest.mark.parametrize("how", ["mask", "pad", "delete"])
def test_a_masked_language_model_is_evaluated(tmp_path: Path, how: str) -> None:
    explainer = TASKS["BertForMaskedLM"].explainer()
    texts = ["the [MASK] was not boring, a film!", "a gripping [MASK]"]
    results = evaluated(explainer, texts, ["aopc", "lodds", "abpc"], tmp_path / how, removal=how)
    assert all(np.isfinite(column).all() for by in results.values.values() for column in by.values())
    assert results.watched == "probability"


def test_a_regression_is_evaluated_on_its_value_and_says_so(tmp_path: Path) -> None:
    model = make("Bert", "ForSequenceClassification", num_labels=1)
    explainer = attcat.Explainer(model, wordpiece())
    results = evaluated(explainer, TEXTS, ["aopc", "abpc"], tmp_path / "a")
    (value,) = explainer(TEXTS[:1])[0].logits.tolist()
    number = results.records["attcat"][0]["example"]
    with torch.no_grad():
        value = float(model(**wordpiece()(TEXTS[number], return_tensors="pt")).logits)
    assert results.records["attcat"][0]["morf"][0] == pytest.approx(value, abs=1e-5)
    names, *_ = table(results)
    assert [name[:-2] for name in names[1:3]] == ["aopc of value", "abpc of value"]
    assert "aopc of value" in markdown(results)
    shown = page(results)
    assert "value over the share of tokens removed" in shown
    assert "value that the model measures" in shown
    assert "probability" not in shown
    assert json.loads(to_json(results))["settings"]["watched"] == "value"
    with pytest.raises(OptionError, match=r"lodds: not defined for a measured value.*use aopc"):
        evaluated(explainer, TEXTS, ["aopc", "lodds"], tmp_path / "b")


def test_a_multi_label_model_is_evaluated_by_the_classs_own_probability(tmp_path: Path) -> None:
    model = make("Bert", "ForSequenceClassification", num_labels=3, problem_type="multi_label_classification")
    results = evaluated(attcat.Explainer(model, wordpiece()), TEXTS, ["aopc"], tmp_path)
    line = results.records["attcat"][0]
    with torch.no_grad():
        logits = model(**wordpiece()(TEXTS[line["example"]], return_tensors="pt")).logits[0]
    assert line["morf"][0] == pytest.approx(float(logits.max().sigmoid()), abs=1e-6)
    assert "probability over the share of tokens removed" in page(results)

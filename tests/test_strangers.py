"""Input from strangers: every case of a fixed corpus gives a right result, or an error of ours that names the next step."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import saved
import torch
from PIL import Image
from running import Result, Run

import attcat
from attcat.adapters import hub
from attcat.errors import AttCATError, InputError, OptionError
from attcat.evaluation import read_dataset
from attcat.evaluation.tables import Columns, read_table, table_in


@pytest.fixture(scope="module")
def reader(text: Path) -> attcat.Explainer:
    return attcat.Explainer(*hub.load(text))


@pytest.fixture(scope="module")
def viewer(image: Path) -> attcat.Explainer:
    return attcat.Explainer(*hub.load(image))


def write(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content.encode("utf-8", "surrogatepass") if isinstance(content, str) else content)
    return path


def told(result: Result) -> str:
    """What is said of a failure: one line, code 2, nothing printed."""
    assert result.code == 2, result
    assert result.out == ""
    lines = result.err.splitlines()
    assert lines
    assert all(line.startswith("attcat: ") for line in lines), result.err
    assert "this is a bug" not in result.err
    assert "or a library, failed" not in result.err
    return lines[-1]


# -- tables: right results ---------------------------------------------------------------------------------------------

TABLES = [
    ("a.tsv", "sentence\tlabel\na great film\t1\nso dull\t0\n", ["a great film", "so dull"]),
    ("a.tsv", "\ufeffsentence\tlabel\r\na great film\t1\r\n", ["a great film"]),
    ("a.tsv", "a great film\t1\nso dull\t0\n", ["a great film", "so dull"]),
    ("a.csv", 'id,text\n1,"a great, great film"\n2,"a\nfilm"\n', ["a great, great film", "a film"]),
    ("a.csv", "\ufefftext,label\ndull,0\n", ["dull"]),
    ("a.jsonl", '\ufeff{"text": "great\u2028film", "label": 1}\n{"text": "a\x85film"}\n', ["great film", "a film"]),
    ("a.jsonl", '{"body": "dull"}\n', ["dull"]),
]


@pytest.mark.parametrize(("name", "content", "texts"), TABLES)
@pytest.mark.parametrize("piped", [False, True])
def test_a_table_is_read_as_a_table(
    run: Run,
    text: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    content: str,
    texts: list[str],
    piped: bool,
) -> None:
    path = write(tmp_path / name, content)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(path.read_bytes()), encoding="utf-8"))
    result = run("explain", "-" if piped else path, "--model", text)
    assert result.code == 0, result
    assert [line.split("\t")[0] for line in result.out.splitlines()] == texts
    assert result.err.startswith(f"attcat: {'stdin' if piped else name}: the text is column ")
    assert result.err.count("\n") == 1


def test_a_parquet_table(run: Run, text: Path, tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    path = tmp_path / "a.parquet"
    pandas.DataFrame({"review": ["great", None, "dull"], "stars": [5, 1, 1]}).to_parquet(path)
    result = run("explain", path, "--model", text)
    assert result.code == 3
    assert [line.split("\t")[0] for line in result.out.splitlines()] == ["great", "dull"]
    assert "a.parquet, row 2: 'review' is null, expected a text; skipped" in result.err
    assert [example.value for example in read_dataset(str(write_good(pandas, tmp_path))).examples] == ["great", "dull"]


def write_good(pandas: Any, folder: Path) -> Path:
    path = folder / "good.parquet"
    pandas.DataFrame({"review": ["great", "dull"], "stars": [5, 1]}).to_parquet(path)
    return path


def test_columns_that_are_named_are_read(run: Run, text: Path, tmp_path: Path) -> None:
    path = write(tmp_path / "a.tsv", "title\tbody\tcontext\na film\tdull\tx\n")
    result = run("explain", path, "--model", text, "--text-column", "body")
    assert (result.code, result.err, result.out.split("\t")[0]) == (0, "", "dull")
    result = run("explain", path, "--model", text, "--text-column", "body", "--pair-column", "title")
    assert result.out.split("\t")[0] == "dull | a film"


def test_plain_lines_may_look_like_a_table(
    run: Run, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for content, options in (
        (b"a great, dull film\nfilm, film\n", ()),
        (b"text\tfilm\n", ("--stdin", "lines")),
        (b'"a" great film\n', ()),
    ):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content), encoding="utf-8"))
        result = run("explain", "-", "--model", text, *options)
        assert (result.code, result.err) == (0, "")
        assert len(result.out.splitlines()) == content.count(b"\n")


def test_one_row_of_a_table_is_compared(run: Run, text: Path, tmp_path: Path) -> None:
    path = write(tmp_path / "a.tsv", "sentence\tlabel\na great film\t1\nso dull\t0\n")
    assert "holds 2 inputs, and one is compared: name it with --row" in told(run("compare", path, "--model", text))
    result = run("compare", path, "--model", text, "--row", 2, "--methods", "attcat,cat")
    assert result.code == 0
    assert "dull" in result.out
    assert "--row 3: " in told(run("compare", path, "--model", text, "--row", 3))


# -- tables: what is wrong ---------------------------------------------------------------------------------------------

DEEP = "[" * 100_000 + "]" * 100_000
BAD_TABLES = [
    ("a.tsv", "text\ttext\na\tb\n", "two columns called 'text'"),
    ("a.csv", "id,title,body\n1,a,b\n", "no column for the text among id, title, body: name it with --text-column"),
    ("a.csv", "text,review\na,b\n", "several columns that could be the text (text, review)"),
    ("a.tsv", "text\tlabel\n", "only the names of columns"),
    ("a.tsv", "", "is empty"),
    ("a.tsv", "a\tb\tc\td\n", "4 columns and no header"),
    ("a.csv", b"text\n\xff\n", "not text in UTF-8"),
    ("a.parquet", "PAR1", "cannot be read as Parquet"),
    ("a.parquet", "", "cannot be read as Parquet"),
    ("a.jsonl", "\n\n", "is empty"),
    ("a.jsonl", "[1]\n", "expected one object per line, got a list"),
]
BAD_ROWS = [
    ('{"text": null}', "'text' is null, expected a text"),
    ('{"text": 5}', "'text' is 5, expected a text"),
    ('{"text": ["a"]}', "expected a text"),
    ('{"text": " "}', "the text is empty"),
    ('{"other": "a"}', "there is no 'text', only other"),
    ('{"text": "a", "text": "b"}', "the key 'text' stands there twice"),
    ('{"text": "\\ud800"}', "half of a surrogate pair"),
    (f'{{"text": {"1" * 5000}}}', "cannot be read as JSON"),
    (f'{{"text": {DEEP}}}', "nested more than 100 deep"),
    ('{"text": "a"', "cannot be read as JSON"),
    ("3", "expected one object per line, got a int"),
]


@pytest.mark.parametrize(("name", "content", "reason"), BAD_TABLES)
def test_a_bad_table(run: Run, text: Path, tmp_path: Path, name: str, content: str | bytes, reason: str) -> None:
    assert reason in told(run("explain", write(tmp_path / name, content), "--model", text))


@pytest.mark.parametrize(("line", "reason"), BAD_ROWS)
def test_a_bad_row_is_reported_and_skipped(run: Run, text: Path, tmp_path: Path, line: str, reason: str) -> None:
    path = write(tmp_path / "a.jsonl", f'{{"text": "great"}}\n{line}\n{{"text": "dull", "more": "x"}}\n')
    result = run("explain", path, "--model", text, "--output", tmp_path / "out.csv")
    assert result.code == 3
    assert [row.split("\t")[0] for row in result.out.splitlines()[:2]] == ["great", "dull"]
    assert "a.jsonl, line 2: " in result.err
    assert reason in result.err
    assert "1 of 3 inputs were skipped" in result.err
    rows = (tmp_path / "out.csv").read_text().splitlines()
    assert [row.split(",")[:2] for row in rows] == [["number", "input"], ["1", "great"], ["3", "dull"]]
    strict = told(run("explain", path, "--model", text, "--strict"))
    assert "line 2" in strict
    assert reason in strict


@pytest.mark.parametrize(("line", "reason"), BAD_ROWS)
def test_an_evaluation_is_of_all_rows_or_none(tmp_path: Path, line: str, reason: str) -> None:
    path = write(tmp_path / "a.jsonl", f'{{"text": "great"}}\n{line}\n')
    with pytest.raises(InputError) as caught:
        read_dataset(str(path))
    assert "a.jsonl, line 2: " in str(caught.value)
    assert reason in str(caught.value)


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ('{"text": "a", "label": 1}\n{"text": "b"}', "line 2: there is no 'label', only text"),
        ('{"text": "a", "label": [1]}', "line 1: the label is [1], expected the name or the number of a class"),
        ('{"text": "a", "label": true}', "the label is true"),
        ('{"text": "a", "spans": {"a": 1}}', 'line 1: {"a": 1} are not spans'),
        ('{"text": "a", "spans": 3}', "line 1: 3 are not spans"),
        ('{"text": "a", "spans": [[1e999, 2]]}', "are not spans"),
        ('{"text": "a", "spans": "[[[[1]]]]"}', "are not spans"),
        (json.dumps({"text": "a", "spans": DEEP}), "are not spans"),
    ],
)
def test_bad_labels_and_spans(run: Run, text: Path, tmp_path: Path, rows: str, reason: str) -> None:
    path = write(tmp_path / "a.jsonl", rows + "\n")
    assert reason in told(run("evaluate", path, "--model", text, "--output", tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_a_seed_is_checked_before_the_work(run: Run, text: Path, tmp_path: Path) -> None:
    path = write(tmp_path / "a.tsv", "text\ngreat\n")
    for seed in ("-1", str(2**32)):
        assert "seed" in told(run("evaluate", path, "--model", text, "--output", tmp_path / "out", "--seed", seed))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "damage",
    [
        b"\xff\n",
        b"[1]\n",
        b"3\n",
        b'{"method": "random"}\n',
        b'{"method": 1, "examples": [0], "records": []}\n',
        b'{"method": "random", "examples": [[0]], "records": []}\n',
        b'{"method": "random", "examples": [0], "records": [{"values": {"aopc": "x"}}]}\n',
        b'{"method": "random", "examples": [0], "records": 3}\n',
        DEEP.encode() + b"\n",
    ],
)
def test_damaged_records(run: Run, text: Path, tmp_path: Path, damage: bytes) -> None:
    from attcat.evaluation.log import Log

    path = tmp_path / "records.jsonl"
    Log(path, {"a": 1})
    path.write_bytes(path.read_bytes() + damage)
    with pytest.raises(OptionError, match=r"is damaged: remove|choose another --output"):
        Log(path, {"a": 1})


# -- rows are independent, and work resumes ----------------------------------------------------------------------------


def test_inputs_that_fail_take_no_other_with_them(
    run: Run, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = ["great", "great " * 30, "missing.png", "dull"]
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("\n".join(lines).encode()), encoding="utf-8"))
    result = run("explain", "-", "--model", text, "--output", tmp_path / "out")
    assert result.code == 3
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["dull.html", "great.html"]
    assert "stdin, line 3: no such file: missing.png; skipped" in result.err
    assert "stdin, line 2: the text beginning 'great great" in result.err
    assert "2 of 4 inputs were skipped" in result.err
    assert "none of the 2 inputs can be explained" in run("explain", *["great " * 30] * 2, "--model", text).err
    assert "no class 'x'" in told(run("explain", "great", "dull", "--model", text, "--target", "x"))


@pytest.mark.parametrize("output", ["out.jsonl", "pages", "out.html"])
def test_interrupted_work_resumes(
    run: Run, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, output: str
) -> None:
    path = write(tmp_path / "a.tsv", "text\n" + "".join(f"{'great ' * n}film\n" for n in range(1, 8)))
    command = ("explain", path, "--model", text, "--batch-size", 2, "--output", tmp_path / output)
    whole = run(*command)
    first = _content(tmp_path / output)
    assert whole.code == 0
    _remove(tmp_path / output)
    explained: list[int] = []
    really = attcat.Explainer.__call__

    def counted(self: attcat.Explainer, inputs: Any, *rest: Any, **options: Any) -> Any:
        if len(explained) == 2:
            raise KeyboardInterrupt
        explained.append(len(inputs))
        return really(self, inputs, *rest, **options)

    monkeypatch.setattr(attcat.Explainer, "__call__", counted)
    assert run(*command).code == 130
    explained.clear()
    explained.extend([0, 0, 0])  # three calls more are no interruption

    result = run(*command)
    assert explained[3:] == [2, 1]
    assert (result.code, result.out) == (0, whole.out)
    assert _content(tmp_path / output) == first
    assert not list(tmp_path.rglob("*.attcat.jsonl"))
    # With another setting nothing is kept.
    explained[:] = [0, 0]
    assert run(*command, "--method", "cat").code == 130
    explained[:] = [0, 0, 0]
    assert run(*command).code == 0
    assert explained[3:] == [2, 2, 2, 1]


def test_interrupted_work_on_pictures_resumes(
    run: Run, image: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their pixels are not kept beside the output, as they can be read again; a file that has changed is explained anew."""
    rng = np.random.default_rng(0)
    (tmp_path / "in").mkdir()
    for name in "abcd":
        Image.fromarray(rng.integers(0, 256, (40, 60, 3), dtype=np.uint8)).save(tmp_path / "in" / f"{name}.png")
    command = ("explain", tmp_path / "in", "--model", image, "--batch-size", 1, "--output", tmp_path / "out")
    whole = run(*command)
    assert whole.code == 0
    first = _content(tmp_path / "out")
    _remove(tmp_path / "out")
    explained: list[Any] = []
    really = attcat.Explainer.__call__

    def counted(self: attcat.Explainer, inputs: Any, *rest: Any, **options: Any) -> Any:
        if len(explained) == 3:
            raise KeyboardInterrupt
        explained.append([path.stem for path in inputs])
        return really(self, inputs, *rest, **options)

    monkeypatch.setattr(attcat.Explainer, "__call__", counted)
    assert run(*command).code == 130
    assert explained == [["a"], ["b"], ["c"]]
    (journal,) = (tmp_path / "out").glob("*.jsonl")
    assert '"png"' not in journal.read_text()
    shutil.copy(tmp_path / "in" / "d.png", tmp_path / "in" / "b.png")
    explained.clear()
    assert run(*command).code == 0
    assert explained == [["b"], ["d"]]
    again = _content(tmp_path / "out")
    assert sorted(again) == sorted(first) == ["a.png", "b.png", "c.png", "d.png"]
    assert [name for name in first if again[name] != first[name]] == ["b.png"]


@pytest.mark.parametrize(
    "damage", [b"\xff\n", b"3\n", b'{"input": 3}\n', b'{"input": "x", "explanation": "{"}\n', b"{"]
)
def test_a_damaged_journal_is_not_relied_on(
    run: Run, text: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: bytes
) -> None:
    from attcat.cli import journal

    path = write(tmp_path / "a.tsv", "text\ngreat\ngreat film\ndull\n")
    command = ("explain", path, "--model", text, "--batch-size", 1, "--output", tmp_path / "out.jsonl")
    monkeypatch.setattr(journal.Journal, "remove", lambda self: None)
    whole = run(*command)
    kept = tmp_path / f".out.jsonl{journal.NAME}"
    lines = kept.read_bytes().splitlines(keepends=True)
    lines[2] = lines[2].split(b'"explanation"')[0] + b'"explanation": "{}"}\n'
    kept.write_bytes(b"".join(lines[:3]) + damage)
    again = run(*command)
    assert (again.code, again.out) == (0, whole.out)


def test_where_nothing_can_be_kept(run: Run, text: Path, tmp_path: Path) -> None:
    path = write(tmp_path / "a.tsv", "text\ngreat\ndull\n")
    write(tmp_path / "file", "")
    output = tmp_path / "file" / "out.jsonl"
    assert "choose another --output" in told(
        run("explain", path, "--model", text, "--batch-size", 1, "--output", output)
    )


def test_pairs_and_choices_of_tables(run: Run, text: Path, tmp_path: Path) -> None:
    table = write(tmp_path / "a.tsv", "text\nfilm\n")
    pairs = write(tmp_path / "b.tsv", "text\tpair\nfilm\tdull\n")
    result = run("explain", table, "--pair", "great", "--model", text)
    assert result.out.split("\t")[0] == "film | great"
    assert run("explain", pairs, "--model", text).out.split("\t")[0] == "film | dull"
    assert "leave out --pair and --choice" in told(run("explain", pairs, "--pair", "great", "--model", text))
    choosing = saved.save_text(tmp_path / "choices", "BertForMultipleChoice")
    result = run("explain", table, "--choice", "great", "--choice", "dull", "--model", choosing)
    assert (result.code, result.out.split("\t")[0]) == (0, "film | great | dull")
    assert "use one of lines, tsv" in told(run("explain", "-", "--stdin", "xml", "--model", text))


def _content(path: Path) -> dict[str, bytes]:
    files = [path] if path.is_file() else sorted(path.iterdir())
    return {file.name: file.read_bytes() for file in files}


def _remove(path: Path) -> None:
    for file in [path] if path.is_file() else path.iterdir():
        file.unlink()


# -- names and folders -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a" * 300, "a\0b", "\ud800", "a\nb", "~nobody/x", "a" * 300 + "/x"])
def test_names_that_no_model_has(run: Run, name: str) -> None:
    assert "no such folder" in told(run("explain", "great", "--model", name))


@pytest.mark.parametrize("name", ["a" * 300 + ".json", "a\0.json", "b" * 300 + "/", "\0/", "a" * 300 + ".csv"])
def test_names_that_no_file_has(run: Run, text: Path, tmp_path: Path, name: str) -> None:
    line = told_at_last(run("explain", "great", "--model", text, "--output", f"{tmp_path}/{name}"))
    assert "cannot write" in line or "--output" in line
    assert not list(tmp_path.iterdir())


def told_at_last(result: Result) -> str:
    """As `told`, where something was explained before it could not be written."""
    assert result.code == 2, result
    assert "this is a bug" not in result.err
    assert result.err.count("\n") == 1
    return result.err


CONFIGS = [
    DEEP,
    '{"architectures": ["BertForSequenceClassification"], "hidden_size": 1e400}',
    f'{{"architectures": ["BertForSequenceClassification"], "model_type": "bert", "vocab_size": {"9" * 5000}}}',
    '{"architectures": ["BertForSequenceClassification"], "model_type": "bert", "hidden_size": null}',
    '{"architectures": ["BertForSequenceClassification"], "model_type": "bert", "vocab_size": -1}',
    '{"architectures": ["BertForSequenceClassification"], "model_type": "bert", "id2label": [1]}',
    '{"architectures": ["BertForSequenceClassification"], "model_type": "\\ud800"}',
    '{"architectures": [null]}',
    '{"architecture": 3}',
    '{"architecture": "vit_tiny_patch16_224", "num_classes": "x"}',
    '"a"',
    "\x00",
]


@pytest.mark.parametrize("config", CONFIGS)
def test_hostile_configurations(text: Path, tmp_path: Path, config: str) -> None:
    for name in ("model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_bytes((text / name).read_bytes())
    write(tmp_path / "config.json", config)
    with pytest.raises(AttCATError) as caught:
        hub.load(tmp_path)
    assert "\n" not in str(caught.value)


def test_a_revision_is_passed_on(monkeypatch: pytest.MonkeyPatch, text: Path, run: Run, tmp_path: Path) -> None:
    import huggingface_hub

    asked = []

    def fetch(name: str, revision: str | None = None, **_: object) -> str:
        asked.append((name, revision))
        return str(text)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fetch)
    assert run("explain", "great", "--model", "owner/name", "--revision", "abc123").code == 0
    data = write(tmp_path / "a.tsv", "sentence\tlabel\ngreat\t1\ndull\t0\n")
    assert run("summary", data, "--model", "owner/name", "--revision", "abc123").code == 0
    assert asked == [("owner/name", "abc123")] * 4
    assert "has no revision 'abc123'" in told(run("explain", "great", "--model", text, "--revision", "abc123"))
    assert "the embedded models have none" in told(run("explain", "great", "--revision", "abc123"))


# -- values in Python --------------------------------------------------------------------------------------------------

IDS: dict[str, Any] = {
    "negative": [[-1, 2]],
    "bool": torch.tensor([[True, False]]),
    "none": None,
    "str": "abc",
    "strings": [["a"]],
    "complex": torch.tensor([[1j]]),
    "float": [[1.5]],
    "empty": [[]],
    "three dimensions": [[[1]]],
    "ragged": [[1], [2, 3]],
    "huge": [[2**70]],
    "outside": [[10**6]],
    "objects": np.array([["a", None]], dtype=object),
    "sparse": torch.ones(1, 2, dtype=torch.long).to_sparse(),
    "meta": torch.ones(1, 2, dtype=torch.long, device="meta"),
}
BESIDE: dict[str, dict[Any, Any]] = {
    "mask none": {"attention_mask": None},
    "mask str": {"attention_mask": "a"},
    "mask negative": {"attention_mask": [[-1, 1]]},
    "mask half": {"attention_mask": [[0.5, 1]]},
    "mask nan": {"attention_mask": [[float("nan"), 1]]},
    "mask complex": {"attention_mask": torch.ones(1, 2, dtype=torch.complex64)},
    "mask shape": {"attention_mask": [[1]]},
    "mask of nothing": {"attention_mask": [[0, 0]]},
    "types negative": {"token_type_ids": [[-1, 0]]},
    "types outside": {"token_type_ids": [[0, 7]]},
    "types float": {"token_type_ids": [[0.5, 0]]},
    "types shape": {"token_type_ids": [[0]]},
    "a name that is none": {1: 1},
}


@pytest.mark.parametrize("case", IDS)
def test_token_numbers(reader: attcat.Explainer, case: str) -> None:
    with pytest.raises(AttCATError):
        reader({"input_ids": IDS[case]})


def test_token_numbers_of_few_bits(reader: attcat.Explainer) -> None:
    """Found by hypothesis: torch's embeddings take no bytes."""
    expected = reader({"input_ids": [[2, 5, 3]]}).scores
    for kind in (np.uint8, np.int8, np.int16, np.int32):
        types = np.zeros((1, 3), kind)
        found = reader({"input_ids": np.array([[2, 5, 3]], kind), "token_type_ids": types})
        assert torch.equal(found.scores, expected)


@pytest.mark.parametrize("case", BESIDE)
def test_arguments_beside_them(reader: attcat.Explainer, case: str) -> None:
    with pytest.raises(InputError):
        reader({"input_ids": [[2, 3]], **BESIDE[case]})


PIXELS: dict[str, Any] = {
    "no picture": torch.zeros(0, 3, 32, 32),
    "no pixels": torch.zeros(1, 3, 0, 0),
    "one pixel": torch.zeros(1, 3, 1, 1),
    "two rows": torch.zeros(1, 3, 2, 40),
    "four channels": torch.zeros(1, 4, 32, 32),
    "integers": torch.zeros(1, 3, 32, 32).int(),
    "text": "a",
    "none": None,
    "array": np.zeros((1, 3, 32, 32), np.float32),
    "nan": torch.full((1, 3, 32, 32), float("nan")),
    "complex": torch.zeros(1, 3, 32, 32, dtype=torch.complex64),
    "gigantic": torch.zeros(1, 3, 1, 1).expand(1, 3, 100_000, 100_000),
    "five dimensions": torch.zeros(1, 1, 3, 32, 32),
    "sparse": torch.zeros(1, 3, 32, 32).to_sparse(),
    "meta": torch.zeros(1, 3, 32, 32, device="meta"),
}


@pytest.mark.parametrize("case", PIXELS)
def test_pixel_values(viewer: attcat.Explainer, case: str) -> None:
    with pytest.raises(InputError):
        viewer({"pixel_values": PIXELS[case]})


def closed() -> Image.Image:
    picture = Image.new("RGB", (8, 8))
    picture.close()
    return picture


def cut_off() -> Image.Image:
    file = io.BytesIO()
    Image.effect_noise((64, 64), 90).convert("RGB").save(file, "JPEG")
    return Image.open(io.BytesIO(file.getvalue()[:800]))


PICTURES: dict[str, Callable[[], Any]] = {
    "objects": lambda: np.array([[1, None]], dtype=object),
    "strings": lambda: np.array([["a", "b"]]),
    "bytes": lambda: np.array([[b"a"]]),
    "dates": lambda: np.zeros((4, 4), "M8[s]"),
    "durations": lambda: np.zeros((4, 4), "m8[s]"),
    "records": lambda: np.zeros((4, 4), [("a", int)]),
    "complex": lambda: np.zeros((4, 4), complex),
    "gigantic": lambda: np.broadcast_to(np.uint8(1), (10**6, 10**6)),
    "narrow": lambda: np.broadcast_to(np.uint8(1), (1, 50_000)),
    "no pixels": lambda: np.zeros((0, 4)),
    "negative": lambda: -np.ones((4, 4)),
    "infinite": lambda: np.full((4, 4), np.inf),
    "64 bits": lambda: np.full((4, 4), 2**64 - 1, np.uint64),
    "closed": closed,
    "cut off, not read yet": cut_off,
    "meta": lambda: torch.zeros(3, 4, 4, device="meta"),
    "sparse": lambda: torch.zeros(4, 4).to_sparse(),
    "complex tensor": lambda: torch.zeros(3, 4, 4, dtype=torch.complex64),
    "long name": lambda: Path("x" * 300),
    "name with NUL": lambda: Path("a\0b.png"),
    "none": lambda: None,
    "number": lambda: 3,
    "bytes of a file": lambda: b"\x89PNG",
}


@pytest.mark.parametrize("case", PICTURES)
def test_pictures(viewer: attcat.Explainer, case: str) -> None:
    with pytest.raises(InputError):
        viewer(PICTURES[case]())


@pytest.mark.parametrize(
    "value", ["a \ud800 b", ("a", "\udfff"), "", " \u3000", (), ("a", "b", "c"), None, 3, b"a", {"a"}, [["a"]]]
)
def test_texts(reader: attcat.Explainer, value: Any) -> None:
    with pytest.raises(InputError):
        reader(value)


@pytest.mark.parametrize("value", ["a\0film", "\u200d", "\ufefffilm", "\u202egreat", "e" + "\u0301" * 500, "a\u2028b"])
def test_strange_texts_are_texts(reader: attcat.Explainer, value: str) -> None:
    explanation = reader(value)
    assert explanation.source == value
    assert attcat.Explanation.from_json(explanation.to_json()).source == value


CALLS: list[dict[str, Any]] = [
    {"top_k": "a"},
    {"top_k": 0},
    {"top_k": 1.5},
    {"top_k": True},
    {"window": "a"},
    {"window": -1},
    {"window": 1.5},
    {"token": object()},
    {"target": 1.5},
    {"target": object()},
    {"target": 10**30},
    {"target": "\ud800"},
    {"target": (0,)},
    {"target": []},
    {"truncation": "a"},
]
MADE: list[dict[str, Any]] = [
    {"method": 3},
    {"method": ["cat"]},
    {"method": ""},
    {"method": "oddscat:samples"},
    {"method": "oddscat:samples=x"},
    {"rule": 3},
    {"rule": ["libra"]},
    {"hidden": 3},
    {"queries": {}},
    {"batch_size": "a"},
    {"batch_size": 1.5},
    {"batch_size": True},
    {"quantity": 3},
    {"method": "integrated_gradients", "steps": 1.5},
    {"method": "integrated_gradients", "steps": "a"},
    {"method": "integrated_gradients", "steps": -1},
    {"method": "integrated_gradients", "steps": True},
    {"method": "random", "seed": "a"},
    {"nothing": 1},
    {"rule": "graded", "beta": "a"},
    {"rule": "graded", "beta": None},
]


@pytest.mark.parametrize("options", CALLS)
def test_options_of_a_call(reader: attcat.Explainer, options: dict[str, Any]) -> None:
    with pytest.raises(AttCATError):
        reader("a great film", **options)


@pytest.mark.parametrize("options", MADE)
def test_options_of_an_explainer(reader: attcat.Explainer, options: dict[str, Any]) -> None:
    with pytest.raises(AttCATError):
        attcat.Explainer(reader.adapter, **options)("a great film")


def test_more_classes_than_there_are(reader: attcat.Explainer) -> None:
    assert len(reader("a great film", top_k=10**30)) == 2


@pytest.mark.parametrize("name", ["folder", "folder.json", "a\0.json", "a" * 300 + ".json"])
def test_what_cannot_be_loaded(tmp_path: Path, name: str) -> None:
    if name.startswith("folder"):
        (tmp_path / name).mkdir()
    with pytest.raises(InputError):
        attcat.load(tmp_path / name)


@pytest.mark.parametrize("content", [DEEP.encode(), b'{"format": ' + b"1" * 5000 + b"}", b"\xff" * 9, b"", b"{}"])
@pytest.mark.parametrize("suffix", [".json", ".safetensors"])
def test_damaged_files(tmp_path: Path, content: bytes, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    path.write_bytes(content)
    with pytest.raises(InputError, match="saved by AttCAT"):
        attcat.load(path)


# -- Ctrl-C ------------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_ctrl_c_while_it_starts_is_silent(text: Path) -> None:
    command = [sys.executable, "-m", "attcat", "explain", "a film", "--model", str(text)]
    started = []
    for seconds in (0.2, 0.5, 0.9):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)
        time.sleep(seconds)
        process.send_signal(signal.SIGINT)
        started.append(process)
    for process in started:
        out, err = process.communicate(timeout=60)
        assert process.returncode in (130, -signal.SIGINT, 0), err
        assert b"Traceback" not in err
        assert out == b"" or process.returncode == 0


# -- the reader by itself ----------------------------------------------------------------------------------------------


def test_lines_are_those_of_the_file(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", 'text,label\n"two\nlines",1\n\nthree,0\nbad\n')
    table = read_table(path)
    assert [line for line, _ in table.texts(table.choose(Columns()))] == [2, 5, 6]


def test_a_pipe_without_a_table() -> None:
    for data in (b"a film\n", b"", b"\n", b"one, two\n", b"{not json\n", b"text\n", b"a, text\n"):
        assert table_in(data, "stdin") is None, data

"""What the README shows runs: its blocks of Python, its shell lines, and its table, which quotes docs/evaluation.md."""

from __future__ import annotations

import io
import re
import shutil
import sys
import tomllib
from pathlib import Path
from typing import Any

import pandas
import pytest
import saved
import timm
import transformers
from pages import ROOT, blocks, commands
from test_extending import encoder
from tokenizers_small import wordpiece
from torch import nn

import attcat
from attcat import cli
from attcat.adapters import hub
from attcat.demos import embedded
from attcat.model import registry

PAGE = "README.md"
PICTURES = ROOT / "demos" / "images"
LINES = [words for words in commands(PAGE) if words[0] == "attcat"]
OTHERS = [words for words in commands(PAGE) if words[0] != "attcat"]
PLACEHOLDERS = {
    "DIR_OR_HUB_ID": "text",
    "DIR": "text",
    "TAGGER": "tagger",
    "QA_MODEL": "answers",
    "CHOICE_MODEL": "choice",
    "timm/deit_tiny_patch16_224.fb_in1k": "timm",
}


# -- Python ----------------------------------------------------------------------------------------------------------


def test_the_blocks_of_python_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One after another, as in one session; what they load is small and random."""
    found = blocks(PAGE)
    assert len(found) == 4
    text, labels = tmp_path / "model", ("NEGATIVE", "POSITIVE")
    saved.save_text(text, labels=labels)
    loader = transformers.AutoModelForSequenceClassification
    monkeypatch.chdir(tmp_path)
    saved.save_picture(tmp_path / "photo.jpg")
    monkeypatch.setattr(registry, "_registered", {})
    names: dict[str, Any] = {"model": loader.from_pretrained(text), "processor": saved.tokenizer(), "attcat": attcat}
    create, load, tokenizer = timm.create_model, loader.from_pretrained, saved.tokenizer()
    monkeypatch.setattr(timm, "create_model", lambda name, pretrained: create(name, depth=1, num_heads=1, embed_dim=8))
    monkeypatch.setattr(loader, "from_pretrained", lambda name: load(text))
    monkeypatch.setattr(transformers.AutoTokenizer, "from_pretrained", lambda name: tokenizer)
    for block in found:
        exec(block, names)
    assert {path.name for path in tmp_path.iterdir()} >= {"film.html", "photo.png"}
    assert type(attcat.Explainer(encoder(), wordpiece()).adapter) is names["MyEncoderAdapter"]


# -- the shell -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """What stands behind each placeholder."""
    folder, labels = tmp_path_factory.mktemp("models"), ("negative", "positive")
    kinds = {
        "text": "BertForSequenceClassification",
        "tagger": "BertForTokenClassification",
        "answers": "BertForQuestionAnswering",
        "choice": "BertForMultipleChoice",
    }
    made = {name: saved.save_text(folder / name, kind, labels) for name, kind in kinds.items()}
    return {**made, "timm": saved.save_timm(folder / "timm")}


def objects() -> nn.Module:
    """As the embedded model of pictures is, only small."""
    sizes = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2, "mlp_ratio": 2}
    config = transformers.Dinov2Config(image_size=98, patch_size=14, id2label={0: "cat", 1: "dog"}, **sizes)
    return saved.redraw(transformers.Dinov2ForImageClassification(config)).eval()


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the files that the lines name."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(PICTURES / "dog.jpg", "photo.jpg")
    saved.save_picture(tmp_path / "other.png")
    lines = "a gripping film\t1\na dull film\t0\n"
    Path("reviews.txt").write_text("A gripping film.\nA dull one.\n", encoding="utf-8")
    for name in ("data.tsv", "reviews.tsv"):
        Path(name).write_text(lines, encoding="utf-8")
    pandas.DataFrame({"text": ["a gripping film", "a dull film"]}).to_parquet("data.parquet")
    Path("DATA/sst2").mkdir(parents=True)
    Path("DATA/sst2/dev.tsv").write_text(lines, encoding="utf-8")
    for name in ("cat", "dog"):
        for folder in (f"DATA/cifar10/test/{name}", f"DATA/photographs/{name}"):
            Path(folder).mkdir(parents=True)
            shutil.copy(PICTURES / f"{name}.jpg", f"{folder}/0.jpg")
    return tmp_path


@pytest.mark.parametrize("line", LINES, ids=" ".join)
def test_the_shell_line_runs(
    line: list[str],
    models: dict[str, Path],
    place: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """In this process; small models stand in for the embedded ones, which tests/test_demos.py runs."""
    monkeypatch.setattr(embedded, "sentiment", lambda: hub.load(models["text"]))
    monkeypatch.setattr(embedded, "objects", lambda: (objects(), embedded.objects_processor(98)))
    words = [str(models[PLACEHOLDERS[word]]) if word in PLACEHOLDERS else word for word in line[1:]]
    into = words.pop(words.index(">") + 1) if ">" in words else None
    if "<" in words:
        given = Path(words.pop(words.index("<") + 1)).read_text(encoding="utf-8")
        monkeypatch.setattr(sys, "stdin", io.StringIO(given))
    code = cli.run([word for word in words if word not in ("<", ">")])
    out, err = capsys.readouterr()
    assert (code, out.strip() != "") in ((0, True), (1, True)), err
    assert code == 0 or line[1] == "check"  # a random model may keep its promises or not, but is measured
    assert into is None or len(out.splitlines()) == 2
    if "--output" in line:
        assert Path(line[line.index("--output") + 1]).exists()


def test_every_command_is_shown() -> None:
    assert {line[1] for line in LINES} == {"explain", "compare", "adapters", "check", "methods", "evaluate", "summary"}
    assert {word for line in LINES for word in line if word.isupper()} <= {*PLACEHOLDERS, "DATA"}


def test_the_other_lines_name_what_there_is() -> None:
    """Targets of make, extras of the package, and demos that tests/test_demos.py runs."""
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    demos = (ROOT / "tests" / "test_demos.py").read_text(encoding="utf-8")
    for words in OTHERS:
        if words[0] == "make":
            assert re.search(rf"^{words[1]}:", makefile, re.MULTILINE)
        elif words[0] == "pip":
            assert set(re.findall(r"[a-z]+", words[2])) <= set(extras)
        else:
            assert words[:2] == ["python", "-m"]
            assert f"{words[2].removeprefix('attcat.demos.')}.main(" in demos
    assert {words[0] for words in OTHERS} == {"make", "pip", "python"}


# -- the table -------------------------------------------------------------------------------------------------------


def test_the_table_quotes_the_evaluation() -> None:
    """The same runs as docs/evaluation.md, to two places; the sentence above it says of how many examples."""
    page = (ROOT / "docs" / "evaluation.md").read_text(encoding="utf-8")
    readme = (ROOT / PAGE).read_text(encoding="utf-8")
    short = {
        "OddsCAT": "oddscat",
        "OddsCAT, two": "oddscat:samples=2",
        "OddsCAT, eight": "oddscat:samples=8",
        "AttCAT, `libra`": "attcat",
        "AttnLRP": "attnlrp",
        "AttCAT as published": "attcat+plain",
        "Integrated gradients": "integrated_gradients",
    }
    measured: dict[str, list[float]] = {name: [] for name in short.values()}
    counts: dict[str, list[int]] = {name: [] for name in short.values()}
    for heading in ("## SST-2 dev, words become", "## CIFAR-10 test at 98 pixels", "## Photographs at 224 pixels"):
        section = page.partition(heading)[2].partition("\n## ")[0]
        lines = [
            [cell.strip() for cell in line.split("|")[1:-1]] for line in section.splitlines() if line.startswith("|")
        ]
        rows = {line[0].strip("`"): line for line in lines}
        for name in measured:
            measured[name].append(float(rows[name][lines[0].index("abpc ↑")].strip("*").split()[0]))
            counts[name].append(int(rows[name][-1]))
    for start, name in short.items():
        (line,) = [line for line in readme.splitlines() if re.match(rf"\| {re.escape(start)}[^,]* \|", line)]
        quoted = [float(cell.strip(" *")) for cell in line.split("|")[3:6]]
        assert quoted == pytest.approx(measured[name], abs=0.0051), name
        told = "{} sentences of SST-2, {} pictures of CIFAR-10 and {} photographs".format(*counts[name])
        assert told in " ".join(readme.split())

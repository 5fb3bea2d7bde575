"""The pages about extensions run, block after block, with small models; what they register is forgotten after each."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
import transformers
from pages import ROOT, blocks, commands
from saved import save_text
from tasks_zoo import make, redraw, tokenizer
from tokenizers_small import wordpiece
from torch import nn
from zoo import FAMILIES, WIDTH
from zoo_unseen import UNSEEN, Company

import attcat
from attcat import cli
from attcat.capture.rules import RULES
from attcat.methods import METHODS
from attcat.metrics import METRICS
from attcat.model import registry
from attcat.model.heads import HEADS
from attcat.testing import check_adapter

FOLDER = "docs/extending"
PAGES = {"family": 4, "head": 3, "rule": 3, "method": 3, "metric": 3}
"""The pages, and how many blocks of Python each has."""
PROMPT, CHOICES = "the film", ["a gripping film", "boring"]


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    """What a page registers is forgotten after it."""
    tables: tuple[dict[str, Any], ...] = (METRICS, METHODS, RULES, HEADS, registry._registered)
    before = [(there, dict(there)) for there in tables]
    yield
    for there, entries in before:
        there.clear()
        there.update(entries)


def encoder() -> nn.Module:
    """`my_package.MyEncoder`, whose blocks are in `encoder.layers`."""
    inner: Any = FAMILIES["bert"].model().bert
    inner.layers = inner.encoder.layer
    made: nn.Module = type("MyEncoder", (Company,), {"__module__": "my_package"})(inner)
    return made.eval()


def chooser(kind: str = "BertForMyChoice") -> nn.Module:
    """A user's own class with a head for multiple choice."""
    own = type(kind, (transformers.BertForMultipleChoice,), {})
    model: nn.Module = own(make("Bert", "ForMultipleChoice").config)
    return redraw(model)


def run(name: str, folder: Path) -> dict[str, Any]:
    """Run a page's blocks in one namespace, which is returned."""
    found = blocks(f"{FOLDER}/{name}.md")
    assert len(found) == PAGES[name]
    models = {"family": encoder, "head": chooser}
    names: dict[str, Any] = {
        "model": models.get(name, lambda: make("Bert", "ForSequenceClassification"))(),
        "tokenizer": wordpiece(),
        "folder": str(save_text(folder / "model")),
        "data": str(folder / "data.tsv"),
        "output": str(folder / "out"),
    }
    (folder / "data.tsv").write_text("a gripping film\nthe film was not boring\n", encoding="utf-8")
    for block in found:
        exec(block, names)
    return names


@pytest.mark.parametrize("name", PAGES)
def test_the_page_fits_a_screen_or_two(name: str) -> None:
    assert len((ROOT / FOLDER / f"{name}.md").read_text(encoding="utf-8").splitlines()) <= 80


@pytest.mark.parametrize("page", [f"{FOLDER}/{name}.md" for name in (*PAGES, "README")] + ["docs/adapters.md"])
def test_links_lead_somewhere(page: str) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    assert not [
        link for link in re.findall(r"\]\((?!https?:)([^)#]+)", text) if not ((ROOT / page).parent / link).exists()
    ]


def test_the_index_lists_every_page() -> None:
    index = (ROOT / FOLDER / "README.md").read_text(encoding="utf-8")
    assert set(re.findall(r"\((\w+)\.md\)", index)) == set(PAGES)
    assert {path.stem for path in (ROOT / FOLDER).glob("*.md")} == {*PAGES, "README"}
    assert all(hasattr(attcat, name) for name in re.findall(r"attcat\.(register\w*)", index))


def test_method(tmp_path: Path) -> None:
    run("method", tmp_path)


def test_metric(tmp_path: Path) -> None:
    run("metric", tmp_path)
    assert "halved" in (tmp_path / "out" / "table.md").read_text(encoding="utf-8")


def test_rule(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The page's rule, where every activation is a ReLU, is libra: its gate is what the gradient does anyway."""
    run("rule", tmp_path)
    gaps = dict(
        line.split() for line in capsys.readouterr().out.splitlines() if re.fullmatch(r"(plain|ah_ln) \S+", line)
    )
    assert float(gaps["ah_ln"]) < float(gaps["plain"])
    model = make("DistilBert", "ForSequenceClassification", activation="relu")
    scores = {
        rule: attcat.Explainer(model, tokenizer("DistilBert"), method="cat", rule=rule)("the film was boring").layers
        for rule in ("ah_ln", "libra", "plain")
    }
    torch.testing.assert_close(scores["ah_ln"], scores["libra"], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(scores["ah_ln"], scores["plain"], rtol=1e-2, atol=1e-2)


def test_head(tmp_path: Path) -> None:
    """The page's head, which is the built-in one in short, explains as the built-in one does."""
    names = run("head", tmp_path)
    assert names["explainer"].adapter.head.task == "my choice"
    built_in = attcat.Explainer(chooser("BertForMultipleChoice"), wordpiece())
    assert built_in.adapter.head.task == "multiple choice"
    for number in range(2):
        mine, other = (explain((PROMPT, CHOICES), number) for explain in (names["explainer"], built_in))
        torch.testing.assert_close(mine.layers, other.layers)
        assert (mine.label, mine.probability) == (other.label, other.probability)


def test_family(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both adapters serve and pass the check; so does the command, and the entry point is one that is looked for."""
    names = run("family", tmp_path)
    assert all(found.passed is not False for found in check_adapter(names["model"], wordpiece()))
    seen = type("MyVisionModel", (timm.models.VisionTransformer,), {"__module__": "my_package"})
    picture = seen(img_size=32, patch_size=16, embed_dim=WIDTH, depth=2, num_heads=4, num_classes=3).eval()
    assert type(attcat.Explainer(picture).adapter) is names["MyVisionAdapter"]
    assert all(found.passed is not False for found in check_adapter(picture))
    (asked,) = commands(f"{FOLDER}/family.md")
    assert asked == ["attcat", "check", "DIR_OR_HUB_ID"]
    assert cli.run(["check", names["folder"]]) == 0
    (shipped,) = blocks(f"{FOLDER}/family.md", "toml")
    (points,) = tomllib.loads(shipped)["project"]["entry-points"].items()
    assert points == (registry.ENTRY_POINTS, {"my_package.MyEncoder": "my_package.explain:MyEncoderAdapter"})
    assert "my_package.MyEncoder" in registry._registered


def test_the_reference_of_adapters_says_what_describe_says() -> None:
    """The block of docs/adapters.md, with other numbers."""
    (shown,) = blocks("docs/adapters.md", "")
    told = attcat.Explainer(UNSEEN["electra"].model(), wordpiece()).describe()

    def numberless(text: str) -> str:
        return re.sub(r"\d+", "N", " ".join(text.split()))

    assert numberless(shown) == numberless(told)
    assert not blocks("docs/adapters.md")
    names = re.findall(r"^\| (`.*?) \|", (ROOT / "docs/adapters.md").read_text(encoding="utf-8"), re.MULTILINE)
    listed = [name for cell in names for name in re.findall(r"`(\w+)", cell)]
    assert len(listed) >= 12
    kinds = (attcat.VisionAdapter, attcat.TextAdapter)
    assert [name for name in listed if not any(hasattr(kind, name) for kind in kinds)] == []

"""The pages about methods and metrics of one's own run, block after block, with a small model."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from saved import save_text
from tasks_zoo import make
from tokenizers_small import wordpiece

from attcat.methods import METHODS
from attcat.metrics import METRICS

FOLDER = Path(__file__).parents[1] / "docs" / "extending"


@pytest.fixture(autouse=True)
def forgotten() -> Iterator[None]:
    """What a page registers is forgotten after it."""
    before = [(there, dict(there)) for there in (METRICS, METHODS)]
    yield
    for there, entries in before:
        there.clear()
        there.update(entries)  # type: ignore[arg-type]


@pytest.mark.parametrize(("name", "blocks"), [("metric", 3), ("method", 3)])
def test_the_page_runs(name: str, blocks: int, tmp_path: Path) -> None:
    page = (FOLDER / f"{name}.md").read_text(encoding="utf-8")
    found = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    assert len(found) == blocks
    names: dict[str, Any] = {
        "model": make("Bert", "ForSequenceClassification"),
        "tokenizer": wordpiece(),
        "folder": str(save_text(tmp_path / "model")),
        "data": str(tmp_path / "data.tsv"),
        "output": str(tmp_path / "out"),
    }
    Path(names["data"]).write_text("a gripping film\nthe film was not boring\n", encoding="utf-8")
    for block in found:
        exec(block, names)
    if name == "metric":
        assert "halved" in (tmp_path / "out" / "table.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["metric", "method"])
def test_the_page_fits_a_screen_or_two(name: str) -> None:
    assert len((FOLDER / f"{name}.md").read_text(encoding="utf-8").splitlines()) < 80

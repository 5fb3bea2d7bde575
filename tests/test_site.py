"""The documentation as a site: it builds without a warning, and every example on it is run by some test."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
import saved
import transformers
from pages import ROOT, blocks
from tasks_zoo import make, redraw, tokenizer

import attcat

RUN = {
    "README.md": "test_readme.py",
    "docs/tasks.md": "test_docs.py",
    "docs/service.md": "test_docs.py",
    "docs/scale.md": "test_batch.py",
    "docs/index.md": "test_site.py",
    "docs/pypi.md": "test_site.py",
    "docs/method.md": "test_site.py",
    "docs/methods.md": "test_site.py",
    "docs/metrics.md": "test_site.py",
    "docs/mixed.md": "test_mixed.py",
    **{f"docs/extending/{name}.md": "test_extending.py" for name in ("family", "head", "method", "metric", "rule")},
}
"""From a page with Python on it to the test that runs it."""


def test_every_page_with_examples_is_run() -> None:
    pages = [path.relative_to(ROOT).as_posix() for path in (ROOT / "README.md", *(ROOT / "docs").rglob("*.md"))]
    assert {page for page in pages if blocks(page)} == set(RUN)
    for page, test in RUN.items():
        assert Path(page).stem in (ROOT / "tests" / test).read_text(encoding="utf-8")


@pytest.mark.parametrize("page", [page for page, test in RUN.items() if test == "test_site.py"])
def test_the_examples_run(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    saved.save_picture(tmp_path / "photo.jpg")
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
    vision = transformers.ViTConfig(image_size=32, patch_size=8, **sizes)
    model, texts = make("Bert", "ForSequenceClassification"), ["a gripping film", "boring"]
    names = {
        "attcat": attcat,
        "model": model,
        "tokenizer": tokenizer("Bert"),
        "processor": tokenizer("Bert"),
        "vision_model": redraw(transformers.ViTForImageClassification(vision)),
        "image_processor": transformers.ViTImageProcessorPil(size={"height": 32, "width": 32}),
        "texts": texts,
        "scores": [np.arange(len(tokenizer("Bert")(text)["input_ids"])) for text in texts],
    }
    for block in blocks(page):
        exec(block, names)


def test_the_site_builds_and_no_link_is_broken(tmp_path: Path) -> None:
    pytest.importorskip("furo", reason="the site's theme is not installed: pip install 'attcat[docs]'")
    command = [sys.executable, "-m", "sphinx", "--quiet", "--fail-on-warning", "--builder", "html"]
    done = subprocess.run(
        [*command, "-d", str(tmp_path / "cache"), "docs", str(tmp_path / "site")],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "site" / "api.html").read_text(encoding="utf-8")
    assert 'id="attcat.Explainer"' in page
    assert 'src="http' not in page  # nothing comes from outside
    assert "_static" in page


def test_the_package_page_has_no_maths_and_no_relative_picture() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    page = (ROOT / project["readme"]).read_text(encoding="utf-8")
    assert "$" not in page
    assert "](docs" not in page
    assert "<img" not in page

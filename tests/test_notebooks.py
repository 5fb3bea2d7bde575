"""The demos' notebooks run, and say what their kept output says.

Their cells run here in one process, as four kernels would import torch four times; `make notebooks` (tests/notebooks.py) executes
them as Jupyter does, and writes their output.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from test_demos import needs

from attcat.demos import embedded, explain_llm
from attcat.model import registry

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "demos").glob("*.ipynb"))
GEMMA = ROOT / "out" / explain_llm.FILE


def code(path: Path) -> list[Any]:
    return [cell for cell in json.loads(path.read_text(encoding="utf-8"))["cells"] if cell["cell_type"] == "code"]


def evaluated(source: str, names: dict[str, Any]) -> Any:
    """As a cell is run: the value of the last line, if it is an expression."""
    tree = ast.parse(source)
    last = tree.body.pop() if isinstance(tree.body[-1], ast.Expr) else None
    exec(compile(tree, "cell", "exec"), names)
    return None if last is None else eval(compile(ast.Expression(last.value), "cell", "eval"), names)


def agrees(said: str, kept: str) -> bool:
    """The same, up to the rounding of another machine."""
    number = r"[-+]?\d+(?:\.\d+)?"
    same = re.split(number, said) == re.split(number, kept)
    return same and [float(n) for n in re.findall(number, said)] == pytest.approx(
        [float(n) for n in re.findall(number, kept)], rel=0.02, abs=0.02
    )


@pytest.fixture
def _forgets() -> Iterator[None]:
    known = dict(registry._registered)
    yield
    registry._registered.clear()
    registry._registered.update(known)


def test_there_is_one_for_each_use() -> None:
    assert [path.stem for path in NOTEBOOKS] == ["generation", "image", "new_architecture", "text"]


@pytest.mark.usefixtures("_forgets")
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_notebook_says_what_it_said(
    path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    if path.stem == "generation" and not GEMMA.exists():
        pytest.skip(f"make demo-llm has not put {GEMMA} together")
    for model in (embedded.sentiment, embedded.objects):
        needs(model)
    names: dict[str, Any] = {"__name__": "__main__"}
    for cell in code(path):
        value = evaluated("".join(cell["source"]), names)
        printed = "".join("".join(out["text"]) for out in cell["outputs"] if out["output_type"] == "stream")
        assert agrees(capsys.readouterr().out, printed)
        shown = next((out["data"] for out in cell["outputs"] if out["output_type"] == "execute_result"), None)
        assert (value is None) == (shown is None)
        if shown is not None:
            assert agrees(repr(value), "".join(shown["text/plain"]))
            assert hasattr(value, "_repr_html_") == ("text/html" in shown)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_output_is_kept_small_and_clean(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.encode()) < 300_000
    assert str(ROOT) not in text
    assert [cell["execution_count"] for cell in code(path)] == [*range(1, len(code(path)) + 1)]
    assert not [out for cell in code(path) for out in cell["outputs"] if out.get("name") == "stderr"]
    assert not [out for cell in code(path) for out in cell["outputs"] if out["output_type"] == "error"]

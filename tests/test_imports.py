"""Who may know whom: the rooms of the house, read off the syntax trees; and what `import attcat` costs."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import house
import pytest

ROOT = Path(__file__).parent.parent
CORE = sorted((ROOT / "attcat").rglob("*.py"))
ADAPTERS = sorted((ROOT / "adapters").glob("*.py"))
FAMILIES = ("bert", "gpt", "vit", "deit", "dino", "llama", "clip", "swin", "eva", "timm", "transformers")
HOUSE = "attcat.adapters", "attcat.demos"


def imports(path: Path) -> Iterator[tuple[str, int]]:
    """Every module that a file imports, wherever in it, with the number of leading dots."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, 0) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            yield module, node.level
            yield from ((f"{module}.{alias.name}", node.level) for alias in node.names if module)


def shown(path: Path) -> str:
    return str(path.relative_to(ROOT))


@pytest.mark.parametrize("path", CORE, ids=shown)
def test_the_core_knows_no_model_library(path: Path) -> None:
    assert {name.partition(".")[0] for name, level in imports(path) if not level}.isdisjoint({"transformers", "timm"})


def test_no_circle_and_no_arrow_back_up() -> None:
    assert house.circle(house.files()) == []
    assert house.circle(house.rooms()) == []


def test_a_circle_would_be_seen() -> None:
    """The measure itself: on a graph that has one, and on the floors of one that has none."""
    assert house.circle({"a": frozenset("b"), "b": frozenset("c"), "c": frozenset("a")}) == ["a", "b", "c", "a"]
    assert house.floors({"a": frozenset("bc"), "b": frozenset("c"), "c": frozenset()}) == {"a": 3, "b": 2, "c": 1}


def test_the_house_stays_small() -> None:
    graph = house.rooms()
    assert sum(map(len, graph.values())) < 110
    assert max(house.floors(graph).values()) <= 10


def test_the_house_is_drawn_in_contributing() -> None:
    """`python tests/house.py` makes the drawing; the table below it lists every room once."""
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    assert house.drawing() in page
    listed = re.findall(r"^\| `(?:attcat/)?(\w+)(?:/|\.py)` \|", page, re.MULTILINE)
    assert sorted("attcat" if name == "__init__" else name for name in listed) == sorted(house.rooms())


@pytest.mark.parametrize("name", [name for name in house.sources() if name.startswith("attcat.")])
def test_the_core_never_looks_up(name: str) -> None:
    """`adapters -> attcat`, never back; the command line is the roof."""
    up = [target for target in house.files()[name] if target.startswith((*HOUSE, "attcat.cli"))]
    assert not up or house.room(name) in ("cli", "adapters", "demos")


@pytest.mark.parametrize("name", [name for name in house.sources() if house.room(name) != "cli"])
def test_imports_inside_functions_are_of_other_people(name: str) -> None:
    """They keep optional packages optional and the start fast; a room of our own is imported at the top of the file.

    The command line may wait with its own rooms until a command needs them.
    """
    path = house.sources()[name]
    tree = ast.parse(path.read_text(encoding="utf-8"))
    functions = [node for node in ast.walk(tree) if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]
    inside = [node for function in functions for node in ast.walk(function) if isinstance(node, ast.stmt)]
    assert list(house.imported(name, path, inside)) == []


@pytest.mark.parametrize("path", sorted((ROOT / "attcat" / "cli").glob("*.py")), ids=shown)
def test_the_command_line_looks_up_only_when_it_must(path: Path) -> None:
    """At the top of its files nothing of adapters or demos is imported."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    top = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
    assert not [node.module for node in top if (node.module or "").startswith(HOUSE)]


@pytest.mark.parametrize("path", sorted((ROOT / "attcat" / "methods").glob("*.py")), ids=shown)
def test_methods_name_no_family(path: Path) -> None:
    names = {
        getattr(node, "id", None)
        or getattr(node, "attr", None)
        or getattr(node, "name", None)
        or getattr(node, "arg", None)
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
    }
    words = {word for name in names if isinstance(name, str) for word in name.lower().split("_")}
    assert words.isdisjoint(FAMILIES)


@pytest.mark.parametrize("path", sorted((ROOT / "attcat" / "render").glob("*.py")), ids=shown)
def test_drawing_runs_no_model(path: Path) -> None:
    rooms = {name.partition(".")[0] for name, level in imports(path) if level == 2}
    assert rooms <= {"attribution", "errors", "files", "tokens"}


@pytest.mark.parametrize("path", ADAPTERS, ids=shown)
def test_adapters_import_siblings_relatively_and_the_core_absolutely(path: Path) -> None:
    for name, level in imports(path):
        assert level < 2
        assert not name.startswith(("adapters", *HOUSE)), f"{path.name} imports {name}: write a relative import"
        assert "methods" not in name
        assert "render" not in name


def test_every_adapter_that_is_announced_exists() -> None:
    from importlib.metadata import entry_points

    import attcat

    for point in entry_points(group="attcat.adapters"):
        adapter = point.load()
        assert issubclass(adapter, attcat.Adapter)
        assert adapter.family


def test_import_is_light() -> None:
    """Neither the library nor the command line imports what only some users have."""
    heavy = ["transformers", "timm", "cv2", "onnx", "captum", "huggingface_hub", "rich", "typer"]
    program = f"""
import json, sys
import attcat
library = [name for name in {heavy} if name in sys.modules]
import attcat.cli
assert attcat.cli.run(["adapters"]) == 0
command = [name for name in {heavy} if name in sys.modules]
import attcat.explainer
print(json.dumps([library, command, "scipy.stats" in sys.modules]))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120, check=True)
    library, command, statistics = json.loads(done.stdout.splitlines()[-1])
    assert library == []
    assert set(command) <= {"rich", "typer"}
    assert not statistics  # half a second of every start, for one quantile

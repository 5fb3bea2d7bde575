"""The rooms of the house and the arrows between them, read off the syntax trees; `python tests/house.py` draws them.

A room is a folder of `attcat/` or a file that lies in it; `adapters/` and `demos/` are rooms too. An arrow says that a room
imports from another, wherever the import stands, also for type checking alone. Floors count from the ground: a room
stands one floor above the highest that it imports from.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parent.parent
Graph = Mapping[str, frozenset[str]]
PLACES = {"attcat.adapters": "adapters", "attcat.demos": "demos"}
"""Packages that lie elsewhere than their name says."""
DOORS = {"attcat.__main__": "attcat.cli", "attcat.batch": "attcat.explainer"}
"""Modules that do nothing but open a room."""


@cache
def sources() -> dict[str, Path]:
    """Every module by its dotted name."""
    found = {}
    for top, prefix in (("attcat", ""), ("adapters", "attcat."), ("demos", "attcat.")):
        for path in sorted((ROOT / top).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            found[prefix + ".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def imported(name: str, path: Path, nodes: list[ast.stmt] | None = None) -> Iterator[str]:
    """The modules of the house that a file imports, wherever in it, or in some of its statements."""
    modules = sources()
    package = name if path.name == "__init__.py" else name.rpartition(".")[0]
    walked = ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if nodes is None else iter(nodes)
    for node in walked:
        if isinstance(node, ast.Import):
            candidates = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            module = ".".join([*base, *([node.module] if node.module else [])])
            candidates = [
                f"{module}.{alias.name}" if f"{module}.{alias.name}" in modules else module for alias in node.names
            ]
        else:
            continue
        yield from (module for module in candidates if module in modules and module != name)


@cache
def files() -> Graph:
    """From each module to those that it imports."""
    return {name: frozenset(imported(name, path)) for name, path in sources().items()}


def room(module: str) -> str:
    """The room of a module: `capture` of `attcat.capture.rules`, `adapters` of `attcat.adapters.bert`."""
    parts = DOORS.get(module, module).split(".")
    return parts[1] if len(parts) > 1 else "attcat"


@cache
def rooms() -> Graph:
    """From each room to those that it imports from."""
    found: dict[str, set[str]] = {}
    for module, targets in files().items():
        found.setdefault(room(module), set()).update(room(target) for target in targets)
    return {name: frozenset(targets - {name}) for name, targets in found.items()}


def circle(graph: Graph) -> list[str]:
    """A way that comes back to its beginning; empty if there is none."""
    done: set[str] = set()

    def walk(name: str, way: list[str]) -> list[str]:
        if name in way:
            return [*way[way.index(name) :], name]
        if name in done:
            return []
        for target in sorted(graph.get(name, ())):
            if found := walk(target, [*way, name]):
                return found
        done.add(name)
        return []

    return next((found for name in sorted(graph) if (found := walk(name, []))), [])


def floors(graph: Graph) -> dict[str, int]:
    """The floor of each room, 1 for those that import nothing; the graph has no circle."""
    found: dict[str, int] = {}

    def floor(name: str) -> int:
        if name not in found:
            found[name] = 1 + max((floor(target) for target in graph[name]), default=0)
        return found[name]

    for name in graph:
        floor(name)
    return found


def drawing() -> str:
    """The house from the top floor down, a line for each floor, as CONTRIBUTING.md shows it."""
    graph = rooms()
    by_floor: dict[int, list[str]] = {}
    for name, floor in floors(graph).items():
        by_floor.setdefault(floor, []).append(name)
    lines = [f"{floor:>2}  {'   '.join(sorted(by_floor[floor]))}" for floor in sorted(by_floor, reverse=True)]
    return "\n".join([*lines, f"    {len(graph)} rooms, {sum(map(len, graph.values()))} arrows, none of them up"])


if __name__ == "__main__":
    print(drawing())

"""What is installed: nothing forgotten, nothing under a name that belongs to others."""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

import attcat

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
TOOLS = PROJECT["tool"]
TOOL = TOOLS["setuptools"]


def folder(package: str) -> Path:
    """Where a package's files are in the repository."""
    places = TOOL["package-dir"]
    name = max((name for name in places if package == name or package.startswith(f"{name}.")), key=len)
    return ROOT / places[name] / package.removeprefix(name).replace(".", "/").strip("/")


def test_every_package_is_installed_inside_attcat() -> None:
    found = {path.parent for top in ("attcat", "adapters", "demos") for path in (ROOT / top).rglob("__init__.py")}
    assert {folder(package) for package in TOOL["packages"]} == found
    assert all(package == "attcat" or package.startswith("attcat.") for package in TOOL["packages"])


def test_every_data_file_is_installed() -> None:
    for package, patterns in TOOL["package-data"].items():
        for pattern in patterns:
            assert list(folder(package).glob(pattern)), f"{package}: nothing matches {pattern}"
    demos = folder("attcat.demos")
    data = {path for path in demos.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")}
    assert data == {path for pattern in TOOL["package-data"]["attcat.demos"] for path in demos.glob(pattern)}


def test_every_entry_point_exists() -> None:
    points = [*PROJECT["project"]["entry-points"]["attcat.adapters"].values(), *PROJECT["project"]["scripts"].values()]
    for point in points:
        module, _, name = point.partition(":")
        source = folder(module.rpartition(".")[0]) / f"{module.rpartition('.')[2]}.py"
        source = source if source.exists() else source.with_suffix("") / "__init__.py"
        assert re.search(rf"^(class|def) {name}\b", source.read_text(encoding="utf-8"), re.MULTILINE), point


def test_one_version() -> None:
    assert PROJECT["project"]["version"] == attcat.__version__
    assert f"## {attcat.__version__}" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_every_dependency_is_justified() -> None:
    project = PROJECT["project"]
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    names = {re.split(r"[<>=\[]", line)[0] for group in groups for line in group} - {"attcat"}
    told = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").partition("## Dependencies")[2]
    assert not [name for name in names if not re.search(rf"\b{name}\b", told)]
    pinned = {line.partition("==")[0] for line in (ROOT / "constraints.txt").read_text().splitlines() if "==" in line}
    assert names <= pinned


def test_the_readme_leads_somewhere() -> None:
    from attcat.model import GUIDE

    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    anchors = {heading.lower().replace(" ", "-") for heading in re.findall(r"^#+ (.+)$", readme, re.MULTILINE)}
    assert GUIDE.partition("#")[2] in anchors
    links = re.findall(r'(?:\]\(|src=")(?!https?:)([^)"#]+)', readme)
    assert not [link for link in links if not (ROOT / link).exists()]
    assert not [link for link in links if link.endswith(".png") and (ROOT / link).stat().st_size > 300_000]
    for module in re.findall(r"python -m attcat\.([\w.]+)", readme):
        assert (ROOT / f"{module.replace('.', '/')}.py").exists()


def test_the_readme_quotes_the_coverage_that_is_demanded() -> None:
    """Of every change: what CI runs fails below it."""
    demanded = TOOLS["coverage"]["report"]["fail_under"]
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert re.findall(r"at least ([\d.]+) % of the lines and branches", readme) == [str(demanded)]
    assert TOOLS["coverage"]["run"] == {"branch": True, "source": ["attcat", "adapters"], "omit": ["attcat/demos/*"]}
    assert "make coverage" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    recipe = (ROOT / "Makefile").read_text(encoding="utf-8").partition("\ncoverage:")[2].partition("\n\n")[0]
    assert " --cov " in recipe
    assert "fail-under" not in recipe


def test_every_promise_has_its_test() -> None:
    """What the pages of promises name is there: tests, files of tests, targets of make."""
    tests = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("*.py")}
    functions = set(re.findall(r"^def (test_\w+)", "\n".join(tests.values()), re.MULTILINE))
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for page in ("promises", "service"):
        text = (ROOT / "docs" / f"{page}.md").read_text(encoding="utf-8")
        named = set(re.findall(r"`(test_\w+)`", text))
        assert named
        assert named <= functions
        files = re.findall(r"`(tests/[\w./]+)`", text)
        assert [file for file in files if not (ROOT / file).exists()] == []
        assert set(re.findall(r"`make ([a-z-]+)", text)) <= targets


def test_the_readme_knows_the_options() -> None:
    from typer.main import get_command

    from attcat.cli import app

    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    lines = re.findall(r"^attcat (\w+)(.*)$", readme, re.MULTILINE)
    commands = get_command(app).commands  # type: ignore[attr-defined]
    for name, rest in lines:
        known = {option for parameter in commands[name].params for option in parameter.opts}
        assert set(re.findall(r" (--\w[\w-]*)", rest)) <= known
    assert {name for name, rest in lines if "--" in rest} >= {"explain", "compare", "evaluate"}


def test_a_type_checker_sees_the_editable_install() -> None:
    """What mypy finds in this environment's site-packages, without being told where the repository is."""
    from mypy.modulefinder import FindModuleCache, SearchPaths, get_search_dirs

    path, packages = get_search_dirs(sys.executable)
    finder = FindModuleCache(SearchPaths((), (), (*packages, *path), ()), None, None)
    for module in ("attcat", "attcat.explainer.explainer", "attcat.adapters.bert", "attcat.demos.embedded"):
        found = finder.find_module(module)
        assert isinstance(found, str), f"{module}: {found}"
        assert Path(found).resolve().is_relative_to(ROOT)

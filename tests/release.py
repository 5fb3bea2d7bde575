"""What is missing before the package can be published: `make release`, after the package was built and checked."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]


def missing() -> Iterator[str]:
    """One line for each thing that has to be done."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    version, page = project["version"], (ROOT / project["readme"]).read_text(encoding="utf-8")
    changes = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    if not re.search(rf"^## {re.escape(version)} \(\d{{4}}-\d\d-\d\d\)$", changes, re.MULTILINE):
        yield f"CHANGELOG.md: give {version} its date"
    if not project.get("urls"):
        yield "pyproject.toml: [project.urls] with the repository and the documentation"
    if re.search(r"!\[[^]]*\]\((?!https:)", page):
        yield f"{project['readme']}: pictures need absolute addresses on the package index"
    if git("status", "--porcelain"):
        yield "git: commit what is changed"
    if f"v{version}" not in git("tag", "--points-at", "HEAD").split():
        yield f"git: tag this commit v{version}"


def git(*arguments: str) -> str:
    """What git says."""
    return subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True).stdout


if __name__ == "__main__":
    found = list(missing())
    print("\n".join(f"missing: {line}" for line in found) or "nothing is missing: twine upload dist/*")
    sys.exit(bool(found))

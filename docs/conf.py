"""The documentation as a site, built by Sphinx: `make docs`. Needs no network; a broken link fails."""

from __future__ import annotations

import posixpath
import re
from typing import Any

import attcat

project = "AttCAT"
author = "the AttCAT developers"
version = release = attcat.__version__
language = "en"

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["pypi.md"]  # for the package index
html_theme = "furo"
html_title = "AttCAT"
myst_heading_anchors = 3
default_role = "code"  # docstrings write `name` for code, as the pages do
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_default_options = {"members": True, "inherited-members": "tuple"}
napoleon_use_ivar = True
napoleon_use_rtype = False


def lead_nowhere(app: Any, name: str, source: list[str]) -> None:
    """Links to files of the repository that are no pages become the files' names: the site holds this folder only."""

    def replaced(found: re.Match[str]) -> str:
        text, target = found.groups()
        path = posixpath.normpath(posixpath.join("docs", posixpath.dirname(name), target.partition("#")[0]))
        if path.startswith("docs/"):
            return found[0]
        return text if path in text else f"{text} (`{path}`)"

    source[0] = re.sub(r"\[([^\]]*)\]\((\.\./[^)]*)\)", replaced, source[0])


def show_code(app: Any, what: str, name: str, thing: Any, options: Any, lines: list[str]) -> None:
    """Indented lines in the text of a docstring are code, as in Markdown."""
    end = next((at for at, line in enumerate(lines) if line in ("Args:", "Returns:", "Raises:")), len(lines))
    for at in range(end - 1, 0, -1):
        if lines[at].startswith("    ") and not lines[at - 1].strip():
            lines[at:at] = ["::", ""]


def setup(app: Any) -> None:
    """Called by Sphinx."""
    app.connect("autodoc-process-docstring", show_code, priority=100)  # before napoleon reads the sections
    app.connect("source-read", lead_nowhere)

"""The code blocks of a page in Markdown: what the documentation tells people to run."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

ROOT = Path(__file__).parents[1]


def blocks(page: str, language: str = "python") -> list[str]:
    """The fenced blocks of one language, in order; the path is that from the root of the repository."""
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), flags=re.DOTALL)


def commands(page: str) -> list[list[str]]:
    """The shell lines, split as a shell does: without comments, lines joined after a backslash, variables filled in."""
    found, variables = [], {}
    for block in blocks(page, "sh"):
        for line in block.replace("\\\n", " ").splitlines():
            filled = re.sub(r"\$(\w+)", lambda name: variables[name[1]], line)
            words = shlex.split(filled, comments=True)
            if len(words) == 1 and (given := re.fullmatch(r"(\w+)=(.*)", words[0])):
                variables[given[1]] = given[2]
            elif words:
                found.append(words)
    return found

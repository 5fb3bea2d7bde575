"""Execute the demos' notebooks, each in a kernel of its own, and keep what they show: `make notebooks`.

Nothing of the machine and the moment is kept: no times, no paths, no warnings. A notebook whose model is not installed is left
as it is, and named.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

from attcat.demos.explain_llm import PARTS, files_of

ROOT = Path(__file__).parents[1]
LARGEST = 300_000
"""Bytes of a notebook with its output."""


def executed(path: Path) -> Any:
    """The notebook with its output, which an error ends."""
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(notebook, timeout=600, record_timing=False, resources={"metadata": {"path": str(ROOT)}})
    client.execute()
    for cell in notebook.cells:
        cell.metadata.clear()
        if cell.cell_type == "code":
            cell.outputs = [out for out in cell.outputs if out.get("name") != "stderr"]
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    return notebook


def main() -> None:
    """Write them all, or those that are named."""
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    for path in [Path(name).resolve() for name in sys.argv[1:]] or sorted((ROOT / "demos").glob("*.ipynb")):
        if path.stem == "generation" and files_of(PARTS[0]) is None:
            print(f"left as it is: {path.name}, whose model is not installed (make demo-llm)")
            continue
        text = nbformat.writes(executed(path)) + "\n"
        if str(ROOT) in text or len(text.encode()) > LARGEST:
            sys.exit(f"{path.name}: holds {ROOT}, or is larger than {LARGEST} bytes: {len(text.encode())}")
        path.write_text(text, encoding="utf-8")
        print(f"wrote {path.relative_to(ROOT)}: {len(text.encode()) // 1000} kB")


if __name__ == "__main__":
    main()

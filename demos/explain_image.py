"""Which part of a picture led a vision transformer to its prediction?

    python -m attcat.demos.explain_image photo.jpg --output out

Runs offline, with the embedded DINOv2 that names ten everyday objects.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

import attcat

from .embedded import objects

PICTURE = Path(__file__).parent / "images" / "dog.jpg"


def main(arguments: Sequence[str] | None = None) -> None:
    """Explain one picture: shown in the terminal, read in Python, and written as a figure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("picture", nargs="?", type=Path, default=PICTURE)
    parser.add_argument("--output", type=Path, default=Path("out"), help="folder for the figure (default: out)")
    given = parser.parse_args(arguments)

    model, processor = objects()
    explanation = attcat.Explainer(model, processor)(given.picture)
    explanation.show()

    # The heatmap has the size of the picture itself; where the processor cropped, it is NaN.
    heatmap = explanation.heatmap()
    row, column = np.unravel_index(np.nanargmax(heatmap), heatmap.shape)
    print(f"\nWhat speaks most for {explanation.label!r} is around pixel {column} from the left, {row} from the top.")

    print(f"wrote {explanation.save(given.output / f'{given.picture.stem}.png')}")


if __name__ == "__main__":
    main()

"""All photographs on one sheet, each under its heatmap: whether explanations look right is judged by looking.

    python -m attcat.demos.contact_sheet --output docs/contact_embedded.jpg
    python -m attcat.demos.contact_sheet DATA/photos.zip --output docs/contact_photographs.jpg
    python -m attcat.demos.contact_sheet DATA/photos.zip --against attcat --output docs/outliers.jpg

For each photograph a line says how many patches speak visibly for the class, and the last line names those that are classified
right above 80 % and show nothing for it.

Without an archive, the photographs that come with the package. With ``--against`` a method, its maps above, those of the default
below, of the six (``--most``) on which one patch takes the most of that method's magnitude. Every picture has a scale of its own,
as it has when it is explained alone.
"""

from __future__ import annotations

import argparse
import io
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from PIL import Image

import attcat
from attcat.files import encode_jpeg, write_atomically
from attcat.render import image, wording

from .embedded import HERE, objects

ACROSS, SIDE = 6, 208
"""Panels in a row, and pixels of a panel's longest side."""

SURE, VISIBLE = 0.8, 0.5
"""A prediction should show what speaks for it above this probability: patches that have this part of the full colour."""


def photographs(archive: Path | None) -> Iterator[tuple[str, Image.Image]]:
    """Name and picture: of the package, or all under `labelled/CLASS/` in an archive."""
    if archive is None:
        for path in sorted((HERE / "images").glob("*.jpg")):
            yield path.stem, Image.open(io.BytesIO(path.read_bytes()))
        return
    with zipfile.ZipFile(archive) as opened:
        for name in sorted(opened.namelist()):
            place = PurePosixPath(name)
            if "labelled" in place.parts and place.suffix == ".jpg":
                yield f"{place.parent.name}: {place.stem}", Image.open(io.BytesIO(opened.read(name)))


def tile(name: str, explanation: attcat.Explanation) -> Image.Image:
    """The overlay, under it the name and what was predicted, in a square of its own."""
    drawn = Image.fromarray(image.overlay(image.sized(explanation, SIDE, SIDE)))
    chance = "" if explanation.probability is None else f" {explanation.probability:.0%}"
    lines = [image.line(name, SIDE, size=14), image.line(explanation.label + chance, SIDE, size=14, ink=image.PALE)]
    square = Image.new("RGB", (SIDE, SIDE), image.PAPER)
    square.paste(drawn, ((SIDE - drawn.width) // 2, SIDE - drawn.height))
    return image.stack([square, *lines], gap=2)


def largest(explanation: attcat.Explanation) -> float:
    """The share of the patches' magnitude that falls on one of them, 0 to 1."""
    patches = [
        abs(value)
        for value, special in zip(explanation.scores.tolist(), explanation.tokens.special, strict=True)
        if not special
    ]
    return float(max(patches) / sum(patches))


def evidence(explanation: attcat.Explanation) -> int:
    """How many patches speak visibly for the class: those that have at least half of the full colour."""
    return int((explanation.grid >= VISIBLE * wording.scale(explanation)).sum())


def bare(found: Sequence[tuple[str, attcat.Explanation]]) -> list[str]:
    """Prints the evidence on each photograph; returns those that are classified right, surely, and show none."""
    lacking = []
    for name, one in found:
        print(f"{name}: {one.label} {one.probability or 0:.0%}, {evidence(one)} of {one.grid.numel()} patches for it")
        right = one.label == name.partition(":")[0]  # the class, or the class and the file
        if right and (one.probability or 0) > SURE and not evidence(one):
            lacking.append(name)
    return lacking


def outliers(
    pictures: Sequence[tuple[str, Image.Image]], explainer: attcat.Explainer, method: str, most: int
) -> Image.Image:
    """So many on which one patch takes the most, by this method and by the explainer; prints the shares."""
    other = attcat.Explainer(explainer.adapter, method=method)
    both = [(name, other(picture), explainer(picture)) for name, picture in pictures]
    both.sort(key=lambda one: -largest(one[1]))
    for name, before, after in both[:most]:
        print(f"{name}: {largest(before):.1%} of the magnitude on one patch, now {largest(after):.1%}")
    means = [
        sum(largest(one) for one in side) / len(both) for side in ([b for _, b, _ in both], [a for _, _, a in both])
    ]
    print(f"mean of {len(both)}: {means[0]:.1%}, now {means[1]:.1%}")
    pairs = [image.stack([tile(name, before), tile(name, after)], gap=12) for name, before, after in both[:most]]
    return in_rows(pairs)


def in_rows(tiles: Sequence[Image.Image]) -> Image.Image:
    """Tiles beside and under one another."""
    rows = [image.beside(tiles[start : start + ACROSS], gap=10) for start in range(0, len(tiles), ACROSS)]
    return image.stack(rows, gap=12)


def main(arguments: Sequence[str] | None = None) -> int:
    """Draw the sheet; returns how many photographs are on it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("archive", type=Path, nargs="?")
    parser.add_argument("--output", type=Path, default=Path("contact.jpg"))
    parser.add_argument("--against", metavar="METHOD", help="show where one patch of this method takes the most")
    parser.add_argument("--most", type=int, default=ACROSS, help="how many of these")
    given = parser.parse_args(arguments)
    explainer = attcat.Explainer(*objects())
    pictures = list(photographs(given.archive))
    if given.against:
        sheet, count = outliers(pictures, explainer, given.against, given.most), min(given.most, len(pictures))
    else:
        found = [(name, explainer(picture)) for name, picture in pictures]
        print(f"right above {SURE:.0%} without evidence: {', '.join(bare(found)) or 'none'}")
        tiles = [tile(name, explanation) for name, explanation in found]
        sheet, count = in_rows(tiles), len(tiles)
    write_atomically(given.output, encode_jpeg(image.framed(sheet), quality=72))
    print(f"wrote {given.output}: {count} photographs")
    return count


if __name__ == "__main__":
    main()

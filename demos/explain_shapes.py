"""Three questions about one picture: the map and the words that decide move with the question.

    python -m attcat.demos.explain_shapes [--output docs]

Writes shapes.png: the picture, and for each question what the model answers, where on the picture and in which words it found it.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

import attcat
from attcat.render.colour import FULL, WHITE, hue, mix
from attcat.render.image import tinted

from .embedded import shapes
from .shapes import SIDE, Question, Scene, prompt, scenes

SEED, LARGE, MARGIN, LINE = 3, 4, 16, 26
"""Of the pictures; how many times larger one is drawn; pixels."""
KINDS = ("colour", "shape")
"""Not those of how many: a shape speaks for one number and against another, so that red is not where the shapes are."""


def chosen(explain: attcat.Explainer) -> tuple[Scene, list[tuple[Question, attcat.Explanation]]]:
    """The first picture of four or five shapes with three questions about different shapes, all answered right."""
    for scene in scenes(SEED, 1000):
        found: list[tuple[Question, attcat.Explanation]] = []
        for question in scene.questions if len(scene.shapes) > 3 else ():
            if question.kind not in KINDS:
                continue
            boxes = set(question.boxes)
            if len(found) == 3 or any(boxes & set(one.boxes) for one, _ in found):
                continue
            explanation = explain((scene.picture, prompt(question)))
            if explanation.label.strip() == question.answer:
                found.append((question, explanation))
        if len(found) == 3:
            return scene, found
    raise AssertionError("no picture of which three questions are answered right")


def drawn(scene: Scene, rows: Sequence[tuple[Question, attcat.Explanation]]) -> Image.Image:
    """The picture beside one map for each question, with the question's words in the colours of their scores.

    Patches and words of a question share one scale: equal colours are equal scores.
    """
    side = SIDE * LARGE
    canvas = Image.new("RGB", ((side + MARGIN) * (len(rows) + 1) + MARGIN, side + 5 * LINE + 2 * MARGIN), "white")
    canvas.paste(Image.fromarray(scene.picture).resize((side, side), Image.Resampling.NEAREST), (MARGIN, MARGIN))
    pen, font = ImageDraw.Draw(canvas), ImageFont.load_default(17)
    for number, (question, explanation) in enumerate(rows, 1):
        left = MARGIN + number * (side + MARGIN)
        heat = explanation.heatmap(image=0)
        full = max(float(np.abs(heat).max()), *(abs(score) for _, score in asked(explanation)), 1e-9)
        canvas.paste(laid(scene.picture, heat / full, side), (left, MARGIN))
        end = words(pen, font, explanation, left, side, full)
        pen.text((left, end + LINE), f"{explanation.label}   {explanation.shares()}", "black", font)
        assert question.answer == explanation.label.strip()
    return canvas


def laid(picture: np.ndarray, signed: np.ndarray, side: int) -> Image.Image:
    """A map of -1 to 1 over the picture in grey, in the colours of every other picture of this library."""
    grey = (picture.mean(-1) * (205 / 255) + 40).astype(np.uint8)
    large = np.asarray(Image.fromarray(grey).resize((side, side), Image.Resampling.NEAREST))
    heat = Image.fromarray(signed.astype(np.float32)).resize((side, side), Image.Resampling.BILINEAR)
    return Image.fromarray(tinted(np.repeat(large[..., None], 3, axis=2), np.asarray(heat)))


def words(
    pen: ImageDraw.ImageDraw,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    explanation: attcat.Explanation,
    left: int,
    side: int,
    full: float,
) -> int:
    """Write the words under a map, on grounds in the colours of their scores; returns the last line's top."""
    across, down = left, side + MARGIN + 8
    for text, score in asked(explanation):
        width = int(pen.textlength(text, font))
        if across + width > left + side:
            across, down = left, down + LINE
        ground = mix(WHITE, hue(score), FULL * min(1, abs(score) / full))
        pen.rectangle((across - 2, down - 1, across + width + 2, down + LINE - 5), fill=ground)
        pen.text((across, down), text, "black", font)
        across += width + 9
    return down


def asked(explanation: attcat.Explanation) -> Iterator[tuple[str, float]]:
    """The words of the question with their scores, without the last two, after which the model answers."""
    every = explanation.words()
    yield from ((word.text, word.score) for word in every[:-2])


def main(arguments: Sequence[str] | None = None) -> None:
    """Explain, write the picture and say what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, default=Path())
    given = parser.parse_args(arguments)
    scene, rows = chosen(attcat.Explainer(*shapes()))
    given.output.mkdir(parents=True, exist_ok=True)
    drawn(scene, rows).save(given.output / "shapes.png")
    for question, explanation in rows:
        print(f"{question.text} {explanation.label}: {explanation.shares()}")


if __name__ == "__main__":
    main()

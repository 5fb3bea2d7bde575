"""Pictures of coloured shapes with questions about them, whose evidence is known: which pixels and which words decide the answer.

A picture shows two to five shapes of different colours on a plain ground. The question is about one of them, two of them or all
of one kind; a sentence in front of it, which may well name shapes and colours, is about nothing in the picture. So there are
patches and words that matter, and others beside them that do not, and both are known exactly.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

SIDE = 96
"""Pixels of a picture's side."""
CELLS = 4
"""Shapes lie in different cells of a lattice of so many rows and columns."""
SMOOTH = 3
"""A picture is drawn so many times larger, so that edges are smooth."""

COLOURS = {
    "red": (214, 40, 40),
    "green": (46, 160, 67),
    "blue": (36, 92, 214),
    "yellow": (245, 200, 24),
    "purple": (138, 63, 178),
    "orange": (240, 128, 24),
}
SHAPES = ("circle", "square", "triangle", "star")
NUMBERS = ("one", "two", "three", "four")
SIDES = ("left", "right", "above", "below")
REMARKS = (
    "the weather is nice today .",
    "my {colour} car is fast .",
    "i like {shape}s .",
    "a {colour} {shape} hangs in my room .",
    "please look closely .",
    "she drew {number} {shape}s at school .",
)

MARK = "<image>"
"""Where the picture stands in a prompt."""
BEFORE = len(MARK) + 1

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Shape:
    """One shape of a picture.

    Args:
        kind: one of `SHAPES`.
        colour: one of `COLOURS`.
        box: `(left, top, right, bottom)` in pixels.
    """

    kind: str
    colour: str
    box: Box

    @property
    def centre(self) -> tuple[float, float]:
        """Across and down, in pixels."""
        return (self.box[0] + self.box[2]) / 2, (self.box[1] + self.box[3]) / 2


@dataclass(frozen=True)
class Question:
    """A question about a picture, and what decides its answer.

    Args:
        text: a remark and the question.
        answer: one word.
        boxes: the shapes that decide it.
        spans: the characters of the words that decide it.
        kind: `colour`, `shape`, `count` or `side`: what is asked for.
        named: for each of these words the shapes that it names, if any.
    """

    text: str
    answer: str
    boxes: tuple[Box, ...]
    spans: tuple[tuple[int, int], ...]
    kind: str
    named: tuple[tuple[Shape, ...], ...]


@dataclass(frozen=True)
class Scene:
    """A picture, what is on it, and the questions that can be asked of it.

    Args:
        picture: uint8 `[SIDE, SIDE, 3]`.
        shapes: what is on it.
        questions: what can be asked.
    """

    picture: np.ndarray
    shapes: tuple[Shape, ...]
    questions: tuple[Question, ...]


def prompt(question: Question) -> str:
    """What the model reads, and after which it answers; `BEFORE` characters stand before the question."""
    return f"{MARK} {question.text} answer :"


def scenes(seed: int, count: int, start: int = 0) -> Iterator[Scene]:
    """So many pictures with their questions, from number `start` on; always the same for a seed."""
    for number in range(start, start + count):
        yield scene(np.random.default_rng((seed, number)))


def scene(random: np.random.Generator) -> Scene:
    """A picture and its questions."""
    shapes = _placed(random)
    asked = tuple(question for make in _KINDS for question in make(shapes, random))
    return Scene(draw(shapes, random), shapes, asked)


def _placed(random: np.random.Generator) -> tuple[Shape, ...]:
    """Two to five shapes in cells of their own. Half of the time several are of one kind, for the questions of how many."""
    count = int(random.integers(2, 6))
    cells = random.choice(CELLS * CELLS, count, replace=False)
    kinds = random.choice(SHAPES, count)
    if random.random() < 0.5:
        kinds[: int(random.integers(1, count + 1))] = random.choice(SHAPES)
    colours = random.choice(list(COLOURS), count)
    step = SIDE / CELLS
    found = []
    for cell, kind, colour in zip(cells.tolist(), kinds.tolist(), colours.tolist(), strict=True):
        size = random.uniform(0.7, 0.95) * step
        left = (cell % CELLS) * step + random.uniform(0, step - size)
        top = (cell // CELLS) * step + random.uniform(0, step - size)
        found.append(Shape(kind, colour, (left, top, left + size, top + size)))
    return tuple(found)


# -- drawing -----------------------------------------------------------------------------------------------------------


def draw(shapes: Sequence[Shape], random: np.random.Generator) -> np.ndarray:
    """uint8 `[SIDE, SIDE, 3]`: the shapes on a light ground of one colour."""
    ground = tuple(int(value) for value in random.integers(205, 256, 3))
    picture = Image.new("RGB", (SIDE * SMOOTH, SIDE * SMOOTH), ground)
    pen = ImageDraw.Draw(picture)
    for shape in shapes:
        box = tuple(edge * SMOOTH for edge in shape.box)
        if shape.kind == "circle":
            pen.ellipse(box, fill=COLOURS[shape.colour])
        else:
            pen.polygon(_corners(shape.kind, box), fill=COLOURS[shape.colour])
    return np.asarray(picture.resize((SIDE, SIDE), Image.Resampling.BOX))


def _corners(kind: str, box: Sequence[float]) -> list[tuple[float, float]]:
    left, top, right, bottom = box
    if kind == "square":
        return [(left, top), (right, top), (right, bottom), (left, bottom)]
    if kind == "triangle":
        return [((left + right) / 2, top), (right, bottom), (left, bottom)]
    across, down, radius = (left + right) / 2, (top + bottom) / 2, (right - left) / 2
    angles = np.arange(10) * np.pi / 5
    lengths = np.where(np.arange(10) % 2, 0.42, 1.0) * radius
    return list(zip(across + lengths * np.sin(angles), down - lengths * np.cos(angles), strict=True))


# -- questions ---------------------------------------------------------------------------------------------------------


def _asked(
    random: np.random.Generator, kind: str, text: str, words: Mapping[str, tuple[Shape, ...]], answer: str
) -> Question:
    """The question behind a remark; `words` are those of the question that decide, each with the shapes that it names."""
    remark = str(random.choice(REMARKS)).format(
        colour=random.choice(list(COLOURS)), shape=random.choice(SHAPES), number=random.choice(NUMBERS)
    )
    remark = remark.replace("a orange", "my orange")  # the model knows no "an"
    spans = []
    for word in words:
        found = re.search(rf"\b{word}\b", text)
        assert found is not None
        spans.append((len(remark) + 1 + found.start(), len(remark) + 1 + found.end()))
    named = tuple(words.values())
    boxes = tuple(shape.box for shapes in named for shape in shapes)
    return Question(f"{remark} {text}", answer, boxes, tuple(spans), kind, named)


def _alone(shapes: Sequence[Shape], of: Callable[[Shape], str]) -> list[Shape]:
    """The shapes that are the only ones of their kind, or colour."""
    every = [of(shape) for shape in shapes]
    return [shape for shape in shapes if every.count(of(shape)) == 1]


def _what_colour(shapes: Sequence[Shape], random: np.random.Generator) -> Iterator[Question]:
    for shape in _alone(shapes, lambda one: one.kind):
        text = f"what colour is the {shape.kind} ?"
        yield _asked(random, "colour", text, {"colour": (), shape.kind: (shape,)}, shape.colour)


def _what_shape(shapes: Sequence[Shape], random: np.random.Generator) -> Iterator[Question]:
    for shape in _alone(shapes, lambda one: one.colour):
        text = f"what shape is {shape.colour} ?"
        yield _asked(random, "shape", text, {"shape": (), shape.colour: (shape,)}, shape.kind)


def _how_many(shapes: Sequence[Shape], random: np.random.Generator) -> Iterator[Question]:
    for kind in dict.fromkeys(shape.kind for shape in shapes):
        every = tuple(shape for shape in shapes if shape.kind == kind)
        if len(every) <= len(NUMBERS):
            text = f"how many {kind}s are there ?"
            yield _asked(random, "count", text, {"many": (), f"{kind}s": every}, NUMBERS[len(every) - 1])


def _which_side(shapes: Sequence[Shape], random: np.random.Generator) -> Iterator[Question]:
    """At most three, where the answer can be seen at a glance: the centres are more than half a cell apart."""
    alone = _alone(shapes, lambda one: one.kind)
    for first, second in [(alone[i], alone[j]) for i, j in _pairs(len(alone), random)][:3]:
        side = str(random.choice(SIDES))
        axis, sign = (0 if side in ("left", "right") else 1, 1 if side in ("left", "above") else -1)
        apart = sign * (second.centre[axis] - first.centre[axis])
        if abs(apart) > SIDE / CELLS / 2:
            of = "of " if axis == 0 else ""
            text = f"is the {first.kind} {side} {of}the {second.kind} ?"
            words = {first.kind: (first,), side: (), second.kind: (second,)}
            yield _asked(random, "side", text, words, "yes" if apart > 0 else "no")


def _pairs(count: int, random: np.random.Generator) -> list[tuple[int, int]]:
    """Two different numbers below `count` in every order, shuffled."""
    every = [(i, j) for i in range(count) for j in range(count) if i != j]
    return [every[number] for number in random.permutation(len(every))]


_KINDS = (_what_colour, _what_shape, _how_many, _which_side)

WORDS = tuple(
    sorted(
        {
            *COLOURS,
            *SHAPES,
            *(f"{shape}s" for shape in SHAPES),
            *NUMBERS,
            *SIDES,
            *[
                "what",
                "colour",
                "is",
                "the",
                "shape",
                "how",
                "many",
                "are",
                "there",
                "of",
                "yes",
                "no",
                "?",
                ".",
                "answer",
                ":",
            ],
            *(word for remark in REMARKS for word in re.sub(r"\{\w+\}s?", "", remark).split()),
        }
    )
)
"""Every word that is asked or answered."""

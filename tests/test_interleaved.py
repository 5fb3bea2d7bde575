"""Words and patches in one sequence: what the result says about each, against answers that are known."""

from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch

import attcat
from attcat.attribution import Attribution
from attcat.tokens import Interleaved, Patches, Tokens, View

TEXT = "<image> what is this ? a"
WIDTH, HEIGHT = 90, 60


def mixed(scores: list[float], patches: tuple[Patches, ...], places: list[object], **changes: object) -> Attribution:
    """Patches first, then the words of `TEXT`; the last word was written by the model."""
    count = len(places)
    words = ["<image>", "what", "is", "this", "?", "a"][1:]
    ends = np.cumsum([len(word) + 1 for word in ["<image>", *words]])
    spans = [None] * count + [
        (int(end) - len(word) - 1, int(end) - 1) for word, end in zip(words, ends[1:], strict=True)
    ]
    pictures = 1 + max(one.picture for one in patches)
    source = Interleaved(TEXT, tuple(np.zeros((HEIGHT, WIDTH, 3), np.uint8) for _ in range(pictures)))
    tokens = Tokens(
        tuple(f"p{at}" for at in range(count)) + tuple(words),
        (False,) * count + (False, False, False, True, False),
        spans=tuple(spans),
        words=(None,) * count + tuple(range(5)),
        segments=(0,) * (count + 5),
        patches=patches,
        places=(*places, None, None, None, None, None),  # type: ignore[arg-type]
    )
    given = {
        "layers": torch.tensor([scores, [0.0] * len(scores)]),
        "tokens": tokens,
        "logits": torch.tensor([1.0, 0.0]),
        "target": 0,
        "labels": ("cat", "dog"),
        "method": "oddscat",
        "source": source,
        "start": count + 4,
        **changes,
    }
    return Attribution(**given)  # type: ignore[arg-type]


WHOLE = View(WIDTH, HEIGHT, (0, 0, WIDTH, HEIGHT))
GRID = (Patches(0, (2, 3), WHOLE),)
PLACES: list[object] = [(0, at) for at in range(6)]
WORDS = [1.0, 0.0, -2.0, 0.5, 0.25]


@pytest.mark.parametrize("cell", range(6))
def test_a_patch_lights_its_own_part_of_the_picture(cell: int) -> None:
    scores = [0.0] * 6
    scores[cell] = 3.0
    heat = mixed([*scores, *WORDS], GRID, PLACES).heatmap()
    assert heat.shape == (HEIGHT, WIDTH)
    row, column = divmod(cell, 3)
    assert heat[row * 30 + 15, column * 30 + 15] == pytest.approx(3.0, abs=0.2)
    assert np.unravel_index(heat.argmax(), heat.shape)[0] // 30 == row
    assert np.unravel_index(heat.argmax(), heat.shape)[1] // 30 == column


def test_the_order_of_the_tokens_is_not_that_of_the_cells() -> None:
    places: list[object] = [(0, 5 - at) for at in range(6)]
    heat = mixed([1.0, 0, 0, 0, 0, 0, *WORDS], GRID, places).heatmap()
    row, column = np.unravel_index(heat.argmax(), heat.shape)
    assert row >= 30
    assert column >= 60


def test_words_are_those_of_the_text() -> None:
    words = mixed([1.0] * 6 + WORDS, GRID, PLACES).words()
    assert [(word.text, word.score) for word in words] == [("what", 1.0), ("is", 0.0), ("this", -2.0), ("a", 0.25)]


def test_shares_count_every_token_once() -> None:
    shares = mixed([1.0, -1.0, 1.0, 0.0, 0.0, 0.0, *WORDS], GRID, PLACES).shares()
    total = 3 + 3 + 0.5 + 0.25
    assert shares.pictures == pytest.approx((3 / total,))
    assert (shares.text, shares.written, shares.special) == pytest.approx((3 / total, 0.25 / total, 0.5 / total))
    assert shares.signed == pytest.approx((1.0, -1.0, 0.25, 0.5))
    assert str(shares) == "44 % picture, 44 % text, 4 % written before, 7 % special"


def test_tiles_and_a_thumbnail_add_up() -> None:
    """Two tiles, left and right, and a thumbnail of one cell: the sums stay, and each lies where it lies."""
    left, right = View(WIDTH, HEIGHT, (0, 0, 45, HEIGHT)), View(WIDTH, HEIGHT, (45, 0, WIDTH, HEIGHT))
    patches = Patches(0, (2, 2), left), Patches(0, (2, 2), right), Patches(0, (1, 1), WHOLE)
    places: list[object] = [*((0, at) for at in range(4)), *((1, at) for at in range(4)), (2, 0)]
    one = mixed([0.0] * 4 + [0.0, 0.0, 0.0, 5.0] + [8.0] + WORDS, patches, places)
    part = one.of_image(0)
    assert part.grid.shape == (2, 4)
    assert torch.equal(part.grid, torch.tensor([[1.0, 1, 1, 1], [1, 1, 1, 6]]))
    assert part.view.box == (0, 0, WIDTH, HEIGHT)
    assert one.shares().picture == pytest.approx(13 / 16.75)


def test_two_pictures_have_a_map_each() -> None:
    patches = Patches(0, (1, 2), WHOLE), Patches(1, (1, 2), WHOLE)
    one = mixed([1.0, 0.0, 0.0, -1.0, *WORDS], patches, [(0, 0), (0, 1), (1, 0), (1, 1)])
    assert one.pictures == 2
    assert one.heatmap(0)[30, 22] == pytest.approx(1.0, abs=0.05)
    assert one.heatmap(1)[30, 67] == pytest.approx(-1.0, abs=0.05)
    assert len(one.shares().pictures) == 2
    with pytest.raises(attcat.InputError, match="no picture 2: there are 2"):
        one.heatmap(2)


def test_tokens_that_lie_nowhere_have_a_share_but_no_map() -> None:
    one = mixed([1.0, 2.0, *WORDS], (Patches(0, None),), [(0, 0), (0, 1)])
    assert one.shares().picture == pytest.approx(3 / 6.75)
    with pytest.raises(attcat.InputError, match="lie nowhere in it"):
        one.heatmap()


def test_the_text_alone_is_an_explanation_of_a_text() -> None:
    part = mixed([1.0] * 6 + WORDS, GRID, PLACES, position=9).of_text()
    assert part.texts == (TEXT,)
    assert part.scores.tolist() == WORDS
    assert (part.start, part.position) == (4, 3)
    assert not part.is_mixed


def test_copies_are_equal() -> None:
    one = mixed([1.0] * 6 + WORDS, GRID, PLACES)
    other = pickle.loads(pickle.dumps(one))
    assert other.source == one.source
    assert other.tokens == one.tokens
    with pytest.raises(ValueError, match="read-only"):
        other.source.pictures[0][0, 0] = 1


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"places": None}, "belong together"),
        ({"places": (None,) * 10}, "10 entries"),
        ({"patches": (Patches(0, (2, 2), WHOLE),)}, "cell 4 of a grid of 2 x 2"),
        ({"patches": ()}, "there are 0"),
        ({"grid": (2, 3)}, "does not hold"),
        ({"special": (True,) * 11}, "neither special"),
    ],
)
def test_contradictions_are_refused(changes: dict[str, object], told: str) -> None:
    tokens = mixed([1.0] * 6 + WORDS, GRID, PLACES).tokens
    with pytest.raises(ValueError, match=told):
        replace(tokens, **changes)  # type: ignore[arg-type]


def test_a_source_has_the_pictures_that_the_tokens_lie_on() -> None:
    one = mixed([1.0] * 6 + WORDS, GRID, PLACES)
    small = Interleaved(TEXT, (np.zeros((10, 10, 3), np.uint8),))
    with pytest.raises(ValueError, match="a view is of 90 x 60 pixels, the picture has 10 x 10"):
        replace(one, source=small)
    with pytest.raises(ValueError, match="lies on picture 1"):
        replace(one, tokens=replace(one.tokens, patches=(replace(GRID[0], picture=1),)))
    with pytest.raises(ValueError, match="have no patches"):
        replace(one, tokens=replace(one.tokens, patches=None, places=None))
    with pytest.raises(ValueError, match="pictures"):
        Interleaved(TEXT, ())

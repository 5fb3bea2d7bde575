"""Words and patches in one sequence: what is where, how much of it, and what is refused. All scores here are known."""

from __future__ import annotations

import copy
import pickle
from dataclasses import replace
from typing import Any

import drawn
import numpy as np
import pytest
import torch

from attcat.errors import InputError
from attcat.explanation import Explanation
from attcat.tokens import Interleaved, Patches, Tokens, View


def test_a_mixed_sequence_has_words_and_a_heatmap_on_one_scale() -> None:
    one = drawn.mixed()
    assert one.is_mixed
    assert not one.is_image
    assert one.pictures == 1
    assert one.texts == ("<image> what is it ?",)
    assert [(word.text, word.score) for word in one.words()] == [("what", 0.0), ("is", 0.5), ("it", -0.25), ("?", 0.25)]
    torch.testing.assert_close(one.of_image().grid, torch.tensor([[0.0, 2.0, 0.0], [0.0, 0.0, -1.0]]))
    torch.testing.assert_close(one.of_image().layers.sum(0), one.of_image().scores)
    assert one.of_text().scores.sum() + one.of_image().scores.sum() == pytest.approx(float(one.scores.sum()), abs=1e-6)
    assert [word.text for word in one.of_text().words()] == ["what", "is", "it", "?"]
    assert one.of_text().completeness is None
    assert one.completeness is not None


def test_scores_on_one_cell_light_exactly_that_part_of_a_picture_that_is_not_square() -> None:
    heat = drawn.mixed().heatmap(image=0)
    assert heat.shape == (40, 90)
    assert heat.dtype == np.float32
    assert heat[5, 44] == heat[5, 45] == heat.max() == pytest.approx(2 - 2 * 0.5 / 30)  # half a pixel from the middle
    assert heat[:10, :15].max() == 0.0
    assert heat[30:, :45].max() == 0.0
    assert heat[35, 80] == -1.0


def test_shares_are_parts_of_the_magnitude_with_their_signed_sums() -> None:
    shares = drawn.mixed().shares()
    total = 0.1 + 3.0 + 1.0
    assert shares.picture == pytest.approx(3.0 / total)
    assert shares.pictures == (shares.picture,)
    assert shares.text == pytest.approx(0.75 / total)
    assert shares.written == pytest.approx(0.25 / total)
    assert shares.special == pytest.approx(0.1 / total)
    assert shares.signed == pytest.approx((1.0, 0.25, 0.25, 0.1))
    assert sum(shares.pictures) + shares.text + shares.written + shares.special == pytest.approx(1.0)
    assert shares.completeness == pytest.approx(2.0 - 1.6 - 0.3, abs=1e-5)
    assert str(shares) == "73 % picture, 18 % text, 6 % written before, 2 % special"
    assert str(drawn.mixed(start=None).shares()) == "73 % picture, 24 % text, 2 % special"
    assert drawn.text().shares().picture == 0
    assert drawn.text().shares().text > 0.9


def of_grids(
    patches: tuple[Patches, ...], scores: list[float], places: list[Any], size: tuple[int, int]
) -> Explanation:
    """Only patches, on pictures of one size `(height, width)`."""
    tokens = Tokens(("<image>",) * len(scores), (False,) * len(scores), patches=patches, places=tuple(places))
    many = 1 + max(one.picture for one in patches)
    source = Interleaved("<image>" * many, (np.zeros((*size, 3), np.uint8),) * many)
    return Explanation(torch.tensor([scores]), tokens, torch.zeros(2), 0, ("a", "b"), "attcat", source=source)


def test_tiles_and_a_thumbnail_add_up() -> None:
    """Two tiles of 2 x 2 side by side, and a thumbnail of 1 x 2 over both: each of its cells covers a tile."""
    whole = (80, 40)
    tiles = [View(*whole, (0, 0, 40, 40)), View(*whole, (40, 0, 80, 40)), View(*whole, (0, 0, 80, 40))]
    grids = [(2, 2), (2, 2), (1, 2)]
    patches = tuple(Patches(0, grid, view) for grid, view in zip(grids, tiles, strict=True))
    places = [(0, cell) for cell in range(4)] + [(1, cell) for cell in range(4)] + [(2, 0), (2, 1)]
    one = of_grids(patches, [0, 0, 0, 1, 5, 0, 0, 0, 4.0, -8.0], places, (40, 80))
    expected = torch.tensor([[1.0, 1.0, 3.0, -2.0], [1.0, 2.0, -2.0, -2.0]])
    torch.testing.assert_close(one.of_image(0).grid, expected)
    assert one.of_image(0).scores.sum() == one.scores.sum() == 2.0
    assert one.of_image(0).view.box == (0, 0, 80, 40)


def test_each_of_two_pictures_has_its_own_map() -> None:
    view = View(80, 40, (0, 0, 80, 40))
    patches = (Patches(0, (1, 2), view), Patches(1, (2, 1), view))
    one = of_grids(patches, [1.0, 0.0, 0.0, -3.0], [(0, 0), (0, 1), (1, 0), (1, 1)], (40, 80))
    assert one.pictures == 2
    assert one.shares().pictures == (0.25, 0.75)
    assert str(one.shares()) == "25 % picture 1, 75 % picture 2, 0 % text, 0 % special"
    assert one.heatmap(0)[:, :20].min() == 1.0
    assert one.heatmap(0).min() == 0.0
    assert one.heatmap(image=1)[30:].max() == -3.0
    assert one.heatmap(1).max() == 0.0
    with pytest.raises(InputError, match="no picture 2"):
        one.heatmap(2)


def test_tokens_that_lie_nowhere_in_a_picture_have_a_share_but_no_map() -> None:
    one = of_grids((Patches(0, None),), [1.0, 2.0], [(0, 0), (0, 1)], (40, 80))
    assert one.shares().picture == 1.0
    with pytest.raises(InputError, match="lie nowhere in it"):
        one.heatmap()


def test_what_contradicts_itself_is_refused() -> None:
    one = drawn.mixed()
    tokens = one.tokens
    places = list(tokens.places or ())
    for changes, told in (
        ({"places": None}, "belong together"),
        ({"places": ((0, 0), None, *places[2:])}, "neither special"),
        ({"places": (None, (1, 0), *places[2:])}, "grid 1"),
        ({"places": (None, (0, 6), *places[2:])}, "cell 6"),
        ({"places": (None, (0, 1), *places[2:])}, "two tokens"),
        ({"places": (None, None, *places[2:9], (0, 0), *places[10:])}, "nor has it characters"),
        ({"places": (None,)}, "entries"),
        ({"grid": (2, 5)}, "does not hold|of its own"),
        ({"patches": (Patches(0, (2, 3), "left"),)}, "view"),  # type: ignore[arg-type]
    ):
        with pytest.raises(ValueError, match=told):
            replace(tokens, **changes)  # type: ignore[arg-type]
    pixels = np.zeros((40, 90, 3), np.uint8)
    for source, told in (
        (Interleaved("<image> what is it", (pixels,)), "do not exist"),
        (Interleaved("<image> what is it ?", (pixels[:20],)), "90 x 40"),
    ):
        with pytest.raises(ValueError, match=told):
            replace(one, source=source)
    with pytest.raises(ValueError, match="there are 1"):
        replace(one, tokens=replace(tokens, patches=(Patches(1, (2, 3)),)))
    with pytest.raises(ValueError, match="no patches"):
        replace(drawn.text(), source=Interleaved("a gripping, dull film. It ends.", (pixels,)))
    with pytest.raises(ValueError, match="14 tokens were given"):
        replace(one, start=14)
    for given in ((), (pixels[0],), (pixels.astype(float),)):
        with pytest.raises(ValueError, match="pictures"):
            Interleaved("", given)
    with pytest.raises(InputError, match="use words\\(\\), heatmap"):
        one.grid  # noqa: B018
    with pytest.raises(InputError, match="not of words and pictures"):
        drawn.picture().of_image(0)
    with pytest.raises(InputError, match="one part only"):
        drawn.text().of_text()


def test_pictures_are_read_only_copies_and_pickled() -> None:
    pixels = np.zeros((40, 90, 3), np.uint8)
    one = drawn.mixed(pixels)
    pixels[:] = 9
    source = one.source
    assert isinstance(source, Interleaved)
    assert not source.pictures[0].any()
    with pytest.raises(ValueError, match="read-only"):
        source.pictures[0][0] = 1
    for other in (pickle.loads(pickle.dumps(one)), copy.deepcopy(one)):
        assert other.source == source
        assert other.tokens == one.tokens
        assert torch.equal(other.layers, one.layers)
        with pytest.raises(ValueError, match="read-only"):
            other.source.pictures[0][0] = 1  # type: ignore[union-attr]


def test_an_unpickled_picture_is_read_only_like_the_original() -> None:
    other = pickle.loads(pickle.dumps(drawn.picture()))
    with pytest.raises(ValueError, match="read-only"):
        other.source[0] = 1


def test_tokens_that_are_kept_keep_their_places() -> None:
    tokens = drawn.mixed().tokens
    kept = tokens.kept([at in (2, 10) for at in range(len(tokens))])
    assert kept.places == ((0, 1), None)
    assert kept.patches == tokens.patches
    assert kept.labels == ("<image>", "is")

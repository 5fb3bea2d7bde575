"""Pictures: a colour lies over the pixels it came from, and every shape of picture can be drawn."""

import base64
import io
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from attcat import render
from attcat.errors import InputError
from attcat.explanation import Explanation
from attcat.render import colour, image, terminal
from attcat.tokens import Tokens, View

LABELS = ("cat", "dog")


def explain(grid, width, height, box=None, *, picture=True, **changes):
    """A grey picture, one class token of score 0.5, and the given grid of scores."""
    grid = np.asarray(grid, dtype=np.float32)
    labels = ("[CLS]", *(f"{r},{c}" for r in range(grid.shape[0]) for c in range(grid.shape[1])))
    special = (True, *(False for _ in range(grid.size)))
    view = View(width, height, box or (0, 0, width, height))
    given = {"logits": torch.tensor([1.0, 0.0]), "target": 0, "labels": LABELS, "method": "attcat"}
    given |= {"options": {"rule": "libra"}, "model": "TinyViT"}
    given |= {"source": np.full((height, width, 3), 128, np.uint8) if picture else None}
    scores = torch.tensor([[0.5, *grid.ravel().tolist()]])
    return Explanation(scores, Tokens(labels, special, grid=grid.shape, view=view), **(given | changes))


def hot(row, column, value=1.0, size=8):
    grid = np.zeros((size, size))
    grid[row, column] = value
    return grid


def redder(pixels):
    """Where orange lies: red minus blue."""
    return pixels[..., 0].astype(int) - pixels[..., 2]


def embedded(html):
    """The pictures inside a page, as arrays."""
    found = re.findall(r'src="data:image/png;base64,([^"]+)"', html)
    return [np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))) for data in found]


def printed(explanation, **options):
    file = io.StringIO()
    terminal.show(explanation, Console(file=file, width=80, **options))
    return file.getvalue()


# -- the overlay -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("value", "sign"), [(1.0, 1), (-1.0, -1)])
def test_a_hot_cell_is_drawn_over_its_own_pixels_of_a_cropped_picture(value, sign):
    # 160 x 64 pixels, of which the model saw the middle 64 x 64: a cell to 8 pixels. Row 2, column 6 lies at
    # x = 48 + 6 * 8 .. 48 + 7 * 8 and y = 16 .. 24.
    made = explain(hot(2, 6, value), 160, 64, (48, 0, 112, 64))
    tint = sign * redder(image.overlay(made))
    assert tint.shape == (64, 160)
    y, x = np.unravel_index(tint.argmax(), tint.shape)
    assert 96 <= x < 104
    assert 16 <= y < 24
    assert tint[16:24, 96:104].min() > 50
    there = np.zeros(tint.shape, dtype=bool)
    there[12:28, 92:108] = True  # bilinear: half a cell beyond the borders
    assert (tint[~there] == 0).all()


def test_the_picture_stays_where_nothing_is_said():
    rng = np.random.default_rng(0)
    grey = np.repeat(rng.integers(0, 256, (64, 64, 1), dtype=np.uint8), 3, axis=2)
    made = replace(explain(hot(0, 0), 64, 64), source=grey)
    np.testing.assert_array_equal(image.overlay(made)[20:, 20:], grey[20:, 20:])


def test_stronger_scores_cover_more():
    amount = [
        np.abs(redder(image.overlay(explain([[1.0, 0.0, value]], 30, 10)))[5, 27]) for value in (0.0, 0.1, 0.5, 0.9)
    ]
    assert amount == sorted(amount)
    assert amount[0] == 0 < amount[1]


def test_map_diverges_from_blue_to_orange():
    table = colour.lookup_table().astype(int)[:, 0, ::-1]  # red, green, blue
    assert table.shape == (256, 3)
    assert (table[:128, 2] > table[:128, 0]).all()
    assert (table[129:, 0] > table[129:, 2]).all()


def test_what_was_not_seen_is_hatched_and_not_the_colour_of_zero():
    made = explain(np.zeros((4, 4)), 60, 40, (10, 0, 50, 40))
    pixels = image.overlay(made)
    assert (pixels[:, 10:50] == 128).all()
    assert (pixels[:, :10] < 128).all()
    assert (pixels[:, 50:] < 128).all()
    assert len(np.unique(pixels[:, :10])) == 2  # the dark picture and the stripes
    assert "not seen by the model" in render.fragment(made)
    assert "not seen" not in render.fragment(explain(np.zeros((4, 4)), 60, 40))


def test_zero_everywhere_is_the_plain_picture_and_is_said():
    made = explain(np.zeros((4, 4)), 40, 40)
    assert (image.overlay(made) == 128).all()
    assert "The score of every patch is zero." in render.fragment(made)
    nothing = replace(made, layers=torch.zeros_like(made.layers))
    assert "All scores are zero" in render.fragment(nothing)
    assert "All scores are zero" in printed(nothing)
    assert render.figure(nothing).width > 0


def test_without_a_view_the_grid_covers_the_picture():
    made = explain(hot(0, 7), 64, 32)
    unknown = replace(made, tokens=replace(made.tokens, view=None))
    np.testing.assert_array_equal(image.overlay(unknown), image.overlay(made))


# -- sizes -------------------------------------------------------------------------------------------------------------


def test_a_tiny_picture_grows_by_whole_pixels():
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    made = replace(explain(hot(1, 6), 32, 32), source=pixels)
    grown = image.sized(made)
    np.testing.assert_array_equal(grown.source, pixels.repeat(14, 0).repeat(14, 1))
    assert grown.tokens.view.box == (0, 0, 448, 448)


def test_a_cell_stays_on_its_pixels_when_the_picture_is_resized():
    for width, height in ((1600, 640), (40, 16)):
        box = (width * 0.3, 0, width * 0.7, height)
        small = image.sized(explain(hot(2, 6), width, height, box), longest=800, least=800)
        tint = redder(image.overlay(small))
        assert tint.shape == (320, 800)
        y, x = np.unravel_index(tint.argmax(), tint.shape)
        assert abs(x - (240 + 6.5 * 40)) < 21
        assert abs(y - 2.5 * 40) < 21


def test_a_hair_is_widened_and_its_grid_with_it():
    widened = image.sized(explain(hot(2, 6), 2, 600, (0.5, 100, 1.5, 500)))
    assert widened.source.shape == (600, 8, 3)
    assert widened.tokens.view == View(8, 600, (2, 100, 6, 500))


@pytest.mark.parametrize(
    ("width", "height"), [(1, 1), (1, 300), (300, 1), (32, 32), (5, 2000), (2000, 5), (3000, 2000), (640, 480)]
)
def test_every_shape_of_picture_can_be_drawn(width, height):
    made = explain(hot(2, 6), width, height)
    figure = render.figure(made)
    assert figure.mode == "RGB"
    assert 400 <= figure.width <= 2 * image.LONGEST + 60
    assert 300 <= figure.height <= 2 * image.LONGEST + 60 or figure.height <= image.LONGEST + 400
    assert len(embedded(render.fragment(made))) == 2
    assert "▀" in printed(made, force_terminal=True, color_system="truecolor")


def test_the_view_may_reach_beyond_the_picture():
    made = explain(hot(2, 2), 60, 20, (0, -20, 60, 40))  # padded to a square above and below
    assert not np.isnan(made.heatmap()).any()
    assert "not seen" not in render.fragment(made)
    assert render.figure(made)


# -- figures -----------------------------------------------------------------------------------------------------------


def test_figure_has_the_picture_and_beside_it_the_overlay():
    rng = np.random.default_rng(0)
    made = replace(explain(hot(2, 6), 500, 480), source=rng.integers(0, 256, (480, 500, 3), dtype=np.uint8))
    figure = np.asarray(render.figure(made))
    overlay = image.overlay(made)
    rows = np.flatnonzero((figure[:, 16:516] == made.source[0]).all(axis=(1, 2)))
    assert len(rows) == 1, "the first row of the picture is found once"
    top = rows[0]
    np.testing.assert_array_equal(figure[top : top + 480, 16:516], made.source)
    np.testing.assert_array_equal(figure[top : top + 480, 532:1032], overlay)


def test_wide_pictures_stand_under_one_another():
    wide, tall = (render.figure(explain(hot(2, 6), *size)) for size in ((700, 200), (200, 700)))
    assert wide.width == 700 + 32
    assert wide.height > 2 * 200
    assert tall.height > 700


def test_a_legend_grows_by_what_it_has_to_say():
    plain = image.legend(explain(hot(2, 6), 60, 60), 400)
    blind = image.legend(explain(hot(2, 6), 60, 60, (10, 10, 50, 50)), 400)
    assert blind.height > plain.height
    bar = np.asarray(plain)[30]
    assert redder(bar[2:3]) < -60
    assert redder(bar[-3:-2]) > 60
    assert abs(redder(bar[200:201])) < 4


@pytest.mark.parametrize("label", ["x" * 100_000, "many words " * 5000, "two\nlines\tof\x00 label", "", "猫 🐈"])
def test_any_label_fits_into_the_figure(label):
    figure = render.figure(explain(hot(2, 6), 300, 300, labels=(label, "dog"), model=label[:20000]))
    assert figure.width == 2 * 300 + 16 + 32


def test_text_that_does_not_fit_ends_in_an_ellipsis():
    cut = image.fitted("a very long label indeed", 60, 14)
    assert cut.startswith("a ver")
    assert cut.endswith("…")
    assert image.fitted("short", 60, 14) == "short"
    assert image.wrap("one two three four five six", 75) == ["one two", "three four", "five six"]
    assert image.wrap("one two three four five six", 75, most=2) == ["one two", "three four five six"]


def test_a_figure_needs_the_picture_and_says_what_to_do():
    with pytest.raises(InputError, match="explain the picture itself"):
        render.figure(explain(hot(2, 6), 60, 60, picture=False))


def test_saving_as_png_writes_the_figure(tmp_path):
    made = explain(hot(2, 6), 60, 60)
    with Image.open(made.save(tmp_path / "a.png")) as saved:
        np.testing.assert_array_equal(np.asarray(saved), np.asarray(render.figure(made)))


# -- pages and terminals -----------------------------------------------------------------------------------------------


def test_a_page_holds_picture_and_overlay_and_describes_them():
    made = explain(hot(2, 6), 640, 320)
    html = render.page([made])
    first, second = embedded(html)
    np.testing.assert_array_equal(first, made.source)
    np.testing.assert_array_equal(second, image.overlay(made))
    assert "strongest patch: row 3 of 8, column 7 of 8, +1 (for cat)" in html
    assert not re.search(r"(src|href)=.https?:", html)
    assert "speaks against cat" in html


def test_a_page_escapes_a_label_inside_the_description_of_a_picture():
    html = render.page([explain(hot(2, 6), 64, 64, labels=('"><script>', "dog"))])
    assert "<script" not in html
    assert "&quot;&gt;&lt;script&gt;" in html


def test_without_the_picture_a_page_shows_the_heatmap_and_its_grid():
    made = explain(hot(2, 6), 64, 64, picture=False)
    (only,) = embedded(render.fragment(made))
    assert only.shape == (448, 448, 3)
    tint = redder(only)
    y, x = np.unravel_index(tint.argmax(), tint.shape)
    assert (x // 56, y // 56) == (6, 2)
    assert (only[300, 56::56] == 190).all()  # the borders of the cells
    assert (only[300, 10] == 228).all()


def test_the_terminal_shows_the_overlay_in_half_blocks():
    made = explain(hot(1, 1, size=4), 40, 40)
    text = terminal.picture(made, 40)
    lines = text.plain.split("\n")
    assert [len(line) for line in lines] == [40] * 20
    expected = image.overlay(made)
    for row, column in ((15, 14), (0, 39), (16, 15)):
        style = text.get_style_at_offset(Console(), row // 2 * 41 + column)
        shown = style.bgcolor if row % 2 else style.color
        assert tuple(shown.triplet) == tuple(expected[row, column].tolist())


def test_a_terminal_picture_fits_the_window():
    out = printed(explain(hot(1, 1), 3000, 400), force_terminal=True, color_system="truecolor")
    plain = re.sub(r"\x1b\[[0-9;]*m", "", out)
    assert max(len(line) for line in plain.splitlines() if "▀" in line) == terminal.WIDEST


def test_without_colours_the_patches_are_signs():
    grid = np.zeros((2, 3))
    grid[0, 2], grid[1, 0], grid[1, 1] = 1.0, -0.6, 0.3
    out = printed(explain(grid, 30, 20))
    assert "\n ·  · ##\n--  +  ·\n" in out
    assert "## speaks for cat" in out
    assert "strongest patch: row 1 of 2, column 3 of 3, +1 (for cat)" in out
    assert "[CLS] +0.5" in out
    assert "20.8% of the total magnitude fell on special tokens" in out
    assert "\x1b" not in out


def test_a_picture_has_no_words_to_highlight():
    with pytest.raises(InputError, match="of a picture"):
        render.highlight(explain(hot(2, 6), 60, 60))

"""Pictures: a colour lies over the pixels it came from, and every shape of picture can be drawn."""

import base64
import io
import re
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from PIL import Image
from rich.console import Console

from attcat import render
from attcat.errors import InputError
from attcat.explanation import Explanation
from attcat.files import encode_palette_png
from attcat.render import colour, image, terminal, wording
from attcat.tokens import Tokens, View

LABELS = ("cat", "dog")
GREY = 143
"""What the picture's 128 becomes under an overlay: 40 + 128 * 205 / 255."""


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
    found = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', html)
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
    assert tint[16:24, 96:104].min() > 20
    assert tint[19:21, 99:101].min() > 40
    there = np.zeros(tint.shape, dtype=bool)
    there[12:28, 92:108] = True  # bilinear: half a cell beyond the borders
    assert (tint[~there] == 0).all()


def test_the_picture_stays_where_nothing_is_said():
    rng = np.random.default_rng(0)
    grey = np.repeat(rng.integers(0, 256, (64, 64, 1), dtype=np.uint8), 3, axis=2)
    made = replace(explain(hot(0, 0), 64, 64), source=grey)
    drawn = image.overlay(made)[20:, 20:].astype(float)
    assert (redder(drawn) == 0).all()
    # Brighter pixels stay brighter, between a dark and a pale grey.
    np.testing.assert_allclose(drawn, 40 + grey[20:, 20:] * (205 / 255), atol=0.51)


def test_stronger_scores_cover_more():
    amount = [
        np.abs(redder(image.overlay(explain([[1.0, 0.0, value]], 30, 10)))[5, 27])
        for value in (0.0, 0.1, 0.2, 0.5, 0.9)
    ]
    assert amount == sorted(amount)
    assert amount[0] == amount[1] == 0 < amount[2]  # below the threshold nothing is tinted


def test_map_diverges_from_blue_to_orange():
    ramp = np.array(image.ramp(65)).astype(int)  # red, green, blue
    shown = round(32 * image.THRESHOLD) + 1
    assert (ramp[: 32 - shown, 2] > ramp[: 32 - shown, 0]).all()
    assert (ramp[33 + shown :, 0] > ramp[33 + shown :, 2]).all()
    assert (ramp[32 - shown + 2 : 32 + shown - 1] == image.BLANK).all()


def test_what_was_not_seen_is_hatched_and_not_the_colour_of_zero():
    made = explain(np.zeros((4, 4)), 60, 40, (10, 0, 50, 40))
    pixels = image.overlay(made)
    assert (pixels[:, 10:50] == GREY).all()
    assert (pixels[:, :10] < GREY).all()
    assert (pixels[:, 50:] < GREY).all()
    assert len(np.unique(pixels[:, :10])) == 2  # the dark picture and the stripes
    assert "not seen by the model" in render.fragment(made)
    assert "not seen" not in render.fragment(explain(np.zeros((4, 4)), 60, 40))


def test_zero_everywhere_is_the_plain_picture_and_is_said():
    made = explain(np.zeros((4, 4)), 40, 40)
    assert (image.overlay(made) == GREY).all()
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
    widened = image.sized(explain(hot(2, 6), 2, 500, (0.5, 100, 1.5, 400)))
    assert widened.source.shape == (500, 8, 3)
    assert widened.tokens.view == View(8, 500, (2, 100, 6, 400))


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
    wide, tall = (render.figure(explain(hot(2, 6), *size)) for size in ((500, 200), (200, 500)))
    assert wide.width == 500 + 32
    assert wide.height > 2 * 200
    assert tall.height > 500


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
    assert image.wrap("one two three four five six", 75) == ("one two", "three four", "five six")
    assert image.wrap("one two three four five six", 75, most=2) == ("one two", "three four five six")


def test_a_figure_needs_the_picture_and_says_what_to_do():
    with pytest.raises(InputError, match="explain the picture itself"):
        render.figure(explain(hot(2, 6), 60, 60, picture=False))


def photograph(width=434, height=288, seed=0):
    """Colours that change slowly, with as much grain as a photograph has."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)).resize((width, height), Image.BICUBIC)
    return np.clip(np.asarray(coarse) + rng.normal(0, 6, (height, width, 1)), 0, 255).astype(np.uint8)


def noisy(size=16, seed=0):
    return np.random.default_rng(seed).normal(size=(size, size)) ** 3


def test_saving_as_png_writes_the_figure_with_a_palette_that_keeps_white_and_the_legend(tmp_path):
    made = replace(explain(noisy(), 434, 288), source=photograph())
    path = made.save(tmp_path / "a.png")
    assert path.stat().st_size <= 120_000
    figure = np.asarray(made.to_image()).astype(int)
    with Image.open(path) as saved:
        assert saved.mode == "P"
        shown = np.asarray(saved.convert("RGB")).astype(int)
    assert (shown[(figure == 255).all(-1)] == 255).all()
    assert np.abs(shown - figure).mean() < 6
    (rows,) = np.nonzero((figure[:, 16] == image.ramp(2)[0]).all(-1))  # the legend's strongest blue
    assert np.abs(shown[rows[0], 16:-16] - figure[rows[0], 16:-16]).max() < 40


def test_a_small_part_keeps_its_own_colour_in_the_palette():
    """A red tail before sky and tarmac is a hundredth of the picture: a palette of its commonest colours makes it purple."""
    rng, down = np.random.default_rng(0), np.linspace(0, 1, 288)[:, None, None]
    sky = np.array([90, 140, 190]) * (1 - down) + np.array([190, 205, 215]) * down
    scene = np.where(down < 0.55, sky, (150, 150, 152)) + rng.normal(0, 8, (288, 434, 1))
    scene[120:150, 300:340] = np.array([225, 20, 25]) + rng.normal(0, 6, (30, 40, 1))
    pixels = np.clip(scene, 0, 255).astype(np.uint8)
    with Image.open(io.BytesIO(encode_palette_png(Image.fromarray(pixels), image.palette(), 56))) as saved:
        shown = np.asarray(saved.convert("RGB")).astype(int)
    assert np.abs(shown - pixels)[120:150, 300:340].mean() < 10


def test_a_figure_is_drawn_once_for_each_size(monkeypatch):
    sizes = []
    drawn = image.figure
    monkeypatch.setattr(image, "figure", lambda *given: sizes.append(given[2:]) or drawn(*given))
    pixels = np.random.default_rng(0).integers(0, 256, (400, 480, 3), dtype=np.uint8)
    image.png(replace(explain(noisy(), 480, 400), source=pixels))
    assert len(sizes) == len(set(sizes)) > 1


def test_noise_is_shrunk_until_it_fits(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (400, 480, 3), dtype=np.uint8)
    made = replace(explain(noisy(), 480, 400), source=pixels)
    path = made.save(tmp_path / "a.png")
    with Image.open(path) as saved:
        assert saved.width < made.to_image().width
    assert path.stat().st_size <= image.PNG_LIMIT


def test_other_kinds_of_file(tmp_path):
    made = replace(explain(hot(2, 6), 434, 288, labels=("<cat> & \x00", "dog")), source=photograph())
    for name in ("a.jpg", "a.JPEG"):
        with Image.open(made.save(tmp_path / name)) as saved:
            assert saved.format == "JPEG"
            assert np.abs(np.asarray(saved).astype(int) - np.asarray(made.to_image())).mean() < 4
    tree = ElementTree.parse(made.save(tmp_path / "a.svg"))
    name = "{http://www.w3.org/2000/svg}"
    assert tree.getroot().tag == f"{name}svg"
    assert len(list(tree.iter(f"{name}image"))) == 2
    assert all(element.get("href").startswith("data:image/") for element in tree.iter(f"{name}image"))
    written = [element.text for element in tree.iter(f"{name}text")]
    assert "speaks for <cat> &" in written
    assert not [element for element in tree.iter() if element.tag == f"{name}script"]


# -- the scale: where it ends, and what exceeds it ---------------------------------------------------------------------


def outlier(value=-0.134):
    """A schooner, as it was filed: one patch against, six times as strong as all that speaks for the class."""
    grid = np.full((16, 16), 0.001)
    grid[6:10, 6:10] = 0.02 + np.arange(16).reshape(4, 4) / 16000
    grid[12, 3] = value
    return grid


def test_the_scale_is_a_percentile_of_the_magnitudes():
    made = explain(noisy(), 64, 64)
    magnitudes = sorted(abs(score) for score in made.grid.flatten().tolist())
    full = wording.scale(made)
    assert full == magnitudes[252]  # floor(.99 * 255): three of 256 are larger
    assert wording.clipped(made) == (
        f"Clipped: 3 of 256 patches exceed the scale, by up to {magnitudes[-1] / full:.1f} times "
        f"({wording.number(max(made.grid.flatten().tolist(), key=abs))})."
    )


@pytest.mark.parametrize(
    ("scores", "many", "full"),
    [
        ([], 16, 0.0),
        ([float("nan"), -2.0], 16, 2.0),
        ([1.0, *[0.0] * 63], 16, 1.0),  # nothing beside it
        ([1.0, *[1e-6] * 63], 16, 1 / colour.GUARD),  # noise stays noise
        ([-10.0, *[3.0] * 63], 16, 3.0),
        ([-10.0, *[3.0] * 14], 16, 10.0),  # too few for a percentile
    ],
)
def test_the_scale_holds_out(scores, many, full):
    assert colour.robust(scores, many) == pytest.approx(full)


def test_an_outlier_does_not_hide_the_evidence():
    made = replace(explain(outlier(), 160, 160), source=np.full((160, 160, 3), 128, np.uint8))
    tint = redder(image.overlay(made))
    assert tint[65:95, 65:95].min() > 60  # under the largest patch as scale: a strength of .15, next to nothing
    assert tint[124:126, 34:36].max() < -40
    assert "Clipped: 3 of 256 patches exceed the scale" in " ".join(wording.notes(made))
    assert "-0.134" in wording.clipped(made)
    for drawn in (render.page([made]), printed(made)):
        assert "Clipped: 3 of 256 patches exceed the scale" in drawn


def test_a_few_patches_that_hold_most_are_said():
    told = "1 patch holds more than half of the magnitude"
    assert told in wording.concentrated(explain(outlier(-5.0), 160, 160))
    assert told in render.page([explain(outlier(-5.0), 160, 160)])
    assert wording.concentrated(explain(outlier(), 160, 160)) == ""
    assert wording.concentrated(explain(np.zeros((16, 16)), 160, 160)) == ""
    assert wording.concentrated(explain(hot(0, 0, size=4), 160, 160)) == ""  # of sixteen, one is not few
    assert "2 patches hold" in wording.concentrated(explain([*[[9.0] + [0.0] * 15] * 3, *[[0.01] * 16] * 13], 32, 32))


def test_signs_differ_without_colours():
    """On a grey printer what speaks for the class is lighter than the ground, what speaks against it darker, with stripes."""
    ground = np.full((20, 20, 3), 128, np.uint8)
    grey = [image.tinted(ground, np.full((20, 20), sign)).astype(float) @ [0.299, 0.587, 0.114] for sign in (1.0, -1.0)]
    assert grey[0].min() > 128 + 15
    assert np.median(grey[1]) < 128 - 15
    assert np.ptp(grey[0]) == 0
    assert np.ptp(grey[1][:, 0]) > 30  # stripes
    assert np.ptp(grey[1], axis=1).max() == 0


# -- other looks -------------------------------------------------------------------------------------------------------


def test_positive_only():
    grid = hot(2, 6)
    grid[5, 1] = -1.0
    drawn = redder(image.overlay(explain(grid, 64, 64), look=image.Look(positive=True)))
    assert drawn[20, 52] > 60
    assert drawn.min() == 0
    assert redder(image.overlay(explain(grid, 64, 64)))[44, 12] < -60


def test_cells_are_one_colour_each():
    made = explain(noisy(4), 60, 40, (10, 0, 50, 40))
    drawn = image.overlay(made, look=image.Look(cells=True, positive=True))
    for row in range(4):
        for column in range(4):
            cell = drawn[row * 10 : row * 10 + 10, 10 + column * 10 : 20 + column * 10]
            assert (cell == cell[0, 0]).all()
    np.testing.assert_array_equal(drawn[:, :10], image.overlay(made)[:, :10])


def test_the_contour_encloses_a_fifth():
    made = explain(np.arange(100).reshape(10, 10), 200, 200)
    plain, lined = (image.overlay(made, look=image.Look(contour=contour)) for contour in (False, True))
    changed = (plain != lined).any(-1)
    rows = np.flatnonzero(changed.any(1))
    assert 145 <= rows.min() <= 160  # scores rise from top to bottom: the last two rows of ten
    assert changed.mean() < 0.1
    nothing = explain(-np.ones((4, 4)), 40, 40)
    np.testing.assert_array_equal(image.overlay(nothing), image.overlay(nothing, look=image.Look(contour=True)))


def test_a_look_is_explained_in_the_figure():
    made = explain(hot(2, 6), 300, 300)
    assert made.to_image(contour=True, positive=True).height > made.to_image().height
    assert np.any(np.asarray(made.to_image(cells=True)) != np.asarray(made.to_image()))


# -- pages and terminals -----------------------------------------------------------------------------------------------


def test_a_page_holds_picture_and_overlay_and_describes_them():
    made = explain(hot(2, 6), 640, 320)
    html = render.page([made])
    first, second = embedded(html)
    assert np.abs(first.astype(int) - made.source).max() < 4
    assert np.abs(second.astype(int) - image.overlay(made)).mean() < 2
    assert "strongest patch: row 3 of 8, column 7 of 8, +1 (for cat)" in html
    assert not re.search(r"(src|href)=.https?:", html)
    assert "speaks against cat" in html


def test_a_page_escapes_a_label_inside_the_description_of_a_picture():
    html = render.page([explain(hot(2, 6), 64, 64, labels=('"><script>', "dog"))])
    assert html.count("<script") == 2
    assert "<script>," not in html
    assert "&quot;&gt;&lt;script&gt;" in html


def test_without_the_picture_a_page_shows_the_heatmap_and_its_grid():
    made = explain(hot(2, 6), 64, 64, picture=False)
    (only,) = embedded(render.fragment(made))
    assert only.shape == (448, 448, 3)
    tint = redder(only)
    y, x = np.unravel_index(tint.argmax(), tint.shape)
    assert (x // 56, y // 56) == (6, 2)
    assert np.abs(only[300, 56::56].astype(int) - 190).max() < 12  # the borders of the cells
    assert np.abs(only[300, 10].astype(int) - 228).max() < 4


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

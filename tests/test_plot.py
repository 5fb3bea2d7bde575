"""Figures for papers: words in place, pictures, blocks; fonts inside the file."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from drawn import mixed, picture, text
from test_mixed import written

from attcat import render
from attcat.errors import InputError

matplotlib = pytest.importorskip("matplotlib")


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    matplotlib.use("agg")
    yield
    matplotlib.pyplot.close("all")


def test_words_are_in_place_and_coloured() -> None:
    ax = text("a gripping, dull film that costs $5 or $6 and is <b>long</b>.").plot()
    drawn = {element.get_text(): element for element in ax.texts}
    assert list(drawn)[:4] == ["a", "gripping", ",", "dull"]
    assert r"\$" in drawn  # not mathematics
    strongest = drawn["gripping"].get_bbox_patch().get_facecolor()
    assert strongest[0] > strongest[2] + 0.4
    assert drawn[","].get_bbox_patch().get_linestyle() == "--"
    assert drawn["a"].get_bbox_patch() is None
    assert ax.get_title(loc="left") == "positive 73.1%"


def test_long_texts_break_between_words_inside_the_axes() -> None:
    ax = text("an extraordinarily gripping film " * 8).plot()
    renderer = ax.figure.canvas.get_renderer()
    right = ax.get_window_extent(renderer).x1
    assert len({round(element.get_position()[1], 6) for element in ax.texts}) > 2
    assert all(element.get_window_extent(renderer).x1 <= right + 6 for element in ax.texts)


def test_lines_of_long_texts_do_not_overlap_and_a_key_says_what_colours_mean() -> None:
    made = text("an extraordinarily gripping film " * 40)
    for axes in ([made.plot()], render.side_by_side([made, made], ["one", "another"]).axes):
        for ax in axes:
            renderer = ax.figure.canvas.get_renderer()
            boxes = [element.get_window_extent(renderer) for element in ax.texts]
            lines = sorted({round(box.y0 + box.height / 2) for box in boxes})
            apart = min(upper - lower for lower, upper in itertools.pairwise(lines) if upper - lower > 3)
            assert apart > max(box.height for box in boxes)
        assert [element.get_text() for element in axes[-1].texts][-2:] == [
            "speaks against positive",
            "speaks for positive",
        ]


def test_a_picture_is_drawn_as_everywhere() -> None:
    made = picture()
    ax = made.plot(cells=True)
    small, _ = render.image.panels_of(made)
    np.testing.assert_array_equal(ax.images[0].get_array(), render.image.overlay(small, look=render.Look(cells=True)))


def test_layers_are_a_heat_table_or_bars() -> None:
    made = text()
    ax = made.plot(layers=True)
    np.testing.assert_allclose(ax.collections[0].get_array().reshape(11, 2), made.layers.T.numpy())
    assert [label.get_text() for label in ax.get_yticklabels()][:3] == ["[CLS]", "a", "gripping"]
    bars = picture().plot(layers=True).patches
    assert [bar.get_height() for bar in bars] == [0.0, 0.0]


def test_it_draws_on_axes_that_are_given() -> None:
    figure, (left, right) = matplotlib.pyplot.subplots(1, 2)
    assert text().plot(left) is left
    assert picture().plot(right) is right
    assert len(figure.axes) == 3  # and a colour bar


def test_pdf_has_its_fonts_inside(tmp_path: Path) -> None:
    for made in (text(), picture()):
        data = made.save(tmp_path / "a.pdf").read_bytes()
        assert data.startswith(b"%PDF")
        assert b"/FontFile2" in data
        assert b"/Type3" not in data


def test_the_heat_table_of_an_answer_is_a_pdf_file(tmp_path: Path) -> None:
    data = written(mixed()).save(tmp_path / "answer.pdf").read_bytes()
    assert data.startswith(b"%PDF")
    assert b"/FontFile2" in data


def test_without_matplotlib_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(InputError, match=r"needs matplotlib: pip install 'attcat\[plot\]'"):
        text().plot()
    with pytest.raises(InputError, match=r"attcat\[plot\]"):
        text().save(tmp_path / "a.pdf")
    assert not (tmp_path / "a.pdf").exists()


def test_methods_stand_side_by_side() -> None:
    from attcat.comparison import Comparison

    figure = Comparison((text(), text(), text()), (0.1, 0.2, 0.3)).plot()
    assert [ax.get_title(loc="left") for ax in figure.axes] == ["attcat+libra"] * 3
    assert all("gripping" in [element.get_text() for element in ax.texts] for ax in figure.axes)
    pictures = Comparison((picture(),) * 5, (0.1,) * 5).plot()
    assert sum(bool(ax.images) for ax in pictures.axes) == 5


def test_curves_are_the_values() -> None:
    ax = render.curves({"attcat": [0.9, 0.5, 0.1], "random$": [0.9, 0.8, 0.1]}, [0.0, 0.5, 1.0], "probability")
    drawn = {line.get_label(): line.get_xydata().tolist() for line in ax.lines}
    assert drawn["attcat"] == [[0.0, 0.9], [50.0, 0.5], [100.0, 0.1]]
    assert [label.get_text() for label in ax.get_legend().get_texts()] == ["attcat", r"random\$"]
    assert ax.get_ylabel() == "probability, mean over examples"


def test_what_was_written_is_a_heat_table_with_names() -> None:
    ax = written(mixed()).plot()
    (mesh,) = ax.collections
    values = np.asarray(mesh.get_array()).reshape(2, 5)
    rows, columns = ([label.get_text() for label in labels] for labels in (ax.get_yticklabels(), ax.get_xticklabels()))
    assert [row.split()[0] for row in rows] == ["it", "?"]
    assert columns == ["the picture", "what", "is", "it", "?"]
    assert values[0, 0] < 0 < values[1, 0]  # against the first word, for the second
    own = matplotlib.pyplot.subplots()[1]
    assert written(mixed()).plot(own) is own

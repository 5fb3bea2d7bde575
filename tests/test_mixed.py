"""Words and patches in one sequence: what is where, how much of it, and what is refused. All scores here are known."""

from __future__ import annotations

import copy
import json
import pickle
import re
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import drawn
import numpy as np
import pytest
import torch
from rich.console import Console

import attcat
from attcat.errors import InputError
from attcat.explainer import columns
from attcat.explanation import Explanation, Generation
from attcat.explanation.generation import Stored
from attcat.render import highlight, image, mixed, page, terminal, wording
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
    with pytest.raises(ValueError, match="view: got 'left', expected a View"):
        Patches(0, (2, 3), "left")  # type: ignore[arg-type]
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


# -- saving ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("suffix", [".json", ".safetensors"])
def test_what_is_saved_is_read_back(suffix: str, tmp_path: Path) -> None:
    pixels = np.arange(40 * 90 * 3, dtype=np.uint32).reshape(40, 90, 3).astype(np.uint8)
    one = drawn.mixed(pixels)
    read = attcat.load(one.save(tmp_path / f"mixed{suffix}"))
    assert (read.source, read.tokens, read.start) == (one.source, one.tokens, 12)
    assert str(read.shares()) == str(one.shares())
    assert np.array_equal(read.heatmap(0), one.heatmap(0))


def test_files_without_pictures_stay_as_they_were() -> None:
    record = json.loads(drawn.text().to_json())
    assert "start" not in record
    assert {"patches", "places"} & set(record["tokens"]) == set()
    assert set(record["source"]) == {"texts"}


def test_one_table_holds_patches_and_words() -> None:
    rows = drawn.mixed().records()
    assert [row["kind"] for row in rows] == ["patch"] * 6 + ["word"] * 4
    assert rows[1] == {
        **{"kind": "patch", "image": 0, "row": 0, "column": 1, "left": 30.0, "top": 0.0, "right": 60.0, "bottom": 20.0},
        **{"score": 2.0, "share": 0.5, "rank": 1},
    }
    assert (rows[7]["text"], rows[7]["score"], rows[7]["rank"]) == ("is", 0.5, 3)
    assert sum(row["share"] for row in rows) == pytest.approx(1.0)
    whole = replace(
        drawn.mixed(), tokens=replace(drawn.mixed().tokens, patches=(Patches(0, None),)), source=None
    ).records()
    assert (whole[0]["kind"], whole[0]["image"], whole[0]["score"]) == ("picture", 0, 1.0)


# -- drawing ---------------------------------------------------------------------------------------------------------


def test_patches_and_words_have_one_scale_in_a_figure() -> None:
    one = drawn.mixed()
    assert wording.scale(one) == 2.0
    strengths = {piece.text: piece.strength for piece in wording.passages(one)[0] if piece.score is not None}
    assert strengths == {"what": 0.0, "is": 0.25, "it": -0.125, "?": 0.125}
    figure = np.asarray(one.to_image()).astype(int)
    orange = (figure[..., 0] - figure[..., 2]) > 120  # of the map; words at a quarter of the scale are paler
    assert orange.any()
    rows = np.flatnonzero(orange.any(1))
    assert len(rows) > 50
    positive = np.asarray(one.to_image(positive=True)).astype(int)
    assert ((positive[..., 2] - positive[..., 0]) > 40).sum() < ((figure[..., 2] - figure[..., 0]) > 40).sum()


def test_the_legend_of_a_figure_says_that_some_scores_are_beyond_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wording, "MANY_PATCHES", 4)  # the scale ends below the strongest
    one, told, line = drawn.mixed(), [], image.line
    monkeypatch.setattr(image, "line", lambda text, *given, **how: told.append(text) or line(text, *given, **how))
    one.to_image()
    assert wording.scale(one) == 1.0
    assert {"-1 and beyond", "+1 and beyond"} <= set(told)
    assert sum("73 % picture" in text for text in told) == 1


def test_a_page_has_the_picture_its_map_the_words_and_the_shares() -> None:
    for text in (drawn.mixed().to_html(), drawn.mixed()._repr_html_()):
        assert text.count("<img ") == 2
        assert '<mark class="for" style="--s:0.25" title="+0.5">is</mark>' in text
        assert "73&nbsp;% picture, 18&nbsp;% text, 6&nbsp;% written before, 2&nbsp;% special" in text
        assert ">-2</b>" in text
        assert ">0,1<" not in text
    assert page([drawn.mixed(), drawn.text()]).count("<article") == 2


def test_a_hostile_text_and_label_are_escaped() -> None:
    labels, source = (
        ("<img src=x>", "</script>"),
        Interleaved("<image> what is it <", (np.zeros((40, 90, 3), np.uint8),)),
    )
    one = drawn.mixed(labels=labels, source=source)
    for text in (one.to_html(), one._repr_html_(), written(one).to_html()):
        assert "<img src=x>" not in text
        assert "</script>&" not in text
        assert "it <<" not in text
        assert "&lt;image&gt;" in text


def test_the_terminal_shows_pictures_and_words(capsys: pytest.CaptureFixture[str]) -> None:
    one = drawn.mixed()
    terminal.show(one, Console(no_color=True, width=100))
    plain = capsys.readouterr().out
    assert " · ##  ·\n ·  · --\n" in plain
    assert "is(+0.5)" in plain
    assert "73 % picture" in plain
    terminal.show(one, Console(force_terminal=True, color_system="truecolor", width=60))
    assert "\u2580" in capsys.readouterr().out
    assert highlight(one, colour=False).plain == "<image> what is(+0.5) it ?"


def test_a_vector_figure_has_the_pictures_the_words_and_one_scale(tmp_path: Path) -> None:
    one = drawn.mixed()
    root = ElementTree.parse(one.save(tmp_path / "mixed.svg")).getroot()
    kinds = [child.tag.rpartition("}")[2] for child in root]
    assert kinds.count("image") == 2 * one.pictures
    told = [child.text for child in root if child.tag.endswith("text")]
    assert [text for text in told if text in ("what", "is", "it", "?")] == ["what", "is", "it", "?"]
    assert told.count("0") == 1  # one legend
    assert any("73 % picture" in (text or "") for text in told)
    coloured = [child for child in root if child.tag.endswith("rect")]
    assert len(coloured) == 2 + sum(word.score != 0 for word in one.words()) + sum(w.score < 0 for w in one.words())


def test_a_vector_figure_of_words_that_speak_for_the_class_alone(tmp_path: Path) -> None:
    one = drawn.mixed()
    both, positive = (
        ElementTree.parse(one.save(tmp_path / f"{flag}.svg", positive=flag)).getroot() for flag in (False, True)
    )
    rectangles = [sum(child.tag.endswith("rect") for child in root) for root in (both, positive)]
    assert rectangles[0] - rectangles[1] == 2 * sum(word.score < 0 for word in one.words()) > 0


def test_axes_of_both(tmp_path: Path) -> None:
    matplotlib = pytest.importorskip("matplotlib")
    matplotlib.use("agg")
    one = drawn.mixed()
    ax = one.plot()
    pictures = [inner for inner in ax.child_axes if inner.images]
    assert len(pictures) == one.pictures
    written = [text.get_text() for inner in ax.child_axes for text in inner.texts]
    assert [text for text in written if text in ("what", "is", "it", "?")] == ["what", "is", "it", "?"]
    (bar,) = [inner for inner in ax.child_axes if inner.get_xlabel()]
    assert bar.get_xlim()[1] == pytest.approx(wording.scale(one))
    assert one.save(tmp_path / "mixed.pdf").read_bytes().startswith(b"%PDF")
    with pytest.raises(InputError, match="by block are of words or of a picture"):
        one.plot(layers=True)
    matplotlib.pyplot.close("all")


def test_methods_side_by_side_show_pictures_and_words(tmp_path: Path) -> None:
    one = drawn.mixed()
    compared = attcat.Comparison((one, replace(one, method="other", layers=-one.layers)), (0.1, 0.2))
    page = compared.to_html()
    assert page.count("<img") == 3 * one.pictures
    assert page.count('<table class="methods">') == 1
    taller, shorter = compared.to_image(), attcat.Comparison((one,), (0.1,)).to_image()
    assert taller.height > shorter.height  # the words of each method
    assert compared.save(tmp_path / "two.png").read_bytes().startswith(b"\x89PNG")


def test_a_figure_holds_so_many_lines_of_words(tmp_path: Path) -> None:
    one = drawn.mixed()
    many = replace(one, source=Interleaved(f"<image> what is it {'word ' * 9000}", (np.zeros((40, 90, 3), np.uint8),)))
    with pytest.raises(InputError, match="40 lines of words"):
        many.to_image()
    assert one.save(tmp_path / "mixed.png").read_bytes().startswith(b"\x89PNG")


def test_the_veil_has_the_colours_of_the_overlay() -> None:
    colours = mixed.veil(np.array([[1.0, -1.0, 0.05, 0.5]]))[0]
    assert colours[0].tolist() == [*image.LIGHT, round(255 * image.OPACITY)]
    assert colours[1].tolist() == [*image.DARK, round(255 * image.OPACITY)]
    assert (colours[2, 3], colours[3, 3]) == (0, round(255 * float(image.opacity(np.array(0.5)))))


# -- what was written --------------------------------------------------------------------------------------------------


def written(last: Explanation) -> Generation:
    """Of "what is", "it" and "?" were written: the first of them by the opposite of the scores of the second."""
    count = len(last.tokens)
    tokens = last.tokens
    flags = [at < count - 2 for at in range(count)]
    before = replace(
        last, layers=-last.layers[:, : count - 2], tokens=tokens.kept(flags), start=count - 2, value=None, bias=None
    )
    middle = replace(
        last, layers=last.layers[:, : count - 1], tokens=tokens.kept([*flags[:-1][: count - 2], True, False])
    )
    middle = replace(middle, start=count - 2, value=None, bias=None)
    assert isinstance(last.source, Interleaved)
    text = last.source.text
    return Generation(text[16:], tokens, count - 2, text[:16], Stored((before, middle)))


def test_a_picture_is_one_source_of_a_written_word_and_its_patches_set_the_scale() -> None:
    from attcat.render.generation import Sheet

    generation = written(drawn.mixed())
    sheet = Sheet(*generation._drawn)
    units = sheet.units()
    assert [unit.text for unit in units] == ["<s>", "the picture", "<row>", "<row>", "what", "is", "it", "?"]
    rows = units[6:]
    scores, maps = sheet.scores(units, rows), sheet.maps(rows)
    torch.testing.assert_close(scores[1], torch.tensor([0.1, 1.0, 0.0, 0.0, 0.0, 0.5, -0.25, 0.0]))
    torch.testing.assert_close(maps[0][0], -maps[0][1])
    signed, cells = sheet.strengths(units, scores, maps)
    torch.testing.assert_close(cells[0][1], torch.tensor([[0.0, 1.0, 0.0], [0.0, 0.0, -0.5]]))
    torch.testing.assert_close(signed[1], torch.tensor([0.05, 0.5, 0.0, 0.0, 0.0, 0.25, -0.125, 0.0]))


def test_a_page_of_what_was_written_holds_the_picture_once(tmp_path: Path) -> None:
    generation = written(drawn.mixed())
    text = generation.to_html()
    assert text.count("data:image/jpeg") == 1
    assert text.count('class="veil"') == 1
    assert 'data-map0="0 -100 0 0 0 50"' in text
    assert 'data-map0="0 100 0 0 0 -50"' in text
    assert "@" not in text[text.index("<script>") :]
    figure = generation.to_image()
    assert figure.width > 400
    for suffix in (".json", ".safetensors"):
        path = generation.save(tmp_path / f"written{suffix}")
        read = Generation.load(path)
        assert read.explanations[1].source == generation.explanations[1].source
        assert torch.equal(read.matrix, generation.matrix)
        assert read.tokens == generation.tokens
    assert len(json.loads((tmp_path / "written.json").read_text())["pictures"]) == 1


def test_the_terminal_names_the_picture_among_the_sources(capsys: pytest.CaptureFixture[str]) -> None:
    from attcat.render import generation

    generation.show(*written(drawn.mixed())._drawn, console=Console(no_color=True, width=100))
    out = capsys.readouterr().out
    assert "the picture -1  is -0.5" in out
    assert "the picture +1  is +0.5" in out


# -- elsewhere ---------------------------------------------------------------------------------------------------------


def test_the_examples_of_the_page_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of docs/mixed.md."""
    monkeypatch.chdir(tmp_path)
    text = (Path(__file__).parents[1] / "docs" / "mixed.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    exec(compile(block, "mixed.md", "exec"), {"explanation": drawn.mixed()})
    assert (tmp_path / "answer.html").stat().st_size > 5000


def test_tables_and_summaries_that_hold_one_kind_refuse_both() -> None:
    with pytest.raises(
        InputError, match=r"explanation 1 is of words and pictures in one sequence: aggregate the parts"
    ):
        attcat.aggregate([drawn.mixed()] * 3)
    assert attcat.aggregate([drawn.mixed().of_text()] * 3, minimum=2).inputs == 3
    with pytest.raises(InputError, match="do not fit in these columns"):
        columns._row(drawn.mixed())

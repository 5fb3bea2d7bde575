"""Several methods on one input: the same class, one scale each, drawn side by side."""

from __future__ import annotations

import io
import re
from pathlib import Path

import numpy as np
import pytest
import saved
import torch
from PIL import Image
from rich.console import Console
from tokenizers_small import wordpiece
from zoo import FAMILIES

import attcat
from attcat import cli
from attcat.cli import evaluate
from attcat.comparison import METHODS_COMPARED
from attcat.methods import DEFAULT
from attcat.render import comparison as drawn

SENTENCE = "a <b>film</b>"


@pytest.fixture(scope="module")
def words() -> attcat.Comparison:
    return attcat.compare(FAMILIES["bert"].model(), wordpiece(), SENTENCE, ["attcat", "attcat+plain", "random"])


@pytest.fixture(scope="module")
def patches() -> attcat.Comparison:
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 90, 3), dtype=np.uint8))
    return attcat.compare(FAMILIES["timm-vit"].model(), None, picture, ["attcat", "rollout", "attention", "random"])


def test_each_is_what_the_method_says_alone(words: attcat.Comparison) -> None:
    for name, explanation in zip(["attcat", "attcat+plain", "random"], words.explanations, strict=True):
        alone = attcat.Explainer(FAMILIES["bert"].model(), wordpiece(), method=name)(SENTENCE)
        assert torch.equal(alone.layers, explanation.layers)
    assert all(seconds > 0 for seconds in words.seconds)
    assert len({explanation.target for explanation in words.explanations}) == 1


def test_all_explain_the_target_that_was_asked_for() -> None:
    compared = attcat.compare(FAMILIES["bert"].model(), wordpiece(), "a film", target=2)
    assert [e.method for e in compared.explanations] == [name.partition("+")[0] for name in METHODS_COMPARED]
    assert {e.target for e in compared.explanations} == {2}


def test_the_method_that_explains_when_none_is_named_stands_first() -> None:
    assert METHODS_COMPARED[0] == DEFAULT
    assert evaluate.METHODS.split(",")[0] == DEFAULT


def test_a_comparison_says_which_methods_know_no_class(
    words: attcat.Comparison, capsys: pytest.CaptureFixture[str]
) -> None:
    told = "The scores of random would be the same for every class: they speak neither for it nor against it."
    for text in (words.note, words.to_html(), words._repr_html_()):
        assert told in text
    words.show()
    assert "random would be the same" in " ".join(capsys.readouterr().out.split())
    known = attcat.Comparison(words.explanations[:2], words.seconds[:2])
    assert known.note == drawn.OWN_SCALE


def test_methods_that_need_references_get_them() -> None:
    model = FAMILIES["bert"].model()
    compared = attcat.compare(
        model, wordpiece(), "a film", ["attcat", "contrast_cat"], references=["boring", "the end"]
    )
    assert compared.explanations[1].options["references"] == "2 given"
    with pytest.raises(attcat.InputError, match="no references"):
        attcat.compare(model, wordpiece(), "a film", ["contrast_cat"])


@pytest.mark.parametrize(
    ("value", "methods", "message"),
    [(["a", "b"], ["attcat"], "takes one input"), ("a", [], "no methods"), ("a", ["attcat", "x"], "no method 'x'")],
)
def test_what_cannot_be_compared(value: object, methods: list[str], message: str) -> None:
    with pytest.raises(attcat.AttCATError, match=message):
        attcat.compare(FAMILIES["bert"].model(), wordpiece(), value, methods)


def test_different_inputs_are_not_a_comparison(words: attcat.Comparison, patches: attcat.Comparison) -> None:
    with pytest.raises(ValueError, match="different inputs"):
        attcat.Comparison((words.explanations[0], patches.explanations[0]), (1.0, 1.0))
    with pytest.raises(ValueError, match="1 explanations, but 0 times"):
        attcat.Comparison(words.explanations[:1], ())


def test_a_page_shows_every_method_and_escapes(words: attcat.Comparison) -> None:
    page = words.to_html()
    for name in ("attcat+libra", "attcat+plain", "random"):
        assert f"<b>{name}</b>" in page
    assert "<b>film" not in page
    assert not re.search(r"https?:", page)
    assert page.count('class="text"') == 3
    assert "<style>" in words._repr_html_()


def test_a_figure_has_a_panel_for_each_method(patches: attcat.Comparison) -> None:
    small, panels = patches.to_image(), list(drawn._panels(patches.timed))
    assert [caption.partition(",")[0] for _, caption in panels] == [
        "input",
        "attcat+libra",
        "rollout",
        "attention",
        "random",
    ]
    assert {pixels.shape for pixels, _ in panels} == {(120, 180, 3)}  # a whole multiple of 60 x 90
    assert small.width > 4 * 180  # four in a row
    assert not np.array_equal(panels[1][0], panels[2][0])
    assert patches.to_html().count("<img") == 5


def test_pictures_that_are_not_known() -> None:
    model, arguments = FAMILIES["vit"].model(), FAMILIES["vit"].arguments(1)
    compared = attcat.compare(model, None, arguments, ["attcat", "rollout"])
    assert compared.to_html().count("<img") == 2
    with pytest.raises(attcat.InputError, match=r"needs a picture.*\.html"):
        compared.to_image()


def test_in_the_terminal_a_row_for_each(words: attcat.Comparison, patches: attcat.Comparison) -> None:
    for compared, told in ((words, "film"), (patches, "strongest patch")):
        file = io.StringIO()
        drawn.show(compared.timed, Console(file=file, width=200))
        rows = file.getvalue().splitlines()
        assert all(told in row and (" ms " in row or " s " in row) for row in rows[1:-1])
        assert len(rows) == 2 + len(compared.explanations)


@pytest.mark.parametrize(("seconds", "told"), [(0.0123, "12 ms"), (1.5, "1.50 s")])
def test_times_are_shown_briefly(seconds: float, told: str) -> None:
    assert drawn.duration(seconds) == told


def test_save(words: attcat.Comparison, patches: attcat.Comparison, tmp_path: Path) -> None:
    assert words.save(tmp_path / "a.html").read_text(encoding="utf-8") == words.to_html()
    with Image.open(patches.save(tmp_path / "a.png")) as picture:
        assert picture.size == patches.to_image().size
    for path in ("a.json", "a.txt"):
        with pytest.raises(attcat.InputError, match=r"use one of \.html"):
            words.save(tmp_path / path)
    with pytest.raises(attcat.InputError, match="needs a picture"):
        words.save(tmp_path / "b.png")


def test_the_command(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    model, page = saved.save_text(tmp_path / "model"), tmp_path / "page.html"
    arguments = ["compare", "a film", "--model", str(model), "--methods", "attcat,contrast_cat,random"]
    assert cli.run([*arguments, "--reference", "boring", "--output", str(page)]) == 0
    rows = [line.split("\t") for line in capfd.readouterr().out.splitlines()]
    assert [row[0] for row in rows] == ["attcat+libra", "contrast_cat+libra", "random", f"wrote {page}"]
    assert "contrast_cat" in page.read_text(encoding="utf-8")
    for wrong, told in (
        (["--output", "x.json"], "a comparison is drawn as .html"),
        (["--methods", "attcat,nope"], "no method 'nope'"),
        (["--methods", ","], "no methods to compare"),
    ):
        assert cli.run([*arguments, *wrong]) == 2
        assert told in capfd.readouterr().err

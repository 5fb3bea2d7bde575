"""A whole data set at a glance: `attcat.aggregate` and `attcat summary`."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats

import attcat
from attcat.cli import run
from attcat.explanation import Explanation
from attcat.tokens import Tokens, View


def text(source: str, scores: list[float], logits: tuple[float, float] = (0.0, 2.0), **changes: object) -> Explanation:
    """An explanation of a text whose words are what white space separates."""
    spans, at = [], 0
    for word in source.split():
        start = source.index(word, at)
        at = start + len(word)
        spans.append((start, at))
    words = tuple(source.split())
    tokens = Tokens(words, (False,) * len(words), spans=tuple(spans), words=tuple(range(len(words))))
    given = {"target": int(logits[1] > logits[0]), "labels": ("bad", "good"), "method": "attcat", **changes}
    return Explanation(torch.tensor([scores]), tokens, torch.tensor(logits), source=source, **given)  # type: ignore[arg-type]


def picture(grid: np.ndarray, pixels: np.ndarray | None = None) -> Explanation:
    """An explanation of a picture of 10 pixels to a patch."""
    rows, columns = grid.shape
    tokens = Tokens(
        tuple(f"{r},{c}" for r in range(rows) for c in range(columns)),
        (False,) * grid.size,
        grid=(rows, columns),
        view=View(10 * columns, 10 * rows, (0, 0, 10 * columns, 10 * rows)),
    )
    layers = torch.tensor(grid, dtype=torch.float32).reshape(1, -1)
    return Explanation(layers, tokens, torch.tensor([0.0, 1.0]), 1, ("cat", "dog"), "attcat", source=pixels)


def test_mean_and_interval_are_those_of_the_inputs() -> None:
    values = [0.5, 0.1, 0.9, 0.4]
    summary = attcat.aggregate(text(f"Fun, film {at}", [value, 0.0, 0.0]) for at, value in enumerate(values))
    (term,) = [term for term in summary.group("good").terms if term.text == "fun"]
    low, high = stats.t.interval(0.95, 3, loc=np.mean(values), scale=stats.sem(values))
    assert (term.inputs, term.count) == (4, 4)
    assert (term.mean, term.low, term.high) == pytest.approx((np.mean(values), low, high), rel=1e-5)


def test_a_word_that_occurs_twice_counts_once_for_its_input() -> None:
    summary = attcat.aggregate([text("so so", [1.0, 3.0]), text("so", [4.0]), text("so", [6.0])], minimum=2)
    (term,) = summary.groups[0].terms
    assert (term.inputs, term.count, term.mean) == (3, 4, pytest.approx(4.0))


def test_quotes_are_the_strongest_places_and_say_where() -> None:
    given = [text(f"very fun {at}", [0.0, float(at), 0.0]) for at in range(5)]
    summary = attcat.aggregate(given, names=[f"review {at}" for at in range(5)])
    term = next(term for term in summary.groups[0].terms if term.text == "fun")
    assert [(quote.name, quote.before, quote.text, quote.after) for quote in term.quotes] == [
        ("review 4", "very ", "fun", " 4"),
        ("review 3", "very ", "fun", " 3"),
    ]


def test_a_word_that_is_equally_strong_twice_in_an_input_is_quoted() -> None:
    """Places of one strength in one input: the first of them are kept until a stronger one comes."""
    summary = attcat.aggregate([text("so so so so", [1.0] * 4), text("so", [1.0]), text("so", [2.0])])
    (term,) = summary.groups[0].terms
    assert [quote.score for quote in term.quotes] == [2.0, 1.0, 1.0][: len(term.quotes)]
    assert term.quotes[0].name == "3"


def test_mistakes_stand_apart() -> None:
    good, bad = (0.0, 2.0), (2.0, 0.0)
    given = [text("a film", [0.1, 0.2], logits) for logits in (good, good, bad, bad, bad)]
    summary = attcat.aggregate(given, ["good", "BAD", 0, "1", None])
    found = [(group.label, group.mistaken, group.inputs) for group in summary.groups]
    assert found == [("bad", False, 1), ("bad", None, 1), ("good", False, 1), ("bad", True, 1), ("good", True, 1)]
    assert summary.group("good", mistaken=True).inputs == 1


def test_a_class_that_was_asked_for_but_not_predicted_is_no_mistake() -> None:
    summary = attcat.aggregate([text("a film", [0.1, 0.2], target=0)], ["good"])
    assert [(group.label, group.mistaken) for group in summary.groups] == [("bad", None)]


@pytest.mark.parametrize(
    ("given", "options", "message"),
    [
        ([], {}, "no explanations"),
        ([text("a", [1.0]), text("a", [1.0], method="cat")], {}, "one kind and one method"),
        ([text("a", [1.0]), picture(np.ones((2, 2)))], {}, "one kind and one method"),
        ([text("a", [1.0])] * 2, {"truth": ["good"]}, "end before explanation 2"),
        ([text("a", [1.0])], {"truth": ["great"]}, "none of the model's: 'bad', 'good'"),
        ([text("a", [1.0])], {"minimum": 1}, "at least 2"),
    ],
)
def test_what_cannot_be_taken_together_is_refused(given: list, options: dict, message: str) -> None:
    with pytest.raises(attcat.InputError, match=message):
        attcat.aggregate(given, **options)


def test_only_words_that_leave_out_zero_are_shown() -> None:
    given = [text("up even down", [1 + step, step, -1 + step]) for step in (-0.1, 0.0, 0.1)]
    supports, against = attcat.aggregate(given).groups[0].sides()
    assert [term.text for term in supports] == ["up"]
    assert [term.text for term in against] == ["down"]


def test_positions_keep_the_sum_and_the_place_whatever_the_grid() -> None:
    corner = np.zeros((2, 3))
    corner[0, 2] = 2.0
    fine = np.zeros((24, 30))
    fine[:12, 20:] = 0.5
    summary = attcat.aggregate([picture(corner), picture(fine)])
    positions = summary.group("dog").positions
    assert positions is not None
    assert positions.sum() == pytest.approx(1.0)
    assert positions[:6, 8:].sum() == pytest.approx(1.0)


def test_the_strongest_piece_of_a_picture_holds_its_patch() -> None:
    pixels = np.zeros((40, 60, 3), dtype=np.uint8)
    pixels[10:20, 40:50] = (255, 0, 0)
    grid = np.full((4, 6), 0.01)
    grid[1, 4] = 3.0
    (crop,) = attcat.aggregate([picture(grid, pixels)], names=["a.jpg"]).group("dog").crops
    middle = crop.pixels[crop.pixels.shape[0] // 2, crop.pixels.shape[1] // 2]
    assert crop.name == "a.jpg"
    assert middle.tolist() == [255, 0, 0]
    assert crop.share == pytest.approx(3.0 / (3.0 + 0.01 * 23))


def test_what_comes_from_outside_is_escaped() -> None:
    hostile = "<script>alert(1)</script>"
    given = [text(f"{hostile} x", [1.0 + 0.1 * at, 0.0], labels=("bad", "<b>")) for at in range(3)]
    page = attcat.aggregate(given, names=[f'"{hostile}'] * 3).to_html()
    assert hostile not in page
    assert "&lt;script&gt;" in page


def test_records_are_what_is_saved(tmp_path: Path) -> None:
    summary = attcat.aggregate([text("a film", [0.1, 0.2 + at]) for at in range(3)])
    summary.save(tmp_path / "s.csv")
    summary.save(tmp_path / "s.json")
    with (tmp_path / "s.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["word"] for row in rows] == ["film", "a"]
    assert json.loads((tmp_path / "s.json").read_text())["rows"] == summary.records()
    assert summary.to_frame()["inputs"].tolist() == [3, 3]
    with pytest.raises(attcat.InputError, match=r"\.html"):
        summary.save(tmp_path / "s.png")


def test_the_command_lists_words_and_writes_a_page(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "reviews.tsv"
    lines = [f"a {word} film\t{label}" for word, label in [("gripping", 1), ("dull", 0)] * 4]
    data.write_text("sentence\tlabel\n" + "\n".join(lines) + "\n")
    assert run(["summary", str(data), "--output", str(tmp_path / "s.html")]) == 0
    printed = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert printed[0] == ["label", "mistaken", "word", "segment", "inputs", "count", "mean", "low", "high"]
    best = {row[0]: row[2] for row in reversed(printed[1:-1])}
    assert best == {"positive": "gripping", "negative": "dull"}
    assert "gripping" in (tmp_path / "s.html").read_text()


def test_the_command_refuses_an_output_before_it_works(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["summary", str(tmp_path / "none.tsv"), "--output", "s.png"]) == 2
    assert ".html" in capsys.readouterr().err


def test_the_command_tells_where_on_pictures_and_what_misled(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each class with its strongest place; a page with its map and the strongest pieces."""
    import saved

    for name in ("cat", "dog"):
        (tmp_path / "data" / name).mkdir(parents=True)
        for number in range(2):
            pixels = np.random.default_rng(number).integers(0, 256, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "data" / name / f"{number}.png")
    model = saved.save_image(tmp_path / "model")
    command = ["summary", str(tmp_path / "data"), "--model", str(model), "--method", "cat", "--truncation"]
    assert run(command[:-1]) == 0
    printed = capsys.readouterr().out
    assert run([*command[:-1], "--output", str(tmp_path / "s.html")]) == 0
    page = (tmp_path / "s.html").read_text()
    assert "where on the picture: mean share of the magnitude" in page
    assert "The strongest patch of each picture" in page
    assert "0.png: " in page
    assert printed.splitlines()[0].split("\t")[0] == "label"


def test_a_terminal_shows_words_and_places(capsys: pytest.CaptureFixture[str]) -> None:
    grid = np.zeros((3, 3))
    grid[2, 0] = 1.0
    attcat.aggregate([picture(grid), picture(grid * 2)]).show()
    shown = capsys.readouterr().out
    assert "strongest place: bottom left" in shown
    attcat.aggregate([text("up even down", [1 + step, step, -1 + step]) for step in (-0.1, 0.0, 0.1)]).show()
    shown = capsys.readouterr().out
    assert [line.split()[:2] for line in shown.splitlines() if line.startswith(("up", "down"))] == [
        ["up", "3"],
        ["down", "3"],
    ]
    attcat.aggregate([text("so so", [step, step]) for step in (-1.0, 0.0, 1.0)]).show()
    assert "no word stands out from zero" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("cell", "place"),
    [((0, 0), "top left"), ((1, 1), "middle centre"), ((2, 2), "bottom right"), ((0, 2), "top right")],
)
def test_a_place_is_told_in_words(cell: tuple[int, int], place: str) -> None:
    from attcat.render.summary import strongest

    positions = np.zeros((3, 3))
    positions[cell] = 1.0
    assert strongest(positions) == place
    assert strongest(np.repeat(np.repeat(positions, 4, 0), 5, 1)) == place

"""The result type: words, heatmap, saving and loading, and what its constructors refuse."""

import json
import re
import sys
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch

from attcat.attribution import CLASSLESS
from attcat.errors import InputError
from attcat.explanation import Explanation, load
from attcat.files import write_atomically
from attcat.methods import METHODS
from attcat.render import report, wording
from attcat.tokens import Tokens, View, Word, group_words

OPTIONS = {"rule": "libra", "hidden": "input"}


def explain(scores, tokens, source=None, **changes):
    """An explanation of two blocks that share the scores as 3 : 1."""
    scores = torch.tensor(scores, dtype=torch.float32)
    given = {"logits": torch.tensor([2.0, 0.5]), "target": 0, "labels": ("yes", "no"), "method": "attcat"}
    given |= {"options": OPTIONS, "source": source, "model": "Tiny"}
    return Explanation(torch.stack([0.75 * scores, 0.25 * scores]), tokens, **(given | changes))


def text(**changes):
    tokens = Tokens(
        labels=("[CLS]", "grip", "##ping", ",", "really", "[SEP]"),
        special=(True, False, False, False, False, True),
        spans=(None, (2, 6), (6, 10), (10, 11), (13, 19), None),
        words=(None, 0, 0, 1, 2, None),
    )
    return explain([1.0, 0.5, 0.25, -0.5, 2.0, -0.75], tokens, "A gripping,  really", **changes)


def pair():
    tokens = Tokens(
        labels=("a", "b", "</s>", "c"),
        special=(False, False, True, False),
        spans=((0, 1), (2, 3), None, (0, 1)),
        segments=(0, 0, None, 1),
        words=(0, 1, None, 1),
    )
    return explain([1.0, 2.0, 3.0, 4.0], tokens, ("a b", "c"))


def image(grid, width, height, box, *, picture=True, **changes):
    """One class token of score 9, and the given grid of scores."""
    grid = np.asarray(grid, dtype=np.float32)
    labels = ("[CLS]", *(f"{r},{c}" for r in range(grid.shape[0]) for c in range(grid.shape[1])))
    special = (True, *(False for _ in range(grid.size)))
    tokens = Tokens(labels, special, grid=grid.shape, view=View(width, height, box))
    source = np.arange(height * width * 3, dtype=np.uint32).astype(np.uint8).reshape(height, width, 3)
    return explain([9.0, *grid.ravel().tolist()], tokens, source if picture else None, **changes)


# -- words -----------------------------------------------------------------------------------------------------------


def test_pieces_of_a_word_are_summed_and_other_words_kept_apart():
    assert text().words() == [
        Word("gripping", 2, 10, 0.75),
        Word(",", 10, 11, -0.5),
        Word("really", 13, 19, 2.0),
    ]


def test_words_of_a_pair_say_their_segment_and_never_join_across_it():
    assert [(w.text, w.segment, w.score) for w in pair().words()] == [("a", 0, 1.0), ("b", 0, 2.0), ("c", 1, 4.0)]


def test_marks_that_the_tokenizer_dropped_belong_to_the_word_before_them():
    text = "I \u2764\ufe0f cafe\u0301s"
    tokens = Tokens(
        ("i", "\u2764", "cafe", "##s"), (False,) * 4, spans=((0, 1), (2, 3), (5, 9), (10, 11)), words=(0, 1, 2, 2)
    )
    assert [text[start:end] for _, start, end, _ in group_words(tokens, [text])] == ["I", "\u2764\ufe0f", "cafe\u0301s"]


def test_bytes_of_one_emoji_that_share_its_span_are_one_word():
    tokens = Tokens(
        labels=("so", "Ġð", "Ł", "ĺ", "!"),
        special=(False,) * 5,
        spans=((0, 2), (2, 4), (3, 4), (3, 4), (4, 5)),  # the first piece counts the blank before it
        words=(0, 1, 1, 1, 2),
    )
    words = explain([1.0, 2.0, 4.0, 8.0, -1.0], tokens, "so 😀!").words()
    assert [(w.text, w.start, w.end, w.score) for w in words] == [
        ("so", 0, 2, 1.0),
        ("😀", 3, 4, 14.0),
        ("!", 4, 5, -1.0),
    ]


def test_overlap_joins_even_without_word_numbers():
    tokens = Tokens(("x", "y"), (False, False), spans=((0, 2), (1, 3)))
    assert explain([1.0, 2.0], tokens, "abc").words() == [Word("abc", 0, 3, 3.0)]


def test_neighbours_of_the_same_number_are_parted_by_white_space():
    tokens = Tokens(("ab", "cd"), (False, False), spans=((0, 2), (2, 5)), words=(0, 0))
    assert [word.text for word in explain([1.0, 2.0], tokens, "ab cd").words()] == ["ab", "cd"]


def test_tokens_of_white_space_and_empty_spans_make_no_words():
    tokens = Tokens(("Ċ", "a", ""), (False,) * 3, spans=((0, 1), (1, 2), (2, 2)))
    assert [word.text for word in explain([1.0, 2.0, 3.0], tokens, "\na").words()] == ["a"]


def test_words_need_offsets_and_a_text():
    with pytest.raises(InputError, match="fast tokenizer"):
        explain([1.0], Tokens(("a",), (False,)), "a").words()
    with pytest.raises(InputError, match="holds no text"):
        explain([1.0], Tokens(("a",), (False,), spans=((0, 1),))).words()


# -- heatmap ---------------------------------------------------------------------------------------------------------


def test_heatmap_has_each_cell_at_its_centre_in_a_cropped_wide_picture():
    # The model saw 8 x 8 pixels in the middle of 20 x 8, a cell to 4 pixels: cell centres lie at x = 8 and 12.
    heat = image([[1.0, 0.0], [0.0, 0.0]], 20, 8, (6, 0, 14, 8)).heatmap()
    assert heat.shape == (8, 20)
    assert heat.dtype == np.float32
    assert np.isnan(heat[:, :6]).all()
    assert np.isnan(heat[:, 14:]).all()
    assert np.isfinite(heat[:, 6:14]).all()
    np.testing.assert_allclose(heat[0, 6:14], [1, 1, 0.875, 0.625, 0.375, 0.125, 0, 0])
    np.testing.assert_allclose(heat[:, 6], [1, 1, 0.875, 0.625, 0.375, 0.125, 0, 0])


def test_heatmap_of_a_padded_picture_has_only_the_cells_that_lie_on_it():
    # The model saw 12 x 4 pixels, of which the picture is the middle 4 x 4: the middle cell of three.
    heat = image([[5.0, 1.0, 7.0]], 4, 4, (-4, 0, 8, 4)).heatmap()
    np.testing.assert_allclose(heat[0], [2.5, 1.5, 1.75, 3.25])


def test_heatmap_of_a_single_cell_is_flat():
    np.testing.assert_array_equal(image([[3.0]], 3, 2, (0, 0, 3, 2)).heatmap(), np.full((2, 3), 3.0, np.float32))


def test_heatmap_covers_the_picture_when_the_view_is_not_known():
    made = image([[1.0, 2.0]], 6, 3, (0, 0, 6, 3))
    unknown = replace(made, tokens=replace(made.tokens, view=None))
    np.testing.assert_array_equal(unknown.heatmap(), made.heatmap())
    bare = replace(unknown, source=None)
    np.testing.assert_array_equal(bare.heatmap(), [[1.0, 2.0]])


def test_heatmap_of_a_text_is_refused():
    with pytest.raises(InputError, match=r"words\(\)"):
        text().heatmap()


# -- what is shown ---------------------------------------------------------------------------------------------------


def test_scores_are_the_sum_of_the_layers():
    made = text()
    torch.testing.assert_close(made.scores, made.layers[0] + made.layers[1])


def test_one_block_is_an_explanation_of_its_own():
    whole = text(value=2.0, bias=0.1)
    parts = [whole.of_block(number) for number in (1, 2)]
    assert torch.equal(parts[1].scores, whole.layers[1])
    assert [word.score for word in parts[0].words()] == [0.75 * word.score for word in whole.words()]
    assert parts[0].options["block"] == 1
    assert (whole.completeness, parts[0].completeness) == (pytest.approx(-0.6), None)
    for number in (0, 3, -1, True, "1"):
        with pytest.raises(InputError, match="this explanation has 2, counted from 1"):
            whole.of_block(number)
    with pytest.raises(InputError, match="one score for each token"):
        replace(whole, layers=whole.layers[:1], method="rollout").of_block(1)


def test_special_share_is_of_the_absolute_total():
    assert text().special_share == pytest.approx(1.75 / 5.0)
    made = text()
    assert replace(made, layers=torch.zeros_like(made.layers)).special_share == 0.0


def test_probability_belongs_to_the_target():
    assert text().probability == pytest.approx(torch.tensor([2.0, 0.5]).softmax(0)[0].item())
    assert text(target=1).label == "no"
    assert text(target=1).predicted == 0
    assert text(target=None).label == "custom target"
    assert text(target=None).probability is None
    assert text(logits=torch.tensor([0.0]), labels=("spam",)).probability == 0.5
    assert repr(text()) == "<Explanation of 'yes' (81.8%) by attcat (rule=libra, hidden=input): 6 tokens>"


# -- save and load ---------------------------------------------------------------------------------------------------


def bare():
    return explain([1.0, 2.0], Tokens(("a", "b"), (False, False)), None, target=None, dropped=3)


def photo():
    return image([[0.1, -0.2], [0.3, 1e-30]], 5, 4, (0.5, 0.0, 4.5, 4.0))


@pytest.mark.parametrize("suffix", [".json", ".safetensors", ".JSON"])
@pytest.mark.parametrize("make", [text, pair, bare, photo])
def test_loading_gives_back_everything_that_was_saved(tmp_path, make, suffix):
    made = make()
    back = load(made.save(tmp_path / f"result{suffix}"))
    assert torch.equal(back.layers, made.layers)
    assert torch.equal(back.logits, made.logits)
    assert back.tokens == made.tokens
    assert type(back.source) is type(made.source)
    assert np.array_equal(back.source, made.source)
    for name in ("target", "labels", "method", "options", "model", "dropped"):
        assert getattr(back, name) == getattr(made, name)


def test_pixels_that_cannot_be_written_are_saved_without_a_warning(tmp_path):
    made = photo()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert np.array_equal(load(made.save(tmp_path / "a.safetensors")).source, made.source)


def test_json_can_be_read_by_others(tmp_path):
    record = json.loads(text().save(tmp_path / "a.json").read_text())
    assert record["scores"] == [1.0, 0.5, 0.25, -0.5, 2.0, -0.75]
    assert record["tokens"]["labels"][1] == "grip"


def test_another_suffix_is_refused_and_the_known_ones_listed(tmp_path):
    with pytest.raises(InputError, match=r"'a.txt'.*\.json, \.safetensors, \.html, \.png"):
        text().save(tmp_path / "a.txt")
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(InputError, match=r"\.json and \.safetensors"):
        load(tmp_path / "a.txt")
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "none.json")


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("a.json", b""),
        ("a.json", b"[1, 2]"),
        ("a.json", b'{"format": "attcat-explanation-1"}'),
        ("a.json", b"\xff\xfe"),
        ("a.safetensors", b""),
        ("a.safetensors", b"\x08\x00\x00\x00\x00\x00\x00\x00{}      "),
        ("a.safetensors", b"not tensors at all"),
    ],
)
def test_a_file_that_is_not_an_explanation_is_one_clear_error(tmp_path, name, data):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(InputError, match="is not an explanation that was saved by AttCAT"):
        load(tmp_path / name)


@pytest.mark.parametrize("make", [text, photo])
@pytest.mark.parametrize("suffix", [".json", ".safetensors"])
def test_a_truncated_file_is_one_clear_error(tmp_path, make, suffix):
    path = make().save(tmp_path / f"a{suffix}")
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(InputError, match="is not an explanation"):
        load(path)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("format",), "attcat-explanation-99"),
        (("target",), 7),
        (("tokens", "spans"), [None, [2, 600], [6, 10], [10, 11], [13, 19], None]),
        (("source", "texts"), []),
        (("labels",), ["one"]),
    ],
)
def test_a_file_that_contradicts_itself_is_one_clear_error(tmp_path, path, value):
    file = text().save(tmp_path / "a.json")
    record = json.loads(file.read_text())
    inner = record
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = value
    file.write_text(json.dumps(record))
    with pytest.raises(InputError, match="is not an explanation"):
        load(file)


def test_a_broken_picture_inside_is_one_clear_error(tmp_path):
    file = photo().save(tmp_path / "a.json")
    record = json.loads(file.read_text())
    record["source"]["png"] = record["source"]["png"][:20]
    file.write_text(json.dumps(record))
    with pytest.raises(InputError, match="is not an explanation"):
        load(file)


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = text().save(tmp_path / "a.json")
    before = path.read_bytes()

    def full(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(OSError, match="no space"):
        pair().save(path)
    assert path.read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["a.json"]


def test_a_failed_rendering_leaves_the_old_file(tmp_path):
    path = photo().save(tmp_path / "a.png")
    before = path.read_bytes()
    with pytest.raises(InputError, match="of a text"):
        text().save(path)
    assert path.read_bytes() == before


def test_writing_makes_the_folder_and_a_file_that_others_may_read(tmp_path):
    path = tmp_path / "new" / "folder" / "a.bin"
    write_atomically(path, b"data")
    assert path.read_bytes() == b"data"
    ordinary = tmp_path / "ordinary"
    ordinary.touch()
    assert path.stat().st_mode == ordinary.stat().st_mode


# -- what the constructors refuse --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["special", "spans", "segments", "words"])
def test_tokens_of_different_lengths_are_refused(name):
    entry = False if name == "special" else None
    with pytest.raises(ValueError, match=f"2 tokens, but {name} has 3 entries"):
        Tokens(**({"labels": ("a", "b"), "special": (False, False)} | {name: (entry,) * 3}))


def test_a_grid_holds_the_tokens_that_are_not_special():
    with pytest.raises(ValueError, match="2 x 2 patches does not hold 3"):
        Tokens(("[CLS]", "a", "b", "c"), (True, False, False, False), grid=(2, 2))
    with pytest.raises(ValueError, match="there is no grid"):
        Tokens(("a",), (False,), view=View(1, 1, (0, 0, 1, 1)))


@pytest.mark.parametrize("box", [(0, 0, 0, 1), (0, 1, 1, 1), (2, 0, 1, 1)])
def test_a_view_covers_an_area(box):
    with pytest.raises(ValueError, match="covers no area"):
        View(2, 2, box)


def test_a_view_is_of_a_picture():
    with pytest.raises(ValueError, match="at least one pixel, got 0 x 2"):
        View(0, 2, (0, 0, 1, 1))


def test_an_explanation_fits_its_tokens_labels_and_target():
    made = text()
    with pytest.raises(ValueError, match=r"shape \(2, 3\), expected \[L, 6\]"):
        replace(made, layers=torch.zeros(2, 3))
    with pytest.raises(ValueError, match="1 labels"):
        replace(made, labels=("one",), target=0)
    with pytest.raises(ValueError, match="target 2 is not one of 2"):
        replace(made, target=2)


def test_an_explanation_fits_its_text():
    with pytest.raises(ValueError, match=r"token 3 has the characters \(10, 11\) of text 0"):
        replace(text(), source="A gripping")
    with pytest.raises(ValueError, match="of text 1"):
        replace(pair(), source="a b c")


def test_an_explanation_fits_its_picture():
    made = photo()
    with pytest.raises(ValueError, match=r"uint8 \[H, W, 3\], got float32"):
        replace(made, source=made.source.astype(np.float32))
    with pytest.raises(ValueError, match="view is of 5 x 4 pixels, the picture has 4 x 5"):
        replace(made, source=made.source.transpose(1, 0, 2))
    with pytest.raises(ValueError, match="tokens have none"):
        replace(text(), source=made.source)


def test_files_from_before_there_were_other_tasks_are_read(tmp_path):
    path = text(target=1).save(tmp_path / "old.json")
    record = json.loads(path.read_text())
    for name in ("task", "activation", "rest", "position", "answers", "windows"):
        del record[name]
    path.write_text(json.dumps(record))
    loaded = load(path)
    assert (loaded.task, loaded.activation, loaded.windows) == ("classification", "softmax", ())
    assert torch.equal(loaded.probabilities, text(target=1).probabilities)


# -- tables ------------------------------------------------------------------------------------------------------------


def test_records_of_a_text_have_score_share_and_rank():
    rows = text().records()
    assert [(row["text"], row["start"], row["end"], row["score"]) for row in rows] == [
        ("gripping", 2, 10, 0.75),
        (",", 10, 11, -0.5),
        ("really", 13, 19, 2.0),
    ]
    assert [row["rank"] for row in rows] == [2, 3, 1]
    assert [row["share"] for row in rows] == pytest.approx([0.75 / 3.25, 0.5 / 3.25, 2 / 3.25])
    assert [row["segment"] for row in pair().records()] == [0, 0, 1]
    bare = replace(text(), tokens=replace(text().tokens, spans=None, words=None))
    assert [row["text"] for row in bare.records()] == ["grip", "##ping", ",", "really"]


def test_records_of_a_picture_lie_on_its_pixels():
    rows = image([[1.0, -2.0], [0.5, 0.0]], 100, 40, (30, 0, 70, 40)).records()
    assert rows[1] == {
        "row": 0, "column": 1, "left": 50, "top": 0, "right": 70, "bottom": 20, "score": -2.0,
        "share": pytest.approx(2 / 3.5), "rank": 1,
    }  # fmt: skip
    assert sum(row["share"] for row in rows) == pytest.approx(1)


def test_records_of_nothing_have_no_share():
    assert [row["share"] for row in image(np.zeros((2, 2)), 4, 4, (0, 0, 4, 4)).records()] == [0.0] * 4


def test_a_frame_has_the_records(monkeypatch):
    pandas = pytest.importorskip("pandas")
    frame = text().to_frame()
    pandas.testing.assert_frame_equal(frame, pandas.DataFrame(text().records()))
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(InputError, match=r"needs pandas: pip install 'attcat\[frame\]'"):
        text().to_frame()


# -- methods that know no class --------------------------------------------------------------------------------------


def test_a_method_that_knows_no_class_is_known_by_its_name():
    assert {name for name, method in METHODS.items() if not method.class_specific} == CLASSLESS
    assert (text().class_specific, text(method="rollout").class_specific) == (True, False)


@pytest.mark.parametrize("make", [text, lambda **changes: image([[1, 2], [3, 4]], 8, 8, (0, 0, 8, 8), **changes)])
@pytest.mark.parametrize("draw", [wording.gist, lambda one: one.to_html(), lambda one: " ".join(wording.sides(one))])
def test_nothing_says_that_its_scores_speak_for_a_class(make, draw):
    script = report.script()
    assert re.search("speaks? (for|against)", draw(make()).replace(script, ""))
    told = draw(make(method="rollout")).replace(script, "")
    assert re.search("any class|every class", told)
    assert not re.search(r"speaks? (for|against)|raised \(\+\)", told)

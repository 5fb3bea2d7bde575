"""Pictures of shapes with known evidence, and the model that answers questions about them."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import attcat
from attcat.demos import embedded, explain_shapes, shapes_page, train_shapes
from attcat.demos.shapes import BEFORE, COLOURS, NUMBERS, SHAPES, SIDE, Scene, prompt, scenes
from attcat.errors import InputError, OptionError
from attcat.evaluation import Plan, read_dataset, run
from attcat.evaluation.tables import Columns
from attcat.metrics.agreement import larger_share_falls_more
from attcat.metrics.localisation import covered


def drawn(count: int = 60, seed: int = 11) -> list[Scene]:
    return list(scenes(seed, count))


def test_pictures_are_the_same_for_a_seed_and_others_for_another() -> None:
    first, again, other = drawn(5), drawn(5), drawn(5, seed=12)
    assert all(
        np.array_equal(a.picture, b.picture) and a.questions == b.questions for a, b in zip(first, again, strict=True)
    )
    assert not any(np.array_equal(a.picture, b.picture) for a, b in zip(first, other, strict=True))
    assert np.array_equal(next(scenes(11, 1, start=3)).picture, first[3].picture)


def test_the_questions_are_english() -> None:
    """No "a orange square": that remark has another word in front of a vowel, one that the model knows."""
    asked = [question.text for scene in drawn(300) for question in scene.questions]
    assert any(" square hangs" in text for text in asked)
    assert not any(re.search(r"\ba [aeiou]", text) for text in asked)


def test_the_picture_has_the_colours_where_the_boxes_are_and_the_ground_elsewhere() -> None:
    for scene in drawn():
        ground = np.ones((SIDE, SIDE), dtype=bool)
        for shape in scene.shapes:
            across, down = (int(value) for value in shape.centre)
            assert tuple(scene.picture[down, across]) == COLOURS[shape.colour]
            left, top, right, bottom = shape.box
            ground[int(top) : int(bottom) + 1, int(left) : int(right) + 1] = False
        assert (scene.picture[ground] == scene.picture[ground][0]).all()


def test_answers_and_evidence_follow_from_the_shapes() -> None:
    """Worked out a second time from the question's text alone."""
    kinds = set()
    for scene in drawn():
        for one in scene.questions:
            asked = one.text.rpartition(" . ")[2]
            words = [one.text[start:end] for start, end in one.spans]
            if match := re.fullmatch(r"what colour is the (\w+) \?", asked):
                chosen = [shape for shape in scene.shapes if shape.kind == match[1]]
                answer, expected = chosen[0].colour, ["colour", match[1]]
                assert len(chosen) == 1
            elif match := re.fullmatch(r"what shape is (\w+) \?", asked):
                chosen = [shape for shape in scene.shapes if shape.colour == match[1]]
                answer, expected = chosen[0].kind, ["shape", match[1]]
                assert len(chosen) == 1
            elif match := re.fullmatch(r"how many (\w+)s are there \?", asked):
                chosen = [shape for shape in scene.shapes if shape.kind == match[1]]
                answer, expected = NUMBERS[len(chosen) - 1], ["many", f"{match[1]}s"]
            else:
                match = re.fullmatch(r"is the (\w+) (left|right|above|below) (?:of )?the (\w+) \?", asked)
                assert match is not None
                chosen = [next(shape for shape in scene.shapes if shape.kind == match[number]) for number in (1, 3)]
                (x, y), (u, v) = (shape.centre for shape in chosen)
                true = {"left": x < u, "right": x > u, "above": y < v, "below": y > v}[match[2]]
                answer, expected = ("yes" if true else "no"), [match[1], match[2], match[3]]
            kinds.add(one.kind)
            assert one.answer == answer
            assert words == expected
            assert set(one.boxes) == {shape.box for shape in chosen}
            assert all(start > one.text.rindex(" . ") for start, _ in one.spans)
    assert kinds == {"colour", "shape", "count", "side"}
    assert {shape.kind for scene in drawn() for shape in scene.shapes} == set(SHAPES)


def test_every_word_has_a_token() -> None:
    processor = embedded.shapes_processor()
    for scene in drawn(20):
        for one in scene.questions:
            text = f"{prompt(one)} {one.answer}"
            assert processor.tokenizer.unk_token_id not in processor.tokenizer(text)["input_ids"]
            start, end = one.spans[0]
            assert prompt(one)[start + BEFORE : end + BEFORE] == one.text[start:end]


def test_rows_of_several_questions_say_what_each_says_alone() -> None:
    """The mask, positions and labels of the training against one question at a time."""
    model, processor = embedded.shapes()
    pictures = [scene for scene in drawn(4) if scene.questions]
    rows = train_shapes.Rows(pictures, 64, np.random.default_rng(0))
    with torch.no_grad():
        features = model.get_image_features(pixel_values=train_shapes.pixels(pictures))
        patches = torch.stack(list(getattr(features, "pooler_output", features)))
        words = model.get_input_embeddings()(rows.ids[:, 64:])
        states = model.model.language_model(
            inputs_embeds=torch.cat([patches, words], 1), attention_mask=rows.mask, position_ids=rows.positions
        ).last_hidden_state
        together = model.lm_head(states)
        for row, scene in enumerate(pictures):
            ends = (rows.labels[row] >= 0).nonzero()[::2, 0].tolist()
            texts = processor.tokenizer.convert_ids_to_tokens(rows.ids[row].tolist())
            start = 64
            for end in ends:
                batch = processor(
                    images=[scene.picture], text=["<image> " + " ".join(texts[start:end])], return_tensors="pt"
                )
                alone = model(**batch).logits[0, -1]
                torch.testing.assert_close(together[row, end - 1], alone, rtol=1e-3, atol=1e-3)
                start = end + 2


def test_the_model_answers_unseen_questions() -> None:
    """In full: python -m attcat.demos.train_shapes --check demos/weights/shapes.safetensors."""
    shares = train_shapes.accuracy(embedded.shapes()[0], 30)
    assert min(shares[kind] for kind in ("colour", "shape", "count", "side")) > 0.9


def test_the_map_is_where_the_question_asks() -> None:
    explain = attcat.Explainer(*embedded.shapes())
    scene, rows = explain_shapes.chosen(explain)
    for question, explanation in rows:
        picture = explanation.of_image(0)
        inside = covered(picture, question.boxes)
        positive = picture.grid.clamp(min=0).numpy()
        assert (inside * positive).sum() / positive.sum() > 5 * inside.mean()
        assert explanation.shares().picture > 0.3
    assert explain_shapes.drawn(scene, rows).width > 4 * SIDE


def test_the_page_measures_one_question(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shapes_page, "METHODS", ("oddscat", "tam", "random"))
    found = shapes_page.records(3, None)
    assert {name: len(rows) for name, rows in found.items()} == {"oddscat": 3, "tam": 3, "random": 3}
    text = shapes_page.page(found, 3)
    assert all(f"| `{name}` |" in text for name in ("oddscat", "tam", "random"))
    for rows in found.values():
        assert all(0 <= row["inside"] <= 1 for row in rows)
        assert all(row["picture fall"] != row["text fall"] for row in rows)


# -- attcat evaluate -------------------------------------------------------------------------------------------------------


def table(folder: Path, count: int = 3, **changes: object) -> Path:
    """Questions with their evidence, as a table beside the pictures."""
    lines = []
    for number, scene in enumerate([scene for scene in drawn() if scene.questions][:count]):
        Image.fromarray(scene.picture).save(folder / f"{number}.png")
        one = scene.questions[0]
        row = {"picture": f"{number}.png", "question": f"{one.text} answer :", "answer": one.answer}
        lines.append(json.dumps(row | {"boxes": one.boxes, "spans": one.spans} | changes))
    file = folder / "questions.jsonl"
    file.write_text("\n".join(lines))
    return file


def test_a_table_of_questions_about_pictures_is_evaluated(tmp_path: Path) -> None:
    data = read_dataset(str(table(tmp_path)))
    first = data.examples[0]
    assert first.value == (tmp_path / "0.png", f"{drawn()[0].questions[0].text} answer :")
    assert (first.label, first.spans) == (drawn()[0].questions[0].answer, drawn()[0].questions[0].spans)
    assert first.boxes == drawn()[0].questions[0].boxes

    adapter = attcat.Explainer(*embedded.shapes()).adapter
    plan = Plan("shapes", ("oddscat",), ("relevance_in_boxes", "points_at", "precision_at_k"))
    found = run(plan, data, lambda name: attcat.Explainer(adapter, method=name), tmp_path / "run")
    assert found.accuracy == 1
    for row, example in enumerate(found.records["oddscat"]):
        asked = data.examples[example["example"]]
        explanation = attcat.Explainer(adapter)(asked.value)
        picture = explanation.of_image(0)
        positive = picture.grid.clamp(min=0).double().numpy()
        inside = float((covered(picture, asked.boxes) * positive).sum() / positive.sum())
        assert found.values["oddscat"]["relevance_in_boxes"][row] == pytest.approx(inside, rel=1e-4)
        words = explanation.words()[:-1]
        best = sorted(words, key=lambda word: -word.score)[: len(asked.spans)]
        gold = {asked.value[1][start:end] for start, end in asked.spans}
        shift = explanation.texts[0].index(asked.value[1])
        hits = sum((word.start - shift, word.end - shift) in asked.spans for word in best)
        assert found.values["oddscat"]["precision_at_k"][row] == pytest.approx(hits / len(gold))


def test_the_two_controls_of_a_question_about_a_picture(tmp_path: Path) -> None:
    data = read_dataset(str(table(tmp_path)))
    explain = attcat.Explainer(*embedded.shapes())
    plan = Plan("shapes", ("oddscat",), ("other_picture", "larger_share_falls_more"))
    found = run(plan, data, lambda name: attcat.Explainer(explain.adapter, method=name), tmp_path / "run")
    values = found.values["oddscat"]
    numbers = [record["example"] for record in found.records["oddscat"]]
    for row, number in enumerate(numbers):
        picture, question = data.examples[number].value
        one = explain((picture, question))
        other = data.examples[numbers[(row + 1) % len(numbers)]].value[0]
        moved = explain((other, question), one.again)
        ranks = [each.of_image(0).scores.argsort().argsort().double() for each in (one, moved)]
        assert values["other_picture"][row] == pytest.approx(float(torch.corrcoef(torch.stack(ranks))[0, 1]), abs=1e-3)
        falls = shapes_page.falls(explain, (picture, question), int(one.again))
        shares = one.shares()
        expected = (shares.picture > shares.text) == (falls[0] > falls[1])
        assert values["larger_share_falls_more"][row] == float(expected)
    texts = tmp_path / "texts.jsonl"
    texts.write_text('{"text": "a film"}')
    with pytest.raises(OptionError, match="other_picture needs questions about pictures"):
        run(
            Plan("s", ("random",), ("other_picture",)),
            read_dataset(str(texts)),
            lambda name: attcat.Explainer(explain.adapter, method=name),
            tmp_path / "other",
        )
    assert larger_share_falls_more((0.6, 0.4), (1.0, 3.0)) == 0
    assert larger_share_falls_more((0.6, 0.4), (2.0, 2.0)) == 0.5


def test_bad_rows_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"line 1: .* is not a picture in"):
        read_dataset(str(table(tmp_path, picture="nowhere.png")))
    with pytest.raises(InputError, match=r"line 1: .* are not boxes"):
        read_dataset(str(table(tmp_path, boxes=[[5, 0, 5, 9]])))
    assert read_dataset(str(table(tmp_path, boxes=None))).examples[0].boxes is None
    assert read_dataset(str(table(tmp_path, kind="red")), Columns(label="kind")).examples[0].label == "red"
    adapter = attcat.Explainer(*embedded.shapes()).adapter
    data = read_dataset(str(table(tmp_path, boxes=None)))
    with pytest.raises(OptionError, match="points_at needs questions about pictures with boxes"):
        run(Plan("s", ("random",), ("points_at",)), data, lambda name: attcat.Explainer(adapter, method=name), tmp_path)

"""Pictures of shapes with known evidence, and the model that answers questions about them."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

import attcat
from attcat.demos import embedded, explain_shapes, shapes_page, train_shapes
from attcat.demos.shapes import BEFORE, COLOURS, NUMBERS, SHAPES, SIDE, Scene, prompt, scenes
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
    assert min(shares[kind] for kind in ("colour", "shape", "count")) > 0.9


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

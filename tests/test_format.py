"""The saved format: described by a schema, the same bytes for the same input, and old files keep loading."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import drawn
import pytest
import saved
import torch
from tasks_zoo import TASKS
from test_describing import made as describing
from test_describing import picture
from test_generation import explainer
from test_hearing import made as hearing
from test_hearing import sound

import attcat
from attcat.adapters import hub

jsonschema = pytest.importorskip("jsonschema")
referencing = pytest.importorskip("referencing")  # which jsonschema depends on
GOLDEN = Path(__file__).parent / "golden"
SCHEMAS = {
    name: json.loads((Path(attcat.__file__).parent / f"{name}.schema.json").read_text())
    for name in ("explanation", "generation")
}
BY_ID = {schema["$id"]: referencing.Resource.from_contents(schema) for schema in SCHEMAS.values()}


def valid(record: Any) -> None:
    name = record["format"].split("-")[1]
    registry: Any = referencing.Registry().with_resources(BY_ID.items())
    jsonschema.Draft202012Validator(SCHEMAS[name], registry=registry).validate(record)


@pytest.mark.parametrize("name", SCHEMAS)
def test_a_schema_is_one(name: str) -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMAS[name])


def test_what_does_not_fit_is_refused() -> None:
    good = json.loads((GOLDEN / "explanation-1-text.json").read_text())
    for name, value in (("scores", ["x"]), ("target", -1), ("format", "attcat-explanation-0"), ("windows", [[0, 1]])):
        assert value != good[name]
        with pytest.raises(jsonschema.ValidationError):
            valid({**good, name: value})
    with pytest.raises(jsonschema.ValidationError):
        valid({name: value for name, value in good.items() if name != "tokens"})
    sound = json.loads((GOLDEN / "explanation-1-sound.json").read_text())
    for name, value in (("times", [[-1, 0]]), ("bands", [[1]]), ("frames", [])):
        with pytest.raises(jsonschema.ValidationError):
            valid({**sound, "tokens": {**sound["tokens"], name: value}})
    written = json.loads((GOLDEN / "generation-1.json").read_text())
    for wrong in ({"start": -1}, {"text": None}, {"explanations": [{}]}, {"tokens": {}}):
        with pytest.raises(jsonschema.ValidationError):
            valid({**written, **wrong})


@pytest.mark.parametrize("name", sorted(path.name for path in GOLDEN.glob("explanation-*")))
def test_files_of_every_version_keep_loading(name: str) -> None:
    """These were written once and are never written again; a new format adds files."""
    explanation = attcat.load(GOLDEN / name)
    assert len(explanation.scores) == len(explanation.tokens)
    torch.testing.assert_close(explanation.layers.sum(0), explanation.scores)
    if "text" in name:
        assert explanation.source == ("a great film…", "dull")
        assert explanation.label == "dull"
        assert [word.text for word in explanation.words()] == ["a", "great", "film", "…", "dull"]
        assert explanation.completeness == pytest.approx(-0.0658679, abs=1e-4)
    elif "sound" in name:
        assert (len(explanation.source), explanation.source.rate) == (400, 4000)  # type: ignore[union-attr,arg-type]
        assert [round(segment.start, 4) for segment in explanation.segments()] == [0.0016, 0.0216, 0.0416, 0.0616]
    elif "video" in name:
        assert explanation.source.shape == (8, 32, 32, 3)  # type: ignore[union-attr]
        assert explanation.heatmap().shape == (8, 32, 32)
    else:
        assert explanation.source.shape == (40, 48, 3)  # type: ignore[union-attr]
        assert explanation.grid.shape == (4, 4)
        assert explanation.options["rule"] == "libra"
        assert (explanation.target, explanation.against) == (0, 1)
    if name.endswith(".json"):
        valid(json.loads((GOLDEN / name).read_text()))


@pytest.mark.parametrize("name", sorted(path.name for path in GOLDEN.glob("generation-*")))
def test_generations_of_every_version_keep_loading(name: str) -> None:
    generation = attcat.Generation.load(GOLDEN / name)
    assert (generation.prompt, generation.text) == ("the gripping film", " was boring and far")
    assert generation.matrix.shape == (len(generation), len(generation.tokens))
    assert not generation.matrix.triu(generation.start).any()
    torch.testing.assert_close(generation.explanations[0].scores, generation.matrix[0, : generation.start])
    if name.endswith(".json"):
        valid(json.loads((GOLDEN / name).read_text()))


def test_a_generation_that_is_saved_fits_the_schema(tmp_path: Path) -> None:
    for answer in (" was", None):
        prompt: Any = "the film" if answer else {"input_ids": torch.tensor([[5, 6, 7]])}
        written = (
            explainer().generate(prompt, max_new_tokens=2) if answer is None else explainer()(prompt, answer=answer)
        )
        valid(json.loads(written.save(tmp_path / "a.json").read_text()))


def test_a_generation_about_a_sound_or_a_picture_fits_the_schema(tmp_path: Path) -> None:
    heard = attcat.Explainer(*hearing("moonshine"), method="cat")(sound(), answer="film")
    seen = attcat.Explainer(*describing("captioner"), method="cat")(picture(), answer="film")
    for written, name, broken in ((heard, "sound", {"rate": 0}), (seen, "pictures", [])):
        record = json.loads(written.save(tmp_path / "a.json").read_text())
        assert name in record
        assert name in SCHEMAS["generation"]["properties"]
        valid(record)
        with pytest.raises(jsonschema.ValidationError):
            valid({**record, name: broken})


@pytest.mark.parametrize("task", sorted(TASKS))
def test_what_is_saved_fits_the_schema(task: str) -> None:
    case = TASKS[task]
    for one in case.explainer()(list(case.inputs), token=list(case.tokens)):
        valid(json.loads(one.to_json()))


def test_words_and_pictures_fit_the_schema() -> None:
    record = json.loads(drawn.mixed().to_json())
    valid(record)
    assert len(record["source"]["pictures"]) == 1
    for name, value in (("patches", [{"picture": -1, "grid": [2, 3], "view": None}]), ("places", [[0]])):
        with pytest.raises(jsonschema.ValidationError):
            valid({**record, "tokens": {**record["tokens"], name: value}})


def test_the_same_input_gives_the_same_bytes(tmp_path: Path) -> None:
    saved.save_text(tmp_path)
    files = []
    for number in range(2):
        explainer = attcat.Explainer(*hub.load(tmp_path), method="oddscat:samples=2")
        for suffix in (".json", ".safetensors", ".html"):
            files.append(explainer("a great film").save(tmp_path / f"{number}{suffix}").read_bytes())
    assert files[:3] == files[3:]

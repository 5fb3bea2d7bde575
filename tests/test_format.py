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

import attcat
from attcat.adapters import hub

jsonschema = pytest.importorskip("jsonschema")
GOLDEN = Path(__file__).parent / "golden"
SCHEMA = json.loads((Path(attcat.__file__).parent / "explanation.schema.json").read_text())


def valid(record: Any) -> None:
    jsonschema.Draft202012Validator(SCHEMA).validate(record)


def test_the_schema_is_one() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    good = json.loads((GOLDEN / "explanation-1-text.json").read_text())
    for name, value in (("scores", ["x"]), ("target", -1), ("format", "attcat-explanation-0"), ("windows", [[0, 1]])):
        with pytest.raises(jsonschema.ValidationError):
            valid({**good, name: value})
    with pytest.raises(jsonschema.ValidationError):
        valid({name: value for name, value in good.items() if name != "tokens"})


@pytest.mark.parametrize("name", sorted(path.name for path in GOLDEN.iterdir()))
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
    else:
        assert explanation.source.shape == (40, 48, 3)  # type: ignore[union-attr]
        assert explanation.grid.shape == (4, 4)
        assert explanation.options["rule"] == "libra"
        assert (explanation.target, explanation.against) == (0, 1)
    if name.endswith(".json"):
        valid(json.loads((GOLDEN / name).read_text()))


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

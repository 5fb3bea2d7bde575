"""The three uses run, offline, and say what they should."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import attcat
from attcat.demos import embedded, explain_image, explain_text, new_architecture


def needs(model: Callable[[], Any]) -> None:
    """Skip where the published encoder is not installed; anything else that is wrong with the model is a failure."""
    try:
        model()
    except embedded.MissingEmbeddedModel as error:
        pytest.skip(str(error))


def test_explain_text(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    needs(embedded.sentiment)
    explain_text.main(["A dull film with one great scene.", "--output", str(tmp_path)])
    out = capsys.readouterr().out
    assert "What speaks most for 'positive' is 'great'" in out
    assert "What speaks most for 'negative' is 'dull'" in out
    assert "scene" in (tmp_path / "text.html").read_text()


def test_explain_image(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    needs(embedded.objects)
    explain_image.main(["--output", str(tmp_path)])
    assert "What speaks most for 'dog' is around pixel" in capsys.readouterr().out
    with Image.open(tmp_path / "dog.png") as figure:
        assert min(figure.size) > 200


def test_new_architecture(capsys: pytest.CaptureFixture[str]) -> None:
    assert new_architecture.main(messages=20) >= 0.95
    assert attcat.supported_models()["attcat.Dispatcher"].endswith("new_architecture:DispatcherAdapter")
    assert "of 20 messages" in capsys.readouterr().out

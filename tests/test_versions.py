"""Versions that were not tested are reported, once."""

from __future__ import annotations

import re
import tomllib
import warnings
from pathlib import Path

import pytest
from zoo import FAMILIES

import attcat
from attcat.adapters.versions import TESTED
from attcat.model import versions

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def forgotten() -> None:
    versions._warn_once.cache_clear()


@pytest.mark.parametrize(
    ("installed", "told"), [("4.40.0", True), ("4.53.3", False), ("5.23.0", False), ("6.0.0.dev0", True)]
)
def test_an_untested_version_is_reported_once(installed: str, told: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(versions, "version", lambda package: installed)
    model = FAMILIES["bert"].make()
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        attcat.Explainer(model, None)
        attcat.Explainer(model, None)
    messages = [str(warning.message) for warning in seen]
    assert len(messages) == told
    assert all(f"transformers {installed} was not tested" in message for message in messages)


def test_a_library_of_which_nothing_is_said_is_no_matter() -> None:
    from test_discovery import Torch

    attcat.Explainer(Torch().eval(), None)  # warnings are errors


def test_the_ranges_are_those_that_are_declared_and_pinned() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    pins = (ROOT / "constraints.txt").read_text()
    for package, (oldest, newest) in TESTED.items():
        (declared,) = extras[package]
        assert re.match(rf"{package}>={re.escape(oldest)}\b", declared)
        assert f"{package}=={newest}\n" in pins

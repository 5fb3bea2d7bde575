"""Errors: a message holds the options that it names, and each side writes them in its own way."""

from __future__ import annotations

import copy
import inspect
import pickle
import re
from pathlib import Path

import pytest
import torch

import attcat
from attcat import errors
from attcat.cli.wording import in_shell
from attcat.errors import AttCATError, LoadError, Option, TooLongError
from attcat.explainer import proof
from attcat.testing import check_adapter

KINDS = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, AttCATError)]


def test_each_side_has_its_own_words() -> None:
    error = TooLongError("read it with ", Option("window", True), ", or name a ", Option("token", "a word"), "; ")
    assert str(error) == "read it with window=True, or name a token='a word'; "
    assert in_shell(error) == "read it with --window, or name a --token 'a word'; "
    error = TooLongError(
        Option("token"), "; ", Option("top_k", 3), "; ", Option("target", "all"), "; ", Option("target", 0)
    )
    assert str(error) == "token=; top_k=3; target='all'; target=0"
    assert in_shell(error) == "--token; top_k=3 (in Python); target='all' (in Python); --target 0"


def test_what_a_user_wrote_is_not_taken_for_an_option() -> None:
    """A text that holds `window=True` is quoted as it is."""
    error = TooLongError("the text 'set window=True' is too long: use ", Option("window", True))
    assert in_shell(error) == "the text 'set window=True' is too long: use --window"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("parts", [(), ("plain",), ("use ", Option("window", True), " or ", Option("token"), ".")])
def test_errors_can_be_pickled_and_copied(kind: type[AttCATError], parts: tuple[str | Option, ...]) -> None:
    error = kind(*parts)
    error.add_note("a note")
    for other in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
        assert type(other) is kind
        assert (other.parts, str(other), in_shell(other)) == (parts, str(error), in_shell(error))
        assert other.__notes__ == ["a note"]


def test_an_error_of_loading_is_one_of_the_system_as_before() -> None:
    assert isinstance(LoadError("no folder ", Option("model", "x")), OSError)


_NAMES = "token|window|truncation|top_k|references|completeness|batch_size"
_SPELT = re.compile(rf"""["'][^"'`]*\b({_NAMES})=(?!\{{)[^"']*["']""")


def test_no_message_spells_an_option_in_python() -> None:
    """Read off the sources: an option in a message is an `Option`."""
    assert _SPELT.search('"read it in windows with window=True, or shorten it"')
    found = [
        f"{path.name}: {line.strip()}"
        for path in Path(attcat.__file__).parent.rglob("*.py")
        for line in path.read_text(encoding="utf-8").splitlines()
        if "raise" not in line and '"""' not in line and line.strip().startswith(('f"', '"')) and _SPELT.search(line)
    ]
    assert found == []


class _Full(torch.nn.Module):
    """A classifier of pictures whose forward pass asks for more memory than any machine has, from the given call on."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self.patches = torch.nn.Conv2d(3, 8, 8, 8)
        layer = torch.nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.encoder = torch.nn.TransformerEncoder(layer, 2)
        self.head = torch.nn.Linear(8, 3)
        self.left = after

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        states = self.encoder(self.patches(pixel_values).flatten(2).mT)
        self.left -= 1
        if self.left < 0:
            torch.empty(1 << 60)
        return self.head(states.mean(1))


def test_too_little_memory_is_reported_when_a_model_is_inspected_and_when_it_is_explained() -> None:
    """What torch raises on a processor is a RuntimeError like any other, e.g. that of a model that takes no such input."""
    with pytest.raises(attcat.OutOfMemoryError, match=r"too little memory .*allocate.* smaller picture") as raised:
        attcat.Explainer(_Full(0).eval())
    assert "register" not in str(raised.value)
    model = _Full(10**9).eval()
    explainer = attcat.Explainer(model)
    pixels = torch.randn(1, 3, 224, 224)
    model.left = 0
    with pytest.raises(attcat.OutOfMemoryError, match="too little memory"):
        explainer({"pixel_values": pixels})
    model.left = 0
    with pytest.raises(attcat.OutOfMemoryError, match="too little memory"):
        check_adapter(model)
    model.left = 10**9
    assert explainer({"pixel_values": pixels}).scores.isfinite().all()


def test_too_little_memory_for_a_copy_in_float64_is_no_verdict_on_the_model() -> None:
    """Without the exact figure a model was refused for kinks that it may not have."""
    model = _Full(10**9).eval()
    adapter = attcat.Explainer(model).adapter
    model.left = 0
    with pytest.raises(RuntimeError, match="allocate"):
        proof._exact_slope_error(adapter)

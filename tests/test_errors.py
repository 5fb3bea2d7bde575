"""Errors: a message holds the options that it names, and each side writes them in its own way."""

from __future__ import annotations

import copy
import inspect
import pickle
import re
from pathlib import Path

import pytest

import attcat
from attcat import errors
from attcat.cli.wording import in_shell
from attcat.errors import AttCATError, LoadError, Option, TooLongError

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

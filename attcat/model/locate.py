"""Which token a user means: by a word, by its number, or by characters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..errors import AttCATError, InputError, Option
from ..targets import integer
from ..tokens import Interleaved, Span, Tokens, group_words


def find_token(tokens: Tokens, source: Any, token: str | int | slice) -> int:
    """The position of a token; for a word, that of its first piece, which carries the word's tag by convention.

    Args:
        tokens: those of the example.
        source: the text or pair; None for ready-made model arguments.
        token: a word, or another piece of the text that occurs once; the number of a word in reading order (without a
            text, of a token); or a slice of the text's characters.

    Raises:
        InputError: if there is no such token, or several.
    """
    if tokens.spans is None or source is None:
        return _find_label(tokens, token)
    texts = _texts(source)
    words = group_words(tokens, texts)
    number = integer(token)
    if number is not None:
        if not -len(words) <= number < len(words):
            raise InputError(f"no word number {number}: the text has {len(words)}, counted from 0")
        return words[number][-1][0]
    if isinstance(token, slice):
        if len(texts) > 1:
            raise InputError("a slice of characters could refer to either text: name the word, or give its number")
        found = [(0, characters(token, texts[0], InputError))]
    elif isinstance(token, str):
        found = _places(texts, words, token)
    else:
        raise InputError(_UNKNOWN.format(type(token).__name__))
    if len(found) > 1:
        numbers = [
            str(number)
            for number, (segment, start, end, _) in enumerate(words)
            if any(segment == other and overlaps((start, end), place) for other, place in found)
        ]
        raise InputError(
            f"{token!r} occurs {len(found)} times: give the number of the word ({' or '.join(numbers[:5])}), e.g. ",
            Option("token", int(numbers[0])) if numbers else Option("token"),
        )
    for segment, place in found:
        for position, span in enumerate(tokens.spans):
            if (
                span
                and ((tokens.segments[position] if tokens.segments else 0) or 0) == segment
                and overlaps(span, place)
            ):
                return position
    raise InputError(f"there is no token {token!r} in the text" + listed_words(tokens, source))


def _texts(source: Any) -> Sequence[str]:
    """The texts that spans point into."""
    if isinstance(source, Interleaved):
        return (source.text,)
    return (source,) if isinstance(source, str) else source


def _find_label(tokens: Tokens, token: str | int | slice) -> int:
    """Without characters: a token by its position or its label."""
    number = integer(token)
    if number is not None and -len(tokens) <= number < len(tokens):
        return number % len(tokens)
    if number is None and not isinstance(token, (str, slice)):
        raise InputError(_UNKNOWN.format(type(token).__name__))
    found = [position for position, label in enumerate(tokens.labels) if label == token]
    if len(found) != 1:
        raise InputError(
            Option("token", token),
            f" is {len(found)} of the {len(tokens)} tokens: give its position, 0 to {len(tokens) - 1}",
        )
    return found[0]


_UNKNOWN = "a token is a word, its number or a slice of characters, not {}"


def _places(
    texts: Sequence[str], words: Sequence[tuple[int, int, int, list[int]]], wanted: str
) -> list[tuple[int, Span]]:
    """(text, characters) of the words that match; else of every place where the string occurs."""
    exact = [(segment, (start, end)) for segment, start, end, _ in words if texts[segment][start:end] == wanted]
    return exact or [
        (segment, (start, start + len(wanted)))
        for segment, text in enumerate(texts)
        for start in occurrences(text, wanted)
    ]


def occurrences(text: str, wanted: str) -> list[int]:
    """Where a string starts in a text; nowhere if it is empty."""
    return [start for start in range(len(text)) if text.startswith(wanted, start)] if wanted else []


def overlaps(span: Span, place: Span) -> bool:
    """Whether two stretches of characters overlap."""
    return span[0] < place[1] and span[1] > place[0]


def characters(place: slice, text: str, error: type[AttCATError]) -> Span:
    """The characters that a slice of a text stands for, as in Python: `slice(-6, None)` is the last six.

    Raises:
        AttCATError: of class `error`, if the slice has a step, is empty, or its bounds are not integers.
    """
    try:
        start, stop, step = place.indices(len(text))
    except TypeError as found:
        raise error(f"{place} is not a slice of characters: give two integers") from found
    if step != 1:
        raise error(f"{place} has a step: give the characters from one to another, e.g. slice({start}, {stop})")
    if start >= stop:
        raise error(f"{place} is empty in a text of {len(text)} characters")
    return start, stop


def listed_words(tokens: Tokens, source: Any) -> str:
    """The first words with their numbers, for an error."""
    if tokens.spans is None or source is None:
        return f"; tokens are numbered 0 to {len(tokens) - 1}"
    texts = _texts(source)
    words = [texts[segment][start:end] for segment, start, end, _ in group_words(tokens, texts)]
    shown = ", ".join(f"{number} {word}" for number, word in enumerate(words[:12]))
    return f"; words: {shown}{', ...' if len(words) > 12 else ''}"

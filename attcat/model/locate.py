"""Which token a user means: by a word, by its number, or by characters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..errors import InputError
from ..tokens import Span, Tokens, group_words


def find_token(tokens: Tokens, source: Any, token: str | int | slice) -> int:
    """The position of a token: of a word, its first piece, which carries a word's tag by convention.

    Args:
        tokens: of the example.
        source: the text or pair; None for ready-made model arguments.
        token: a word, or another piece of the text that occurs once; the number of a word in reading order (without a
            text, of a token); or a slice of the text's characters.

    Raises:
        InputError: if there is no such token, or several.
    """
    if tokens.spans is None or source is None:
        return _find_label(tokens, token)
    texts = (source,) if isinstance(source, str) else source
    words = group_words(tokens, texts)
    if isinstance(token, int):
        if not -len(words) <= token < len(words):
            raise InputError(f"no word number {token}: the text has {len(words)}, counted from 0")
        return words[token][-1][0]
    if isinstance(token, slice):
        if len(texts) > 1:
            raise InputError("a slice of characters could be of either text: name the word, or give its number")
        found = [(0, token)]
    else:
        found = _places(texts, words, token)
    if len(found) > 1:
        numbers = [
            str(number)
            for number, (segment, start, end, _) in enumerate(words)
            if any(segment == other and overlaps((start, end), place) for other, place in found)
        ]
        raise InputError(
            f"{token!r} occurs {len(found)} times: give the number of the word, as token={' or '.join(numbers[:5])}"
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


def _find_label(tokens: Tokens, token: str | int | slice) -> int:
    """Without characters: a token by its position or its label."""
    if isinstance(token, int) and -len(tokens) <= token < len(tokens):
        return token % len(tokens)
    found = [position for position, label in enumerate(tokens.labels) if label == token]
    if len(found) != 1:
        raise InputError(
            f"token={token!r} is {len(found)} of the {len(tokens)} tokens: give its position, 0 to {len(tokens) - 1}"
        )
    return found[0]


def _places(
    texts: Sequence[str], words: Sequence[tuple[int, int, int, list[int]]], wanted: str
) -> list[tuple[int, slice]]:
    """(text, characters) of the words that are called so; else of every place where the string occurs."""
    exact = [(segment, slice(start, end)) for segment, start, end, _ in words if texts[segment][start:end] == wanted]
    return exact or [
        (segment, slice(start, start + len(wanted)))
        for segment, text in enumerate(texts)
        for start in occurrences(text, wanted)
    ]


def occurrences(text: str, wanted: str) -> list[int]:
    """Where a string begins in a text; nowhere if it is empty."""
    return [start for start in range(len(text)) if text.startswith(wanted, start)] if wanted else []


def overlaps(span: Span, place: slice) -> bool:
    """Whether a token's characters and a slice have one in common."""
    return span[0] < (place.stop if place.stop is not None else 1 << 62) and span[1] > (place.start or 0)


def listed_words(tokens: Tokens, source: Any) -> str:
    """The first words with their numbers, for an error."""
    if tokens.spans is None or source is None:
        return f"; tokens are numbered 0 to {len(tokens) - 1}"
    texts = (source,) if isinstance(source, str) else source
    words = [texts[segment][start:end] for segment, start, end, _ in group_words(tokens, texts)]
    shown = ", ".join(f"{number} {word}" for number, word in enumerate(words[:12]))
    return f"; words: {shown}{', ...' if len(words) > 12 else ''}"

"""A picture and what a decoder wrote after seeing it: the patches of the picture, then what was written."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from ..errors import InputError
from ..tokens import Interleaved, Patches, Tokens
from .encoding import Encoding
from .listening import Listener


class Describer(Listener):
    """How an encoder of pictures with a decoder writes.

    Args:
        adapter: of the model.
    """

    def _sources(self, source: Encoding, text: str | None) -> tuple[Any, ...]:
        """The picture, and the text that was written about it."""
        seen = source.sources[0]
        return (Interleaved(text, seen.pictures) if isinstance(seen, Interleaved) and text is not None else None,)


def among_words(encoding: Encoding, seen: bool) -> Encoding:
    """A picture whose patches can stand beside words.

    Args:
        encoding: of the picture alone, as a model of pictures has it.
        seen: whether the picture itself is known, not only what the model is given.

    Raises:
        InputError: if there are several pictures.
    """
    if len(encoding.tokens) != 1:
        raise InputError(f"one picture at a time, got {len(encoding.tokens)}: describe them in separate calls")
    (tokens,), (source,) = encoding.tokens, encoding.sources
    if tokens.grid is None:
        return encoding
    cells = iter(range(tokens.special.count(False)))
    places = tuple(None if special else (0, next(cells)) for special in tokens.special)
    patches = (Patches(0, tokens.grid, tokens.view if seen else None),)
    placed = Tokens(tokens.labels, tokens.special, patches=patches, places=places)
    return replace(encoding, tokens=(placed,), sources=(Interleaved("", (source,)) if seen else None,), views=())

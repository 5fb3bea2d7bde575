"""A picture and what a decoder wrote after seeing it: the patches of the picture, then what was written."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch.nn.functional as F

from ..errors import InputError
from ..tokens import Interleaved, Patches, Tokens, View
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
        raise InputError(f"one picture at a time, got {len(encoding.tokens)}: explain them in separate calls")
    (tokens,), (source,) = encoding.tokens, encoding.sources
    if tokens.grid is None:
        return encoding
    cells = iter(range(tokens.special.count(False)))
    places = tuple(None if special else (0, next(cells)) for special in tokens.special)
    patches = (Patches(0, tokens.grid, tokens.view if seen else None),)
    placed = Tokens(tokens.labels, tokens.special, patches=patches, places=places)
    return replace(encoding, tokens=(placed,), sources=(Interleaved("", (source,)) if seen else None,), views=())


def with_patches(words: Encoding, grids: Sequence[tuple[int, int]], view: View | None, picture: Any = None) -> Encoding:
    """A text with the patches of a picture behind it, which lie on several grids, one after the other.

    Args:
        words: one row.
        grids: rows and columns of each grid, each over the whole picture.
        view: what they show of it; None if the picture is not known.
        picture: its pixels, uint8 `[H, W, 3]`; None if they are not known.
    """
    (text,), count = words.tokens, words.mask.shape[1]
    cells = [(at, cell) for at, (rows, columns) in enumerate(grids) for cell in range(rows * columns)]
    labels = [f"{cell // grids[at][1]},{cell % grids[at][1]}" for at, cell in cells]

    def behind(values: tuple[Any, ...] | None) -> tuple[Any, ...] | None:
        return None if values is None else (*values, *(None for _ in cells))

    tokens = Tokens(
        (*text.labels, *labels),
        (*text.special, *(False for _ in cells)),
        spans=behind(text.spans),
        segments=behind(text.segments),
        words=behind(text.words),
        patches=tuple(Patches(0, grid, view) for grid in grids),
        places=(*(None for _ in range(count)), *cells),
    )
    mask = F.pad(words.mask, (0, len(cells)), value=True)
    found = replace(words, mask=mask, tokens=(tokens,), offset=count)
    if picture is None:
        return found
    return replace(found, sources=(Interleaved(words.sources[0], (picture,)),), views=(view,))

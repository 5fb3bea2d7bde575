"""A text and a picture with scores that are known, for tests of what is drawn."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import torch

from attcat.explanation import Explanation
from attcat.tokens import Interleaved, Patches, Tokens, View


def text(source: str = "a gripping, dull film. It ends.", top: float = 1.0, **changes: Any) -> Explanation:
    """Two blocks; the words get 0, top, -top/2, ... by turns."""
    spans = [match.span() for match in re.finditer(r"\w+|[^\w\s]", source)]
    labels = ("[CLS]", *(source[start:end] for start, end in spans), "[SEP]")
    scores = torch.tensor([0.2, *[(0.0, top, -top / 2, top / 4)[at % 4] for at in range(len(spans))], 0.1])
    tokens = Tokens(labels, (True, *[False] * len(spans), True), (None, *spans, None))
    given: dict[str, Any] = {"logits": torch.tensor([0.0, 1.0]), "target": 1, "labels": ("negative", "positive")}
    given |= {"method": "attcat", "options": {"rule": "libra"}, "model": "TinyBert", "source": source}
    return Explanation(torch.stack([scores * 0.75, scores * 0.25]), tokens, **(given | changes))


def picture(**changes: Any) -> Explanation:
    """4 x 4 patches over the middle of 120 x 80 pixels: the first for, the last against."""
    labels = ("[CLS]", *(f"{row},{column}" for row in range(4) for column in range(4)))
    tokens = Tokens(labels, (True, *[False] * 16), grid=(4, 4), view=View(120, 80, (20, 0, 100, 80)))
    scores = torch.tensor([0.5, 1.0, *[0.0] * 14, -1.0])
    pixels = np.full((80, 120, 3), (200, 30, 30), dtype=np.uint8)
    given: dict[str, Any] = {
        "logits": torch.tensor([1.0, 0.0]),
        "target": 0,
        "labels": ("cat", "dog"),
        "method": "attcat",
    }
    return Explanation(torch.stack([scores * 0.5] * 2), tokens, **(given | {"source": pixels} | changes))


def mixed(pixels: np.ndarray | None = None, **changes: Any) -> Explanation:
    """2 x 3 patches on a picture of 90 x 40 pixels, a row separator each, then "what is it ?", of which "?" was written.

    The second patch of the first row has 2, the last one -1; the words 0, 0.5, -0.25, 0.25; the start 0.1, separators 0.
    """
    pixels = np.full((40, 90, 3), (30, 120, 200), dtype=np.uint8) if pixels is None else pixels
    source = "<image> what is it ?"
    spans = [match.span() for match in re.finditer(r"[a-z?]+", source)][1:]
    row: list[bool] = [False] * 3 + [True]
    labels = ("<s>", *["<image>", "<image>", "<image>", "<row>"] * 2, *(source[slice(*span)] for span in spans))
    special = (True, *row, *row, *[False] * 4)
    places = (None, (0, 0), (0, 1), (0, 2), None, (0, 3), (0, 4), (0, 5), None, *[None] * 4)
    view = View(pixels.shape[1], pixels.shape[0], (0, 0, pixels.shape[1], pixels.shape[0]))
    tokens = Tokens(labels, special, spans=(*[None] * 9, *spans), patches=(Patches(0, (2, 3), view),), places=places)
    scores = torch.tensor([0.1, 0.0, 2.0, 0.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.5, -0.25, 0.25])
    given: dict[str, Any] = {"logits": torch.tensor([0.0, 2.0]), "target": 1, "labels": ("dog", "cat")}
    given |= {"method": "attcat", "options": {"rule": "libra"}, "model": "TinyLlava", "start": 12}
    given |= {"source": Interleaved(source, (pixels,)), "task": "causal language modeling", "value": 2.0, "bias": 0.3}
    return Explanation(torch.stack([scores * 0.75, scores * 0.25]), tokens, **(given | changes))

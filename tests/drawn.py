"""A text and a picture with scores that are known, for tests of what is drawn."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import torch

from attcat.explanation import Explanation
from attcat.tokens import Tokens, View


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

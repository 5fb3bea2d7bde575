"""Longformer: attention within a sliding window, to whose size a batch is padded.

There is no matrix of attention over all tokens, so that gradients are what can be read. The model pads its input itself and
cuts its output, but its blocks see the padding: here it is made beforehand, so that tokens and states line up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch.nn.functional as F
from torch import Tensor

from attcat.model import Encoding
from attcat.model.discovered import DiscoveredText
from attcat.model.discovered.base import Found


@dataclass(frozen=True)
class Padded(Encoding):
    """A batch whose length is a multiple of the window, also when some of its rows are picked.

    Args:
        window: tokens.
        pad: the number of the padding token.
    """

    window: int = 1
    pad: int = 0

    def padded(self) -> Padded:
        """The same with as much padding behind it as is missing."""
        more = -self.mask.shape[1] % self.window
        if not more:
            return self
        wide, mask = self.padded_arguments(more, self.pad), F.pad(self.mask, (0, more))
        wide.setdefault("attention_mask", mask.to(wide["input_ids"].dtype))
        return replace(self, arguments=wide, mask=mask)

    def _picked(self, rows: Sequence[int], changes: dict[str, Any], columns: slice | Tensor) -> Encoding:
        found = super()._picked(rows, changes, columns)
        assert isinstance(found, Padded)
        return found.padded()


class LongformerAdapter(DiscoveredText):
    """Blocks and head are found by looking, as of a model without an adapter."""

    family = "Longformer"
    separators: ClassVar[tuple[int, ...]] = (1, 2, -1)
    """Where the trial has separators: to some heads they say which tokens are the question."""

    @property
    def window(self) -> int:
        """Tokens of the widest window."""
        size: int | Sequence[int] = self.model.config.attention_window  # type: ignore[assignment,union-attr]
        return size if isinstance(size, int) else max(size)

    @property
    def positions(self) -> int | None:
        """As of RoBERTa, rows of the table of positions behind that of padding."""
        config: Any = self.model.config
        return int(config.max_position_embeddings) - int(config.pad_token_id) - 1

    def completed(self, encoding: Encoding) -> Encoding:
        """With padding up to a multiple of the window."""
        values = vars(encoding)
        wide = Padded(**{**values, "window": self.window, "pad": self.pad_token})
        return super().completed(wide.padded())

    def encode_arguments(self, arguments: Mapping[str, Tensor]) -> Encoding:
        """Without padding at the end, of which there may be more than the model has positions for."""
        mask = arguments.get("attention_mask")
        if not isinstance(mask, Tensor) or mask.dim() != 2 or not mask.any():
            return super().encode_arguments(arguments)
        length = int(mask.any(0).nonzero().max()) + 1
        return super().encode_arguments(
            {n: v[:, :length] if v.shape == mask.shape else v for n, v in arguments.items()}
        )

    def _blocks_in(self, watched: Any) -> Found:
        return replace(super()._blocks_in(watched), length=self.length)  # the rest is padding

    def remove(self, encoding: Encoding, removed: Tensor | None = None, how: str | None = None) -> Encoding:
        """As of other texts; what is shorter is padded again."""
        changed = super().remove(encoding, removed, how)
        return changed.padded() if isinstance(changed, Padded) else changed

    def _ids(self) -> Tensor:
        ids, separator = super()._ids(), getattr(self.model.config, "sep_token_id", None)
        if separator is not None:
            ids[list(self.separators)] = separator
        return ids

"""Pictures that come from their processor as patches in a row, padded to one number: each with rows and columns of its own, so
that they keep their proportions (NaFlex; Tschannen et al. 2025, section 2.4.2)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..errors import InputError, OptionError
from .encoding import Encoding, content_of
from .picture import read_picture, to_pixels
from .vision import VisionAdapter

ROWS = ("pixel_values", "pixel_attention_mask", "spatial_shapes")
"""The arguments: patches `[B, N, D]`, which of them are no padding `[B, N]`, and rows and columns of each picture `[B, 2]`."""


class PatchRowsAdapter(VisionAdapter):
    """A model that reads pictures as patches in a row."""

    removals: ClassVar[tuple[str, ...]] = ("zero", "mean")  # type: ignore[assignment]
    can_batch = True  # type: ignore[assignment] # the rows are padded

    def patch_rows(self, count: int) -> dict[str, Tensor]:
        """Model arguments of `count` pictures of noise, of 3 x 4 and 4 x 3 patches by turns, with some padding."""
        width = 3 * int(self.patch_size[0] * self.patch_size[1])
        pixels = torch.randn(count, 14, width, generator=torch.Generator().manual_seed(0))
        shapes = torch.tensor([[3, 4], [4, 3]]).repeat(-(-count // 2), 1)[:count]
        mask = torch.arange(14).expand(count, -1) < 12
        return dict(zip(ROWS, (pixels, mask.long(), shapes), strict=True))

    def encode(self, inputs: Sequence[Any], *, truncation: bool = False) -> Encoding:
        """Each picture with a grid of its own; see `Adapter.encode`."""
        read = [read_picture(value) for value in inputs]
        made = self.processor(images=read, return_tensors="pt")
        return self._gridded(dict(made), [picture.size for picture in read], tuple(map(to_pixels, read)))

    def encode_arguments(self, arguments: Mapping[str, Tensor]) -> Encoding:
        """Name the patches of rows that a processor made; see `Adapter.encode_arguments`."""
        missing = set(ROWS) - set(arguments)
        if missing:
            raise InputError(f"model arguments need also {', '.join(sorted(missing))}, as the processor makes them")
        return self._gridded(dict(arguments), [None] * len(arguments[ROWS[0]]), None)

    def _gridded(self, arguments: dict[str, Any], sizes: Sequence[Any], sources: tuple[Any, ...] | None) -> Encoding:
        placed, tokens, (down, across) = self.place(arguments), [], self.patch_size
        for size, (rows, columns) in zip(sizes, placed["spatial_shapes"].tolist(), strict=True):
            named = self._tokens(int(rows * down), int(columns * across), None)
            if size is not None:
                assert named.view is not None
                view = replace(named.view, width=size[0], height=size[1], box=(0, 0, size[0], size[1]))
                named = replace(named, view=view)
            tokens.append(named)
        mask = placed["pixel_attention_mask"].bool()
        return Encoding(placed, mask, tuple(tokens), sources or (None,) * len(tokens))

    def remove(self, encoding: Encoding, removed: Tensor | None = None, how: str | None = None) -> Encoding:
        """0, or the mean of the picture's own patches, in place of those that are removed; see `Adapter.remove`."""
        how = self.removal(how)
        if how not in self.removals:
            raise OptionError(f"patches are removed by {' or '.join(self.removals)}, not {how}")
        removed = content_of(encoding) if removed is None else removed & encoding.mask
        pixels = encoding.arguments["pixel_values"]
        real = encoding.mask[..., None].to(pixels)
        mean = (pixels * real).sum(1, keepdim=True) / real.sum(1, keepdim=True)
        instead = torch.zeros_like(pixels) if how == "zero" else mean.expand_as(pixels)
        made = torch.where(removed[..., None], instead, pixels)
        return replace(encoding, arguments={**encoding.arguments, "pixel_values": made})
